"""A worker process: a part of the relay that does what the parent tells it over the line."""

import asyncio
import signal
import socket
from collections import deque
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from relay import process_events
from relay.admin.merging import snapshot
from relay.app.dying import die_with_parent
from relay.app.line import Line
from relay.app.part import Part
from relay.app.relay import CANNOT_START, Relay, running
from relay.app.shares import Report
from relay.config import from_json
from relay.config.quantities import HostPort
from relay.delivery.slot_table import Demand, SlotSettings
from relay.logs import LogOutput

HEARTBEAT_SECONDS = 1.0
_LOOK_SECONDS = 0.2
"""How often it looks whether it needs more connections than it may have, which the parent is told at once."""
_DRAINED_LOOK_SECONDS = 2.0
_BEGIN_SECONDS = 60.0


class ParentGoneError(Exception):
    """Nobody is there any more to tell us what to do."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Orders:
    """What a worker is told first: its settings and its bounds of connections, as JSON has them."""

    settings: str
    bounds: Mapping[str, Any]


class Worker:
    """One worker process, from its beginning to its end."""

    def __init__(self, number: int, line: Line, logs: LogOutput) -> None:
        self._number = number
        self._line = line
        self._logs = logs
        self._orders: asyncio.Future[Orders] = asyncio.get_running_loop().create_future()
        self._stop = asyncio.Event()
        self._why = "the parent says so"
        self._relay: Relay | None = None
        self._bounds_kept = 0
        self._bounds_heard: deque[tuple[int, list[asyncio.Future[None]]]] = deque()

    async def run(self, sockets: tuple[socket.socket, ...]) -> None:
        """Work until told to stop, or until a queue file that is only to be emptied is empty."""
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._end, number.name)
        loop.add_signal_handler(signal.SIGHUP, lambda: None)  # the parent rereads the settings for all
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._hear()), group.create_task(self._beat())]
            async with asyncio.timeout(_BEGIN_SECONDS):
                orders = await self._orders
            await self._work(group, orders, sockets)
            for task in tasks:
                task.cancel()

    async def _work(self, group: asyncio.TaskGroup, orders: Orders, sockets: tuple[socket.socket, ...]) -> None:
        settings, slots = from_json(orders.settings), SlotSettings(**orders.bounds["settings"])
        self._bounds_kept = orders.bounds["number"]
        self._logs.configure(settings.log.format, settings.log.level)
        part = Part(number=self._number, sockets=sockets, slots=slots)
        async with running(settings, part) as relay:
            self._relay = relay
            process_events.worker_started([str(HostPort(host, port)) for host, port in relay.listeners])
            self._line.tell("ready")
            tasks = [group.create_task(self._report(relay))]
            if part.drains:
                tasks.append(group.create_task(self._look_whether_drained(relay)))
            await self._stop.wait()
            process_events.relay_stopping(self._why)
            for task in tasks:
                task.cancel()
        self._line.tell("metrics", snapshot(relay.registry))
        await self._line.flush()

    def _end(self, why: str) -> None:
        self._why = why
        self._stop.set()

    # What the parent says.

    async def _hear(self) -> None:
        await self._line.run(self._told, self._asked)
        raise ParentGoneError("the parent process is gone")

    def _told(self, kind: str, value: Any) -> None:
        match kind:
            case "begin":
                self._orders.set_result(Orders(**value))
            case "bounds" if self._relay is not None:
                closing = self._relay.bound(SlotSettings(**value["settings"]))
                self._bounds_heard.append((value["number"], closing))
            case "stop":
                self._end("the parent says so")

    async def _asked(self, kind: str, value: Any) -> Any:
        relay = self._relay
        match kind:
            case "metrics" if relay is not None:
                return snapshot(relay.registry)
            case "readiness" if relay is not None:
                return list(await relay.reasons_not_ready())
            case "reload" if relay is not None:
                return await self._reload(relay, value)
        return None

    async def _reload(self, relay: Relay, value: str) -> bool | str:
        """Return whether the settings could be used, or why not where the log has not told it."""
        settings = from_json(value)
        try:
            done = await relay.reload(settings) is not None
        except ValueError as error:
            return str(error)
        if done:
            self._logs.configure(settings.log.format, settings.log.level)
        return done

    # What the parent hears.

    async def _beat(self) -> None:
        """Let it be seen that the loop turns."""
        while True:
            self._line.tell("alive")
            await asyncio.sleep(HEARTBEAT_SECONDS)

    async def _report(self, relay: Relay) -> None:
        """Tell what of the connections is in use where bounds are short, whenever it is not what was told last."""
        last = None
        while True:
            report = self._report_now(relay)
            if report != last and self._line.tell("connections", asdict(report)):
                last = report
            await asyncio.sleep(_LOOK_SECONDS)

    def _report_now(self, relay: Relay) -> Report:
        while self._bounds_heard and all(closed.done() for closed in self._bounds_heard[0][1]):
            self._bounds_kept = self._bounds_heard.popleft()[0]
        total, named = relay.demand()
        return Report(heard=self._bounds_kept, total=total, named=named)

    async def _look_whether_drained(self, relay: Relay) -> None:
        while not await relay.drained():  # noqa: ASYNC110  the command line may be what empties it
            await asyncio.sleep(_DRAINED_LOOK_SECONDS)
        self._end("its queue is empty")


def report_of(value: Mapping[str, Any]) -> Report:
    """Read what a worker has told."""
    named = {name: Demand(**demand) for name, demand in value["named"].items()}
    return Report(heard=value["heard"], total=Demand(**value["total"]), named=named)


async def work(number: int, line_end: socket.socket, sockets: tuple[socket.socket, ...], *, logs: LogOutput) -> bool:
    """Be a worker process; False if it could not start, or died."""
    die_with_parent()
    line = await Line.over(line_end)
    try:
        await Worker(number, line, logs).run(sockets)
    except ExceptionGroup as group:
        # What happens to a relay that has started comes in a group of its own.
        if reasons := [str(error) for error in group.exceptions if isinstance(error, CANNOT_START)]:
            process_events.start_failed("; ".join(reasons))
        else:
            process_events.relay_died(group)
        return False
    return True
