"""Lends connection slots, and waits for them. The rules are in `slot_table` and `concurrency`.

Where the share of the domains that are not proven is taken up, a new one is let in at the cost of one whose host has
not come to a session in good time. That one is marked as slow: next time it may take all the time it wants, within
half of the share.
"""

import asyncio
import sys
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass

from policy.names import IPAddress
from relay.delivery.lanes import Lanes
from relay.delivery.slot_table import Demand, SlotSettings, SlotTable, Standing
from relay.queue.attempt import HostFailure, Phase

LINE_SECONDS = 10.0
"""How long the line of new domains is meant to take to pass, if all hosts before it hang."""
LEAST_PATIENCE_SECONDS = 2.0
"""How long a host has to come to a session, however long the line: some ten round trips."""


JOBS_PER_CONNECTION = 20
"""So many small messages go over one connection in about the time that it takes to open another."""

ATTEMPTS_PER_CONNECTION = 3
"""One sends, one has sent and waits for the reply or writes down what came of it, and one is next in line."""


class GaveWayError(Exception):
    """The host had not come to a session in good time, and the slot went to another destination."""


@dataclass(slots=True, eq=False)
class Slot:
    """The right to have one connection to a host of a destination.

    `firm`: it has come to a session. `address`: where one stands that nothing is wrong with.
    """

    destination: str
    mx_host: str
    standing: Standing
    taken_at: float
    gives_way_at: float | None = None
    deadline: asyncio.Timeout | None = None
    firm: bool = False
    address: IPAddress | None = None

    def give_way_at(self, when: float | None) -> None:
        self.gives_way_at = when
        if self.deadline is not None and not self.deadline.expired():
            self.deadline.reschedule(when)


@dataclass(slots=True, eq=False)
class _Waiter:
    destination: str
    mx_host: str
    granted: "asyncio.Future[Slot]"


