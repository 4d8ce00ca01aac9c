"""Counted sessions in SQLite, and how they are read."""

from datetime import timedelta
from pathlib import Path

import pytest
from counted_sessions import count_in
from tls_report_makers import DAY, EXPIRED, FETCH, NO_STARTTLS, STS, TLSA, result

from policy.requirement import ResultType
from relay.queue.tls_results import SessionFailure, TlsResult
from relay.store.sqlite.policies import SqlitePolicyStore
from relay.store.sqlite.tls_results import TlsResultFile
from relay.store.tls_records import load_result


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue-0.db"


async def counted(path: Path, domain: str = "company-y.example") -> set[TlsResult]:
    file = await TlsResultFile.open(path)
    try:
        return set(await file.results(DAY, domain))
    finally:
        await file.close()


@pytest.mark.rfc("8460-4.2-g", "8460-4.2-i")
async def test_sessions_that_went_alike_are_added_up(path: Path) -> None:
    await count_in(path, [result(sessions=2), result(STS, EXPIRED), result(TLSA)])
    await count_in(path, [result(sessions=3), result(STS, EXPIRED, FETCH), result(STS, EXPIRED)])
    await count_in(path, [])
    assert await counted(path) == {
        result(sessions=5),
        result(STS, EXPIRED, sessions=2),
        result(STS, EXPIRED, FETCH),
        result(TLSA),
    }


@pytest.mark.rfc("8460-4.2-i")
async def test_counts_outlast_the_process(path: Path) -> None:
    for _ in range(2):
        await count_in(path, [result(STS, NO_STARTTLS)])
    assert await counted(path) == {result(STS, NO_STARTTLS, sessions=2)}


@pytest.mark.rfc("8460-4.1-a", "8460-4.1-c")
async def test_days_and_domains_are_kept_apart(path: Path) -> None:
    def at(days: int, domain: str) -> TlsResult:
        return TlsResult(day=DAY + timedelta(days=days), recipient_domain=domain, policy=STS)

    await count_in(path, [at(0, "b.test"), at(0, "a.test"), at(1, "c.test"), at(-1, "d.test")])
    file = await TlsResultFile.open(path)
    assert await file.domains(DAY, "", 10) == ["a.test", "b.test"]
    assert await file.domains(DAY, "a.test", 10) == ["b.test"]
    assert await file.domains(DAY, "", 1) == ["a.test"]
    assert await file.domains(DAY + timedelta(days=1), "", 10) == ["c.test"]
    assert await file.results(DAY, "c.test") == []
    assert await file.domains(DAY - timedelta(days=1), "", 10) == ["d.test"]
    await file.close()


async def test_a_file_without_the_table_has_nothing(tmp_path: Path) -> None:
    policies = await SqlitePolicyStore.open(tmp_path / "policy.db")
    await policies.close()
    file = await TlsResultFile.open(tmp_path / "policy.db")
    assert await file.domains(DAY, "", 10) == []
    assert await file.results(DAY, "x.test") == []
    await file.close()


async def test_every_kind_of_failure_comes_back_as_it_was(path: Path) -> None:
    results = {
        result(STS, SessionFailure(result_type=kind, receiving_mx_helo='h"é', failure_reason_code="r"))
        for kind in ResultType
    }
    await count_in(path, results)
    assert await counted(path) == results


def test_what_cannot_be_read_is_none() -> None:
    assert load_result("{}", "[]") is None
    assert load_result('{"policy_type":"other","policy_domain":"x"}', "[]") is None
