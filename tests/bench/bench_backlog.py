"""What a long queue costs: `python tests/bench/bench_backlog.py [DIRECTORY] [--lengths 1000 10000 100000 1000000]`.

Nine in ten messages wait for one dead domain. For each length: opening, each verb (median and slowest of some calls,
beside nothing else), memory, and the longest that a commit waits beside housekeeping.
"""

import argparse
import asyncio
import resource
import shutil
import sqlite3
import statistics
import tempfile
import time
from collections.abc import Awaitable, Callable
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from bench_store import SystemClock, deferred, delivered, message

from relay.queue.message import Job
from relay.store.sqlite.database import load_schema, open_database
from relay.store.sqlite.queue import APPLICATION_ID, SqliteQueueStore

CALLS = 50
_STEP = 20_000
_FILL = """
    WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
    INSERT INTO jobs (id, queue_id, number, content_id, destination, state, waiting, size, accepted_at, next_attempt_at,
        attempts, fence, origin, message_id, reverse_path, smtputf8, eight_bit, utf8_header, client_address,
        client_helo, recipients)
    SELECT i * 3, printf('B%025d', i), 0, i * 3 + 1,
        coalesce(:only, iif(i % 10, 'dead.test', 'd' || (i / 10 % 1000) || '.test')),
        'queued', 1, 300, :now + i, :now + i, 3, 3, 'client', '<' || i || '@from.test>', 'a@from.test', 0, 0, 0,
        '192.0.2.1', 'mail.from.test',
        json_array(json_array(
            i * 3 + 2, 'user' || i || '@' || coalesce(:only, 'dead.test'), NULL, NULL, '4.4.1', 'connection timed out'
        ))
    FROM n
"""
_FILL_CHUNKS = """
    WITH RECURSIVE n(i) AS (SELECT :first UNION ALL SELECT i + 1 FROM n WHERE i < :last)
    INSERT INTO chunks (id, data) SELECT (i * 3 + 1) << 20, zeroblob(300) FROM n
"""


def fill(path: Path, length: int, *, only: str | None = None, age: int = 86_400) -> None:
    """Put so many messages into a new file, `age` seconds old and due by now; with `only` all are for that domain."""
    now = int((time.time() - age) * 1_000_000)
    with closing(open_database(path, load_schema("schema", APPLICATION_ID))) as connection:
        connection.execute("PRAGMA synchronous = OFF")
        for first in range(1, length + 1, _STEP):
            values = {"first": first, "last": min(first + _STEP - 1, length), "now": now, "only": only}
            connection.execute("BEGIN")
            connection.execute(_FILL_CHUNKS, values)
            connection.execute(_FILL, values)
            connection.execute("COMMIT")
        connection.execute("UPDATE sequence SET last_id = ?", (length * 3 + 10,))


def finish_all(path: Path) -> None:
    """Make all that is queued the trace of long ago."""
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("UPDATE jobs SET state = 'leased', leased_by = 'x', leased_until = 0 WHERE state = 'queued'")
        connection.execute(
            "UPDATE jobs SET state = 'failed', waiting = 0, finished_at = 1, leased_by = NULL, leased_until = NULL "
            "WHERE state = 'leased'"
        )
        connection.commit()


async def timed(name: str, calls: int, call: Callable[[], Awaitable[object]]) -> None:
    times = []
    for _ in range(calls):
        start = time.perf_counter()
        await call()
        times.append(1000 * (time.perf_counter() - start))
    print(f"  {name:28} median {statistics.median(times):8.2f} ms   slowest {max(times):8.2f} ms", flush=True)


async def verbs(path: Path) -> None:
    start = time.perf_counter()
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation="1", node="bench")
    print(f"  open {1000 * (time.perf_counter() - start):.1f} ms")
    numbers = iter(range(1_000_000))
    jobs: list[Job] = []

    async def claim(name: str) -> None:
        jobs.extend(await store.claim(name, 20))

    async def enqueue(name: str, *, lease: bool) -> None:
        jobs.extend(await store.enqueue(message(next(numbers), name), frozenset({name} if lease else ())))

    await timed("due_destinations(100)", CALLS, lambda: store.due_destinations(100))
    await timed("claim 20, dead domain", CALLS, lambda: claim("dead.test"))
    await timed("claim 20, others", CALLS, lambda: claim(f"d{next(numbers) % 1000}.test"))
    await timed("settle deferred", CALLS, lambda: store.settle(deferred(jobs.pop())))
    await timed("settle delivered", CALLS, lambda: store.settle(delivered(jobs.pop())))
    await timed("enqueue, dead domain", CALLS, lambda: enqueue("dead.test", lease=False))
    await timed("enqueue, leased at once", CALLS, lambda: enqueue("new.test", lease=True))
    await timed("renew", CALLS, store.renew)
    await timed("stats", CALLS, store.stats)
    await timed("destinations(100)", CALLS, lambda: store.destinations(100))
    await timed("wait_for_work(0)", CALLS, lambda: store.wait_for_work(timedelta(0)))
    print(f"  memory at most {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MB")
    await store.close()


async def beside_housekeeping(path: Path) -> None:
    """How long commits wait while the whole queue is removed as old trace, and the file shrinks."""
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation="2", node="bench")
    start = time.perf_counter()
    sweep = asyncio.ensure_future(store.sweep())
    waits: list[float] = []
    while not sweep.done():
        begun = time.perf_counter()
        await store.enqueue(message(2_000_000 + len(waits), "new.test"))
        waits.append(1000 * (time.perf_counter() - begun))
        await asyncio.sleep(0.005)
    await sweep
    seconds = time.perf_counter() - start
    await store.sweep()  # pages are given back while nobody writes
    await store.close()
    middle, slowest = statistics.median(waits), max(waits)
    print(f"  sweep {seconds:.1f} s; commits beside it: median {middle:.1f} ms, slowest {slowest:.1f} ms")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("directory", nargs="?", type=Path)
    parser.add_argument("--lengths", nargs="+", type=int, default=[1000, 10_000, 100_000, 1_000_000])
    arguments = parser.parse_args()
    for length in arguments.lengths:
        directory = Path(tempfile.mkdtemp(dir=arguments.directory))
        try:
            print(f"{length} queued, 90 % of them for one dead domain", flush=True)
            fill(directory / "queue.db", length)
            asyncio.run(verbs(directory / "queue.db"))
            finish_all(directory / "queue.db")
            before = (directory / "queue.db").stat().st_size
            asyncio.run(beside_housekeeping(directory / "queue.db"))
            print(f"  file {before / 1e6:.0f} -> {(directory / 'queue.db').stat().st_size / 1e6:.0f} MB", flush=True)
        finally:
            shutil.rmtree(directory)


if __name__ == "__main__":
    main()
