"""How the relay is: whether it may take mail, and the gauges that nobody else keeps."""

from collections import Counter
from collections.abc import Callable, Sequence
from datetime import datetime, timedelta

from policy.freshness import live_policy
from policy.mta_sts import Mode
from policy.store import PolicyStore
from relay import events
from relay.clock import Clock
from relay.metrics import Metrics
from relay.store.protocols import QueueStore, StoreError

MEASURE_EVERY = timedelta(seconds=60)
_MAX_POLICIES = 100_000


class Health:
    """`impediments` says what, apart from the store, keeps mail out just now."""

    def __init__(
        self,
        *,
        store: QueueStore,
        policies: PolicyStore,
        metrics: Metrics,
        clock: Clock,
        impediments: Callable[[], Sequence[str]],
    ) -> None:
        self._store = store
        self._policies = policies
        self._metrics = metrics
        self._clock = clock
        self._impediments = impediments

    async def reasons_not_ready(self) -> Sequence[str]:
        """Return why no mail may be sent to us now; nothing if it may."""
        return [*self._impediments(), *await self._of_the_store()]

    async def _of_the_store(self) -> list[str]:
        try:
            # Lets nobody go, as no domain has this name; but only a store that can be written does it.
            await self._store.resume("")
            if await self._store.room_for(0):
                return []
        except StoreError as error:
            return [f"store: {error}"]
        return ["store: less disk is free than store.min_free_disk"]

    async def measure(self) -> None:
        """Keep the gauges of the policy cache up to date until cancelled."""
        while True:
            try:
                self._count(await self._modes(self._clock.now()))
            except StoreError as error:
                events.queue_failed("policy gauges", error)
            await self._clock.sleep(MEASURE_EVERY.total_seconds())

    async def _modes(self, now: datetime) -> Counter[Mode | None]:
        """Count live policies by mode, and under None those whose refresh is failing."""
        counts: Counter[Mode | None] = Counter()
        for state in await self._policies.states(_MAX_POLICIES):
            cached = live_policy(state, now)
            if cached is None:
                continue
            counts[cached.policy.mode] += 1
            counts[None] += state.failure is not None and cached.policy.mode is not Mode.NONE
        return counts

    def _count(self, counts: Counter[Mode | None]) -> None:
        for mode in Mode:
            self._metrics.policies.labels(mode.value).set(counts[mode])
        self._metrics.policies_failing.set(counts[None])
