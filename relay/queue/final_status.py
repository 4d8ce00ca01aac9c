"""One status and text for recipients whom no host took, in Exchange's words (design §6). **Pure.**

Own verdicts are 4.x while the message is queued and take class 5 when they become final (`relay.queue.settle`);
those that waiting cannot mend are 5.x at once. What a host says at the banner, at EHLO or to STARTTLS concerns the
host, so that even a 5yz there is temporary (decision 15).
"""

from collections.abc import Sequence
from typing import NamedTuple

from policy.requirement import Level
from relay.queue.attempt import FailureKind, HostAttempt, HostFailure, Phase
from relay.status import Reply, Status

_MAX_MESSAGE = 300


class HostVerdict(NamedTuple):
    """What an Outcome needs. A permanent status fails the recipient, any other defers it.

    `reply` is set only if the remote's own words decide; `remote_mta` and `remote_address` once a host was tried.
    """

    status: Status
    diagnostic: str
    refused: bool
    refused_by_dane: bool
    reply: Reply | None
    remote_mta: str | None
    remote_address: str | None


_TLS_MISSING = (
    Status(4, 7, 321),
    "starttls-not-supported: Destination mail server must support TLS to receive mail.",
)

_TLSA_INVALID = (Status(4, 7, 323), "tlsa-invalid: The domain failed DANE validation.")

_VERDICTS = {
    FailureKind.MX_NOT_IN_POLICY: (Status(4, 4, 8), "MX hosts of {domain} failed MTA-STS validation"),
    FailureKind.CERTIFICATE: (Status(4, 7, 5), "Remote certificate failed MTA-STS validation. Reason: {reason}"),
    FailureKind.STARTTLS_MISSING: _TLS_MISSING,
    FailureKind.STARTTLS_REFUSED: _TLS_MISSING,
    FailureKind.HANDSHAKE: _TLS_MISSING,
    FailureKind.DANE_CERTIFICATE: _TLSA_INVALID,
    FailureKind.DANE_EXPIRED: (
        Status(4, 7, 322),
        "certificate-expired: Destination mail server's certificate is expired.",
    ),
    FailureKind.DANE_NAME: (
        Status(4, 7, 325),
        "certificate-host-mismatch: Remote certificate MUST have a name matching the hostname (DANE)",
    ),
    FailureKind.DNSSEC_BOGUS: (
        Status(4, 7, 324),
        "dnssec-invalid: Destination domain returned invalid DNSSEC records",
    ),
    FailureKind.TLSA_UNUSABLE: _TLSA_INVALID,
    # What a route of the operator's demands and the domain does not offer (design §6).
    FailureKind.DANE_REQUIRED: (
        Status(4, 7, 320),
        "dane-required: Destination mail server must be authenticated by DANE.",
    ),
    FailureKind.POLICY_REQUIRED: (Status(4, 7, 320), "mta-sts-required: Destination must have an MTA-STS policy."),
    FailureKind.ROUTE_CERTIFICATE: (Status(4, 7, 320), "Certificate validation failed. Reason: {reason}"),
    FailureKind.ROUTE_TLS: (Status(4, 4, 317), "Cannot connect to remote server"),
    # RFC 4954 §6, but temporary: it is for the operator to mend, and for the message to wait.
    FailureKind.LOGIN: (Status(4, 7, 8), "Authentication at the next hop failed"),
    # RFC 8689 §4.2.1. What hosts lack for good is final, but for hosts that may do better later.
    FailureKind.REQUIRETLS_MISSING: (Status(5, 7, 30), "REQUIRETLS support required"),
    FailureKind.MX_NOT_VALIDATED: (
        Status(5, 7, 30),
        "REQUIRETLS support required: nothing proves which mail hosts are those of {domain}",
    ),
    FailureKind.MX_VALIDATION_UNKNOWN: (
        Status(4, 7, 30),
        "REQUIRETLS support required: it is not known now which mail hosts are those of {domain}",
    ),
    FailureKind.REQUIRETLS_CERTIFICATE: (
        Status(4, 7, 30),
        "REQUIRETLS support required: the certificate of the mail host does not verify. Reason: {reason}",
    ),
    FailureKind.REQUIRETLS_TLS: (Status(4, 7, 10), "Encryption needed: the message demands TLS (REQUIRETLS)"),
    FailureKind.POLICY_UNKNOWN: (Status(4, 4, 312), "DNS query failed for the MTA-STS record of {domain}"),
    FailureKind.DNS_UNKNOWN: (Status(4, 4, 312), "DNS query failed"),
    FailureKind.DOMAIN_ABSENT: (Status(5, 4, 310), "DNS domain {domain} does not exist"),
    FailureKind.NULL_MX: (Status(5, 1, 10), "Recipient address has null MX: {domain} accepts no mail"),
    # No design row. DNS has answered that there is no address (Absent, not Unknown), as final as NXDOMAIN.
    FailureKind.NO_ADDRESS: (Status(5, 4, 4), "Unable to route: the mail hosts of {domain} have no address"),
    # Temporary, so that the operator can still allow it (delivery.allow_private_addresses).
    FailureKind.ADDRESS_REFUSED: (Status(4, 4, 4), "Unable to route: the address of the mail host is not public"),
    FailureKind.LOOP: (Status(5, 4, 6), "Routing loop detected"),
    FailureKind.TIMEOUT: (Status(4, 4, 315), "Connection timed out"),
    FailureKind.CONNECTION_REFUSED: (Status(4, 4, 316), "Connection refused"),
    FailureKind.BROKEN_OFF: (Status(4, 4, 318), "Connection was closed abruptly"),
    FailureKind.PROTOCOL: (Status(4, 5, 0), "Protocol error"),
    FailureKind.REPLY: (Status(4, 4, 0), "The mail host does not take mail now"),
    FailureKind.EIGHT_BIT: (Status(5, 6, 3), "Conversion required but not supported: no 8BITMIME at {domain}"),
    FailureKind.SMTPUTF8: (Status(5, 6, 7), "Internationalized address not supported: no SMTPUTF8 at {domain}"),
    FailureKind.TOO_LARGE: (Status(5, 3, 4), "Message too big for system"),
    FailureKind.INTERNAL: (Status(4, 3, 0), "Internal error of the relay"),
}

