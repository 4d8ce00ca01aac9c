"""One point of a growth curve: what so much work costs a relay that runs, and what forbids to count it."""

import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path

from bench_client import Client, content
from figures import Figures
from load import SESSIONS, offer
from processes import PeakMemory, cpu_seconds, memory_bytes, tree
from real_servers import wait_until
from sink_client import wait_for
from stage import BAD_DOMAIN, PLAIN_DOMAIN, REFUSED, Stage
from systems import ADDRESS, Running

_STALLED = 60.0
_SETTLING = 1.0
"""For the last settlements, in seconds."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """`offer` returns when all is accepted: `messages` messages, `deliveries` in all, none below `smallest` octets."""

    offer: Callable[[int], None]
    messages: int
    deliveries: int
    smallest: int


def show_refusal(stage: Stage, running: Running) -> None:
    """Show on this very instance that it refuses a wrong certificate and a host without TLS."""
    stage.sink.reset()
    for domain in (BAD_DOMAIN, PLAIN_DOMAIN):
        offer(running.port, domain, 1, 1000)
    wait_until(lambda: all(stage.sink.report().host(name)["sessions"] for name in REFUSED), "visits to bad hosts", 60)
    _accept(stage, 0, 0)


def warm_up(stage: Stage, running: Running, domain: str, messages: int) -> None:
    stage.sink.reset()
    offer(running.port, domain, messages, 1000)
    wait_for(stage.sink, messages, stalled=_STALLED)
    _accept(stage, messages, 1000)


def measure(stage: Stage, running: Running, work: Work) -> Figures:
    """Do the work and return its cost per message. Raises SystemExit for mail lost, doubled or unprotected."""
    sink, idle = stage.sink, memory_bytes(running.roots)
    sink.reset()
    before, began = _counters(running), time.monotonic()
    with PeakMemory(running.roots) as memory:
        work.offer(running.port)
        wait_for(sink, work.deliveries, stalled=_STALLED)
        report = sink.report()
        time.sleep(_SETTLING)
        spent = {name: value - before[name] for name, value in _counters(running).items()}
    _accept(stage, work.deliveries, work.smallest)
    seconds = report["last"] - began
    each = {name: value / work.messages for name, value in spent.items()}
    return each | {
        "messages": work.messages,
        "messages_per_second": work.messages / seconds,
        "wall_ms": 1000 * seconds / work.messages,
        "memory_mb": memory.peak / 1e6,
        "idle_mb": idle / 1e6,
        "connections": report["connections"],
    }


def send_in_turn(port: int, domains: Sequence[str], messages: int, size: int) -> None:
    """Offer messages to the domains in turn over 20 sessions, each in one flight up to DATA."""

    def session(first: int) -> None:
        with Client(ADDRESS, port) as client:
            for number in range(first, messages, SESSIONS):
                recipient = f"user@{domains[number % len(domains)]}"
                client.write(f"MAIL FROM:<sender@bench.test>\r\nRCPT TO:<{recipient}>\r\nDATA\r\n".encode())
                client.expect(b"354", 3)
                client.write(content(f"{number}@growth", size) + b".\r\n")
                client.expect(b"250")

    with ThreadPoolExecutor(SESSIONS) as sessions:
        for done in [sessions.submit(session, first) for first in range(min(SESSIONS, messages))]:
            done.result()


def _accept(stage: Stage, deliveries: int, smallest: int) -> None:
    if faults := stage.sink.report().faults(deliveries=deliveries, smallest=smallest, refused=REFUSED):
        raise SystemExit(f"the point does not count: {', '.join(faults)}")


def _counters(running: Running) -> dict[str, float]:
    """Return what has been used so far; network and DNS are those of the bench's own network, flushes of the disk."""
    pids = tree(running.roots)
    return {
        "cpu_ms": 1000 * cpu_seconds(running.roots),
        "written_kb": sum(_written(pid) for pid in pids) / 1e3,
        "flushes": _flushes(running.directory),
        "log_octets": (running.directory / "relay.log").stat().st_size,
        "kept_octets": sum(_used(file) for file in running.directory.glob("state/queue-*.db")),
        "network_kb": _loopback_octets() / 1e3,
        "dns_questions": _datagrams() / 2,
    }


def _written(pid: int) -> int:
    """Return the octets that a process has had written to storage (proc(5), io)."""
    try:
        lines = Path(f"/proc/{pid}/io").read_text().splitlines()
    except OSError:
        return 0
    return next(int(line.split()[1]) for line in lines if line.startswith("write_bytes:"))


def _flushes(directory: Path) -> int:
    """Return the flushes of the disk that has this directory: one or two for each fsync; 0 if it counts none."""
    device = directory.stat().st_dev
    counts = Path(f"/sys/dev/block/{os.major(device)}:{os.minor(device)}/stat")
    fields = counts.read_text().split() if counts.exists() else []
    return int(fields[15]) if len(fields) > 15 else 0


def _used(file: Path) -> int:
    """Return the octets of the pages in use: what a message leaves there when it is delivered is its trace."""
    with closing(sqlite3.connect(f"file:{file}?mode=ro", uri=True, timeout=10)) as connection:
        names = ("page_count", "freelist_count", "page_size")
        pages, free, size = (int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in names)
    return (pages - free) * size


def _loopback_octets() -> int:
    lines = Path("/proc/self/net/dev").read_text().splitlines()
    return next(int(line.split()[9]) for line in lines if line.split()[0] == "lo:")


def _datagrams() -> int:
    """Return the UDP datagrams sent in this network: questions and answers."""
    names, values = (
        line.split() for line in Path("/proc/self/net/snmp").read_text().splitlines() if line.startswith("Udp:")
    )
    return int(values[names.index("OutDatagrams")])
