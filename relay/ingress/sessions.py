"""The connections that are open, or that linger: whom a listener has to stop, and to wait for."""

import asyncio
import contextlib
from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from relay.ingress.connection import Connection


class Sessions:
    """A set of connections, and a way to wait until it is empty."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, connection: "Connection") -> bool:
        return connection in self._open

    def __iter__(self) -> "Iterator[Connection]":
        return iter(tuple(self._open))

    def add(self, connection: "Connection") -> None:
        self._open.add(connection)
        self._none_open.clear()

    def discard(self, connection: "Connection") -> None:
        self._open.discard(connection)
        if not self._open:
            self._none_open.set()

    async def ended(self, seconds: float) -> None:
        """Return when none is open, or after that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none_open.wait()
