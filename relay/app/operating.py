"""What an operator does to the queue's files, beside a running relay or without one."""

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager

from relay.app import plain
from relay.app.clock import SystemClock
from relay.app.state_dir import NODE, QUEUE_FILE
from relay.clock import Clock
from relay.config import Settings
from relay.delivery.drop import drop
from relay.delivery.notices import NoticeWriter
from relay.queue.ids import QueueIds
from relay.store.protocols import QueueEntry, QueueFilter, QueueStore
from relay.store.sqlite.queue import Role, SqliteQueueStore


class NoQueueError(Exception):
    """There is no queue where the settings say."""


def new_incarnation() -> str:
    """Return a name that no process has had before."""
    return f"{os.getpid()}-{secrets.token_hex(8)}"


class Operator:
    """The verbs of `mta-sts-relay queue`. Counts are jobs: a message counts once for each recipient domain."""

    def __init__(self, *, store: QueueStore, notices: NoticeWriter, clock: Clock) -> None:
        self._store = store
        self._notices = notices
        self._clock = clock

    async def list(self, which: QueueFilter, limit: int) -> Sequence[QueueEntry]:
        return await self._store.list(which, limit)

    async def show(self, queue_id: str) -> Sequence[QueueEntry]:
        return await self._store.show(queue_id)

    async def retry(self, which: QueueFilter) -> int:
        return await self._store.retry(which)

    async def hold(self, which: QueueFilter) -> int:
        return await self._store.operator_hold(which)

    async def release(self, which: QueueFilter) -> int:
        return await self._store.release(which)

    async def drop(self, which: QueueFilter, *, silent: bool) -> int:
        """Make all that is meant final; each with its NDR in one transaction, unless `silent`."""
        return await drop(which, store=self._store, notices=self._notices, clock=self._clock, silent=silent)

    async def pause(self, domain: str) -> None:
        await self._store.pause(domain)

    async def resume(self, domain: str) -> None:
        await self._store.resume(domain)


@asynccontextmanager
async def operating(settings: Settings) -> AsyncIterator[Operator]:
    """Open the queue of these settings. Raises NoQueueError, StoreError."""
    path = settings.relay.state_dir / QUEUE_FILE
    if not path.exists():
        raise NoQueueError(f"there is no queue in {settings.relay.state_dir}: the relay has not run there")
    clock = SystemClock()
    store = await SqliteQueueStore.open(path, clock=clock, incarnation=new_incarnation(), node=NODE, role=Role.OPERATOR)
    try:
        new_id = QueueIds(0, clock.now, secrets.token_bytes)
        notices = NoticeWriter(store=store, settings=plain.notice_settings(settings), new_id=new_id)
        yield Operator(store=store, notices=notices, clock=clock)
    finally:
        await store.close()
