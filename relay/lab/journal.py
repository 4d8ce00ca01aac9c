"""What a lab server has seen, in order, with a way to wait for more of it."""

import asyncio
from typing import Generic, TypeVar

T = TypeVar("T")

LONGEST = 200_000


class Journal(list[T], Generic[T]):
    """A list that servers `record` into and tests wait on.

    Limits: keeps the first `longest` entries; `total` counts all.
    """

    def __init__(self, *, longest: int = LONGEST) -> None:
        super().__init__()
        self._longest = longest
        self.total = 0
        self._waiting: list[tuple[int, asyncio.Future[None]]] = []

    def record(self, entry: T) -> None:
        self.total += 1
        if self.total <= self._longest:
            self.append(entry)
        if self._waiting:
            self._wake()

    async def wait_for(self, count: int, timeout: float = 10) -> list[T]:
        """Return all entries once there are `count` of them. Raises TimeoutError that says how many there are."""
        if self.total < count:
            enough: asyncio.Future[None] = asyncio.get_running_loop().create_future()
            self._waiting.append((count, enough))
            try:
                async with asyncio.timeout(timeout):
                    await enough
            except TimeoutError:
                message = f"{self.total} of {count} entries after {timeout} s"
                raise TimeoutError(message) from None
            finally:
                self._waiting.remove((count, enough))
        return self

    def _wake(self) -> None:
        for count, enough in self._waiting:
            if self.total >= count and not enough.done():
                enough.set_result(None)
