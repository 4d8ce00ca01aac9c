"""What all sessions of a process share, made once: rules, counters, collaborators, and the facts of each listener."""

from collections.abc import Callable, Sequence
from enum import Enum

from relay.clock import Clock
from relay.ingress.access import AccessRule
from relay.ingress.input import READ_AHEAD
from relay.ingress.limits import AuthBackOff, ConnectionCount, KnownRoom, MemoryBudget, MessageRate
from relay.ingress.paths import parse_mailbox
from relay.ingress.settings import IngressSettings, ListenerSettings, TlsMode
from relay.ingress.tls import ServerTls
from relay.ingress.users import Users
from relay.metrics import Metrics
from relay.queue.message import Job
from relay.store.protocols import QueueStore
from relay.value import Choice

Dispatch = Callable[[Sequence[Job]], None]
LeaseFor = Callable[[frozenset[str]], frozenset[str]]
NewId = Callable[[], str]


class ConnectionResult(Choice):
    """How a connection began."""

    ACCEPTED = "accepted"
    TOO_MANY = "too-many"
    NOT_A_PROXY = "not-a-proxy"


class MessageResult(Choice):
    """What was answered to a message: at MAIL when it was refused there, else at its end."""

    ACCEPTED = "accepted"
    DENIED = "denied"
    DEFERRED = "deferred"
    REFUSED = "refused"


class TlsRequiredResult(Enum):
    """What became of TLS-Required: No; OVERRULED: the same message demands REQUIRETLS (RFC 8689 §4.1)."""

    IGNORED = "ignored"
    HONOURED = "honoured"
    OVERRULED = "overruled"


class Shared:
    """The rules of one configuration and the collaborators. `counts` of a reload are those of before."""

    def __init__(
        self,
        *,
        settings: IngressSettings,
        store: QueueStore,
        dispatch: Dispatch,
        lease_for: LeaseFor,
        new_id: NewId,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        access = settings.access
        self.settings = settings
        self.store = store
        self.dispatch = dispatch
        self.lease_for = lease_for
        self.new_id = new_id
        self.clock = clock
        self.access = AccessRule(access)
        self.users = Users(access.users_file) if access.users_file is not None else None
        self.postmaster = parse_mailbox(settings.postmaster)
        self.idle_seconds = settings.idle_timeout.total_seconds()
        self.connections = ConnectionCount(
            most=access.max_connections, most_per_client=access.max_connections_per_client
        )
        self.rate = MessageRate(access.max_messages_per_minute_per_client)
        self.budget = MemoryBudget(settings.memory_budget)
        self.back_off = AuthBackOff()
        self.room = KnownRoom()
        self.read_buffer = memoryview(bytearray(READ_AHEAD))
        self.metrics = metrics
        self.connection_results = {r: metrics.connections.labels(result=r.value) for r in ConnectionResult}
        self.message_results = {r: metrics.messages_received.labels(result=r.value) for r in MessageResult}

    def keep_counts_of(self, old: "Shared") -> None:
        """Go on with the counters of the configuration before, under the new bounds."""
        old.connections.most, old.connections.most_per_client = self.connections.most, self.connections.most_per_client
        old.rate.most_per_minute = self.rate.most_per_minute
        old.budget.most = self.budget.most
        self.connections, self.rate, self.budget, self.back_off = (
            old.connections,
            old.rate,
            old.budget,
            old.back_off,
        )


class Listener:
    """One listener: its settings, its TLS, and what it answers to EHLO."""

    def __init__(self, settings: ListenerSettings, tls: ServerTls | None, shared: Shared) -> None:
        self.settings = settings
        self.tls = tls
        self.shared = shared
        self.implicit = settings.tls is TlsMode.IMPLICIT
        self.starttls = settings.tls in (TlsMode.STARTTLS, TlsMode.STARTTLS_REQUIRED)
        self.requires_tls = settings.tls is TlsMode.STARTTLS_REQUIRED
        self.ehlo = self._ehlo(in_tls=False)
        self.ehlo_in_tls = self._ehlo(in_tls=True)

    def _ehlo(self, *, in_tls: bool) -> str:
        """RFC 5321 §4.2.4: nothing is listed that does not work here and now."""
        limits = self.shared.settings
        lines = [
            limits.hostname,
            "PIPELINING",
            f"SIZE {limits.max_message_size}",
            "8BITMIME",
            "SMTPUTF8",
            "ENHANCEDSTATUSCODES",
            "DSN",
            "CHUNKING",
        ]
        if self.starttls and not in_tls:
            lines.append("STARTTLS")
        if self.shared.users is not None and in_tls:
            lines.append("AUTH PLAIN LOGIN")
        if in_tls and limits.requiretls:
            lines.append("REQUIRETLS")
        return "\r\n".join([f"250-{line}" for line in lines[:-1]] + [f"250 {lines[-1]}"])
