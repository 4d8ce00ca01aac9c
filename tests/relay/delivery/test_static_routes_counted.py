"""TLS reports about next hops: each is a policy domain of its own, and told of what happened there alone."""

from datetime import timedelta

import pytest
from delivery_fakes import World, down, found_addresses
from policy_fakes import START

from policy.requirement import PolicyType, ResultType
from relay.delivery.negotiation import Countable, Negotiation
from relay.delivery.routing_table import Directions, NextHop, StaticRoute
from relay.queue.attempt import FailureKind
from relay.queue.message import State
from relay.queue.tls_results import TlsResult
from relay.status import Reply

_LATER = Reply(451, ("4.3.0 later",))


def routed(*hops: str) -> World:
    """All mail goes by these next hops; each host's first session is to be told of."""
    directions = Directions(name="*", next_hops=tuple(NextHop.parse(hop) for hop in hops))
    world = World(counts_sessions=True, routes=(StaticRoute(patterns=("*",), directions=directions),))
    for number, name in enumerate(("first.test", "second.test", "third.test")):
        world.addresses(name, found_addresses(f"10.1.1.{number + 1}"))
        world.transport.hosts[name].countable = Countable(Negotiation(day=START.date()))
    world.transport.hosts["10.9.9.9"].countable = Countable(Negotiation(day=START.date()))
    return world


def told(world: World) -> list[tuple[str, PolicyType, ResultType | None]]:
    (settlement,) = world.store.settlements
    return sorted((_shown(result) for result in settlement.tls_results), key=lambda one: one[0])


def _shown(result: TlsResult) -> tuple[str, PolicyType, ResultType | None]:
    failure = result.failures[0].result_type if result.failures else None
    return result.recipient_domain, result.policy.policy_type, failure


@pytest.mark.rfc("8460-3-b")
async def test_the_next_hop_is_whose_record_counts() -> None:
    world = routed("smtp://first.test")
    await world.attempt()
    assert told(world) == [("first.test", PolicyType.NO_POLICY_FOUND, None)]


async def test_an_address_has_no_record() -> None:
    world = routed("smtp://10.9.9.9")
    await world.attempt()
    assert told(world) == []


@pytest.mark.rfc("8460-3-b", "8461-3.4-a")
async def test_what_one_hops_policy_refuses_is_told_to_it_and_what_the_next_one_took_to_that() -> None:
    world = routed("smtp://first.test", "smtp://second.test", "smtp://third.test")
    world.publish("first.test", "1", "enforce", "elsewhere.test")
    second = world.transport.hosts["second.test"]
    second.down, second.countable = down(FailureKind.CONNECTION_REFUSED), None
    world.publish("third.test", "1", "enforce", "third.test")
    assert (await world.attempt()).state is State.DELIVERED
    assert told(world) == [
        ("first.test", PolicyType.STS, ResultType.VALIDATION_FAILURE),
        ("third.test", PolicyType.STS, None),
    ]


async def test_a_refused_hop_before_an_address_is_told_all_the_same() -> None:
    world = routed("smtp://first.test", "smtp://10.9.9.9")
    world.publish("first.test", "1", "enforce", "elsewhere.test")
    assert (await world.attempt()).state is State.DELIVERED
    assert told(world) == [("first.test", PolicyType.STS, ResultType.VALIDATION_FAILURE)]


async def test_what_was_taken_on_several_ways_is_given_back_if_it_cannot_be_written() -> None:
    world = routed("smtp://first.test", "smtp://second.test")
    world.transport.hosts["first.test"].replies["bob@example.test"] = _LATER
    job = await world.job()
    world.clock.move(timedelta(hours=1))
    await world.store.sweep()  # the lease is lost
    await world.worker.attempt(job)
    assert world.store.settlements == []
    await world.worker.attempt(await world.claim())
    assert [domain for domain, _, _ in told(world)] == ["first.test", "second.test"]
