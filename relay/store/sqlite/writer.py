"""One thread that writes: all that waits goes into one transaction, so that many commits share one fsync.

A commit costs as much as three messages, whatever is in it. So what comes within one turn of the event loop is handed
to the thread together, and a write that can wait a moment goes along with the next one that cannot.
"""

import asyncio
import logging
import sqlite3
import threading
from collections import deque
from collections.abc import Callable, Sequence
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
"""Writes of at least `_BIG` bytes are done so much at a time, in turn with all the small ones that came meanwhile:
whatever is uploaded, a transaction stays short, and neither a small message nor another process waits long for it."""
_PATIENCE_SECONDS = 0.01
"""How long a write that can wait does so; under load the next one that cannot comes before."""


class _Write:
    result: Any = None
    error: StoreError | None = None

    def __init__(
        self,
        operation: JointOperation[Any, Any],
        item: Any,
        future: asyncio.Future[Any],
        size: int,
        done: Callable[[Any, bool], None] | None,
    ) -> None:
        self.operation = operation
        self.item = item
        self.future = future
        self.size = size
        self.done = done


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
        self._loop = asyncio.get_running_loop()
        self._waiting = 0
        self._room = asyncio.Event()
        self._room.set()
        self._gathered: list[_Write] = []
        self._leaving = False
        self._later: asyncio.TimerHandle | None = None
        self._queue: SimpleQueue[list[_Write] | None] = SimpleQueue()
        # What the thread has taken from the queue.
        self._small: deque[_Write] = deque()
        self._big: deque[_Write] = deque()
        self._big_next = False
        self._stopped: StoreError | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    @property
    def idle(self) -> bool:
        return not (self._gathered or self._small or self._big) and self._queue.empty()

    async def run(self, operation: Operation[T], *, size: int = 0, done: Done[T] | None = None) -> T:
        """Run the operation and return its result once it is on disk. Raises StoreError.

        Cancelling the caller does not undo it. `done(result, heard)` is called after the commit in any case;
        `heard` is False if the caller was cancelled and will not see the result. `size` is what it writes.
        """
        return await self.join(lambda connection, _: (operation(connection),), None, size=size, done=done)

    async def join(
        self,
        operation: JointOperation[I, T],
        item: I,
        *,
        size: int = 0,
        done: Done[T] | None = None,
        patient: bool = False,
    ) -> T:
        """Like `run`, for operations that do with many items in few statements what they do with one.

        What waits for the same operation is done in one call; items of different operations may change places.
        `patient` says that it may wait a few milliseconds for others to go with.
        """
        while self._waiting >= MAX_WAITING:
            self._room.clear()
            await self._room.wait()
        if self._stopped is not None:
            raise self._stopped
        self._waiting += 1
        future: asyncio.Future[T] = self._loop.create_future()
        self._gathered.append(_Write(operation, item, future, size, done))
        if not self._leaving:
            self._leave(patient)
        return await future

    async def close(self) -> None:
        """Finish what waits, then end the thread and close the connection."""
        if self._stopped is None:
            self._stopped = StoreError("the store is closed")
            self._hand_over()
            self._queue.put(None)
        while self._thread.is_alive():
            await asyncio.to_thread(self._thread.join)

    def _leave(self, patient: bool) -> None:
        """See to it that what is gathered is handed over: in this turn of the loop, or soon if it can wait."""
        if not patient:
            self._leaving = True
            self._loop.call_soon(self._hand_over)
        elif self._later is None:
            self._later = self._loop.call_later(_PATIENCE_SECONDS, self._hand_over)

    def _hand_over(self) -> None:
        if self._later is not None:
            self._later.cancel()
        self._leaving, self._later = False, None
        gathered, self._gathered = self._gathered, []
        if gathered:
            self._queue.put(gathered)

    def _run(self) -> None:
        batch: list[_Write] = []
        try:
            while self._take(batch):
                self._commit(batch)
                self._loop.call_soon_threadsafe(self._resolve, batch)
                batch = []
        except BaseException as error:
            log.exception("store.writer_died")
            if not self._loop.is_closed():
                self._loop.call_soon_threadsafe(self._die, StoreDeadError(f"the writer died: {error!r}"), batch)
        finally:
            self._connection.close()

    def _take(self, batch: list[_Write]) -> bool:
        """Wait for work and collect what is there; False when it is time to stop.

        Small and big writes take turns: who brings a small one waits for one transaction of big ones, not for two.
        """
        while not ((self._small or self._big) and self._queue.empty()):
            writes = self._queue.get()
            if writes is None:
                self._queue.put(None)  # to be found again once nothing is left before it
                break
            for write in writes:
                (self._big if write.size >= _BIG else self._small).append(write)
        take_big = bool(self._big) and (self._big_next or not self._small)
        self._big_next = not take_big
        waiting, most = (self._big, _MAX_BIG_BYTES) if take_big else (self._small, _MAX_BATCH_BYTES)
        size = 0
        while waiting and len(batch) < _MAX_BATCH and size < most:
            batch.append(waiting.popleft())
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
        self._hand_over()
        batch += [*self._small, *self._big]
        while not self._queue.empty():
            batch += self._queue.get() or ()
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
