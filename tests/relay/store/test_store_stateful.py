"""Random lives of a queue: SQLite and the queue in memory agree on all of it, and the sums stay exact."""

import asyncio
import shutil
import tempfile
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from opening import check_file, open_store
from policy_fakes import ManualClock
from queue_fakes import MemoryQueueStore
from queue_store_contract import (
    ALL,
    HOUR,
    LEASE,
    MINUTE,
    RETAIN,
    SECOND,
    START,
    attempt,
    message,
    notice,
    settlement,
)

from relay.queue.message import HoldReason, Job
from relay.store.protocols import QueueEntry, QueueFilter, QueueStore, StoreError, Verdict
from relay.store.sqlite.queue import SqliteQueueStore

T = TypeVar("T")
DOMAINS = ("a.test", "b.test", "from.test")
domains = st.sampled_from(DOMAINS)
filters = st.one_of(st.just(ALL), domains.map(lambda name: QueueFilter(domain=name)))
steps = st.sampled_from([timedelta(0), SECOND, MINUTE, LEASE, HOUR])


class TwoQueues(RuleBasedStateMachine):
    """Does the same to both stores, and compares what they answer and what they show."""

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp())
        self.path = self.directory / "queue.db"
        self.clock = ManualClock(START)
        self.messages = self.notices = self.incarnations = self.attempts = 0
        self.leased: list[tuple[Job, Job]] = []
        self.lost: list[tuple[Job, Job]] = []
        self.memory = MemoryQueueStore(self.clock, lease_duration=LEASE, retain_finished=RETAIN)
        self.sqlite: SqliteQueueStore

    def run(self, work: Coroutine[Any, Any, T]) -> T:
        return self.runner.run(work)

    def both(self, work: Callable[[QueueStore], Awaitable[T]]) -> tuple[T, T]:
        async def do() -> tuple[T, T]:
            return await work(self.sqlite), await work(self.memory)

        return self.run(do())

    @initialize()
    def open(self) -> None:
        self.sqlite = self.run(open_store(self.path, self.clock, "0"))

    def teardown(self) -> None:
        if hasattr(self, "sqlite"):
            self.run(self.sqlite.close())
            check_file(self.path)
        self.runner.close()
        shutil.rmtree(self.directory)

    @rule(to=st.lists(domains, min_size=1, max_size=4), lease=st.frozensets(domains))
    def enqueue(self, to: list[str], lease: frozenset[str]) -> None:
        self.messages += 1
        new = message(f"Q{self.messages:03}", *(f"r{n}@{name}" for n, name in enumerate(to)))
        self.take(self.both(lambda store: store.enqueue(new, lease)))

    @rule(name=domains, limit=st.integers(1, 3))
    def claim(self, name: str, limit: int) -> None:
        self.take(self.both(lambda store: store.claim(name, limit)))

    @rule(which=filters, limit=st.integers(1, 3))
    def claim_for_drop(self, which: QueueFilter, limit: int) -> None:
        self.take(self.both(lambda store: store.claim_for_drop(which, limit)))

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), charged=st.booleans(), retry_in=steps, cool=st.none() | steps, notices=st.integers(0, 2))
    def settle(
        self, data: st.DataObject, charged: bool, retry_in: timedelta, cool: timedelta | None, notices: int
    ) -> None:
        pair = data.draw(st.sampled_from(self.leased), label="job")
        verdicts = data.draw(
            st.lists(st.sampled_from(Verdict), min_size=len(pair[0].recipients), max_size=len(pair[0].recipients)),
            label="verdicts",
        )
        hold = data.draw(st.none() | st.sampled_from(HoldReason), label="hold")
        self.attempts += 1
        self.notices += notices
        new = tuple(notice(f"N{self.notices - n:03}") for n in range(notices))

        def change(job: Job) -> Callable[[QueueStore], Awaitable[None]]:
            base = settlement(job, *verdicts, retry_in=retry_in)
            changed = replace(
                base, charged=charged, cool_destination=cool, notices=new, hold=hold, attempt=attempt(self.attempts)
            )
            return lambda store: store.settle(changed)

        self.end(pair, change)

    @precondition(lambda self: self.leased)
    @rule(data=st.data(), reason=st.sampled_from(HoldReason))
    def hold(self, data: st.DataObject, reason: HoldReason) -> None:
        pair = data.draw(st.sampled_from(self.leased), label="job")
        self.end(pair, lambda job: lambda store: store.hold(job, reason))

    @precondition(lambda self: self.leased)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.leased), label="job")
        self.end(pair, lambda job: lambda store: store.drop(job, ()))

    @precondition(lambda self: self.lost)
    @rule(data=st.data())
    def settle_late(self, data: st.DataObject) -> None:
        pair = data.draw(st.sampled_from(self.lost), label="job")
        results = self.try_both(pair, lambda job: lambda store: store.settle(settlement(job, Verdict.DELIVERED)))
        assert results == (True, True)

    @rule(which=filters)
    def retry(self, which: QueueFilter) -> None:
        self.agree(self.both(lambda store: store.retry(which)))

    @rule(which=filters)
    def operator_hold(self, which: QueueFilter) -> None:
        self.agree(self.both(lambda store: store.operator_hold(which)))

    @rule(which=filters)
    def release(self, which: QueueFilter) -> None:
        self.agree(self.both(lambda store: store.release(which)))

    @rule(name=domains, paused=st.booleans())
    def pause(self, name: str, paused: bool) -> None:
        self.both(lambda store: store.pause(name) if paused else store.resume(name))

    @rule()
    def renew(self) -> None:
        self.both(lambda store: store.renew())

    @rule(step=steps | st.just(RETAIN))
    def move(self, step: timedelta) -> None:
        self.clock.move(step)

    @rule()
    def sweep(self) -> None:
        sqlite, memory = self.both(lambda store: store.sweep())
        assert sorted(shown(sqlite)) == sorted(shown(memory))

    @rule()
    def restart(self) -> None:
        self.incarnations += 1
        self.run(self.sqlite.close())
        self.run(self.memory.close())
        self.memory.broken = None
        self.sqlite = self.run(open_store(self.path, self.clock, str(self.incarnations)))
        self.lost += self.leased
        self.leased.clear()

    @invariant()
    def they_show_the_same(self) -> None:
        if not hasattr(self, "sqlite"):
            return
        rows = self.both(lambda store: store.destinations(100))
        waiting = [[row for row in found if row.queued_bytes or row.paused] for found in rows]
        self.agree((waiting[0], waiting[1]))
        self.agree(self.both(lambda store: store.due_destinations(100)))
        self.agree(self.both(lambda store: store.stats()))
        listed = self.both(lambda store: store.list(ALL, 1000))
        self.agree((shown(listed[0]), shown(listed[1])))

    def take(self, jobs: tuple[Sequence[Job], Sequence[Job]]) -> None:
        self.agree(tuple([[described(job) for job in leased] for leased in jobs]))
        self.leased += zip(*jobs, strict=True)

    def end(self, pair: tuple[Job, Job], change: Callable[[Job], Callable[[QueueStore], Awaitable[None]]]) -> None:
        results = self.try_both(pair, change)
        assert results[0] == results[1]
        self.leased.remove(pair)
        self.lost.append(pair)

    def try_both(
        self, pair: tuple[Job, Job], change: Callable[[Job], Callable[[QueueStore], Awaitable[None]]]
    ) -> tuple[bool, bool]:
        """Whether it failed, in each store with the store's own job."""
        return self.failed(change(pair[0]), self.sqlite), self.failed(change(pair[1]), self.memory)

    def failed(self, work: Callable[[QueueStore], Awaitable[None]], store: QueueStore) -> bool:
        async def do() -> bool:
            try:
                await work(store)
            except StoreError:
                return True
            return False

        return self.run(do())

    def agree(self, answers: tuple[Any, ...]) -> None:
        assert answers[0] == answers[1]


def described(job: Job) -> tuple[object, ...]:
    paths = [recipient.forward_path for recipient in job.recipients]
    return job.message, job.destination, paths, job.attempts, job.held_for, job.delay_notified, job.content


def shown(entries: Sequence[QueueEntry]) -> list[tuple[object, ...]]:
    return [
        (
            e.message.queue_id,
            e.destination,
            e.state.value,
            e.attempts,
            str(e.next_attempt_at),
            str(e.hold_reason),
            str(e.recipients),
        )
        for e in entries
    ]


TestTwoQueues = TwoQueues.TestCase
TestTwoQueues.settings = settings(
    max_examples=25, stateful_step_count=40, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
