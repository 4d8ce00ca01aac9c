"""Every metric of the relay, on an injected registry. Labels come from enums, never from domains or addresses."""

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    GCCollector,
    Histogram,
    ProcessCollector,
    disable_created_metrics,
)

_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30, 60, 300, 600)
_QUEUE_SECONDS = (0.01, 0.05, 0.1, 0.5, 1, 5, 30, 60, 300, 900, 3600, 14400, 86400, 432000)


class Metrics:
    """The relay's metrics. One instance per process; constructed by `app` with its registry."""

    def __init__(self, registry: CollectorRegistry) -> None:
        def counter(name: str, help_: str, *labels: str) -> Counter:
            return Counter(f"mta_sts_relay_{name}", help_, labels, registry=registry)

        def gauge(name: str, help_: str, *labels: str) -> Gauge:
            return Gauge(f"mta_sts_relay_{name}", help_, labels, registry=registry)

        def histogram(name: str, help_: str, buckets: tuple[float, ...], *labels: str) -> Histogram:
            return Histogram(f"mta_sts_relay_{name}", help_, labels, buckets=buckets, registry=registry)

        self.connections = counter("ingress_connections", "Client connections by result.", "result")
        self.open_connections = gauge("ingress_open_connections", "Client connections now open.")
        self.messages_received = counter("ingress_messages", "Messages offered by clients, by result.", "result")
        self.received_bytes = counter("ingress_bytes", "Octets of accepted messages.")

        self.recipients = counter(
            "recipients", "Recipients by outcome of an attempt and status class.", "outcome", "status_class"
        )
        self.deliveries = counter(
            "deliveries", "Recipients delivered, by security of the session and TLS version.", "security", "tls_version"
        )
        self.attempts = counter("delivery_attempts", "Delivery attempts at one job, by result.", "result")
        self.attempt_seconds = histogram("delivery_duration_seconds", "Duration of a delivery attempt.", _SECONDS)
        self.queue_seconds = histogram(
            "time_in_queue_seconds", "Time from acceptance to the final outcome of a recipient.", _QUEUE_SECONDS
        )
        self.pool_opened = counter("pool_connections_opened", "Connections opened to MX hosts, by result.", "result")
        self.pool_reused = counter("pool_connections_reused", "Transactions on a connection that was open already.")
        self.pool_open = gauge("pool_open_connections", "Connections to MX hosts now open.")

        self.policy_lookups = counter("policy_lookups", "Policy look-ups by result and mode.", "result", "mode")
        self.policy_fetch_seconds = histogram(
            "policy_fetch_duration_seconds", "Duration of policy fetches over HTTPS.", _SECONDS, "result"
        )
        self.policy_changes = counter("policy_changes", "Policies that changed, by the new mode.", "mode")
        self.policy_unknown_given_up = counter(
            "policy_unknown_given_up", "Look-ups that went as without policy after mta_sts.unknown_grace."
        )
        self.policies = gauge("policies", "Policies in the cache by mode.", "mode")
        self.policies_failing = gauge("policies_refresh_failing", "Cached policies whose refresh is failing now.")
        self.enforcement_failures = counter(
            "enforcement_failures", "Hosts that failed their policy, by RFC 8460 result type and mode.", "type", "mode"
        )
        self.dns_lookups = counter("dns_lookups", "DNS questions asked, by record type and result.", "type", "result")

        self.queue_messages = gauge("queue_messages", "Recipients in the queue by state.", "state")
        self.queue_oldest_seconds = gauge("queue_oldest_message_age_seconds", "Age of the oldest queued message.")
        self.queue_bytes = gauge("queue_bytes", "Octets of queued messages.")
        self.queue_suspected_poison = counter("queue_suspected_poison", "Jobs held as suspected poison.")
        self.double_bounces = counter("double_bounces", "Messages without a sender that failed and are held.")
        self.notices = counter("notices", "Notices sent to senders, by kind.", "kind")
        self.ndr_route_warnings = gauge("ndr_route_warnings", "Sender domains that an NDR could not reach.")

        self.certificate_expiry = gauge(
            "listener_certificate_expiry_timestamp_seconds", "When a listener's certificate expires.", "listener"
        )
        self.build_info = gauge("build_info", "Version of the relay; always 1.", "version", "python", "openssl")
        self.start_time = gauge("start_time_seconds", "When the relay started, as a Unix timestamp.")


def process_registry() -> CollectorRegistry:
    """Return a registry for `Metrics` that also tells of the process: CPU, memory, files, garbage collection."""
    disable_created_metrics()  # type: ignore[no-untyped-call]  # a second series for each one, which nobody reads
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    GCCollector(registry=registry)
    return registry
