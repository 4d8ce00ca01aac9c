"""The seam to the queue: mail verbs, not SQL (design §4). Durations go in, never times; the store has the clock.

Contract for all: each call is one transaction, atomic and durable before it returns. A call that returns has
happened; one that raises StoreError has not, unless it says otherwise. Cancelling the caller does not undo a
commit under way.
"""

from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, timedelta
from enum import Enum
from typing import Protocol

from policy.tlsrpt import Endpoint
from relay.queue.attempt import Attempt
from relay.queue.message import HoldReason, Job, Message, NewMessage, Notify, State, StoredContent
from relay.queue.tls_results import TlsResult
from relay.status import Status
from relay.value import Choice, value


@dataclass(frozen=True, slots=True, kw_only=True)
class Destination:
    """What waits at one destination. `due_in` is zero or less when work is due; None when nothing is scheduled."""

    name: str
    queued: int
    queued_bytes: int
    in_flight: int
    oldest_at: datetime | None
    due_in: timedelta | None
    paused: bool


class Verdict(Choice):
    """What a settlement makes of one recipient."""

    DELIVERED = "delivered"
    FAILED = "failed"
    QUEUED = "queued"


@value
class SettledRecipient:
    """The new state of one recipient, with the status and text that `queue show` prints."""

    recipient_id: int
    verdict: Verdict
    status: Status
    diagnostic: str


