"""The exceptions of routes are told at start, and when they end."""

import asyncio
from datetime import UTC, datetime, timedelta

import pytest
from policy_fakes import ManualClock

from policy.decide import Enforcement
from relay.app.weakenings import watch_weakenings
from relay.delivery.routing_table import Directions, Judgement, StaticRoute, Weakened, Weakening

NOW = datetime(2026, 3, 1, 12, tzinfo=UTC)


def route(
    name: str, ends_at: datetime | None, *turns_off: Weakened, enforcement: Enforcement = Enforcement.ENFORCE
) -> StaticRoute:
    weakening = Weakening(turns_off=turns_off or (Weakened.DANE,), reason="because", ends_at=ends_at)
    weakened = Directions(name=name, weakening=weakening)
    lasting = Directions(name=name, judgement=Judgement(enforcement=enforcement))
    return StaticRoute(patterns=(name,), directions=lasting, weakened=weakened)


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
        ("route.weakening_ends", "late"),
        ("route.weakening", "for ever"),
        ("route.weakening", "soon"),
        ("route.weakening_ends", "soon"),
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


async def pass_time(clock: ManualClock, to: datetime) -> None:
    """Let each who sleeps wake up in time."""
    while clock.now() < to:
        clock.set(min(to, clock.next_wake or to))
        for _ in range(10):
            await asyncio.sleep(0)


async def test_the_end_of_an_exception_is_told_daily_in_the_week_before(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    ends_at = datetime(2026, 3, 12, tzinfo=UTC)
    other = route("other", ends_at - timedelta(days=6), Weakened.MTA_STS)
    task = asyncio.create_task(watch_weakenings([route("x", ends_at), other, route("for ever", None)], clock))
    await until_it_sleeps(clock)
    times: list[tuple[datetime, str, int]] = []
    seen = 0
    while not task.done():
        await pass_time(clock, clock.now() + timedelta(hours=1))
        for record in caplog.records[seen:]:
            said = vars(record)
            if record.msg == "route.weakening_ends":
                times.append((clock.now(), said["route"], said["days_left"]))
        seen = len(caplog.records)
    assert [one for one in times if one[1] == "x"] == [
        (ends_at - timedelta(days=days), "x", days) for days in (7, 6, 5, 4, 3, 2, 1)
    ]
    assert {name for _, name, _ in times} == {"x", "other"}
    assert [one for one in told(caplog) if one[0] == "route.weakening_ended"] == [
        ("route.weakening_ended", "other"),
        ("route.weakening_ended", "x"),
    ]


@pytest.mark.parametrize(
    ("turns_off", "enforcement", "then"),
    [
        ((Weakened.MTA_STS,), Enforcement.ENFORCE, "mta_sts enforce"),
        ((Weakened.MTA_STS,), Enforcement.REPORT_ONLY, "mta_sts report-only"),
        ((Weakened.MTA_STS, Weakened.DANE), Enforcement.ENFORCE, "mta_sts enforce, dane opportunistic"),
    ],
    ids=["one", "setting", "both"],
)
async def test_a_start_in_the_last_week_says_what_will_hold(
    turns_off: tuple[Weakened, ...], enforcement: Enforcement, then: str, caplog: pytest.LogCaptureFixture
) -> None:
    clock = ManualClock(NOW)
    ends_at = NOW + timedelta(days=2, hours=12)
    task = asyncio.create_task(watch_weakenings([route("x", ends_at, *turns_off, enforcement=enforcement)], clock))
    await until_it_sleeps(clock)
    (record,) = [one for one in caplog.records if one.msg == "route.weakening_ends"]
    said = vars(record)
    assert (said["levelname"], said["route"], said["reason"]) == ("WARNING", "x", "because")
    assert (said["ends_at"], said["days_left"], said["then"]) == ("2026-03-04T00:00:00+00:00", 3, then)
    task.cancel()


async def test_days_that_a_clock_leaps_over_are_not_made_up_for(caplog: pytest.LogCaptureFixture) -> None:
    clock = ManualClock(NOW)
    task = asyncio.create_task(watch_weakenings([route("x", NOW + timedelta(days=10))], clock))
    await until_it_sleeps(clock)
    caplog.clear()
    clock.move(timedelta(days=6))
    for _ in range(10):
        await asyncio.sleep(0)
    assert told(caplog) == [("route.weakening_ends", "x")]
    caplog.clear()
    clock.move(timedelta(days=30))
    await asyncio.wait_for(task, 5)
    assert told(caplog) == [("route.weakening_ended", "x")]
