"""Counted sessions and planned reports in SQLite."""

from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest
from report_store_contract import NOW, PLANNED, ReportStoreContract
from tls_report_makers import DAY, EXPIRED, FETCH, NO_STARTTLS, STS, TLSA, result

from policy.requirement import ResultType
from relay.queue.tls_results import SessionFailure, TlsResult
from relay.store.protocols import DeliveryState
from relay.store.sqlite.policies import SqlitePolicyStore
from relay.store.sqlite.reports import SqliteReportStore
from relay.store.sqlite.tls_results import TlsResultFile
from relay.store.tls_records import load_result


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


async def counted(path: Path, domain: str = "company-y.example") -> set[TlsResult]:
    file = await TlsResultFile.open(path)
    try:
        return set(await file.results(DAY, domain))
    finally:
        await file.close()


@pytest.mark.rfc("8460-4.2-g", "8460-4.2-i")
async def test_sessions_that_went_alike_are_added_up(path: Path, store: SqliteReportStore) -> None:
    await store.record([result(sessions=2), result(STS, EXPIRED), result(TLSA)])
    await store.record([result(sessions=3), result(STS, EXPIRED, FETCH), result(STS, EXPIRED)])
    await store.record([])
    assert await counted(path) == {
        result(sessions=5),
        result(STS, EXPIRED, sessions=2),
        result(STS, EXPIRED, FETCH),
        result(TLSA),
    }


@pytest.mark.rfc("8460-4.2-i")
async def test_counts_outlast_the_process(path: Path) -> None:
    for _ in range(2):
        store = await SqliteReportStore.open(path)
        await store.record([result(STS, NO_STARTTLS)])
        await store.close()
    assert await counted(path) == {result(STS, NO_STARTTLS, sessions=2)}


@pytest.mark.rfc("8460-4.1-a", "8460-4.1-c")
async def test_days_and_domains_are_kept_apart(path: Path, store: SqliteReportStore) -> None:
    def at(days: int, domain: str) -> TlsResult:
        return TlsResult(day=DAY + timedelta(days=days), recipient_domain=domain, policy=STS)

    await store.record([at(0, "b.test"), at(0, "a.test"), at(1, "c.test"), at(-1, "d.test")])
    file = await TlsResultFile.open(path)
    assert await file.domains(DAY, "", 10) == ["a.test", "b.test"]
    assert await file.domains(DAY, "a.test", 10) == ["b.test"]
    assert await file.domains(DAY, "", 1) == ["a.test"]
    assert await file.domains(DAY + timedelta(days=1), "", 10) == ["c.test"]
    assert await file.results(DAY, "c.test") == []
    assert await store.forget(DAY) == 1
    assert await file.domains(DAY - timedelta(days=1), "", 10) == []
    await file.close()


async def test_a_file_without_the_table_has_nothing(tmp_path: Path) -> None:
    policies = await SqlitePolicyStore.open(tmp_path / "policy.db")
    await policies.close()
    file = await TlsResultFile.open(tmp_path / "policy.db")
    assert await file.domains(DAY, "", 10) == []
    assert await file.results(DAY, "x.test") == []
    await file.close()


async def test_every_kind_of_failure_comes_back_as_it_was(path: Path, store: SqliteReportStore) -> None:
    results = {
        result(STS, SessionFailure(result_type=kind, receiving_mx_helo='h"é', failure_reason_code="r"))
        for kind in ResultType
    }
    await store.record(list(results))
    assert await counted(path) == results


def test_what_cannot_be_read_is_none() -> None:
    assert load_result("{}", "[]") is None
    assert load_result('{"policy_type":"other","policy_domain":"x"}', "[]") is None


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
