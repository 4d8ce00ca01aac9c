"""Where content ends, and its line ends: RFC 5321 §4.5.2, §4.1.1.4, §2.3.8. **Pure.**

The order matters (design §3.1): the end of data and the stuffed dots are found on CRLF alone, in `EndOfData`; only
what comes out of it is put through `LineEnds`. The other way round, normalising would make ends of data out of
`LF.LF` and its like, which is SMTP smuggling. Both are fed piece by piece; how the octets are cut never matters.
"""

from relay.newlines import has_bare_newline

_DOT = b"\r\n."
_END = b"\r\n.\r\n"


class EndOfData:
    """Finds CRLF.CRLF and takes the stuffed dots away."""

    # The octets that may yet turn out to begin the end. The content starts at the beginning of a line, so a CRLF is
    # put before it, which is not part of it.
    _held = b"\r\n"
    _borrowed = 2

    def feed(self, data: bytes) -> tuple[bytes, bytes | None]:
        """Return un-stuffed content, and what follows the end of data; None while it has not been seen."""
        data = self._held + data
        dot = data.find(_DOT)  # most content has none but the last, so that one look is enough
        end = dot if dot < 0 or data.startswith(_END, dot) else data.find(_END, dot)
        if end >= 0:
            return self._content(data, end + 2, stuffed=dot < end), data[end + len(_END) :]
        stop = len(data) - _possible_end(data)
        self._held = data[stop:]
        return self._content(data, stop, stuffed=dot >= 0), None

    def _content(self, data: bytes, stop: int, *, stuffed: bool) -> bytes:
        borrowed = self._borrowed
        if stop:
            self._borrowed = 0
        return data[:stop].replace(_DOT, b"\r\n")[borrowed:] if stuffed else data[borrowed:stop]


def _possible_end(data: bytes) -> int:
    """The length of the longest proper beginning of the end of data that the octets end with."""
    for length in range(min(len(_END) - 1, len(data)), 0, -1):
        if data.endswith(_END[:length]):
            return length
    return 0


class LineEnds:
    """Makes each bare CR and each bare LF a CRLF, and says whether there was one. CR CR LF has one bare CR."""

    bare = False
    _held_cr = False

    def feed(self, data: bytes) -> bytes:
        if self._held_cr:
            data = b"\r" + data
        self._held_cr = data.endswith(b"\r")
        if self._held_cr:
            data = data[:-1]
        if not has_bare_newline(data):
            return data
        self.bare = True
        return data.replace(b"\r\n", b"\n").replace(b"\r", b"\n").replace(b"\n", b"\r\n")

    def finish(self) -> bytes:
        """Return what was held back; a CR at the very end is a bare one."""
        if not self._held_cr:
            return b""
        self._held_cr = False
        self.bare = True
        return b"\r\n"
