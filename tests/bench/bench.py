"""The relay beside Postfix on the same pocket internet: `make bench`, or one row of it at a time.

    PYTHONPATH=tests/real .venv/bin/python tests/bench/bench.py --row one-domain --turns 1 --system relay

Everything runs in a network of its own (root only). No turn counts unless every message arrived exactly once, over TLS,
at a host that the sender verified; each turn first shows on the running system that it refuses a wrong certificate and
a host without TLS.
"""

import argparse
import tempfile
from pathlib import Path

import private_net
from stage import stage
from systems import SYSTEMS
from throughput import MANY_DOMAINS, ONE_DOMAIN, WARM_DOMAIN, Workload, turn

ROWS = {
    "one-domain": Workload(domains=[ONE_DOMAIN], messages=4000, warm=True),
    "many-domains": Workload(domains=MANY_DOMAINS, messages=20, warm=False),
    "one-domain-delayed": Workload(domains=[ONE_DOMAIN], messages=2000, delay=0.05, warm=True),
    "many-domains-delayed": Workload(domains=MANY_DOMAINS, messages=5, delay=0.05, warm=False),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--row", action="append", choices=ROWS, help="this row (may be repeated); without it, all")
    parser.add_argument("--system", action="append", choices=SYSTEMS, help="this system (may be repeated)")
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--keep", type=Path, help="leave configurations, logs and queues in this new directory")
    options = parser.parse_args()
    private_net.enter()
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as temporary:
        root = options.keep or Path(temporary)
        root.mkdir(exist_ok=True)
        with stage(root, [WARM_DOMAIN, ONE_DOMAIN, *MANY_DOMAINS]) as scene:
            for number in range(options.turns):
                for row in options.row or ROWS:
                    for system in options.system or SYSTEMS:
                        one = turn(SYSTEMS[system], scene, ROWS[row], root / f"{row}-{number}-{system}")
                        print(
                            f"{row} {system}: {one.rate:.0f} messages/s, {one.cpu_ms:.2f} ms CPU per message, "
                            f"{one.memory_bytes / 1e6:.0f} MB, {one.connections} connections, {one.handshakes} "
                            f"handshakes; sink {1000 * one.sink_seconds / one.messages:.3f} ms per message; "
                            f"others used {100 * one.others:.0f} % of the machine",
                            flush=True,
                        )


if __name__ == "__main__":
    main()
