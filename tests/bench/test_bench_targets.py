"""Ratios are made turn by turn, and a target that is missed is seen to be missed."""

from pathlib import Path

from results import Results, load, save
from targets import BOUNDS, RATIOS, Spread

ONE_DOMAIN = RATIOS[0]


def turn(rate: float, cpu: float) -> dict[str, float]:
    return {"messages_per_second": rate, "cpu_ms": cpu}


def test_ratios_are_made_of_turns_that_followed_each_other() -> None:
    results = Results(rows={"one-domain": {"relay": [turn(900, 1), turn(500, 2)], "postfix": [turn(300, 4)] * 2}})
    assert ONE_DOMAIN.throughput_reached(results) == Spread(500 / 300, (3 + 500 / 300) / 2, 3)
    assert ONE_DOMAIN.cpu_reached(results) == Spread(2, 3, 4)


def test_what_was_not_measured_is_not_reached() -> None:
    results = Results(rows={"one-domain": {"relay": [turn(900, 1)]}})
    assert ONE_DOMAIN.throughput_reached(results) is None
    assert all(bound.reached(results) is None for bound in BOUNDS)


def test_newer_turns_take_the_place_of_older_ones(tmp_path: Path) -> None:
    kept = Results(machine="old", rows={"one-domain": {"relay": [turn(1, 1)], "postfix": [turn(2, 2)]}}, profile=["p"])
    kept.take(Results(machine="new", rows={"one-domain": {"relay": [turn(3, 3)]}}))
    assert kept == Results(
        machine="new", rows={"one-domain": {"relay": [turn(3, 3)], "postfix": [turn(2, 2)]}}, profile=["p"]
    )
    save(kept, tmp_path / "results.json")
    assert load(tmp_path / "results.json") == kept
