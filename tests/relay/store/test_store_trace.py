"""What attempts came to is read beside the store that works on the file, and never more than is asked for."""

import sqlite3
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import pytest
from opening import open_store
from policy_fakes import ManualClock
from queue_store_contract import DAY, HOUR, START, attempt, claim_one, message, settlement

from relay.app.enforcement_report import MAX_DOMAINS, OTHER_DOMAINS, EnforcementReport, report_of
from relay.store.protocols import QueueStore, StoreError, Verdict
from relay.store.sqlite.trace import attempts_since


async def settle(store: QueueStore, destination: str, verdict: Verdict, number: int = 1) -> None:
    job = await claim_one(store, destination)
    await store.settle(replace(settlement(job, verdict), attempt=attempt(number)))


async def test_each_job_comes_with_its_attempts_beside_a_store_at_work(tmp_path: Path) -> None:
    path, clock = tmp_path / "queue-0.db", ManualClock(START)
    store = await open_store(path, clock)
    await store.enqueue(message("Q1", "b@one.test"))
    await store.enqueue(message("Q2", "b@two.test"))
    await store.enqueue(message("Q3", "b@never-tried.test"))
    await settle(store, "one.test", Verdict.QUEUED)
    await settle(store, "two.test", Verdict.DELIVERED)
    clock.move(2 * HOUR)
    await settle(store, "one.test", Verdict.DELIVERED, 2)
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        found = {name: [one.number for one in attempts] for name, attempts in attempts_since(path, START - DAY)}
        other.execute("ROLLBACK")
    assert found == {"one.test": [1, 2], "two.test": [1]}
    assert {name for name, _ in attempts_since(path, START + DAY)} == set()
    report = report_of([path, path], START - DAY)
    assert {name: counts.total() for name, counts in report.domains.items()} == {"one.test": 2, "two.test": 2}
    assert report.total.total() == 4
    await store.close()


async def test_more_jobs_than_one_step_all_come_once(tmp_path: Path) -> None:
    path = tmp_path / "queue-0.db"
    store = await open_store(path, ManualClock(START))
    for number in range(1100):
        await store.enqueue(message(f"Q{number}", f"b@d{number}.test"))
        await settle(store, f"d{number}.test", Verdict.DELIVERED)
    names = [name for name, _ in attempts_since(path, START - DAY)]
    assert sorted(names) == sorted(f"d{number}.test" for number in range(1100))
    await store.close()


def test_a_file_that_is_no_queue_is_a_store_error(tmp_path: Path) -> None:
    (tmp_path / "queue-0.db").write_text("not a database, by any means")
    with pytest.raises(StoreError, match=r"queue-0\.db"):
        report_of([tmp_path / "queue-0.db"], START)


def test_domains_without_end_do_not_fill_the_memory() -> None:
    report = EnforcementReport(since=START)
    for number in range(MAX_DOMAINS + 10):
        report.add(f"d{number}.test", (attempt(1),))
    assert len(report.domains) == MAX_DOMAINS + 1
    assert report.domains[OTHER_DOMAINS].total() == 10
