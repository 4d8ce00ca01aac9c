"""Our meters tell Prometheus what those of its own library would, octet for octet."""

import threading

import prometheus_client
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.openmetrics import exposition as openmetrics

from relay.meters import Counter, Family, Gauge, Histogram
from relay.metrics import Metrics, process_registry

BOUNDS = (0.001, 0.5, 1, 60)
NUMBERS = st.floats(min_value=0, max_value=1e9)


@pytest.fixture(autouse=True)
def no_created_series() -> None:
    prometheus_client.disable_created_metrics()  # type: ignore[no-untyped-call]


@given(values=st.lists(st.tuples(st.sampled_from(["a", 'hostile "\n']), NUMBERS)))
def test_meters_render_as_those_of_the_library(values: list[tuple[str, float]]) -> None:
    ours, theirs = CollectorRegistry(), CollectorRegistry()
    counters = Family(CounterMetricFamily, "octets", "Octets.", ("one",), Counter)
    gauges = Family(GaugeMetricFamily, "level", "Level.", ("one",), Gauge)
    histograms = Family(HistogramMetricFamily, "seconds", "Seconds.", ("one",), lambda: Histogram(BOUNDS))
    for family in (counters, gauges, histograms):
        ours.register(family)
    counter = prometheus_client.Counter("octets", "Octets.", ["one"], registry=theirs)
    gauge = prometheus_client.Gauge("level", "Level.", ["one"], registry=theirs)
    histogram = prometheus_client.Histogram("seconds", "Seconds.", ["one"], registry=theirs, buckets=BOUNDS)
    for label, value in values:
        counters.labels(label).inc(value)
        counter.labels(label).inc(value)
        gauges.labels(label).set(value)
        gauge.labels(label).set(value)
        histograms.labels(label).observe(value)
        histogram.labels(label).observe(value)
    assert generate_latest(ours) == generate_latest(theirs)
    rendered = [openmetrics.generate_latest(registry) for registry in (ours, theirs)]  # type: ignore[no-untyped-call]
    assert rendered[0] == rendered[1]


@pytest.mark.parametrize("value", [*BOUNDS, 0, 0.4, 61])
def test_a_bound_belongs_to_its_bucket(value: float) -> None:
    registry = CollectorRegistry()
    family = Family(HistogramMetricFamily, "seconds", "Seconds.", (), lambda: Histogram(BOUNDS))
    registry.register(family)
    family.labels().observe(value)
    for bound in BOUNDS:
        assert registry.get_sample_value("seconds_bucket", {"le": str(float(bound))}) == (value <= bound)
    assert registry.get_sample_value("seconds_count") == 1
    assert registry.get_sample_value("seconds_sum") == value


def test_values_by_name_are_those_in_order() -> None:
    family = Family(CounterMetricFamily, "octets", "Octets.", ("one", "two"), Counter)
    assert family.labels("1", "2") is family.labels(two="2", one="1")


@pytest.mark.parametrize("values", [(), ("1",), ("1", "2", "3")])
def test_a_label_left_out_is_an_error(values: tuple[str, ...]) -> None:
    family = Family(CounterMetricFamily, "octets", "Octets.", ("one", "two"), Counter)
    with pytest.raises((ValueError, KeyError)):
        family.labels(*values)


def test_a_name_is_used_once() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    with pytest.raises(ValueError, match="Duplicated timeseries"):
        Metrics(registry)


def test_what_has_no_labels_is_there_from_the_start_as_zero() -> None:
    registry = CollectorRegistry()
    Metrics(registry)
    assert registry.get_sample_value("mta_sts_relay_ingress_bytes_total") == 0
    assert registry.get_sample_value("mta_sts_relay_time_in_queue_seconds_count") == 0


def test_a_gauge_goes_up_and_down() -> None:
    registry = process_registry()
    metrics = Metrics(registry)
    metrics.open_connections.inc()
    metrics.open_connections.inc()
    metrics.open_connections.dec()
    assert registry.get_sample_value("mta_sts_relay_ingress_open_connections") == 1
    assert b"process_cpu_seconds_total" in generate_latest(registry)


def test_another_thread_can_read_while_labels_come_up() -> None:
    registry = CollectorRegistry()
    metrics = Metrics(registry)
    stop = threading.Event()
    problems: list[RuntimeError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                generate_latest(registry)
            except RuntimeError as error:
                problems.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(3000):
        metrics.connections.labels(str(number)).inc()
    stop.set()
    reader.join()
    assert problems == []
