"""What a TLS session was under each policy that it was held to, for the reports of RFC 8460 (§4.2 to §4.4). **Pure.**

Where an MTA-STS policy and TLSA records both apply, each has a result of its own; without either there is one of type
no-policy-found. A policy by which nothing was judged, because the session failed before or transiently, has none.
"""

import re
from collections.abc import Iterator, Sequence
from datetime import date

from policy.answers import UnknownReason
from policy.findings import CachedPolicy, FetchProblem, Findings, SecureTlsa, TlsaUnknown
from policy.mta_sts import policy_lines
from policy.one_line import one_line
from policy.requirement import MxMatch, PolicyType, Refusal, RefusalReason, Requirement, ResultType
from policy.tls_facts import TlsFailure
from relay.delivery.hosts import Host, Route
from relay.delivery.negotiation import Negotiation
from relay.queue.attempt import FailureKind
from relay.queue.tls_results import ReportedPolicy, SessionFailure, TlsResult

MAX_LINES = 100
"""Lines or records that are told of one policy: no policy that serves its purpose has so many."""
_MAX_LINE = 500
_WORD_BEGINS = re.compile(r"(?<=[a-z0-9])(?=[A-Z])")

_WEB_PKI = frozenset({FailureKind.CERTIFICATE, FailureKind.ROUTE_CERTIFICATE, FailureKind.REQUIRETLS_CERTIFICATE})
_UNUSABLE = TlsFailure(result_type=ResultType.TLSA_INVALID, reason="TlsaUnusable", detail="no record can be used")


def session_results(
    domain: str, host: Host, findings: Findings | None, negotiation: Negotiation
) -> tuple[TlsResult, ...]:
    """Return how a host kept to what it was held to. `domain` is the one whose record says who gets the report."""
    assert isinstance(host.verdict, Requirement), "a refused host is not contacted"
    return tuple(
        TlsResult(
            day=negotiation.day,
            recipient_domain=domain,
            policy=policy,
            failures=tuple(_session_failure(host, failure, negotiation) for failure in failures),
        )
        for policy, failures in _judgements(domain, host, host.verdict, findings, negotiation)
        if failures is not None
    )


def reported_domain(destination: str, route: Route) -> str:
    """Return the domain whose TLSRPT record says who is told (RFC 8460 §3), "" if none could have one."""
    if route.findings is not None:
        return route.findings.policy_domain
    if route.next_hop is not None:
        return route.next_hop.host if isinstance(route.next_hop.host, str) else ""
    return "" if destination.startswith("[") else destination


def refusal_results(domain: str, host: Host, findings: Findings | None, day: date) -> tuple[TlsResult, ...]:
    """Return what is to be told of a host that was never contacted, because policy, DANE or DNSSEC are against it."""
    policy: ReportedPolicy | None
    if isinstance(host.verdict, Refusal):
        reason = host.verdict.reason
        policy, result_type, code = _refusing(domain, host, findings, reason), reason.result_type, reason.value
    else:
        policy = _tlsa_policy(host) if host.bogus else None
        result_type, code = ResultType.DNSSEC_INVALID, "address-dnssec-bogus"
    if policy is None:
        return ()
    failure = SessionFailure(result_type=result_type, receiving_mx_hostname=host.name, failure_reason_code=code)
    return (TlsResult(day=day, recipient_domain=domain, policy=policy, failures=(failure,)),)


def bogus_mx_result(domain: str, day: date) -> TlsResult:
    """Return what is to be told where DNSSEC keeps back the MX records, on which all of DANE rests (RFC 7672 §2.2.1).

    No host is known then, and so no TLSA base domain: the policy domain is the domain itself.
    """
    policy = ReportedPolicy(policy_type=PolicyType.TLSA, policy_domain=domain)
    failure = SessionFailure(result_type=ResultType.DNSSEC_INVALID, failure_reason_code="mx-dnssec-bogus")
    return TlsResult(day=day, recipient_domain=domain, policy=policy, failures=(failure,))


def discovery_result(policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None, day: date) -> TlsResult:
    """Return what is to be told of a policy that could not be had (RFC 8460 §4.3.2.2, RFC 8461 §6).

    It counts for each try to fetch it, not for each message that meanwhile goes under the cached policy or without
    one: those have sessions, which are counted as what they are.
    """
    policy = _published(cached) if cached else ReportedPolicy(policy_type=PolicyType.STS, policy_domain=policy_domain)
    failure = SessionFailure(result_type=problem.result_type, failure_reason_code=one_line(problem.detail))
    return TlsResult(day=day, recipient_domain=policy_domain, policy=policy, failures=(failure,))


