"""The dispatcher: fairness, hand-over, dead destinations, shutdown."""

import asyncio
import logging
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime, timedelta

import pytest
from delivery_fakes import World, down, found_addresses, found_mx, until
from policy_fakes import ManualClock

from relay.delivery.dispatcher import DispatchSettings
from relay.delivery.drop import drop
from relay.delivery.seam import HostError
from relay.delivery.slot_table import SlotSettings
from relay.queue.attempt import FailureKind, Phase
from relay.queue.message import Job, State
from relay.status import Reply
from relay.store.protocols import QueueFilter, StoreDeadError, StoreError, Verdict

SECOND = timedelta(seconds=1)


@asynccontextmanager
async def running(world: World) -> AsyncIterator[None]:
    task = asyncio.create_task(world.dispatcher.run())
    await asyncio.sleep(0)
    try:
        yield
    finally:
        await world.dispatcher.stop(SECOND)
        await asyncio.wait_for(task, 5)


def delivered_to(world: World) -> list[str]:
    return [parcel.recipients[0].forward_path for _, parcel in world.transport.sent]


def prove(world: World, *destinations: str) -> None:
    for destination in destinations:
        for _ in range(20):
            world.slots.succeeded(destination, f"mx.{destination}")


async def hand_over(world: World, path: str = "bob@example.test", size: int = 100) -> list[Job]:
    """What ingress does with a message."""
    destinations = world.dispatcher.lease_for([path.rpartition("@")[2]])
    jobs = await world.enqueue(path, content=b"Subject: x\r\n\r\n" + b"x" * size, lease=destinations)
    world.dispatcher.accept(jobs)
    return list(jobs)


async def test_what_is_due_at_the_start_and_what_comes_later_is_delivered() -> None:
    world = World()
    await world.enqueue("a@example.test")
    async with running(world):
        await until(lambda: len(world.store.settlements) == 1)
        await world.enqueue("b@example.test")
        await until(lambda: len(world.store.settlements) == 2)
    assert delivered_to(world) == ["a@example.test", "b@example.test"]


async def test_a_retry_comes_when_it_is_due() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].replies = {"bob@example.test": Reply(451, ("4.7.1 greylisted",))}
    async with running(world):
        await world.enqueue()
        await until(lambda: len(world.store.settlements) == 1)
        world.transport.hosts["mx.example.test"].replies = {}
        for _ in range(10):
            world.clock.move(timedelta(seconds=31))
            await asyncio.sleep(0)
        await until(lambda: len(world.store.settlements) == 2)
    assert len(world.transport.sent) == 2


async def test_jobs_handed_over_are_delivered_from_memory() -> None:
    world = World()
    async with running(world):
        (job,) = await hand_over(world)
        assert job.content is not None
        await until(lambda: len(world.store.settlements) == 1)
    assert world.transport.sent[0][1].content == job.content


async def test_nothing_is_handed_over_beyond_the_memory_budget_or_when_not_running() -> None:
    world = World(dispatch=DispatchSettings(memory_budget=1000))
    assert world.dispatcher.lease_for(["example.test"]) == frozenset()
    world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    async with running(world):
        assert len(await hand_over(world, size=2000)) == 1
        assert await hand_over(world) == []
        assert world.dispatcher.lease_for(["other.test"]) == frozenset()
        world.transport.hosts["mx.example.test"].gate.set()
        await until(lambda: len(world.store.settlements) == 2)
        assert world.dispatcher.lease_for(["other.test"]) == {"other.test"}
    assert world.dispatcher.lease_for(["example.test"]) == frozenset()


async def test_no_more_jobs_than_may_be_are_in_memory_and_all_move_all_the_same() -> None:
    world = World(dispatch=DispatchSettings(max_jobs=10))
    gate = world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    world.domain("other.test", "mx.other.test")
    for n in range(40):
        await world.enqueue(f"r{n}@example.test")
    async with running(world):
        await until(lambda: len(world.transport.sent) == 1)
        leased = [one for one in await world.store.list(QueueFilter(all=True), 100) if one.state is State.LEASED]
        assert len(leased) == 10
        assert world.dispatcher.lease_for(["other.test"]) == frozenset()
        await world.enqueue("bob@other.test")
        await until(lambda: len(world.store.settlements) == 1)
        assert delivered_to(world)[-1] == "bob@other.test"
        gate.set()
        await until(lambda: len(world.store.settlements) == 41)
        assert world.dispatcher.lease_for(["other.test"]) == {"other.test"}


