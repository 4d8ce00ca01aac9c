"""Slots: the counts, who waits for whom, and who gives way."""

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from ipaddress import ip_address
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.slot_table import PROVEN_SECONDS, Demand, SlotSettings, SlotTable, Standing
from relay.delivery.slots import GaveWayError, Slot, Slots
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.status import Reply

ADDRESS = ip_address("198.41.0.1")
SETTINGS = SlotSettings(max_connections=40, max_connections_per_destination=4)


def proven(table: SlotTable, destination: str, now: float = 0.0, times: int = 10) -> None:
    for _ in range(times):
        table.succeeded(destination, "mx", now)


def take(table: SlotTable, destination: str, mx: str | None = None, now: float = 0.0) -> Standing | None:
    return table.take(destination, mx or f"mx.{destination}", now)


def test_a_destination_without_success_gets_one_connection() -> None:
    table = SlotTable(SETTINGS)
    assert take(table, "a.test") is Standing.NEW
    assert take(table, "a.test") is None
    table.give_back("a.test", "mx.a.test", Standing.NEW)
    assert take(table, "a.test") is Standing.NEW


def test_destinations_without_success_have_a_quarter_together() -> None:
    table = SlotTable(SETTINGS)
    assert [take(table, f"{n}.test") for n in range(11)].count(Standing.NEW) == 10
    proven(table, "good.test")
    assert take(table, "good.test") is Standing.PROVEN


def test_a_proven_destination_gets_its_bound_and_is_forgotten_after_ten_minutes() -> None:
    table = SlotTable(SETTINGS)
    proven(table, "a.test")
    assert [take(table, "a.test") for _ in range(5)].count(None) == 1
    assert table.limit("a.test", PROVEN_SECONDS - 1) == 4
    assert table.limit("a.test", PROVEN_SECONDS) == 1


def test_an_mx_host_that_many_domains_share_has_a_bound_of_its_own() -> None:
    table = SlotTable(SETTINGS)
    for n in range(5):
        proven(table, f"{n}.test")
    assert [take(table, f"{n}.test", "shared.test") for n in range(5)].count(None) == 1


def test_a_named_bound_stands_in_place_of_the_common_one() -> None:
    named = {"a.test": 5, "mx.a.test": 5, "shared.test": 1}
    table = SlotTable(SlotSettings(max_connections=40, max_connections_per_destination=2, named=named))
    proven(table, "a.test")
    proven(table, "b.test")
    assert [take(table, "a.test") for _ in range(6)].count(None) == 1
    assert [take(table, "b.test", "shared.test") for _ in range(2)].count(None) == 1


def test_demand_names_what_stands_at_its_bound() -> None:
    table = SlotTable(SlotSettings(max_connections=40, max_connections_per_destination=2, named={"c.test": 9}))
    for name in ("a.test", "b.test", "c.test"):
        proven(table, name)
    for name in ("a.test", "a.test", "b.test", "c.test"):
        take(table, name, "mx.test" if name == "a.test" else None)
    both = Demand(used=2, bounded=True)
    assert table.demand() == {"a.test": both, "mx.test": both, "c.test": Demand(used=1, bounded=False)}


def test_the_total_is_a_bound_for_all() -> None:
    table = SlotTable(SlotSettings(max_connections=8, max_connections_per_destination=4))
    for n in range(3):
        proven(table, f"{n}.test")
    assert [take(table, f"{n % 3}.test") for n in range(12)].count(None) == 4
    assert table.in_use == 8


def test_the_limit_grows_with_success_and_halves_with_failure() -> None:
    table = SlotTable(SETTINGS)
    limits = []
    for _ in range(4):
        table.succeeded("a.test", "mx", 0.0)
        limits.append(table.limit("a.test", 0.0))
    assert limits == [2, 3, 4, 4]
    table.failed("a.test")
    assert table.limit("a.test", 0.0) == 2
    table.failed("never-seen.test")


def test_slow_destinations_have_half_of_the_quarter() -> None:
    table = SlotTable(SETTINGS)
    for n in range(10):
        table.gave_way(f"{n}.test")
    assert [take(table, f"{n}.test") for n in range(10)].count(Standing.SLOW) == 5
    assert take(table, "new.test") is Standing.NEW
    table.succeeded("9.test", "mx", 0.0)
    assert table.standing("9.test", 0.0) is Standing.PROVEN


