"""Rates of the SQLite queue, printed and not asserted: `python tests/bench/bench_store.py [DIRECTORY]`.

10 kB bodies, one recipient, synchronous=FULL. "group" is how many callers wait at a time.
"""

import argparse
import asyncio
import shutil
import sqlite3
import tempfile
import time
from collections.abc import Awaitable, Callable, Iterable
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

from relay.queue.attempt import Attempt
from relay.queue.message import Envelope, Job, NewMessage, NewRecipient
from relay.status import Status
from relay.store.protocols import SettledRecipient, Settlement, Verdict
from relay.store.sqlite.queue import SqliteQueueStore

BODY = b"Subject: bench\r\n\r\n" + b"x" * 10_000 + b"\r\n"


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def message(number: int, domain: str) -> NewMessage:
    return NewMessage(
        queue_id=f"Q{number:025}",
        envelope=Envelope(reverse_path="a@from.test"),
        recipients=(NewRecipient(forward_path=f"b@{domain}", destination=domain),),
        content=BODY,
    )


def delivered(job: Job) -> Settlement:
    now = datetime.now(UTC)
    return Settlement(
        job=job,
        recipients=tuple(
            SettledRecipient(recipient_id=r.id, verdict=Verdict.DELIVERED, status=Status(2, 0, 0), diagnostic="250 ok")
            for r in job.recipients
        ),
        attempt=Attempt(number=job.attempts, started_at=now, finished_at=now, hosts=(), outcomes=()),
    )


def deferred(job: Job) -> Settlement:
    return Settlement(
        job=job,
        recipients=tuple(
            SettledRecipient(recipient_id=r.id, verdict=Verdict.QUEUED, status=Status(4, 4, 1), diagnostic="later")
            for r in job.recipients
        ),
        attempt=None,
        retry_in=timedelta(hours=1),
    )


async def rate(name: str, work: Iterable[Callable[[], Awaitable[object]]], group: int) -> None:
    """Run all of the work with `group` tasks and print how fast it went."""
    queue = iter(work)
    done = 0

    async def run() -> None:
        nonlocal done
        for step in queue:
            await step()
            done += 1

    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(run() for _ in range(group)))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    report(name, group, done, wall, cpu)


def yardstick(directory: Path, count: int, group: int) -> None:
    """Bare inserts of a body and a row, in this thread: what the machine and SQLite give at the most."""
    with closing(sqlite3.connect(directory / "yardstick.db", isolation_level=None)) as connection:
        connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute("CREATE TABLE body (id INTEGER PRIMARY KEY, data BLOB)")
        connection.execute("CREATE TABLE recipient (id INTEGER PRIMARY KEY, body INTEGER, path TEXT)")
        wall, cpu = time.perf_counter(), time.process_time()
        for start in range(0, count, group):
            connection.execute("BEGIN IMMEDIATE")
            for n in range(start, start + group):
                connection.execute("INSERT INTO body VALUES (?, ?)", (n, BODY))
                connection.execute("INSERT INTO recipient VALUES (?, ?, ?)", (n, n, "b@to.test"))
            connection.execute("COMMIT")
        report("yardstick: bare inserts", group, count, time.perf_counter() - wall, time.process_time() - cpu)


def report(name: str, group: int, done: int, wall: float, cpu: float) -> None:
    print(f"{name:34} group {group:4}  {done / wall:9,.0f}/s   {cpu / done * 1e6:7.1f} us CPU each", flush=True)


async def bench(directory: Path, count: int, domains: int) -> None:
    store = await SqliteQueueStore.open(directory / "queue.db", clock=SystemClock(), incarnation="bench", node="bench")
    number = 0
    yardstick(directory, count, 50)
    for group in (1, 10, 50, 200):
        new = [message(number + n, f"d{n % domains}.test") for n in range(count // (10 if group == 1 else 1))]
        number += len(new)
        jobs: list[Job] = []

        async def leased(new: NewMessage, jobs: list[Job] = jobs) -> None:
            jobs += await store.enqueue(new, frozenset({new.recipients[0].destination}))

        await rate("enqueue, leased at once", [lambda m=m: leased(m) for m in new], group)  # type: ignore[misc]
        await rate("settle delivered", [lambda j=j: store.settle(delivered(j)) for j in jobs], group)  # type: ignore[misc]
    new = [message(number + n, f"d{n % domains}.test") for n in range(count)]
    await rate("enqueue, queued", [lambda m=m: store.enqueue(m) for m in new], 50)  # type: ignore[misc]
    claimed: list[Job] = []

    async def claim(domain: str) -> None:
        claimed.extend(await store.claim(domain, 20))

    names = [f"d{n % domains}.test" for n in range(count // 20)]
    await rate("claim 20", [lambda d=d: claim(d) for d in names], 10)  # type: ignore[misc]
    await rate("settle deferred", [lambda j=j: store.settle(deferred(j)) for j in claimed], 50)  # type: ignore[misc]
    started = time.perf_counter()
    await store.stats()
    print(f"stats {1e3 * (time.perf_counter() - started):.2f} ms")
    await store.close()


async def upload(store: SqliteQueueStore, number: int, size: int) -> None:
    writing = await store.begin_upload()
    for _ in range(0, size, 65_536):
        await writing.append(bytes(65_536))
    await store.enqueue(replace(message(number, "big.test"), content=await writing.finish()))


async def beside_uploads(directory: Path, uploads: int) -> None:
    """How long the commits of small messages wait while so many of 100 MB come in at once."""
    store = await SqliteQueueStore.open(directory / "big.db", clock=SystemClock(), incarnation="bench", node="bench")
    start = 10_000_000 * uploads
    coming = asyncio.gather(*(upload(store, start - 1 - n, 100_000_000) for n in range(uploads)))
    waits: list[float] = []
    while not coming.done():
        begun = time.perf_counter()
        await store.enqueue(message(start + len(waits), "small.test"))
        waits.append(1000 * (time.perf_counter() - begun))
        await asyncio.sleep(0.002)
    await coming
    await store.close()
    waits.sort()
    print(
        f"commits beside {uploads:2} uploads of 100 MB: median {waits[len(waits) // 2]:.1f} ms, "
        f"p99 {waits[len(waits) * 99 // 100]:.1f} ms, slowest {waits[-1]:.1f} ms",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--count", type=int, default=20_000)
    parser.add_argument("--domains", type=int, default=1)
    arguments = parser.parse_args()
    directory = Path(tempfile.mkdtemp(dir=arguments.directory))
    try:
        asyncio.run(bench(directory, arguments.count, arguments.domains))
        for uploads in (1, 10):
            asyncio.run(beside_uploads(directory, uploads))
    finally:
        shutil.rmtree(directory)


if __name__ == "__main__":
    main()
