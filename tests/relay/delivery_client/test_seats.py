"""Who sends next on a connection, and when the slot goes to others instead."""

import asyncio
import ipaddress

import pytest

from policy.requirement import Level, Requirement
from relay.delivery.client import Connection
from relay.delivery.link import Link
from relay.delivery.seam import SessionFacts, Target
from relay.delivery.seats import LEAST_PATIENCE_SECONDS, MOST_PATIENCE_SECONDS, Seat, Seats
from relay.delivery.slot_table import SlotSettings
from relay.delivery.slots import JOBS_PER_CONNECTION, Slots
from relay.delivery.timeouts import Timeouts
from relay.queue.attempt import Security

ADDRESS = ipaddress.ip_address("198.41.0.1")
MX, OTHER_MX = "mx.test", "mx.other.test"


class Row:
    """Seats at hosts that may have so many connections in all, two for each destination."""

    def __init__(self, connections: int = 40) -> None:
        settings = SlotSettings(max_connections=connections, max_connections_per_destination=2)
        self.slots = Slots(settings=settings, timer=lambda: 0.0)
        self.seats = Seats(self.slots)
        self.slots.succeeded("a.test", MX)
        self.slots.succeeded("b.test", OTHER_MX)

    async def take(self, destination: str = "a.test", mx: str = MX, sender: object = None) -> Seat:
        requirement = Requirement(level=Level.OPPORTUNISTIC, mx_host=mx)
        target = Target(mx_host=mx, address=ADDRESS, port=25, requirement=requirement)
        return await self.seats.take(destination, target, sender or object())

    async def prompt(self, destination: str = "a.test", mx: str = MX) -> Seat:
        """A seat at which a session stands and a small message is being sent."""
        seat = await self.take(destination, mx)
        self.slots.opened(seat.slot, ADDRESS)
        self.seats.mark(seat, prompt=True)
        return seat

    def queue(self, destination: str = "a.test", mx: str = MX) -> "asyncio.Task[Seat]":
        return asyncio.ensure_future(self.take(destination, mx))

    def leave(self, seat: Seat) -> bool:
        """True if the seat was passed on."""
        return self.seats.leave(seat) and self.seats.vacate(seat)


async def turn() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


async def test_one_waits_for_a_seat_that_will_soon_be_free_and_more_open_others() -> None:
    row = Row()
    first = await row.prompt()
    second = row.queue()
    await turn()
    assert not second.done()
    third = await row.take()
    assert third is not first
    row.seats.offer(first)
    assert await second is first
    assert first.users == 2


async def test_the_line_is_served_in_order() -> None:
    row = Row()
    await row.take()
    seat = await row.prompt()
    waiting = [row.queue() for _ in range(3)]
    await turn()
    for number, one in enumerate(waiting):
        row.seats.offer(seat)
        assert await one is seat
        assert not any(other.done() for other in waiting[number + 1 :])


async def test_a_slot_goes_back_when_the_last_user_leaves() -> None:
    row = Row(connections=1)
    seat = await row.prompt()
    row.seats.offer(seat)
    assert await row.take() is seat
    elsewhere = row.queue("b.test", OTHER_MX)
    assert not row.leave(seat)
    await turn()
    assert not elsewhere.done()
    assert not row.leave(seat)
    assert (await elsewhere).slot.destination == "b.test"


async def test_what_others_want_is_not_passed_on_however_long_the_line() -> None:
    row = Row(connections=1)
    seat = await row.prompt()
    same = row.queue()
    await turn()
    elsewhere = row.queue("b.test", OTHER_MX)
    await turn()
    row.seats.offer(seat)
    await turn()
    assert not same.done()
    assert not row.leave(seat)
    taken = await elsewhere
    await turn()
    assert not same.done(), "it waits for a slot like everybody now"
    row.leave(taken)
    assert (await same).slot.destination == "a.test"


async def test_what_was_offered_can_be_taken_back_until_somebody_has_it() -> None:
    row, sender = Row(), object()
    seat = await row.take(sender=sender)
    row.seats.offer(seat)
    assert row.seats.resume(seat, sender)
    row.seats.offer(seat)
    assert await row.take() is seat
    assert not row.seats.resume(seat, sender)