@given(st.lists(st.tuples(st.integers(0, 30), st.integers(0, 5), st.sampled_from(["take", "back", "ok", "bad"]))))
def test_no_order_of_events_breaks_a_bound(events: list[tuple[int, int, str]]) -> None:
    settings = SlotSettings(max_connections=12, max_connections_per_destination=3)
    table = SlotTable(settings)
    held: list[tuple[str, str, Standing]] = []
    for number, mx, event in events:
        destination, host = f"{number}.test", f"mx{mx}.test"
        match event:
            case "take":
                standing = table.take(destination, host, 0.0)
                held += [(destination, host, standing)] if standing else []
            case "back" if held:
                table.give_back(*held.pop(number % len(held)))
            case "ok":
                table.succeeded(destination, "mx", 0.0)
            case _:
                table.failed(destination)
        assert table.in_use == len(held) <= 12
        for one, where, _ in held:
            assert sum(name == one for name, _, _ in held) <= 3
            assert sum(host == where for _, host, _ in held) <= 3
        assert sum(standing is not Standing.PROVEN for _, _, standing in held) <= settings.unproven


class Clock:
    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds


def make_slots(line_seconds: float = 60.0, connections: int = 8) -> Slots:
    settings = SlotSettings(max_connections=connections, max_connections_per_destination=4)
    return Slots(settings=settings, timer=Clock(), line_seconds=line_seconds)


@asynccontextmanager
async def hold(slots: Slots, destination: str, mx_host: str) -> AsyncIterator[Slot]:
    """What a session does with its slot."""
    slot = await slots.acquire(destination, mx_host)
    try:
        async with slots.in_good_time(slot):
            yield slot
    finally:
        slots.give_back(slot)


async def holder(
    slots: Slots, destination: str, release: asyncio.Event, log: list[str], *, opens: bool = False
) -> None:
    try:
        async with hold(slots, destination, f"mx.{destination}") as slot:
            if opens:
                slots.opened(slot, ADDRESS)
            log.append(f"+{destination}")
            await release.wait()
            log.append(f"-{destination}")
    except GaveWayError:
        log.append(f"!{destination}")


async def settled() -> None:
    for _ in range(10):
        await asyncio.sleep(0)


async def test_waiters_are_served_in_order_and_one_that_is_held_up_holds_up_nobody() -> None:
    slots, log = make_slots(), list[str]()
    gates = {name: asyncio.Event() for name in ("a1", "b1", "a2", "c1", "d1")}
    async with asyncio.TaskGroup() as group:
        for name in gates:  # two slots for all: a1 and b1 have them, a2 waits for a1 even longer
            group.create_task(holder(slots, f"{name[0]}.test", gates[name], log))
        await settled()
        assert log == ["+a.test", "+b.test"]
        gates["b1"].set()
        await settled()
        assert log[2:] == ["-b.test", "+c.test"]
        for gate in gates.values():
            gate.set()
    assert sorted(log[4:]) == ["+a.test", "+d.test", "-a.test", "-a.test", "-c.test", "-d.test"]


async def test_a_newcomer_is_not_behind_all_that_came_before_and_they_are_not_behind_all_newcomers() -> None:
    slots, log = make_slots(), list[str]()
    gates = {f"{n}.test": asyncio.Event() for n in range(8)}
    async with asyncio.TaskGroup() as group:
        for destination, gate in gates.items():  # two slots for all
            group.create_task(holder(slots, destination, gate, log, opens=True))
            await settled()
        for destination in ("0.test", "1.test", "2.test", "7.test"):
            gates[destination].set()
            await settled()
        assert [line for line in log if line[0] == "+"] == [f"+{n}.test" for n in (0, 1, 2, 7, 3, 6)]
        for gate in gates.values():
            gate.set()


async def test_a_limit_that_grows_lets_one_more_of_those_that_wait_in() -> None:
    slots, log, gate = make_slots(connections=40), list[str](), asyncio.Event()
    slots.succeeded("a.test", "mx.a.test")
    tasks = [asyncio.create_task(holder(slots, "a.test", gate, log)) for _ in range(4)]
    await settled()
    assert len(log) == 2
    slots.succeeded("a.test", "mx.a.test")
    await settled()
    assert len(log) == 3
    gate.set()
    await asyncio.gather(*tasks)


async def test_a_waiter_that_is_cancelled_leaves_the_line_and_takes_no_slot_along() -> None:
    slots, log, gate = make_slots(connections=4), list[str](), asyncio.Event()
    first = asyncio.create_task(holder(slots, "a.test", gate, log))
    await settled()
    second = asyncio.create_task(holder(slots, "b.test", gate, log))
    third = asyncio.create_task(holder(slots, "c.test", gate, log))
    await settled()
    second.cancel()
    gate.set()
    await asyncio.gather(first, third)
    assert log == ["+a.test", "-a.test", "+c.test", "-c.test"]
    fourth = asyncio.create_task(holder(slots, "d.test", gate, log))
    await asyncio.wait_for(fourth, 5)


