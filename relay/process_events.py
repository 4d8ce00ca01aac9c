"""What happens to the process, its workers and its settings, one function per event: the log reference of these."""

import logging
from collections.abc import Iterable

log = logging.getLogger("relay")


def relay_started(
    version: str, config: str, listeners: Iterable[str], http: str, *, event_loop: str, workers: int
) -> None:
    """Listeners are open: from now on mail is taken."""
    fields = {"version": version, "config": config, "listeners": ", ".join(listeners), "http": http}
    log.info("relay.started", extra=fields | {"event_loop": event_loop, "workers": workers})


def relay_stopping(reason: str) -> None:
    log.info("relay.stopping", extra={"reason": reason})


def relay_stopped(seconds: float) -> None:
    log.info("relay.stopped", extra={"seconds": round(seconds, 3)})


def relay_died(error: BaseException) -> None:
    """A task ended that never should, with its traceback. The process ends; the supervisor starts it again."""
    log.error("relay.died", exc_info=error)


def worker_started(listeners: Iterable[str]) -> None:
    """A worker process works on its queue; one without listeners only empties it. `worker` is its number."""
    log.info("worker.started", extra={"listeners": ", ".join(listeners)})


def worker_died(number: int, pid: int, end: str, in_a_row: int, restart_in_seconds: float) -> None:
    """A worker process ended that was to go on. Another takes up its queue, and the clients that wait for it."""
    fields = {"died": number, "pid": pid, "end": end, "in_a_row": in_a_row, "restart_in_seconds": restart_in_seconds}
    log.error("worker.died", extra=fields)


def worker_stalled(number: int, pid: int, silent_seconds: float) -> None:
    """The loop of a worker process no longer turns: it is killed, and another is started."""
    log.error("worker.stalled", extra={"stalled": number, "pid": pid, "silent_seconds": silent_seconds})


def worker_stop_overdue(number: int, pid: int) -> None:
    """A worker process did not end within relay.stop_timeout and is killed; what it left undone is done again."""
    log.error("worker.stop_overdue", extra={"overdue": number, "pid": pid})


def queue_file_waits(file: str) -> None:
    """Mail waits in a file of a former, larger number of workers, and there is no connection to spare to empty it."""
    log.error("queue.file_waits", extra={"file": file, "setting": "delivery.max_connections_per_destination"})


def queue_file_drained(file: str) -> None:
    """No mail waits any more in a file of a former, larger number of workers."""
    log.info("queue.file_drained", extra={"file": file})


def queue_file_removed(file: str) -> None:
    """A file of a former, larger number of workers was empty, with the traces of finished mail gone too."""
    log.info("queue.file_removed", extra={"file": file})


def start_failed(reason: str) -> None:
    """The relay cannot start: an address in use, a queue file that is not ours."""
    log.error("relay.start_failed", extra={"reason": reason})


def config_reloaded(config: str, need_restart: Iterable[str]) -> None:
    """SIGHUP: the settings were read again. Those in `need_restart` changed, and stay as they were until a restart."""
    waiting = ", ".join(need_restart)
    level = logging.WARNING if waiting else logging.INFO
    log.log(level, "config.reloaded", extra={"config": config, "need_restart": waiting})


def config_rejected(config: str, problems: Iterable[str]) -> None:
    """SIGHUP: the file cannot be used, so all settings stay as they were."""
    log.error("config.rejected", extra={"config": config, "problems": "; ".join(problems)})


def hostname_is_example(hostname: str) -> None:
    """relay.hostname is still the one that the shipped file has."""
    log.warning("config.example_hostname", extra={"hostname": hostname})


def config_lax(setting: str, meaning: str) -> None:
    """A setting protects less than the relay could; said at each start and reload."""
    log.warning("config.lax", extra={"setting": setting, "meaning": meaning})


def ndr_route_bad(domain: str, reason: str) -> None:
    """An NDR to this domain of ours would not arrive: set ndr.route."""
    log.warning("ndr.no_route", extra={"domain": domain, "reason": reason, "setting": "ndr.route"})
