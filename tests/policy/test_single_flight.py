"""One piece of work at a time for each key."""

import asyncio
import contextlib

import pytest

from policy.single_flight import SingleFlight


class Work:
    """Counts its starts and ends when the test says so."""

    def __init__(self, error: Exception | None = None) -> None:
        self.started = 0
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.error = error

    async def __call__(self) -> int:
        self.started += 1
        self.begun.set()
        await self.gate.wait()
        if self.error:
            raise self.error
        return self.started


async def test_those_who_come_meanwhile_share_the_result_and_the_next_starts_anew() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work()
    askers = [asyncio.create_task(flights.run("a", work)) for _ in range(10)]
    await work.begun.wait()
    work.gate.set()
    assert await asyncio.gather(*askers) == [1] * 10
    assert await flights.run("a", work) == 2


async def test_keys_do_not_wait_for_each_other() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    slow, quick = Work(), Work()
    waiting = asyncio.create_task(flights.run("slow", slow))
    quick.gate.set()
    assert await flights.run("quick", quick) == 1
    slow.gate.set()
    assert await waiting == 1


async def test_an_error_reaches_all_and_is_not_kept() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work(ValueError("no"))
    askers = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await work.begun.wait()
    work.gate.set()
    results = await asyncio.gather(*askers, return_exceptions=True)
    assert [str(result) for result in results] == ["no"] * 3
    assert work.started == 1
    work.error = None
    assert await flights.run("a", work) == 2


async def test_an_error_that_nobody_else_waits_for_leaves_no_warning() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work(ValueError("no"))
    work.gate.set()
    with pytest.raises(ValueError, match="no"):
        await flights.run("a", work)


async def test_when_the_first_is_cancelled_another_takes_over() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flights.run("a", work))
    await work.begun.wait()
    others = [asyncio.create_task(flights.run("a", work)) for _ in range(3)]
    await asyncio.sleep(0)
    work.begun.clear()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    await work.begun.wait()
    work.gate.set()
    assert await asyncio.gather(*others) == [2, 2, 2]


async def test_one_who_waits_and_is_cancelled_disturbs_nobody() -> None:
    flights: SingleFlight[str, int] = SingleFlight()
    work = Work()
    first = asyncio.create_task(flights.run("a", work))
    await work.begun.wait()
    other = asyncio.create_task(flights.run("a", work))
    await asyncio.sleep(0)
    other.cancel()
    with pytest.raises(asyncio.CancelledError):
        await other
    work.gate.set()
    assert await first == 1
