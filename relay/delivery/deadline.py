"""A limit for one wait after another that costs a timer only now and then.

A connection waits twice for each message, nearly always for a moment. A timer for each would be made and cancelled
thousands of times a second; this one stays armed, and looks at the clock when it fires.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta


class Deadline:
    """Calls `on_passed` once a limit has passed that was `set` and not `cleared`."""

    def __init__(self, on_passed: Callable[[], None]) -> None:
        self._on_passed = on_passed
        self._loop = asyncio.get_running_loop()
        self._timer: asyncio.TimerHandle | None = None
        self._when: float | None = None

    def set(self, limit: timedelta) -> None:
        self._when = when = self._loop.time() + limit.total_seconds()
        if self._timer is None or self._timer.when() > when:
            self._arm(when)

    def clear(self) -> None:
        self._when = None

    def close(self) -> None:
        """Let go of the timer; nothing is called any more."""
        self._when = None
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    def _arm(self, when: float) -> None:
        if self._timer is not None:
            self._timer.cancel()
        self._timer = self._loop.call_at(when, self._look)

    def _look(self) -> None:
        self._timer = None
        when = self._when
        if when is None:
            return
        if self._loop.time() < when:
            self._arm(when)
        else:
            self._when = None
            self._on_passed()
