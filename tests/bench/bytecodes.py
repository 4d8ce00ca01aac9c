"""How many Python bytecodes a message costs the relay's loop, by file.

    PYTHONPATH=tests/real .venv/bin/python tests/bench/bytecodes.py [--functions 40]

The relay is started with this directory's `bytecode_counter` in its process, which counts for some seconds in the
middle of a run of the row `one-domain`. It is slower meanwhile by an order of magnitude, so that batches are of other
sizes. What else the machine does hardly matters, as it does to time; but runs differ by a tenth and more, with how far
deliveries were behind what came in: compare functions by bytecodes for each call, and totals over several runs.
"""

import argparse
import json
import os
import sys
import tempfile
from collections import Counter
from pathlib import Path

import private_net
from bytecode_counter import Counted
from rows import ROWS
from stage import stage
from systems import SYSTEMS
from throughput import ONE_DOMAIN, WARM_DOMAIN

HERE = Path(__file__).parent
_A_MESSAGE = "recipients_settled"
"""Called once for each message, as each has one recipient."""


def measure() -> Counted:
    """Run the row once, and return what was counted meanwhile in the relay's process."""
    private_net.enter()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as temporary:
        root = Path(temporary)
        found = root / "bytecodes.json"
        (root / "sitecustomize.py").write_text("import bytecode_counter\n\nbytecode_counter.arm()\n")
        os.environ["PYTHONPATH"] = f"{root}:{HERE}:{os.environ.get('PYTHONPATH', '')}"
        os.environ["BYTECODES_TO"] = str(found)
        with stage(root, [WARM_DOMAIN, ONE_DOMAIN]) as scene:
            ROWS["one-domain"].measure(SYSTEMS["relay"], scene, root / "turn")
        counted: Counted = json.loads(found.read_text())
        return counted


def table(counted: Counted, functions: int) -> list[str]:
    """Lines of the table: bytecodes per message in all, by file, and of the costliest functions."""
    messages = sum(calls for _, calls, name, _ in counted if name == _A_MESSAGE)
    if not messages:
        raise SystemExit("no message was delivered while it was counted")
    files: Counter[str] = Counter()
    for bytecodes, _, _, file in counted:
        files[_short(file)] += bytecodes
    lines = [f"{files.total() / messages:10.1f}  a message, of {messages} messages", "", "by file:"]
    lines += [f"{bytecodes / messages:10.1f}  {file}" for file, bytecodes in files.most_common()]
    lines += ["", "by function, with its calls:"]
    for bytecodes, calls, name, file in sorted(counted, reverse=True)[:functions]:
        lines.append(f"{bytecodes / messages:10.1f} {calls / messages:6.2f}  {name}  {_short(file)}")
    return lines


def _short(file: str) -> str:
    roots = (f"{Path.cwd()}/", "site-packages/", f"python{sys.version_info.major}.{sys.version_info.minor}/")
    for root in roots:
        _, found, rest = file.partition(root)
        if found:
            file = rest
    return file


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--functions", type=int, default=40, help="how many of the costliest functions to show")
    options = parser.parse_args()
    print("\n".join(table(measure(), options.functions)))


if __name__ == "__main__":
    main()
