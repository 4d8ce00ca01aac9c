"""What the SQLite queue does beyond the contract: restarts, a second process, uploads left behind, space, damage."""

import asyncio
import re
import sqlite3
from contextlib import closing
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from opening import check_file, open_store
from policy_fakes import ManualClock
from queue_store_contract import (
    ALL,
    CONTENT,
    HOUR,
    LEASE,
    MINUTE,
    RETAIN,
    SECOND,
    START,
    attempt,
    claim_one,
    entry,
    ids,
    message,
    names,
    notice,
    queue_ids,
    read,
    settlement,
    until_asleep,
)

from relay.queue.message import HoldReason, Origin, State
from relay.store.protocols import QueueFilter, StoreError, StoreFullError, Verdict
from relay.store.sqlite import housekeeping, intake, leasing, operating, settling, views
from relay.store.sqlite.queue import Role, SqliteQueueStore
from relay.store.sqlite.room import Room

TO_TEST = frozenset({"to.test"})


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue-1.db"


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock(START)


async def crash(store: SqliteQueueStore) -> None:
    """End a store as a crash would: no lease is given back."""
    await store._reader.close()
    await store._viewer.close()
    await store._writer.close()


def execute(path: Path, statement: str, *values: object) -> list[tuple[object, ...]]:
    with closing(sqlite3.connect(path)) as connection:
        found = connection.execute(statement, values).fetchall()
        connection.commit()
        return found


def size_of(path: Path) -> int:
    return path.stat().st_size


# -- restarts


