"""What enforcement meant for a host, a recipient and a whole job: refused, would have been refused, proven. **Pure.**

RFC 8461 §5 (modes), RFC 8460 §4.3 (result types). Metrics, log and `report enforcement` are views of it.

Limits: what would have been refused is said of the host that took the message. Another host of the domain, that keeps
to the policy, is tried only where refusing is real.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from policy.mta_sts import Mode
from policy.requirement import Level, MxMatch, ResultType
from relay.queue.attempt import Action, Attempt, FailureKind, HostAttempt, Outcome, Security
from relay.value import Choice

MX_NOT_IN_POLICY = "mx-not-in-policy"
"""The reason that RFC 8460 has no result type of its own for."""


class BreachMode(Choice):
    """What was done about a host that failed its policy; also the metric's label."""

    ENFORCE = "enforce"
    """It was refused."""
    TESTING = "testing"
    """It got the mail: the domain's own policy says testing."""
    REPORT_ONLY = "report-only"
    """It got the mail, or was offered it: the policy says enforce, and `mta_sts.mode` report-only."""
    DANE = "dane"
    """It was refused, for its TLSA records."""
    ROUTE = "route"
    """It was refused, for what a route of the operator's demands."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Breach:
    """How one host failed what it was held to. `reason` is the same word whether it was refused or not."""

    mode: BreachMode
    result_type: ResultType
    reason: str


def host_breach(host: HostAttempt, attempt: Attempt) -> Breach | None:
    """Return how a host failed the policy in force at the attempt, or DANE; None if it did not."""
    if host.testing_failure is not None:
        enforced = attempt.policy is not None and attempt.policy.mode == Mode.ENFORCE.value
        mode = BreachMode.REPORT_ONLY if enforced else BreachMode.TESTING
        return _breach(host, mode, host.testing_failure.result_type)
    if host.failure is None or not host.failure.kind.refusal:
        return None
    if host.failure.kind.message:
        return None
    if host.failure.kind.route:
        return Breach(mode=BreachMode.ROUTE, result_type=_result_type(host), reason=host.failure.kind.value)
    if host.dane and (host.failure.kind.dane or host.level is not Level.VERIFIED):
        return Breach(mode=BreachMode.DANE, result_type=_result_type(host), reason=host.failure.kind.value)
    return _breach(host, BreachMode.ENFORCE, _result_type(host)) if host.level is Level.VERIFIED else None


def recipient_breach(outcome: Outcome, attempt: Attempt) -> Breach | None:
    """Return what refused a recipient, or would have refused it at the host that took it."""
    for host in attempt.hosts:
        if (breach := host_breach(host, attempt)) is None:
            continue
        if outcome.refused or (host.address == outcome.remote_address and host.mx_host == outcome.remote_mta):
            return breach
    return None


class Standing(Enum):
    """What came of a job, as far as enforcement goes; of several recipients the worst."""

    REFUSED = "refused"
    """No host kept to what it is held to: the mail waits, or has failed."""
    WOULD_REFUSE = "would-refuse"
    """Delivered in report-only mode to a host that enforcing would have refused."""
    TESTING = "testing"
    """Delivered to a host that fails a policy which is itself in mode testing."""
    REFUSED_FIRST = "refused-first"
    """Refused at one attempt or more, then delivered with proof or without policy."""
    PROVEN = "proven"
    """Delivered over a session that was verified as policy, DANE or a route demand."""
    WITHOUT_POLICY = "without-policy"
    """Delivered, and nothing demanded proof."""
    OTHER = "other"
    """Not delivered, for reasons that have nothing to do with enforcement."""


_UNPROVEN = frozenset({Security.PLAINTEXT, Security.OPPORTUNISTIC})
_BREACHED = {
    BreachMode.ENFORCE: Standing.REFUSED,
    BreachMode.DANE: Standing.REFUSED,
    BreachMode.ROUTE: Standing.REFUSED,
    BreachMode.TESTING: Standing.TESTING,
    BreachMode.REPORT_ONLY: Standing.WOULD_REFUSE,
}


def standing(attempts: Sequence[Attempt]) -> tuple[Standing, str]:
    """Return where a job stands after these attempts, the latest last, and the reason, "" where there is none."""
    refusal = ""
    for attempt in attempts:
        refusal = next((_reason(one, attempt) for one in attempt.outcomes if one.refused), refusal)
    last = attempts[-1]
    if any(outcome.refused for outcome in last.outcomes):
        return Standing.REFUSED, refusal
    delivered = [outcome for outcome in last.outcomes if outcome.action is Action.DELIVERED]
    if not delivered:
        return (Standing.REFUSED, refusal) if refusal else (Standing.OTHER, "")
    breach = next((breach for one in delivered if (breach := recipient_breach(one, last)) is not None), None)
    if breach is not None:
        return _BREACHED[breach.mode], breach.reason
    if refusal:
        return Standing.REFUSED_FIRST, refusal
    unproven = any(outcome.security in _UNPROVEN or outcome.security is None for outcome in delivered)
    return Standing.WITHOUT_POLICY if unproven else Standing.PROVEN, ""


def _reason(outcome: Outcome, attempt: Attempt) -> str:
    breach = recipient_breach(outcome, attempt)
    return breach.reason if breach else "other"


def _breach(host: HostAttempt, mode: BreachMode, result_type: ResultType) -> Breach:
    not_matched = host.mx_match is MxMatch.NOT_MATCHED
    return Breach(mode=mode, result_type=result_type, reason=MX_NOT_IN_POLICY if not_matched else result_type.value)


_RESULT_TYPES = {
    FailureKind.DNSSEC_BOGUS: ResultType.DNSSEC_INVALID,
    FailureKind.TLSA_UNUSABLE: ResultType.TLSA_INVALID,
    FailureKind.DANE_REQUIRED: ResultType.DANE_REQUIRED,
    FailureKind.POLICY_REQUIRED: ResultType.VALIDATION_FAILURE,
}


def _result_type(host: HostAttempt) -> ResultType:
    failure = host.failure
    if failure is not None and failure.tls is not None:
        return failure.tls.result_type
    if failure is not None and failure.kind in _RESULT_TYPES:
        return _RESULT_TYPES[failure.kind]
    if host.mx_match is MxMatch.NOT_MATCHED or (failure and failure.kind is FailureKind.HANDSHAKE):
        return ResultType.VALIDATION_FAILURE
    return ResultType.STARTTLS_NOT_SUPPORTED
