"""The figures of all turns, kept beside the page that is made of them, so that the page can be made anew."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from figures import Figures

HOME = Path(__file__).parent / "results"


@dataclass(slots=True)
class Results:
    """`rows` has the turns of each system by row and system; `profile` is a table that is written as it is."""

    machine: str = ""
    rows: dict[str, dict[str, list[Figures]]] = field(default_factory=dict)
    profile: list[str] = field(default_factory=list)

    def turns(self, row: str, system: str) -> Sequence[Figures]:
        return self.rows.get(row, {}).get(system, ())

    def pairs(self, row: str, system: str, other: str) -> Iterator[tuple[Figures, Figures]]:
        """Yield what the two systems did in the same turn."""
        return zip(self.turns(row, system), self.turns(row, other), strict=False)

    def take(self, newer: "Results") -> None:
        """Put what was measured anew in the place of what was there."""
        self.machine = newer.machine
        for row, systems in newer.rows.items():
            self.rows.setdefault(row, {}).update(systems)
        self.profile = newer.profile or self.profile


def load(path: Path) -> Results:
    return Results(**json.loads(path.read_text(encoding="utf-8"))) if path.exists() else Results()


def save(results: Results, path: Path) -> None:
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(asdict(results), indent=1) + "\n", encoding="utf-8")
