"""Connections to MX hosts, kept open for a while and lent to one job at a time.

The key is the whole target, requirement included, so that a connection opened under one domain's policy never
carries another's mail (RFC 8461 §5). What is odd about a connection ends it; only a clean one is kept.
"""

import asyncio
from datetime import timedelta
from types import TracebackType
from typing import Self

from relay.delivery.client import Connection, Connector
from relay.delivery.seam import HostError, Parcel, SendResult, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.delivery.transaction import LapsedError, Transaction
from relay.metrics import Metrics
from relay.queue.attempt import FailureKind, HostFailure, Phase


class ConnectionPool:
    """The Transport of the delivery seam.

    `connection_idle`: how long a connection waits for more mail. `max_idle`: how many may wait, over all hosts.
    How many are lent at once is the worker's to bound.
    """

    def __init__(
        self,
        *,
        connector: Connector,
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
        self._metrics = metrics
        self._connection_idle = connection_idle
        self._max_messages = max_messages_per_connection
        self._max_idle = max_idle
        # Lists may be empty, but go with the last connection of their target.
        self._waiting: dict[Target, list[Connection]] = {}
        self._waiting_count = 0
        self._closing = False

    def open(self, target: Target) -> "LentSession":
        return LentSession(self, target)

    async def close(self) -> None:
        """Leave all connections, with QUIT to those that wait for mail; bounded by QUIT_LIMIT."""
        self._closing = True
        await self._connector.close()

    # For the lent sessions.

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
        try:
            connection = await self._connector.connect(target)
        except HostError as error:
            self._metrics.pool_opened.labels(error.failure.kind.value).inc()
            raise
        self._metrics.pool_opened.labels("ok").inc()
        self._metrics.pool_open.inc()
        connection.link.closed.add_done_callback(lambda _closed: self._lost(connection))
        connection.may_carry = min(self._max_messages, connection.link.offered.mail_max or self._max_messages)
        return connection

    def fits(self, connection: Connection, parcel: Parcel) -> bool:
        """Whether the connection may carry this parcel too (RFC 9422 §4.1, §4.3)."""
        domains = connection.link.offered.rcpt_domain_max
        return (
            connection.link.usable
            and connection.transactions < connection.may_carry
            and (domains is None or len(connection.domains) < domains or _domain(parcel) in connection.domains)
        )

    def begin(self, connection: Connection, parcel: Parcel) -> Transaction:
        """Return the next transaction of a connection, and count it."""
        reused = connection.transactions > 0
        if reused:
            self._metrics.pool_reused.inc()
        connection.transactions += 1
        connection.domains.add(_domain(parcel))
        return Transaction(
            connection.link,
            parcel,
            timeouts=self.timeouts,
            max_recipients=self.max_recipients_per_transaction,
            reused=reused,
        )

    def give_back(self, connection: Connection) -> None:
        """Keep the connection if it is clean and may carry more, else leave it."""
        spent = connection.transactions >= connection.may_carry
        if spent or self._closing or self._waiting_count >= self._max_idle or not connection.link.usable:
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


class LentSession:
    """The Session of the delivery seam: one connection for one job, and a fresh one where it does not last."""

    def __init__(self, pool: ConnectionPool, target: Target) -> None:
        self._pool = pool
        self._target = target
        self._connection: Connection | None = None
        self._transaction: Transaction | None = None

    async def __aenter__(self) -> Self:
        self._connection = await self._pool.obtain(self._target)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._connection is not None:
            self._pool.give_back(self._connection)
            self._connection = None

    @property
    def facts(self) -> SessionFacts:
        return self._lent().facts

    @property
    def committing(self) -> bool:
        return self._transaction is not None and self._transaction.committing

    async def send(self, parcel: Parcel) -> SendResult:
        connection = self._lent()
        if not self._pool.fits(connection, parcel):
            connection = await self._renew()
        try:
            return await self._run(connection, parcel)
        except LapsedError:
            return await self._run(await self._renew(), parcel)

    async def _run(self, connection: Connection, parcel: Parcel) -> SendResult:
        self._transaction = self._pool.begin(connection, parcel)
        try:
            return await self._transaction.run()
        except HostError as error:
            error.tls, error.testing_failure = connection.facts.tls, connection.facts.testing_failure
            if error.phase is Phase.MAIL:
                # Many hosts count, and put off all that comes after on this connection: kept, it would spread that.
                connection.may_carry = connection.transactions
            raise
        finally:
            self._transaction = None

    async def _renew(self) -> Connection:
        """Replace the connection, which has ended or may carry no more, by a fresh one. Raises HostError."""
        self._lent().link.leave()
        self._connection = await self._pool.open_fresh(self._target)
        return self._connection

    def _lent(self) -> Connection:
        assert self._connection is not None, "entered"
        return self._connection


def _domain(parcel: Parcel) -> str:
    return parcel.recipients[0].forward_path.rpartition("@")[2].lower()
