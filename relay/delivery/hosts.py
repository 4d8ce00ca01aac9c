"""The mail hosts of a destination: who they are, where they are, what they must keep to. **Pure.**"""

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from urllib.parse import urlsplit

from policy.decide import DaneMode, Enforcement, MxProof, Precedence, decide
from policy.findings import Findings, SecureTlsa, TlsaFindings
from policy.names import IPAddress, to_host
from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement
from relay.delivery.seam import Target
from relay.queue.attempt import DaneScope, FailureKind, HostFailure
from relay.queue.message import Message

SMTP_PORT = 25


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A host that the operator named. `host` is a canonical name or an address."""

    host: str | IPAddress
    port: int = SMTP_PORT

    @classmethod
    def parse(cls, url: str) -> "NextHop":
        """Return the next hop of `smtp://host:port`; raises ValueError, with words for the operator."""
        parts = urlsplit(url)
        if (
            parts.scheme != "smtp"
            or not parts.hostname
            or parts.path
            or parts.query
            or parts.fragment
            or parts.username
        ):
            raise ValueError(f"{url!r} is not of the form smtp://host:port")
        port = SMTP_PORT if parts.port is None else parts.port
        if port == 0:
            raise ValueError(f"{url!r} has port 0")
        try:
            return cls(host=ipaddress.ip_address(parts.hostname), port=port)
        except ValueError:
            return cls(host=to_host(parts.hostname), port=port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One mail host, in the order in which it is to be tried.

    `name` is the name in the MX record, never where a CNAME led (RFC 8461 §4.1). `where` are its addresses in the
    order to be tried, or why it has none that may be contacted. `tlsa` is what was found of its TLSA records, None if
    nobody asked. `verdict` is what policy and records together demand of it. `name_proven`: without any policy it is
    sure that this host is who was meant, because of DNSSEC, the recipient's own domain, or the operator. `targets`:
    its addresses under that verdict, none if it is not to be contacted.
    """

    name: str
    port: int
    where: tuple[IPAddress, ...] | HostFailure
    verdict: Requirement | Refusal
    tlsa: TlsaFindings | None = None
    name_proven: bool = False
    targets: tuple[Target, ...] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        targets: list[Target] = []
        if isinstance(self.verdict, Requirement) and isinstance(self.where, tuple):
            targets += [
                Target(mx_host=self.name, address=address, port=self.port, requirement=self.verdict)
                for address in self.where
            ]
        object.__setattr__(self, "targets", tuple(targets))

    @property
    def failure(self) -> HostFailure | None:
        """Why the host is not contacted at all, or None. What the policy says comes first."""
        if isinstance(self.verdict, Refusal):
            return HostFailure(kind=_REFUSALS[self.verdict.reason], detail=self.verdict.detail)
        return self.where if isinstance(self.where, HostFailure) else None

    @property
    def level(self) -> Level:
        if isinstance(self.verdict, Requirement):
            return self.verdict.level
        return Level.VERIFIED if self.verdict.reason is RefusalReason.MX_NOT_IN_POLICY else Level.OPPORTUNISTIC

    @property
    def mx_match(self) -> MxMatch:
        if isinstance(self.verdict, Requirement):
            return self.verdict.mx_match
        not_matched = self.verdict.reason is RefusalReason.MX_NOT_IN_POLICY
        return MxMatch.NOT_MATCHED if not_matched else MxMatch.NO_POLICY

    @property
    def dane(self) -> DaneScope | None:
        """What DANE secures here, if it has a say in how the host is used, or in that it is not."""
        if isinstance(self.verdict, Requirement):
            has_say = self.verdict.dane is not None
        else:
            has_say = self.verdict.reason not in _NOT_BY_DANE
        if not has_say:
            return None
        # RFC 7672 §2.2.1: where the MX record is not secure, nobody knows that this host is who was meant.
        return DaneScope.DOMAIN if isinstance(self.tlsa, SecureTlsa) and self.tlsa.mx_secure else DaneScope.HOST


