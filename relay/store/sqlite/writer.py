"""One thread that writes: all that waits goes into one transaction, so that many commits share one fsync."""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import SimpleQueue
from typing import Any, TypeVar

from relay.store.protocols import StoreDeadError, StoreError
from relay.store.sqlite.database import store_error

log = logging.getLogger(__name__)

T = TypeVar("T")
I = TypeVar("I")  # noqa: E741  an item of a joint operation
Operation = Callable[[sqlite3.Connection], T]
JointOperation = Callable[[sqlite3.Connection, Sequence[I]], Sequence[T]]
Done = Callable[[T, bool], None]

MAX_WAITING = 4096
"""Writes that may wait; callers beyond wait for their turn to wait."""
_MAX_BATCH = 512
_MAX_BATCH_BYTES = 8 * 1024 * 1024
_BIG = 128 * 1024
_MAX_BIG_BYTES = 1024 * 1024
"""Writes of at least `_BIG` bytes are done so much at a time, with all the small ones that came meanwhile: whatever
is uploaded, a transaction stays short, and neither a small message nor another process waits long for it."""


@dataclass(slots=True, eq=False)
class _Write:
    operation: JointOperation[Any, Any]
    item: Any
    future: asyncio.Future[Any]
    size: int
    done: Callable[[Any, bool], None] | None
    result: Any = None
    error: StoreError | None = None


class Writer:
    """Runs operations in a thread of its own, each whole or not at all.

    An operation gets the connection inside a transaction, must not end it, and can be run again after a rollback:
    its failure fails it alone. Owns the connection. `rolled_back` is called in the thread after each rollback.
    """

    def __init__(
        self, connection: sqlite3.Connection, *, name: str, rolled_back: Callable[[], None] = lambda: None
    ) -> None:
        self._connection = connection
        self._rolled_back = rolled_back
        self._queue: SimpleQueue[_Write | None] = SimpleQueue()
        self._big: deque[_Write] = deque()
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._loop = asyncio.get_running_loop()
        self._stopped: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return self._queue.empty() and not self._big

    async def run(self, operation: Operation[T], *, size: int = 0, done: Done[T] | None = None) -> T:
        """Run the operation and return its result once it is on disk. Raises StoreError.

        Cancelling the caller does not undo it. `done(result, heard)` is called after the commit in any case;
        `heard` is False if the caller was cancelled and will not see the result. `size` is what it writes.
        """
        return await self.join(lambda connection, _: (operation(connection),), None, size=size, done=done)

    async def join(self, operation: JointOperation[I, T], item: I, *, size: int = 0, done: Done[T] | None = None) -> T:
        """Like `run`, for operations that do with many items in few statements what they do with one.

        What waits for the same operation is done in one call; items of different operations may change places.
        """
        while self._waiting >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        if self._stopped is not None:
            raise self._stopped
        self._waiting += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._queue.put(_Write(operation, item, future, size, done))
        return await future

    async def close(self) -> None:
        """Finish what waits, then end the thread and close the connection."""
        if self._stopped is None:
            self._stopped = StoreError("the store is closed")
            self._queue.put(None)
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _run(self) -> None:
        batch: list[_Write] = []
        try:
            while self._gather(batch):
                self._commit(batch)
                self._loop.call_soon_threadsafe(self._resolve, batch)
                batch = []
        except BaseException as error:
            log.exception("store.writer_died")
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._die, StoreDeadError(f"the writer died: {error!r}"), batch)
        finally:
            self._connection.close()

    def _gather(self, batch: list[_Write]) -> bool:
        """Wait for work and collect what is there, of the big writes only some; False when it is time to stop."""
        size = 0
        while (
            len(batch) < _MAX_BATCH and size < _MAX_BATCH_BYTES and not (self._queue.empty() and (batch or self._big))
        ):
            write = self._queue.get()
            if write is None:
                self._queue.put(None)  # to be found again once nothing is left before it
                break
            if write.size >= _BIG:
                self._big.append(write)
            else:
                batch.append(write)
                size += write.size
        size = 0
        while self._big and size < _MAX_BIG_BYTES:
            batch.append(self._big.popleft())
            size += batch[-1].size
        return bool(batch)

    def _commit(self, batch: list[_Write]) -> None:
        """Run a batch in one transaction; only if something fails, once more with each operation in its own."""
        try:
            self._transact(batch)
        except Exception as error:  # noqa: BLE001  an operation's fault, of whatever kind, is not its neighbours'
            if len(batch) == 1 or _busy(error):
                reported = _reported(error)
                for write in batch:
                    write.error = reported
                return
            log.info("store.batch_split", extra={"writes": len(batch), "error": str(error)})
            for write in batch:
                self._commit([write])

    def _transact(self, batch: list[_Write]) -> None:
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            self._run_jointly(batch)
            self._connection.execute("COMMIT")
        except BaseException:
            if self._connection.in_transaction:  # a full disk has undone it already
                self._connection.execute("ROLLBACK")
            self._rolled_back()
            raise

    def _run_jointly(self, batch: list[_Write]) -> None:
        together: dict[JointOperation[Any, Any], list[_Write]] = {}
        for write in batch:
            together.setdefault(write.operation, []).append(write)
        for operation, writes in together.items():
            results = operation(self._connection, [write.item for write in writes])
            for write, result in zip(writes, results, strict=True):
                write.result = result

    def _resolve(self, batch: list[_Write]) -> None:
        self._waiting -= len(batch)
        self._room.set()
        for write in batch:
            heard = not write.future.done()
            if write.error is not None:
                if heard:
                    write.future.set_exception(write.error)
                continue
            if heard:
                write.future.set_result(write.result)
            if write.done is not None:
                write.done(write.result, heard)

    def _die(self, error: StoreError, batch: list[_Write]) -> None:
        self._stopped = error
        batch += self._big
        while not self._queue.empty():
            if (write := self._queue.get()) is not None:
                batch.append(write)
        for write in batch:
            write.error = error
        self._resolve(batch)


def _busy(error: Exception) -> bool:
    """Whether another process kept us from beginning at all, for as long as we are willing to wait."""
    return getattr(error, "sqlite_errorname", "").startswith("SQLITE_BUSY")


def _reported(error: Exception) -> StoreError:
    """The error to raise; what is not one of the store's own is logged with its traceback."""
    reported = store_error(error)
    if reported is not error:
        reported.__cause__ = error
        log.warning("store.operation_failed", exc_info=error)
    return reported
