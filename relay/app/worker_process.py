"""The parent's side of one worker process: how it is started, heard, asked and ended."""

import asyncio
import contextlib
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from relay.app.line import Line, LineClosedError
from relay.app.log_lines import LogPipe, SharedLog

Told = Callable[[str, Any], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class Launcher:
    """Starts worker processes: by `program`, the command and arguments that this process was started by itself.

    They inherit the lock of the state directory, so that no other relay gets in while one of them is there.
    """

    program: Sequence[str]
    lock_fd: int
    log: SharedLog

    async def start(self, number: int, sockets: Sequence[socket.socket], told: Told) -> "WorkerProcess":
        """Start a process, which waits to be told "begin". `told` hears what it says. Raises OSError."""
        ours, theirs = socket.socketpair()
        with ours, theirs:
            listening = [str(one.fileno()) for one in sockets]
            options = [option for fd in listening for option in ("--listen", fd)]
            log = LogPipe(self.log)
            try:
                process = await asyncio.create_subprocess_exec(
                    *self.program, "worker", "--number", str(number), "--line", str(theirs.fileno()), *options,
                    stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=log.writing,
                    pass_fds=(theirs.fileno(), self.lock_fd, *map(int, listening)),
                )  # fmt: skip
            finally:
                log.handed_over()
            line = await Line.over(socket.socket(fileno=ours.detach()))
        return WorkerProcess(process, line, log, told)


def own_program() -> Sequence[str]:
    """Return what this process was started by, without its arguments: an interpreter, and a script or module."""
    return [sys.executable, *sys.orig_argv[1 : len(sys.orig_argv) - len(sys.argv) + 1]]


class WorkerProcess:
    """One process. `silent` counts how often `tick` was called since it was heard last."""

    def __init__(self, process: asyncio.subprocess.Process, line: Line, log: LogPipe, told: Told) -> None:
        self._process = process
        self._line = line
        self._log = log
        self._told = told
        self._began = time.monotonic()
        self._hearing = asyncio.create_task(line.run(self._hear))
        self.silent = 0
        self.heard = False
        self.ready = asyncio.Event()
        self.killed = False

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def lived_seconds(self) -> float:
        return time.monotonic() - self._began

    def tell(self, kind: str, value: object = None) -> None:
        self._line.tell(kind, value)

    async def ask(self, kind: str, value: object = None, *, seconds: float) -> Any:
        """Return the answer; None if there is none in that time."""
        with contextlib.suppress(TimeoutError, LineClosedError):
            return await self._line.ask(kind, value, seconds=seconds)
        return None

    def kill(self) -> None:
        self.killed = True
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()

    async def ended(self) -> int:
        """Wait until the process has ended, all that it said was heard, and its log passed on."""
        status = await self._process.wait()
        await asyncio.wait([self._hearing])  # unlike `await`, leaves it alone when we are cancelled
        await asyncio.to_thread(self._log.ended)
        return status

    def _hear(self, kind: str, value: Any) -> None:
        self.silent, self.heard = 0, True
        if kind == "ready":
            self.ready.set()
        self._told(kind, value)


def said_end(status: int) -> str:
    """Say how a process ended."""
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"
