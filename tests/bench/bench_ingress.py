"""Messages a second and CPU per message of the ingress alone, against a store that keeps nothing.

    PYTHONPATH=.:tests python tests/bench/bench_ingress.py [--messages N] [--size OCTETS] [--sessions N] [--reconnect]

The generator is Postfix's smtp-source (Debian: postfix). CPU is this process's, user and system.
"""

import argparse
import asyncio
import itertools
import os
import resource
import shutil
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta

from prometheus_client import CollectorRegistry
from queue_fakes import MemoryQueueStore

from relay.ingress.listener import Listeners
from relay.ingress.settings import AccessSettings, IngressSettings, ListenerSettings
from relay.metrics import Metrics
from relay.queue.message import Job, NewMessage


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


class NoStore(MemoryQueueStore):
    """Counts messages and forgets them."""

    def __init__(self) -> None:
        super().__init__(SystemClock())
        self.count = 0

    async def enqueue(self, message: NewMessage, lease: frozenset[str] = frozenset()) -> Sequence[Job]:
        self.count += 1
        return ()

    async def room_for(self, size: int) -> bool:
        return True


def new_listeners(store: NoStore, access: AccessSettings | None = None) -> Listeners:
    ids = itertools.count(1)
    return Listeners(
        settings=IngressSettings(
            hostname="relay.example.com",
            postmaster="postmaster@example.com",
            listeners=(ListenerSettings(address="127.0.0.1:0"),),
            access=access or AccessSettings(),
        ),
        store=store,
        dispatch=lambda jobs: None,
        lease_for=lambda destinations: destinations,
        new_id=lambda: f"{next(ids):032x}",
        clock=SystemClock(),
        metrics=Metrics(CollectorRegistry()),
    )


def cpu_seconds() -> float:
    """User and system time of this process so far."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


async def run(messages: int, size: int, sessions: int, *, reconnect: bool) -> None:
    store = NoStore()
    listeners = new_listeners(store)
    await listeners.start()
    host, port = listeners.addresses[0]
    source = shutil.which("smtp-source", path=f"{os.environ['PATH']}:/usr/sbin")
    if source is None:
        sys.exit("smtp-source is missing (Debian: postfix)")
    options = ["-s", str(sessions), "-m", str(messages), "-l", str(size), "-f", "a@example.com", "-t", "b@remote.test"]
    if not reconnect:
        options.append("-d")
    cpu, began = cpu_seconds(), time.perf_counter()
    generator = await asyncio.create_subprocess_exec(source, *options, f"inet:{host}:{port}")
    status = await generator.wait()
    took, cpu = time.perf_counter() - began, cpu_seconds() - cpu
    await listeners.stop(timedelta(seconds=5))
    if status or store.count != messages:
        sys.exit(f"smtp-source exited with {status}; {store.count} of {messages} messages arrived")
    print(f"{messages / took:,.0f} messages/s, {1000 * cpu / messages:.3f} ms CPU per message of {size} octets")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=20)
    parser.add_argument("--reconnect", action="store_true", help="a new connection for each message")
    wanted = parser.parse_args()
    asyncio.run(run(wanted.messages, wanted.size, wanted.sessions, reconnect=wanted.reconnect))


if __name__ == "__main__":
    main()
