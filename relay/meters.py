"""Counters, gauges and histograms that are plain numbers, told to Prometheus when it asks.

A message moves a dozen of them. Those of prometheus_client take a lock for each number and go through all buckets;
these cost an addition. They may be changed by the event loop's thread alone, and read by any.
"""

from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import accumulate
from typing import Any, Generic, Protocol, TypeVar

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.utils import floatToGoString


class Counter:
    """A sum that never goes down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self, amount: float = 1.0) -> None:
        self.value += amount

    def add_to(self, family: CounterMetricFamily, labels: Sequence[str]) -> None:
        family.add_metric(labels, self.value)


class Gauge:
    """A number that goes up and down."""

    __slots__ = ("value",)

    def __init__(self) -> None:
        self.value = 0.0

    def inc(self) -> None:
        self.value += 1.0

    def dec(self) -> None:
        self.value -= 1.0

    def set(self, value: float) -> None:
        self.value = value

    def add_to(self, family: GaugeMetricFamily, labels: Sequence[str]) -> None:
        family.add_metric(labels, self.value)


class Histogram:
    """How many values there were up to each of some bounds, and their sum."""

    __slots__ = ("_bounds", "_counts", "_sum")

    def __init__(self, bounds: Sequence[float]) -> None:
        self._bounds = (*bounds, float("inf"))
        self._counts = [0] * len(self._bounds)
        self._sum = 0.0

    def observe(self, value: float) -> None:
        self._counts[bisect_left(self._bounds, value)] += 1
        self._sum += value

    def add_to(self, family: HistogramMetricFamily, labels: Sequence[str]) -> None:
        names = [floatToGoString(bound) for bound in self._bounds]  # type: ignore[no-untyped-call]
        family.add_metric(labels, buckets=list(zip(names, accumulate(self._counts), strict=True)), sum_value=self._sum)


AnyFamily = CounterMetricFamily | GaugeMetricFamily | HistogramMetricFamily


class Meter(Protocol):
    """What a family is made of."""

    def add_to(self, family: Any, labels: Sequence[str]) -> None:
        """Add our samples, under these label values."""
        ...


M = TypeVar("M", bound=Meter)


class Family(Generic[M]):
    """One metric: a meter for each combination of label values that has come up. A collector for the registry."""

    def __init__(
        self, kind: type[AnyFamily], name: str, documentation: str, labels: Sequence[str], new_meter: Callable[[], M]
    ) -> None:
        self._kind = kind
        self._name = name
        self._documentation = documentation
        self._labels = labels
        self._new_meter = new_meter
        self._meters: dict[tuple[str, ...], M] = {}

    def labels(self, *values: str, **named: str) -> M:
        """Return the meter for these values, given in the order of the labels or by name."""
        key = values or tuple([named[label] for label in self._labels])
        meter = self._meters.get(key)
        if meter is None:
            if len(key) != len(self._labels):
                raise ValueError(f"not one value for each of {self._labels}: {key}")
            meter = self._meters[key] = self._new_meter()
        return meter

    def describe(self) -> Iterator[AnyFamily]:
        """What the registry asks for on registration, so that no name is used twice."""
        yield self._kind(self._name, self._documentation, labels=self._labels)

    def collect(self) -> Iterator[AnyFamily]:
        family = self._kind(self._name, self._documentation, labels=self._labels)
        for values, meter in self._meters.copy().items():
            meter.add_to(family, values)
        yield family
