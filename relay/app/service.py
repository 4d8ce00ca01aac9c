"""The process around the relay: signals, the service manager, and how it ends."""

import asyncio
import signal
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from relay import process_events
from relay.app.crew import Crew, WorkerStartError, presiding, room_to_drain
from relay.app.leftovers import mail_waits
from relay.app.log_lines import SharedLog
from relay.app.relay import CANNOT_START, Relay, running
from relay.app.state_dir import StateDirLock
from relay.app.systemd import ServiceManager
from relay.app.version import event_loop, version
from relay.app.worker_process import Launcher, own_program
from relay.config import ConfigError, Settings, laxities, load
from relay.config.problems import key_name
from relay.config.quantities import HostPort
from relay.logs import LogOutput

Serving = Relay | Crew
"""One process that does all, or the parent of several."""


async def serve(config: Path, settings: Settings, *, logs: LogOutput, log: SharedLog, manager: ServiceManager) -> bool:
    """Run the relay until SIGTERM or SIGINT; SIGHUP reloads. False if it could not start or a task of it died."""
    signals: asyncio.Queue[signal.Signals] = asyncio.Queue(16)
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        loop.add_signal_handler(number, _put, signals, number)
    if settings.relay.hostname == Settings().relay.hostname:
        process_events.hostname_is_example(settings.relay.hostname)
    _warn(settings)
    try:
        async with _serving(settings, log) as relay:
            _say_started(relay, config)
            manager.say("READY=1")
            reason = await _attend(relay, config, signals, logs, manager)
            manager.say("STOPPING=1")
            process_events.relay_stopping(reason)
            began = time.monotonic()
    except (*CANNOT_START, WorkerStartError) as error:
        process_events.start_failed(str(error))
        return False
    except ExceptionGroup as group:
        process_events.relay_died(group)
        return False
    process_events.relay_stopped(time.monotonic() - began)
    return True


@asynccontextmanager
async def _serving(settings: Settings, log: SharedLog) -> AsyncIterator[Serving]:
    """Run the relay as the settings and the queue files that are there demand: in this process, or in several."""
    workers = settings.relay.workers
    with StateDirLock(settings.relay.state_dir) as lock:
        waiting = await mail_waits(settings, range(workers))
        if workers == 1 and not waiting:
            async with running(settings) as relay:
                yield relay
        else:
            launcher = Launcher(program=own_program(), lock_fd=lock.fd, log=log)
            async with presiding(settings, launcher, room_to_drain(settings, waiting)) as crew:
                yield crew


def _put(signals: "asyncio.Queue[signal.Signals]", number: signal.Signals) -> None:
    if not signals.full():
        signals.put_nowait(number)


def _say_started(relay: Serving, config: Path) -> None:
    listeners = [str(HostPort(host, port)) for host, port in relay.listeners]
    http, workers = str(HostPort(*relay.http)), relay.settings.relay.workers
    process_events.relay_started(version(), str(config), listeners, http, event_loop=event_loop(), workers=workers)


async def _attend(
    relay: Serving, config: Path, signals: "asyncio.Queue[signal.Signals]", logs: LogOutput, manager: ServiceManager
) -> str:
    """Do what signals ask for, and tell the service manager that the loop still turns; return what ended it."""
    interval = manager.watchdog_interval
    while True:
        try:
            async with asyncio.timeout(interval.total_seconds() if interval else None):
                number = await signals.get()
        except TimeoutError:
            if relay.turning:
                manager.say("WATCHDOG=1")
            continue
        if number is not signal.SIGHUP:
            return number.name
        manager.say("RELOADING=1")
        await reload(relay, config, logs)
        manager.say("READY=1")
        manager.say("WATCHDOG=1")  # signals that keep coming must not keep this from being said


async def reload(relay: Serving, config: Path, logs: LogOutput) -> None:
    """Read the config file again; a file that cannot be used changes nothing, and the log says what is wrong."""
    try:
        settings = await asyncio.to_thread(load, config)
        need_restart = await relay.reload(settings)
    except (ConfigError, ValueError) as error:
        problems = [str(problem) for problem in error.problems] if isinstance(error, ConfigError) else [str(error)]
        process_events.config_rejected(str(config), problems)
        return
    if need_restart is not None:
        logs.configure(settings.log.format, settings.log.level)
        process_events.config_reloaded(str(config), need_restart)
        _warn(settings)


def _warn(settings: Settings) -> None:
    for laxity in laxities(settings):
        process_events.config_lax(key_name(laxity.path), laxity.text)
