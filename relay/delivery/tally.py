"""Counts what attempts come to. Labels are enums or names of OpenSSL, never domains or addresses."""

from enum import Enum

from relay.delivery.routing_table import Weakening
from relay.metrics import Metrics
from relay.queue.enforcement import host_breach
from relay.queue.message import HoldReason
from relay.queue.notice import NoticeKind
from relay.queue.settle import Decision
from relay.store.protocols import Verdict
from relay.value import Choice


class AttemptResult(Choice):
    """How an attempt at a job ended; the metric's label."""

    DELIVERED = "delivered"
    DEFERRED = "deferred"
    FAILED = "failed"
    MIXED = "mixed"
    BROKEN_OFF = "broken-off"
    CRASHED = "crashed"


class RequireTlsResult(Enum):
    """What became of a recipient for whom the message demanded REQUIRETLS (RFC 8689); the metric's label.

    KEPT: delivered under it. REFUSED: failed, because no host of the domain keeps to it. FAILED: for another reason.
    """

    KEPT = "kept"
    REFUSED = "refused"
    FAILED = "failed"


_REQUIRETLS_STATUSES = frozenset({(7, 30), (7, 10)})

_RESULTS = {
    Verdict.DELIVERED: AttemptResult.DELIVERED,
    Verdict.FAILED: AttemptResult.FAILED,
    Verdict.QUEUED: AttemptResult.DEFERRED,
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
        for settled, outcome in zip(decision.recipients, attempt.outcomes, strict=True):
            metrics.recipients.labels(_RESULTS[settled.verdict].value, str(settled.status.class_)).inc()
            if settled.verdict is not Verdict.QUEUED:
                metrics.queue_seconds.observe(max(in_queue, 0.0))
            if settled.verdict is Verdict.DELIVERED and outcome.security is not None:
                host = attempt.host_of(outcome)
                version = host.tls.version if host is not None and host.tls is not None else "none"
                metrics.deliveries.labels(outcome.security.value, version).inc()
        if decision.job.message.require_tls and decision.job.message.envelope.reverse_path:
            self._requiretls(decision)
        for host in attempt.hosts:
            if (breach := host_breach(host, attempt)) is not None:
                metrics.enforcement_failures.labels(breach.result_type.value, breach.mode.value).inc()
        if decision.hold is HoldReason.DOUBLE_BOUNCE:
            metrics.double_bounces.inc()

    def broken_off(self) -> None:
        self._metrics.attempts.labels(AttemptResult.BROKEN_OFF.value).inc()

    def crashed(self) -> None:
        self._metrics.attempts.labels(AttemptResult.CRASHED.value).inc()

    def weakened(self, weakening: Weakening) -> None:
        """An attempt goes under an exception that a route makes."""
        for one in weakening.turns_off:
            self._metrics.route_weakenings.labels(one.value).inc()

    def notice(self, kind: NoticeKind) -> None:
        self._metrics.notices.labels(kind.value).inc()

    def _requiretls(self, decision: Decision) -> None:
        own = {outcome.recipient_id for outcome in decision.attempt.outcomes if outcome.reply is None}
        for settled in decision.recipients:
            if settled.verdict is Verdict.QUEUED:
                continue
            if settled.verdict is Verdict.DELIVERED:
                result = RequireTlsResult.KEPT
            elif (
                settled.recipient_id in own and (settled.status.subject, settled.status.detail) in _REQUIRETLS_STATUSES
            ):
                result = RequireTlsResult.REFUSED
            else:
                result = RequireTlsResult.FAILED
            self._metrics.requiretls_recipients.labels(result.value).inc()


def _result(decision: Decision) -> AttemptResult:
    first, *others = decision.recipients
    if any(one.verdict is not first.verdict for one in others):
        return AttemptResult.MIXED
    return _RESULTS[first.verdict]