@pytest.mark.parametrize("seed", range(4))
async def test_whoever_has_little_mail_waits_for_no_queue_that_is_long_dead_or_slow(seed: int) -> None:
    """By turns of one connection each: a small domain is served before a huge one has had much of its own."""
    chance = random.Random(seed)
    world = World(
        slots_settings=SlotSettings(max_connections=chance.choice([8, 16]), max_connections_per_destination=2)
    )
    paths = [f"r{n}@huge.test" for n in range(150)] + [f"r{n}@dead.test" for n in range(50)]
    paths += [f"r{n}@slow.test" for n in range(10)] + [f"bob@small{n}.test" for n in range(12)]
    chance.shuffle(paths)
    for name in {path.rpartition("@")[2] for path in paths}:
        world.domain(name, f"mx.{name}")
        world.transport.hosts[f"mx.{name}"].turns = 5
    world.transport.hosts["mx.dead.test"].down = down(FailureKind.TIMEOUT)
    world.transport.hosts["mx.slow.test"].turns = 500
    for path in paths:
        await world.enqueue(path)
    async with running(world):
        await until(lambda: len(world.store.settlements) == len(paths), 20.0)
    order = [path for path in delivered_to(world) if "slow" not in path]
    last_small = max(order.index(f"bob@small{n}.test") for n in range(12))
    assert sum("huge" in path for path in order[:last_small]) < 75
    assert sum(target.mx_host == "mx.dead.test" for target in world.transport.contacted) == 1


async def test_a_destination_that_hangs_is_handed_only_a_few() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    async with running(world):
        handed = [len(await hand_over(world)) for _ in range(40)]
        assert sum(handed) == 17
        world.transport.hosts["mx.example.test"].gate.set()
        await until(lambda: len(world.store.settlements) == 40)


async def test_a_huge_destination_does_not_starve_the_others() -> None:
    world = World(slots_settings=SlotSettings(max_connections=16, max_connections_per_destination=2))
    for n in range(20):
        world.domain(f"small{n}.test", f"mx.small{n}.test")
    for n in range(200):
        await world.enqueue(f"r{n}@example.test")
    for n in range(20):
        await world.enqueue(f"bob@small{n}.test")
    async with running(world):
        await until(lambda: len(world.store.settlements) == 220)
    order = delivered_to(world)
    last_small = max(order.index(f"bob@small{n}.test") for n in range(20))
    assert last_small < 110


async def test_one_destination_has_no_more_connections_than_it_may() -> None:
    world = World(slots_settings=SlotSettings(max_connections=16, max_connections_per_destination=3))
    prove(world, "example.test")
    gate = world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    for n in range(50):
        await world.enqueue(f"r{n}@example.test")
    async with running(world):
        await until(lambda: len(world.transport.sent) == 3)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.transport.sent) == 3
        gate.set()
        await until(lambda: len(world.store.settlements) == 50)
    assert world.transport.most_open == 3


@pytest.mark.rfc("5321-4.5.4.1-g", "5321-4.5.4.1-h")
async def test_a_dead_destination_costs_one_probe_and_cools_down() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].down = down(FailureKind.TIMEOUT)
    for n in range(80):
        await world.enqueue(f"r{n}@example.test")
    async with running(world):
        await until(lambda: len(world.store.settlements) == 80)
        assert len(world.transport.contacted) == 1
        assert world.store.settlements[0].cool_destination == timedelta(minutes=5)
        await world.enqueue("late@example.test")
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(world.transport.contacted) == 1
        assert await hand_over(world) == []
        world.transport.hosts["mx.example.test"].down = None
        for _ in range(20):
            world.clock.move(timedelta(seconds=30))
            await asyncio.sleep(0)
        await until(lambda: len(world.transport.sent) == 82)


async def test_a_dead_destination_is_let_alone_for_longer_each_time_until_a_session_stands() -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    for failure in [down(FailureKind.TIMEOUT)] * 6 + [None, down(FailureKind.TIMEOUT)]:
        host.down = failure
        await world.worker.attempt(await world.job())
        world.clock.move(timedelta(hours=1))
    waits = [settled.cool_destination for settled in world.store.settlements]
    minutes = [wait / timedelta(minutes=1) if wait else None for wait in waits]
    assert minutes == [5, 10, 15, 30, 60, 60, None, 5]


