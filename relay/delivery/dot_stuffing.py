"""Content on its way out: CRLF and nothing else (RFC 5321 §2.3.8), for DATA with dots doubled (§4.5.2). **Pure.**"""

from relay.newlines import has_bare_newline


class BareNewlineError(Exception):
    """Content that was committed holds a bare CR or LF: a fault of ours, and never sent (SMTP smuggling)."""


class DotStuffer:
    """Stuffs content that comes in pieces of any size. `feed` each, then send what `finish` returns."""

    def __init__(self) -> None:
        self._tail = b"\r\n"  # the last two octets: what comes first stands at the start of a line

    def feed(self, piece: bytes) -> bytes:
        """Return the octets to send for `piece`. Raises BareNewlineError."""
        text = self._tail + piece
        # The LF at the start of a tail was checked with its CR. A CR at the very end may still be followed by its LF;
        # `finish` sees to it.
        if has_bare_newline(text.removeprefix(b"\n").removesuffix(b"\r")):
            raise BareNewlineError("content with a bare CR or LF")
        self._tail = text[-2:]
        return text.replace(b"\r\n.", b"\r\n..")[2:]

    def finish(self) -> bytes:
        """Return the end of the data; a CRLF goes before the dot only if the content lacks its last one."""
        if self._tail.endswith(b"\r"):
            raise BareNewlineError("content that ends in a bare CR")
        return b".\r\n" if self._tail == b"\r\n" else b"\r\n.\r\n"


def chunk(content: bytes) -> bytes:
    """Return the whole of a message's content as BDAT takes it, octet for octet (RFC 3030 §2). Raises BareNewlineError.

    A CRLF is put at its end only if it lacks one.
    """
    if has_bare_newline(content):
        raise BareNewlineError("content with a bare CR or LF")
    return content if content.endswith(b"\r\n") or not content else content + b"\r\n"