@pytest.mark.rfc("5321-6.1-d", "5321-4.5.4.1-c")
async def test_a_crash_frees_its_leases_at_the_next_start_charged(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1")
    await store.enqueue(message("Q1"))
    await claim_one(store)
    await crash(store)
    store = await open_store(path, clock, "2")
    assert not await store.sweep()
    job = await claim_one(store)
    assert job.attempts == 2
    assert await read(store, "Q1") == CONTENT
    await store.close()
    check_file(path)


async def test_a_clean_stop_gives_leases_back_uncharged_and_makes_no_poison(path: Path, clock: ManualClock) -> None:
    for number in range(10):
        store = await open_store(path, clock, str(number))
        if number == 0:
            await store.enqueue(message("Q1"))
        assert (await claim_one(store)).attempts == 1
        await store.close()
    store = await open_store(path, clock, "last")
    found = await entry(store, "Q1")
    assert (found.state, found.attempts) == (State.QUEUED, 0)
    await store.close()


async def test_what_crashes_five_times_is_poison_and_told_by_the_first_sweep(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "0")
    await store.enqueue(message("Q1"))
    await store.enqueue(message("Q2", "b@else.test"))
    for number in range(1, 6):
        await claim_one(store)
        await crash(store)
        store = await open_store(path, clock, str(number))
        poison = [found.message.queue_id for found in await store.sweep()]
        assert poison == (["Q1"] if number == 5 else [])
    assert not await store.sweep()
    assert (await entry(store, "Q1")).hold_reason is HoldReason.POISON
    assert await names(store) == ["else.test"]
    await store.close()
    check_file(path)


async def test_leases_of_another_node_are_left_alone(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1", node="n1")
    (job,) = await store.enqueue(message("Q1"), TO_TEST)
    other = await open_store(path, clock, "2", node="n2")
    assert await names(other) == []
    await store.settle(settlement(job, Verdict.DELIVERED))
    await other.close()
    await store.close()


async def test_a_settlement_of_an_earlier_incarnation_is_refused(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1")
    (job,) = await store.enqueue(message("Q1"), TO_TEST)
    await crash(store)
    store = await open_store(path, clock, "2")
    with pytest.raises(StoreError):
        await store.settle(settlement(job, Verdict.DELIVERED))
    await store.close()


async def test_a_restart_with_a_full_queue_reads_no_content(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1")
    for number in range(50):
        await store.enqueue(message(f"Q{number:02}"))
    await store.claim("to.test", 10)
    await crash(store)
    execute(path, "ALTER TABLE chunks RENAME TO hidden")
    store = await open_store(path, clock, "2")
    await store.sweep()
    assert await names(store) == ["to.test"]
    assert len(await store.claim("to.test", 50)) == 50
    assert (await store.stats()).by_state[State.LEASED] == 50
    with pytest.raises(StoreError):
        await read(store, "Q00")
    await store.close()


async def test_ids_are_never_used_twice(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1", retain_finished=timedelta(0))
    (first,) = await store.enqueue(message("Q1"), TO_TEST)
    await store.settle(settlement(first, Verdict.DELIVERED))
    await store.sweep()
    assert list(await store.show("Q1")) == []
    await store.close()
    store = await open_store(path, clock, "2")
    (second,) = await store.enqueue(message("Q2"), TO_TEST)
    assert second.id > first.recipients[0].id
    await store.close()


# -- a second process


async def test_an_operator_beside_a_running_relay_takes_nothing_from_it(path: Path, clock: ManualClock) -> None:
    relay = await open_store(path, clock, "1")
    (job,) = await relay.enqueue(message("Q1"), TO_TEST)
    operator = await open_store(path, clock, "cli", role=Role.OPERATOR)
    assert await queue_ids(operator) == ["Q1"]
    assert (await entry(operator, "Q1")).state is State.LEASED
    await operator.close()
    await relay.settle(settlement(job, Verdict.QUEUED))
    operator = await open_store(path, clock, "cli2", role=Role.OPERATOR)
    assert await operator.retry(ALL) == 1
    assert await operator.operator_hold(ALL) == 1
    assert await operator.release(ALL) == 1
    await operator.pause("to.test")
    assert await relay.claim("to.test", 1) == []
    await operator.resume("to.test")
    (dropped,) = await operator.claim_for_drop(ALL, 10)
    assert await relay.claim("to.test", 1) == []
    await operator.drop(dropped, (notice("N1"),))
    await operator.close()
    assert ids(await relay.claim("from.test", 1)) == ["N1"]
    await relay.close()
    check_file(path)


async def test_a_delivery_wakes_nobody(path: Path, clock: ManualClock) -> None:
    relay = await open_store(path, clock, "1")
    (job,) = await relay.enqueue(message("Q1"), TO_TEST)
    await relay.wait_for_work(timedelta(0))
    waiting = asyncio.ensure_future(relay.wait_for_work(HOUR))
    await until_asleep(clock)
    await relay.settle(settlement(job, Verdict.DELIVERED))
    await relay.stats()
    assert not waiting.done()
    await relay.enqueue(message("Q2"))
    async with asyncio.timeout(5):
        await waiting
    await relay.close()


@pytest.mark.parametrize("what", ["retry", "release", "resume"])
async def test_a_waiting_relay_sees_within_a_second_what_an_operator_did(
    path: Path, clock: ManualClock, what: str
) -> None:
    relay = await open_store(path, clock, "1")
    (job,) = await relay.enqueue(message("Q1"), TO_TEST)
    if what == "resume":
        await relay.pause("to.test")
    await relay.settle(settlement(job, Verdict.QUEUED, retry_in=SECOND if what == "resume" else HOUR))
    clock.move(MINUTE)
    operator = await open_store(path, clock, "cli", role=Role.OPERATOR)
    if what == "release":
        await operator.operator_hold(ALL)
    await relay.wait_for_work(timedelta(0))
    waiting = asyncio.ensure_future(relay.wait_for_work(HOUR))
    await until_asleep(clock)
    if what == "retry":
        await operator.retry(ALL)
    elif what == "release":
        await operator.release(ALL)
    else:
        await operator.resume("to.test")
    clock.move(SECOND)
    async with asyncio.timeout(5):
        await waiting
    assert await names(relay) == ["to.test"]
    await operator.close()
    await relay.close()


async def test_an_operator_that_vanishes_during_a_drop_loses_nothing(path: Path, clock: ManualClock) -> None:
    relay = await open_store(path, clock, "1")
    await relay.enqueue(message("Q1"))
    operator = await open_store(path, clock, "cli", role=Role.OPERATOR)
    assert len(await operator.claim_for_drop(ALL, 10)) == 1
    await crash(operator)
    clock.move(LEASE)
    assert not await relay.sweep()
    assert (await claim_one(relay)).attempts == 1
    await relay.close()


async def test_a_write_waits_for_another_process_and_fails_whole_if_it_never_ends(
    path: Path, clock: ManualClock
) -> None:
    store = await open_store(path, clock)
    await store._writer.run(lambda connection: connection.execute("PRAGMA busy_timeout = 50").fetchall())
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError):
            await store.enqueue(message("Q1"))
        assert await queue_ids(store) == []
        assert await store.due_destinations(1) == []
    await store.enqueue(message("Q1"))
    assert await queue_ids(store) == ["Q1"]
    await store.close()


# -- cancellation


@pytest.mark.rfc("5321-4.1.1.10-b")
async def test_a_cancelled_enqueue_is_committed_and_its_lease_given_back(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    await store.room_for(1)
    task = asyncio.ensure_future(store.enqueue(message("Q1"), TO_TEST))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while not (found := await store.show("Q1")) or found[0].state is State.LEASED:  # noqa: ASYNC110  a commit away
            await asyncio.sleep(0.001)
    assert (found[0].state, found[0].attempts) == (State.QUEUED, 0)
    await store.close()


async def test_a_cancelled_claim_is_given_back_at_once(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    await store.enqueue(message("Q1"))
    task = asyncio.ensure_future(store.claim("to.test", 1))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with asyncio.timeout(5):
        while not (jobs := await store.claim("to.test", 1)):  # noqa: ASYNC110  a commit away
            await asyncio.sleep(0.001)
    assert jobs[0].attempts == 1
    await store.close()


async def test_a_cancelled_settlement_is_written_down(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    (job,) = await store.enqueue(message("Q1"), TO_TEST)
    task = asyncio.ensure_future(store.settle(settlement(job, Verdict.DELIVERED)))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await store.renew()  # in the same queue, so it comes after
    assert (await entry(store, "Q1")).state is State.DELIVERED
    await store.close()


# -- uploads left behind


async def test_an_upload_in_progress_is_not_swept_and_one_given_up_is(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    slow, given_up = await store.begin_upload(), await store.begin_upload()
    await given_up.append(b"x" * 5_000_000)
    for _ in range(4):
        await slow.append(b"y" * 300_000)
        clock.move(HOUR / 2)
        await store.sweep()
    assert execute(path, "SELECT count(*) FROM nameless") == [(1,)]
    with pytest.raises(StoreError):
        await store.enqueue(message("Q1", content=await given_up.finish()))
    await store.enqueue(message("Q2", content=await slow.finish()))
    assert await read(store, "Q2") == b"y" * 1_200_000
    await store.close()
    check_file(path)


async def test_uploads_of_a_crashed_process_are_swept_at_the_next_start(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, "1")
    await (await store.begin_upload()).append(b"x" * 5_000_000)
    operator = await open_store(path, clock, "cli", role=Role.OPERATOR)
    living = await operator.begin_upload()
    await living.append(b"y" * 300_000)
    await crash(store)
    store = await open_store(path, clock, "2")
    await store.sweep()
    assert execute(path, "SELECT count(*), sum(length(data)) FROM chunks") == [(1, 262144)]
    await operator.enqueue(message("Q1", content=await living.finish()))
    await operator.close()
    await store.close()
    check_file(path)


async def test_big_content_of_finished_mail_goes_in_steps(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    (job,) = await store.enqueue(message("Q1", content=b"x" * 9_000_000), TO_TEST)
    await store.settle(settlement(job, Verdict.DELIVERED))
    assert execute(path, "SELECT count(*) FROM chunks") == [(35,)]
    check_file(path)
    await store.sweep()
    assert execute(path, "SELECT count(*) FROM chunks") == [(0,)]
    assert execute(path, "SELECT count(*) FROM nameless") == [(0,)]
    await store.close()


# -- space


async def test_the_file_shrinks_after_a_backlog(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    for number in range(60):
        await store.enqueue(message(f"Q{number:02}", content=b"x" * 1_000_000))
    assert size_of(path) + size_of(path.with_name("queue-1.db-wal")) > 60_000_000
    for job in await store.claim("to.test", 100):
        await store.settle(settlement(job, Verdict.DELIVERED))
    await store.sweep()
    await store.close()
    spare = housekeeping.SPARE_PAGES * 4096
    assert spare <= size_of(path) < spare + 2_000_000
    check_file(path)


@pytest.mark.rfc("code-r")
async def test_a_full_disk_refuses_mail_changes_nothing_and_passes(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    (job,) = await store.enqueue(message("Q0"), TO_TEST)

    def limit(connection: sqlite3.Connection, pages: int) -> None:
        connection.execute(f"PRAGMA max_page_count = {pages}").fetchall()

    await store._writer.run(lambda connection: limit(connection, 100))
    results = await asyncio.gather(
        *(store.enqueue(message(f"Q{n}", content=b"x" * 50_000)) for n in range(1, 20)), return_exceptions=True
    )
    refused = [result for result in results if isinstance(result, StoreFullError)]
    assert refused
    assert len(refused) + len([result for result in results if isinstance(result, list)]) == 19
    upload = await store.begin_upload()
    with pytest.raises(StoreFullError):
        await upload.append(b"x" * 1_000_000)
    assert len(await queue_ids(store)) == 20 - len(refused)
    check_file(path)
    await store.settle(settlement(job, Verdict.DELIVERED))
    await store._writer.run(lambda connection: limit(connection, 1_000_000))
    await store.enqueue(message("Q99", content=b"x" * 1_000_000))
    assert await read(store, "Q99") == b"x" * 1_000_000
    await store.close()
    check_file(path)


@pytest.mark.rfc("code-r")
async def test_below_min_free_disk_clients_are_refused_and_our_notices_are_not(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock, min_free_disk=1 << 60)
    assert not await store.room_for(1)
    for refused in (message("Q1"), replace(message("R1"), origin=Origin.REPORT)):
        with pytest.raises(StoreFullError):
            await store.enqueue(refused)
    await store.enqueue(notice("N1"))
    assert await queue_ids(store) == ["N1"]
    await store.close()


async def test_free_pages_in_the_file_count_as_room(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    (job,) = await store.enqueue(message("Q1", content=b"x" * 1_000_000), TO_TEST)
    await store.settle(settlement(job, Verdict.DELIVERED))
    room = Room(store._reader, free_on_disk=lambda: 5_000_000, min_free=5_000_000)
    assert await room.has(490_000, clock.now())
    assert not await room.has(600_000, clock.now())
    await store.close()


# -- damage


async def test_a_record_that_cannot_be_read_is_left_out(
    path: Path, clock: ManualClock, caplog: pytest.LogCaptureFixture
) -> None:
    store = await open_store(path, clock)
    await store.enqueue(message("Q1"))
    for number in range(1, 5):
        job = await claim_one(store)
        await store.settle(replace(settlement(job, Verdict.QUEUED), attempt=attempt(number)))
        clock.move(HOUR)
    broken = ("{", '{"number": 1}', '{"number": 3, "hosts": [{"phase": 99}]}')
    rows = execute(path, "SELECT id FROM attempts ORDER BY id")
    for (row_id,), record in zip(rows, broken, strict=False):
        execute(path, "UPDATE attempts SET record = ? WHERE id = ?", record, row_id)
    assert [record.number for record in (await entry(store, "Q1")).attempts_made] == [4]
    assert caplog.text.count("store.attempt_unreadable") == 3
    await store.close()


async def test_an_operation_that_fails_fails_alone(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    jobs = [(await store.enqueue(message(f"Q{n}", f"b@d{n}.test"), frozenset({f"d{n}.test"})))[0] for n in range(6)]
    stale = [replace(job, lease=replace(job.lease, fence=9)) if n % 2 else job for n, job in enumerate(jobs)]
    results = await asyncio.gather(
        *(store.settle(settlement(job, Verdict.DELIVERED)) for job in stale),
        *(store.enqueue(message("Q1" if n == 3 else f"R{n}")) for n in range(6)),
        return_exceptions=True,
    )
    assert [isinstance(result, StoreError) for result in results] == [n % 2 == 1 for n in range(6)] + [
        n == 3 for n in range(6)
    ]
    states = [(await entry(store, f"Q{n}")).state for n in range(6)]
    assert states == [State.DELIVERED, State.LEASED] * 3
    assert (await queue_ids(store, QueueFilter(domain="to.test"))) == ["R0", "R1", "R2", "R4", "R5"]
    await store.close()
    check_file(path)


async def test_two_jobs_of_one_message_may_end_in_one_batch(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    domains = [f"d{n}.test" for n in range(100)]
    jobs = await store.enqueue(message("Q1", *(f"b@{domain}" for domain in domains)), frozenset(domains))
    assert len(jobs) == 100
    await asyncio.gather(*(store.settle(settlement(job, Verdict.DELIVERED)) for job in jobs))
    with pytest.raises(StoreError):
        await read(store, "Q1")
    await store.close()
    check_file(path)


async def test_leases_in_one_batch_do_not_pass_each_other(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    leases = [frozenset[str]() if n == 2 else TO_TEST for n in range(5)]
    results = await asyncio.gather(*(store.enqueue(message(f"Q{n}"), lease) for n, lease in enumerate(leases)))
    assert [len(jobs) for jobs in results] == [1, 1, 0, 0, 0]
    await store.close()
    check_file(path)


# -- many


def plan(path: Path, query: str) -> str:
    values = [None] * (len({"?1", "?2"} & set(re.findall(r"\?[12]", query))) or query.count("?"))
    return "\n".join(str(row[3]) for row in execute(path, f"EXPLAIN QUERY PLAN {query}", *values))


@pytest.mark.parametrize(
    "query",
    [
        views.SELECT_DUE_DESTINATIONS,
        views.SELECT_NEXT_DUE,
        leasing.SELECT_DUE,
        leasing.SELECT_LAPSED,
        leasing.SELECT_BY_ID,
        views.SELECT_ENTRY,
        views.SELECT_JOBS_OF,
        views.SELECT_CONTENT,
        housekeeping.SELECT_FINISHED,
        housekeeping.DELETE_MESSAGE,
        housekeeping.SELECT_DESTINATIONS,
        housekeeping.DELETE_IDLE,
        intake.SELECT_BLOCKED,
        settling.PRUNE_ATTEMPTS,
        settling.END_JOBS.text(64),
    ],
)
async def test_hot_statements_search_and_never_scan(path: Path, clock: ManualClock, query: str) -> None:
    await (await open_store(path, clock)).close()
    steps = plan(path, query).splitlines()
    assert any("SEARCH" in step for step in steps)
    allowed = ("SCAN v", "SCAN chosen", "SCAN json_each", "SCAN 64 CONSTANT ROWS", "SCAN (subquery")
    assert [step for step in steps if "SCAN" in step and not step.startswith(allowed)] == []
    assert not any("TEMP B-TREE" in step or "AUTOMATIC" in step for step in steps)


async def test_an_operator_who_names_messages_makes_nobody_scan(path: Path, clock: ManualClock) -> None:
    await (await open_store(path, clock)).close()
    statements: list[str] = []
    with closing(sqlite3.connect(path)) as connection:
        connection.set_trace_callback(statements.append)
        operating.select_jobs(connection, QueueFilter(ids=("Q1", "Q2")), (State.QUEUED,), 0, 0, 1000)
    assert "USING INDEX jobs_queue_id" in plan(path, statements[0])


async def test_a_dead_domain_with_a_long_queue_costs_no_more_than_a_short_one(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    for start in range(0, 20_000, 1000):
        await asyncio.gather(
            *(store.enqueue(message(f"D{n}", "b@dead.test", content=b"x")) for n in range(start, start + 1000))
        )
    await store.enqueue(message("Q1"))
    (dead,) = await store.claim("dead.test", 1)
    await store.settle(replace(settlement(dead, Verdict.QUEUED), cool_destination=HOUR))
    steps = 0

    def count() -> int:
        nonlocal steps
        steps += 1
        return 0

    def watch(connection: sqlite3.Connection) -> None:
        connection.set_progress_handler(count, 100)

    await store._writer.run(watch)
    await store._reader.run(watch)
    assert await names(store) == ["to.test"]
    job = await claim_one(store)
    await store.settle(settlement(job, Verdict.DELIVERED))
    await store.enqueue(message("Q2", "b@dead.test"), frozenset({"dead.test"}))
    clock.move(HOUR)
    assert len(await store.claim("dead.test", 20)) == 20
    await store.renew()
    assert steps < 200  # of a hundred instructions each; a scan of 20,000 jobs would take thousands
    await store.close()
    check_file(path)


async def test_a_batch_takes_few_statements_however_many_messages_are_in_it(path: Path, clock: ManualClock) -> None:
    """Each step of a statement may have to win the interpreter back from a busy event loop (see bulk.py)."""

    def count(statements: list[str]) -> int:
        """Statements, but for those on jobs: they are traced anew for each row by their triggers."""
        return len([text for text in statements if not text.startswith(("INSERT INTO jobs", "UPDATE jobs"))])

    store = await open_store(path, clock)
    await store.room_for(1)
    statements: list[str] = []
    await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
    jobs = await asyncio.gather(*(store.enqueue(message(f"Q{n}"), TO_TEST) for n in range(256)))
    enqueued = count(statements)
    statements.clear()
    await asyncio.gather(
        *(store.settle(replace(settlement(job, Verdict.DELIVERED), attempt=attempt(1))) for (job,) in jobs)
    )
    settled = count(statements)
    await store._writer.run(lambda connection: connection.set_trace_callback(None))
    assert 0 < enqueued < 150  # row by row it would be 3 for each message
    assert 0 < settled < 150
    await store.close()


async def test_the_trace_of_many_messages_goes_in_steps(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    for start in range(0, 900, 100):
        jobs = await asyncio.gather(*(store.enqueue(message(f"Q{start + n}"), TO_TEST) for n in range(100)))
        await asyncio.gather(*(store.settle(settlement(job, Verdict.DELIVERED)) for (job,) in jobs))
    clock.move(RETAIN)
    await store.sweep()
    for table in ("jobs", "shared", "attempts", "chunks", "destinations"):
        assert execute(path, f"SELECT count(*) FROM {table}") == [(0,)]
    await store.close()


async def test_operators_reach_thousands_of_jobs(path: Path, clock: ManualClock) -> None:
    store = await open_store(path, clock)
    for start in range(0, 2500, 500):
        await asyncio.gather(*(store.enqueue(message(f"Q{n}")) for n in range(start, start + 500)))
    assert await store.operator_hold(ALL) == 2500
    assert await store.release(QueueFilter(domain="to.test")) == 2500
    assert await store.retry(QueueFilter(states=frozenset({State.QUEUED}))) == 2500
    await store.close()
    check_file(path)
