import asyncio

import pytest

from relay.lab.journal import Journal


async def test_waits_for_what_is_to_come() -> None:
    journal: Journal[str] = Journal()
    waiting = asyncio.create_task(journal.wait_for(2, timeout=5))
    await asyncio.sleep(0)
    journal.record("a")
    await asyncio.sleep(0)
    assert not waiting.done()
    journal.record("b")
    assert await waiting == ["a", "b"]


async def test_does_not_wait_for_what_is_there() -> None:
    journal: Journal[int] = Journal()
    journal.record(1)
    assert await journal.wait_for(1, timeout=0) == [1]


async def test_says_how_many_there_are_when_time_is_up() -> None:
    journal: Journal[int] = Journal()
    journal.record(1)
    with pytest.raises(TimeoutError, match="1 of 2 entries"):
        await journal.wait_for(2, timeout=0.01)


async def test_counts_on_when_it_is_full() -> None:
    journal: Journal[int] = Journal(longest=2)
    for number in range(5):
        journal.record(number)
    assert journal == [0, 1]
    assert journal.total == 5
    assert await journal.wait_for(5, timeout=0) == [0, 1]
