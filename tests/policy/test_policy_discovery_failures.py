"""Which failed discoveries of a policy are told of, and how often (RFC 8460 §4.3.2, RFC 8461 §6)."""

import asyncio
from datetime import timedelta

import pytest
from policy_fakes import (
    NXDOMAIN,
    SERVFAIL,
    FakeFetcher,
    FakeResolver,
    ManualClock,
    MemoryPolicyStore,
    found_txt,
    sts_record,
)

from policy.findings import CachedPolicy, FetchProblem
from policy.lookup import PolicyService
from policy.observer import NullObserver
from policy.requirement import ResultType
from policy.store import FetchFailedError

DOWN = FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, "HTTP status 404")
BAD_CERTIFICATE = FetchFailedError(ResultType.STS_WEBPKI_INVALID, "expired")
MINUTE = timedelta(minutes=1)


def body(mode: str = "enforce") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: mx.x.test\nmax_age: 864000\n".encode()


class Told(NullObserver):
    def __init__(self) -> None:
        self.of: list[tuple[str, ResultType, str | None]] = []

    def discovery_failed(self, policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None) -> None:
        self.of.append((policy_domain, problem.result_type, cached.record_id if cached else None))


class Bench:
    def __init__(self) -> None:
        self.clock = ManualClock()
        self.resolver = FakeResolver()
        self.fetcher = FakeFetcher()
        self.told = Told()
        self.service = PolicyService(
            resolver=self.resolver,
            fetcher=self.fetcher,
            store=MemoryPolicyStore(),
            clock=self.clock,
            observer=self.told,
        )
        self.resolver.publish("x.test", sts_record("1"))
        self.fetcher.bodies["x.test"] = body()

    async def cached(self, mode: str = "enforce") -> None:
        self.fetcher.bodies["x.test"] = body(mode)
        await self.service.findings("x.test")
        assert self.told.of == []


@pytest.mark.rfc("8460-4.3.2.2-a", "8460-4.3.2.2-b", "8460-4.3.2.2-c", "8460-4.3.2.2-d", "8461-6-a")
@pytest.mark.parametrize(
    ("served", "result_type"),
    [
        (DOWN, ResultType.STS_POLICY_FETCH_ERROR),
        (BAD_CERTIFICATE, ResultType.STS_WEBPKI_INVALID),
        (body("bogus"), ResultType.STS_POLICY_INVALID),
    ],
    ids=["fetch", "certificate", "policy"],
)
async def test_a_policy_that_a_record_announces_and_nobody_gets(
    served: bytes | FetchFailedError, result_type: ResultType
) -> None:
    bench = Bench()
    bench.fetcher.bodies["x.test"] = served
    await bench.service.findings("x.test")
    assert bench.told.of == [("x.test", result_type, None)]


async def test_each_fetch_is_told_of_once_however_many_ask() -> None:
    bench = Bench()
    bench.fetcher.bodies["x.test"] = DOWN
    await asyncio.gather(*(bench.service.findings("x.test") for _ in range(5)))
    assert len(bench.told.of) == 1
    bench.clock.move(4 * MINUTE)
    await bench.service.findings("x.test")
    assert len(bench.told.of) == 1, "no fetch so soon after one that failed"
    bench.clock.move(MINUTE)
    await bench.service.findings("x.test")
    assert len(bench.told.of) == 2


@pytest.mark.rfc("8460-4.3.2.2-d", "8461-6-b")
@pytest.mark.parametrize("record", [NXDOMAIN, SERVFAIL, sts_record("1"), found_txt(b"v=STSv2")])
async def test_a_refresh_that_fails_is_told_of_with_the_policy_in_force(record: object) -> None:
    bench = Bench()
    await bench.cached()
    bench.resolver.publish("x.test", record)  # type: ignore[arg-type]
    bench.fetcher.bodies["x.test"] = DOWN
    await bench.service.refresh("x.test")
    assert set(bench.told.of) == {("x.test", ResultType.STS_POLICY_FETCH_ERROR, "1")}


@pytest.mark.rfc("8461-6-b")
async def test_a_record_that_is_gone_is_told_of_with_each_refresh_and_not_with_each_message() -> None:
    bench = Bench()
    await bench.cached()
    bench.resolver.publish("x.test", NXDOMAIN)
    for _ in range(10):
        await bench.service.findings("x.test")
    assert bench.told.of == []
    await bench.service.refresh("x.test")
    assert bench.told.of == [("x.test", ResultType.STS_POLICY_FETCH_ERROR, "1")]


@pytest.mark.rfc("8461-6-b", "8460-4.3.2.2-d")
async def test_a_domain_whose_policy_says_none_is_told_only_if_it_announces_another() -> None:
    bench = Bench()
    await bench.cached("none")
    bench.fetcher.bodies["x.test"] = DOWN
    for record in (sts_record("1"), NXDOMAIN):
        bench.resolver.publish("x.test", record)
        await bench.service.refresh("x.test")
    assert bench.told.of == []
    bench.resolver.publish("x.test", sts_record("2"))
    await bench.service.findings("x.test")
    assert bench.told.of == [("x.test", ResultType.STS_POLICY_FETCH_ERROR, "1")]


@pytest.mark.rfc("8461-6-a")
async def test_without_record_and_policy_there_is_nothing_to_tell() -> None:
    bench = Bench()
    for record in (NXDOMAIN, SERVFAIL, found_txt(b"v=STSv2")):
        bench.resolver.publish("x.test", record)
        await bench.service.findings("x.test")
        await bench.service.refresh("x.test")
    assert bench.told.of == []
