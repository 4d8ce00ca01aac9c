"""What a client has sent: octets, and the lines of its commands (RFC 5321 §2.3.8, §4.5.3.1). **Pure.**

Nothing in a line with a bare LF, bare CR or NUL is ever executed, however it arrives.
"""

import re

MAX_LINE = 12_288 + 2  # RFC 4954 §4: what an AUTH exchange may need, and CRLF
READ_AHEAD = 64 * 1024
"""Octets that wait here at most, but for those of one more read."""

_MAX_DROPPED_LINE = 1024 * 1024
_TLS_FIRST_OCTET = 0x16
# What nearly every line looks like: it may be executed as it is.
_ORDINARY = re.compile(rb"([^\x16\r\n\0][^\r\n\0]{0,12287})\r\n")
_NOT_CLEAN = "500 5.5.2 Lines must end with CRLF and have no control characters"


class LineError(Exception):
    """A line that is none; it is gone. The text is a whole reply line."""


class EndlessLineError(Exception):
    """A line that does not end within a mebibyte."""


class TlsError(Exception):
    """A TLS client speaks where commands are expected."""


class Input:
    """Octets that are here and not taken yet."""

    def __init__(self) -> None:
        self._octets = b""
        self._taken = 0
        self._dropped = 0
        self._amiss = False

    def __len__(self) -> int:
        return len(self._octets) - self._taken

    def feed(self, octets: bytes | memoryview) -> None:
        """Take in what was read; it is copied."""
        if self._taken == len(self._octets):
            self._octets, self._taken = bytes(octets), 0
        else:
            self._octets, self._taken = b"".join((self._octets[self._taken :], octets)), 0

    def clear(self) -> None:
        self._octets, self._taken = b"", 0

    def take(self, most: int = 2 * READ_AHEAD) -> bytes:
        """Take up to `most` octets of what is here."""
        octets, start = self._octets, self._taken
        if len(octets) - start <= most:
            self._octets, self._taken = b"", 0
            return octets[start:]
        self._taken = start + most
        return octets[start : start + most]

    def put_back(self, octets: bytes) -> None:
        """Give back what was taken too much."""
        self._octets, self._taken = octets + self.take(), 0

    def take_line(self) -> bytes | None:
        """Take the next line, without its CRLF; None if its end is not here yet.

        Raises LineError for one that is longer than MAX_LINE or has bare line ends, and once more for what follows a
        bare LF up to its CRLF. Raises EndlessLineError, TlsError.
        """
        octets, start = self._octets, self._taken
        if start == len(octets):
            return None
        ordinary = _ORDINARY.match(octets, start)
        if ordinary is not None and not self._amiss:
            self._taken = ordinary.end()
            return ordinary[1]
        return self._take_any_line(octets, start)

    def _take_any_line(self, octets: bytes, start: int) -> bytes | None:
        if octets[start] == _TLS_FIRST_OCTET:
            raise TlsError
        end = octets.find(b"\n", start)
        if end < 0:
            if len(self) > MAX_LINE:
                self._drop()
            return None
        self._taken = end + 1
        line = octets[start:end]
        if self._amiss or len(line) >= MAX_LINE or not line.endswith(b"\r"):
            raise self._wrong(line)
        line = line[:-1]
        if b"\r" in line or b"\0" in line:
            raise LineError(_NOT_CLEAN)
        return line

    def _wrong(self, line: bytes) -> LineError:
        """What is wrong with a line, its LF taken off; `_amiss` stays while its CRLF is still to come."""
        too_long, self._dropped = self._dropped > 0 or len(line) >= MAX_LINE, 0
        self._amiss = not line.endswith(b"\r")
        if too_long:
            return LineError("500 5.5.2 Line too long")
        return LineError("500 5.5.2 Lines must end with CRLF" if self._amiss else _NOT_CLEAN)

    def _drop(self) -> None:
        """Drop what is here of a line that is too long already, but for an octet that may be the CR of its end."""
        self._amiss = True
        self._dropped += len(self) - 1
        if self._dropped > _MAX_DROPPED_LINE:
            raise EndlessLineError
        self._taken = len(self._octets) - 1
