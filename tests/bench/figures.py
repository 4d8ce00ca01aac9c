"""What a turn of a row yields: figures by name, and what a row is."""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from stage import Stage
from systems import System

Figures = Mapping[str, float]
"""The unit ends the name (`_ms`, `_mb`, `_seconds`, `per_second`); without one it is a number of things."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One row of the report. `measure` runs one turn in an empty directory and raises SystemExit if it cannot count."""

    name: str
    title: str
    systems: tuple[str, ...]
    measure: Callable[[System, Stage, Path], Figures]
    turns: int | None = None
    """How many turns are enough, where a run's own number is too much."""


def percentile(values: Sequence[float], percent: float) -> float:
    """Return the value that so many per cent of the values do not exceed (nearest rank)."""
    return sorted(values)[max(math.ceil(len(values) * percent / 100) - 1, 0)]
