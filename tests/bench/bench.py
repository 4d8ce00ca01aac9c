"""The relay beside Postfix on the same pocket internet: `make bench`, or one row of it at a time.

    PYTHONPATH=tests/real .venv/bin/python tests/bench/bench.py --row one-domain --turns 1 --system relay

Everything runs in a network of its own (root only). No turn counts unless every message arrived exactly once, over TLS,
at a host that the sender verified; each turn first shows on the running system that it refuses a wrong certificate and
a host without TLS. A run of everything writes docs/performance.md; a run of some rows only prints, unless --save.
"""

import argparse
import resource
import shutil
import tempfile
from pathlib import Path

import private_net
from figures import Figures, Row
from machine import describe
from page import write_page
from profile_row import profile
from results import Results, load, save
from rows import ROWS
from sampling import py_spy, tables
from stage import Stage, stage
from systems import SYSTEMS
from throughput import MANY_DOMAINS, ONE_DOMAIN, WARM_DOMAIN

RESULTS = Path(__file__).parent / "results" / "bench.json"


def run(options: argparse.Namespace, scene: Stage) -> Results:
    """Measure the rows, the systems in turn within each, so that what else the machine does falls on all alike."""
    measured = Results(machine=describe())
    for row in [ROWS[name] for name in options.row or ROWS]:
        for number in range(min(options.turns, row.turns or options.turns)):
            for system in options.system or row.systems:
                figures = _turn(row, system, scene, options.keep is not None, f"{row.name}-{number}-{system}")
                measured.rows.setdefault(row.name, {}).setdefault(system, []).append(figures)
                shown = ", ".join(f"{name} {value:.4g}" for name, value in figures.items())
                print(f"{row.name} {system}: {shown}", flush=True)
    if options.profile:
        measured.profile = tables(profile(scene, scene.root / "profile"))
        print("\n".join(measured.profile))
    return measured


def _turn(row: Row, system: str, scene: Stage, keep: bool, name: str) -> Figures:
    directory = scene.root / name
    figures = row.measure(SYSTEMS[system], scene, directory)
    if not keep:
        shutil.rmtree(directory, ignore_errors=True)
    return figures


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=ROWS, help="this row (may be repeated); without it, all")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="this system (may be repeated)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--profile", action="store_true", help="also where the relay's time goes (py-spy)")
    parser.add_argument("--save", action="store_true", help="put these rows into the results and the page")
    parser.add_argument("--page", action="store_true", help="only write the page anew from the results that are kept")
    parser.add_argument("--keep", type=Path, help="leave configurations, logs and queues in this new directory")
    options = parser.parse_args()
    if options.page:
        write_page(load(RESULTS))
        return
    options.profile = options.profile or not (options.row or options.system)
    if options.profile and py_spy() is None:
        raise SystemExit("py-spy is not installed (make bench)")
    private_net.enter()
    _, most_files = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most_files, most_files))  # 10,000 clients here, and in the relay
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as temporary:
        root = options.keep or Path(temporary)
        root.mkdir(exist_ok=True)
        with stage(root, [WARM_DOMAIN, ONE_DOMAIN, *MANY_DOMAINS]) as scene:
            measured = run(options, scene)
    if options.save or not (options.row or options.system):
        kept = load(RESULTS)
        kept.take(measured)
        save(kept, RESULTS)
        write_page(kept)


if __name__ == "__main__":
    main()
