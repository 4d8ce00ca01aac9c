"""docs/performance.md: the bench's results in words and a plot, then the parts that other programs have written."""

import itertools
from collections.abc import Iterable
from pathlib import Path

from figures import Figures
from plot import draw
from results import HOME, Results
from rows import ROWS
from systems import SYSTEMS
from targets import BOUNDS, RATIOS, Spread

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "performance.md"
PLOT = "performance.svg"
_QUIET = 5.0
"""The per cent of the machine below which the work of others is not worth a word."""
_INTRODUCTION = """\
# Performance

Written by `make bench`; do not edit. The relay beside Postfix with postfix-mta-sts-resolver as its policy service, in
turn, on the same machine and in the same pocket internet: unbound, nginx with a policy in `enforce` for every domain,
and one MX host for each domain. `smtp-source` offers messages of 10 kB over 20 sessions. Load generator, name server,
policy host and MX hosts share the machine with the system that is measured."""
_METHOD = """\
## How it is measured

- Each turn runs on a fresh instance. Before it is measured, that very instance is given mail for a domain whose MX host
  shows another host's certificate, and for one whose MX host offers no TLS: it must have gone there, must have said no
  MAIL, and must still have the messages in its queue. Then 200 messages warm it up; domains that the row calls unknown
  stay so.
- A turn counts only if every message arrived exactly once (by its Message-Id), whole, over TLS, under the SNI of its
  own domain's MX host. Else the bench fails.
- The row on syncs shows, with `strace`, that content is on the disk between a message's last octet and its 250.
- The relay runs as it ships, with metrics and logs on and SQLite at synchronous=FULL. Postfix 3.7 is tuned:
  `smtp_tls_connection_reuse = yes`, a TLS session cache, 100 processes; both have 20 connections to a destination.
- CPU is user and system time of all processes of a system, those that have ended too; memory is the sum of their
  proportional set sizes (PSS) at its highest. Throughput is counted from the generator's start to the last arrival.
- A ratio is made of two turns that followed each other. Whether a ratio is reached is said of the median, whether a
  bound is kept of the worst turn."""


def write_page(results: Results) -> None:
    """Write page and plot anew. What other programs have to say follows: each file results/*.md, by name."""
    draw(results, DOCS / PLOT)
    parts = [part.read_text(encoding="utf-8").strip() for part in sorted(HOME.glob("*.md"))]
    PAGE.write_text("\n\n".join([*_sections(results), *parts]) + "\n", encoding="utf-8")


def _sections(results: Results) -> Iterable[str]:
    yield _INTRODUCTION
    yield f"Machine: {results.machine}{_shared(results)}"
    yield "\n".join(["## Against Postfix", "", *_ratios(results)])
    yield f"![Throughput and CPU time per message]({PLOT})"
    yield "\n".join(["## Within bounds", "", *_bounds(results)])
    yield "\n".join(["## In figures", "", "Minimum, median and maximum of the turns.", "", *_figures(results)])
    yield "\n".join(_other_figures(results))
    yield _METHOD
    if results.profile:
        yield "\n".join(["## Profile", "", *results.profile]).strip()


def _shared(results: Results) -> str:
    shares = [
        turn.get("others_percent", 0.0) for row in results.rows.values() for turns in row.values() for turn in turns
    ]
    if max(shares, default=0.0) < _QUIET:
        return ""
    return (
        f" **The machine was shared**: others used up to {max(shares):.0f} % of it during the turns, which lowers the "
        "rates, and raises the CPU time of a message too."
    )


def _ratios(results: Results) -> Iterable[str]:
    yield "| work | relay | messages/s: relay to Postfix | target | CPU per message: relay to Postfix | target |"
    yield "|---|---|---|---|---|---|"
    for target, system in itertools.product(RATIOS, ("relay", "relay-cores")):
        rate, cpu = target.throughput_reached(results, system), target.cpu_reached(results, system)
        yield (
            f"| {ROWS[target.row].title} | {SYSTEMS[system].title} "
            f"| {_times(rate)} | {_verdict(rate, target.throughput)}≥ {target.throughput:g} × "
            f"| {_fraction(cpu)} | {_verdict(cpu, target.cpu)}≤ 1/{target.cpu:g} |"
        )


def _times(ratio: Spread | None) -> str:
    return "not measured" if ratio is None else f"**{ratio.middle:.2f} ×** ({ratio.low:.2f} to {ratio.high:.2f})"


def _fraction(ratio: Spread | None) -> str:
    return "not measured" if ratio is None else f"**1/{ratio.middle:.2f}** (1/{ratio.low:.2f} to 1/{ratio.high:.2f})"


def _verdict(reached: Spread | None, least: float) -> str:
    return "" if reached is None else "met: " if reached.middle >= least else "**missed**: "


def _bounds(results: Results) -> Iterable[str]:
    yield "| work | figure | at most | |"
    yield "|---|---|---|---|"
    for bound in BOUNDS:
        reached = bound.reached(results)
        said = "not measured" if reached is None else bound.say.format(f"**{reached.high:.3g}**")
        verdict = "" if reached is None else "met" if reached.high <= bound.most else "**missed**"
        yield f"| {ROWS[bound.row].title} | {said} | {bound.most:g} | {verdict} |"


def _figures(results: Results) -> Iterable[str]:
    yield "| work | system | messages/s | CPU, ms/message | memory, MB | connections | TLS handshakes |"
    yield "|---|---|---|---|---|---|---|"
    names = ("messages_per_second", "cpu_ms", "memory_mb", "connections", "handshakes")
    for name, row in ROWS.items():
        for system in row.systems:
            turns = results.turns(name, system)
            if turns and "cpu_ms" in turns[0]:
                shown = " | ".join(_spread([turn[one] for turn in turns]) for one in names)
                yield f"| {row.title} | {SYSTEMS[system].title} | {shown} |"


def _other_figures(results: Results) -> Iterable[str]:
    yield "| work | system | |"
    yield "|---|---|---|"
    for name, row in ROWS.items():
        for system in row.systems:
            turns = results.turns(name, system)
            if turns and "cpu_ms" not in turns[0]:
                yield f"| {row.title} | {SYSTEMS[system].title} | {_all_figures(turns)} |"


def _all_figures(turns: Iterable[Figures]) -> str:
    by_name: dict[str, list[float]] = {}
    for turn in turns:
        for name, value in turn.items():
            by_name.setdefault(name, []).append(value)
    return ", ".join(f"{name.replace('_', ' ')} {_spread(values)}" for name, values in by_name.items())


def _spread(values: list[float]) -> str:
    spread = Spread.of(values)
    shown = [f"{value:,.0f}" if value >= 100 else f"{value:.3g}" for value in (spread.low, spread.middle, spread.high)]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)
