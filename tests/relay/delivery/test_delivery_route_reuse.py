"""A route serves until the shortest TTL of what it rests on; what the policy says is looked at more often."""

import asyncio
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta
from itertools import cycle

import pytest
from delivery_fakes import World, found_addresses, found_mx, until
from policy_fakes import NODATA, sts_record

from policy.answers import Answer, MxRecord, Unknown, UnknownReason
from policy.findings import LookupResult
from relay.delivery.hosts import Route
from relay.delivery.route import POLICY_SECONDS
from relay.queue.attempt import FailureKind

UNKNOWN = Unknown(reason=UnknownReason.TIMEOUT, detail="no answer in 5 s")


async def route_of(world: World) -> Route:
    message = (await world.job()).message
    return await world.router.route(message, "example.test")


def published() -> World:
    world = World()
    world.publish("example.test", "1", "enforce", "mx.example.test")
    world.resolver.mx_answers["example.test"] = found_mx((10, "mx.example.test"))
    world.resolver.address_answers["mx.example.test"] = found_addresses("198.41.0.1")
    return world


async def test_a_burst_is_routed_by_one_look_up() -> None:
    world = published()
    first = await route_of(world)
    asked = len(world.resolver.asked)
    assert await route_of(world) == first
    assert len(world.resolver.asked) == asked


async def test_a_moment_later_only_the_policy_is_looked_at() -> None:
    world = published()
    await route_of(world)
    world.clock.move(timedelta(seconds=POLICY_SECONDS))
    world.resolver.asked.clear()
    await route_of(world)
    assert world.resolver.asked == [("TXT", "_mta-sts.example.test")]


@pytest.mark.parametrize("kind", ["mx", "address"])
async def test_when_the_shortest_ttl_has_passed_everything_is_asked_again(kind: str) -> None:
    world = published()
    ttl = timedelta(minutes=5)
    if kind == "mx":
        world.resolver.mx_answers["example.test"] = replace(found_mx((10, "mx.example.test")), ttl=ttl)
    else:
        world.resolver.address_answers["mx.example.test"] = replace(found_addresses("198.41.0.1"), ttl=ttl)
    await route_of(world)
    world.clock.move(ttl - timedelta(seconds=1))
    world.resolver.asked.clear()
    await route_of(world)
    assert {kind for kind, _ in world.resolver.asked} == {"TXT"}
    world.clock.move(timedelta(seconds=1))
    await route_of(world)
    assert {kind for kind, _ in world.resolver.asked} == {"MX", "TXT", "ADDRESS"}


async def test_a_policy_that_was_forgotten_or_refreshed_is_seen_within_seconds() -> None:
    world = published()
    await route_of(world)
    world.publish("example.test", "2", "enforce", "other.example.test")
    assert (await route_of(world)).hosts[0].failure is None
    world.clock.move(timedelta(seconds=POLICY_SECONDS))
    assert (await route_of(world)).hosts[0].failure is not None


async def test_a_look_up_that_becomes_unknown_defers_although_the_hosts_are_known() -> None:
    world = published()
    world.resolver.publish("example.test", NODATA)
    assert (await route_of(world)).hosts
    world.resolver.publish("example.test", UNKNOWN)
    world.clock.move(timedelta(seconds=POLICY_SECONDS))
    for _ in range(2):
        route = await route_of(world)
        assert route.hosts == ()
        assert route.failure is not None
        assert route.failure.kind is FailureKind.POLICY_UNKNOWN


@pytest.mark.rfc("8461-3.1-x")
@pytest.mark.parametrize("kind", ["mx", "address", "record"])
async def test_no_answer_serves_beyond_its_ttl(kind: str) -> None:
    world = published()
    if kind == "mx":
        world.resolver.mx_answers["example.test"] = replace(found_mx((10, "mx.example.test")), ttl=timedelta(0))
    elif kind == "address":
        answer = replace(found_addresses("198.41.0.1"), ttl=timedelta(0))
        world.resolver.address_answers["mx.example.test"] = answer
    else:
        world.resolver.publish("example.test", replace(sts_record("1"), ttl=timedelta(0)))
    await route_of(world)
    asked = len(world.resolver.asked)
    await route_of(world)
    assert len(world.resolver.asked) > asked


@pytest.mark.rfc("8461-3.2-o")
async def test_a_policy_of_no_age_serves_one_message() -> None:
    world = published()
    world.fetcher.bodies["example.test"] = b"version: STSv1\nmode: enforce\nmx: mx.example.test\nmax_age: 0\n"
    for _ in range(2):
        route = await route_of(world)
        assert route.findings is not None
        assert route.findings.result is LookupResult.FETCHED


@pytest.mark.parametrize("kind", ["mx", "address", "policy"])
async def test_what_had_no_answer_is_asked_for_each_message(kind: str) -> None:
    world = published()
    if kind == "mx":
        world.resolver.mx_answers["example.test"] = UNKNOWN
    elif kind == "address":
        world.resolver.address_answers["mx.example.test"] = UNKNOWN
    else:
        world.resolver.publish("example.test", UNKNOWN)
    await route_of(world)
    asked = len(world.resolver.asked)
    await route_of(world)
    assert len(world.resolver.asked) > asked


@pytest.mark.rfc("8461-3.4-g")
@pytest.mark.parametrize("null", [False, True])
async def test_the_record_is_asked_for_beside_the_mx_but_no_policy_is_fetched_before_its_answer(null: bool) -> None:
    world, gate = published(), asyncio.Event()
    answered = world.resolver.mx
    if null:
        world.resolver.mx_answers["example.test"] = found_mx((0, ""))

    async def slow(domain: str) -> Answer[MxRecord]:
        await gate.wait()
        return await answered(domain)

    world.resolver.mx = slow  # type: ignore[method-assign]
    route = asyncio.create_task(route_of(world))
    await until(lambda: ("TXT", "_mta-sts.example.test") in world.resolver.asked)
    assert world.fetcher.fetched == []
    gate.set()
    assert ((await route).failure is not None) is null
    assert world.fetcher.fetched == ([] if null else ["example.test"])


async def test_a_recheck_ends_the_reuse() -> None:
    world = published()
    before = await route_of(world)
    world.publish("example.test", "2", "enforce", "other.example.test")
    await world.router.recheck(before)
    now = await route_of(world)
    assert now.findings is not None
    assert now.findings.cached is not None
    assert now.findings.cached.record_id == "2"
    assert now.hosts[0].failure is not None


@pytest.mark.rfc("5321-5.1-j")
async def test_the_order_among_equals_is_drawn_for_each_message() -> None:
    draws: Iterator[float] = cycle([0.1, 0.9, 0.9, 0.1])
    world = World(draw=lambda: next(draws))
    world.resolver.publish("example.test", sts_record("1"))
    world.resolver.mx_answers["example.test"] = found_mx((10, "a.example.test"), (10, "b.example.test"))
    for name in ("a.example.test", "b.example.test"):
        world.resolver.address_answers[name] = found_addresses("198.41.0.1")
    orders = [[host.name for host in (await route_of(world)).hosts] for _ in range(2)]
    assert orders == [["a.example.test", "b.example.test"], ["b.example.test", "a.example.test"]]
