"""Fills and empties a queue until it is killed, saying what was acknowledged: `crash_writer.py FILE RUN`."""

import asyncio
import hashlib
import sys
from datetime import UTC, datetime
from pathlib import Path

from queue_store_contract import message, settlement

from relay.store.protocols import Verdict
from relay.store.sqlite.queue import SqliteQueueStore

BIG = 700_000


class SystemClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


def content_of(queue_id: str) -> bytes:
    """Content that only this message can have; every fifth is big and uploaded."""
    seed = hashlib.sha256(queue_id.encode()).digest()
    size = BIG if queue_id.endswith(("0", "5")) else 3000
    return (seed * (size // len(seed) + 1))[:size]


def say(*words: str) -> None:
    sys.stdout.write(" ".join(words) + "\n")
    sys.stdout.flush()


async def produce(store: SqliteQueueStore, run: str, producer: int) -> None:
    # Of each run its own, so that what an earlier one left does not stand before the new mail.
    here, there = f"a{run}.test", f"b{run}.test"
    number = 0
    while True:
        number += 1
        queue_id = f"R{run}P{producer}-{number:06}"
        content = content_of(queue_id)
        paths = (f"x@{here}", f"y@{there}")
        if len(content) == BIG:
            upload = await store.begin_upload()
            for start in range(0, BIG, 100_000):
                await upload.append(content[start : start + 100_000])
            new = message(queue_id, *paths, content=await upload.finish())
        else:
            new = message(queue_id, *paths, content=content)
        jobs = await store.enqueue(new, frozenset({here, there}))
        say("accepted", queue_id)
        if number % 2 and len(jobs) == 2:
            say("settling", queue_id)
            await asyncio.gather(*(store.settle(settlement(job, Verdict.DELIVERED)) for job in jobs))
            say("settled", queue_id)


async def main(path: Path, run: str) -> None:
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation=run, node="crash")
    await store.sweep()
    await asyncio.gather(*(produce(store, run, n) for n in range(6)))


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
