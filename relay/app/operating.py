"""What an operator does to the queue's files, beside a running relay or without one."""

import os
import secrets
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager

from relay.app import plain
from relay.app.clock import SystemClock
from relay.app.state_dir import NODE, queue_files
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
    """The verbs of `mta-sts-relay queue`, for all queue files together.

    Counts are jobs: a message counts once for each recipient domain.
    """

    def __init__(self, stores: Sequence[tuple[QueueStore, NoticeWriter]], *, clock: Clock) -> None:
        self._stores = stores
        self._clock = clock

    async def list(self, which: QueueFilter, limit: int) -> Sequence[QueueEntry]:
        """Return what is meant, oldest first."""
        found = [entry for store, _ in self._stores for entry in await store.list(which, limit)]
        return sorted(found, key=lambda entry: entry.message.accepted_at)[:limit]

    async def show(self, queue_id: str) -> Sequence[QueueEntry]:
        return [entry for store, _ in self._stores for entry in await store.show(queue_id)]

    async def retry(self, which: QueueFilter) -> int:
        return sum([await store.retry(which) for store, _ in self._stores])

    async def hold(self, which: QueueFilter) -> int:
        return sum([await store.operator_hold(which) for store, _ in self._stores])

    async def release(self, which: QueueFilter) -> int:
        return sum([await store.release(which) for store, _ in self._stores])

    async def drop(self, which: QueueFilter, *, silent: bool) -> int:
        """Make all that is meant final; each with its NDR in one transaction, unless `silent`."""
        return sum(
            [
                await drop(which, store=store, notices=notices, clock=self._clock, silent=silent)
                for store, notices in self._stores
            ]
        )

    async def pause(self, domain: str) -> None:
        for store, _ in self._stores:
            await store.pause(domain)

    async def resume(self, domain: str) -> None:
        for store, _ in self._stores:
            await store.resume(domain)


@asynccontextmanager
async def operating(settings: Settings) -> AsyncIterator[Operator]:
    """Open the queue of these settings. Raises NoQueueError, StoreError."""
    files = queue_files(settings.relay.state_dir)
    if not files:
        raise NoQueueError(f"there is no queue in {settings.relay.state_dir}: the relay has not run there")
    clock, incarnation = SystemClock(), new_incarnation()
    async with AsyncExitStack() as exits:
        stores: list[tuple[QueueStore, NoticeWriter]] = []
        for number, file in files.items():
            store = await SqliteQueueStore.open(
                file, clock=clock, incarnation=incarnation, node=NODE, role=Role.OPERATOR
            )
            exits.push_async_callback(store.close)
            new_id = QueueIds(number, clock.now, secrets.token_bytes)
            notices = NoticeWriter(store=store, settings=plain.notice_settings(settings), new_id=new_id)
            stores.append((store, notices))
        yield Operator(stores, clock=clock)
