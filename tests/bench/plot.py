"""The plot of the page: throughput and CPU per message, each system beside the other."""

from pathlib import Path

import matplotlib as mpl
from matplotlib.figure import Figure
from results import Results
from rows import ROWS
from systems import SYSTEMS
from targets import Spread

_PANELS = (("messages_per_second", "messages/s (more is better)"), ("cpu_ms", "CPU, ms/message (less is better)"))
_COLOURS = {"relay": "#1b7f5c", "relay-cores": "#7fc4a8", "postfix": "#b0562a", "postfix-no-reuse": "#d9a98c"}
_LABELS = {
    "one-domain": "1 domain",
    "many-domains": "200 domains",
    "one-domain-delayed": "1 domain,\n50 ms replies",
    "many-domains-delayed": "200 domains,\n50 ms replies",
}


def draw(results: Results, path: Path) -> None:
    """Write the plot as SVG, octet for octet the same for the same results."""
    mpl.rcParams.update({"svg.hashsalt": "bench", "svg.fonttype": "none", "font.size": 9})
    figure = Figure(figsize=(10, 4.2), layout="constrained")
    for axes, (name, title) in zip(figure.subplots(1, len(_PANELS)), _PANELS, strict=True):
        for place, system in enumerate(_COLOURS):
            rows = [row for row in _LABELS if system in ROWS[row].systems and results.turns(row, system)]
            spreads = [Spread.of([turn[name] for turn in results.turns(row, system)]) for row in rows]
            axes.bar(
                [list(_LABELS).index(row) + 0.21 * (place - 1.5) for row in rows],
                [spread.middle for spread in spreads],
                width=0.2,
                yerr=[[one.middle - one.low for one in spreads], [one.high - one.middle for one in spreads]],
                color=_COLOURS[system],
                label=SYSTEMS[system].title,
                capsize=3,
            )
        axes.set_xticks(range(len(_LABELS)), _LABELS.values())
        axes.set_title(title)
        axes.spines[["top", "right"]].set_visible(False)
    figure.axes[1].legend(frameon=False)
    figure.savefig(path, format="svg", metadata={"Date": None})
