"""The parent of several worker processes: it binds what they listen at, watches over them, and speaks for them.

It touches no mail. A worker that dies is started again and takes up its queue file; one whose loop no longer turns is
killed first. If the parent dies, so do they.
"""

import asyncio
import socket
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import asdict, dataclass, field
from datetime import timedelta
from typing import Any

from relay import events, process_events
from relay.admin.endpoints import endpoints
from relay.admin.merging import MergedMetrics
from relay.admin.server import AdminServer
from relay.app import leftovers
from relay.app.clock import SystemClock
from relay.app.part import part_of
from relay.app.reload import kept, need_restart
from relay.app.restarts import Restarts
from relay.app.shares import Allotment, Limits
from relay.app.sockets import bind_for
from relay.app.state_dir import POLICY_FILE, queue_file
from relay.app.version import tell_build
from relay.app.worker_process import Launcher, WorkerProcess, said_end
from relay.app.working import HEARTBEAT_SECONDS, Orders, report_of
from relay.config import Settings, to_json
from relay.metrics import Metrics, process_registry
from relay.store.protocols import StoreError
from relay.store.sqlite.policies import SqlitePolicyStore

_TICK_SECONDS = HEARTBEAT_SECONDS
_SILENT_TICKS = 10
"""Whose loop does not turn for so long is stalled. Counted in turns of our own, as the whole machine may pause."""
_SILENT_TICKS_AT_START = 60
_READY_SECONDS = 600.0
"""A worker's start includes bringing its file up to date with a new version."""
_ASK_SECONDS = 2.0
"""How long a scrape or /readyz waits for a worker."""
_RELOAD_SECONDS = 30.0
_HEAR_METRICS_TICKS = 10
_LOOK_AFTER_FILES = timedelta(hours=1)
_LAST_SECONDS = 5.0


class WorkerStartError(Exception):
    """A worker could not start; its own log says why."""


class AllWorkersDiedError(Exception):
    """No worker is left, and those started anew died again."""


@dataclass(slots=True, eq=False)
class _Hand:
    """A worker's place: its number and sockets stay, its processes come and go. Without sockets it empties a file."""

    number: int
    sockets: Sequence[socket.socket]
    process: WorkerProcess | None = None
    restarts: Restarts = field(default_factory=Restarts)
    waits: bool = False

    @property
    def drains(self) -> bool:
        return not self.sockets


