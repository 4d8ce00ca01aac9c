"""Failed policy fetches on their way into the report: gathered, in bounds, and nobody waits (RFC 8460 §4.3.2)."""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta

import pytest
from policy_fakes import ManualClock

from policy.findings import CachedPolicy, FetchProblem
from policy.mta_sts import parse_policy
from policy.requirement import PolicyType, ResultType
from relay.app.discovery_failures import MAX_WAITING, DiscoveryFailures
from relay.queue.tls_results import TlsResult
from relay.store.protocols import StoreDeadError, StoreError

NOT_FOUND = FetchProblem(result_type=ResultType.STS_POLICY_FETCH_ERROR, detail="HTTP status 404\r\nX: y")


class Records:
    """Fails as often as it is told to."""

    def __init__(self) -> None:
        self.written: list[Sequence[TlsResult]] = []
        self.fail = 0

    async def record(self, results: Sequence[TlsResult]) -> None:
        if self.fail:
            self.fail -= 1
            raise StoreError("disk on fire")
        self.written.append(results)


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def records() -> Records:
    return Records()


@pytest.fixture
def failures(records: Records, clock: ManualClock) -> DiscoveryFailures:
    return DiscoveryFailures(records=records, clock=clock)


def cached(clock: ManualClock) -> CachedPolicy:
    policy = parse_policy(b"version: STSv1\r\nmode: enforce\r\nmx: mx.x.test\r\nmax_age: 86400\r\n")
    return CachedPolicy(policy_domain="x.test", record_id="1", policy=policy, fetched_at=clock.now())


@pytest.mark.rfc("8460-4.3.2.2-d", "8460-4.4-v", "8460-4.4-w", "8460-4.5-b", "8460-4.5-c")
async def test_what_is_told(failures: DiscoveryFailures, records: Records, clock: ManualClock) -> None:
    failures.note("x.test", NOT_FOUND, None)
    failures.note("x.test", NOT_FOUND, cached(clock))
    await failures.write()
    ((without, live),) = records.written
    for result in (without, live):
        assert (result.day, result.recipient_domain, result.sessions) == (clock.now().date(), "x.test", 1)
        assert (result.policy.policy_type, result.policy.policy_domain) == (PolicyType.STS, "x.test")
        (failure,) = result.failures
        assert failure.result_type is ResultType.STS_POLICY_FETCH_ERROR
        assert failure.failure_reason_code == "HTTP status 404??X: y"
        assert (failure.receiving_ip, failure.receiving_mx_hostname, failure.sending_mta_ip) == ("", "", "")
    assert without.policy.policy_string == ()
    assert live.policy.policy_string == ("version: STSv1", "mode: enforce", "mx: mx.x.test", "max_age: 86400")
    assert live.policy.mx_host == ("mx.x.test",)


async def test_equal_failures_are_one_row(failures: DiscoveryFailures, records: Records) -> None:
    for _ in range(3):
        failures.note("x.test", NOT_FOUND, None)
    failures.note("y.test", NOT_FOUND, None)
    await failures.write()
    assert [[(one.recipient_domain, one.sessions) for one in results] for results in records.written] == [
        [("x.test", 3), ("y.test", 1)]
    ]


async def test_what_a_store_takes_too_late_for_one_report_is_in_the_next(
    failures: DiscoveryFailures, records: Records, clock: ManualClock
) -> None:
    clock.set(datetime(2026, 11, 21, 23, 59, tzinfo=UTC))
    failures.note("x.test", NOT_FOUND, None)
    records.fail = 1
    with pytest.raises(StoreError):
        await failures.write()
    clock.move(timedelta(minutes=10))
    failures.note("x.test", NOT_FOUND, None)
    await failures.write()
    assert [(one.day, one.sessions) for one in records.written[0]] == [(date(2026, 11, 22), 1)] * 2


async def test_what_waits_is_bounded(failures: DiscoveryFailures, records: Records) -> None:
    for number in range(2 * MAX_WAITING):
        failures.note(f"x{number}.test", NOT_FOUND, None)
    failures.note("x0.test", NOT_FOUND, None)
    await failures.write()
    (written,) = records.written
    assert len(written) == MAX_WAITING
    assert written[0].sessions == 2


async def test_a_store_that_fails_is_asked_again_and_nothing_is_lost(
    failures: DiscoveryFailures, records: Records, clock: ManualClock
) -> None:
    records.fail = 1
    running = asyncio.create_task(failures.run())
    failures.note("x.test", NOT_FOUND, None)
    async with asyncio.timeout(10):
        while not records.written:
            await asyncio.sleep(0)
            clock.move(timedelta(seconds=1))
    failures.note("x.test", NOT_FOUND, None)
    async with asyncio.timeout(10):
        while len(records.written) < 2:
            await asyncio.sleep(0)
            clock.move(timedelta(seconds=1))
    running.cancel()
    with suppress(asyncio.CancelledError):
        await running
    assert [results[0].sessions for results in records.written] == [1, 1]


@pytest.mark.parametrize("broken", [False, True])
async def test_what_waits_is_written_when_the_relay_stops(
    failures: DiscoveryFailures, records: Records, broken: bool, caplog: pytest.LogCaptureFixture
) -> None:
    """And if it cannot be, the log says so."""
    running = asyncio.create_task(failures.run())
    failures.note("x.test", NOT_FOUND, None)
    await asyncio.sleep(0)
    records.fail = int(broken)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert len(records.written) == (0 if broken else 1)
    assert ("report.failed" in caplog.messages) is broken


async def test_a_store_that_is_dead_ends_it(clock: ManualClock) -> None:
    class Dead(Records):
        async def record(self, results: Sequence[TlsResult]) -> None:
            raise StoreDeadError("gone")

    dead = DiscoveryFailures(records=Dead(), clock=clock)
    running = asyncio.create_task(dead.run())
    dead.note("x.test", NOT_FOUND, None)
    async with asyncio.timeout(10):
        while not running.done():
            await asyncio.sleep(0)
            clock.move(timedelta(seconds=1))
    with pytest.raises(StoreDeadError):
        await running
