"""The mail hosts of a destination: who they are, where they are, what they must keep to. **Pure.**"""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property

from policy.decide import MxProof, decide
from policy.findings import Findings, SecureTlsa, TlsaFindings
from policy.mta_sts import Policy
from policy.names import IPAddress
from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement, RouteDemand
from relay.delivery.policy_record import policy_facts, policy_problem
from relay.delivery.routing_table import ORDINARY, Directions, Judgement, NextHop
from relay.delivery.seam import Login, Target
from relay.queue.attempt import DaneScope, FailureKind, HostFailure, PolicyFacts


@dataclass(frozen=True, kw_only=True)
class Host:
    """One mail host, in the order in which it is to be tried.

    `name` is the name in the MX record, never where a CNAME led (RFC 8461 §4.1). `where` are its addresses in the
    order to be tried, or why it has none that may be contacted; `bogus`: it is by DNSSEC, and where DANE counts, that
    they are not known. `tlsa` is what was found of its TLSA records, None if
    nobody asked. `verdict` is what policy, records and route together demand of it. `name_proven`: without any policy
    it is sure that this host is who was meant, because of DNSSEC, the recipient's own domain, or the operator.
    `implicit_tls` and `login` are how the operator's route says that it is to be entered. What follows from these is
    found out once, for all messages that take the same route.
    """

    name: str
    port: int
    where: tuple[IPAddress, ...] | HostFailure
    verdict: Requirement | Refusal
    bogus: bool = False
    tlsa: TlsaFindings | None = None
    name_proven: bool = False
    implicit_tls: bool = False
    login: Login | None = None

    @cached_property
    def targets(self) -> tuple[Target, ...]:
        """Its addresses under that verdict, none if it is not to be contacted."""
        if not isinstance(self.verdict, Requirement) or not isinstance(self.where, tuple):
            return ()
        return tuple(
            Target(
                mx_host=self.name,
                address=address,
                port=self.port,
                requirement=self.verdict,
                implicit_tls=self.implicit_tls,
                login=self.login,
            )
            for address in self.where
        )

    @cached_property
    def failure(self) -> HostFailure | None:
        """Why the host is not contacted at all, or None. What the policy says comes first."""
        if isinstance(self.verdict, Refusal):
            return HostFailure(kind=_REFUSALS[self.verdict.reason], detail=self.verdict.detail)
        return self.where if isinstance(self.where, HostFailure) else None

    @cached_property
    def level(self) -> Level:
        if isinstance(self.verdict, Requirement):
            return self.verdict.level
        return Level.VERIFIED if self.verdict.reason is RefusalReason.MX_NOT_IN_POLICY else Level.OPPORTUNISTIC

    @cached_property
    def mx_match(self) -> MxMatch:
        if isinstance(self.verdict, Requirement):
            return self.verdict.mx_match
        not_matched = self.verdict.reason is RefusalReason.MX_NOT_IN_POLICY
        return MxMatch.NOT_MATCHED if not_matched else MxMatch.NO_POLICY

    @cached_property
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
_NOT_BY_DANE = _BY_MESSAGE | {RefusalReason.MX_NOT_IN_POLICY, RefusalReason.POLICY_REQUIRED}
_REFUSALS = {
    RefusalReason.MX_NOT_IN_POLICY: FailureKind.MX_NOT_IN_POLICY,
    RefusalReason.DNSSEC_BOGUS: FailureKind.DNSSEC_BOGUS,
    # RFC 7672 §2.1.2: a question without an answer refuses nothing for good, so it counts as DNS that fails.
    RefusalReason.TLSA_UNKNOWN: FailureKind.DNS_UNKNOWN,
    RefusalReason.TLSA_UNUSABLE: FailureKind.TLSA_UNUSABLE,
    RefusalReason.DANE_REQUIRED: FailureKind.DANE_REQUIRED,
    RefusalReason.MX_NOT_VALIDATED: FailureKind.MX_NOT_VALIDATED,
    RefusalReason.MX_VALIDATION_UNKNOWN: FailureKind.MX_VALIDATION_UNKNOWN,
    RefusalReason.POLICY_REQUIRED: FailureKind.POLICY_REQUIRED,
}


@dataclass(frozen=True, kw_only=True)
class Route:
    """The way to one destination: hosts in order, or why there is none.

    `findings` is what MTA-STS says of the policy domain, None where no policy can apply (address literals, no hosts at
    all). `directions` led here; of several next hops, each of which is a policy domain of its own, to `next_hop`, and
    `others` are the ways by those after it, for whoever nobody on this one takes. `bogus`: it is by DNSSEC, and where
    DANE counts, that nobody knows the MX hosts.
    """

    hosts: tuple[Host, ...] = ()
    findings: Findings | None = None
    failure: HostFailure | None = None
    bogus: bool = False
    directions: Directions = ORDINARY
    next_hop: NextHop | None = None
    others: tuple["Route", ...] = ()

    @cached_property
    def policy(self) -> PolicyFacts | None:
        """The policy in force, as the records of all attempts on this route keep it."""
        return policy_facts(self.findings)

    @cached_property
    def policy_problem(self) -> str:
        return policy_problem(self.findings)


def opportunistic(host: str) -> Requirement:
    """The requirement where no policy applies."""
    return Requirement(level=Level.OPPORTUNISTIC, mx_host=host)


def judged(hosts: Iterable[Host], findings: Findings | None, judgement: Judgement) -> tuple[Host, ...]:
    """Return the same hosts in the same order, judged by policy and TLSA records (RFC 8461 §4.1, §8.4, RFC 7672 §2.2).

    `findings` is what MTA-STS says, None where it does not apply. None is left out: a host that is refused stays in
    the list, so that loops are seen and records are whole.
    """
    policy = findings.cached.policy if findings and findings.cached else None
    return tuple([_with_verdict(host, _verdict(host, policy, findings, judgement)) for host in hosts])


def _with_verdict(host: Host, verdict: Requirement | Refusal) -> Host:
    """The same host where nothing changes, with the targets that its connections are kept under."""
    return host if verdict == host.verdict else replace(host, verdict=verdict)


_IMPLICIT_TLS = RouteDemand(level=Level.ENCRYPTED)


def _verdict(
    host: Host, policy: Policy | None, findings: Findings | None, judgement: Judgement
) -> Requirement | Refusal:
    verdict = decide(
        host.name,
        policy,
        host.tlsa,
        enforcement=judgement.enforcement,
        dane=judgement.dane,
        precedence=judgement.precedence,
        requiretls=_proof(host, findings) if judgement.requiretls else None,
        route=judgement.demand or (_IMPLICIT_TLS if host.implicit_tls else None),
    )
    return replace(verdict, for_reports=True) if judgement.for_reports and isinstance(verdict, Requirement) else verdict


def _proof(host: Host, findings: Findings | None) -> MxProof:
    if host.name_proven:
        return MxProof.PROVEN
    unclear = findings is not None and (findings.problem is not None or findings.unknown is not None)
    return MxProof.UNKNOWN if unclear else MxProof.NONE
