"""The queue in one SQLite file: the embedded implementation of QueueStore (design §4).

One process works on a file; others (the command line) may operate on it at the same time.
"""

import asyncio
import logging
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Protocol, Self, TypeVar

from relay.clock import Clock
from relay.queue.message import HoldReason, Job, NewMessage, Origin, State
from relay.queue.tls_results import TlsResult
from relay.store.headers import header_section
from relay.store.protocols import (
    Destination,
    QueueEntry,
    QueueFilter,
    QueueStats,
    Settlement,
    StoreError,
    StoreFullError,
)
from relay.store.sqlite import housekeeping, intake, leasing, operating, settling, views
from relay.store.sqlite.database import load_schema, open_database, open_for_reading
from relay.store.sqlite.housekeeping import BEFORE_ALL
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.intake import Arrival, LeaseTerms
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.room import Room, free_on_disk
from relay.store.sqlite.rows import duration_us, to_us
from relay.store.sqlite.tls_results import add_results, forget_old_results
from relay.store.sqlite.upload import SqliteUpload
from relay.store.sqlite.writer import Writer

log = logging.getLogger(__name__)

P = TypeVar("P")

APPLICATION_ID = 0x4D535251
_PIECE = 64 * 1024
_FOREIGN_POLL = timedelta(seconds=1)
_OPERATE_STEP = 1000
"""Jobs that an operator's command changes in one transaction: a million never stand in the relay's way."""
_LAPSE_STEP = 1000
_MAX_STEPS = 100_000
"""Steps of one kind in one sweep; of messages that finished at the highest rate in an hour, all are gone through."""


class Role(Enum):
    """What a process is to the file. One worker at a time; its start frees the leases of those before it."""

    WORKER = "worker"
    OPERATOR = "operator"


class _Change(Protocol):
    def __call__(self, connection: sqlite3.Connection, ids: Sequence[int], now: int) -> int: ...


class _Step(Protocol[P]):
    def __call__(self, connection: sqlite3.Connection, *, after: P) -> P | None: ...