async def test_a_connection_refused_beside_others_that_stand_costs_its_message_nothing() -> None:
    world = World(slots_settings=SlotSettings(max_connections=16, max_connections_per_destination=3))
    prove(world, "example.test")
    host = world.transport.hosts["mx.example.test"]
    gate = host.gate = asyncio.Event()
    await world.enqueue("a@example.test")
    async with running(world):
        await until(lambda: len(world.transport.sent) == 1)
        host.down = down(FailureKind.CONNECTION_REFUSED)
        await world.enqueue("b@example.test")
        await until(lambda: len(world.transport.contacted) == 2)
        for _ in range(50):
            await asyncio.sleep(0)
        assert len(world.transport.contacted) == 2, "it waits for the one that stands"
        host.down = None
        gate.set()
        await until(lambda: len(world.store.settlements) == 2)
    assert [one.cool_destination for one in world.store.settlements] == [None, None]
    assert delivered_to(world) == ["a@example.test", "b@example.test"]


async def test_when_the_host_dies_those_that_waited_for_its_connections_are_put_off_together() -> None:
    world = World(slots_settings=SlotSettings(max_connections=16, max_connections_per_destination=3))
    prove(world, "example.test")
    host = world.transport.hosts["mx.example.test"]
    gate = host.gate = asyncio.Event()
    host.results = [HostError(down(FailureKind.BROKEN_OFF), Phase.MAIL)]
    await world.enqueue("a@example.test")
    async with running(world):
        await until(lambda: len(world.transport.sent) == 1)
        host.down = down(FailureKind.CONNECTION_REFUSED)
        for n in range(30):
            await world.enqueue(f"b{n}@example.test")
        gate.set()
        await until(lambda: len(world.store.settlements) == 31)
    assert len(world.transport.contacted) < 15
    assert any(one.cool_destination for one in world.store.settlements)


@pytest.mark.parametrize("limit", [1, 5, 19])
async def test_a_host_that_refuses_more_connections_gets_as_many_as_it_takes_and_no_message_is_charged(
    limit: int,
) -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    host.most, host.turns = limit, 20
    count = 50 + 20 * limit
    for n in range(count):
        await world.enqueue(f"r{n}@example.test")
    async with running(world):
        await until(lambda: len(world.store.settlements) == count, 20.0)
    assert len(world.transport.sent) == count
    assert all(one.recipients[0].verdict is Verdict.DELIVERED for one in world.store.settlements)
    assert world.transport.most_open == limit + 1, "it was asked for one more"
    assert host.turned_away < 5, "and not again and again"


def world_with_tarpits(good: int, hanging: int, *, line_seconds: float, connections: int) -> World:
    """Domains that work, and domains whose hosts never greet."""
    world = World(
        line_seconds=line_seconds,
        slots_settings=SlotSettings(max_connections=connections, max_connections_per_destination=4),
    )
    never = asyncio.Event()
    for n in range(hanging):
        world.resolver.mx_answers[f"hang{n}.test"] = found_mx((10, f"mx.hang{n}.test"))
        world.addresses(f"mx.hang{n}.test", found_addresses("198.41.0.1"))
        world.transport.hosts[f"mx.hang{n}.test"].connect_gate = never
    for n in range(good):
        world.domain(f"good{n}.test", f"mx.good{n}.test")
    return world


@pytest.mark.parametrize("known", [True, False], ids=["proven-before", "never-seen"])
async def test_ten_tarpits_for_each_slot_do_not_hold_up_the_good_domains(known: bool) -> None:
    """In the proportions of 500 tarpits and 200 connections; those numbers stand in test_delivery_lab."""
    world = world_with_tarpits(10, 150, line_seconds=0.2, connections=60)
    if known:
        prove(world, *(f"good{n}.test" for n in range(10)))
    for n in range(150):
        await world.enqueue(f"bob@hang{n}.test")
    async with running(world):
        await until(lambda: len(world.transport.contacted) >= 15)
        started = asyncio.get_running_loop().time()
        for n in range(10):
            await world.enqueue(f"bob@good{n}.test")
        await until(lambda: len(world.transport.sent) == 10)
        assert asyncio.get_running_loop().time() - started < 5
        assert world.transport.most_open <= 25
        assert sorted(delivered_to(world)) == [f"bob@good{n}.test" for n in range(10)]