class Crew:
    """The parent. Made, started and stopped by `presiding`; from outside it is like a Relay."""

    def __init__(self, settings: Settings, launcher: Launcher, drained: Sequence[int]) -> None:
        self.settings = settings
        self.metrics = Metrics(registry := process_registry())
        self._merged = MergedMetrics(registry)
        self._launcher = launcher
        self._hands = [_Hand(number, ()) for number in drained]
        self._parts = settings.relay.workers + len(drained)
        numbers = frozenset(range(settings.relay.workers)) | frozenset(drained)
        self._allotment = Allotment(_limits(settings), numbers)
        self._clock = SystemClock()
        self._admin: AdminServer | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopping = False

    @property
    def listeners(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener, as bound."""
        return tuple(one.getsockname()[:2] for one in self._workers[0].sockets)

    @property
    def http(self) -> tuple[str, int]:
        """Host and port of the HTTP server, as bound."""
        assert self._admin is not None, "opened"
        return self._admin.address

    @property
    def turning(self) -> bool:
        """Whether the loops of all processes go round. One that is gone is another matter."""
        return all(hand.process is None or hand.process.silent < _SILENT_TICKS for hand in self._hands)

    @property
    def _workers(self) -> list[_Hand]:
        return [hand for hand in self._hands if not hand.drains]

    # Starting and stopping.

    async def open(self) -> None:
        """Bind all addresses. Raises OSError, and then none is bound."""
        workers = self.settings.relay.workers
        rows = bind_for(workers, [one.address for one in self.settings.listener])
        self._hands[:0] = [_Hand(number, row) for number, row in enumerate(rows)]
        app = endpoints(
            collect=self._collect,
            readiness=self._reasons_not_ready,
            names=[self.settings.relay.hostname, *self.settings.http.hosts],
        )
        try:
            self._admin = AdminServer(app, *self.settings.http.address)
        except OSError:
            self._close_sockets()
            raise

    async def start(self) -> None:
        """Start all processes and wait until they work. Raises WorkerStartError, OSError."""
        for hand in self._hands:
            hand.process = await self._start(hand)
        for hand in self._hands:
            await _ready(hand)

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Begin all tasks, each of which takes the group down when it dies."""
        assert self._admin is not None, "opened"
        tell_build(self.metrics, self._clock.now())
        self._tasks = [group.create_task(self._keep(hand), name=f"worker {hand.number}") for hand in self._hands]
        self._tasks += [
            group.create_task(self._admin.run(), name="http"),
            group.create_task(self._watch(), name="watch over workers"),
            group.create_task(self._look_after_files(), name="look after files"),
        ]

    async def stop(self) -> None:
        """Let nobody in, have all processes end within `stop_timeout`, and kill those that do not."""
        self._stopping = True
        self._close_sockets()
        ending = [asyncio.create_task(self._end(hand)) for hand in self._hands if hand.process is not None]
        if ending:
            await asyncio.wait(ending)
        if self._admin is not None:
            self._admin.stop()
        for task in self._tasks:
            if task.get_name() != "http":
                task.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks)

    async def _end(self, hand: _Hand) -> None:
        process = hand.process
        assert process is not None, "looked at before"
        process.tell("stop")
        try:
            async with asyncio.timeout(self.settings.relay.stop_timeout.total_seconds()):
                await process.ended()
        except TimeoutError:
            process_events.worker_stop_overdue(hand.number, process.pid)
            process.kill()
            await asyncio.wait([asyncio.create_task(process.ended())], timeout=_LAST_SECONDS)

    def _close_sockets(self) -> None:
        for hand in self._hands:
            for one in hand.sockets:
                one.close()

    # Keeping workers alive.

    async def _start(self, hand: _Hand) -> WorkerProcess:
        process = await self._launcher.start(
            hand.number, hand.sockets, lambda kind, value: self._told(hand, kind, value)
        )
        orders = Orders(settings=self._settings_text(self.settings), bounds=self._bounds(hand))
        process.tell("begin", asdict(orders))
        return process

    async def _keep(self, hand: _Hand) -> None:
        """See to it that there is a process until we stop, or until a file that is to be emptied is empty."""
        while (process := hand.process) is not None:
            status = await process.ended()
            hand.process = None
            self._gone(hand)
            if self._stopping:
                return
            if hand.drains and status == 0:
                await self._drained(hand)
                return
            await self._replace(hand, process.pid, said_end(status), process.lived_seconds)

    async def _replace(self, hand: _Hand, pid: int, end: str, lived_seconds: float) -> None:
        """Start another process, as often as it takes."""
        while hand.process is None:
            wait = hand.restarts.died(lived_seconds)
            self.metrics.worker_deaths.inc()
            process_events.worker_died(hand.number, pid, end, hand.restarts.in_a_row, wait)
            hand.waits = wait > 0
            if all(other.waits for other in self._workers):
                raise AllWorkersDiedError("no worker is left")
            await self._clock.sleep(wait)
            hand.waits = False
            try:
                hand.process = await self._start(hand)
            except OSError as error:
                pid, end, lived_seconds = 0, str(error), 0.0

    def _gone(self, hand: _Hand) -> None:
        self._merged.gone(hand.number)
        self._allotment.died(hand.number)

    async def _drained(self, hand: _Hand) -> None:
        self._hands.remove(hand)
        self._allotment.left(hand.number)
        self._tell_bounds()
        process_events.queue_file_drained(str(queue_file(self.settings.relay.state_dir, hand.number)))
        await self._look_at_files()

    async def _watch(self) -> None:
        """Kill who is stalled, and keep what all have counted, as none can be asked when it is dead."""
        ticks = 0
        while True:
            ticks += 1
            for hand in self._hands:
                if hand.process is not None:
                    _tick(hand.number, hand.process)
            self.metrics.workers.set(sum(hand.process is not None for hand in self._workers))
            if ticks % _HEAR_METRICS_TICKS == 0:
                await self._hear_metrics()
            await self._clock.sleep(_TICK_SECONDS)

    # Files of more workers than there are.

    async def _look_after_files(self) -> None:
        while True:
            await self._clock.sleep(_LOOK_AFTER_FILES.total_seconds())
            await self._look_at_files()

    async def _look_at_files(self) -> None:
        own = {hand.number for hand in self._hands}
        try:
            for number in await leftovers.mail_waits(self.settings, own):
                process_events.queue_file_waits(str(queue_file(self.settings.relay.state_dir, number)))
        except StoreError as error:
            events.queue_failed("look after files", error)

    # What workers say, and what they are told.

    def _told(self, hand: _Hand, kind: str, value: Any) -> None:
        if kind == "metrics":
            self._merged.heard(hand.number, value)
        if kind == "connections" and self._allotment.heard(hand.number, report_of(value)):
            self._tell_bounds()

    def _tell_bounds(self) -> None:
        for hand in self._hands:
            if hand.process is not None:
                hand.process.tell("bounds", self._bounds(hand))

    def _bounds(self, hand: _Hand) -> dict[str, Any]:
        return asdict(self._allotment.bounds(hand.number))

    def _settings_text(self, settings: Settings) -> str:
        return to_json(part_of(settings, self._parts))

    async def reload(self, new: Settings) -> tuple[str, ...] | None:
        """Let all processes take over new settings; see Relay.reload. If one cannot, all stay with the old ones."""
        target = kept(self.settings, new)
        answers = await self._ask_all("reload", self._settings_text(target), seconds=_RELOAD_SECONDS)
        refusals = [answer for answer in answers.values() if answer is False or isinstance(answer, str)]
        if refusals:
            await self._ask_all("reload", self._settings_text(self.settings), seconds=_RELOAD_SECONDS)
            if isinstance(refusals[0], str):
                raise ValueError(refusals[0])
            return None
        waiting = tuple(need_restart(self.settings, new))
        self.settings = target
        if _limits(target) != self._allotment.limits:
            self._allotment = Allotment(_limits(target), self._allotment.parties)
            self._tell_bounds()
        return waiting

    # What all of them say together.

    async def _ask_all(self, kind: str, value: object = None, *, seconds: float = _ASK_SECONDS) -> dict[int, Any]:
        """Return what each process that works answers, by number; None where it does not in time."""
        asked = {one.number: one.process for one in self._hands if one.process and one.process.ready.is_set()}
        answers = await asyncio.gather(*(process.ask(kind, value, seconds=seconds) for process in asked.values()))
        return dict(zip(asked, answers, strict=True))

    async def _hear_metrics(self) -> None:
        for number, told in (await self._ask_all("metrics")).items():
            if told is not None:
                self._merged.heard(number, told)

    async def _collect(self) -> MergedMetrics:
        await self._hear_metrics()
        return self._merged

    async def _reasons_not_ready(self) -> Sequence[str]:
        answers = await self._ask_all("readiness")
        reasons = ["the relay is stopping"] if self._stopping else []
        for hand in self._workers:
            if hand.number not in answers:
                reasons.append(f"worker {hand.number} is {'starting' if hand.process else 'not running'}")
            elif (told := answers[hand.number]) is None:
                reasons.append(f"worker {hand.number} does not answer")
            else:
                reasons += [f"worker {hand.number}: {reason}" for reason in told]
        return reasons


