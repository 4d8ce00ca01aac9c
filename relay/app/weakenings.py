"""Tells of the exceptions that routes make: at start, and when one ends by itself."""

from collections.abc import Sequence

from relay import events
from relay.clock import Clock
from relay.delivery.routing_table import StaticRoute

_LONGEST_SLEEP_SECONDS = 3600.0  # the clock may be set meanwhile


async def watch_weakenings(routes: Sequence[StaticRoute], clock: Clock) -> None:
    """Tell of all now, then of each when it ends; done when none is left that does."""
    weakenings = [
        (weakened.name, weakened.weakening)
        for route in routes
        if (weakened := route.weakened) is not None and weakened.weakening is not None
    ]
    now = clock.now()
    for name, weakening in weakenings:
        events.route_weakening(name, weakening, now)
    ending = [(one.ends_at, name, one) for name, one in weakenings if one.ends_at is not None and not one.over(now)]
    for ends_at, name, weakening in sorted(ending, key=lambda one: one[0]):
        while (left := (ends_at - clock.now()).total_seconds()) > 0:
            await clock.sleep(min(left, _LONGEST_SLEEP_SECONDS))
        events.route_weakening(name, weakening, clock.now())
