"""The sink as a process, and the questions that a bench asks it."""

import contextlib
import json
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_SINK = Path(__file__).parent / "sink.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class SinkHost:
    """An MX name at an address. `pem_file` None: it offers no TLS."""

    address: str
    pem_file: Path | None


@dataclass(frozen=True, slots=True)
class SinkReport:
    """What the sink has counted since the last reset; the fields are those of sink_tally.py."""

    counts: Mapping[str, Any]

    def __getitem__(self, name: str) -> Any:
        return self.counts[name]

    def host(self, name: str) -> Mapping[str, int]:
        found: Mapping[str, int] = self.counts["hosts"].get(name, {"sessions": 0, "mails": 0, "messages": 0})
        return found

    def faults(self, *, deliveries: int, smallest: int, refused: tuple[str, ...]) -> list[str]:
        """Say what forbids to count a turn: loss, duplicates, mail without TLS or to a host that had to be refused.

        `refused` are hosts whose certificate is wrong or that offer no TLS.
        """
        found = [f"{self[name]} {name}" for name in ("duplicates", "plaintext", "unidentified", "misdirected")
                 if self[name]]  # fmt: skip
        if self["deliveries"] != deliveries:
            found.append(f"{self['deliveries']} of {deliveries} deliveries arrived")
        if deliveries and (self["smallest"] or 0) < smallest:
            found.append(f"a message has only {self['smallest']} of {smallest} octets")
        for name in refused:
            host = self.host(name)
            if host["mails"] or host["messages"]:
                found.append(f"{name} was offered mail")
        return found


class Sink:
    """Asks the sink's control socket."""

    def __init__(self, control: Path, pid: int) -> None:
        self.pid = pid
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.connect(str(control))
        self._answers = self._socket.makefile("rb")

    def close(self) -> None:
        self._answers.close()
        self._socket.close()

    def reset(self, *, delay: float = 0.0) -> None:
        """Forget all that has come; from now on hold back each batch of replies by `delay` seconds."""
        self._ask("reset", delay=delay)

    def count(self) -> int:
        """Return the deliveries since the last reset."""
        return int(self._ask("count"))

    def report(self) -> SinkReport:
        return SinkReport(self._ask("report"))

    def times(self) -> dict[str, float]:
        """Return when each delivery, "id recipient", was complete on the monotonic clock, in seconds."""
        return {str(delivery): float(when) for delivery, when in self._ask("times").items()}

    def _ask(self, question: str, **details: Any) -> Any:
        self._socket.sendall(json.dumps({"do": question, **details}).encode())
        return json.loads(self._answers.readline())


@contextlib.contextmanager
def running_sink(root: Path, hosts: Mapping[str, SinkHost], mx_of: Mapping[str, str], port: int) -> Iterator[Sink]:
    root.mkdir(parents=True, exist_ok=True)
    control, settings = root / "control", root / "settings.json"
    settings.write_text(json.dumps({
        "control": str(control),
        "port": port,
        "hosts": {name: [host.address, host.pem_file and str(host.pem_file)] for name, host in hosts.items()},
        "mx_of": dict(mx_of),
    }))  # fmt: skip
    command = [sys.executable, str(_SINK), str(settings)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != b"ready\n":
                raise RuntimeError("the sink did not start")
            with contextlib.closing(Sink(control, process.pid)) as sink:
                yield sink
        finally:
            process.terminate()
            process.wait(10)


def wait_for(sink: Sink, deliveries: int, *, stalled: float) -> bool:
    """Wait until so many deliveries are there; False if none came for `stalled` seconds."""
    seen, since = sink.count(), time.monotonic()
    while seen < deliveries:
        if time.monotonic() - since > stalled:
            return False
        time.sleep(0.02)
        now = sink.count()
        if now != seen:
            seen, since = now, time.monotonic()
    return True
