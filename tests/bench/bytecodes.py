"""How many Python bytecodes a message costs the relay's loop, by file.

    PYTHONPATH=tests/real .venv/bin/python tests/bench/bytecodes.py [--functions 40] [--cold]

The relay is started with this directory's `bytecode_counter` in its process, which counts from before the first of some
hundred messages is offered until all of them are settled, with connections that stand already: the row `one-domain`,
but fewer. With `--cold` each message is the first for its domain. All is slower meanwhile by an order of magnitude, so
that batches are of other sizes. What else the machine does hardly matters, as it does to time: runs differ by a few in
a hundred.
"""

import argparse
import json
import os
import signal
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import private_net
from bytecode_counter import Counted
from load import offer, offer_each
from real_servers import wait_until
from stage import Stage, stage
from systems import SYSTEMS, Running
from throughput import MANY_DOMAINS, ONE_DOMAIN, SIZE, WARM_DOMAIN, Workload, arrived, prepare

HERE = Path(__file__).parent
_WARM = Workload(domains=[ONE_DOMAIN], messages=600, warm=True)
_COLD = Workload(domains=MANY_DOMAINS[:60], messages=1, warm=False)
_SETTLING_SECONDS = 1.0


def measure(workload: Workload) -> Counted:
    """Return what was counted in the relay's process while it passed the messages on."""
    private_net.enter()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as temporary:
        root = Path(temporary)
        found = root / "bytecodes.json"
        (root / "sitecustomize.py").write_text("import bytecode_counter\n\nbytecode_counter.arm()\n")
        os.environ["PYTHONPATH"] = f"{root}:{HERE}:{os.environ.get('PYTHONPATH', '')}"
        os.environ["BYTECODES_TO"] = str(found)
        with (
            stage(root, [WARM_DOMAIN, *workload.domains]) as scene,
            SYSTEMS["relay"].run(scene, root / "turn") as running,
        ):
            prepare(scene, running, workload)
            _offer_counted(scene, running, workload)
            wait_until(found.exists, "what was counted")
        counted: Counted = json.loads(found.read_text())
        return counted


def _offer_counted(scene: Stage, running: Running, workload: Workload) -> None:
    [relay] = running.roots
    scene.sink.reset()
    os.kill(relay, signal.SIGUSR2)
    if workload is _COLD:
        offer_each(running.port, workload.domains, workload.messages, SIZE)
    else:
        offer(running.port, ONE_DOMAIN, workload.messages, SIZE)
    arrived(scene, workload.offered)
    time.sleep(_SETTLING_SECONDS)
    os.kill(relay, signal.SIGUSR2)


def table(counted: Counted, messages: int, functions: int) -> list[str]:
    """Lines of the table: bytecodes per message in all, by file, and of the costliest functions."""
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
    parser.add_argument("--cold", action="store_true", help="one message each for domains that nothing is known of")
    options = parser.parse_args()
    workload = _COLD if options.cold else _WARM
    print("\n".join(table(measure(workload), workload.offered, options.functions)))


if __name__ == "__main__":
    main()
