"""The line between the parent and one worker process: JSON arrays, one a line, over a pair of sockets.

Either side may tell something, or ask and get one answer. The other side is of the same program and version.
"""

import asyncio
import contextlib
import itertools
import json
import socket
from collections.abc import Awaitable, Callable
from typing import Any, Self

_MAX_LINE = 16 * 1024 * 1024
_MAX_UNSENT = 1024 * 1024
"""Octets that may wait for the other side to read; beyond, what is told is dropped, and questions are not asked."""
_FLUSH_SECONDS = 2.0
_ANSWER = "answer"

Told = Callable[[str, Any], None]
Asked = Callable[[str, Any], Awaitable[Any]]


class LineClosedError(Exception):
    """The other side is gone, or does not read."""


class Line:
    """One end. `run` has to run for anything to be heard."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer
        self._numbers = itertools.count(1)
        self._waiting: dict[int, asyncio.Future[Any]] = {}
        self._closed = False

    @classmethod
    async def over(cls, end: socket.socket) -> Self:
        """Make a line of one of the two sockets, which it takes over."""
        return cls(*await asyncio.open_unix_connection(sock=end, limit=_MAX_LINE))

    def tell(self, kind: str, value: object = None) -> bool:
        """Send something that needs no answer; False if the other side is gone or does not read."""
        return self._send(kind, 0, value)

    async def ask(self, kind: str, value: object = None, *, seconds: float) -> Any:
        """Return the answer. Raises TimeoutError, LineClosedError."""
        number = next(self._numbers)
        answer = self._waiting[number] = asyncio.get_running_loop().create_future()
        try:
            if not self._send(kind, number, value):
                raise LineClosedError
            async with asyncio.timeout(seconds):
                return await answer
        finally:
            del self._waiting[number]

    async def run(self, told: Told, asked: Asked | None = None) -> None:
        """Hear the other side until it is gone; questions are answered beside each other."""
        try:
            async with asyncio.TaskGroup() as answers:
                while line := await self._reader.readline():
                    kind, number, value = json.loads(line)
                    if kind == _ANSWER:
                        self._answered(number, value)
                    elif number and asked is not None:
                        answers.create_task(self._answer(asked, kind, number, value))
                    else:
                        told(kind, value)
        except* ConnectionError:
            pass
        finally:
            self._close()

    async def flush(self) -> None:
        """Wait, but not for long, until all that was told is on its way."""
        self._writer.transport.set_write_buffer_limits(0)
        with contextlib.suppress(ConnectionError, TimeoutError):
            async with asyncio.timeout(_FLUSH_SECONDS):
                await self._writer.drain()

    async def _answer(self, asked: Asked, kind: str, number: int, value: object) -> None:
        self._send(_ANSWER, number, await asked(kind, value))

    def _answered(self, number: int, value: object) -> None:
        waiting = self._waiting.get(number)
        if waiting is not None and not waiting.done():
            waiting.set_result(value)

    def _send(self, kind: str, number: int, value: object) -> bool:
        transport = self._writer.transport
        if self._closed or transport.is_closing() or transport.get_write_buffer_size() > _MAX_UNSENT:
            return False
        self._writer.write(json.dumps([kind, number, value]).encode() + b"\n")
        return True

    def _close(self) -> None:
        self._closed = True
        self._writer.close()
        for waiting in self._waiting.values():
            if not waiting.done():
                waiting.set_exception(LineClosedError())
