"""What one delivery attempt did, host by host, and what it meant for each recipient. **Pure.**

The record is stored; NDR, `queue show`, trace and logs are views of it.
"""

from datetime import datetime

from policy.requirement import Level, MxMatch
from policy.tls_facts import TlsFailure, TlsSession
from relay.status import Reply, Status
from relay.value import Choice, value


class Phase(Choice):
    """How far a host came; ordered as SMTP goes, so that "the host that came furthest" can be asked."""

    ROUTE = 0
    CONNECT = 1
    GREETING = 2
    EHLO = 3
    STARTTLS = 4
    HANDSHAKE = 5
    MAIL = 6
    RCPT = 7
    DATA = 8
    CONTENT = 9
    END_OF_DATA = 10


class FailureKind(Choice):
    """Why a host, or the whole route, could not be used."""

    MX_NOT_IN_POLICY = "mx-not-in-policy"
    CERTIFICATE = "certificate"
    STARTTLS_MISSING = "starttls-missing"
    STARTTLS_REFUSED = "starttls-refused"
    HANDSHAKE = "handshake"
    DANE_CERTIFICATE = "dane-certificate"
    DANE_EXPIRED = "dane-certificate-expired"
    DANE_NAME = "dane-certificate-name"
    DNSSEC_BOGUS = "dnssec-bogus"
    TLSA_UNUSABLE = "tlsa-unusable"
    DANE_REQUIRED = "dane-required"
    ROUTE_TLS = "route-tls"
    ROUTE_CERTIFICATE = "route-certificate"
    POLICY_REQUIRED = "policy-required"
    LOGIN = "login"
    REQUIRETLS_MISSING = "requiretls-not-supported"
    REQUIRETLS_TLS = "requiretls-tls"
    REQUIRETLS_CERTIFICATE = "requiretls-certificate"
    MX_NOT_VALIDATED = "mx-not-validated"
    MX_VALIDATION_UNKNOWN = "mx-validation-unknown"
    POLICY_UNKNOWN = "policy-unknown"
    DNS_UNKNOWN = "dns-unknown"
    DOMAIN_ABSENT = "domain-absent"
    NULL_MX = "null-mx"
    NO_ADDRESS = "no-address"
    ADDRESS_REFUSED = "address-refused"
    LOOP = "loop"
    TIMEOUT = "timeout"
    CONNECTION_REFUSED = "connection-refused"
    BROKEN_OFF = "broken-off"
    PROTOCOL = "protocol"
    REPLY = "reply"
    EIGHT_BIT = "eight-bit-not-supported"
    SMTPUTF8 = "smtputf8-not-supported"
    TOO_LARGE = "too-large"
    INTERNAL = "internal"

    @property
    def refusal(self) -> bool:
        """Whether security is what refuses; it starts the shorter clock (decision 13) and ranks first in an NDR."""
        return self in _REFUSALS

    @property
    def dane(self) -> bool:
        """Whether it is DANE that refuses, which no MTA-STS policy can mend (RFC 8461 §2)."""
        return self in _DANE

    @property
    def route(self) -> bool:
        """Whether a route of the operator's refuses what the domain itself would have allowed."""
        return self in _ROUTE

    @property
    def message(self) -> bool:
        """Whether it is the message that refuses, by REQUIRETLS (RFC 8689), and nothing that the domain says."""
        return self in _MESSAGE


_DANE = frozenset(
    {
        FailureKind.DANE_CERTIFICATE,
        FailureKind.DANE_EXPIRED,
        FailureKind.DANE_NAME,
        FailureKind.DNSSEC_BOGUS,
        FailureKind.TLSA_UNUSABLE,
        FailureKind.DANE_REQUIRED,
    }
)
_ROUTE = frozenset({FailureKind.ROUTE_TLS, FailureKind.ROUTE_CERTIFICATE, FailureKind.POLICY_REQUIRED})
_MESSAGE = frozenset(
    {FailureKind.REQUIRETLS_TLS, FailureKind.REQUIRETLS_CERTIFICATE, FailureKind.MX_VALIDATION_UNKNOWN}
)
_REFUSALS = (
    _DANE
    | _ROUTE
    | _MESSAGE
    | frozenset(
        {
            FailureKind.MX_NOT_IN_POLICY,
            FailureKind.CERTIFICATE,
            FailureKind.STARTTLS_MISSING,
            FailureKind.STARTTLS_REFUSED,
            FailureKind.HANDSHAKE,
        }
    )
)


