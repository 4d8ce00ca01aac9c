"""The background refresh (RFC 8461 §3.3, §10.2), with time moved by hand."""

import asyncio
import contextlib
import itertools
import logging
from collections.abc import AsyncIterator, Callable
from datetime import datetime, timedelta

import pytest
from policy_fakes import NXDOMAIN, START, FakeFetcher, FakeResolver, ManualClock, MemoryPolicyStore, sts_record

from policy.findings import CachedPolicy, FetchFailure
from policy.lookup import PolicyService
from policy.mta_sts import parse_policy
from policy.observer import NullObserver
from policy.refresh import PolicyRefresher
from policy.requirement import ResultType
from policy.store import FetchFailedError

HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
REFUSED = FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, "down")


def body(mode: str = "enforce", max_age: timedelta = 7 * DAY) -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: mx.x.test\nmax_age: {max_age.total_seconds():.0f}\n".encode()


class Alerts(NullObserver):
    def __init__(self) -> None:
        self.domains: list[str] = []

    def refresh_failed(self, cached: CachedPolicy, failure: FetchFailure) -> None:
        self.domains.append(cached.policy_domain)


class TimedFetcher(FakeFetcher):
    """Notes when each fetch came, and how many ran at once."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__()
        self._clock = clock
        self.times: list[tuple[datetime, str]] = []
        self.running = 0
        self.most = 0

    async def fetch(self, policy_domain: str) -> bytes:
        self.times.append((self._clock.now(), policy_domain))
        self.running += 1
        self.most = max(self.most, self.running)
        try:
            return await super().fetch(policy_domain)
        finally:
            self.running -= 1


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.resolver = FakeResolver()
        self.fetcher = TimedFetcher(self.clock)
        self.store = MemoryPolicyStore()
        self.alerts = Alerts()
        self.service = PolicyService(
            resolver=self.resolver, fetcher=self.fetcher, store=self.store, clock=self.clock, observer=self.alerts
        )

    async def keep(self, domain: str, served: bytes | FetchFailedError, policy: bytes | None = None) -> None:
        """Cache a policy as fetched now, and serve this from now on."""
        self.resolver.publish(domain, sts_record("1"))
        self.fetcher.bodies[domain] = served
        cached = CachedPolicy(
            policy_domain=domain, record_id="1", policy=parse_policy(policy or body()), fetched_at=self.clock.now()
        )
        await self.store.put(cached)

    @contextlib.asynccontextmanager
    async def running(self, spread: Callable[[], float] | None = None) -> AsyncIterator[None]:
        refresher = PolicyRefresher(
            service=self.service, store=self.store, clock=self.clock, spread=spread or (lambda: 0.5), max_fetches=4
        )
        task = asyncio.create_task(refresher.run())
        try:
            yield
            assert not task.done()
        finally:
            task.cancel()
            with contextlib.suppress(asyncio.CancelledError):
                await task

    async def until(self, end: datetime) -> None:
        """Let time go by, waking each sleeper at its time."""
        await self.settle()
        while (wake := self.clock.next_wake) is not None and wake <= end:
            self.clock.set(wake)
            await self.settle()
        self.clock.set(end)
        await self.settle()

    async def settle(self) -> None:
        """Let everything run that can run without time passing."""
        for _ in range(30):
            await asyncio.sleep(0)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.rfc("8461-10.2-a", "8461-3.3-s")
async def test_a_policy_is_fetched_daily_without_mail_and_without_its_record(bench: Bench) -> None:
    await bench.keep("x.test", body())
    bench.resolver.publish("x.test", NXDOMAIN)
    async with bench.running():
        await bench.until(START + 30 * DAY)
    assert 30 <= len(bench.fetcher.times) <= 60
    times = [START, *(time for time, _ in bench.fetcher.times)]
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert max(gaps) <= 25 * HOUR
    assert min(gaps) >= 12 * HOUR
    state = await bench.store.get("x.test")
    assert state is not None
    assert state.cached is not None
    assert state.cached.expires_at > START + 35 * DAY


@pytest.mark.rfc("8461-10.2-a")
async def test_a_short_lived_policy_is_fetched_before_it_expires(bench: Bench) -> None:
    await bench.keep("x.test", body(max_age=12 * HOUR), body(max_age=12 * HOUR))
    async with bench.running(lambda: 0.99):
        await bench.until(START + 5 * DAY)
    state = await bench.store.get("x.test")
    assert state is not None
    assert state.cached is not None
    assert state.cached.expires_at > START + 5 * DAY


@pytest.mark.rfc("8461-10.2-d")
async def test_a_thousand_policies_are_spread_over_the_day_and_few_run_at_once(bench: Bench) -> None:
    for number in range(1000):
        await bench.keep(f"d{number}.test", body())
    draws = itertools.cycle([(number * 0.6180339887) % 1 for number in range(997)])
    async with bench.running(lambda: next(draws)):
        await bench.until(START + 26 * HOUR)
    hours = [int((time - START) / HOUR) for time, _ in bench.fetcher.times]
    assert len({domain for _, domain in bench.fetcher.times}) == 1000
    assert max(hours.count(hour) for hour in set(hours)) < 250
    assert len(set(hours)) >= 10
    assert bench.fetcher.most <= 4


@pytest.mark.rfc("8461-3.3-t", "8461-10.2-b", "8461-8.3-b")
async def test_a_failing_refresh_alerts_and_is_tried_again_until_the_policy_expires(bench: Bench) -> None:
    await bench.keep("x.test", REFUSED)
    async with bench.running():
        await bench.until(START + 2 * DAY)
        state = await bench.store.get("x.test")
        assert state is not None
        assert state.cached is not None
        assert state.cached.fetched_at == START
        assert len(bench.alerts.domains) >= 20
        await bench.until(START + 9 * DAY)
    assert await bench.store.get("x.test") is None
    times = [time for time, _ in bench.fetcher.times]
    assert max(times) < START + 7 * DAY
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) >= timedelta(minutes=5)


@pytest.mark.rfc("8461-3.3-t", "8461-10.2-b", "8461-8.3-a")
async def test_a_failing_refresh_of_mode_none_alerts_nobody(bench: Bench) -> None:
    await bench.keep("x.test", REFUSED, body("none"))
    async with bench.running():
        await bench.until(START + 2 * DAY)
    assert bench.fetcher.times
    assert bench.alerts.domains == []


async def test_the_back_off_is_kept_to(bench: Bench) -> None:
    await bench.keep("x.test", body())
    failure = FetchFailure(
        record_id="1",
        result_type=ResultType.STS_POLICY_FETCH_ERROR,
        detail="",
        failed_at=START + DAY,
        failing_since=START,
    )
    await bench.store.note_failure("x.test", failure)
    bench.clock.set(START + DAY + timedelta(minutes=4))
    refresher = PolicyRefresher(
        service=bench.service, store=bench.store, clock=bench.clock, spread=lambda: 0.0, max_fetches=4
    )
    once = asyncio.create_task(refresher.refresh_once())
    await bench.until(START + DAY + 2 * HOUR)
    assert await once == 0
    assert bench.fetcher.times == []


async def test_a_hanging_host_does_not_hold_up_the_others(bench: Bench) -> None:
    for number in range(3):
        await bench.keep(f"d{number}.test", body())
    bench.fetcher.gate.clear()
    async with bench.running(lambda: 0.0):
        await bench.until(START + 26 * HOUR)
        assert bench.fetcher.most == 3
        bench.fetcher.gate.set()
        await bench.settle()


class Broken(NullObserver):
    def fetch_finished(self, duration_seconds: float, result_type: ResultType | None) -> None:
        raise RuntimeError("a bug")


async def test_a_bug_met_at_one_domain_is_logged_and_ends_nothing(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    bench.service = PolicyService(
        resolver=bench.resolver, fetcher=bench.fetcher, store=bench.store, clock=bench.clock, observer=Broken()
    )
    await bench.keep("x.test", body())
    await bench.keep("y.test", body())
    with caplog.at_level(logging.ERROR, logger="policy.refresh"):
        async with bench.running():
            await bench.until(START + 2 * DAY)
    assert {domain for _, domain in bench.fetcher.times} == {"x.test", "y.test"}
    assert {record.getMessage() for record in caplog.records} == {"policy.refresh_broken"}
