"""The background refresh of live policies, long before they expire (RFC 8461 §3.3, §10.2)."""

import asyncio
import logging
from collections.abc import Callable
from datetime import timedelta

from policy.clock import Clock
from policy.findings import PolicyState
from policy.freshness import FreshnessSettings, backing_off, refresh_due
from policy.lookup import PolicyService
from policy.store import PolicyStore

log = logging.getLogger(__name__)

_MAX_PER_PASS = 10_000


class PolicyRefresher:
    """Keeps cached policies alive without mail flow, whatever became of their TXT records.

    `interval` is the longest that a policy goes without a refresh; `step` is the time between two passes, over which
    their fetches are spread. `spread` draws a number in [0, 1). A failure is tried again in the next pass, and
    PolicyService raises the alert. Expired policies are pruned here, and so a domain unused is let go.
    """

    def __init__(
        self,
        *,
        service: PolicyService,
        store: PolicyStore,
        clock: Clock,
        spread: Callable[[], float],
        interval: timedelta = timedelta(hours=24),
        step: timedelta = timedelta(hours=1),
        settings: FreshnessSettings | None = None,
        max_fetches: int = 4,
    ) -> None:
        self._service = service
        self._store = store
        self._clock = clock
        self._spread = spread
        self._interval = interval
        self._step = min(step, interval / 4)
        self._settings = settings or FreshnessSettings()
        self._places = asyncio.Semaphore(max_fetches)

    async def run(self) -> None:
        """Refresh until cancelled."""
        while True:
            await self.refresh_once()

    async def refresh_once(self) -> int:
        """Make one pass, which takes about `step`; return how many policies were refreshed or tried."""
        now = self._clock.now()
        await self._service.prune()
        oldest = await self._store.due_for_refresh(now - self._step, now, _MAX_PER_PASS)
        due = [state for state in oldest if self._is_due(state)]
        pause = self._step.total_seconds() / (len(due) + 1)
        async with asyncio.TaskGroup() as group:
            for state in due:
                await self._clock.sleep(pause * (0.5 + self._spread()))
                await self._places.acquire()
                group.create_task(self._refresh(state.policy_domain))
        await self._clock.sleep(pause)
        return len(due)

    def _is_due(self, state: PolicyState) -> bool:
        now = self._clock.now()
        if state.cached is None or backing_off(state.failure, state.cached.record_id, now, self._settings):
            return False
        return refresh_due(state.cached, now, interval=self._interval, step=self._step, draw=self._spread())

    async def _refresh(self, policy_domain: str) -> None:
        try:
            await self._service.refresh(policy_domain)
        except Exception:  # top of a task: one domain must not end the refresh of all others
            log.exception("policy.refresh_broken", extra={"policy_domain": policy_domain})
        finally:
            self._places.release()
