"""A file of an earlier version is brought up to date with all that is in it."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from opening import check_file, open_store
from policy_fakes import ManualClock
from queue_store_contract import ALL, START, attempt, claim_one, entry, queue_ids, read, settlement

from relay.queue.message import HoldReason, Notify, State
from relay.store.protocols import Verdict
from relay.store.records import dump_attempt
from relay.store.sqlite.database import load_schema, open_database
from relay.store.sqlite.queue import APPLICATION_ID
from relay.store.sqlite.rows import to_us

NOW = to_us(START)
_MESSAGE = (
    "INSERT INTO messages (id, queue_id, content_id, accepted_at, finished_at, open_jobs, size, origin, message_id, "
    "reverse_path, envid, smtputf8, eight_bit, utf8_header, client_address, client_helo) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, 'client', '<m@x>', 'a@from.test', 'env', 0, 1, 0, '192.0.2.9', 'helo.test')"
)
_JOB = (
    "INSERT INTO jobs (id, message_id, destination, state, waiting, size, accepted_at, next_attempt_at, attempts, "
    "fence, leased_by, leased_until, counted, hold_reason, held_at) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_RECIPIENT = (
    "INSERT INTO recipients (job_id, id, forward_path, state, status, diagnostic, notify, orcpt) "
    "VALUES (?, ?, ?, ?, ?, ?, ?, ?)"
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "queue-1.db"


def fill_version_1(path: Path) -> None:
    """Q1: two jobs, one of them partly failed and queued, one leased by a process that is gone. Q2: held. Q3: final."""
    script = (Path(__file__).with_name("schema_0001.sql")).read_text("utf-8")
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.executescript(script)
        connection.execute(f"PRAGMA application_id = {APPLICATION_ID}")
        connection.execute("PRAGMA user_version = 1")
        connection.execute("UPDATE sequence SET last_id = 4096")
        connection.execute("INSERT INTO incarnations (incarnation, node, started_at) VALUES ('old', 'n1', 0)")
        connection.executemany(
            "INSERT INTO chunks (id, data) VALUES (?, ?)", [(n << 20, b"body%d" % n) for n in (2, 12)]
        )
        connection.execute(_MESSAGE, (1, "Q1", 2, NOW, None, 2, 5))
        connection.execute(_MESSAGE, (11, "Q2", 12, NOW + 1, None, 1, 6))
        connection.execute(_MESSAGE, (21, "Q3", 22, NOW + 2, NOW + 3, 0, 7))
        connection.execute(_JOB, (3, 1, "one.test", "queued", 1, 5, NOW, NOW + 50, 3, 3, None, None, 0, None, None))
        connection.execute(_JOB, (6, 1, "two.test", "leased", 1, 5, NOW, NOW, 1, 1, "old", NOW + 60, 1, None, None))
        connection.execute(_JOB, (13, 11, "one.test", "queued", 1, 6, NOW + 1, NOW, 1, 1, None, None, 0, None, None))
        connection.execute(
            "UPDATE jobs SET state = 'held', hold_reason = 'operator', held_at = ? WHERE id = 13", (NOW,)
        )
        connection.execute(_JOB, (23, 21, "two.test", "delivered", 0, 7, NOW + 2, NOW, 1, 1, None, None, 0, None, None))
        connection.execute(
            _RECIPIENT, (3, 4, "a,b@one.test", "waiting", "4.0.0", 'said "later"', "FAILURE", "rfc822;x")
        )
        connection.execute(_RECIPIENT, (3, 5, "c@one.test", "failed", "5.1.1", "no such user", None, None))
        connection.execute(_RECIPIENT, (6, 7, "b@two.test", "waiting", "", "", "", None))
        connection.execute(_RECIPIENT, (13, 14, "d@one.test", "waiting", "", "", None, None))
        connection.execute(_RECIPIENT, (23, 24, "b@two.test", "delivered", "2.0.0", "ok", None, None))
        records = [(3, n, dump_attempt(attempt(n))) for n in (1, 2, 3)] + [(23, 9, dump_attempt(attempt(1)))]
        connection.executemany("INSERT INTO attempts (job_id, id, record) VALUES (?, ?, ?)", records)
        connection.commit()


async def test_a_queue_of_version_1_keeps_all_that_is_in_it(path: Path) -> None:
    fill_version_1(path)
    clock = ManualClock(START)
    store = await open_store(path, clock)
    one, two = await store.show("Q1")
    assert (one.destination, one.state, one.attempts) == ("one.test", State.QUEUED, 3)
    assert [(r.forward_path, r.state, r.status, r.diagnostic, r.notify, r.orcpt) for r in one.recipients] == [
        ("a,b@one.test", State.QUEUED, "4.0.0", 'said "later"', frozenset({Notify.FAILURE}), "rfc822;x"),
        ("c@one.test", State.FAILED, "5.1.1", "no such user", None, None),
    ]
    assert one.attempts_made == (attempt(1), attempt(2), attempt(3))
    assert (one.message.envelope.envid, one.message.client.address) == ("env", "192.0.2.9")
    assert (one.message.require_tls, one.message.tls_optional) == (False, False)
    assert (two.destination, two.state, two.attempts) == ("two.test", State.QUEUED, 1)
    assert two.recipients[0].notify == frozenset()
    assert (await entry(store, "Q2")).hold_reason is HoldReason.OPERATOR
    final = await entry(store, "Q3")
    assert (final.state, final.recipients[0].state, final.attempts_made) == (
        State.DELIVERED,
        State.DELIVERED,
        (attempt(1),),
    )
    await store.close()
    check_file(path)


async def test_a_queue_of_version_1_goes_on_working(path: Path) -> None:
    fill_version_1(path)
    clock = ManualClock(START + timedelta(minutes=1))
    store = await open_store(path, clock)
    await store.settle(settlement(await claim_one(store, "two.test"), Verdict.DELIVERED))
    assert await read(store, "Q1") == b"body2"
    job = await claim_one(store, "one.test")
    assert [recipient.id for recipient in job.recipients] == [4]
    await store.settle(settlement(job, Verdict.DELIVERED))
    assert [found.state for found in await store.show("Q1")] == [State.FAILED, State.DELIVERED]
    assert await store.release(ALL) == 1
    assert await read(store, "Q2") == b"body12"
    clock.move(timedelta(days=30))
    await store.sweep()
    assert await queue_ids(store) == ["Q2"]
    await store.close()
    check_file(path)


def test_a_migrated_file_has_the_schema_of_a_new_one(tmp_path: Path) -> None:
    def shape(path: Path) -> dict[str, str]:
        with closing(open_database(path, load_schema("schema", APPLICATION_ID))) as connection:
            rows = connection.execute("SELECT name, sql FROM sqlite_schema WHERE sql IS NOT NULL").fetchall()
            return {name: " ".join(sql.replace('"', "").split()) for name, sql in rows}

    fill_version_1(tmp_path / "old.db")
    assert shape(tmp_path / "old.db") == shape(tmp_path / "new.db")
