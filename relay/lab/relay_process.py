"""The relay as it ships, in a process of its own beside the lab: its config, its log as it comes, its signals."""

import asyncio
import json
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from relay.lab.ca import CertificateKind
from relay.lab.internet import Lab

Event = Mapping[str, Any]
"""One line of the relay's log."""

_LINE_LIMIT = 1 << 20
_KEPT_EVENTS = 200_000
_STOP_SECONDS = 40.0


HOSTNAME = "relay.legacy.test"


def lab_config(lab: Lab, *, ndr_route: str = "", extra: str = "", starttls: bool = False) -> str:
    """Return settings for a relay whose internet is the lab. Ports are the system's choice; `extra` is more tables.

    With `starttls` its clients are offered that, with a certificate of the lab's CA for HOSTNAME.
    """
    route = f'["{ndr_route}"]' if ndr_route else "[]"
    pem = lab.ca.identity(CertificateKind.GOOD, HOSTNAME).pem_file if starttls else ""
    tls = f'tls = "starttls"\ncertificate = "{pem}"\nkey = "{pem}"' if starttls else ""
    return f"""
[relay]
hostname = "{HOSTNAME}"
postmaster = "postmaster@legacy.test"

[[listener]]
address = "127.0.0.1:0"
{tls}

[http]
address = "127.0.0.1:0"

[dns]
nameservers = ["{lab.nameserver}"]

[tls]
ca_file = "{lab.ca_file}"

[delivery]
smtp_port = {lab.smtp_port}
policy_port = {lab.policy_port}
allow_private_addresses = true

[ndr]
route = {route}
{extra}"""


class RelayProcess:
    """A context manager around `mta-sts-relay serve --config FILE`; the body begins when clients are let in.

    `smtp` and `http` are "host:port"; `environ` None passes on our own environment. Raises RuntimeError with the end of
    the log if the relay does not start.
    """

    def __init__(self, config: Path, *, start_seconds: float = 30, environ: Mapping[str, str] | None = None) -> None:
        self.config = config
        self.environ = environ
        self.events: list[Event] = []
        self.other_lines: list[str] = []
        self.smtp = ""
        self.http = ""
        self._start_seconds = start_seconds
        self._process: asyncio.subprocess.Process | None = None
        self._reading: asyncio.Task[None] | None = None
        self._news = asyncio.Condition()
        self._ended = False

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None
    ) -> None:
        await self.stop()

    async def start(self) -> None:
        """Start the process, again if it has ended, and wait until it lets clients in."""
        self._ended = False
        self._process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay.cli", "serve", "--config", str(self.config),
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.DEVNULL, stderr=asyncio.subprocess.PIPE,
            env=self.environ, limit=_LINE_LIMIT,
        )  # fmt: skip
        first = len(self.events)
        self._reading = asyncio.create_task(self._read())
        try:
            started = await self.wait_for(lambda event: event["event"] == "relay.started", self._start_seconds, first)
        except (TimeoutError, EOFError):
            await self.kill()
            raise RuntimeError(f"the relay did not start:\n{self.log_end()}") from None
        self.smtp = str(started["listeners"]).partition(", ")[0]
        self.http = str(started["http"])

    @property
    def started(self) -> bool:
        return self._process is not None

    @property
    def pid(self) -> int:
        assert self._process is not None, "started"
        return self._process.pid

    def send_signal(self, number: signal.Signals) -> None:
        assert self._process is not None, "started"
        self._process.send_signal(number)

    async def wait(self, seconds: float = _STOP_SECONDS) -> int:
        """Wait for the process to end by itself and return its exit status. Raises TimeoutError."""
        assert self._process is not None, "started"
        assert self._reading is not None, "started"
        async with asyncio.timeout(seconds):
            status = await self._process.wait()
            await self._reading
        return status

    async def stop(self) -> int:
        """Let it stop in order (SIGTERM), or kill it where it does not; return its exit status."""
        assert self._process is not None, "started"
        if self._process.returncode is None:
            self.send_signal(signal.SIGTERM)
        try:
            return await self.wait()
        except TimeoutError:
            return await self.kill()

    async def kill(self) -> int:
        """End it at once, as a power failure would."""
        assert self._process is not None, "started"
        if self._process.returncode is None:
            self._process.kill()
        return await self.wait()

    async def wait_for(self, wanted: Callable[[Event], bool], seconds: float = 20, first: int = 0) -> Event:
        """Return the first event that is wanted, from number `first` on. Raises TimeoutError; EOFError if it ended."""
        at = first
        async with asyncio.timeout(seconds), self._news:
            while True:
                for event in self.events[at:]:
                    if wanted(event):
                        return event
                at = len(self.events)
                if self._ended:
                    raise EOFError("the relay has ended")
                await self._news.wait()

    def log_end(self, lines: int = 20) -> str:
        """Return the end of the log, for people."""
        return "\n".join([*(json.dumps(event) for event in self.events[-lines:]), *self.other_lines[-lines:]])

    async def _read(self) -> None:
        assert self._process is not None
        assert self._process.stderr is not None
        async for raw in self._process.stderr:
            line = raw.decode("utf-8", "backslashreplace").rstrip("\n")
            async with self._news:
                self._keep(line)
                self._news.notify_all()
        async with self._news:
            self._ended = True
            self._news.notify_all()

    def _keep(self, line: str) -> None:
        try:
            event = json.loads(line)
        except ValueError:
            event = None
        if not isinstance(event, dict) or "event" not in event:
            self.other_lines.append(line)
        elif len(self.events) < _KEPT_EVENTS:
            self.events.append(event)