async def test_a_slot_granted_to_a_waiter_just_cancelled_goes_on_to_the_next() -> None:
    slots, log, gate = make_slots(connections=4), list[str](), asyncio.Event()
    first = asyncio.create_task(holder(slots, "a.test", gate, log))
    await settled()
    second = asyncio.create_task(holder(slots, "b.test", asyncio.Event(), log))
    third = asyncio.create_task(holder(slots, "c.test", gate, log))
    await settled()
    gate.set()
    await asyncio.sleep(0)  # first has given its slot back, which is second's now; second has not run yet
    second.cancel()
    await asyncio.wait_for(third, 5)
    assert log == ["+a.test", "-a.test", "+c.test", "-c.test"]
    await first


async def test_a_new_destination_that_hangs_gives_way_to_another_that_waits() -> None:
    slots, log, gate = make_slots(line_seconds=0.01, connections=4), list[str](), asyncio.Event()
    hanging = asyncio.create_task(holder(slots, "slow.test", asyncio.Event(), log))
    await settled()
    fresh = asyncio.create_task(holder(slots, "fresh.test", gate, log, opens=True))
    await asyncio.wait_for(hanging, 5)
    await settled()
    assert log == ["+slow.test", "!slow.test", "+fresh.test"]
    again = asyncio.create_task(holder(slots, "slow.test", gate, log))
    await settled()
    gate.set()
    await asyncio.gather(fresh, again)


async def test_nobody_gives_way_who_has_a_session_or_while_nobody_waits() -> None:
    slots, log, gate = make_slots(line_seconds=0.0, connections=4), list[str](), asyncio.Event()
    opened = asyncio.create_task(holder(slots, "opened.test", gate, log, opens=True))
    await settled()
    waiting = asyncio.create_task(holder(slots, "fresh.test", gate, log))
    await asyncio.sleep(0.02)
    assert log == ["+opened.test"]
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    gate.set()
    await opened
    alone = asyncio.create_task(holder(slots, "alone.test", asyncio.Event(), log))
    await asyncio.sleep(0.02)
    assert log[-1] == "+alone.test"
    alone.cancel()
    with pytest.raises(asyncio.CancelledError):
        await alone


async def test_who_has_come_to_a_session_does_not_give_way_even_if_the_host_fails_it_then() -> None:
    slots = make_slots(line_seconds=0.0, connections=4)
    async with hold(slots, "a.test", "mx.a.test") as slot:
        slots.opened(slot, ADDRESS)
        overloaded = HostFailure(kind=FailureKind.TIMEOUT, detail="x")
        assert not slots.refused(slot, ADDRESS, overloaded, Phase.DATA)
        waiting = asyncio.create_task(slots.acquire("b.test", "mx.b.test"))
        await asyncio.sleep(0.02)
        assert slot.gives_way_at is None
    slots.give_back(await waiting)


async def test_only_a_host_with_sessions_at_the_same_address_has_connections_enough() -> None:
    slots = make_slots(connections=40)
    for _ in range(10):
        slots.succeeded("a.test", "mx.test")
    full = HostFailure(kind=FailureKind.REPLY, detail="x", reply=Reply(421, ("x",)))
    async with hold(slots, "a.test", "mx.test") as first, hold(slots, "a.test", "mx.test") as second:
        assert not slots.refused(second, ADDRESS, full, Phase.GREETING), "nobody has come to a session"
        slots.opened(first, ADDRESS)
        assert not slots.refused(second, ip_address("198.41.0.2"), full, Phase.GREETING), "that one may be dead"
        assert slots.refused(second, ADDRESS, full, Phase.GREETING)
        assert not slots.refused(first, ADDRESS, full, Phase.MAIL), "it has the connection"
    async with hold(slots, "a.test", "mx.test") as second:
        assert not slots.refused(second, ADDRESS, full, Phase.GREETING), "the other has ended"


async def test_a_time_out_of_the_body_is_its_own() -> None:
    slots = make_slots()
    with pytest.raises(TimeoutError):
        async with hold(slots, "a.test", "mx.a.test"):
            raise TimeoutError
    async with hold(slots, "a.test", "mx.a.test"):
        pass


def test_what_is_remembered_is_bounded() -> None:
    table = SlotTable(SETTINGS)
    table.gave_way("slow.test")
    for n in range(25_000):
        table.succeeded(f"{n}.test", "mx", 0.0)
        table.gave_way(f"{n}.example")
    assert table.standing("0.test", 0.0) is Standing.NEW
    assert table.standing("24999.test", 0.0) is Standing.PROVEN
    assert table.standing("slow.test", 0.0) is Standing.NEW


