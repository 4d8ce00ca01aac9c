"""What the measured costs come to at millions and billions of messages a day. **Pure.**"""

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import count

from figures import Figures

from relay.delivery.route import _MAX_REMEMBERED

DAY = 86_400
PEAK = 3
"""The busiest second has so many times the messages of the mean one."""
TTL = 3600
TAIL = 0.2
"""The part of the mail that is spread evenly over all domains; the rest goes to few, which are always known."""
REFRESH = DAY
RETAINED_DAYS = 7
ROUTES = _MAX_REMEMBERED
SIZE = 10_000
_FILLED_SIZE = 300
"""The size of the messages that a long queue was filled with, in octets (bench_backlog.py)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Costs:
    """Of a message of 10 kB to one recipient at a known domain, and of the first contact with a domain (`domain_`)."""

    cpu_ms: float
    written_kb: float
    flushes: float
    log_octets: float
    trace_octets: float
    queued_octets: float
    network_kb: float
    memory_mb: float
    domain_cpu_ms: float
    domain_network_kb: float
    domain_questions: float
    domain_memory_kb: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Node:
    """What one machine may be asked for at the peak; assumed, not measured."""

    cores: int = 8
    busy: float = 0.6
    written_mb: float = 500
    flushes: float = 10_000
    disk_gb: float = 1000
    network_mb: float = 1250
    memory_gb: float = 32
    questions: float = 20_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Scale:
    """Mail of a day, and the domains that it goes to."""

    messages: int
    domains: int

    @property
    def peak(self) -> float:
        return PEAK * self.messages / DAY


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """What one of `nodes` machines has to bear at the peak, and how much of a machine's `limits` that is."""

    nodes: int
    rate: float
    contacts: float
    cores: float
    written_mb: float
    flushes: float
    disk_gb: float
    network_mb: float
    memory_gb: float
    questions: float
    loads: Mapping[str, float]

    @property
    def first(self) -> str:
        """Return the name of what breaks first."""
        return max(self.loads, key=lambda name: self.loads[name])


def costs(curves: Mapping[str, Mapping[str, Figures]]) -> Costs | None:
    """Read the costs from what was measured; None if a curve that is needed is missing."""
    try:
        warm, queue, domains = curves["size"][str(SIZE)], curves["queue"], curves["domains"]
    except KeyError:
        return None
    fewest, most = (domains[key] for key in (min(domains, key=int), max(domains, key=int)))
    span = int(max(domains, key=int)) - int(min(domains, key=int))

    def of_a_domain(name: str) -> float:
        return max(most[name] - fewest[name], 0.0) * most["messages"] / span

    return Costs(
        cpu_ms=warm["cpu_ms"],
        written_kb=warm["written_kb"],
        flushes=warm["flushes"],
        log_octets=warm["log_octets"],
        trace_octets=max(warm["kept_octets"], 0.0),
        queued_octets=queue[max(queue, key=int)]["stored_octets"] - _FILLED_SIZE + SIZE,
        network_kb=warm["network_kb"],
        memory_mb=warm["memory_mb"],
        domain_cpu_ms=of_a_domain("cpu_ms"),
        domain_network_kb=of_a_domain("network_kb"),
        domain_questions=of_a_domain("dns_questions"),
        domain_memory_kb=1000 * max(most["memory_mb"] - fewest["memory_mb"], 0.0) / span,
    )


def nodes_for(cost: Costs, scale: Scale, node: Node) -> Need:
    """Return what the fewest machines that suffice have to bear."""
    return next(need for n in count(1) if max((need := need_of(cost, scale, node, n)).loads.values()) <= 1)


def _contacts(rate: float, domains: int) -> float:
    """Return how many domains a second a worker meets anew: as their TTL is over, or as it had to forget them."""
    forgotten = 1 - min(ROUTES / domains, 1)
    return max(min(domains / TTL, rate), rate * forgotten)


def need_of(cost: Costs, scale: Scale, node: Node, nodes: int) -> Need:
    """Spread the mail evenly over machines with a worker for each core; each worker gets to know domains by itself."""
    rate = scale.peak / nodes
    contacts = node.cores * _contacts(rate / node.cores * TAIL, scale.domains)
    known = node.cores * min(scale.domains, ROUTES)
    trace = scale.messages / nodes * RETAINED_DAYS * cost.trace_octets
    cores = (rate * cost.cpu_ms + contacts * cost.domain_cpu_ms) / 1000
    written = rate * cost.written_kb / 1000
    disk = (trace + rate * 3600 * cost.queued_octets) / 1e9
    network = (rate * cost.network_kb + contacts * cost.domain_network_kb) / 1000
    memory = (node.cores * cost.memory_mb + known * cost.domain_memory_kb / 1000) / 1000
    questions = contacts * cost.domain_questions
    return Need(
        nodes=nodes,
        rate=rate,
        contacts=contacts,
        cores=cores,
        written_mb=written,
        flushes=rate * cost.flushes,
        disk_gb=disk,
        network_mb=network,
        memory_gb=memory,
        questions=questions,
        loads={
            "cores": cores / (node.cores * node.busy),
            "octets written": written / node.written_mb,
            "flushes": rate * cost.flushes / node.flushes,
            "disk space": disk / node.disk_gb,
            "network": network / node.network_mb,
            "memory": memory / node.memory_gb,
            "DNS questions": questions / node.questions,
        },
    )
