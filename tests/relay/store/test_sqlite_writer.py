"""The writer thread: group commit, order, failures, its death."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from relay.store.protocols import StoreDeadError, StoreError
from relay.store.sqlite.database import Schema, open_database
from relay.store.sqlite.writer import Writer

SCHEMA = Schema(application_id=7, text="CREATE TABLE t (v INTEGER PRIMARY KEY);")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


@pytest.fixture
async def writer(path: Path) -> AsyncIterator[Writer]:
    writer = Writer(open_database(path, SCHEMA), name="writer")
    yield writer
    await writer.close()


def values(path: Path) -> list[int]:
    with closing(sqlite3.connect(path)) as connection:
        return [row[0] for row in connection.execute("SELECT v FROM t ORDER BY v")]


class Insert:
    def __init__(self, value: int) -> None:
        self.value = value

    def __call__(self, connection: sqlite3.Connection) -> int:
        connection.execute("INSERT INTO t (v) VALUES (?)", (self.value,))
        return self.value


async def test_what_waits_together_is_one_transaction(path: Path, writer: Writer) -> None:
    statements: list[str] = []
    await writer.run(lambda connection: connection.set_trace_callback(statements.append))
    results = await asyncio.gather(*(writer.run(Insert(n)) for n in range(100)))
    await writer.run(lambda connection: connection.set_trace_callback(None))
    assert results == list(range(100))
    assert values(path) == list(range(100))
    assert statements.count("COMMIT") < 20


async def test_what_is_returned_is_on_disk(path: Path, writer: Writer) -> None:
    for n in range(5):
        await writer.run(Insert(n))
        assert values(path)[-1] == n


async def test_a_joint_operation_gets_all_that_waits(writer: Writer) -> None:
    calls: list[int] = []

    def double(connection: sqlite3.Connection, items: Sequence[int]) -> Sequence[int]:
        calls.append(len(items))
        return [2 * item for item in items]

    assert await asyncio.gather(*(writer.join(double, n) for n in range(50))) == [2 * n for n in range(50)]
    assert calls == [50]


async def test_what_can_wait_goes_along_with_what_cannot(path: Path, writer: Writer) -> None:
    batches: list[list[int]] = []

    def note(connection: sqlite3.Connection, items: Sequence[int]) -> Sequence[int]:
        batches.append(list(items))
        return items

    patient = [asyncio.ensure_future(writer.join(note, n, patient=True)) for n in range(3)]
    for _ in range(3):
        await asyncio.sleep(0)
    assert batches == []
    assert await writer.join(note, 9) == 9
    assert batches == [[0, 1, 2, 9]]
    assert await asyncio.gather(*patient) == [0, 1, 2]


async def test_what_can_wait_does_not_wait_for_ever(path: Path, writer: Writer) -> None:
    async with asyncio.timeout(5):
        assert await writer.join(lambda connection, items: items, 1, patient=True) == 1
    task = asyncio.ensure_future(writer.join(lambda connection, items: items, 2, patient=True))
    await asyncio.sleep(0)
    assert not writer.idle
    await writer.close()
    assert await task == 2


async def test_a_batch_is_bounded_by_bytes(path: Path, writer: Writer) -> None:
    statements: list[str] = []
    await writer.run(lambda connection: connection.set_trace_callback(statements.append))
    await asyncio.gather(*(writer.run(Insert(n), size=5_000_000) for n in range(20)))
    await writer.run(lambda connection: connection.set_trace_callback(None))
    assert statements.count("COMMIT") >= 10


async def test_a_small_write_overtakes_the_big_ones_that_wait(writer: Writer) -> None:
    """Beside ten uploads a message waits for the transaction under way, not for a piece of each of them."""
    begun = threading.Event()
    go_on = threading.Event()
    done: list[int] = []

    def block(connection: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(5)

    def note(value: int, heard: bool) -> None:
        done.append(value)

    blocker = asyncio.ensure_future(writer.run(block, size=1_000_000))
    await asyncio.to_thread(begun.wait, 5)
    big = [asyncio.ensure_future(writer.run(Insert(n), size=1_000_000, done=note)) for n in range(10)]
    small = asyncio.ensure_future(writer.run(Insert(99), size=10_000, done=note))
    await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(blocker, small, *big)
    assert done[0] == 99
    assert sorted(done) == [*range(10), 99]


async def test_small_and_big_writes_take_turns(writer: Writer) -> None:
    """Neither is put off for as long as the other keeps coming, and no small one pays for a big one's pages."""
    begun = threading.Event()
    go_on = threading.Event()
    transactions: list[str] = []

    def block(connection: sqlite3.Connection) -> None:
        begun.set()
        assert go_on.wait(5)

    def write(connection: sqlite3.Connection, items: Sequence[str]) -> Sequence[str]:
        transactions.append("".join(items))
        return items

    blocker = asyncio.ensure_future(writer.run(block, size=1_000_000))
    await asyncio.to_thread(begun.wait, 5)
    big = [writer.join(write, "B", size=600_000) for _ in range(6)]
    small = [writer.join(write, "s", size=100_000) for _ in range(100)]
    written = asyncio.gather(blocker, *big, *small)
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    go_on.set()
    await written
    assert transactions == ["s" * 84, "BB", "s" * 16, "BB", "BB"]


async def test_a_failing_operation_fails_alone_and_is_undone_whole(path: Path, writer: Writer) -> None:
    def half(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO t (v) VALUES (1000)")
        raise ZeroDivisionError

    operations = [writer.run(Insert(n)) if n != 5 else writer.run(half) for n in range(10)]
    results = await asyncio.gather(*operations, return_exceptions=True)
    assert isinstance(results[5], StoreError)
    assert isinstance(results[5].__cause__, ZeroDivisionError)
    assert values(path) == [0, 1, 2, 3, 4, 6, 7, 8, 9]


async def test_a_cancelled_caller_undoes_nothing_and_done_says_that_nobody_heard(path: Path, writer: Writer) -> None:
    heard: list[tuple[int, bool]] = []
    task = asyncio.ensure_future(writer.run(Insert(1), done=lambda value, ears: heard.append((value, ears))))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await writer.run(Insert(2), done=lambda value, ears: heard.append((value, ears)))
    assert values(path) == [1, 2]
    assert heard == [(1, False), (2, True)]


async def test_a_dead_writer_is_told_to_all_who_wait_and_all_who_come(writer: Writer) -> None:
    def die(connection: sqlite3.Connection) -> None:
        raise SystemExit("as a bug would")

    results = await asyncio.gather(
        writer.run(Insert(1)), writer.run(die), writer.run(Insert(2)), return_exceptions=True
    )
    assert any(isinstance(result, StoreError) and "died" in str(result) for result in results)
    with pytest.raises(StoreDeadError, match="died"):
        await writer.run(Insert(3))


async def test_a_closed_writer_has_written_what_waited(path: Path, writer: Writer) -> None:
    tasks = [asyncio.ensure_future(writer.run(Insert(n))) for n in range(50)]
    await asyncio.sleep(0)
    await writer.close()
    assert await asyncio.gather(*tasks) == list(range(50))
    with pytest.raises(StoreError, match="closed"):
        await writer.run(Insert(99))
    await writer.close()
    assert values(path) == list(range(50))


async def test_more_callers_than_there_is_room_for_all_get_their_turn(path: Path, writer: Writer) -> None:
    assert len(await asyncio.gather(*(writer.run(Insert(n)) for n in range(6000)))) == 6000
    assert len(values(path)) == 6000
