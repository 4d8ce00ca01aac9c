"""What a host must keep to, or why it is not contacted. **Pure.**

RFC 8461 §4.1 (MX match before connecting), §5 (modes), RFC 7672 §2.2 (TLSA records), RFC 8689 §4.2.1 (REQUIRETLS).
"""

from dataclasses import replace
from enum import Enum
from typing import assert_never

from policy.answers import UnknownReason
from policy.dane import usable
from policy.findings import NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.mta_sts import Mode, Policy, matches
from policy.requirement import DaneDemand, Level, MxMatch, Refusal, RefusalReason, Requirement, RouteDemand

_SHOWN_PATTERNS = 10
_SHOWN_RECORDS = 3


class Enforcement(Enum):
    """The operator's setting `mta_sts.mode`, or that of a route.

    REPORT_ONLY takes `enforce` for `testing`; OFF takes all for `none`. MANDATORY takes `testing` for `enforce`, and
    there is no delivery without either.
    """

    ENFORCE = "enforce"
    REPORT_ONLY = "report-only"
    OFF = "off"
    MANDATORY = "mandatory"


class DaneMode(Enum):
    """The operator's setting for DANE. MANDATORY: no mail to a host that DANE does not authenticate (RFC 7672 §6)."""

    OPPORTUNISTIC = "opportunistic"
    MANDATORY = "mandatory"
    OFF = "off"


class Precedence(Enum):
    """What holds where DANE and MTA-STS both apply.

    DANE_FIRST: a host that DANE authenticates need not be in the policy, nor have a certificate of the web PKI.
    """

    BOTH = "both"
    DANE_FIRST = "dane-first"


class MxProof(Enum):
    """What proves, without any policy, that a host takes a domain's mail, when the message demands REQUIRETLS."""

    PROVEN = "proven"
    """DNSSEC, or that its name is the recipient domain's own, or one that the operator wrote."""
    NONE = "none"
    UNKNOWN = "unknown"
    """Nothing; and whether the domain has a policy could not be found out."""


def decide(
    mx_host: str,
    policy: Policy | None,
    tlsa: TlsaFindings | None = None,
    *,
    enforcement: Enforcement = Enforcement.ENFORCE,
    dane: DaneMode = DaneMode.OPPORTUNISTIC,
    precedence: Precedence = Precedence.BOTH,
    route: RouteDemand | None = None,
    requiretls: MxProof | None = None,
) -> Requirement | Refusal:
    """Return the requirement for one MX host of a domain with this policy in force, or None.

    `mx_host` is the name in the MX record, or the domain itself where it has none (RFC 5321 §5.1). `tlsa` is what was
    found of its TLSA records, None if nobody looked. What `route` demands comes on top of all. `requiretls` is None if
    the message does not demand it.
    """
    verdict = _by_domain(mx_host, policy, tlsa, route, enforcement=enforcement, dane=dane, precedence=precedence)
    if requiretls is None or isinstance(verdict, Refusal):
        return verdict
    return _with_requiretls(verdict, policy, requiretls)


def _by_domain(
    mx_host: str,
    policy: Policy | None,
    tlsa: TlsaFindings | None,
    route: RouteDemand | None,
    *,
    enforcement: Enforcement,
    dane: DaneMode,
    precedence: Precedence,
) -> Requirement | Refusal:
    demand = _dane_demand(mx_host, tlsa, dane)
    if isinstance(demand, Refusal):
        # RFC 8461 §2: whatever the policy says, it does not rescue what fails DANE.
        return demand
    mode = effective_mode(policy, enforcement)
    if mode is Mode.NONE and enforcement is Enforcement.MANDATORY:
        detail = "no MTA-STS policy is in force" if policy is None else "the MTA-STS policy says none"
        return Refusal(mx_host=mx_host, reason=RefusalReason.POLICY_REQUIRED, detail=detail)
    authenticated_by_dane = demand is not None and bool(demand.records)
    if authenticated_by_dane and precedence is Precedence.DANE_FIRST:
        mode = Mode.NONE
    if policy is None or mode is Mode.NONE:
        return Requirement(level=Level.OPPORTUNISTIC, mx_host=mx_host, dane=demand, route=route)
    mx_match = MxMatch.MATCHED if matches(mx_host, policy.mx) else MxMatch.NOT_MATCHED
    match mode:
        case Mode.TESTING:
            # RFC 8461 §5: deliver as if it had not failed, so a host is never left out; the mismatch is reported.
            return Requirement(level=Level.TESTING, mx_host=mx_host, mx_match=mx_match, dane=demand, route=route)
        case Mode.ENFORCE if mx_match is MxMatch.MATCHED:
            return Requirement(level=Level.VERIFIED, mx_host=mx_host, mx_match=mx_match, dane=demand, route=route)
        case Mode.ENFORCE:
            return Refusal(mx_host=mx_host, reason=RefusalReason.MX_NOT_IN_POLICY, detail=_detail(mx_host, policy))
        case _:
            assert_never(mode)


