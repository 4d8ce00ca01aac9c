"""Telling the service manager how we are (sd_notify(3)); says nothing where there is none."""

import contextlib
import socket
from collections.abc import Mapping
from datetime import timedelta


class ServiceManager:
    """READY, RELOADING, STOPPING and WATCHDOG messages. `environ` is the process's environment."""

    def __init__(self, environ: Mapping[str, str]) -> None:
        # A name that begins with @ is in the abstract namespace.
        self._address = environ.get("NOTIFY_SOCKET", "").replace("@", "\0", 1)
        limit = environ.get("WATCHDOG_USEC", "")
        self._watchdog = timedelta(microseconds=int(limit)) if limit.isdigit() and int(limit) else None

    @property
    def watchdog_interval(self) -> timedelta | None:
        """How often WATCHDOG is to be said, half of the limit; None if nobody listens."""
        return self._watchdog / 2 if self._watchdog and self._address else None

    def say(self, state: str) -> None:
        """Send e.g. `READY=1`. A manager that cannot be reached is no reason to stop."""
        if not self._address:
            return
        with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender:
            sender.setblocking(False)
            sender.sendto(state.encode(), self._address)