async def test_slow_dns_and_policies_hold_no_slot() -> None:
    world = World(slots_settings=SlotSettings(max_connections=4, max_connections_per_destination=2))
    world.fetcher.gate.clear()
    for n in range(100):
        world.domain(f"slow{n}.test", f"mx.slow{n}.test")
        world.publish(f"slow{n}.test", "1", "enforce", f"mx.slow{n}.test")
        await world.enqueue(f"bob@slow{n}.test")
    async with running(world):
        await until(lambda: len(world.fetcher.fetched) == 100)
        await world.enqueue("bob@example.test")
        await until(lambda: len(world.store.settlements) == 1)
        assert delivered_to(world) == ["bob@example.test"]
        world.fetcher.gate.set()
        await until(lambda: len(world.store.settlements) == 101)


async def test_places_for_attempts_are_bounded_and_proven_destinations_have_some_of_their_own() -> None:
    world = World(dispatch=DispatchSettings(max_runners=8))
    world.fetcher.gate.clear()
    for n in range(30):
        world.domain(f"slow{n}.test", f"mx.slow{n}.test")
        world.publish(f"slow{n}.test", "1", "enforce", f"mx.slow{n}.test")
        await world.enqueue(f"bob@slow{n}.test")
    prove(world, "example.test")
    async with running(world):
        await until(lambda: len(world.fetcher.fetched) == 6)
        await world.enqueue("bob@example.test")
        await until(lambda: len(world.store.settlements) == 1)
        assert delivered_to(world) == ["bob@example.test"]
        assert len(world.fetcher.fetched) == 6
        world.fetcher.gate.set()
        await until(lambda: len(world.store.settlements) == 31)


async def test_leases_of_what_is_in_memory_are_renewed_and_those_of_crashed_jobs_lapse(
    caplog: pytest.LogCaptureFixture,
) -> None:
    world = World()
    world.domain("bug.test", "mx.bug.test")
    world.transport.hosts["mx.bug.test"].results = [RuntimeError("a bug")] * 5
    gate = world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    crashing = await world.enqueue("x@bug.test")
    assert crashing == []
    async with running(world):
        await world.enqueue("bob@example.test")
        await until(lambda: len(world.transport.sent) == 2)
        with caplog.at_level(logging.ERROR, "relay"):
            for _ in range(100):
                world.clock.move(timedelta(seconds=10))
                for _ in range(20):
                    await asyncio.sleep(0)
        gate.set()
        await until(lambda: len(world.store.settlements) == 1)
    (poison,) = await world.store.list(QueueFilter(domain="bug.test"), 10)
    assert poison.state is State.HELD
    crashes = [record.message for record in caplog.records]
    assert crashes.count("queue.suspected_poison") == 1
    assert crashes.count("delivery.crashed") >= 4
    assert world.metric("queue_suspected_poison_total") == 1
    assert world.metric("delivery_attempts_total", result="crashed") == 5


async def test_a_store_that_fails_for_a_while_stops_nothing_for_good(caplog: pytest.LogCaptureFixture) -> None:
    world = World()
    async with running(world):
        await asyncio.sleep(0)
        await world.enqueue()
        world.store.broken = StoreError("disk on fire")
        with caplog.at_level(logging.ERROR, "relay"):
            for _ in range(10):
                world.clock.move(timedelta(seconds=30))
                await asyncio.sleep(0)
        world.store.broken = None
        for _ in range(10):
            world.clock.move(timedelta(seconds=30))
            await asyncio.sleep(0)
        await until(lambda: len(world.store.settlements) == 1)
    assert "queue.store_failed" in {record.message for record in caplog.records}


async def test_gauges_are_sums_of_the_store() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].down = down(FailureKind.TIMEOUT)
    await world.enqueue("a@example.test", "b@example.test")
    async with running(world):
        await until(lambda: len(world.store.settlements) == 1)
        for _ in range(4):
            world.clock.move(timedelta(seconds=15))
            for _ in range(10):
                await asyncio.sleep(0)
        assert world.metric("queue_messages", state="queued") == 2
        assert world.metric("queue_oldest_message_age_seconds") >= 30
        assert world.metric("queue_bytes") > 0


# -- shutdown ----------------------------------------------------------------------------------------------------


