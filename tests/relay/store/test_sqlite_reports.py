"""Planned reports in SQLite."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from report_store_contract import NOW, PLANNED, ReportStoreContract

from relay.store.protocols import DeliveryState
from relay.store.sqlite.reports import SqliteReportStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "reports.db"


@pytest.fixture
async def store(path: Path) -> AsyncIterator[SqliteReportStore]:
    store = await SqliteReportStore.open(path)
    yield store
    await store.close()


class TestSqliteReportStore(ReportStoreContract):
    """The contract, with the fixture above."""


async def test_a_process_that_died_while_it_sent_is_seen(path: Path) -> None:
    first = await SqliteReportStore.open(path)
    await first.plan(PLANNED)
    await first.start((await first.due(NOW, 1))[0])
    await first.close()
    second = await SqliteReportStore.open(path)
    (found,) = await second.in_flight(10)
    assert (found.number, found.state) == (0, DeliveryState.IN_FLIGHT)
    await second.finish(found, accepted=False)
    assert await second.in_flight(10) == []
    await second.close()
