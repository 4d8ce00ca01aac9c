"""The growth curves: what is varied, how a point is measured, and which cause stands behind the shape that is due."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from bench_backlog import fill
from figures import Figures
from growth_point import Work, measure, send_in_turn, show_refusal, warm_up
from load import SESSIONS, offer
from processes import memory_bytes
from stage import DOWN_DOMAIN, Stage
from systems import relay
from throughput import ONE_DOMAIN, SIZE, WARM_DOMAIN

_WARM_UP = 200
_SESSIONS_OF_A_WORKER = 5
"""As many for each, because those of one worker share its commits; few, so that two leave room on two cores."""
DOMAINS = tuple(f"n{number}.test" for number in range(10_000))


@dataclass(frozen=True, slots=True)
class Share:
    """How much of the full work a run does: `work` is a part of 1; curves end at `domains` and `queued`."""

    work: float = 1.0
    domains: int = len(DOMAINS)
    queued: int = 1_000_000

    def of(self, messages: int) -> int:
        return max(round(self.work * messages), 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cause:
    """`text` explains a figure that has one of these shapes; of any other shape it says nothing."""

    shapes: frozenset[str]
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Curve:
    """`xs` are what is varied. `measure` does one point on a relay of its own, in an empty directory.

    A slope is told for each `unit`, which is `per` of x.
    """

    name: str
    title: str
    unit: str
    per: int = 1
    work: str
    xs: Callable[[Share], Sequence[int]]
    measure: Callable[[int, Share, Stage, Path], Figures]
    causes: Mapping[str, Cause] = field(default_factory=dict)


def _queue(length: int, share: Share, stage: Stage, directory: Path) -> Figures:
    state = directory / "state"
    state.mkdir(mode=0o700, parents=True)
    file = state / "queue-0.db"
    fill(file, length, only=DOWN_DOMAIN, age=60)
    stored = file.stat().st_size / length
    with relay(stage, directory) as running:
        fresh = memory_bytes(running.roots)
        show_refusal(stage, running)
        warm_up(stage, running, ONE_DOMAIN, _WARM_UP)
        figures = measure(stage, running, _messages(share.of(4000), SIZE))
        return {
            **figures,
            "start_seconds": running.start_seconds,
            "fresh_mb": fresh / 1e6,
            "stored_octets": stored,
        }


def _messages(count: int, size: int, recipients: int = 1, sessions: int = SESSIONS) -> Work:
    return Work(
        offer=lambda port: offer(port, ONE_DOMAIN, count, size, recipients=recipients, sessions=sessions),
        messages=count,
        deliveries=count * recipients,
        smallest=size,
    )


def _warm(work: Work, stage: Stage, directory: Path, workers: int = 1) -> Figures:
    with relay(stage, directory, {"relay": {"workers": str(workers)}}) as running:
        show_refusal(stage, running)
        warm_up(stage, running, ONE_DOMAIN, _WARM_UP)
        return measure(stage, running, work)


def _recipients(count: int, share: Share, stage: Stage, directory: Path) -> Figures:
    messages = {1: 3000, 10: 1500, 100: 300, 1000: 40}[count]
    return _warm(_messages(share.of(messages), SIZE, count), stage, directory)


def _size(octets: int, share: Share, stage: Stage, directory: Path) -> Figures:
    messages = {10**3: 3000, 10**4: 3000, 10**5: 1500, 10**6: 300, 10**7: 40, 10**8: 6}[octets]
    return _warm(_messages(share.of(messages), octets), stage, directory)


def _domains(count: int, share: Share, stage: Stage, directory: Path) -> Figures:
    messages = share.domains
    domains = DOMAINS[:count]
    with relay(stage, directory) as running:
        show_refusal(stage, running)
        warm_up(stage, running, WARM_DOMAIN, _WARM_UP)
        work = Work(
            offer=lambda port: send_in_turn(port, domains, messages, SIZE),
            messages=messages,
            deliveries=messages,
            smallest=SIZE,
        )
        return measure(stage, running, work)


def _workers(count: int, share: Share, stage: Stage, directory: Path) -> Figures:
    work = _messages(share.of(6000), SIZE, sessions=_SESSIONS_OF_A_WORKER * count)
    return _warm(work, stage, directory, count)


def _up_to(values: Sequence[int], most: Callable[[Share], int], share: Share) -> Sequence[int]:
    return [value for value in values if value <= most(share)]


def _all(values: Sequence[int], _share: Share) -> Sequence[int]:
    return values


_FLAT, _RISING = frozenset({"constant", "logarithmic"}), frozenset({"linear"})

CURVES = (
    Curve(
        name="queue",
        title="Queue length",
        unit="1,000 queued messages",
        per=1000,
        work="Messages of 10 kB for one live domain, while so many due ones wait for a domain whose host is down.",
        xs=partial(_up_to, (10**3, 10**4, 10**5, 10**6), lambda share: share.queued),
        measure=_queue,
        causes={
            "cpu_ms": Cause(
                shapes=_FLAT,
                text="What is due is found by destination through an index, never by a walk over the queue, and a dead "
                "destination cools down as a whole: its messages are not touched one by one. What is left is the "
                "depth of the B-trees, which is a logarithm to a base of hundreds.",
            ),
            "memory_mb": Cause(
                shapes=_FLAT,
                text="The queue is in the file. The relay holds the messages that are on their way, within "
                "`queue.memory_budget`, and SQLite's page cache, which is bounded too.",
            ),
        },
    ),
    Curve(
        name="recipients",
        title="Recipients per message",
        unit="recipient",
        work="Messages of 10 kB, all recipients at one domain.",
        xs=partial(_all, (1, 10, 100, 1000)),
        measure=_recipients,
        causes={
            "cpu_ms": Cause(
                shapes=_RISING,
                text="The start is the message itself: one job, one body, one commit, however many recipients it has. "
                "The slope is a recipient: its RCPT in, its place in the job's row, its RCPT out (100 to a "
                "transaction), its outcome in the row, in metrics and in a log line of its own.",
            ),
        },
    ),
    Curve(
        name="size",
        title="Message size",
        unit="kB",
        per=1000,
        work="Messages of this size for one domain; six of the largest.",
        xs=partial(_all, (10**3, 10**4, 10**5, 10**6, 10**7, 10**8)),
        measure=_size,
        causes={
            "cpu_ms": Cause(
                shapes=_RISING,
                text="The start is the message, the slope its octets: read from the socket, searched for the dot that "
                "ends it, written to the write-ahead log and from there to the file, enciphered by TLS on the way out.",
            ),
            "memory_mb": Cause(
                shapes=_FLAT,
                text="Content goes through in pieces of 256 KiB; what is held of it is bounded by "
                "`queue.memory_budget`, and what is larger is read back from the file piece by piece.",
            ),
        },
    ),
    Curve(
        name="domains",
        title="Domains",
        unit="domain",
        work="As many messages of 10 kB at each point as there are domains at the last one, dealt out in turn. Of no "
        "domain is anything known before; each has a policy host and an MX host of its own.",
        xs=partial(_up_to, (1, 10, 100, 1000, 10_000), lambda share: share.domains),
        measure=_domains,
        causes={
            "cpu_ms": Cause(
                shapes=_RISING,
                text="The messages are the same, so that what grows is the first contact with a domain. Of what a "
                "profile of nothing but first contacts has seen in the interpreter, two fifths are the DNS questions, "
                "which are written and read in Python, a quarter is the policy over HTTPS, with a TLS connection of "
                "its own, and a tenth is connecting to the MX host, which domains of one provider share.",
            ),
            "memory_mb": Cause(
                shapes=_RISING,
                text="A domain that was spoken to leaves a route, a policy and for a while an open TLS connection; "
                "the numbers of all three are bounded, connections by their idle time as well.",
            ),
        },
    ),
    Curve(
        name="workers",
        title="Workers",
        unit="worker",
        work="Messages of 10 kB for one domain, over five client sessions for each worker, which share its commits. "
        "Each worker is a process with a queue file, connections and caches of its own; more than one have a parent. "
        "Generator, name server and MX host share the cores with them.",
        xs=partial(_all, (1, 2)),
        measure=_workers,
        causes={
            "cpu_ms": Cause(
                shapes=frozenset({"constant"}),
                text="On a message's way workers share nothing, neither a file nor a lock.",
            ),
        },
    ),
)
