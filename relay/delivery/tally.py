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

_OUTCOMES = {Verdict.DELIVERED: "delivered", Verdict.FAILED: "failed", Verdict.QUEUED: "deferred"}


class AttemptResult(Enum):
    """How an attempt at a job ended; the metric's label."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    MIXED = "mixed"
    BROKEN_OFF = "broken-off"
    CRASHED = "crashed"


class Tally:
    """The delivery metrics."""

    def __init__(self, metrics: Metrics) -> None:
        self._metrics = metrics

    def attempt(self, decision: Decision) -> None:
        attempt = decision.attempt
        self._metrics.attempts.labels(_result(decision).value).inc()
        self._metrics.attempt_seconds.observe((attempt.finished_at - attempt.started_at).total_seconds())
        in_queue = (attempt.finished_at - decision.job.message.accepted_at).total_seconds()
        for settled in decision.recipients:
            self._metrics.recipients.labels(_OUTCOMES[settled.verdict], str(settled.status.class_)).inc()
            if settled.verdict is not Verdict.QUEUED:
                self._metrics.queue_seconds.observe(max(in_queue, 0.0))
        self._deliveries(attempt)
        for result_type, mode in _enforcement_failures(attempt):
            self._metrics.enforcement_failures.labels(result_type.value, mode).inc()
        if decision.hold is HoldReason.DOUBLE_BOUNCE:
            self._metrics.double_bounces.inc()

    def broken_off(self) -> None:
        self._metrics.attempts.labels(AttemptResult.BROKEN_OFF.value).inc()

    def crashed(self) -> None:
        self._metrics.attempts.labels(AttemptResult.CRASHED.value).inc()

    def notice(self, kind: NoticeKind) -> None:
        self._metrics.notices.labels(kind.value).inc()

    def _deliveries(self, attempt: Attempt) -> None:
        hosts = {(host.mx_host, host.address): host for host in attempt.hosts}
        for outcome in attempt.outcomes:
            if outcome.action is not Action.DELIVERED or outcome.security is None or outcome.remote_mta is None:
                continue
            host = hosts.get((outcome.remote_mta, outcome.remote_address))
            version = host.tls.version if host and host.tls else "none"
            self._metrics.deliveries.labels(outcome.security.value, version).inc()


def _result(decision: Decision) -> AttemptResult:
    verdicts = {settled.verdict for settled in decision.recipients}
    if len(verdicts) > 1:
        return AttemptResult.MIXED
    return AttemptResult(_OUTCOMES[verdicts.pop()])


def _enforcement_failures(attempt: Attempt) -> Iterator[tuple[ResultType, str]]:
    """What failed a policy, by RFC 8460 result type; in mode testing also what was delivered all the same."""
    for host in attempt.hosts:
        if host.testing_failure is not None:
            yield host.testing_failure.result_type, "testing"
        elif host.level is Level.VERIFIED and host.failure is not None and host.failure.kind.refusal:
            yield _result_type(host), "enforce"


def _result_type(host: HostAttempt) -> ResultType:
    failure = host.failure
    if failure is not None and failure.tls is not None:
        return failure.tls.result_type
    if host.mx_match is MxMatch.NOT_MATCHED or (failure and failure.kind is FailureKind.HANDSHAKE):
        return ResultType.VALIDATION_FAILURE
    return ResultType.STARTTLS_NOT_SUPPORTED
