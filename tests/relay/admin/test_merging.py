"""One /metrics of several processes."""

import json
import shutil
import subprocess

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.exposition import generate_latest
from prometheus_client.openmetrics.exposition import generate_latest as generate_openmetrics
from prometheus_client.openmetrics.parser import text_string_to_metric_families

from relay.admin.merging import MergedMetrics, Snapshot, snapshot
from relay.metrics import Metrics, process_registry


class Process:
    def __init__(self) -> None:
        self.registry = process_registry()
        self.metrics = Metrics(self.registry)

    def told(self) -> Snapshot:
        """What it tells, as it comes over the line."""
        return json.loads(json.dumps(snapshot(self.registry)))  # type: ignore[no-any-return]


def value(merged: MergedMetrics, name: str, **labels: str) -> float | None:
    for metric in merged.collect():
        for sample in metric.samples:
            if sample.name == f"mta_sts_relay_{name}" and sample.labels == labels:
                return sample.value
    return None


@pytest.fixture
def parent() -> Process:
    return Process()


def test_counters_histograms_and_gauges_add_up(parent: Process) -> None:
    merged = MergedMetrics(parent.registry)
    for number in (1, 2):
        process = Process()
        process.metrics.connections.labels("accepted").inc(number)
        process.metrics.open_connections.set(10 * number)
        process.metrics.attempt_seconds.observe(0.3 * number)
        process.metrics.deliveries.labels("sts", f"TLSv1.{number}").inc()
        merged.heard(number, process.told())
    assert value(merged, "ingress_connections_total", result="accepted") == 3
    assert value(merged, "ingress_open_connections") == 30
    assert value(merged, "delivery_duration_seconds_count") == 2
    assert value(merged, "delivery_duration_seconds_sum") == pytest.approx(0.9)
    assert value(merged, "delivery_duration_seconds_bucket", le="0.5") == 1
    assert value(merged, "deliveries_total", security="sts", tls_version="TLSv1.2") == 1


def test_of_some_gauges_only_the_greatest_or_the_least_means_anything(parent: Process) -> None:
    merged = MergedMetrics(parent.registry)
    parent.metrics.start_time.set(100)
    parent.metrics.build_info.labels("1", "2", "3", "asyncio").set(1)
    for number in (1, 2):
        process = Process()
        process.metrics.start_time.set(1000 + number)
        process.metrics.queue_oldest_seconds.set(10 * number)
        process.metrics.certificate_expiry.labels("a:25").set(500 + number)
        process.metrics.build_info.labels("1", "2", "3", "asyncio").set(1)
        merged.heard(number, process.told())
    assert value(merged, "start_time_seconds") == 100
    assert value(merged, "queue_oldest_message_age_seconds") == 20
    assert value(merged, "listener_certificate_expiry_timestamp_seconds", listener="a:25") == 501
    assert value(merged, "build_info", version="1", python="2", openssl="3", event_loop="asyncio") == 1


def test_sums_never_go_down_when_a_process_dies(parent: Process) -> None:
    merged = MergedMetrics(parent.registry)
    seen: list[float | None] = []
    for count in (5, 3):
        process = Process()
        process.metrics.received_bytes.inc(count)
        process.metrics.queue_bytes.set(count)
        process.metrics.queue_seconds.observe(1)
        merged.heard(1, process.told())
        seen.append(value(merged, "ingress_bytes_total"))
        assert value(merged, "queue_bytes") == count
        merged.gone(1)
        seen.append(value(merged, "ingress_bytes_total"))
        assert value(merged, "queue_bytes") == 0
    assert seen == [5, 5, 8, 8]
    assert value(merged, "time_in_queue_seconds_count") == 2
    merged.gone(2)  # one that has never said anything


def full(parent: Process) -> MergedMetrics:
    merged = MergedMetrics(parent.registry)
    for number in (1, 2):
        process = Process()
        process.metrics.policy_fetch_seconds.labels(f"result-{number}").observe(number)
        process.metrics.policy_fetch_seconds.labels("fetched").observe(number)
        merged.heard(number, process.told())
    merged.gone(1)
    return merged


def test_openmetrics_can_be_read(parent: Process) -> None:
    text = generate_openmetrics(full(parent)).decode()  # type: ignore[no-untyped-call]
    assert len([*text_string_to_metric_families(text)]) > 20  # type: ignore[no-untyped-call]


def test_promtool_has_nothing_to_say(parent: Process) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (make apt)")
    text = generate_latest(full(parent))
    checked = subprocess.run([promtool, "check", "metrics"], input=text, capture_output=True, timeout=30, check=False)
    told = checked.stdout.decode() + checked.stderr.decode()
    assert (checked.returncode, told) == (0, "")


def test_an_empty_registry_is_no_error() -> None:
    assert [*MergedMetrics(CollectorRegistry()).collect()] == []