async def test_stop_breaks_off_what_is_before_the_final_dot_uncharged() -> None:
    world = World()
    world.transport.hosts["mx.example.test"].gate = asyncio.Event()
    task = asyncio.create_task(world.dispatcher.run())
    await world.enqueue()
    await until(lambda: len(world.transport.sent) == 1)
    await world.dispatcher.stop(SECOND)
    await asyncio.wait_for(task, 5)
    (entry,) = await world.store.list(QueueFilter(domain="example.test"), 10)
    assert (entry.state, entry.attempts) == (State.QUEUED, 0)
    assert world.transport.open_now == 0
    assert world.metric("delivery_attempts_total", result="broken-off") == 1


async def test_stop_awaits_what_is_after_the_final_dot() -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    host.gate, host.committing = asyncio.Event(), True
    task = asyncio.create_task(world.dispatcher.run())
    for n in range(3):
        await world.enqueue(f"r{n}@example.test")
    await until(lambda: len(world.transport.sent) == 1)
    stop = asyncio.create_task(world.dispatcher.stop(5 * SECOND))
    for _ in range(10):
        await asyncio.sleep(0)
    assert not stop.done()
    host.gate.set()
    await asyncio.wait_for(stop, 5)
    await asyncio.wait_for(task, 5)
    assert len(world.transport.sent) == 1, "no further job was begun"
    await world.store.close()
    states = [entry.state for entry in await world.store.list(QueueFilter(domain="example.test"), 10)]
    assert states == [State.DELIVERED, State.QUEUED, State.QUEUED]


async def test_stop_waits_no_longer_than_its_limit() -> None:
    world = World()
    host = world.transport.hosts["mx.example.test"]
    host.gate, host.committing = asyncio.Event(), True
    task = asyncio.create_task(world.dispatcher.run())
    await world.enqueue()
    await until(lambda: len(world.transport.sent) == 1)
    await asyncio.wait_for(world.dispatcher.stop(timedelta(seconds=0.05)), 5)
    await asyncio.wait_for(task, 5)
    (entry,) = await world.store.list(QueueFilter(domain="example.test"), 10)
    assert entry.state is State.QUEUED


async def test_a_loop_that_dies_takes_the_dispatcher_with_it() -> None:
    world = World()

    async def broken() -> None:
        raise RuntimeError("a bug")

    world.store.sweep = broken  # type: ignore[method-assign,assignment]
    with pytest.raises(ExceptionGroup):
        await asyncio.wait_for(world.dispatcher.run(), 5)


async def test_a_store_that_is_dead_takes_the_dispatcher_with_it() -> None:
    world = World()

    async def dead() -> None:
        raise StoreDeadError("the writer died")

    world.store.sweep = dead  # type: ignore[method-assign,assignment]
    with pytest.raises(ExceptionGroup) as caught:
        await asyncio.wait_for(world.dispatcher.run(), 5)
    assert caught.group_contains(StoreDeadError)


# -- drop --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("silent", [False, True])
async def test_drop_tells_the_sender_unless_silent(silent: bool) -> None:
    world = World()
    world.transport.hosts["mx.example.test"].down = down(FailureKind.TIMEOUT)
    await world.attempt()
    await world.enqueue("carol@example.test", reverse_path="")
    which = QueueFilter(domain="example.test")
    count = await drop(which, store=world.store, notices=world.notices, clock=world.clock, silent=silent)
    assert count == 2
    states = [entry.state for entry in await world.store.list(which, 10)]
    assert states == [State.DROPPED] * 2
    notices = await world.notices_to()
    assert len(notices) == (0 if silent else 1), "and none about a message without a sender"
    assert silent or b"removed from the queue by the administrator" in notices[0]


class TickingClock(ManualClock):
    """A clock that moves whenever somebody looks at it, as real ones do."""

    def now(self) -> datetime:
        self.set(super().now() + timedelta(milliseconds=1))
        return super().now()


async def test_dropping_all_leaves_the_ndrs_that_it_makes() -> None:
    clock = TickingClock()
    world = World(clock=clock)
    for number in range(3):
        await world.enqueue(f"r{number}@example.test")
    count = await drop(QueueFilter(all=True), store=world.store, notices=world.notices, clock=clock, silent=False)
    assert count == 3
    waiting = await world.store.list(QueueFilter(all=True, states=frozenset({State.QUEUED})), 10)
    assert len(waiting) == 3, "one NDR for each message, still to be delivered"
    assert len(await world.notices_to()) == 3


async def test_dropping_nothing_drops_nothing() -> None:
    world = World()
    await world.enqueue()
    assert await drop(QueueFilter(), store=world.store, notices=world.notices, clock=world.clock, silent=True) == 0
