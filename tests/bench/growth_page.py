"""The growth curves and the paper calculation in words: a part of docs/performance.md."""

from collections.abc import Iterator, Mapping

from figures import Figures
from growth_curves import CURVES, Curve
from growth_paper import (
    DAY,
    PEAK,
    REFRESH,
    RETAINED_DAYS,
    ROUTES,
    SIZE,
    TAIL,
    TTL,
    Costs,
    Need,
    Node,
    Scale,
    costs,
    need_of,
    nodes_for,
)
from growth_shape import FLAT, NEAR, Shape, shape_of

_FIGURES = {
    "cpu_ms": ("CPU of a message", "ms"),
    "wall_ms": ("time of a message (1 / throughput)", "ms"),
    "memory_mb": ("memory", "MB"),
}
_SCALES = (Scale(messages=10_000_000, domains=100_000), Scale(messages=1_000_000_000, domains=1_000_000))
_REMEDIES = {
    "cores": (
        "More workers and nodes, which share nothing on a message's way. Where first contacts are the greater part, "
        "domains dealt to nodes by a hash of their names, so that routes and connections are found again."
    ),
    "octets written": (
        "Each body is written twice, to the write-ahead log and to the file. A body that leaves within the second need "
        "be written once: segments of an append-only log beside the rows."
    ),
    "flushes": "Larger groups: a commit that waits a millisecond longer carries more messages.",
    "disk space": "`queue.retain_finished` below 7 days, or the trace shipped to where logs are kept.",
    "network": "Nothing in the relay: the mail itself fills the wire. More nodes, or faster interfaces.",
    "memory": "Fewer workers on a node, or fewer connections kept open to hosts that were not asked for again.",
    "DNS questions": "Domains dealt to nodes by a hash of their names, so that each is asked for by one node.",
}

_HOW = (
    f"A shape is the simplest whose relative errors are small (root mean square): constant up to {FLAT:.0%}, "
    f"logarithmic, linear, n log n or quadratic up to {NEAR:.0%}. A cause stands only where the measured shape is the "
    "one that it explains."
)

Curves = Mapping[str, Mapping[str, Figures]]


def text(machine: str, curves: Curves, plot: str) -> str:
    parts = [
        "## Growth",
        f"Written by `make bench-growth`. The relay alone, on the stage and under the conditions above. {machine}",
        f"![Throughput, CPU time of a message and memory]({plot})",
        _HOW,
        *(part for curve in CURVES if curves.get(curve.name) for part in _curve(curve, curves[curve.name])),
        *_paper(costs(curves)),
    ]
    return "\n\n".join(parts) + "\n"


def _curve(curve: Curve, points: Mapping[str, Figures]) -> Iterator[str]:
    yield f"### {curve.title}"
    yield curve.work
    rows = [
        f"| {int(x):,} | {one['messages_per_second']:,.3g} | {one['cpu_ms']:,.3g} | {one['memory_mb']:,.0f} |"
        for x, one in points.items()
    ]
    yield "\n".join(
        [f"| {curve.title.lower()} | messages/s | CPU, ms/message | memory, MB |", "|---|---|---|---|", *rows]
    )
    yield "\n".join(_shape(curve, points, name) for name in _FIGURES)


def _shape(curve: Curve, points: Mapping[str, Figures], name: str) -> str:
    said, unit = _FIGURES[name]
    values = [(float(x), one[name]) for x, one in points.items()]
    busy = [100 * one["cpu_ms"] / one["wall_ms"] for one in points.values()]
    also = f" The relay's CPU time is {min(busy):.0f} to {max(busy):.0f} % of it." if name == "wall_ms" else ""
    shape = shape_of(values)
    if shape is None:
        return f"- {said}: {values[-1][1] / values[0][1]:.2f} × from the first point to the last.{also}"
    cause = curve.causes.get(name)
    why = f" {cause.text}" if cause is not None and shape.fits and shape.name in cause.shapes else ""
    return f"- {said}: {_words(shape, unit, curve)}{also}{why}"


def _words(shape: Shape, unit: str, curve: Curve) -> str:
    sign = "+" if shape.slope >= 0 else "−"
    slope = {
        "constant": "",
        "logarithmic": f" {sign} {abs(shape.slope):.3g} {unit} for each tenfold",
        "linear": f" {sign} {abs(shape.slope) * curve.per:.3g} {unit} for each {curve.unit}",
        "n log n": f" {sign} {abs(shape.slope):.3g} {unit} × n log₁₀ n",
        "quadratic": f" {sign} {abs(shape.slope):.3g} {unit} × n²",
    }[shape.name]
    name = f"**{shape.name}**" if shape.fits else f"no shape fits; {shape.name} is nearest"
    return f"{name}, {shape.start:.3g} {unit}{slope} (error {shape.error:.0%})."