@pytest.mark.parametrize("alone", [True, False])
async def test_one_that_is_cancelled_as_it_gets_a_seat_passes_it_on(alone: bool) -> None:
    row = Row()
    seat = await row.prompt()
    waiting = row.queue()
    await turn()
    row.seats.offer(seat)  # it has the seat now, and has not run yet
    waiting.cancel()
    if alone:
        row.leave(seat)
    await asyncio.gather(waiting, return_exceptions=True)
    assert waiting.cancelled()
    again = await row.take()
    assert (again is seat) is not alone
    assert again.users == (1 if alone else 2)


async def test_a_seat_at_which_no_session_ever_stood_is_given_back() -> None:
    """Its slot may have to give way; and what waits for it asks for slots of its own."""
    row = Row(connections=1)
    seat = await row.take()
    waiting = row.queue()
    await turn()
    assert not row.leave(seat)
    assert (await waiting).slot is not seat.slot


class Idle:
    """Whether a connection stands open that nobody uses."""

    def __init__(self) -> None:
        self.there = False

    def __call__(self, _target: Target) -> bool:
        return self.there


class Little(Row):
    """A row for whose destination little waits, and whose first connection took so many seconds to open."""

    def __init__(self, jobs: int = JOBS_PER_CONNECTION) -> None:
        super().__init__()
        self.idle = Idle()
        self.seats = Seats(self.slots, idle=self.idle)
        self.slots.lanes.at("a.test").runners = jobs

    async def busy(self, took: float) -> Seat:
        seat = await self.take()
        target = seat.row.key[1]
        link = Link(requirement=target.requirement, hostname="relay.test", timeouts=Timeouts())
        facts = SessionFacts(security=Security.PLAINTEXT)
        seat.connection = Connection(target=target, link=link, facts=facts, took=took)
        self.slots.opened(seat.slot, ADDRESS)
        self.seats.mark(seat, prompt=False)
        return seat


@pytest.mark.parametrize("took", [0.0, 0.2])
async def test_where_little_waits_a_job_waits_as_long_as_opening_takes(took: float) -> None:
    row, loop = Little(), asyncio.get_running_loop()
    first = await row.busy(took)
    began = loop.time()
    async with asyncio.timeout(5):
        second = await row.take()
    assert loop.time() - began >= max(took, LEAST_PATIENCE_SECONDS) - 0.01
    assert second is not first
    assert not first.row.line


async def test_no_opening_however_long_makes_a_job_wait_much_longer() -> None:
    row = Little()
    first = await row.busy(60.0)
    async with asyncio.timeout(MOST_PATIENCE_SECONDS + 2):
        assert await row.take() is not first


async def test_where_little_waits_a_seat_that_is_free_in_time_is_taken() -> None:
    row = Little()
    first = await row.busy(5.0)
    waiting = [row.queue(), row.queue()]
    await turn()
    assert not any(one.done() for one in waiting)
    row.seats.offer(first)
    assert await waiting[0] is first
    row.seats.offer(first)
    assert await waiting[1] is first


async def test_where_much_waits_another_is_opened_at_once() -> None:
    row = Little(JOBS_PER_CONNECTION + 1)
    first = await row.busy(5.0)
    opening = row.queue()
    await turn()
    assert opening.done()
    assert await opening is not first


async def test_nobody_waits_while_a_connection_stands_idle() -> None:
    row = Little()
    first = await row.busy(5.0)
    row.idle.there = True
    opening = row.queue()
    await turn()
    assert opening.done()
    assert await opening is not first


async def test_one_whose_patience_ends_waits_on_where_no_more_can_be_had() -> None:
    row = Little()
    first, second = await row.busy(0.0), await row.busy(0.0)
    waiting = row.queue()
    await asyncio.wait([waiting], timeout=2 * LEAST_PATIENCE_SECONDS)
    assert not waiting.done()
    row.seats.offer(second)
    assert await waiting is second
    assert first.users == 1
