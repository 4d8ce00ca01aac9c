"""Gives jobs to the worker: those that ingress hands over, and those that are due in the store.

Each destination has a lane with runners enough to keep its connections busy, so that no destination, however long its
queue, keeps another waiting. Runners take one job after the other and so find the connection open (RFC 5321 §4.5.4.1).
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterable, Sequence
from dataclasses import dataclass
from datetime import timedelta

from relay import events
from relay.clock import Clock
from relay.delivery.lanes import MAX_HANDED_PROVEN, MAX_HANDED_UNPROVEN, Lane
from relay.delivery.slots import Slots
from relay.delivery.tally import Tally
from relay.delivery.worker import DeliveryWorker, Ended
from relay.metrics import Metrics
from relay.queue.message import Job
from relay.store.protocols import QueueStore, StoreDeadError, StoreError

_LAST_RESORT_SECONDS = 1.0
_STORE_PAUSE_SECONDS = 1.0
_LANES_AT_A_TIME = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchSettings:
    """`memory_budget` bounds the octets of content handed over in memory (`queue.memory_budget`), `max_jobs` how many
    jobs are in memory; beyond, each lane takes one at a time from the store.

    `max_runners` bounds attempts under way, most of which wait for DNS, policies or a slot; destinations without a
    recent delivery have three quarters of them. `claim` is how many jobs are leased at once. The rest are the
    intervals of the loops; leases last two minutes.
    """

    memory_budget: int = 256 * 1024 * 1024
    max_jobs: int = 20_000
    max_runners: int = 2000
    claim: int = 100
    renew_every: timedelta = timedelta(seconds=30)
    sweep_every: timedelta = timedelta(seconds=60)
    measure_every: timedelta = timedelta(seconds=15)
    poll_every: timedelta = timedelta(seconds=60)

    @property
    def max_lanes(self) -> int:
        """Destinations that are looked at at once; with more, only proven ones are, until another has ended."""
        return 2 * self.max_runners

    @property
    def max_unproven_runners(self) -> int:
        return max(1, self.max_runners * 3 // 4)


@dataclass(slots=True, eq=False)
class _Runner:
    lane: Lane
    unproven: bool
    job: Job | None
    task: "asyncio.Task[None] | None" = None


class Dispatcher:
    """Keeps the worker busy until `stop`. One for each process."""

    def __init__(
        self,
        *,
        store: QueueStore,
        worker: DeliveryWorker,
        slots: Slots,
        clock: Clock,
        metrics: Metrics,
        tally: Tally,
        settings: DispatchSettings,
    ) -> None:
        self._store = store
        self._worker = worker
        self._slots = slots
        self._clock = clock
        self._metrics = metrics
        self._tally = tally
        self._settings = settings
        self._lanes = slots.lanes
        self._runners: dict[_Runner, None] = {}
        self._unproven_runners = 0
        self._jobs = 0
        self._bytes = 0
        self._group: asyncio.TaskGroup | None = None
        self._room = asyncio.Event()
        self._stopped = asyncio.Event()
        self._draining = False

    # What ingress calls.

    def lease_for(self, destinations: Iterable[str]) -> frozenset[str]:
        """Return those destinations whose jobs may be handed over in memory with `accept`, leased."""
        if self._draining or self._group is None or self._full:
            return frozenset()
        return frozenset(destination for destination in destinations if self._may_hand_over(destination))

    def use(self, settings: DispatchSettings) -> None:
        """Work by these bounds from now on; what is in memory already stays there."""
        self._settings = settings

    def accept(self, jobs: Sequence[Job]) -> None:
        """Take over jobs that the store has leased at their enqueueing. They are begun as soon as there is room."""
        for job in jobs:
            self._jobs += 1
            self._bytes += _weight(job)
            lane = self._lanes.at(job.destination)
            lane.jobs.append(job)
            self._fill(lane)

    @property
    def _full(self) -> bool:
        return self._bytes >= self._settings.memory_budget or self._jobs >= self._settings.max_jobs

    def _may_hand_over(self, destination: str) -> bool:
        lane = self._lanes.get(destination)
        if lane is None:
            return self._has_room(unproven=not self._slots.proven(destination))
        if lane.due or len(lane.jobs) >= MAX_HANDED_PROVEN:
            return False
        return len(lane.jobs) < MAX_HANDED_UNPROVEN or self._slots.proven(destination)

    # The life of the process.

    async def run(self) -> None:
        """Work until `stop`. A loop that dies takes this with it."""
        async with asyncio.TaskGroup() as group:
            self._group = group
            every = self._settings
            loops = [
                group.create_task(self._poll(), name="queue poll"),
                group.create_task(self._repeat("renew", every.renew_every, self._renew), name="lease renewal"),
                group.create_task(self._repeat("sweep", every.sweep_every, self._sweep), name="queue sweep"),
                group.create_task(self._repeat("measure", every.measure_every, self._measure), name="queue gauges"),
            ]
            await self._stopped.wait()
            for loop in loops:
                loop.cancel()

    async def stop(self, limit: timedelta) -> None:
        """End `run`: break attempts off, but for those whose message the host may have already; await these.

        What is still leased afterwards goes back with `store.close`, uncharged.
        """
        self._draining = True
        self._worker.drain()
        tasks = set()
        for runner in self._runners:
            assert runner.task is not None, "set when the runner began"
            tasks.add(runner.task)
            if runner.job is None or not self._worker.must_finish(runner.job):
                runner.task.cancel()
        if tasks:
            _, late = await asyncio.wait(tasks, timeout=limit.total_seconds())
            for task in late:
                task.cancel()
            if late:
                await asyncio.wait(late, timeout=_LAST_RESORT_SECONDS)
        self._stopped.set()

    # Runners.

    def _has_room(self, *, unproven: bool) -> bool:
        if unproven and self._unproven_runners >= self._settings.max_unproven_runners:
            return False
        return len(self._runners) < self._settings.max_runners

    def _fill(self, lane: Lane) -> None:
        """Give the lane as many runners as it has work for and may have."""
        while not self._draining and self._group and lane.has_work:
            if lane.runners >= self._slots.attempts(lane.destination):
                return
            unproven = not self._slots.proven(lane.destination)
            if not self._has_room(unproven=unproven):
                self._lanes.line_up(lane)
                return
            self._begin(self._group, lane, unproven=unproven)

    def _begin(self, group: asyncio.TaskGroup, lane: Lane, *, unproven: bool) -> None:
        job = lane.jobs.popleft() if lane.jobs else None
        lane.claiming = lane.claiming or job is None
        lane.runners += 1
        self._unproven_runners += unproven
        runner = _Runner(lane, unproven, job)
        self._runners[runner] = None
        runner.task = group.create_task(self._run_lane(runner))

    async def _run_lane(self, runner: _Runner) -> None:
        lane = runner.lane
        try:
            if runner.job is None:
                await self._claim(lane)
            while runner.job or await self._take(runner):
                await self._run_job(runner)
                if not lane.has_work:
                    break
                if lane.runners > 1 and lane.runners > self._slots.attempts(lane.destination):
                    break
                self._fill(lane)
        finally:
            lane.runners -= 1
            self._unproven_runners -= runner.unproven
            del self._runners[runner]
            self._room.set()
            if lane.has_work:
                self._fill(lane)
            elif not lane.runners:
                self._lanes.discard(lane)
            self._serve_line()

    def _serve_line(self) -> None:
        for _ in range(_LANES_AT_A_TIME):  # who finds no room goes to the end, so that all have their turn
            lane = self._lanes.next_in_line()
            if lane is None:
                return
            self._fill(lane)
            if not self._has_room(unproven=False):
                return

    async def _take(self, runner: _Runner) -> bool:
        """Give the runner its next job; False if there is none for it."""
        lane = runner.lane
        if not lane.jobs and lane.due and not lane.claiming:
            lane.claiming = True
            await self._claim(lane)
        if self._draining or not lane.jobs:
            return False
        runner.job = lane.jobs.popleft()
        return True

    async def _claim(self, lane: Lane) -> None:
        """Lease what is due at the destination. Other runners begin at once if there is much of it."""
        lane.due = False  # before the question: what becomes due during it is announced anew
        most = max(1, min(self._settings.claim, self._settings.max_jobs - self._jobs))
        try:
            jobs = await self._store.claim(lane.destination, most)
        except StoreError as error:
            events.queue_failed("claim", error)
            return
        finally:
            lane.claiming = False
        self._jobs += len(jobs)
        lane.jobs.extend(jobs)
        lane.due = lane.due or len(jobs) == most
        if len(jobs) > 1:
            self._fill(lane)

    async def _run_job(self, runner: _Runner) -> None:
        job, lane = runner.job, runner.lane
        assert job is not None, "taken before"
        try:
            ended = await self._worker.attempt(job, alone=lambda: lane.runners == 1)
        except Exception as error:  # noqa: BLE001  the top of a task: the job is left to its lease
            self._crashed(job, error)
            ended = None
        finally:
            self._done(job)
            runner.job = None
        if ended is not None and ended.unreachable:
            await self._share(lane, job, ended)

    async def _share(self, lane: Lane, job: Job, ended: Ended) -> None:
        """Nobody is to be reached: all that waits here in memory waits on, without asking once more for each."""
        lane.due = False
        same = [other for other in lane.jobs if self._worker.shares_route(job, other)]
        lane.jobs = type(lane.jobs)(other for other in lane.jobs if not self._worker.shares_route(job, other))
        await asyncio.gather(*(self._share_one(other, ended) for other in same))

    async def _share_one(self, job: Job, ended: Ended) -> None:
        try:
            await self._worker.share(job, ended)
        except Exception as error:  # noqa: BLE001  as for an attempt of its own
            self._crashed(job, error)
        finally:
            self._done(job)

    def _done(self, job: Job) -> None:
        self._jobs -= 1
        self._bytes -= _weight(job)

    def _crashed(self, job: Job, error: Exception) -> None:
        self._tally.crashed()
        events.attempt_crashed(job, error)

    # Loops.

    async def _poll(self) -> None:
        while True:
            try:
                await self._look_for_work()
            except StoreDeadError:
                raise
            except StoreError as error:
                events.queue_failed("poll", error)
                await self._clock.sleep(_STORE_PAUSE_SECONDS)

    async def _look_for_work(self) -> None:
        """Lay lanes for what is due, then wait until there may be more, or room for what found none."""
        limit = len(self._lanes) + self._settings.claim
        due = await self._store.due_destinations(limit)
        self._room.clear()
        left_out = False
        for name in due:
            known = self._lanes.get(name) is not None
            if known or len(self._lanes) < self._settings.max_lanes or self._slots.proven(name):
                lane = self._lanes.at(name)
                lane.due = True
                self._fill(lane)
            else:
                left_out = True
        if left_out:
            await self._wait_for_work_or_room()
        elif len(due) < limit:  # else there are more, some of which have no lane yet
            await self._store.wait_for_work(self._settings.poll_every)

    async def _wait_for_work_or_room(self) -> None:
        waits: list[asyncio.Task[object]] = [
            asyncio.create_task(self._store.wait_for_work(self._settings.poll_every)),
            asyncio.create_task(self._room.wait()),
        ]
        try:
            done, _ = await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for wait in waits:
                wait.cancel()
            await asyncio.gather(*waits, return_exceptions=True)
        for wait in done:
            wait.result()

    async def _repeat(self, task: str, every: timedelta, work: Callable[[], Awaitable[None]]) -> None:
        while True:
            try:
                await work()
            except StoreDeadError:
                raise
            except StoreError as error:
                events.queue_failed(task, error)
            await self._clock.sleep(every.total_seconds())

    async def _renew(self) -> None:
        """Prolong what is in memory here, and that alone: what crashed has to lapse."""
        jobs = [runner.job for runner in self._runners if runner.job] + list(self._lanes.waiting_jobs())
        if jobs:
            await self._store.renew(jobs)

    async def _sweep(self) -> None:
        for entry in await self._store.sweep():
            events.poison_held(entry)
            self._metrics.queue_suspected_poison.inc()

    async def _measure(self) -> None:
        stats = await self._store.stats()
        for state, recipients in stats.by_state.items():
            self._metrics.queue_messages.labels(state.value).set(recipients)
        self._metrics.queue_bytes.set(stats.queued_bytes)
        age = self._clock.now() - stats.oldest_at if stats.oldest_at else timedelta(0)
        self._metrics.queue_oldest_seconds.set(age.total_seconds())


def _weight(job: Job) -> int:
    return len(job.content) if job.content is not None else 0