_Failures = tuple[TlsFailure, ...]
"""What was wrong under one policy; empty is a success."""


def _judgements(
    domain: str, host: Host, held_to: Requirement, findings: Findings | None, negotiation: Negotiation
) -> Iterator[tuple[ReportedPolicy, _Failures | None]]:
    by_sts = held_to.mx_match is not MxMatch.NO_POLICY
    if by_sts:
        yield _sts_policy(findings), _certificate_failures(negotiation)
    if held_to.dane is not None:
        unusable = () if held_to.dane.records else (_UNUSABLE,)
        yield _tlsa_policy(host), _dane_failures(negotiation, unusable)
    elif not by_sts:
        yield _no_policy(domain), _certificate_failures(negotiation)


def _certificate_failures(negotiation: Negotiation) -> _Failures | None:
    """What was wrong by the web PKI, or with TLS at all."""
    if negotiation.waived is not None:
        return (negotiation.waived,)
    failure = negotiation.failure
    if failure is None:
        return ()
    if failure.tls is None:
        return None
    # What fails DANE has passed: the records are compared once the certificate has been verified.
    return () if failure.kind.dane else (failure.tls,)


def _dane_failures(negotiation: Negotiation, unusable: _Failures) -> _Failures | None:
    failure = negotiation.failure
    if failure is None:
        return unusable
    if failure.tls is None or failure.kind in _WEB_PKI:
        return unusable or None  # nobody came to compare the records
    return (*unusable, failure.tls)


def _session_failure(host: Host, failure: TlsFailure, negotiation: Negotiation) -> SessionFailure:
    ends = negotiation.ends
    return SessionFailure(
        result_type=failure.result_type,
        sending_mta_ip=ends.sending_mta_ip,
        receiving_mx_hostname=host.name,
        receiving_mx_helo=ends.receiving_mx_helo,
        receiving_ip=ends.receiving_ip,
        failure_reason_code=_WORD_BEGINS.sub("-", failure.reason).lower(),
    )


def _refusing(domain: str, host: Host, findings: Findings | None, reason: RefusalReason) -> ReportedPolicy | None:
    """The policy that keeps a host from being contacted; None if it is the message, or if it may pass by itself."""
    match reason:
        case RefusalReason.MX_NOT_IN_POLICY:
            return _sts_policy(findings)
        case RefusalReason.POLICY_REQUIRED:
            return _no_policy(domain)
        case RefusalReason.DNSSEC_BOGUS | RefusalReason.TLSA_UNUSABLE | RefusalReason.DANE_REQUIRED:
            return _tlsa_policy(host)
        case RefusalReason.TLSA_UNKNOWN if _is_servfail(host):
            # RFC 8460 §4.3.4 leaves out what is transient; but many a resolver has no other word for bogus.
            return _tlsa_policy(host)
        case _:
            return None


def _is_servfail(host: Host) -> bool:
    return isinstance(host.tlsa, TlsaUnknown) and host.tlsa.unknown.reason is UnknownReason.SERVFAIL


# The policies, as they were published.


def _sts_policy(findings: Findings | None) -> ReportedPolicy:
    assert findings is not None, "a policy judged the host"
    assert findings.cached is not None, "a policy judged the host"
    return _published(findings.cached)


def _published(cached: CachedPolicy) -> ReportedPolicy:
    return ReportedPolicy(
        policy_type=PolicyType.STS,
        policy_domain=cached.policy_domain,
        policy_string=_capped(policy_lines(cached.policy.text)),
        mx_host=_capped(cached.policy.mx),
    )


def _tlsa_policy(host: Host) -> ReportedPolicy:
    """RFC 8460 §3: the policy domain is the TLSA base domain."""
    if not isinstance(host.tlsa, SecureTlsa):
        return ReportedPolicy(policy_type=PolicyType.TLSA, policy_domain=host.name)
    records = host.tlsa.records[:MAX_LINES]
    return ReportedPolicy(
        policy_type=PolicyType.TLSA,
        policy_domain=host.tlsa.base_domain,
        policy_string=_capped([record.presentation for record in records]),
    )


def _no_policy(domain: str) -> ReportedPolicy:
    return ReportedPolicy(policy_type=PolicyType.NO_POLICY_FOUND, policy_domain=domain)


def _capped(lines: Sequence[str]) -> tuple[str, ...]:
    return tuple(line[:_MAX_LINE] for line in lines[:MAX_LINES])
