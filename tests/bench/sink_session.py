"""One SMTP session of the sink, without I/O: octets in, replies out (RFC 5321, 1870, 2920, 3030, 3207, 3461)."""

import re
from collections.abc import Callable
from enum import Enum, auto

from sink_tally import Tally

_HEAD = 4096
"""Octets kept of each message: enough for the header, which has the id."""
_LINE_LIMIT = 4096
_PATH = re.compile(rb"<([^>]*)>")
_EXTENSIONS = ("PIPELINING", "SIZE 157286400", "8BITMIME", "CHUNKING", "DSN", "ENHANCEDSTATUSCODES")


class _Mode(Enum):
    COMMAND = auto()
    DATA = auto()
    CHUNK = auto()


class SinkSession:
    """`receive` takes what has come and returns the replies to all of it, in one piece.

    After a reply to STARTTLS, `wants_tls` is true: the caller sends the reply, shakes hands and calls `secured`.
    `ended` tells that the connection closes behind the last reply.
    """

    greeting = b"220 sink.test ESMTP\r\n"

    def __init__(self, tally: Tally, clock: Callable[[], float], *, offers_tls: bool) -> None:
        self.wants_tls = False
        self.ended = False
        self._tally = tally
        self._clock = clock
        self._offers_tls = offers_tls
        self._tls = False
        self._host = ""
        self._mode = _Mode.COMMAND
        self._pending = b""
        self._replies: list[bytes] = []
        self._begin()

    def secured(self, host: str) -> None:
        """Go on under TLS, as the host that the client has asked for by SNI."""
        self.wants_tls, self._tls, self._host = False, True, host
        self._pending = b""
        self._begin()

    def plain(self, host: str) -> None:
        """Be this host, without TLS."""
        self._host = host

    def receive(self, data: bytes) -> bytes:
        self._pending = self._pending + data if self._pending else data
        self._replies = []
        while self._pending and not self.ended and not self.wants_tls and self._step():
            pass
        return b"".join(self._replies)

    def _begin(self) -> None:
        self._recipients: list[bytes] = []
        self._head = b""
        self._octets = 0
        self._tail = b"\r\n"
        self._chunk_left = 0
        self._last_chunk = False

    def _step(self) -> bool:
        """Take one command or one piece of content from what is pending; False if more must come first."""
        if self._mode is _Mode.DATA:
            return self._data()
        if self._mode is _Mode.CHUNK:
            return self._chunk()
        end = self._pending.find(b"\n")
        if end < 0:
            self.ended = len(self._pending) > _LINE_LIMIT
            return False
        line, self._pending = self._pending[:end], self._pending[end + 1 :]
        self._command(line)
        return True

    def _command(self, line: bytes) -> None:
        match line[:4].upper():
            case b"MAIL":
                self._begin()
                self._tally.host(self._host).mails += 1
                self._say(b"250 2.1.0 sender ok")
            case b"RCPT":
                found = _PATH.search(line)
                self._recipients.append(found[1] if found is not None else line)
                self._say(b"250 2.1.5 recipient ok")
            case b"DATA":
                self._mode = _Mode.DATA
                self._say(b"354 go on")
            case b"BDAT":
                self._begin_chunk(line.split())
            case b"EHLO":
                offered = (*_EXTENSIONS, "STARTTLS") if self._offers_tls and not self._tls else _EXTENSIONS
                self._say("\r\n".join(["250-sink.test", *(f"250-{one}" for one in offered), "250 HELP"]).encode())
            case b"STAR" if self._offers_tls and not self._tls:
                self.wants_tls = True
                self._say(b"220 2.0.0 go ahead")
            case b"QUIT":
                self.ended = True
                self._say(b"221 2.0.0 bye")
            case b"HELO" | b"NOOP" | b"RSET":
                self._begin()
                self._say(b"250 2.0.0 ok")
            case _:
                self._say(b"500 5.5.1 what?")

    def _say(self, reply: bytes) -> None:
        self._replies.append(reply + b"\r\n")

    def _data(self) -> bool:
        data, whole = self._pending, self._tail + self._pending
        end = whole.find(b"\r\n.\r\n")
        if end < 0:
            self._keep(data)
            self._tail, self._pending = whole[-4:], b""
            return False
        taken = end + 5 - len(self._tail)
        self._keep(data[:taken])
        self._pending = data[taken:]
        self._octets -= len(b".\r\n")
        self._complete()
        return True

    def _begin_chunk(self, words: list[bytes]) -> None:
        self._chunk_left = int(words[1])
        self._last_chunk = words[2:3] == [b"LAST"]
        self._mode = _Mode.CHUNK
        if not self._chunk_left:
            self._end_chunk()

    def _chunk(self) -> bool:
        taken = self._pending[: self._chunk_left]
        self._keep(taken)
        self._pending = self._pending[len(taken) :]
        self._chunk_left -= len(taken)
        if self._chunk_left:
            return False
        self._end_chunk()
        return True

    def _end_chunk(self) -> None:
        if not self._recipients:
            self._mode = _Mode.COMMAND
            self._say(b"503 5.5.1 no transaction for a chunk")
        elif self._last_chunk:
            self._complete()
        else:
            self._mode = _Mode.COMMAND
            self._say(b"250 2.0.0 chunk")

    def _keep(self, content: bytes) -> None:
        self._octets += len(content)
        if len(self._head) < _HEAD:
            self._head += content[:_HEAD]

    def _complete(self) -> None:
        self._tally.message(
            self._head, self._recipients, self._octets, tls=self._tls, host=self._host, now=self._clock()
        )
        self._mode = _Mode.COMMAND
        self._begin()
        self._say(b"250 2.0.0 taken")
