"""The plot of the growth curves: throughput, CPU time of a message and memory, one row for each curve."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import matplotlib as mpl
from figures import Figures
from growth_curves import CURVES
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator

_PANELS = (
    ("messages_per_second", "messages/s", "#1b7f5c"),
    ("cpu_ms", "CPU, ms/message", "#b0562a"),
    ("memory_mb", "memory at most, MB", "#3c5a99"),
)


def draw(curves: Mapping[str, Mapping[str, Figures]], path: Path) -> None:
    """Write the plot as SVG, octet for octet the same for the same results; both axes are logarithmic."""
    mpl.rcParams.update({"svg.hashsalt": "growth", "svg.fonttype": "none", "font.size": 9})
    shown = [curve for curve in CURVES if curves.get(curve.name)]
    figure = Figure(figsize=(10, 2.4 * len(shown)), layout="constrained")
    rows = figure.subplots(len(shown), len(_PANELS), squeeze=False)
    for curve, panels in zip(shown, rows, strict=True):
        points = curves[curve.name]
        for axes, (name, title, colour) in zip(panels, _PANELS, strict=True):
            ys = [figures[name] for figures in points.values()]
            axes.plot([int(x) for x in points], ys, marker="o", color=colour)
            axes.set_xscale("log")
            axes.set_yscale("log")
            axes.set_ylim(*_room(ys))
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.set_xticks([int(x) for x in points], [_short(int(x)) for x in points])
            axes.minorticks_off()
            axes.set_xlabel(curve.title.lower())
            axes.set_title(title)
            axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, format="svg", metadata={"Date": None})


def _short(number: int) -> str:
    return next(
        (f"{number // unit} {name}" for unit, name in ((10**6, "M"), (1000, "k")) if number >= unit), f"{number}"
    )


def _room(ys: Sequence[float]) -> tuple[float, float]:
    """Show at least a decade, so that noise does not look like growth."""
    middle = (min(ys) * max(ys)) ** 0.5
    reach = max((max(ys) / min(ys)) ** 0.5 * 1.2, 10**0.5)
    return middle / reach, middle * reach