async def test_new_bounds_let_waiters_in() -> None:
    slots, log, gate = make_slots(connections=4), list[str](), asyncio.Event()
    tasks = [asyncio.create_task(holder(slots, f"{name}.test", gate, log)) for name in "abc"]
    await settled()
    assert log == ["+a.test"]
    slots.use(SlotSettings(max_connections=12, max_connections_per_destination=4))
    await settled()
    assert log == ["+a.test", "+b.test", "+c.test"]
    gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize(
    ("bounds", "lower"),
    [
        ({}, False),
        ({"max_connections": 39}, True),
        ({"max_connections": 41}, False),
        ({"max_connections_per_destination": 3}, True),
        ({"named": {"a.test": 3}}, True),
        ({"named": {"a.test": 5}}, False),
        ({"named": {"a.test": 5, "b.test": 3}}, True),
        ({"max_connections_per_destination": 5}, False),
    ],
)
def test_bounds_are_lower_where_any_of_them_is(bounds: dict[str, Any], lower: bool) -> None:
    assert replace(SETTINGS, **bounds).lower_than(SETTINGS) is lower


def test_a_bound_of_its_own_that_ends_may_be_a_lower_one() -> None:
    assert SETTINGS.lower_than(replace(SETTINGS, named={"a.test": 9}))
    assert not SETTINGS.lower_than(replace(SETTINGS, named={"a.test": 2}))


async def test_bounds_of_single_destinations_and_hosts_can_be_lowered_and_raised_at_run_time() -> None:
    slots, log, gate = make_slots(connections=40), list[str](), asyncio.Event()
    for _ in range(10):
        slots.succeeded("a.test", "mx.a.test")
    slots.use(SlotSettings(max_connections=40, max_connections_per_destination=4, named={"a.test": 2, "mx.b.test": 0}))
    tasks = [asyncio.create_task(holder(slots, name, gate, log)) for name in ("a.test", "a.test", "a.test", "b.test")]
    await settled()
    assert log == ["+a.test", "+a.test"]
    assert (slots.limit("a.test"), slots.limit("b.test")) == (2, 1)
    slots.use(SlotSettings(max_connections=40, max_connections_per_destination=4))
    await settled()
    assert sorted(log) == ["+a.test"] * 3 + ["+b.test"]
    gate.set()
    await asyncio.gather(*tasks)


@pytest.mark.parametrize("seed", range(5))
async def test_everybody_is_served_in_the_end(seed: int) -> None:
    chance, slots, served = random.Random(seed), make_slots(connections=6), list[int]()

    async def work(number: int) -> None:
        destination, mx = f"{chance.randrange(30)}.test", f"mx{chance.randrange(8)}.test"
        async with hold(slots, destination, mx) as slot:
            slots.opened(slot, ADDRESS)
            for _ in range(chance.randrange(5)):
                await asyncio.sleep(0)
            if chance.random() < 0.7:
                slots.succeeded(destination, mx)
            else:
                slots.failed(destination)
        served.append(number)

    async with asyncio.timeout(20), asyncio.TaskGroup() as group:
        for number in range(400):
            group.create_task(work(number))
            if chance.random() < 0.2:
                await asyncio.sleep(0)
    assert sorted(served) == list(range(400))


async def test_a_slot_may_be_passed_on_unless_somebody_else_wants_what_it_takes_up() -> None:
    slots = make_slots(connections=40)
    slot = slots.take("a.test", "mx.test")
    assert slot is not None
    assert not slots.wanted(slot)
    waiting = asyncio.create_task(slots.acquire("a.test", "mx.test"))  # new domains have one
    await settled()
    assert slots.wanted(slot)
    assert slots.take("a.test", "mx.test") is None
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    assert not slots.wanted(slot)
    slots.use(SlotSettings(max_connections=1))
    waiting = asyncio.create_task(slots.acquire("z.test", "mx.elsewhere.test"))
    await settled()
    assert slots.wanted(slot)
    slots.give_back(slot)
    slots.give_back(await asyncio.wait_for(waiting, 5))


async def test_a_slot_beyond_a_bound_that_was_lowered_is_not_passed_on() -> None:
    slots = make_slots(connections=40)
    slots.succeeded("a.test", "mx.a.test")
    one, other = slots.take("a.test", "mx.test"), slots.take("a.test", "mx.test")
    assert one is not None
    assert other is not None
    assert not slots.wanted(one)
    slots.failed("a.test")
    assert slots.wanted(one)
    slots.give_back(other)
    assert not slots.wanted(one)


def test_more_attempts_than_connections_are_under_way_where_there_are_several() -> None:
    slots = make_slots(connections=40)
    assert slots.attempts("a.test") == 1
    slots.succeeded("a.test", "mx.a.test")
    assert slots.limit("a.test") == 2
    assert slots.attempts("a.test") > 2
