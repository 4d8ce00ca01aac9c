"""Connections to MX hosts, kept open for a while and lent to jobs.

The key is the whole target, requirement included, so that a connection opened under one domain's policy never
carries another's mail (RFC 8461 §5). What is odd about a connection ends it; only a clean one is kept.
"""

import asyncio
from collections.abc import Callable
from datetime import timedelta

from relay import events
from relay.clock import Clock
from relay.delivery.client import Concession, Connection, Connector
from relay.delivery.remembered import RememberedHosts
from relay.delivery.seam import BLOCK, HostError, Parcel, Target
from relay.delivery.seats import Seats
from relay.delivery.session import LentSession
from relay.delivery.slots import Slots
from relay.delivery.timeouts import Timeouts
from relay.delivery.transaction import Transaction
from relay.metrics import Metrics
from relay.queue.attempt import FailureKind, HostFailure, Phase

OUT_OF_STEP_REMEMBERED = timedelta(days=1)
SKIPPING_REMEMBERED = timedelta(days=1)


class ConnectionPool:
    """The Transport of the delivery seam.

    `connection_idle`: how long a connection waits for more mail. `max_idle`: how many may wait, over all hosts.
    How many are lent at once is for `slots` to say.
    """

    def __init__(
        self,
        *,
        connector: Connector,
        slots: Slots,
        clock: Clock,
        metrics: Metrics,
        timeouts: Timeouts,
        connection_idle: timedelta = timedelta(seconds=10),
        max_messages_per_connection: int = 100,
        max_recipients_per_transaction: int = 100,
        max_idle: int = 200,
    ) -> None:
        self.timeouts = timeouts
        self.max_recipients_per_transaction = max_recipients_per_transaction
        self._connector = connector
        self._slots = slots
        self._seats = Seats(slots, idle=lambda target: bool(self._waiting.get(target)))
        self._out_of_step = RememberedHosts(OUT_OF_STEP_REMEMBERED, clock)
        self._tried = RememberedHosts(SKIPPING_REMEMBERED, clock)
        self._skipping = RememberedHosts(SKIPPING_REMEMBERED, clock)
        self._metrics = metrics
        self._connection_idle = connection_idle
        self._max_messages = max_messages_per_connection
        self._max_idle = max_idle
        # Lists may be empty, but go with the last connection of their target.
        self._waiting: dict[Target, list[Connection]] = {}
        self._waiting_count = 0
        self._closing = False

    def open(self, target: Target, *, destination: str, size: int) -> LentSession:
        return LentSession(
            pool=self,
            slots=self._slots,
            seats=self._seats,
            target=target,
            destination=destination,
            prompt=size <= BLOCK,
        )

    def leave_idle(self) -> "list[asyncio.Future[None]]":
        """Leave the connections that wait for mail; return what is done once they are closed (QUIT_LIMIT at most)."""
        idle = [connection for waiting in self._waiting.values() for connection in waiting]
        for connection in idle:
            self._take_out(connection)
            connection.link.leave()
        return [connection.link.closed for connection in idle]

    async def close(self) -> None:
        """Leave all connections, with QUIT to those that wait for mail; bounded by QUIT_LIMIT."""
        self._closing = True
        await self._connector.close()

    # For lent sessions.

    async def obtain(self, target: Target) -> Connection:
        """Return the connection that waited least, or a fresh one. Raises HostError."""
        waiting = self._waiting.get(target)
        while waiting:
            connection = waiting.pop()
            self._waiting_count -= 1
            connection.waits_since = None
            if connection.link.usable:
                return connection
        return await self.open_fresh(target)

    async def open_fresh(self, target: Target) -> Connection:
        """Raises HostError."""
        if self._closing:
            raise HostError(HostFailure(kind=FailureKind.INTERNAL, detail="the relay is shutting down"), Phase.CONNECT)
        timer = asyncio.get_running_loop().time
        began = timer()
        try:
            connection = await self._connector.connect(target)
        except HostError as error:
            self._metrics.pool_opened.labels(error.failure.kind.value).inc()
            raise
        connection.took = timer() - began
        self._metrics.pool_opened.labels("ok").inc()
        if connection.concession is not None:
            self._tell_concession(connection, connection.concession)
        self._metrics.pool_open.inc()
        connection.link.closed.add_done_callback(lambda _closed: self._lost(connection))
        connection.may_carry = min(self._max_messages, connection.link.offered.mail_max or self._max_messages)
        return connection

    def _tell_concession(self, connection: Connection, concession: Concession) -> None:
        self._metrics.tls_concessions.labels(concession.value).inc()
        if connection.conceded_for is not None:
            events.tls_conceded(connection.target, concession.value, connection.conceded_for.detail)

    def fits(self, connection: Connection, destination: str) -> bool:
        """Whether the connection may carry mail for this destination too (RFC 9422 §4.1, §4.3)."""
        domains = connection.link.offered.rcpt_domain_max
        return (
            connection.link.ready
            and connection.transactions < connection.may_carry
            and (domains is None or len(connection.domains) < domains or destination in connection.domains)
        )

    def begin(
        self, connection: Connection, parcel: Parcel, destination: str, on_sent: Callable[[], None]
    ) -> Transaction:
        """Return the next transaction of a connection, and count it."""
        reused = connection.transactions > 0
        if reused:
            self._metrics.pool_reused.inc()
        connection.transactions += 1
        connection.domains.add(destination)
        return Transaction(
            connection.link,
            parcel,
            timeouts=self.timeouts,
            max_recipients=self.max_recipients_per_transaction,
            reused=reused,
            by_chunk=self._skips(connection),
            on_sent=on_sent,
        )

    def _skips(self, connection: Connection) -> bool:
        """Whether the host has shown that it skips content that it does not want (RFC 3030 §2).

        Else what somebody else wrote might be taken for commands, were it sent before its recipients are accepted. So
        each host is tried once a day, ahead of a transaction that need not wait for it.
        """
        target, link = connection.target, connection.link
        if not (link.offered.chunking and link.offered.pipelining):
            return False
        if target in self._skipping:
            return True
        if connection.clean and link.reset is None and target not in self._tried and target not in self._out_of_step:
            self._tried.note(target)
            link.try_skipping()
        return False

    def may_overlap(self, connection: Connection) -> bool:
        """Whether the next transaction may begin before this one is answered (RFC 2920 §3.1).

        Not before the host has shown with one that it can do with what it offers, nor if it has ever lost its step.
        """
        return (
            connection.clean
            and connection.link.offered.pipelining
            and connection.transactions < connection.may_carry
            and not self._closing
            and connection.target not in self._out_of_step
        )

    def learn(self, connection: Connection, transaction: Transaction) -> None:
        """Note how the host bore with content in one flight with its envelope, and with transactions that overlap."""
        if transaction.chunk_lost and not (transaction.hung_up and connection.took_chunk):
            # As above, one that always hangs up on the first of them is told from one that has had enough for now.
            self._skipping.forget(connection.target)
        if transaction.skipped:
            self._skipping.note(connection.target)
        connection.took_chunk = connection.took_chunk or transaction.chunk_answered
        if not transaction.ahead:
            return
        connection.overlaps = connection.overlaps or transaction.mail_answered
        # One that always hangs up on the first of them has been told from one that has had enough for now.
        if transaction.out_of_step or (transaction.lapsed and not connection.overlaps):
            self._out_of_step.note(connection.target)

    def may_keep(self, connection: Connection) -> bool:
        """Whether the connection is clean and may carry more."""
        return connection.link.usable and connection.transactions < connection.may_carry and not self._closing

    def keep(self, connection: Connection) -> None:
        """Let the connection wait for more mail, or leave it where too many wait."""
        if self._waiting_count >= self._max_idle:
            connection.link.leave()
            return
        loop = asyncio.get_running_loop()
        connection.waits_since = loop.time()
        if connection.timer is None:
            connection.timer = loop.call_later(self._connection_idle.total_seconds(), self._look_at, connection)
        self._waiting.setdefault(connection.target, []).append(connection)
        self._waiting_count += 1

    def _look_at(self, connection: Connection) -> None:
        """Leave a connection that has waited long enough. One timer serves many uses: it looks, and is set again."""
        connection.timer = None
        if connection.waits_since is None:
            return
        loop = asyncio.get_running_loop()
        end = connection.waits_since + self._connection_idle.total_seconds()
        if loop.time() < end:
            connection.timer = loop.call_at(end, self._look_at, connection)
        else:
            self._take_out(connection)
            connection.link.leave()

    def _take_out(self, connection: Connection) -> None:
        if connection.waits_since is not None:
            connection.waits_since = None
            self._waiting[connection.target].remove(connection)
            self._waiting_count -= 1

    def _lost(self, connection: Connection) -> None:
        self._metrics.pool_open.dec()
        self._take_out(connection)
        if connection.timer is not None:
            connection.timer.cancel()
        if not self._waiting.get(connection.target, True):
            del self._waiting[connection.target]
