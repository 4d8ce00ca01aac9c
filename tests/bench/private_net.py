"""A network of one's own: loopback alone, with ports 25, 53 and 443 free and /etc/resolv.conf to be chosen.

Postfix and its policy service know no other way to a name server and to policy hosts, and nothing that a bench sends
can leave the machine. Linux, and root.
"""

import os
import subprocess
import sys
from pathlib import Path

_INSIDE = "BENCH_PRIVATE_NET"
NAME_SERVER = "127.0.0.1"


def enter() -> None:
    """Go on inside: run this program anew in network and mount namespaces of its own, unless it is there already."""
    if os.environ.get(_INSIDE):
        return
    if os.geteuid() != 0:
        raise SystemExit("the bench needs root, for a network of its own (unshare) and for Postfix")
    command = ["unshare", "--mount", "--net", "--propagation", "private", sys.executable, *sys.argv]
    os.execvpe(command[0], command, os.environ | {_INSIDE: "1"})


def prepare(root: Path) -> None:
    """Bring loopback up and name our name server in /etc/resolv.conf, as seen from inside."""
    assert os.environ.get(_INSIDE), "inside"
    resolv_conf = root / "resolv.conf"
    resolv_conf.write_text(f"nameserver {NAME_SERVER}\n")
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    subprocess.run(["mount", "--bind", resolv_conf, Path("/etc/resolv.conf").resolve()], check=True)
