"""A hand-written queue in memory: it keeps the contract of QueueStore, passes its suite, and nothing else."""

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta

from relay.clock import Clock
from relay.queue.attempt import Attempt
from relay.queue.message import (
    HoldReason,
    Job,
    Lease,
    Message,
    NewMessage,
    Notify,
    Origin,
    Recipient,
    State,
    StoredContent,
)
from relay.queue.schedule import REPORT_HEAD_START
from relay.store.headers import header_section
from relay.store.protocols import (
    Destination,
    LeaseLostError,
    QueuedRecipient,
    QueueEntry,
    QueueFilter,
    QueueStats,
    Settlement,
    StoreError,
    StoreFullError,
    Verdict,
)

_HANDED_OVER = 1024 * 1024
_PIECE = 64 * 1024
_FINAL = {State.DELIVERED, State.FAILED, State.DROPPED}


@dataclass
class _Recipient:
    id: int
    forward_path: str
    notify: frozenset[Notify] | None
    orcpt: str | None
    final: State | None = None
    status: str = ""
    diagnostic: str = ""


@dataclass
class _Job:
    id: int
    message: Message
    destination: str
    recipients: list[_Recipient]
    state: State
    next_attempt_at: datetime
    attempts: int = 0
    fence: int = 0
    leased_by: str | None = None
    leased_until: datetime | None = None
    counted: int = 0
    lapses: int = 0
    hold_reason: HoldReason | None = None
    held_at: datetime | None = None
    held_for: timedelta = timedelta(0)
    delay_notified: bool = False
    records: list[Attempt] = field(default_factory=list)
    finished_at: datetime | None = None

    @property
    def waiting(self) -> list[_Recipient]:
        return [recipient for recipient in self.recipients if recipient.final is None]


class MemoryUpload:
    """Content on its way in; `naming` is what the store knows of uploads without a name."""

    def __init__(self, content_id: int, naming: dict[int, bytes]) -> None:
        self._id = content_id
        self._naming = naming
        self._data = bytearray()

    async def append(self, data: bytes) -> None:
        self._data += data

    async def finish(self) -> StoredContent:
        self._naming[self._id] = bytes(self._data)
        return StoredContent(content_id=self._id, size=len(self._data))

    async def discard(self) -> None:
        self._naming.pop(self._id, None)


