"""One /metrics of several processes: what each has counted, as plain data, and all of it together."""

import operator
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from prometheus_client import CollectorRegistry, Metric
from prometheus_client.registry import Collector

Snapshot = Sequence[Any]
"""Name, help, type and samples of each metric; a sample is its name, labels and value. Goes through JSON as it is."""

_SUMMED_FOR_GOOD = frozenset({"counter", "histogram"})
"""Types of metrics that never go down: what a process had counted stays counted when it is gone."""
_GREATEST = frozenset(
    {"mta_sts_relay_queue_oldest_message_age_seconds", "mta_sts_relay_build_info", "process_max_fds", "python_info"}
)
_LEAST = frozenset(
    {
        "mta_sts_relay_listener_certificate_expiry_timestamp_seconds",
        "mta_sts_relay_start_time_seconds",
        "process_start_time_seconds",
    }
)
_Key = tuple[str, tuple[tuple[str, str], ...]]


def snapshot(registry: CollectorRegistry) -> Snapshot:
    """Return what the registry tells at the moment."""
    return [
        (
            metric.name,
            metric.documentation,
            metric.type,
            [(sample.name, sample.labels, sample.value) for sample in metric.samples],
        )
        for metric in registry.collect()
    ]


@dataclass(slots=True)
class _Merged:
    documentation: str
    type: str
    values: dict[_Key, float] = field(default_factory=dict)

    @property
    def samples(self) -> Sequence[Any]:
        return [(sample, dict(labels), value) for (sample, labels), value in self.values.items()]


def merge(snapshots: Sequence[Snapshot]) -> Snapshot:
    """Add up counters, histograms and gauges; of some gauges only the greatest or the least means anything."""
    merged: dict[str, _Merged] = {}
    for one in snapshots:
        for name, documentation, type_, samples in one:
            values = merged.setdefault(name, _Merged(documentation, type_)).values
            together = _together(name)
            for sample, labels, value in samples:
                key = (sample, tuple(labels.items()))
                values[key] = together(values[key], value) if key in values else value
    return [
        (
            name,
            one.documentation,
            one.type,
            [(sample, dict(labels), value) for (sample, labels), value in one.values.items()],
        )
        for name, one in merged.items()
    ]


def _together(name: str) -> Callable[[float, float], float]:
    if name in _GREATEST:
        return max
    return min if name in _LEAST else operator.add


def lasting(one: Snapshot) -> Snapshot:
    """Return what of a process that is gone goes on to count."""
    return [metric for metric in one if metric[2] in _SUMMED_FOR_GOOD]


class MergedMetrics(Collector):
    """The last that was heard of each process, together. A process's successor goes on under its number.

    Sums never go down: what was heard of a process stays in them when it is gone.
    """

    def __init__(self, own: CollectorRegistry) -> None:
        self._own = own
        self._last: Mapping[int, Snapshot] = {}
        self._gone: Snapshot = []

    def heard(self, number: int, now: Snapshot) -> None:
        self._last = {**self._last, number: now}

    def gone(self, number: int) -> None:
        """The process has ended."""
        last = self._last.get(number, [])
        self._gone = merge([self._gone, lasting(last)])
        self._last = {other: one for other, one in self._last.items() if other != number}

    def collect(self) -> Iterator[Metric]:
        """Yield all of it; may be called in another thread."""
        for name, documentation, type_, samples in merge([snapshot(self._own), self._gone, *self._last.values()]):
            metric = Metric(name, documentation, type_)
            for sample, labels, value in samples:
                metric.add_sample(sample, labels, value)
            yield metric
