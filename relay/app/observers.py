"""What policies and DNS have to tell, into metrics and the log."""

from policy.findings import CachedPolicy, FetchFailure, FetchProblem, LookupResult
from policy.journal import JournalEntry
from policy.mta_sts import Mode
from policy.observer import DnsResult, RecordType
from policy.requirement import ResultType
from relay import events
from relay.app.discovery_failures import DiscoveryFailures
from relay.metrics import Metrics

NO_POLICY = "no-policy"
"""The label for the mode where there is no policy."""


class Observer:
    """Implements policy.observer.DnsObserver and PolicyObserver."""

    def __init__(self, metrics: Metrics, reported: DiscoveryFailures | None = None) -> None:
        """`reported` takes what TLS reports tell of policies, None where there are none."""
        self._metrics = metrics
        self._reported = reported

    def dns_asked(self, record_type: RecordType, result: DnsResult) -> None:
        self._metrics.dns_lookups.labels(record_type.value, result.value).inc()

    def lookup(self, result: LookupResult, mode: Mode | None) -> None:
        self._metrics.policy_lookups.labels(result.value, mode.value if mode else NO_POLICY).inc()

    def fetch_finished(self, duration_seconds: float, result_type: ResultType | None) -> None:
        result = result_type.value if result_type else "fetched"
        self._metrics.policy_fetch_seconds.labels(result).observe(duration_seconds)

    def policy_changed(self, entry: JournalEntry) -> None:
        mode = entry.after.mode.value if entry.after else NO_POLICY
        for change in entry.changes:
            self._metrics.policy_changes.labels(change.value, mode).inc()
        events.policy_changed(entry)

    def refresh_failed(self, cached: CachedPolicy, failure: FetchFailure) -> None:
        events.policy_refresh_failed(cached, failure)

    def discovery_failed(self, policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None) -> None:
        if self._reported is not None:
            self._reported.note(policy_domain, problem, cached)

    def unknown_given_up(self, policy_domain: str) -> None:
        self._metrics.policy_unknown_given_up.inc()
        events.policy_unknown_given_up(policy_domain)