_BY_MESSAGE = frozenset({RefusalReason.MX_NOT_VALIDATED, RefusalReason.MX_VALIDATION_UNKNOWN})
_NOT_BY_DANE = _BY_MESSAGE | {RefusalReason.MX_NOT_IN_POLICY}
_REFUSALS = {
    RefusalReason.MX_NOT_IN_POLICY: FailureKind.MX_NOT_IN_POLICY,
    RefusalReason.DNSSEC_BOGUS: FailureKind.DNSSEC_BOGUS,
    # RFC 7672 §2.1.2: a question without an answer refuses nothing for good, so it counts as DNS that fails.
    RefusalReason.TLSA_UNKNOWN: FailureKind.DNS_UNKNOWN,
    RefusalReason.TLSA_UNUSABLE: FailureKind.TLSA_UNUSABLE,
    RefusalReason.DANE_REQUIRED: FailureKind.DANE_REQUIRED,
    RefusalReason.MX_NOT_VALIDATED: FailureKind.MX_NOT_VALIDATED,
    RefusalReason.MX_VALIDATION_UNKNOWN: FailureKind.MX_VALIDATION_UNKNOWN,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Route:
    """The way to one destination: hosts in order, or why there is none.

    `findings` is what MTA-STS says of the policy domain, None where no policy can apply (address literals, a next
    hop of the operator's, no hosts at all).
    """

    hosts: tuple[Host, ...] = ()
    findings: Findings | None = None
    failure: HostFailure | None = None


def opportunistic(host: str) -> Requirement:
    """The requirement where no policy applies."""
    return Requirement(level=Level.OPPORTUNISTIC, mx_host=host)


def for_reports(host: Host) -> Host:
    """Return the same host for TLS reports: nothing is demanded of it, and nothing else goes there beside them."""
    return replace(host, verdict=Requirement(level=Level.OPPORTUNISTIC, mx_host=host.name, for_reports=True))


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """The operator's say in what hosts are held to, [mta_sts] and [dane], and what a message adds to it."""

    enforcement: Enforcement = Enforcement.ENFORCE
    dane: DaneMode = DaneMode.OPPORTUNISTIC
    precedence: Precedence = Precedence.BOTH
    requiretls: bool = False

    def of_message(self, message: Message) -> "Judgement":
        """Return what holds for this message; for most it is this very object."""
        if message.require_tls and message.envelope.reverse_path:
            # RFC 8689 §5: with a null reverse-path the parameter is passed on where it can be, and demanded of nobody.
            return replace(self, requiretls=True)
        if message.tls_optional:
            # RFC 8689 §3: as if there were neither MTA-STS nor DANE, but what they refuse is told all the same. What
            # the operator has made mandatory stays so.
            enforcement = Enforcement.REPORT_ONLY if self.enforcement is Enforcement.ENFORCE else self.enforcement
            dane = DaneMode.OFF if self.dane is DaneMode.OPPORTUNISTIC else self.dane
            return replace(self, enforcement=enforcement, dane=dane)
        return self


def judged(hosts: Iterable[Host], findings: Findings | None, judgement: Judgement) -> tuple[Host, ...]:
    """Return the same hosts in the same order, judged by policy and TLSA records (RFC 8461 §4.1, §8.4, RFC 7672 §2.2).

    `findings` is what MTA-STS says, None where it does not apply. None is left out: a host that is refused stays in
    the list, so that loops are seen and records are whole.
    """
    policy = findings.cached.policy if findings and findings.cached else None
    return tuple(
        Host(
            name=host.name,
            port=host.port,
            where=host.where,
            verdict=decide(
                host.name,
                policy,
                host.tlsa,
                enforcement=judgement.enforcement,
                dane=judgement.dane,
                precedence=judgement.precedence,
                requiretls=_proof(host, findings) if judgement.requiretls else None,
            ),
            tlsa=host.tlsa,
            name_proven=host.name_proven,
        )
        for host in hosts
    )


def _proof(host: Host, findings: Findings | None) -> MxProof:
    if host.name_proven:
        return MxProof.PROVEN
    unclear = findings is not None and (findings.problem is not None or findings.unknown is not None)
    return MxProof.UNKNOWN if unclear else MxProof.NONE
