"""Throughput and CPU per message: one turn of one row for one system, and what forbids to count it."""

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from figures import Figures
from load import offer, offer_each, own_seconds
from processes import PeakMemory, cpu_seconds, machine_seconds
from real_servers import wait_until
from sink_client import wait_for
from stage import BAD_DOMAIN, PLAIN_DOMAIN, REFUSED, Stage
from systems import Running, System

WARM_DOMAIN = "warm.test"
ONE_DOMAIN = "one.test"
MANY_DOMAINS = tuple(f"d{number:03}.test" for number in range(200))
SIZE = 10_000
_WARM_UP = 200
_CONTROL = 2
_STALLED = 30.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """`messages` go to each of the domains; `delay` is what the MX hosts hold back each batch of replies, in seconds.

    A warm domain has had mail before: its policy, its routes and some connections are there.
    """

    domains: Sequence[str]
    messages: int
    delay: float = 0.0
    warm: bool

    @property
    def offered(self) -> int:
        return len(self.domains) * self.messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn has cost. CPU is user and system time of all processes of the system.

    Memory is their proportional set size at its highest; `others` is the share of the machine that was used meanwhile
    by what is neither system, generator nor lab.
    """

    messages: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    connections: int
    handshakes: int
    sink_seconds: float
    others: float

    def figures(self) -> Figures:
        return {
            "messages_per_second": self.messages / self.seconds,
            "cpu_ms": 1000 * self.cpu_seconds / self.messages,
            "memory_mb": self.memory_bytes / 1e6,
            "messages": self.messages,
            "connections": self.connections,
            "handshakes": self.handshakes,
            "sink_ms": 1000 * self.sink_seconds / self.messages,
            "others_percent": 100 * self.others,
        }


def throughput(workload: Workload, system: System, stage: Stage, directory: Path) -> Figures:
    """Run one turn on a fresh instance. Raises SystemExit if a message was lost, doubled, or came unprotected."""
    with system.run(stage, directory) as running:
        prepare(stage, running, workload)
        return measure(stage, running, workload).figures()


def prepare(stage: Stage, running: Running, workload: Workload) -> None:
    """Show that this instance refuses what it must, and warm it up if the workload is a warm one."""
    _control(stage, running)
    if workload.warm:
        _warm_up(stage, running, workload)


def _control(stage: Stage, running: Running) -> None:
    """Show on this very instance that it refuses a wrong certificate and a host without TLS, and keeps the mail."""
    stage.sink.reset()
    for domain in (BAD_DOMAIN, PLAIN_DOMAIN):
        offer(running.port, domain, _CONTROL, SIZE)
    wait_until(lambda: all(stage.sink.report().host(name)["sessions"] for name in REFUSED), "visits to bad hosts", 60)
    offer(running.port, WARM_DOMAIN, _WARM_UP, SIZE)
    arrived(stage, _WARM_UP)
    # What has arrived may stand in the queue for a moment more.
    wait_until(lambda: running.queued() == 2 * _CONTROL, "a queue of nothing but what nobody may take", 10)


def _warm_up(stage: Stage, running: Running, workload: Workload) -> None:
    stage.sink.reset()
    offer_each(running.port, workload.domains, _WARM_UP // len(workload.domains), SIZE)
    wait_for(stage.sink, _WARM_UP, stalled=_STALLED)


def measure(stage: Stage, running: Running, workload: Workload) -> Turn:
    sink = stage.sink
    sink.reset(delay=workload.delay)
    sink_cpu, machine, own = cpu_seconds([sink.pid]), machine_seconds(), own_seconds()
    with PeakMemory(running.roots) as memory:
        cpu, began = cpu_seconds(running.roots), time.monotonic()
        if len(workload.domains) == 1:
            offer(running.port, workload.domains[0], workload.messages, SIZE)
        else:
            offer_each(running.port, workload.domains, workload.messages, SIZE)
        arrived(stage, workload.offered)
        report = sink.report()
        seconds = report["last"] - began
        time.sleep(0.5)  # the last settlements
        cpu = cpu_seconds(running.roots) - cpu
        elapsed = time.monotonic() - began
    sink_cpu = cpu_seconds([sink.pid]) - sink_cpu
    others = machine_seconds() - machine - (own_seconds() - own) - cpu - sink_cpu
    _accept(stage, workload.offered)
    return Turn(
        messages=workload.offered,
        seconds=seconds,
        cpu_seconds=cpu,
        memory_bytes=memory.peak,
        connections=report["connections"],
        handshakes=report["handshakes"],
        sink_seconds=sink_cpu,
        others=max(others, 0.0) / (elapsed * (os.cpu_count() or 1)),
    )


def arrived(stage: Stage, deliveries: int) -> None:
    """Wait for so many deliveries; raises SystemExit for one that is missing, double or unprotected."""
    wait_for(stage.sink, deliveries, stalled=_STALLED)
    _accept(stage, deliveries)


def _accept(stage: Stage, deliveries: int) -> None:
    if faults := stage.sink.report().faults(deliveries=deliveries, smallest=SIZE, refused=REFUSED):
        raise SystemExit(f"the turn does not count: {', '.join(faults)}")
