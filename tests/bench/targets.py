"""What the relay has to reach, and whether it does. **Pure.**"""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass

from results import Results


@dataclass(frozen=True, slots=True)
class Spread:
    """The least, the median and the most of what the turns have yielded."""

    low: float
    middle: float
    high: float

    @staticmethod
    def of(values: Sequence[float]) -> "Spread":
        return Spread(min(values), statistics.median(values), max(values))


@dataclass(frozen=True, slots=True, kw_only=True)
class AgainstPostfix:
    """In this row the relay moves `throughput` times as many messages a second, at a `cpu`-th of the CPU time each."""

    row: str
    throughput: float
    cpu: float

    def throughput_reached(self, results: Results, system: str = "relay") -> Spread | None:
        name = "messages_per_second"
        ratios = [relay[name] / postfix[name] for relay, postfix in results.pairs(self.row, system, "postfix")]
        return Spread.of(ratios) if ratios else None

    def cpu_reached(self, results: Results, system: str = "relay") -> Spread | None:
        name = "cpu_ms"
        ratios = [postfix[name] / relay[name] for relay, postfix in results.pairs(self.row, system, "postfix")]
        return Spread.of(ratios) if ratios else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Bound:
    """A figure of the relay that is never above `most`. `say` is how it reads, with the figure's place as {}."""

    row: str
    figure: str
    most: float
    say: str

    def reached(self, results: Results) -> Spread | None:
        values = [turn[self.figure] for turn in results.turns(self.row, "relay")]
        return Spread.of(values) if values else None


RATIOS = (
    AgainstPostfix(row="one-domain", throughput=5, cpu=4),
    AgainstPostfix(row="many-domains", throughput=3, cpu=2.5),
    AgainstPostfix(row="one-domain-delayed", throughput=3, cpu=4),
)

BOUNDS = (
    Bound(row="backlog", figure="memory_mb", most=250, say="memory in all: {} MB"),
    Bound(row="backlog", figure="start_seconds", most=5, say="start to ready, with that queue: {} s"),
    Bound(row="large", figure="above_idle_mb", most=200, say="memory above idle: {} MB"),
    Bound(row="large", figure="others_longest_wait_ms", most=100, say="longest wait of other messages' 250: {} ms"),
    Bound(row="idle-sessions", figure="above_idle_mb", most=150, say="memory above idle: {} MB"),
    Bound(row="idle-sessions", figure="refused", most=0, say="refused: {}"),
    Bound(row="latency", figure="handed_over_p50_ms", most=10, say="last octet in to handed over, p50: {} ms"),
    Bound(row="latency", figure="handed_over_p99_ms", most=50, say="last octet in to handed over, p99: {} ms"),
)
