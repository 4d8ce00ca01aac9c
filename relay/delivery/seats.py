"""Who sends next on a connection: slots that are passed on from job to job, with the connection that is in them.

A job that has sent all of its message only waits for the reply: the next one for the same destination and target may
send meanwhile (RFC 2920 §3.1). Both share the slot, which is given back when the last of them leaves. Jobs that wait
for the same are served in order, unless others have a better claim to the slot (`Slots.wanted`).

Another connection is opened at once where so much waits that it is worth its handshakes, at both ends. Else a job
waits for those that there are, but not much longer than the latest of them took to open: a slow host takes long for
that too, and so does all we do where it is we who are slow.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field

from relay.delivery.client import Connection
from relay.delivery.seam import Target
from relay.delivery.slots import Slot, Slots

LEAST_PATIENCE_SECONDS = 0.1
MOST_PATIENCE_SECONDS = 1.0
"""How long a job waits at least, and at most, before it has another connection opened for it alone."""


@dataclass(slots=True, eq=False)
class Seat:
    """A slot and its connection, for the job that sends, and for those before it that wait for their last reply.

    `users` counts these. `sender` is the one that may write, None while the seat is on offer. `prompt`: it will not
    be long, because the session stands and what is sent is small.
    """

    slot: Slot
    row: "_Row"
    connection: Connection | None = None
    users: int = 0
    sender: object | None = None
    prompt: bool = False


@dataclass(slots=True, eq=False)
class _Waiter:
    sender: object
    seat: "asyncio.Future[Seat | None]"


@dataclass(slots=True, eq=False)
class _Row:
    """How many seats one destination has at one target, which of them are on offer, and the line for them.

    `patience`, in seconds, is for who could have a connection opened.
    """

    key: tuple[str, Target]
    patience: float = LEAST_PATIENCE_SECONDS
    seats: int = 0
    prompt: int = 0
    offered: dict[Seat, None] = field(default_factory=dict)
    line: deque[_Waiter] = field(default_factory=deque)

    @property
    def soon(self) -> bool:
        """Whether a seat will be free sooner than a new connection could be had."""
        return len(self.line) < self.prompt


class Seats:
    """A row goes with its last seat. `idle` tells whether a connection stands open that nobody uses."""

    def __init__(self, slots: Slots, *, idle: Callable[[Target], bool] = lambda _target: False) -> None:
        self._slots = slots
        self._idle = idle
        self._rows: dict[tuple[str, Target], _Row] = {}

    async def take(self, destination: str, target: Target, sender: object) -> Seat:
        """Wait for a seat. One with a connection has been passed on; for another it is to be opened."""
        row = self._rows.get((destination, target))
        if row is not None:
            for seat in row.offered:
                if not self._slots.wanted(seat.slot):
                    return self._give(seat, sender)
            if row.soon:
                passed = await self._wait(row, sender)
            elif row.seats and not (self._slots.worth_another(destination, row.seats) or self._idle(target)):
                passed = await self._wait(row, sender, row.patience)
            else:
                passed = None
            if passed is not None:
                return passed
        slot = self._slots.take(destination, target.mx_host)
        if slot is None and row is not None and row.seats and (passed := await self._wait(row, sender)):
            return passed
        return self._set_up(destination, target, slot or await self._slots.acquire(destination, target.mx_host), sender)

    def offer(self, seat: Seat) -> None:
        """The sender has sent all it has: let the next one send on the same connection."""
        seat.sender = None
        if self._slots.wanted(seat.slot):
            return
        waiter = _first(seat.row.line)
        if waiter is None:
            seat.row.offered[seat] = None
        else:
            waiter.seat.set_result(self._give(seat, waiter.sender))

    def resume(self, seat: Seat, sender: object) -> bool:
        """Take back what was offered; False if another sends by now."""
        if seat.sender is None:
            seat.row.offered.pop(seat, None)
            seat.sender = sender
        return seat.sender is sender

    def mark(self, seat: Seat, *, prompt: bool) -> None:
        """Say whether the seat will soon be free for the next."""
        seat.row.prompt += prompt - seat.prompt
        seat.prompt = prompt
        if seat.connection is not None:
            seat.row.patience = min(max(seat.connection.took, LEAST_PATIENCE_SECONDS), MOST_PATIENCE_SECONDS)

    def leave(self, seat: Seat) -> bool:
        """One user has nothing more to do with the seat. True if it was the last: `vacate` is to follow."""
        seat.users -= 1
        return seat.users == 0

    def vacate(self, seat: Seat) -> bool:
        """Pass the seat on as it is, to whoever waits for it; else give its slot back, and return False."""
        row = seat.row
        row.offered.pop(seat, None)
        self.mark(seat, prompt=False)
        # A slot at which no session ever stood may have to give way to others.
        if seat.slot.firm and not self._slots.wanted(seat.slot) and (waiter := _first(row.line)):
            waiter.seat.set_result(self._give(seat, waiter.sender))
            return True
        row.seats -= 1
        if not row.seats:
            del self._rows[row.key]
            while waiter := _first(row.line):
                waiter.seat.set_result(None)
        self._slots.give_back(seat.slot)
        return False

    def _give(self, seat: Seat, sender: object) -> Seat:
        seat.row.offered.pop(seat, None)
        seat.users += 1
        seat.sender = sender
        return seat

    def _set_up(self, destination: str, target: Target, slot: Slot, sender: object) -> Seat:
        key = (destination, target)
        row = self._rows.get(key)
        if row is None:
            row = self._rows[key] = _Row(key)
        seat = Seat(slot, row, users=1, sender=sender)
        row.seats += 1
        return seat

    async def _wait(self, row: _Row, sender: object, patience: float | None = None) -> Seat | None:
        """Stand in line; None if there is nothing more to wait for, or patience, in seconds, is at its end."""
        loop = asyncio.get_running_loop()
        waiter = _Waiter(sender, loop.create_future())
        row.line.append(waiter)
        timer = loop.call_later(patience, _leave, row, waiter) if patience is not None else None
        try:
            return await waiter.seat
        except asyncio.CancelledError:
            if waiter.seat.done() and not waiter.seat.cancelled() and (seat := waiter.seat.result()):
                self._return(seat)
            raise
        finally:
            if timer is not None:
                timer.cancel()

    def _return(self, seat: Seat) -> None:
        """Whoever was given the seat is gone before it could use it."""
        if self.leave(seat):
            self.vacate(seat)
        else:
            self.offer(seat)


def _first(line: deque[_Waiter]) -> _Waiter | None:
    while line:
        waiter = line.popleft()
        if not waiter.seat.done():
            return waiter
    return None


def _leave(row: _Row, waiter: _Waiter) -> None:
    if not waiter.seat.done():
        row.line.remove(waiter)
        waiter.seat.set_result(None)
