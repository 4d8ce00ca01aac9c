"""Counts what attempts come to. Labels are enums or names of OpenSSL, never domains or addresses."""

from collections.abc import Iterator
from enum import Enum

from policy.requirement import Level, MxMatch, ResultType
from relay.metrics import Metrics
from relay.queue.attempt import Action, Attempt, FailureKind, HostAttempt
from relay.queue.message import HoldReason
from relay.queue.notice import NoticeKind
from relay.queue.settle import Decision
from relay.store.protocols import Verdict


class AttemptResult(Enum):
    """How an attempt at a job ended; the metric's label."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    MIXED = "mixed"
    BROKEN_OFF = "broken-off"
    CRASHED = "crashed"


_RESULTS = {
    Verdict.DELIVERED: AttemptResult.DELIVERED,
    Verdict.FAILED: AttemptResult.FAILED,
    Verdict.QUEUED: AttemptResult.DEFERRED,
}


_DANE_RESULT_TYPES = {
    FailureKind.DNSSEC_BOGUS: ResultType.DNSSEC_INVALID,
    FailureKind.TLSA_UNUSABLE: ResultType.TLSA_INVALID,
    FailureKind.DANE_REQUIRED: ResultType.DANE_REQUIRED,
}


class Tally:
    """The delivery metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempt(self, decision: Decision) -> None:
        attempt, metrics = decision.attempt, self._metrics
        metrics.attempts.labels(_result(decision).value).inc()
        metrics.attempt_seconds.observe((attempt.finished_at - attempt.started_at).total_seconds())
        in_queue = (attempt.finished_at - decision.job.message.accepted_at).total_seconds()
        for settled in decision.recipients:
            metrics.recipients.labels(_RESULTS[settled.verdict].value, str(settled.status.class_)).inc()
            if settled.verdict is not Verdict.QUEUED:
                metrics.queue_seconds.observe(max(in_queue, 0.0))
        self._deliveries(attempt)
        for result_type, mode in _enforcement_failures(attempt):
            metrics.enforcement_failures.labels(result_type.value, mode).inc()
        if decision.hold is HoldReason.DOUBLE_BOUNCE:
            metrics.double_bounces.inc()

    def broken_off(self) -> None:
        self._metrics.attempts.labels(AttemptResult.BROKEN_OFF.value).inc()

    def crashed(self) -> None:
        self._metrics.attempts.labels(AttemptResult.CRASHED.value).inc()

    def notice(self, kind: NoticeKind) -> None:
        self._metrics.notices.labels(kind.value).inc()

    def _deliveries(self, attempt: Attempt) -> None:
        versions = {(host.mx_host, host.address): host.tls.version for host in attempt.hosts if host.tls}
        for outcome in attempt.outcomes:
            if outcome.action is Action.DELIVERED and outcome.security is not None and outcome.remote_mta is not None:
                version = versions.get((outcome.remote_mta, outcome.remote_address), "none")
                self._metrics.deliveries.labels(outcome.security.value, version).inc()


def _result(decision: Decision) -> AttemptResult:
    verdicts = {settled.verdict for settled in decision.recipients}
    if len(verdicts) > 1:
        return AttemptResult.MIXED
    return _RESULTS[verdicts.pop()]


def _enforcement_failures(attempt: Attempt) -> Iterator[tuple[ResultType, str]]:
    """What failed a policy, by RFC 8460 result type; in mode testing also what was delivered all the same."""
    for host in attempt.hosts:
        if host.testing_failure is not None:
            yield host.testing_failure.result_type, "testing"
        elif (host.dane or host.level is Level.VERIFIED) and host.failure is not None and host.failure.kind.refusal:
            by_dane = host.failure.kind.dane or host.level is not Level.VERIFIED
            yield _result_type(host), "dane" if by_dane else "enforce"


def _result_type(host: HostAttempt) -> ResultType:
    failure = host.failure
    if failure is not None and failure.tls is not None:
        return failure.tls.result_type
    if failure is not None and failure.kind in _DANE_RESULT_TYPES:
        return _DANE_RESULT_TYPES[failure.kind]
    if host.mx_match is MxMatch.NOT_MATCHED or (failure and failure.kind is FailureKind.HANDSHAKE):
        return ResultType.VALIDATION_FAILURE
    return ResultType.STARTTLS_NOT_SUPPORTED
