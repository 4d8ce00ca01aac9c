"""The exceptions of routes are told at start, and when they end."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from policy_fakes import ManualClock

from relay.app.weakenings import watch_weakenings
from relay.delivery.routing_table import Directions, StaticRoute, Weakened, Weakening

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def route(name: str, ends_at: datetime | None) -> StaticRoute:
    weakening = Weakening(turns_off=(Weakened.DANE,), reason="because", ends_at=ends_at)
    weakened = Directions(name=name, weakening=weakening)
    return StaticRoute(patterns=(name,), directions=Directions(name=name), weakened=weakened)


def told(caplog: pytest.LogCaptureFixture) -> list[tuple[str, str]]:
    return [(record.msg, vars(record)["route"]) for record in caplog.records]


async def until_it_sleeps(clock: ManualClock) -> None:
    async with asyncio.timeout(5):
        while not clock.sleepers:  # noqa: ASYNC110  the sleeper is the one who is waited for
            await asyncio.sleep(0)


async def test_each_exception_is_told_at_start_and_once_more_when_it_ends(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    routes = [
        StaticRoute(patterns=("x",), directions=Directions(name="x")),
        route("late", NOW + timedelta(hours=3)),
        route("for ever", None),
        route("soon", NOW + timedelta(minutes=30)),
        route("over", NOW - timedelta(days=9)),
    ]
    task = asyncio.create_task(watch_weakenings(routes, clock))
    await until_it_sleeps(clock)
    assert told(caplog) == [
        ("route.weakening", "late"),
        ("route.weakening", "for ever"),
        ("route.weakening", "soon"),
        ("route.weakening_ended", "over"),
    ]
    caplog.clear()
    for step, expected in ((29, []), (1, ["soon"]), (149, []), (1, ["late"])):
        clock.move(timedelta(minutes=step))
        for _ in range(10):
            await asyncio.sleep(0)
        if not task.done():
            await until_it_sleeps(clock)
        assert told(caplog) == [("route.weakening_ended", name) for name in expected]
        caplog.clear()
    await asyncio.wait_for(task, 5)


async def test_without_exceptions_there_is_nothing_to_watch(caplog: pytest.LogCaptureFixture) -> None:
    await watch_weakenings([], ManualClock(NOW))
    assert told(caplog) == []