class SqliteQueueStore:
    """Implements relay.store.protocols.QueueStore. Made by `open`; belongs to the event loop that opened it."""

    def __init__(
        self,
        *,
        path: Path,
        connections: tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection],
        clock: Clock,
        incarnation: str,
        lease_duration: timedelta,
        max_lapses: int,
        retain_finished: timedelta,
        min_free_disk: int,
    ) -> None:
        writing, reading, viewing = connections
        self._clock = clock
        self._incarnation = incarnation
        self._lease_us = duration_us(lease_duration)
        self._max_lapses = max_lapses
        self._retain_us = duration_us(retain_finished)
        self._ids = RowIds()
        # One object each, by which the writer knows what can be done together.
        self._insert_messages = lambda connection, items: intake.insert_messages(connection, self._ids, items)
        self._end_jobs = lambda connection, items: settling.end_jobs(connection, self._ids, items)
        self._writer = Writer(writing, name="queue-writer", rolled_back=self._ids.forget)
        self._reader = Reader(reading, name="queue-reader")
        # An operator's list may read for a second; content and due destinations never wait for it.
        self._viewer = Reader(viewing, name="queue-viewer")
        self._room = Room(self._reader, free_on_disk=partial(free_on_disk, path), min_free=min_free_disk)
        self._work = asyncio.Event()
        self._announced = 0
        self._data_version: int | None = None
        self._polled_at: datetime | None = None
        self._poison: list[int] = []
        self._returning: set[asyncio.Future[None]] = set()

    @classmethod
    async def open(
        cls,
        path: Path,
        *,
        clock: Clock,
        incarnation: str,
        node: str,
        role: Role = Role.WORKER,
        lease_duration: timedelta = timedelta(minutes=2),
        max_lapses: int = 5,
        retain_finished: timedelta = timedelta(days=7),
        min_free_disk: int = 0,
    ) -> Self:
        """Open or create the file. A worker frees at once what this node's earlier incarnations held.

        `incarnation` names this process and is never used twice. Raises StoreError.
        """
        connections = await asyncio.to_thread(_connect, path)
        store = cls(
            path=path,
            connections=connections,
            clock=clock,
            incarnation=incarnation,
            lease_duration=lease_duration,
            max_lapses=max_lapses,
            retain_finished=retain_finished,
            min_free_disk=min_free_disk,
        )
        if role is Role.WORKER:
            start = partial(
                leasing.start_incarnation, incarnation=incarnation, node=node, now=store._now(), max_lapses=max_lapses
            )
            try:
                store._poison = await store._writer.run(start)
            except BaseException:
                await store.close()
                raise
        return store

    async def enqueue(self, message: NewMessage, lease: frozenset[str] = frozenset()) -> Sequence[Job]:
        """Commit a message; see QueueStore. Notices are taken even when nothing else is."""
        at = self._clock.now()
        if message.origin is not Origin.RELAY and not await self._room.has(message.size, at):
            raise StoreFullError("the disk is nearly full (store.min_free_disk)")

        def enqueued(jobs: list[Job], heard: bool) -> None:
            recipients = message.recipients
            if len(jobs) < len(recipients) and len(jobs) < len({recipient.destination for recipient in recipients}):
                self._work.set()
            self._leased(jobs, heard)

        now = to_us(at)
        arrival = Arrival(new=message, now=now, terms=self._terms(now), lease=lease)
        return await self._writer.join(self._insert_messages, arrival, size=message.size, done=enqueued)

    async def begin_upload(self) -> SqliteUpload:
        now = self._now()
        content_id = await self._writer.run(
            partial(intake.begin_upload, ids=self._ids, incarnation=self._incarnation, now=now)
        )
        return SqliteUpload(self._writer, content_id, self._incarnation, self._now)

    async def room_for(self, size: int) -> bool:
        return await self._room.has(size, self._clock.now())

    async def due_destinations(self, limit: int) -> Sequence[str]:
        return await self._reader.run(partial(views.due_destinations, now=self._now(), limit=limit))

    async def claim(self, destination: str, limit: int) -> Sequence[Job]:
        now = self._now()
        terms = self._terms(now)
        return await self._writer.run(
            lambda connection: leasing.claim(connection, destination, limit, now, terms), done=self._leased
        )

    async def settle(self, settlement: Settlement) -> None:
        """Write the end of an attempt; see QueueStore. Raises ValueError if it would be tried again at once."""
        now = self._now()
        ending = settling.settled(settlement, now, self._terms(now))
        at_once = bool(ending.waiting) and not settlement.retry_in
        await self._end(ending, wake=at_once or bool(settlement.notices), patient=True)

    async def record(self, results: Sequence[TlsResult]) -> None:
        """Count TLS results that no settlement tells of (design §5)."""
        await self._writer.run(lambda connection: add_results(connection, results))

    async def renew(self, jobs: Sequence[Job] | None = None) -> None:
        await self._writer.run(partial(leasing.renew, jobs=jobs, terms=self._terms(self._now())))

    async def hold(self, job: Job, reason: HoldReason) -> None:
        await self._writer.run(partial(leasing.hold, job=job, reason=reason, now=self._now()))

    async def content(self, queue_id: str) -> AsyncIterator[bytes]:
        content_id, size = await self._reader.run(partial(views.content_of, queue_id=queue_id))
        for number in range(intake.pieces(size)):
            data = await self._reader.run(partial(views.content_piece, content_id=content_id, number=number))
            for start in range(0, len(data), _PIECE):
                yield data[start : start + _PIECE]

    async def headers(self, queue_id: str, max_bytes: int = 262_144) -> bytes:
        start = await self._reader.run(partial(views.content_start, queue_id=queue_id, max_bytes=max_bytes))
        return header_section(start, max_bytes)

    async def wait_for_work(self, timeout: timedelta) -> None:
        """Return when work may have become due: each due time is announced once. Raises StoreError if we cannot work.

        What another process does to the file is seen within about a second.
        """
        deadline = self._clock.now() + timeout
        while not self._work.is_set():
            now = self._clock.now()
            next_due = await self._reader.run(partial(views.next_due, after=self._announced))
            if (next_due is not None and next_due <= to_us(now)) or await self._changed_by_others(now):
                break
            seconds = min(_FOREIGN_POLL.total_seconds(), (deadline - now).total_seconds())
            if next_due is not None:
                seconds = min(seconds, (next_due - to_us(now)) / 1_000_000)
            if seconds <= 0:
                return
            await self._sleep_or_work(seconds)
        self._work.clear()
        self._announced = self._now()

    def retain(self, finished: timedelta) -> None:
        """Keep the trace of what is final for so long, from the next sweep on."""
        self._retain_us = duration_us(finished)

    async def sweep(self) -> Sequence[QueueEntry]:
        poison, self._poison = self._poison, []
        for _ in range(_MAX_STEPS):
            lapse = partial(leasing.lapse, now=self._now(), max_lapses=self._max_lapses, limit=_LAPSE_STEP)
            lapsed, held = await self._writer.run(lapse, done=self._wake)
            poison += held
            if lapsed < _LAPSE_STEP:
                break
        await self._repeat(partial(housekeeping.remove_nameless, now=self._now()))
        await self._walk(partial(housekeeping.remove_finished, before=self._now() - self._retain_us), BEFORE_ALL)
        await self._walk(partial(housekeeping.remove_idle_destinations, now=self._now()), "")
        await self._repeat(partial(forget_old_results, now=self._now()))
        await self._repeat(housekeeping.give_pages_back, only_idle=True)
        return await self._viewer.run(partial(views.entries, ids=poison, attempts=True)) if poison else ()

    async def stats(self) -> QueueStats:
        return await self._viewer.run(views.stats)

    async def destinations(self, limit: int) -> Sequence[Destination]:
        return await self._viewer.run(partial(views.destinations, now=self._now(), limit=limit))

    async def list(self, which: QueueFilter, limit: int) -> Sequence[QueueEntry]:
        """The jobs meant, oldest first, without the records of their attempts."""
        now = self._now()

        def query(connection: sqlite3.Connection) -> list[QueueEntry]:
            ids = operating.select_jobs(connection, which, (), now, 0, limit)
            return views.entries(connection, ids, attempts=False)

        return await self._viewer.run(query)

    async def show(self, queue_id: str) -> Sequence[QueueEntry]:
        return await self._viewer.run(
            lambda connection: views.entries(connection, views.jobs_of(connection, queue_id), attempts=True)
        )

    async def retry(self, which: QueueFilter) -> int:
        return await self._operate(operating.retry, which, State.QUEUED)

    async def operator_hold(self, which: QueueFilter) -> int:
        return await self._operate(operating.hold, which, State.QUEUED)

    async def release(self, which: QueueFilter) -> int:
        return await self._operate(operating.release, which, State.HELD)

    async def claim_for_drop(self, which: QueueFilter, limit: int) -> Sequence[Job]:
        now = self._now()
        terms = self._terms(now)
        states = (State.QUEUED, State.HELD)
        ids = await self._viewer.run(
            partial(
                operating.select_jobs, which=which, states=states, now=now, after=0, limit=min(limit, _OPERATE_STEP)
            )
        )
        return await self._writer.run(
            lambda connection: leasing.claim_by_id(connection, ids, now, terms), done=self._leased
        )

    async def drop(self, job: Job, notices: tuple[NewMessage, ...]) -> None:
        now = self._now()
        await self._end(settling.dropped(job, notices, now, self._terms(now)), wake=True)

    async def pause(self, domain: str) -> None:
        await self._writer.run(partial(operating.pause, domain=domain))

    async def resume(self, domain: str) -> None:
        await self._writer.run(partial(operating.resume, domain=domain), done=self._wake)

    async def close(self) -> None:
        with suppress(StoreError):  # what cannot be given back lapses, and the writer has logged why
            await self._writer.run(partial(leasing.give_back_all, incarnation=self._incarnation))
        await self._reader.close()
        await self._viewer.close()
        await self._writer.close()

    def _end(self, ending: settling.Ending, *, wake: bool, patient: bool = False) -> Awaitable[None]:
        size = sum([notice.size for notice in ending.notices])
        done = self._wake if wake else None
        return self._writer.join(self._end_jobs, ending, size=size, done=done, patient=patient)

    async def _operate(self, change: _Change, which: QueueFilter, *states: State) -> int:
        """Change the jobs meant, in short transactions; each checks again that a job is still in one of the states."""
        changed, after = 0, 0
        while True:
            now = self._now()
            ids = await self._viewer.run(
                partial(operating.select_jobs, which=which, states=states, now=now, after=after, limit=_OPERATE_STEP)
            )
            if ids:
                changed += await self._writer.run(partial(change, ids=ids, now=now), done=self._wake)
                after = ids[-1]
            if len(ids) < _OPERATE_STEP:
                return changed

    async def _repeat(self, step: Callable[[sqlite3.Connection], bool], *, only_idle: bool = False) -> None:
        for _ in range(_MAX_STEPS):
            if (only_idle and not self._writer.idle) or not await self._writer.run(step):
                return

    async def _walk(self, step: _Step[P], start: P) -> None:
        """Go through a table in short transactions, each from where the one before it came to."""
        position: P | None = start
        for _ in range(_MAX_STEPS):
            if position is None:
                return
            position = await self._writer.run(partial(step, after=position))

    async def _changed_by_others(self, now: datetime) -> bool:
        """Whether another process has written since the last look, which is at least a second ago."""
        if self._polled_at is not None and abs(now - self._polled_at) < _FOREIGN_POLL:
            return False
        self._polled_at = now
        before, self._data_version = self._data_version, await self._writer.run(_data_version)
        return before is not None and before != self._data_version

    async def _sleep_or_work(self, seconds: float) -> None:
        tasks = [asyncio.ensure_future(self._work.wait()), asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def _now(self) -> int:
        return to_us(self._clock.now())

    def _terms(self, now: int) -> LeaseTerms:
        return LeaseTerms(incarnation=self._incarnation, until=now + self._lease_us)

    def _wake(self, _result: object, _heard: bool) -> None:
        self._work.set()

    def _leased(self, jobs: Sequence[Job], heard: bool) -> None:
        """Give back what was leased to a caller that is gone; it is no lapse."""
        if jobs and not heard:
            task = asyncio.ensure_future(self._writer.run(partial(leasing.give_back, jobs=jobs), done=self._wake))
            self._returning.add(task)
            task.add_done_callback(self._returned)

    def _returned(self, task: asyncio.Future[None]) -> None:
        self._returning.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.warning("store.leases_not_returned", exc_info=error)


def _connect(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection, sqlite3.Connection]:
    writing = open_database(path, load_schema("schema", APPLICATION_ID))
    return writing, open_for_reading(path), open_for_reading(path)


def _data_version(connection: sqlite3.Connection) -> int:
    version: int = connection.execute("PRAGMA data_version").fetchone()[0]
    return version
