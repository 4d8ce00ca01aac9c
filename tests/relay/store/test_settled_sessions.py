"""TLS sessions are counted in the transaction that settles the attempt which used them (design §5)."""

from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, datetime, time, timedelta
from pathlib import Path

import pytest
from opening import check_file, open_store
from policy_fakes import ManualClock
from queue_store_contract import claim_one, message, settlement
from tls_report_makers import DAY, EXPIRED, FETCH, STS, TLSA, result

from relay.queue.tls_results import TlsResult
from relay.store.protocols import LeaseLostError, Verdict
from relay.store.sqlite.queue import SqliteQueueStore
from relay.store.sqlite.tls_results import MAX_KINDS, TlsResultFile

NOON = datetime.combine(DAY, time(12), UTC)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue-1.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(NOON)


@pytest.fixture
async def store(path: Path, clock: ManualClock) -> AsyncIterator[SqliteQueueStore]:
    store = await open_store(path, clock)
    yield store
    await store.close()
    check_file(path)


async def counted(path: Path) -> set[TlsResult]:
    file = await TlsResultFile.open(path)
    try:
        return set(await file.results(DAY, "company-y.example"))
    finally:
        await file.close()


@pytest.mark.rfc("8460-4.2-i")
async def test_a_settlement_counts_its_sessions(path: Path, store: SqliteQueueStore) -> None:
    for queue_id, results in (("Q1", (result(), result(TLSA))), ("Q2", ()), ("Q3", (result(STS, EXPIRED), result()))):
        await store.enqueue(message(queue_id))
        settled = settlement(await claim_one(store), Verdict.DELIVERED)
        await store.settle(replace(settled, tls_results=results))
    assert await counted(path) == {result(sessions=2), result(TLSA), result(STS, EXPIRED)}


async def test_a_settlement_that_is_refused_counts_nothing(path: Path, store: SqliteQueueStore) -> None:
    await store.enqueue(message("Q1"))
    settled = settlement(await claim_one(store), Verdict.DELIVERED)
    await store.settle(settled)
    with pytest.raises(LeaseLostError):
        await store.settle(replace(settled, tls_results=(result(),)))
    assert await counted(path) == set()


async def test_sessions_are_forgotten_when_their_reports_are_over(
    path: Path, store: SqliteQueueStore, clock: ManualClock
) -> None:
    await store.enqueue(message("Q1"))
    settled = settlement(await claim_one(store), Verdict.DELIVERED)
    await store.settle(replace(settled, tls_results=(result(),)))
    clock.move(timedelta(days=3))
    await store.sweep()
    assert await counted(path) == {result()}
    clock.move(timedelta(days=1))
    await store.sweep()
    assert await counted(path) == set()


@pytest.mark.rfc("8460-4.3.2.2-a", "8460-4.2-i")
async def test_what_no_settlement_tells_of_is_counted_alone(path: Path, store: SqliteQueueStore) -> None:
    await store.enqueue(message("Q1"))
    settled = settlement(await claim_one(store), Verdict.DELIVERED)
    await store.settle(replace(settled, tls_results=(result(),)))
    await store.record([result(STS, FETCH), result()])
    assert await counted(path) == {result(sessions=2), result(STS, FETCH)}


@pytest.mark.rfc("8460-5.2-b")
async def test_a_peer_that_varies_all_it_can_fills_no_disk(path: Path, store: SqliteQueueStore) -> None:
    varied = [result(STS, replace(EXPIRED, receiving_mx_helo=f"mx{n}.test")) for n in range(MAX_KINDS + 500)]
    await store.record(varied[:10])
    await store.record(varied)
    await store.record(varied)
    rows = await counted(path)
    assert sum(row.sessions for row in rows) == 10 + 2 * len(varied)
    assert max(row.sessions for row in rows) == 1000, "those beyond, in short"
    (short,) = [row for row in rows if row.sessions == 1000]
    assert short == replace(varied[0].in_short, sessions=1000)
    assert len(rows) == MAX_KINDS + 1
