"""policy.db: the contract of PolicyStore, restarts, two processes, rows that cannot be read."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator
from contextlib import closing
from datetime import timedelta
from pathlib import Path

import pytest
from policy_store_contract import DAY, NOW, PolicyStoreContract, cached, failure

from policy.cache import MAX_AGE, CachedPolicyStore
from policy.journal import LIFE
from relay.store.protocols import StoreError
from relay.store.sqlite.policies import SqlitePolicyStore


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "policy.db"


class TestSqlitePolicyStore(PolicyStoreContract):
    @pytest.fixture
    async def store(self, path: Path) -> AsyncIterator[SqlitePolicyStore]:
        store = await SqlitePolicyStore.open(path)
        yield store
        await store.close()


@pytest.mark.rfc("8461-10.2-c")
async def test_policies_survive_a_restart(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    await store.note_failure("x.test", failure())
    await store.note_unknown("y.test", NOW)
    before = await store.states()
    await store.close()
    store = await SqlitePolicyStore.open(path)
    assert await store.states() == before
    assert len(before) == 2
    await store.close()


@pytest.mark.rfc("8461-10.2-g")
async def test_two_processes_share_one_file(path: Path) -> None:
    one, two = await SqlitePolicyStore.open(path), await SqlitePolicyStore.open(path)
    await one.put(cached("x.test", record_id="new"))
    await two.put(cached("x.test", record_id="old", fetched_at=NOW - DAY))
    for store in (one, two):
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test", record_id="new")
    assert await two.forget("x.test")
    assert await one.get("x.test") is None
    await one.close()
    await two.close()


@pytest.mark.rfc("8461-10.2-g")
async def test_what_one_process_fetched_the_others_use_without_a_fetch_of_their_own(path: Path) -> None:
    seconds = 0.0
    stores = [await SqlitePolicyStore.open(path) for _ in range(2)]
    one, two = (CachedPolicyStore(store, timer=lambda: seconds) for store in stores)
    await one.put(cached("x.test"))
    state = await two.get("x.test")
    assert state is not None
    assert state.cached == cached("x.test")
    assert await two.get("y.test") is None
    await one.put(cached("y.test"))
    seconds += MAX_AGE.total_seconds()
    state = await two.get("y.test")
    assert state is not None
    assert state.cached == cached("y.test")
    for store in stores:
        await store.close()


async def test_a_reader_waits_for_nobody_and_a_writer_for_the_others_transaction_only(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    with closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        other.execute("DELETE FROM policies")
        writing = asyncio.ensure_future(store.note_failure("x.test", failure()))
        async with asyncio.timeout(5):
            state = await store.get("x.test")
        assert state is not None
        assert not writing.done()
        other.execute("ROLLBACK")
    async with asyncio.timeout(5):
        await writing
    state = await store.get("x.test")
    assert state is not None
    assert (state.cached, state.failure) == (cached("x.test"), failure())
    await store.close()


async def test_many_writers_of_one_file_all_get_their_turn(path: Path) -> None:
    stores = [await SqlitePolicyStore.open(path) for _ in range(4)]
    async with asyncio.timeout(30):
        await asyncio.gather(
            *(store.put(cached(f"d{n}-{number}.test")) for number, store in enumerate(stores) for n in range(100))
        )
    assert len(await stores[0].states()) == 400
    for store in stores:
        await store.close()


async def test_pruning_many_domains_takes_short_transactions(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await asyncio.gather(*(store.note_failure(f"d{n:04}.test", failure(failed_at=NOW - DAY)) for n in range(1300)))
    await store.put(cached("live.test"))
    statements: list[str] = []
    await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
    assert await store.prune(NOW) == []
    await store._writer.run(lambda connection: connection.set_trace_callback(None))
    assert [text for text in statements if text.startswith("BEGIN")] == ["BEGIN IMMEDIATE"] * 5
    assert [state.policy_domain for state in await store.states()] == ["live.test"]
    await store.close()


@pytest.mark.parametrize(
    ("column", "garbage"),
    [
        ("policy_text", b""),
        ("policy_text", b"version: STSv1\nmode: enf"),
        ("policy_text", b"\xff\xfe\x00"),
        ("fetched_at", 2**62),
        ("fetched_at", -(2**62)),
        ("record_id", None),
    ],
)
async def test_a_row_that_cannot_be_read_counts_as_absent(
    path: Path, caplog: pytest.LogCaptureFixture, column: str, garbage: object
) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test", fetched_at=NOW - DAY))
    await store.put(cached("y.test", fetched_at=NOW - DAY))
    with closing(sqlite3.connect(path)) as other:
        other.execute(f"UPDATE policies SET {column} = ? WHERE policy_domain = 'x.test'", (garbage,))
        other.commit()
    assert await store.get("x.test") is None
    assert [state.policy_domain for state in await store.due_for_refresh(NOW, NOW, 10)] == ["y.test"]
    assert [state.cached is None for state in await store.states()] == [True, False]
    assert ("policy.unreadable" in caplog.text) == (garbage is not None)
    await store.close()


async def test_a_failure_that_cannot_be_read_counts_as_absent(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    await store.note_failure("x.test", failure())
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE policies SET result_type = 'nonesuch'")
        other.commit()
    state = await store.get("x.test")
    assert state is not None
    assert (state.failure, state.cached) == (None, cached("x.test"))
    assert "policy.failure_unreadable" in caplog.text
    await store.close()


async def test_pruning_takes_old_failures_and_runs_of_unknown_answers(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.note_failure("failed.test", failure(failed_at=NOW - DAY))
    await store.note_unknown("silent.test", NOW - 30 * DAY)
    await store.note_unknown("quiet.test", NOW - 29 * DAY)
    await store.put(cached("live.test"))
    await store.note_failure("live.test", failure(failed_at=NOW - DAY))
    assert await store.prune(NOW) == []
    assert [state.policy_domain for state in await store.states()] == ["live.test", "quiet.test"]
    await store.close()


async def test_an_exact_expiry_is_expired(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    expires_at = cached("x.test").expires_at
    assert await store.prune(expires_at - timedelta(microseconds=1)) == []
    assert await store.due_for_refresh(expires_at, expires_at, 10) == []
    assert [entry.policy_domain for entry in await store.prune(expires_at)] == ["x.test"]
    await store.close()


async def test_a_closed_store_says_so(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.close()
    with pytest.raises(StoreError):
        await store.get("x.test")
    with pytest.raises(StoreError):
        await store.put(cached("x.test"))


async def test_the_file_is_private(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    assert {file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {0o600}
    await store.close()


async def test_of_two_processes_that_fetch_the_same_policy_one_hears_of_the_change(path: Path) -> None:
    one, two = await SqlitePolicyStore.open(path), await SqlitePolicyStore.open(path)
    entries = await asyncio.gather(one.put(cached("x.test")), two.put(cached("x.test")))
    assert sum(entry is not None for entry in entries) == 1
    assert len(await two.history("x.test")) == 1
    await one.close()
    await two.close()


@pytest.mark.parametrize("garbage", ["", "{", "[]", "{}", '{"changes": ["nonesuch"]}', "null"])
async def test_an_entry_that_cannot_be_read_is_left_out(
    path: Path, caplog: pytest.LogCaptureFixture, garbage: str
) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    newer = await store.put(cached("x.test", record_id="2", fetched_at=NOW + DAY))
    with closing(sqlite3.connect(path)) as other:
        other.execute("UPDATE journal SET entry = ? WHERE number = 1", (garbage,))
        other.commit()
    assert await store.history("x.test") == [newer]
    assert "policy.journal_unreadable" in caplog.text
    await store.close()


async def test_old_entries_go_in_short_transactions(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await asyncio.gather(*(store.put(cached(f"d{n:04}.test")) for n in range(1100)))
    await asyncio.gather(*(store.forget(f"d{n:04}.test") for n in range(1100)))
    statements: list[str] = []
    await store._writer.run(lambda connection: connection.set_trace_callback(statements.append))
    await store.prune(NOW + LIFE)
    await store._writer.run(lambda connection: connection.set_trace_callback(None))
    assert [text for text in statements if text.startswith("BEGIN")] == ["BEGIN IMMEDIATE"] * 5
    assert await store.history("d0000.test") == []
    await store.close()


async def test_a_file_of_version_1_gets_a_journal_and_keeps_its_policies(path: Path) -> None:
    store = await SqlitePolicyStore.open(path)
    await store.put(cached("x.test"))
    await store.close()
    with closing(sqlite3.connect(path)) as other:
        other.executescript("DROP TABLE journal; PRAGMA user_version = 1;")
    store = await SqlitePolicyStore.open(path)
    assert await store.history("x.test") == []
    assert await store.put(cached("x.test", fetched_at=NOW + DAY)) is None
    changed = await store.put(cached("x.test", record_id="2", fetched_at=NOW + 2 * DAY))
    assert await store.history("x.test") == [changed]
    await store.close()