def _with_requiretls(verdict: Requirement, policy: Policy | None, proof: MxProof) -> Requirement | Refusal:
    """What the message adds. An operator's setting that weakens policies does not weaken this (RFC 8689 §2).

    Only `enforce` proves a name: by `testing` the domain itself says not to rely on the list yet.
    """
    mx_host = verdict.mx_host
    named = policy is not None and policy.mode is Mode.ENFORCE and matches(mx_host, policy.mx)
    if named or verdict.level is Level.VERIFIED or proof is MxProof.PROVEN:
        return replace(verdict, requiretls=True)
    unproven = f"neither DNSSEC nor a policy in mode enforce says that {mx_host} takes the domain's mail"
    if proof is MxProof.UNKNOWN:
        detail = f"{unproven}, as far as can be found out now"
        return Refusal(mx_host=mx_host, reason=RefusalReason.MX_VALIDATION_UNKNOWN, detail=detail)
    return Refusal(mx_host=mx_host, reason=RefusalReason.MX_NOT_VALIDATED, detail=unproven)


def effective_mode(policy: Policy | None, enforcement: Enforcement) -> Mode:
    """Return the mode that is acted on, after the operator's setting."""
    if policy is None or enforcement is Enforcement.OFF:
        return Mode.NONE
    if enforcement is Enforcement.REPORT_ONLY and policy.mode is Mode.ENFORCE:
        return Mode.TESTING
    if enforcement is Enforcement.MANDATORY and policy.mode is Mode.TESTING:
        return Mode.ENFORCE
    return policy.mode


def _dane_demand(mx_host: str, tlsa: TlsaFindings | None, mode: DaneMode) -> DaneDemand | Refusal | None:
    mandatory = mode is DaneMode.MANDATORY
    if mode is DaneMode.OFF:
        return None
    match tlsa:
        case TlsaUnknown(unknown=unknown):
            bogus = unknown.reason is UnknownReason.BOGUS
            reason = RefusalReason.DNSSEC_BOGUS if bogus else RefusalReason.TLSA_UNKNOWN
            detail = f"{tlsa.name}: {unknown.reason.value}: {unknown.detail}"
            return Refusal(mx_host=mx_host, reason=reason, detail=detail)
        case None | NoTlsa():
            detail = tlsa.detail if tlsa else f"nobody asked for the TLSA records of {mx_host}"
            return _dane_required(mx_host, detail) if mandatory else None
        case SecureTlsa() if mandatory and not tlsa.mx_secure:
            # RFC 7672 §2.2.1: who is authenticated is not known to be who was meant.
            return _dane_required(mx_host, f"DNSSEC does not secure that {mx_host} takes the domain's mail")
        case SecureTlsa():
            records = usable(tlsa.records)
            if mandatory and not records:
                shown = "; ".join(str(record) for record in tlsa.records[:_SHOWN_RECORDS])
                detail = f"no TLSA record of {tlsa.base_domain} can be used: {shown}"
                return Refusal(mx_host=mx_host, reason=RefusalReason.TLSA_UNUSABLE, detail=detail)
            return DaneDemand(base_domain=tlsa.base_domain, reference_names=tlsa.reference_names, records=records)
        case _:
            assert_never(tlsa)


def _dane_required(mx_host: str, detail: str) -> Refusal:
    return Refusal(mx_host=mx_host, reason=RefusalReason.DANE_REQUIRED, detail=detail)


def _detail(mx_host: str, policy: Policy) -> str:
    named = ", ".join(policy.mx[:_SHOWN_PATTERNS])
    more = len(policy.mx) - _SHOWN_PATTERNS
    return f"{mx_host} is not among the hosts that the policy names: {named}" + (
        f" and {more} more" if more > 0 else ""
    )
