"""Reading in bulk: a StreamReader that hands out what it has, and knows how long it has waited.

The private names of asyncio's StreamReader that this relies on (`_buffer`, `_eof`, `_exception`, `_transport`,
`_wait_for_data`, `_maybe_resume_transport`) are all used here and nowhere else; a contract test checks them.
"""

import asyncio
from typing import TYPE_CHECKING

READ_AHEAD = 64 * 1024


class ClientGoneError(Exception):
    """The client has closed its side of the connection, or the connection is lost."""


class BulkReader(asyncio.StreamReader):
    """What the client has sent. `waiting_since` is the loop's time at which a wait began, None outside one."""

    _buffer: bytearray
    _eof: bool

    if TYPE_CHECKING:

        def _maybe_resume_transport(self) -> None: ...
        async def _wait_for_data(self, func_name: str) -> None: ...

    def __init__(self, loop: asyncio.AbstractEventLoop) -> None:
        super().__init__(limit=READ_AHEAD, loop=loop)
        self.waiting_since: float | None = None
        self._clock = loop.time

    @property
    def pending(self) -> int:
        """Octets that are here and not taken yet."""
        return len(self._buffer)

    def starts_with(self, octet: int) -> bool:
        return bool(self._buffer) and self._buffer[0] == octet

    def take_line(self, most: int) -> bytes | None:
        """Take a line with its LF; or, without one, what is more than `most`; None if there is neither yet."""
        end = self._buffer.find(b"\n") + 1
        if not end or end > most:
            if len(self._buffer) <= most:
                return None
            end = most
        return self.take(end)

    def take(self, most: int) -> bytes:
        """Take up to `most` octets of what is here."""
        if len(self._buffer) <= most:
            data = bytes(self._buffer)
            self._buffer.clear()
        else:
            data = bytes(memoryview(self._buffer)[:most])
            del self._buffer[:most]
        self._maybe_resume_transport()
        return data

    def put_back(self, data: bytes) -> None:
        """Give back what was taken too much."""
        if data:
            self._buffer[:0] = data

    async def more(self, since: float | None = None) -> None:
        """Wait until there is more; the wait counts from `since` (default: now).

        Raises ClientGoneError at the end, and whatever `set_exception` was given.
        """
        self.waiting_since = self._clock() if since is None else since
        try:
            exception = self.exception()
            if exception is not None:
                raise exception
            if self._eof:
                raise ClientGoneError
            await self._wait_for_data("more")
        except OSError as error:  # what the connection was lost by
            raise ClientGoneError from error
        finally:
            self.waiting_since = None

    def use_transport(self, transport: asyncio.Transport) -> None:
        """Go on with the transport that TLS has put before the first one."""
        self._transport = transport