class Slots:
    """Serves those whose limits allow a slot, in turn. `timer` gives seconds that never go back.

    `lanes`: the work that waits in memory, which says how many slots are worth having.
    """

    def __init__(
        self, *, settings: SlotSettings, timer: Callable[[], float], line_seconds: float = LINE_SECONDS
    ) -> None:
        self.lanes = Lanes()
        self._table = SlotTable(settings)
        self._timer = timer
        self._line_seconds = line_seconds
        self._proven: deque[_Waiter] = deque()
        self._unproven: deque[_Waiter] = deque()
        self._wanted: Counter[str] = Counter()  # domains and hosts, by how many wait for them
        self._holders: dict[Slot, None] = {}
        self._longest_line = 0
        self._last_first = False

    def use(self, settings: SlotSettings) -> bool:
        """Go on under new bounds, at any time; slots that are held are kept. Return whether a bound is lower now."""
        before, self._table.settings = self._table.settings, settings
        self._admit(self._proven)
        self._admit(self._unproven)
        return settings.lower_than(before)

    def demand(self) -> tuple[Demand, dict[str, Demand]]:
        """What is in use, in all and by the names whose bound matters, for whoever shares the bounds out."""
        return Demand(self._table.in_use, self._table.full), self._table.demand()

    def limit(self, destination: str) -> int:
        """How many may work for the destination at present: one each for its connections, and one to wait for any."""
        return max(1, self._table.limit(destination, self._timer()))

    def attempts(self, destination: str) -> int:
        """How many attempts may be under way for the destination, so that none of its connections is ever idle.

        With one connection there is one attempt, because a failure then speaks for the destination.
        """
        limit = self.limit(destination)
        return limit if limit == 1 else ATTEMPTS_PER_CONNECTION * limit

    def worth_another(self, destination: str, connections: int) -> bool:
        """Whether so much waits for the destination that its connections are too few, however fast the host is."""
        lane = self.lanes.get(destination)
        return lane is None or lane.runners + len(lane.jobs) > JOBS_PER_CONNECTION * connections

    def proven(self, destination: str) -> bool:
        return self._table.standing(destination, self._timer()) is Standing.PROVEN

    def succeeded(self, destination: str, mx_host: str) -> None:
        """The host took mail."""
        if self._table.succeeded(destination, mx_host, self._timer()):
            self._admit(self._proven, 1)

    def cooled(self, destination: str) -> int:
        """The destination is let alone for a while; return for the how-manieth time without a session between."""
        return self._table.cooled(destination)

    def refused(self, slot: Slot, address: IPAddress, failure: HostFailure, phase: Phase) -> bool:
        """The host failed at this phase, for a reason of its own; to be said before the slot goes back.

        Return whether it only has connections enough: then the job has to wait for another slot, and is not charged.
        """
        self._end_session(slot)
        return self._table.refused(slot.mx_host, address, failure, phase, self._timer())

    def failed(self, destination: str) -> None:
        self._table.failed(destination)

    @asynccontextmanager
    async def in_good_time(self, slot: Slot) -> AsyncIterator[None]:
        """Come to a session in here. Raises GaveWayError if others cannot wait for it any longer."""
        try:
            async with asyncio.timeout_at(slot.gives_way_at) as slot.deadline:
                yield
        except TimeoutError as error:
            if slot.deadline is None or not slot.deadline.expired():
                raise
            self._table.gave_way(slot.destination)
            raise GaveWayError(f"{slot.mx_host} took too long while others waited") from error

    def opened(self, slot: Slot, address: IPAddress) -> None:
        """The session stands: from here on its slot is kept, however long the host takes."""
        slot.firm = True
        slot.give_way_at(None)
        self._end_session(slot)
        slot.address = address
        self._table.session_began(slot.destination, slot.mx_host, address)
        if slot.standing is Standing.NEW:
            self._press()

    def wanted(self, slot: Slot) -> bool:
        """Whether others have a better claim to what the slot takes up, so that it is to be given back.

        Else it may be passed on, with its connection, to another job for the same destination and host.
        """
        if self._wanted and (slot.destination in self._wanted or slot.mx_host in self._wanted):
            return True
        if self._table.full and (self._proven or self._unproven):
            return True
        return self.exceeded(slot)

    def exceeded(self, slot: Slot) -> bool:
        """Whether its destination or its host has more than it may have by now."""
        return self._table.exceeded(slot.destination, slot.mx_host, self._timer())

    def take(self, destination: str, mx_host: str) -> Slot | None:
        """Return a slot if it can be had without waiting, and nobody waits for one."""
        queue = self._proven if self.proven(destination) else self._unproven
        return None if queue else self._take(destination, mx_host)

    async def acquire(self, destination: str, mx_host: str) -> Slot:
        """Wait for a slot; it goes back with `give_back`."""
        queue = self._proven if self.proven(destination) else self._unproven
        if not queue and (slot := self._take(destination, mx_host)):
            return slot
        waiter = _Waiter(destination, mx_host, asyncio.get_running_loop().create_future())
        queue.append(waiter)
        self._want(waiter, 1)
        self._admit(queue)
        self._press()
        try:
            return await waiter.granted
        except asyncio.CancelledError:
            if waiter.granted.done() and not waiter.granted.cancelled():
                self.give_back(waiter.granted.result())
            else:
                queue.remove(waiter)
            raise
        finally:
            self._want(waiter, -1)

    def _want(self, waiter: _Waiter, count: int) -> None:
        for name in (waiter.destination, waiter.mx_host):
            self._wanted[name] += count
            if not self._wanted[name]:
                del self._wanted[name]

    def _take(self, destination: str, mx_host: str) -> Slot | None:
        standing = self._table.take(destination, mx_host, self._timer())
        if standing is None:
            return None
        slot = Slot(destination, mx_host, standing, asyncio.get_running_loop().time())
        self._holders[slot] = None
        return slot

    def _end_session(self, slot: Slot) -> None:
        if slot.address is not None:
            self._table.session_ended(slot.mx_host, slot.address)
            slot.address = None

    def give_back(self, slot: Slot) -> None:
        was_full = self._table.full
        self._end_session(slot)
        del self._holders[slot]
        self._table.give_back(slot.destination, slot.mx_host, slot.standing)
        # Many may wait, so they are looked through only when it may have become somebody's turn.
        wanted = slot.destination in self._wanted or slot.mx_host in self._wanted
        if was_full or wanted or slot.standing is not Standing.PROVEN:
            self._admit(self._proven, 1)
            self._admit(self._unproven)
            self._press()

    def _admit(self, queue: deque[_Waiter], most: int = sys.maxsize) -> None:
        """Serve who can be served, `most` of them; whoever is held up holds up nobody else.

        Proven destinations are served in the order of arrival. Of the others it is in turn the one that has waited
        longest and the one that has come last, so that many that hang do not keep a newcomer from its turn.
        """
        front, back = list[_Waiter](), list[_Waiter]()
        while queue and most and not (self._table.full or (queue is self._unproven and self._table.unproven_are_full)):
            from_back = self._last_first and queue is self._unproven
            waiter = queue.pop() if from_back else queue.popleft()
            slot = None if waiter.granted.done() else self._take(waiter.destination, waiter.mx_host)
            if slot is None:
                (back if from_back else front).append(waiter)
                continue
            waiter.granted.set_result(slot)
            most -= 1
            if queue is self._unproven:
                self._last_first = not from_back
        queue.extendleft(reversed(front))
        queue.extend(reversed(back))

    def _press(self) -> None:
        """Give the oldest holders that have no session yet as many deadlines as new destinations wait."""
        if not self._unproven and not self._longest_line:
            return
        now = self._timer()
        waiting = sum(self._table.standing(waiter.destination, now) is Standing.NEW for waiter in self._unproven)
        self._longest_line = max(self._longest_line, waiting) if waiting else 0
        for slot in self._holders:
            if slot.standing is Standing.NEW and not slot.firm:
                slot.give_way_at(slot.taken_at + self._patience() if waiting > 0 else None)
                waiting -= 1

    def _patience(self) -> float:
        """The longer the line has been since it began, the shorter, so that all of it passes in time."""
        turns = self._longest_line / self._table.settings.unproven
        return max(self._line_seconds / max(turns, 1.0), min(LEAST_PATIENCE_SECONDS, self._line_seconds))
