"""Every queue store keeps the contract: the one that ships, and the one that other tests use."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from policy_fakes import ManualClock
from queue_fakes import MemoryQueueStore
from queue_store_contract import LEASE, RETAIN, QueueStoreContract

from relay.store.protocols import QueueStore
from relay.store.sqlite.queue import SqliteQueueStore


class TestSqliteQueueStore(QueueStoreContract):
    @pytest.fixture
    async def store(self, clock: ManualClock, tmp_path: Path) -> AsyncIterator[QueueStore]:
        store = await SqliteQueueStore.open(
            tmp_path / "queue-1.db",
            clock=clock,
            incarnation="n1-1",
            node="n1",
            lease_duration=LEASE,
            retain_finished=RETAIN,
        )
        yield store
        await store.close()


class TestMemoryQueueStore(QueueStoreContract):
    @pytest.fixture
    def store(self, clock: ManualClock) -> QueueStore:
        return MemoryQueueStore(clock, lease_duration=LEASE, retain_finished=RETAIN)