_UTF8_HEADER = (
    Status(5, 6, 9),
    "Internationalized header fields cannot be sent: no SMTPUTF8 at {domain}",
)

# Where nothing demands TLS, a failed STARTTLS refuses nothing: the session merely broke off.
_NEEDS_DEMAND = frozenset(
    {
        FailureKind.CERTIFICATE,
        FailureKind.STARTTLS_MISSING,
        FailureKind.STARTTLS_REFUSED,
        FailureKind.HANDSHAKE,
    }
)


class _Candidate(NamedTuple):
    """One failure, with the host that it happened at, if any."""

    kind: FailureKind
    failure: HostFailure
    host: HostAttempt | None

    @property
    def rank(self) -> tuple[bool, bool, int]:
        """A refusal by policy first, then what waiting may mend, then the host that came furthest (design §6)."""
        phase = self.host.phase if self.host else Phase.ROUTE
        return self.kind.refusal, not _VERDICTS[self.kind][0].permanent, phase.value


def host_verdict(
    hosts: Sequence[HostAttempt], failure: HostFailure | None, *, domain: str, utf8_path: bool = True
) -> HostVerdict:
    """Return the verdict for recipients at `domain` whom no host took.

    `failure` is the route's own, where there was no host to try. `utf8_path`: a path, not only a header field, is
    what needs SMTPUTF8 (5.6.7, else 5.6.9). Hosts without a failure do not count. Without any failure the answer
    is 4.3.0: a mistake of ours must not bounce mail.
    """
    candidates = [_candidate(host.failure, host) for host in hosts if host.failure]
    if failure:
        candidates.append(_candidate(failure, None))
    if not candidates:
        internal = HostFailure(kind=FailureKind.INTERNAL, detail="no host was tried")
        candidates.append(_candidate(internal, None))
    worst = max(candidates, key=lambda candidate: candidate.rank)
    return _verdict(worst, domain, utf8_path)


def _candidate(failure: HostFailure, host: HostAttempt | None) -> _Candidate:
    kind = failure.kind
    if kind in _NEEDS_DEMAND and not (host and (host.dane or host.level is Level.VERIFIED)):
        kind = FailureKind.BROKEN_OFF
    return _Candidate(kind, failure, host)


def _verdict(candidate: _Candidate, domain: str, utf8_path: bool) -> HostVerdict:
    kind, failure, host = candidate
    contacted = host if host and host.address else None
    mta = contacted.mx_host if contacted else None
    address = contacted.address if contacted else None
    if kind is FailureKind.REPLY and failure.reply:
        status = failure.reply.status.as_class(4)
        return HostVerdict(status, str(failure.reply), False, False, failure.reply, mta, address)
    status, text = _UTF8_HEADER if kind is FailureKind.SMTPUTF8 and not utf8_path else _VERDICTS[kind]
    reason = failure.tls.reason if failure.tls else "Unknown"
    diagnostic = text.format(domain=domain, reason=reason) + _suffix(failure, contacted)
    by_dane = kind.refusal and (kind.dane or kind.route or host is None or host.level is not Level.VERIFIED)
    return HostVerdict(status, diagnostic, kind.refusal, by_dane, None, mta, address)


def _suffix(failure: HostFailure, contacted: HostAttempt | None) -> str:
    """Exchange's `[Message=…] [LastAttemptedServerName=…] [LastAttemptedIP=…:25]`, as far as there is any."""
    message = str(failure.reply) if failure.reply else failure.detail
    parts = [f"[Message={message[:_MAX_MESSAGE]}]"] if message else []
    if contacted:
        parts.append(f"[LastAttemptedServerName={contacted.mx_host}]")
        parts.append(f"[LastAttemptedIP={contacted.address}:{contacted.port}]")
    return "".join(f" {part}" for part in parts)
