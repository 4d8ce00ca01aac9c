"""One job's use of a connection: alone on it, or behind one that has sent all of its message."""

from collections.abc import Awaitable, Callable
from types import TracebackType
from typing import TYPE_CHECKING, Self

from relay.delivery.client import Connection
from relay.delivery.seam import HostError, Parcel, SendResult, SessionFacts, Target
from relay.delivery.seats import Seat, Seats
from relay.delivery.slots import GaveWayError, Slot, Slots
from relay.delivery.transaction import LapsedError, Transaction
from relay.queue.attempt import FailureKind, HostFailure, Phase

if TYPE_CHECKING:
    from relay.delivery.pool import ConnectionPool

_MAX_LAPSES = 3
_ALWAYS_LAPSES = "the host closed each connection before the reply to MAIL"


class LentSession:
    """The Session of the delivery seam: one connection for one job, and a fresh one where it does not last."""

    def __init__(
        self, *, pool: "ConnectionPool", slots: Slots, seats: Seats, target: Target, destination: str, prompt: bool
    ) -> None:
        self._pool = pool
        self._slots = slots
        self._seats = seats
        self._target = target
        self._destination = destination
        self._prompt = prompt
        self._seat: Seat | None = None
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    async def __aenter__(self) -> Self:
        await self._take_seat()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._leave_seat()

    @property
    def facts(self) -> SessionFacts:
        return self._lent().facts

    @property
    def committing(self) -> bool:
        return self._transaction is not None and self._transaction.committing

    async def send(self, parcel: Parcel) -> SendResult:
        if self._seat is not None and not self._seats.resume(self._seat, self):
            self._leave_seat()
        if self._seat is None:
            await self._take_seat()
        if not self._pool.fits(self._lent(), self._destination):
            await self._renew()
        for _ in range(_MAX_LAPSES):
            try:
                return await self._run(self._lent(), parcel)
            except LapsedError:
                await self._renew()
        raise HostError(HostFailure(kind=FailureKind.BROKEN_OFF, detail=_ALWAYS_LAPSES), Phase.MAIL)

    async def _run(self, connection: Connection, parcel: Parcel) -> SendResult:
        transaction = self._pool.begin(connection, parcel, self._destination, self._offer)
        self._transaction = transaction
        try:
            result = await transaction.run()
        except HostError as error:
            facts = connection.facts
            error.tls, error.testing_failure, error.countable = facts.tls, facts.testing_failure, facts.countable
            if error.phase is Phase.MAIL:
                # Many hosts count, and put off all that comes after on this connection: kept, it would spread that.
                connection.may_carry = connection.transactions
            if error.phase is not Phase.EHLO:  # else the host lacks what the message needs, and was not asked
                self._failed(error.failure, error.phase)
            raise
        finally:
            self._transaction = None
            self._pool.learn(connection, transaction)
        if result.failure is not None:
            self._failed(result.failure, result.phase)
        else:
            connection.clean = True
        return result

    def _failed(self, failure: HostFailure, phase: Phase) -> bool:
        """Tell the slots. True if the host only has connections enough."""
        assert self._seat is not None, "a session that sends has its seat"
        return self._slots.refused(self._seat.slot, self._target.address, failure, phase)

    async def _renew(self) -> None:
        """Replace the connection, which has ended or may carry no more, by a fresh one. Raises HostError."""
        assert self._seat is not None, "a session that sends has its seat"
        self._lent().link.leave()
        self._seat.connection = None
        if not await self._open(self._seat, self._pool.open_fresh):
            await self._take_seat()

    def _lent(self) -> Connection:
        assert self._connection is not None, "entered"
        return self._connection

    # The seat.

    async def _take_seat(self) -> None:
        """Raises HostError."""
        while True:
            seat = self._seat = await self._seats.take(self._destination, self._target, self)
            if seat.connection is not None:
                self._connection = seat.connection
            elif not await self._open(seat, self._pool.obtain):
                continue
            self._seats.mark(seat, prompt=self._prompt)
            return

    async def _open(self, seat: Seat, connect: Callable[[Target], Awaitable[Connection]]) -> bool:
        """False, and the seat is left, if the host has connections enough. Raises HostError."""
        try:
            async with self._slots.in_good_time(seat.slot):
                self._connection = seat.connection = await connect(self._target)
                self._slots.opened(seat.slot, self._target.address)
        except HostError as error:
            enough = self._failed(error.failure, error.phase)
            self._leave_seat()
            if enough:
                return False
            raise
        except GaveWayError as error:
            self._leave_seat()
            raise HostError(HostFailure(kind=FailureKind.TIMEOUT, detail=str(error)), Phase.CONNECT) from error
        except BaseException:
            self._leave_seat()
            raise
        return True

    def _offer(self) -> None:
        """All is sent, or is to be written in this turn of the loop."""
        if self._seat is not None and self._connection is not None and self._pool.may_overlap(self._connection):
            self._seats.offer(self._seat)

    def _leave_seat(self) -> None:
        seat, self._seat = self._seat, None
        if seat is None:
            return
        if not self._seats.leave(seat):
            connection = seat.connection
            if seat.sender is self and connection and connection.link.ready and self._pool.may_overlap(connection):
                self._seats.offer(seat)
            return
        if seat.connection is not None and not self._may_keep(seat.connection, seat.slot):
            seat.connection.link.leave()
            seat.connection = None
        if not self._seats.vacate(seat) and seat.connection is not None:
            self._pool.keep(seat.connection)

    def _may_keep(self, connection: Connection, slot: Slot) -> bool:
        """Whether it may carry more; one too many for its host is closed, for idle ones count nowhere."""
        return self._pool.may_keep(connection) and not self._slots.exceeded(slot)