class Security(Choice):
    """How a session was protected; the label of the deliveries metric.

    DANE: its certificate matches the host's TLSA records; DANE_STS: it also verifies as MTA-STS demands. ROUTE: it
    verifies as a route demands, where no policy does; REQUIRETLS: as the message demands (RFC 8689).
    """

    PLAINTEXT = "plaintext"
    OPPORTUNISTIC = "opportunistic"
    STS = "sts"
    DANE = "dane"
    DANE_STS = "dane+sts"
    ROUTE = "route"
    REQUIRETLS = "requiretls"


class DaneScope(Choice):
    """What the DNSSEC of a host with TLSA records secures: the way from the mail domain to it, or the host alone."""

    DOMAIN = "domain"
    HOST = "host"


@value
class HostFailure:
    """Why one host could not take the message. Concerns the host, not the recipient.

    `detail` is one cleaned line. `reply` is set only if the host really gave one; `tls` if TLS is what failed.
    """

    kind: FailureKind
    detail: str
    reply: Reply | None = None
    tls: TlsFailure | None = None


@value
class HostAttempt:
    """One host (at one address, unless it was never contacted) in one attempt.

    `failure` None means that the host answered for every recipient that it was offered; what it answered is in
    the outcomes. `testing_failure` is what a policy in testing mode would have refused (decision 6). `dane`: the
    host's TLSA records were to be kept to, whatever its level; None if there are none.
    """

    mx_host: str
    address: str | None
    port: int
    phase: Phase
    level: Level
    mx_match: MxMatch
    security: Security | None = None
    tls: TlsSession | None = None
    reply: Reply | None = None
    failure: HostFailure | None = None
    testing_failure: TlsFailure | None = None
    dane: DaneScope | None = None


@value
class PolicyFacts:
    """The MTA-STS policy that was in force at the attempt. `mx` are its patterns."""

    policy_domain: str
    record_id: str
    mode: str
    mx: tuple[str, ...]
    fetched_at: datetime
    expires_at: datetime


class Action(Choice):
    """What an attempt meant for one recipient."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"


@value
class Outcome:
    """What one attempt meant for one recipient. Exactly one per recipient and attempt, or the attempt is void.

    `reply` is the remote's own, else None and `diagnostic` is ours. `refused`: security is what refuses.
    `refused_by_dane`: DANE, a route or the message (REQUIRETLS), and no MTA-STS policy that could be looked up anew.
    `dsn_passed_on`: the next hop offers DSN and got the parameters, so success is its to report (RFC 3461 §5.2.1).
    """

    recipient_id: int
    action: Action
    status: Status
    diagnostic: str
    reply: Reply | None = None
    remote_mta: str | None = None
    remote_address: str | None = None
    security: Security | None = None
    refused: bool = False
    refused_by_dane: bool = False
    dsn_passed_on: bool = False


@value
class Attempt:
    """One attempt at one job, as it is stored. `outcomes` are in the order of the job's recipients.

    `record_checked`: `_mta-sts` was asked past our caches, without which a refusal may not become final
    (RFC 8461 §5). `policy_problem` says what is wrong with the policy host or record, "" if nothing.
    `failure` is set when there was no host to try (DNS, null MX, loop). `route` is the name of the operator's route
    that was taken, "" if none applies.
    """

    number: int
    started_at: datetime
    finished_at: datetime
    hosts: tuple[HostAttempt, ...]
    outcomes: tuple[Outcome, ...]
    policy: PolicyFacts | None = None
    policy_problem: str = ""
    record_checked: bool = False
    failure: HostFailure | None = None
    route: str = ""

    def host_of(self, outcome: Outcome) -> HostAttempt | None:
        """Return the host that decided for a recipient, the last one where several have its name and address."""
        for host in reversed(self.hosts):
            if host.address == outcome.remote_address and host.mx_host == outcome.remote_mta:
                return host
        return None