def _limits(settings: Settings) -> Limits:
    return Limits(
        max_connections=settings.delivery.max_connections,
        max_connections_per_destination=settings.delivery.max_connections_per_destination,
    )


def _tick(number: int, process: WorkerProcess) -> None:
    process.silent += 1
    if process.silent >= (_SILENT_TICKS if process.heard else _SILENT_TICKS_AT_START) and not process.killed:
        process_events.worker_stalled(number, process.pid, process.silent * _TICK_SECONDS)
        process.kill()


async def _ready(hand: _Hand) -> None:
    assert hand.process is not None, "started"
    waits = [asyncio.create_task(hand.process.ready.wait()), asyncio.create_task(hand.process.ended())]
    try:
        await asyncio.wait(waits, timeout=_READY_SECONDS, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        await asyncio.gather(*waits, return_exceptions=True)
    if not hand.process.ready.is_set():
        raise WorkerStartError(f"worker {hand.number} could not start")


def room_to_drain(settings: Settings, numbers: Sequence[int]) -> tuple[int, ...]:
    """Return which files can be emptied beside the workers; each takes a connection to wherever its mail goes."""
    spare = _limits(settings).most_processes - settings.relay.workers
    for number in numbers[spare:]:
        process_events.queue_file_waits(str(queue_file(settings.relay.state_dir, number)))
    return tuple(numbers[:spare])


@asynccontextmanager
async def presiding(settings: Settings, launcher: Launcher, drained: Sequence[int]) -> AsyncIterator[Crew]:
    """Run worker processes while inside, and others that empty the files of the numbers `drained`.

    The state directory has to be locked. Raises WorkerStartError, StoreError or OSError if they cannot start; an
    ExceptionGroup if they cannot be kept alive.
    """
    await leftovers.pause_in_new_files(settings)
    # Brought up to date before several processes open it at once.
    await (await SqlitePolicyStore.open(settings.relay.state_dir / POLICY_FILE)).close()
    crew = Crew(settings, launcher, drained)
    await crew.open()
    try:
        await crew.start()
    except BaseException:
        await crew.stop()
        raise
    async with asyncio.TaskGroup() as group:
        crew.begin(group)
        try:
            yield crew
        finally:
            await crew.stop()
