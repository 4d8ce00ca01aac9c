"""How throughput, CPU time and memory grow: `make bench-growth`, or a part of it.

    PYTHONPATH=.:tests:tests/real .venv/bin/python tests/bench/growth.py --quick

The relay alone, on the stage and under the conditions of bench.py: no point counts unless every message arrived exactly
once, over TLS, at a host that was verified. A run of everything keeps its figures in results/growth.json and writes
results/growth.md and docs/growth.svg; `bench.py --page` then makes the page. --quick only prints.
"""

import argparse
import json
import resource
import shutil
import tempfile
from pathlib import Path

import private_net
from figures import Figures
from growth_curves import CURVES, DOMAINS, Share
from growth_page import text
from growth_plot import draw
from machine import describe
from results import HOME
from stage import Stage, stage
from throughput import ONE_DOMAIN, WARM_DOMAIN

RESULTS = HOME / "growth.json"
PLOT = Path(__file__).parents[2] / "docs" / "growth.svg"
_QUICK = Share(work=0.02, domains=30, queued=10_000)

Curves = dict[str, dict[str, Figures]]


def run(names: list[str], share: Share, scene: Stage) -> Curves:
    """Measure these curves, each point on a relay of its own."""
    curves: Curves = {}
    for curve in [one for one in CURVES if one.name in names]:
        for x in curve.xs(share):
            directory = scene.root / f"{curve.name}-{x}"
            figures = curve.measure(x, share, scene, directory)
            shutil.rmtree(directory)
            curves.setdefault(curve.name, {})[str(x)] = figures
            shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
            print(f"{curve.name} {x:,}: {shown}", flush=True)
    return curves


def write(machine: str, curves: Curves, home: Path, plot: Path) -> None:
    (home / "growth.md").write_text(text(machine, curves, plot.name), encoding="utf-8")
    draw(curves, plot)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    names = [curve.name for curve in CURVES]
    parser.add_argument("--curve", action="append", choices=names, help="this curve (may be repeated); else all")
    parser.add_argument("--quick", action="store_true", help="little work, to see that it runs; nothing is kept")
    parser.add_argument("--page", action="store_true", help="only write text and plot anew from the figures kept")
    options = parser.parse_args()
    if options.page:
        kept = json.loads(RESULTS.read_text(encoding="utf-8"))
        write(kept["machine"], kept["curves"], HOME, PLOT)
        return
    private_net.enter()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # 10,000 MX hosts listen here
    share = _QUICK if options.quick else Share()
    with tempfile.TemporaryDirectory(prefix="relay-growth-") as temporary:
        root = Path(temporary)
        with stage(root, [WARM_DOMAIN, ONE_DOMAIN, *DOMAINS[: share.domains]]) as scene:
            curves = run(options.curve or names, share, scene)
        if options.quick:
            write(describe(), curves, root, root / PLOT.name)
            print((root / "growth.md").read_text(encoding="utf-8"))
            return
    kept = json.loads(RESULTS.read_text(encoding="utf-8"))["curves"] if RESULTS.exists() else {}
    kept, machine = kept | curves, describe()
    HOME.mkdir(exist_ok=True)
    RESULTS.write_text(json.dumps({"machine": machine, "curves": kept}, indent=1) + "\n", encoding="utf-8")
    write(machine, kept, HOME, PLOT)


if __name__ == "__main__":
    main()