def _paper(cost: Costs | None) -> Iterator[str]:
    yield "### On paper: 10 million and 1 billion messages a day"
    if cost is None:
        yield "Not calculated: the curves over queue length, size and domains are its inputs."
        return
    node = Node()
    yield (
        f"Computed from the figures above. Assumed: messages of {SIZE:,} octets to one recipient; a peak of {PEAK} "
        f"times the mean; {TAIL:.0%} of the mail spread evenly over all domains, the rest for few that are always "
        f"known; TTLs of {TTL} s and {ROUTES:,} routes remembered by each worker, after which a domain counts as met "
        "anew, with all that its first contact costs (an upper bound: its policy and often a connection are still "
        f"there); policies refreshed every {REFRESH // 3600} h; a trace of {RETAINED_DAYS} days. A node has "
        f"{node.cores} cores with a worker each, {node.busy:.0%} busy at the peak, writes {node.written_mb:g} MB/s and "
        f"flushes {node.flushes:,.0f} times a second to {node.disk_gb:,.0f} GB, and has "
        f"{8 * node.network_mb / 1000:g} Gbit/s, {node.memory_gb:g} GB and a resolver for "
        f"{node.questions:,.0f} questions/s. Nodes share nothing, and a client chooses any."
    )
    yield (
        f"A message costs {cost.cpu_ms:.3g} ms of CPU, {cost.written_kb:.3g} kB written, {cost.flushes:.2g} flushes "
        f"under load, {cost.network_kb:.3g} kB of network in and out, {cost.log_octets:,.0f} octets of log, "
        f"{cost.trace_octets:,.0f} octets of trace, and {cost.queued_octets:,.0f} octets of file while it waits. The "
        f"first contact with a domain costs {cost.domain_cpu_ms:.3g} ms, {cost.domain_questions:.2g} DNS questions, "
        f"{cost.domain_network_kb:.3g} kB and {cost.domain_memory_kb:.3g} kB of memory."
    )
    needs = [nodes_for(cost, scale, node) for scale in _SCALES]
    yield "\n".join(_table(cost, needs))
    for scale in _SCALES:
        yield _breaks(cost, scale, node)
    yield _cluster(cost)


def _table(cost: Costs, needs: list[Need]) -> Iterator[str]:
    pairs = list(zip(_SCALES, needs, strict=True))
    rows: dict[str, list[str]] = {
        "domains": [f"{scale.domains:,}" for scale in _SCALES],
        "messages/s, mean and at the peak": [f"{s.messages / DAY:,.0f} / {s.peak:,.0f}" for s in _SCALES],
        "nodes": [f"**{need.nodes}** for {need.first}" for need in needs],
        "cores busy at the peak, in all": [f"{need.cores * need.nodes:,.1f}" for need in needs],
        "written at the peak, MB/s a node": [f"{need.written_mb:,.0f}" for need in needs],
        "written a day, TB in all": [f"{s.messages * cost.written_kb / 1e9:,.2g}" for s in _SCALES],
        "flushes/s a node at the peak": [f"{need.flushes:,.0f}" for need in needs],
        "trace, GB in all": [f"{s.messages * RETAINED_DAYS * cost.trace_octets / 1e9:,.0f}" for s in _SCALES],
        "backlog of an hour's outage at the peak, GB in all": [
            f"{s.peak * 3600 * cost.queued_octets / 1e9:,.0f}" for s in _SCALES
        ],
        "memory, GB a node": [f"{need.memory_gb:,.1f}" for need in needs],
        "network at the peak, Gbit/s in all": [f"{need.network_mb * need.nodes * 8 / 1000:,.2g}" for need in needs],
        "DNS questions, millions, were it peak all day": [
            f"{n.contacts * n.nodes * DAY * cost.domain_questions / 1e6:,.0f}" for s, n in pairs
        ],
        "policy fetches a day, every node for itself": [f"{s.domains * DAY // REFRESH * n.nodes:,}" for s, n in pairs],
        "log, GB a day": [f"{s.messages * cost.log_octets / 1e9:,.0f}" for s in _SCALES],
    }
    yield "| | " + " | ".join(f"{scale.messages:,} a day" for scale in _SCALES) + " |"
    yield "|---" * (len(_SCALES) + 1) + "|"
    yield from (f"| {name} | " + " | ".join(cells) + " |" for name, cells in rows.items())


def _breaks(cost: Costs, scale: Scale, node: Node) -> str:
    alone = need_of(cost, scale, node, 1)
    loads = sorted(alone.loads.items(), key=lambda one: -one[1])
    shown = ", ".join(f"{name} {load:.2g} ×" for name, load in loads[:4])
    verb = "breaks first" if loads[0][1] > 1 else "would break first, and does not yet"
    return (
        f"**{scale.messages:,} a day.** On a single node, against what it has: {shown}. What {verb}: {loads[0][0]}. "
        f"{_REMEDIES[loads[0][0]]} Next, {loads[1][0]}: {_REMEDIES[loads[1][0]]}"
    )


def _cluster(cost: Costs) -> str:
    peaks = " and ".join(f"{2 * scale.peak:,.0f}" for scale in _SCALES)
    octets = " and ".join(f"{scale.peak * SIZE / 1e6:,.0f}" for scale in _SCALES)
    return (
        "A queue that nodes share, as in PostgreSQL, has to carry two row writes for each message, accepted and "
        f"settled: {peaks} a second at the peaks, in groups as here, with {octets} MB/s of bodies, which are better "
        "kept out of its write-ahead log and its replicas. A policy cache that all nodes read divides the fetches by "
        "their number. With files of their own nodes need no such thing to be fast; they need it for the mail of a "
        "node that is lost."
    )