class MemoryQueueStore:
    """One process's queue. `full` and `broken` make the next writes fail as a real store would."""

    def __init__(
        self,
        clock: Clock,
        *,
        incarnation: str = "memory",
        lease_duration: timedelta = timedelta(minutes=2),
        max_lapses: int = 5,
        retain_finished: timedelta = timedelta(days=7),
    ) -> None:
        self._clock = clock
        self._incarnation = incarnation
        self._lease_duration = lease_duration
        self._max_lapses = max_lapses
        self._retain = retain_finished
        self._ids = 0
        self._jobs: dict[int, _Job] = {}
        self._content: dict[str, bytes] = {}
        self._uploads: dict[int, bytes] = {}
        self._cooled: dict[str, datetime] = {}
        self._paused: set[str] = set()
        self._work = asyncio.Event()
        self._announced: datetime | None = None
        self.full = False
        self.broken: StoreError | None = None

    async def enqueue(self, message: NewMessage, lease: frozenset[str] = frozenset()) -> Sequence[Job]:
        self._check()
        if message.origin is not Origin.RELAY and self.full:
            raise StoreFullError("the disk is nearly full")
        return self._insert(message, lease)

    async def begin_upload(self) -> MemoryUpload:
        self._check()
        return MemoryUpload(self._new_id(), self._uploads)

    async def room_for(self, size: int) -> bool:
        return not self.full

    async def due_destinations(self, limit: int) -> Sequence[str]:
        due = [row for row in self._rows() if row.due_in is not None and row.due_in <= timedelta(0)]
        return [row.name for row in sorted(due, key=lambda row: row.due_in or timedelta(0))[:limit]]

    async def claim(self, destination: str, limit: int) -> Sequence[Job]:
        self._check()
        now = self._clock.now()
        if destination in self._paused or self._cooled.get(destination, now) > now:
            return []
        due = [job for job in self._at(destination, State.QUEUED) if job.next_attempt_at <= now]
        due.sort(key=lambda job: (job.next_attempt_at, job.id))
        return [self._lease(job, counted=1) for job in due[:limit]]

    async def settle(self, settlement: Settlement) -> None:
        self._check()
        requeued = any(recipient.verdict is Verdict.QUEUED for recipient in settlement.recipients)
        if settlement.charged and settlement.retry_in is None and settlement.hold is None and requeued:
            raise ValueError("recipients that are queued again need a time to retry")
        job, now = self._leased(settlement.job), self._clock.now()
        for told in settlement.recipients:
            recipient = next(r for r in job.recipients if r.id == told.recipient_id)
            recipient.final = None if told.verdict is Verdict.QUEUED else State(told.verdict.value)
            recipient.status, recipient.diagnostic = str(told.status), told.diagnostic
        if settlement.attempt is not None:
            job.records = job.records[:1] + [*job.records[1:], settlement.attempt][-10:]
        job.attempts -= 0 if settlement.charged else job.counted
        job.delay_notified |= settlement.delay_notified
        job.lapses = 0
        self._unlease(job)
        self._end_hold(job, now)
        if not requeued:
            failed = any(recipient.final is State.FAILED for recipient in job.recipients)
            self._finish(job, State.FAILED if failed else State.DELIVERED, now)
        elif settlement.hold is not None:
            job.state, job.hold_reason, job.held_at = State.HELD, settlement.hold, now
        else:
            job.state = State.QUEUED
            if settlement.retry_in is not None:
                job.next_attempt_at = now + settlement.retry_in
        if settlement.cool_destination is not None:
            until = now + settlement.cool_destination
            self._cooled[job.destination] = max(self._cooled.get(job.destination, until), until)
        for notice in settlement.notices:
            self._insert(notice, frozenset())
        self._work.set()

    async def renew(self, jobs: Sequence[Job] | None = None) -> None:
        self._check()
        until = self._clock.now() + self._lease_duration
        for job in self._jobs.values():
            if job.leased_by == self._incarnation and (
                jobs is None or any((job.id, job.fence) == (named.id, named.lease.fence) for named in jobs)
            ):
                job.leased_until = until

    async def hold(self, job: Job, reason: HoldReason) -> None:
        self._check()
        held, now = self._leased(job), self._clock.now()
        self._unlease(held)
        self._end_hold(held, now)
        held.state, held.hold_reason, held.held_at, held.lapses = State.HELD, reason, now, 0

    async def content(self, queue_id: str) -> AsyncIterator[bytes]:
        data = self._content_of(queue_id)
        for start in range(0, len(data), _PIECE):
            yield data[start : start + _PIECE]

    async def headers(self, queue_id: str, max_bytes: int = 262_144) -> bytes:
        return header_section(self._content_of(queue_id), max_bytes)

    async def wait_for_work(self, timeout: timedelta) -> None:
        deadline = self._clock.now() + timeout
        while not self._work.is_set():
            now = self._clock.now()
            due = [now + row.due_in for row in self._rows() if row.due_in is not None]
            next_due = min([time for time in due if self._announced is None or time > self._announced], default=None)
            if next_due is not None and next_due <= now:
                break
            if deadline <= now:
                return
            wake_at = deadline if next_due is None else min(deadline, next_due)
            await self._sleep_or_work((wake_at - now).total_seconds())
        self._work.clear()
        self._announced = self._clock.now()

    async def sweep(self) -> Sequence[QueueEntry]:
        self._check()
        now, poison = self._clock.now(), []
        for job in [job for job in self._jobs.values() if job.leased_until is not None and job.leased_until <= now]:
            counted = job.counted
            job.lapses += counted
            self._unlease(job)
            if counted and job.lapses >= self._max_lapses:
                job.hold_reason, job.held_at = HoldReason.POISON, now
                poison.append(job)
            job.state = State.HELD if job.hold_reason else State.QUEUED
            self._work.set()
        for queue_id in {job.message.queue_id for job in self._jobs.values()}:
            jobs = self._of(queue_id)
            if all(job.finished_at is not None and job.finished_at + self._retain <= now for job in jobs):
                for job in jobs:
                    del self._jobs[job.id]
        return [self._entry(job, attempts=True) for job in poison]

    async def stats(self) -> QueueStats:
        by_state = dict.fromkeys((State.QUEUED, State.LEASED, State.HELD), 0)
        size, oldest = 0, None
        for job in self._jobs.values():
            if job.state not in _FINAL:
                by_state[job.state] += len(job.waiting)
                size += job.message.size
            if job.state in (State.QUEUED, State.LEASED):
                oldest = min(oldest or job.message.accepted_at, job.message.accepted_at)
        return QueueStats(by_state=by_state, queued_bytes=size, oldest_at=oldest)

    async def destinations(self, limit: int) -> Sequence[Destination]:
        return sorted(self._rows(), key=lambda row: (-row.queued, row.name))[:limit]

    async def list(self, which: QueueFilter, limit: int) -> Sequence[QueueEntry]:
        return [self._entry(job, attempts=False) for job in self._matching(which)[:limit]]

    async def show(self, queue_id: str) -> Sequence[QueueEntry]:
        return [self._entry(job, attempts=True) for job in self._of(queue_id)]

    async def retry(self, which: QueueFilter) -> int:
        now = self._clock.now()

        def due_now(job: _Job) -> None:
            job.next_attempt_at = min(job.next_attempt_at, now)
            self._warm(job.destination, now)

        return self._operate(which, due_now, State.QUEUED)

    def _warm(self, destination: str, now: datetime) -> None:
        if self._cooled.get(destination, now) > now:
            del self._cooled[destination]

    async def operator_hold(self, which: QueueFilter) -> int:
        now = self._clock.now()

        def hold(job: _Job) -> None:
            job.state, job.hold_reason, job.held_at = State.HELD, HoldReason.OPERATOR, now

        return self._operate(which, hold, State.QUEUED)

    async def release(self, which: QueueFilter) -> int:
        now = self._clock.now()

        def release(job: _Job) -> None:
            self._end_hold(job, now)
            job.state, job.next_attempt_at, job.lapses = State.QUEUED, now, 0
            self._warm(job.destination, now)

        return self._operate(which, release, State.HELD)

    async def claim_for_drop(self, which: QueueFilter, limit: int) -> Sequence[Job]:
        self._check()
        return [self._lease(job, counted=0) for job in self._matching(which, State.QUEUED, State.HELD)[:limit]]

    async def drop(self, job: Job, notices: tuple[NewMessage, ...]) -> None:
        self._check()
        dropped, now = self._leased(job), self._clock.now()
        for recipient in dropped.waiting:
            recipient.final = State.DROPPED
        self._unlease(dropped)
        self._end_hold(dropped, now)
        self._finish(dropped, State.DROPPED, now)
        for notice in notices:
            self._insert(notice, frozenset())
        self._work.set()

    async def pause(self, domain: str) -> None:
        self._check()
        self._paused.add(domain)

    async def resume(self, domain: str) -> None:
        self._check()
        self._paused.discard(domain)
        self._work.set()

    async def close(self) -> None:
        for job in self._jobs.values():
            if job.state is State.LEASED:
                job.attempts -= job.counted
                self._unlease(job)
                job.state = State.HELD if job.hold_reason else State.QUEUED
        self.broken = StoreError("the store is closed")

    def _check(self) -> None:
        if self.broken is not None:
            raise self.broken

    def _new_id(self) -> int:
        self._ids += 1
        return self._ids

    def _insert(self, new: NewMessage, lease: frozenset[str]) -> Sequence[Job]:
        if self._of(new.queue_id):
            raise StoreError("this queue id is taken")
        if isinstance(new.content, StoredContent):
            content = self._uploads.pop(new.content.content_id, None)
            if content is None:
                raise StoreError("the uploaded content is gone")
        else:
            content = new.content
        now = self._clock.now()
        message = Message(
            queue_id=new.queue_id,
            accepted_at=now,
            envelope=new.envelope,
            size=new.size,
            origin=new.origin,
            message_id=new.message_id,
            eight_bit=new.eight_bit,
            utf8_header=new.utf8_header,
            require_tls=new.require_tls,
            tls_optional=new.tls_optional,
            client=new.client,
        )
        self._content[new.queue_id] = content
        leased: list[Job] = []
        for destination in dict.fromkeys(recipient.destination for recipient in new.recipients):
            row = next((row for row in self._rows() if row.name == destination), None)
            free = row is None or row.due_in is None or row.due_in > timedelta(0)
            free &= destination not in self._paused and self._cooled.get(destination, now) <= now
            job = _Job(
                id=self._new_id(),
                message=message,
                destination=destination,
                recipients=[
                    _Recipient(self._new_id(), r.forward_path, r.notify, r.orcpt)
                    for r in new.recipients
                    if r.destination == destination
                ],
                state=State.QUEUED,
                next_attempt_at=now - REPORT_HEAD_START if new.origin is Origin.REPORT else now,
            )
            self._jobs[job.id] = job
            if destination in lease and free:
                in_memory = content if isinstance(new.content, bytes) and len(content) <= _HANDED_OVER else None
                leased.append(self._lease(job, counted=1, content=in_memory))
            else:
                self._work.set()
        return leased

    def _lease(self, job: _Job, *, counted: int, content: bytes | None = None) -> Job:
        now = self._clock.now()
        job.state = State.LEASED
        job.leased_by, job.leased_until = self._incarnation, now + self._lease_duration
        job.fence += 1
        job.counted = counted
        job.attempts += counted
        return Job(
            id=job.id,
            message=job.message,
            destination=job.destination,
            recipients=tuple(
                Recipient(id=r.id, forward_path=r.forward_path, notify=r.notify, orcpt=r.orcpt) for r in job.waiting
            ),
            attempts=job.attempts,
            lease=Lease(fence=job.fence, incarnation=self._incarnation),
            held_for=job.held_for + (now - job.held_at if job.held_at else timedelta(0)),
            delay_notified=job.delay_notified,
            content=content,
        )

    def _leased(self, job: Job) -> _Job:
        found = self._jobs.get(job.id)
        if found is None or (found.leased_by, found.fence) != (job.lease.incarnation, job.lease.fence):
            raise LeaseLostError(f"job {job.id} is not leased to us any more")
        return found

    def _unlease(self, job: _Job) -> None:
        job.leased_by = job.leased_until = None
        job.counted = 0

    def _end_hold(self, job: _Job, now: datetime) -> None:
        if job.held_at is not None:
            job.held_for += now - job.held_at
        job.hold_reason = job.held_at = None

    def _finish(self, job: _Job, state: State, now: datetime) -> None:
        job.state = state
        if all(other.state in _FINAL for other in self._of(job.message.queue_id)):
            del self._content[job.message.queue_id]
            for other in self._of(job.message.queue_id):
                other.finished_at = now

    def _content_of(self, queue_id: str) -> bytes:
        if queue_id not in self._content:
            raise StoreError(f"there is no content of {queue_id} any more")
        return self._content[queue_id]

    def _at(self, destination: str, *states: State) -> Sequence[_Job]:
        return [job for job in self._jobs.values() if job.destination == destination and job.state in states]

    def _of(self, queue_id: str) -> Sequence[_Job]:
        return [job for job in self._jobs.values() if job.message.queue_id == queue_id]

    def _rows(self) -> Sequence[Destination]:
        now = self._clock.now()
        names = {job.destination for job in self._jobs.values() if job.state not in _FINAL}
        names |= self._paused | {name for name, until in self._cooled.items() if until > now}
        return [self._row(name, now) for name in sorted(names)]

    def _row(self, name: str, now: datetime) -> Destination:
        queued = self._at(name, State.QUEUED)
        live = self._at(name, State.QUEUED, State.LEASED)
        due_in = None
        if queued and name not in self._paused:
            next_attempt_at = min(job.next_attempt_at for job in queued)
            due_in = max(next_attempt_at, self._cooled.get(name, next_attempt_at)) - now
        return Destination(
            name=name,
            queued=len(queued),
            queued_bytes=sum(job.message.size for job in self._at(name, State.QUEUED, State.LEASED, State.HELD)),
            in_flight=len(self._at(name, State.LEASED)),
            oldest_at=min((job.message.accepted_at for job in live), default=None),
            due_in=due_in,
            paused=name in self._paused,
        )

    def _matching(self, which: QueueFilter, *states: State) -> Sequence[_Job]:
        if which == QueueFilter():
            return []
        now = self._clock.now()
        return [
            job
            for job in self._jobs.values()
            if (not states or job.state in states)
            and (not which.ids or job.message.queue_id in which.ids)
            and which.domain in (None, job.destination)
            and (which.sender is None or job.message.envelope.reverse_path.lower() == which.sender.lower())
            and (not which.states or job.state in which.states)
            and (which.older_than is None or job.message.accepted_at <= now - which.older_than)
        ]

    def _operate(self, which: QueueFilter, change: Callable[[_Job], None], *states: State) -> int:
        self._check()
        jobs = self._matching(which, *states)
        for job in jobs:
            change(job)
        self._work.set()
        return len(jobs)

    def _entry(self, job: _Job, *, attempts: bool) -> QueueEntry:
        return QueueEntry(
            job_id=job.id,
            message=job.message,
            destination=job.destination,
            state=job.state,
            attempts=job.attempts,
            next_attempt_at=job.next_attempt_at if job.state is State.QUEUED else None,
            hold_reason=job.hold_reason,
            recipients=tuple(
                QueuedRecipient(
                    forward_path=r.forward_path,
                    state=r.final or job.state,
                    status=r.status,
                    diagnostic=r.diagnostic,
                    notify=r.notify,
                    orcpt=r.orcpt,
                )
                for r in job.recipients
            ),
            attempts_made=tuple(job.records) if attempts else (),
        )

    async def _sleep_or_work(self, seconds: float) -> None:
        tasks = [asyncio.ensure_future(self._work.wait()), asyncio.ensure_future(self._clock.sleep(seconds))]
        try:
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
