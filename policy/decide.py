"""What a host must keep to, or why it is not contacted. **Pure.**

RFC 8461 §4.1 (MX match before connecting), §5 (modes).
"""

from enum import Enum
from typing import assert_never

from policy.mta_sts import Mode, Policy, matches
from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement

_SHOWN_PATTERNS = 10


class Enforcement(Enum):
    """The operator's setting `mta_sts.mode`. REPORT_ONLY takes `enforce` for `testing`; OFF takes all for `none`."""

    ENFORCE = "enforce"
    REPORT_ONLY = "report-only"
    OFF = "off"


def decide(
    mx_host: str, policy: Policy | None, *, enforcement: Enforcement = Enforcement.ENFORCE
) -> Requirement | Refusal:
    """Return the requirement for one MX host of a domain with this policy in force, or None.

    `mx_host` is the name in the MX record, or the domain itself where it has none (RFC 5321 §5.1).
    """
    mode = effective_mode(policy, enforcement)
    if policy is None or mode is Mode.NONE:
        return Requirement(level=Level.OPPORTUNISTIC, mx_host=mx_host)
    mx_match = MxMatch.MATCHED if matches(mx_host, policy.mx) else MxMatch.NOT_MATCHED
    match mode:
        case Mode.TESTING:
            # RFC 8461 §5: deliver as if it had not failed, so a host is never left out; the mismatch is reported.
            return Requirement(level=Level.TESTING, mx_host=mx_host, mx_match=mx_match)
        case Mode.ENFORCE if mx_match is MxMatch.MATCHED:
            return Requirement(level=Level.VERIFIED, mx_host=mx_host, mx_match=mx_match)
        case Mode.ENFORCE:
            return Refusal(mx_host=mx_host, reason=RefusalReason.MX_NOT_IN_POLICY, detail=_detail(mx_host, policy))
        case _:
            assert_never(mode)


def effective_mode(policy: Policy | None, enforcement: Enforcement) -> Mode:
    """Return the mode that is acted on, after the operator's setting."""
    if policy is None or enforcement is Enforcement.OFF:
        return Mode.NONE
    if enforcement is Enforcement.REPORT_ONLY and policy.mode is Mode.ENFORCE:
        return Mode.TESTING
    return policy.mode


def _detail(mx_host: str, policy: Policy) -> str:
    named = ", ".join(policy.mx[:_SHOWN_PATTERNS])
    more = len(policy.mx) - _SHOWN_PATTERNS
    return f"{mx_host} is not among the hosts that the policy names: {named}" + (
        f" and {more} more" if more > 0 else ""
    )
