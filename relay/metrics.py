"""Every metric of the relay, on an injected registry. Labels come from enums, never from domains or addresses."""

from collections.abc import Callable

from prometheus_client import CollectorRegistry, GCCollector, ProcessCollector
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

from relay.meters import AnyFamily, Counter, Family, Gauge, Histogram, M

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_QUEUE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 900, 3600, 14400, 86400, 432000)


class Metrics:
    """The relay's metrics. One instance per process; constructed by `app` with its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def family(
            kind: type[AnyFamily], name: str, text: str, labels: tuple[str, ...], new_meter: Callable[[], M]
        ) -> Family[M]:
            made = Family(kind, f"mta_sts_relay_{name}", text, labels, new_meter)
            registry.register(made)
            return made

        def counters(name: str, text: str, *labels: str) -> Family[Counter]:
            return family(CounterMetricFamily, name, text, labels, Counter)

        def gauges(name: str, text: str, *labels: str) -> Family[Gauge]:
            return family(GaugeMetricFamily, name, text, labels, Gauge)

        def histograms(name: str, text: str, bounds: tuple[float, ...], *labels: str) -> Family[Histogram]:
            return family(HistogramMetricFamily, name, text, labels, lambda: Histogram(bounds))

        def counter(name: str, text: str) -> Counter:
            return counters(name, text).labels()

        def gauge(name: str, text: str) -> Gauge:
            return gauges(name, text).labels()

        def histogram(name: str, text: str, bounds: tuple[float, ...]) -> Histogram:
            return histograms(name, text, bounds).labels()

        self.connections = counters("ingress_connections", "Client connections by result.", "result")
        self.open_connections = gauge("ingress_open_connections", "Client connections now open.")
        self.messages_received = counters("ingress_messages", "Messages offered by clients, by result.", "result")
        self.received_bytes = counter("ingress_bytes", "Octets of accepted messages.")

        self.requiretls_messages = counter("requiretls_messages", "Messages accepted with REQUIRETLS.")
        self.requiretls_recipients = counters(
            "requiretls_recipients", "Final outcomes of recipients for whom REQUIRETLS was demanded.", "result"
        )
        self.tls_required_no = counters(
            "tls_required_no", "Messages with the header field TLS-Required: No, by what was made of it.", "result"
        )

        self.recipients = counters(
            "recipients", "Recipients by outcome of an attempt and status class.", "outcome", "status_class"
        )
        self.deliveries = counters(
            "deliveries", "Recipients delivered, by security of the session and TLS version.", "security", "tls_version"
        )
        self.attempts = counters("delivery_attempts", "Delivery attempts at one job, by result.", "result")
        self.attempt_seconds = histogram("delivery_duration_seconds", "Duration of a delivery attempt.", _SECONDS)
        self.queue_seconds = histogram(
            "time_in_queue_seconds", "Time from acceptance to the final outcome of a recipient.", _QUEUE_SECONDS
        )
        self.pool_opened = counters("pool_connections_opened", "Connections opened to MX hosts, by result.", "result")
        self.tls_concessions = counters(
            "tls_concessions",
            "Connections to hosts whose TLS handshake fails and of which nothing is demanded, by what they needed.",
            "concession",
        )
        self.pool_reused = counter("pool_connections_reused", "Transactions on a connection that was open already.")
        self.pool_open = gauge("pool_open_connections", "Connections to MX hosts now open.")

        self.policy_lookups = counters("policy_lookups", "Policy look-ups by result and mode.", "result", "mode")
        self.policy_fetch_seconds = histograms(
            "policy_fetch_duration_seconds", "Duration of policy fetches over HTTPS.", _SECONDS, "result"
        )
        self.policy_changes = counters(
            "policy_changes", "Changes of policies, by what changed and the mode after it.", "change", "mode"
        )
        self.policy_unknown_given_up = counter(
            "policy_unknown_given_up", "Look-ups that went as without policy after mta_sts.unknown_grace."
        )
        self.policies = gauges("policies", "Policies in the cache by mode.", "mode")
        self.policies_failing = gauge("policies_refresh_failing", "Cached policies whose refresh is failing now.")
        self.enforcement_failures = counters(
            "enforcement_failures", "Hosts that failed their policy, by RFC 8460 result type and mode.", "type", "mode"
        )
        self.route_weakenings = counters(
            "route_weakenings", "Delivery attempts under a weakening of a route, by what it turns off.", "weakens"
        )
        self.dane_active = gauge("dane_active", "1 if the resolver vouches for signed answers, as DANE needs; else 0.")
        self.dns_lookups = counters("dns_lookups", "DNS questions asked, by record type and result.", "type", "result")

        self.queue_messages = gauges("queue_messages", "Recipients in the queue by state.", "state")
        self.queue_oldest_seconds = gauge("queue_oldest_message_age_seconds", "Age of the oldest queued message.")
        self.queue_bytes = gauge("queue_bytes", "Octets of queued messages.")
        self.queue_suspected_poison = counter("queue_suspected_poison", "Jobs held as suspected poison.")
        self.double_bounces = counter("double_bounces", "Messages without a sender that failed and are held.")
        self.notices = counters("notices", "Notices sent to senders, by kind.", "kind")
        self.tls_reports = counters("tls_reports", "TLS reports (RFC 8460), each to one endpoint, by result.", "result")
        self.ndr_route_warnings = gauge("ndr_route_warnings", "Sender domains that an NDR could not reach.")

        self.certificate_expiry = gauges(
            "listener_certificate_expiry_timestamp_seconds", "When a listener's certificate expires.", "listener"
        )
        self.build_info = gauges(
            "build_info", "Version of the relay; always 1.", "version", "python", "openssl", "event_loop"
        )
        self.start_time = gauge("start_time_seconds", "When the relay started, as a Unix timestamp.")
        self.workers = gauge("workers", "Worker processes that run, of relay.workers; 1 where there are no others.")
        self.worker_deaths = counter("worker_deaths", "Worker processes that died and were started again.")


def process_registry() -> CollectorRegistry:
    """Return a registry for `Metrics` that also tells of the process: CPU, memory, files, garbage collection."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
