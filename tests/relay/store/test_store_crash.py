"""kill -9 at any moment, and writes that fail: nothing acknowledged is lost, nothing is half there."""

import asyncio
import os
import random
import subprocess
import sys
from pathlib import Path

import pytest
from crash_writer import SystemClock, content_of
from opening import check_file
from queue_store_contract import read

from relay.queue.message import State
from relay.store.sqlite.queue import SqliteQueueStore

HERE = Path(__file__).parent
ROOT = HERE.parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}:{ROOT / 'tests' / 'contract'}"}


def run_and_kill(path: Path, run: int, lines: int) -> list[list[str]]:
    """Run the writer until it has said so many lines, kill it, and return all that it said."""
    command = [sys.executable, str(HERE / "crash_writer.py"), str(path), str(run)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, env=ENVIRONMENT, text=True) as process:
        assert process.stdout is not None
        said = [process.stdout.readline().split() for _ in range(lines)]
        process.kill()
        rest = process.stdout.read()
    # The last line may be cut off.
    return said + [line.split() for line in rest.split("\n")[:-1]]


@pytest.mark.rfc("5321-6.1-d", "5321-4.5.4.1-c")
async def test_kill_loses_nothing_that_was_accepted(tmp_path: Path) -> None:
    path = tmp_path / "queue-1.db"
    dice = random.Random(20260101)
    accepted: set[str] = set()
    settling: set[str] = set()
    settled: set[str] = set()
    for run in range(6):
        for word, queue_id in await asyncio.to_thread(run_and_kill, path, run, dice.randrange(1, 400)):
            {"accepted": accepted, "settling": settling, "settled": settled}[word].add(queue_id)
    assert len(accepted) > 100
    assert settled
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation="after", node="crash")
    await store.sweep()
    check_file(path)
    for queue_id in accepted:
        states = [entry.state for entry in await store.show(queue_id)]
        assert len(states) == 2
        if queue_id in settled:
            assert states == [State.DELIVERED, State.DELIVERED]
        elif queue_id in settling:
            assert set(states) <= {State.QUEUED, State.DELIVERED}
        else:
            assert set(states) <= {State.QUEUED, State.HELD}
        if State.QUEUED in states or State.HELD in states:
            assert await read(store, queue_id) == content_of(queue_id)
    await store.close()
    check_file(path)


FULL = """
import asyncio, resource, sys
from pathlib import Path
from crash_writer import SystemClock
from queue_store_contract import message
from relay.store.protocols import StoreError
from relay.store.sqlite.queue import SqliteQueueStore

async def main(path):
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation="1", node="n")
    await store.enqueue(message("Q0"))
    resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, resource.RLIM_INFINITY))
    refused = 0
    for number in range(1, 30):
        try:
            await store.enqueue(message(f"Q{number}", content=b"x" * 100_000))
        except StoreError:
            refused += 1
        else:
            print(f"Q{number}")
    assert refused > 10, refused
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    await store.enqueue(message("last", content=b"x" * 100_000))
    print("last")
    await store.close()

asyncio.run(main(Path(sys.argv[1])))
"""


async def test_writes_that_the_system_refuses_are_refused_whole_and_work_again_later(tmp_path: Path) -> None:
    path = tmp_path / "queue-1.db"
    environment = {**ENVIRONMENT, "PYTHONPATH": f"{ENVIRONMENT['PYTHONPATH']}:{HERE}"}
    result = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-c", FULL, str(path)],
        capture_output=True,
        env=environment,
        text=True,
        timeout=60,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    check_file(path)
    store = await SqliteQueueStore.open(path, clock=SystemClock(), incarnation="2", node="n")
    assert await read(store, "Q0")
    for queue_id in result.stdout.split():
        assert await read(store, queue_id) == b"x" * 100_000
    assert (await store.stats()).by_state[State.QUEUED] == 1 + len(result.stdout.split())
    await store.close()
