"""The policy cache on SQLite: the contract, restarts, several processes, and rows that cannot be read."""

import sqlite3
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from policy_store_contract import NOW, PolicyStoreContract, cached, failure

from policy.store import PolicyStore
from relay.store.protocols import StoreError
from relay.store.sqlite.policies import SqlitePolicyStore


class TestSqlitePolicyStore(PolicyStoreContract):
    @pytest.fixture
    async def store(self, tmp_path: Path) -> AsyncIterator[PolicyStore]:
        store = await SqlitePolicyStore.open(tmp_path / "policy.db")
        yield store
        await store.close()


@pytest.mark.rfc("8461-10.2-c", "8461-3.3-n")
async def test_a_restart_keeps_policy_and_back_off(tmp_path: Path) -> None:
    store = await SqlitePolicyStore.open(tmp_path / "policy.db")
    await store.put(cached("x.test"))
    await store.note_failure("x.test", failure())
    await store.close()
    store = await SqlitePolicyStore.open(tmp_path / "policy.db")
    state = await store.get("x.test")
    await store.close()
    assert state is not None
    assert (state.cached, state.failure) == (cached("x.test"), failure())


async def test_two_processes_see_each_other(tmp_path: Path) -> None:
    one = await SqlitePolicyStore.open(tmp_path / "policy.db")
    other = await SqlitePolicyStore.open(tmp_path / "policy.db")
    await one.put(cached("x.test"))
    assert await other.get("x.test") is not None
    assert await other.forget("x.test")
    assert await one.get("x.test") is None
    await one.close()
    await other.close()


@pytest.mark.parametrize(
    "damage",
    [
        "UPDATE policies SET text = 'version: STSv1' || char(10) || 'mode: bogus'",
        "UPDATE policies SET text = ''",
        "UPDATE policies SET fetched_at = 9223372036854775807",
        "UPDATE policies SET failure_type = 'no-such-type', failed_at = 1, failing_since = 1",
    ],
)
async def test_a_row_that_cannot_be_read_counts_as_absent(
    tmp_path: Path, damage: str, caplog: pytest.LogCaptureFixture
) -> None:
    store = await SqlitePolicyStore.open(tmp_path / "policy.db")
    await store.put(cached("x.test"))
    with sqlite3.connect(tmp_path / "policy.db") as connection:
        connection.execute(damage)
    connection.close()
    assert await store.get("x.test") is None
    assert await store.states() == []
    assert await store.due_for_refresh(NOW.replace(year=2027), NOW, 10) == []
    assert "policy.row_unreadable" in caplog.text
    await store.put(cached("x.test", fetched_at=NOW.replace(year=2027)))
    await store.close()


async def test_a_queue_file_is_not_taken_for_a_policy_file(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "policy.db") as connection:
        connection.execute("PRAGMA application_id = 1")
        connection.execute("PRAGMA user_version = 1")
    connection.close()
    with pytest.raises(StoreError, match="another kind"):
        await SqlitePolicyStore.open(tmp_path / "policy.db")
