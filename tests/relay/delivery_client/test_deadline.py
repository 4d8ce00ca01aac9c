"""One timer for many waits."""

import asyncio
from datetime import timedelta

from client_world import SOON, until

from relay.delivery.deadline import Deadline

LONG = timedelta(hours=1)


async def passes(deadline: Deadline, passed: list[bool]) -> None:
    await until(lambda: bool(passed))
    assert passed == [True]
    passed.clear()


async def test_a_limit_that_passes_is_told_once_and_not_early() -> None:
    passed: list[bool] = []
    deadline = Deadline(lambda: passed.append(True))
    loop = asyncio.get_running_loop()
    start = loop.time()
    deadline.set(SOON)
    await passes(deadline, passed)
    assert loop.time() - start >= SOON.total_seconds()
    deadline.set(SOON)
    await passes(deadline, passed)


async def test_a_shorter_limit_after_a_longer_one_counts() -> None:
    passed: list[bool] = []
    deadline = Deadline(lambda: passed.append(True))
    deadline.set(LONG)
    deadline.clear()
    deadline.set(SOON)
    await passes(deadline, passed)
    deadline.close()


async def test_a_longer_limit_after_a_shorter_one_counts() -> None:
    passed: list[bool] = []
    deadline = Deadline(lambda: passed.append(True))
    deadline.set(SOON)
    deadline.clear()
    deadline.set(4 * SOON)
    start = asyncio.get_running_loop().time()
    await passes(deadline, passed)
    assert asyncio.get_running_loop().time() - start > 3 * SOON.total_seconds()


async def test_what_was_cleared_or_closed_never_passes() -> None:
    passed: list[bool] = []
    cleared, closed = Deadline(lambda: passed.append(True)), Deadline(lambda: passed.append(True))
    cleared.set(SOON)
    cleared.clear()
    closed.set(SOON)
    closed.close()
    closed.close()
    later: list[bool] = []
    Deadline(lambda: later.append(True)).set(2 * SOON)
    await until(lambda: bool(later))
    assert passed == []
