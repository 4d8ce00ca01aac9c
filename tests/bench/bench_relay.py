"""The whole relay, end to end: messages per second and CPU per message.

The relay runs as it ships, in a process of its own: SQLite with synchronous=FULL, policy in mode enforce, verified
TLS, metrics and logs on. The lab's MX host counts, and checks that every message came over TLS; `smtp-source` (Debian's
postfix) offers the load. Writes docs/performance.md, with a profile of one more turn if py-spy is installed.
`make bench` runs it.
"""

import argparse
import asyncio
import os
import platform
import re
import shutil
import signal
import sqlite3
import ssl
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sampling import Samples, py_spy, sampled

from relay.lab.internet import Lab
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.policy_host import PolicySite
from relay.lab.relay_process import lab_config

PAGE = Path(__file__).parents[2] / "docs" / "performance.md"
SESSIONS = 20
QUIET = 0.05
"""The share of the machine below which the work of others is not worth a word."""
CLOCK_TICKS = os.sysconf("SC_CLK_TCK")
_STARTED = re.compile(r'"event":"relay.started".*"listeners":"[^"]*:([0-9]+)"')


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One turn. CPU is user and system time of the relay's process; memory its proportional set size at the end.

    `others` is the share of the machine that processes other than load generator, relay and lab used meanwhile.
    `samples` cost time, and are taken in a turn of their own.
    """

    messages: int
    seconds: float
    cpu_seconds: float
    memory_bytes: int
    connections: int
    others: float
    samples: Samples | None = None

    @property
    def rate(self) -> float:
        return self.messages / self.seconds

    @property
    def cpu_per_message_ms(self) -> float:
        return 1000 * self.cpu_seconds / self.messages


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / CLOCK_TICKS


def foreign_seconds(pid: int) -> float:
    """Return the CPU time that the machine has spent so far on others than us and the process given."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    ours = os.times()
    spent = ours.user + ours.system + ours.children_user + ours.children_system
    return (user + nice + system + sum(rest)) / CLOCK_TICKS - spent - cpu_seconds(pid)


def memory_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    return 0


@asynccontextmanager
async def relay(lab: Lab, directory: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, int]]:
    """Run the relay against the lab; yield its process and its listener's port."""
    config, log = directory / "config.toml", directory / "relay.log"
    config.write_text(lab_config(lab))
    with log.open("wb") as output:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "relay.cli", "serve", "--config", str(config), stdout=output, stderr=output
        )
    try:
        yield process, await _port(log, process)
    finally:
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        await process.wait()


async def _port(log: Path, process: asyncio.subprocess.Process) -> int:
    """Return the listener's port once the relay says in its log that it has started.

    The log stays a file, as reading it here all the time would take the processor from what is measured.
    """
    async with asyncio.timeout(30):
        while process.returncode is None:
            if (started := _STARTED.search(await asyncio.to_thread(log.read_text))) is not None:
                return int(started[1])
            await asyncio.sleep(0.02)
    raise SystemExit(f"the relay did not start: {await asyncio.to_thread(log.read_text)}")


async def offer(port: int, count: int, size: int, domain: str) -> None:
    """Offer the messages over 20 sessions, as smtp-source does."""
    program = shutil.which("smtp-source", path="/usr/sbin:/usr/bin")
    if program is None:
        raise SystemExit("smtp-source is not installed (make apt)")
    process = await asyncio.create_subprocess_exec(
        program, "-d", "-s", str(SESSIONS), "-m", str(count), "-l", str(size),
        "-f", "sender@bench.test", "-t", f"user@{domain}", f"inet:127.0.0.1:{port}",
    )  # fmt: skip
    if await process.wait() != 0:
        raise SystemExit("smtp-source failed")


async def turn(count: int, size: int, *, profile: bool = False) -> Run:
    """One turn: a fresh lab and a fresh relay; 200 messages to warm up, then `count` that are measured."""
    with tempfile.TemporaryDirectory(prefix="relay-bench-") as directory:
        async with Lab(ttl=300, keep_content=False) as lab:
            domain, warm_up = "one.test", 200
            await lab.domain(
                domain,
                mx=[("mx.one.test", 10, MxBehaviour())],
                policy=PolicySite(mode="enforce", mx=["mx.one.test"], max_age=86400, id="1"),
            )
            host = lab.hosts["mx.one.test"]
            async with relay(lab, Path(directory)) as (process, port):
                await offer(port, warm_up, size, domain)
                await host.wait_for_messages(warm_up, timeout=60)
                async with AsyncExitStack() as exits:
                    samples = None
                    if profile:
                        samples = await exits.enter_async_context(sampled(process.pid, Path(directory)))
                    cpu, start = cpu_seconds(process.pid), time.perf_counter()
                    foreign = foreign_seconds(process.pid)
                    _, messages = await asyncio.gather(
                        offer(port, count, size, domain), host.wait_for_messages(warm_up + count, timeout=300)
                    )
                    seconds = time.perf_counter() - start
                    foreign = foreign_seconds(process.pid) - foreign
                await asyncio.sleep(0.2)  # the last settlements
                if not all(message.tls for message in messages):
                    raise SystemExit("a message came without TLS")
                return Run(
                    messages=count,
                    seconds=seconds,
                    cpu_seconds=cpu_seconds(process.pid) - cpu,
                    memory_bytes=memory_bytes(process.pid),
                    connections=len(host.sessions),
                    others=max(foreign, 0.0) / (seconds * (os.cpu_count() or 1)),
                    samples=samples,
                )