@value
class Settlement:
    """The end of one attempt, written in one transaction (design §4, rule 3).

    Every recipient of the job is named once, in the job's order. Those QUEUED again are due after `retry_in`, which
    is None if there is none of them. `hold` holds them instead (double bounce: content kept). `notices` are NDRs,
    delay and success notices, queued in the same transaction. `charged` False gives the attempt back (shutdown).
    `cool_destination` keeps the whole destination from being due for that long. `tls_results` are the TLS sessions
    that this attempt was the first to use for the domain, to be counted with it (design §5).
    """

    job: Job
    recipients: tuple[SettledRecipient, ...]
    attempt: Attempt | None
    retry_in: timedelta | None = None
    hold: HoldReason | None = None
    delay_notified: bool = False
    notices: tuple[NewMessage, ...] = ()
    charged: bool = True
    cool_destination: timedelta | None = None
    tls_results: tuple[TlsResult, ...] = ()

    def __post_init__(self) -> None:
        if [r.recipient_id for r in self.recipients] != [r.id for r in self.job.recipients]:
            raise ValueError("a settlement names every recipient of its job once, in the job's order")


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueFilter:
    """Which jobs an operator means; all given conditions hold together. An empty filter means none unless `all`."""

    ids: tuple[str, ...] = ()
    domain: str | None = None
    sender: str | None = None
    states: frozenset[State] = frozenset()
    older_than: timedelta | None = None
    all: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class QueuedRecipient:
    """One recipient as the operator sees it."""

    forward_path: str
    state: State
    status: str
    diagnostic: str
    notify: frozenset[Notify] | None = None
    orcpt: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueEntry:
    """One job as the operator sees it. `attempts_made` are the kept records: the first and the last ten."""

    job_id: int
    message: Message
    destination: str
    state: State
    attempts: int
    next_attempt_at: datetime | None
    hold_reason: HoldReason | None
    recipients: tuple[QueuedRecipient, ...]
    attempts_made: tuple[Attempt, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class QueueStats:
    """Sums for the gauges. Counts are recipients by state; cheap however long the queue is."""

    by_state: dict[State, int] = field(default_factory=dict)
    queued_bytes: int = 0
    oldest_at: datetime | None = None


class StoreError(Exception):
    """The store could not do what was asked; nothing was changed. The text may be logged, never sent to a peer."""


class StoreFullError(StoreError):
    """There is no room left (disk, `store.min_free_disk`)."""


class StoreDeadError(StoreError):
    """The store will do nothing more in this process, which has to end so that its supervisor starts it anew."""


class LeaseLostError(StoreError):
    """The job is no longer leased to this fence: someone else may have it. Nothing was written."""


class Upload(Protocol):
    """Content on its way in, in short transactions, under an id that no message names yet."""

    async def append(self, data: bytes) -> None: ...

    async def finish(self) -> StoredContent: ...

    async def discard(self) -> None:
        """Remove what was written; safe to call at any time and more than once."""
        ...


class QueueStore(Protocol):
    """One queue: what was accepted and is not yet final, and for a while the trace of what was."""

    async def enqueue(self, message: NewMessage, lease: frozenset[str] = frozenset()) -> Sequence[Job]:
        """Commit a message; return its jobs at the destinations named in `lease`, already leased and counted.

        A job is leased only if nothing is due or in cool-down at its destination before it and the destination is
        not paused. The returned jobs carry their content in memory. A TLS report is due `REPORT_HEAD_START` ahead of
        other mail: where policy refuses all that waits, it must not wait behind it. Raises StoreFullError, StoreError.
        """
        ...

    async def begin_upload(self) -> Upload: ...

    async def room_for(self, size: int) -> bool:
        """Whether a message of this size would be accepted now (`store.min_free_disk`)."""
        ...

    async def due_destinations(self, limit: int) -> Sequence[str]:
        """Names of the destinations that have due work, not paused, not cooled down; the longest due first."""
        ...

    async def claim(self, destination: str, limit: int) -> Sequence[Job]:
        """Lease due jobs of one destination, oldest due time first; each one's attempt is counted now."""
        ...

    async def settle(self, settlement: Settlement) -> None:
        """Write the end of an attempt. Raises LeaseLostError if the fence is not current."""
        ...

    async def renew(self, jobs: Sequence[Job] | None = None) -> None:
        """Prolong the leases of this process (all of them unless named), in one statement."""
        ...

    async def hold(self, job: Job, reason: HoldReason) -> None:
        """Hold a leased job, e.g. as suspected poison."""
        ...

    def content(self, queue_id: str) -> AsyncIterator[bytes]:
        """The content in pieces of at most 64 KiB. Raises StoreError if it is gone."""
        ...

    async def headers(self, queue_id: str, max_bytes: int = 262_144) -> bytes:
        """The header section up to and including the empty line, cut after `max_bytes` at a line's end."""
        ...

    async def wait_for_work(self, timeout: timedelta) -> None:
        """Return when work may have become due (new, retried, released, resumed, lapsed), or after the time-out."""
        ...

    async def sweep(self) -> Sequence[QueueEntry]:
        """Housekeeping: lapsed leases become due again, or after the fifth in a row are held (those are returned);
        nameless chunks and old trace rows go; free pages are given back in bounded steps."""
        ...

    async def stats(self) -> QueueStats: ...

    async def destinations(self, limit: int) -> Sequence[Destination]: ...

    async def list(self, which: QueueFilter, limit: int) -> Sequence[QueueEntry]: ...

    async def show(self, queue_id: str) -> Sequence[QueueEntry]: ...

    async def retry(self, which: QueueFilter) -> int:
        """Make queued jobs due now; returns how many."""
        ...

    async def operator_hold(self, which: QueueFilter) -> int: ...

    async def release(self, which: QueueFilter) -> int: ...

    async def claim_for_drop(self, which: QueueFilter, limit: int) -> Sequence[Job]:
        """Lease queued or held jobs so that they can be dropped with a settlement, uncounted."""
        ...

    async def drop(self, job: Job, notices: tuple[NewMessage, ...]) -> None:
        """Make the recipients of a leased job final as dropped, with the notices, in one transaction."""
        ...

    async def pause(self, domain: str) -> None: ...

    async def resume(self, domain: str) -> None: ...

    async def close(self) -> None:
        """Return this process's leases uncharged and close."""
        ...


class DeliveryState(Enum):
    """How far the sending of one report to one endpoint is (RFC 8460 §5.5). The last two are final."""

    WAITING = "waiting"
    IN_FLIGHT = "in-flight"
    ACCEPTED = "accepted"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class PlannedReport:
    """A report that will be sent: its id, and for each endpoint the queue id that its mail will have, if it is mail.

    `deliveries` is empty for a domain that takes no reports; planning it says that this was looked at.
    """

    day: date
    domain: str
    unique_id: str
    deliveries: tuple[tuple[Endpoint, str], ...]
    first_attempt_at: datetime
    give_up_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportDelivery:
    """One report on its way to one endpoint. `attempts` counts those that were started."""

    day: date
    domain: str
    unique_id: str
    number: int
    endpoint: Endpoint
    queue_id: str
    state: DeliveryState
    attempts: int
    next_attempt_at: datetime
    give_up_at: datetime


class ReportStore(Protocol):
    """TLS reports: planned once, each delivery started before it is sent.

    A delivery moves waiting -> in-flight -> accepted, dropped or waiting again; a move from any other state raises
    StoreError, so that two processes never send the same.
    """

    async def plan(self, report: PlannedReport) -> bool:
        """Fix where a report goes, before any of it is sent. False, and nothing done, if that has been fixed before."""
        ...

    async def is_planned(self, day: date, domain: str) -> bool: ...

    async def due(self, now: datetime, limit: int) -> Sequence[ReportDelivery]:
        """Return waiting deliveries whose time has come, in its order."""
        ...

    async def in_flight(self, limit: int) -> Sequence[ReportDelivery]:
        """Return deliveries of which it is not known how they ended; asked for at start."""
        ...

    async def start(self, delivery: ReportDelivery) -> None: ...

    async def retry(self, delivery: ReportDelivery, at: datetime) -> None: ...

    async def finish(self, delivery: ReportDelivery, *, accepted: bool) -> None: ...

    async def forget(self, before: date) -> None:
        """Remove the reports on the days before this one."""
        ...

    async def close(self) -> None: ...
