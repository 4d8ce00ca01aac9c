"""Tells of the exceptions that routes make: at start, daily in the week before one ends, and when it ends by itself."""

from collections.abc import Iterator, Sequence
from datetime import datetime, timedelta

from relay import events
from relay.clock import Clock
from relay.delivery.routing_table import Directions, StaticRoute, Weakened, Weakening

_REMINDERS = 7
_DAY = timedelta(days=1)
_LONGEST_SLEEP_SECONDS = 3600.0  # the clock may be set meanwhile


async def watch_weakenings(routes: Sequence[StaticRoute], clock: Clock) -> None:
    """Tell of all now, then of each before and when it ends; done when none is left that does."""
    weakenings = [
        (route.directions, weakened.weakening)
        for route in routes
        if (weakened := route.weakened) is not None and weakened.weakening is not None
    ]
    now = clock.now()
    for directions, weakening in weakenings:
        events.route_weakening(directions.name, weakening, now)
        _remind(directions, weakening, now)
    coming = [(at, *one) for one in weakenings for at in _moments(one[1]) if at > now]
    for at, directions, weakening in sorted(coming, key=lambda one: one[0]):
        while (left := (at - clock.now()).total_seconds()) > 0:
            await clock.sleep(min(left, _LONGEST_SLEEP_SECONDS))
        if at == weakening.ends_at:
            events.route_weakening(directions.name, weakening, clock.now())
        elif clock.now() - at < _DAY:  # else the clock has leapt, and there is a later one
            _remind(directions, weakening, clock.now())


def _moments(weakening: Weakening) -> Iterator[datetime]:
    """When something is to be said of a weakening that ends."""
    if weakening.ends_at is not None:
        for days in range(_REMINDERS + 1):
            yield weakening.ends_at - days * _DAY


def _remind(directions: Directions, weakening: Weakening, now: datetime) -> None:
    if weakening.ends_at is None or not timedelta(0) < weakening.ends_at - now <= _REMINDERS * _DAY:
        return
    days_left = -((now - weakening.ends_at) // _DAY)  # one that has begun is one
    holds = {Weakened.MTA_STS: directions.judgement.enforcement, Weakened.DANE: directions.judgement.dane}
    then = ", ".join(f"{one.value} {holds[one].value}" for one in weakening.turns_off)
    events.route_weakening_ends(directions.name, weakening, days_left, then)