def report(runs: list[Run], size: int, samples: Samples | None) -> str:
    def row(name: str, values: list[float], unit: str) -> str:
        low, middle, high = min(values), statistics.median(values), max(values)
        return f"| {name} | {low:.3g} | {middle:.3g} | {high:.3g} | {unit} |"

    return "\n".join(
        [
            "# Performance",
            "",
            "Written by `make bench`; do not edit. A baseline of the whole relay: `smtp-source` offers messages over",
            f"{SESSIONS} sessions, the relay commits each one (SQLite, synchronous=FULL), enforces the policy and",
            "hands it over verified TLS to one MX host, with metrics and logs on. Load generator, relay and MX host",
            "(asyncio, in Python) share the machine.",
            "",
            f"{len(runs)} turns of {runs[0].messages} messages of {size} octets.",
            "",
            "| | minimum | median | maximum | |",
            "|---|---|---|---|---|",
            row("throughput, offered to delivered", [run.rate for run in runs], "messages/s"),
            row("CPU of the relay", [run.cpu_per_message_ms for run in runs], "ms/message"),
            row("memory of the relay (PSS)", [run.memory_bytes / 1e6 for run in runs], "MB"),
            row("connections to the MX host", [float(run.connections) for run in runs], ""),
            "",
            _machine(),
            *_shared([run.others for run in runs]),
            "",
            *(_profile(samples) if samples is not None else ()),
        ]
    )


def _machine() -> str:
    return (
        f"Machine: {os.cpu_count()} cores ({platform.machine()}), Linux {platform.release()}, Python "
        f"{platform.python_version()}, {ssl.OPENSSL_VERSION}, SQLite {sqlite3.sqlite_version}."
    )


def _shared(shares: list[float]) -> list[str]:
    if max(shares) < QUIET:
        return []
    return [
        "",
        f"The machine was shared: other processes used up to {100 * max(shares):.0f} % of it during the turns,",
        "which lowers the rate, and raises the CPU time of a message too.",
    ]


def _profile(samples: Samples) -> list[str]:
    def share(count: int) -> str:
        return f"{100 * count / samples.total:.1f} %"

    threads = ", ".join(f"{name} {share(count)}" for name, count in samples.threads.most_common(4))
    return [
        "## Profile",
        "",
        f"The ten functions that cost most by themselves, of {samples.total} samples in which a thread of the relay",
        "held the interpreter's lock (`py-spy record --gil`, in a turn of its own). System calls and cryptography run",
        f"outside that lock. By thread: {threads}.",
        "",
        "| function | itself | with what it calls |",
        "|---|---|---|",
        *(
            f"| `{name}` | {share(count)} | {share(samples.whole[name])} |"
            for name, count in samples.own.most_common(10)
        ),
        "",
        "The ten functions of the relay that cost most with what they call, without those that call nearly all others:",
        "",
        "| function | itself | with what it calls |",
        "|---|---|---|",
        *(f"| `{name}` | {share(samples.own[name])} | {share(count)} |" for name, count in _parts(samples)),
        "",
    ]


def _parts(samples: Samples) -> list[tuple[str, int]]:
    ours = [one for one in samples.whole.most_common() if "(relay/" in one[0] or "(policy/" in one[0]]
    return [(name, count) for name, count in ours if count < samples.total // 5][:10]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--messages", type=int, default=4000)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--turns", type=int, default=3)
    parser.add_argument("--no-page", action="store_true", help="print only")
    options = parser.parse_args()
    runs = []
    for number in range(options.turns):
        run = asyncio.run(turn(options.messages, options.size))
        runs.append(run)
        print(
            f"turn {number + 1}: {run.rate:.0f} messages/s, {run.cpu_per_message_ms:.2f} ms CPU per message, "
            f"others used {100 * run.others:.0f} % of the machine"
        )
    samples = None
    if py_spy() is not None:
        samples = asyncio.run(turn(options.messages, options.size, profile=True)).samples
    page = report(runs, options.size, samples)
    print(page)
    if not options.no_page:
        PAGE.write_text(page, encoding="utf-8")


if __name__ == "__main__":
    main()
