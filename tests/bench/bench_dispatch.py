"""What dispatch and worker cost beside network and disk: CPU per message handed over, by number of domains.

    python tests/bench/bench_dispatch.py [--messages 20000] [--turns 5]

Hosts, DNS, policies and store are stand-ins that answer at the next turn of the loop; log lines go nowhere.
"""

import argparse
import asyncio
import logging
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta

from delivery_fakes import OK, RecordingStore, World
from policy_fakes import ManualClock

from relay.delivery.seam import Parcel, SendResult, SessionFacts, Target
from relay.queue.attempt import Phase, Security
from relay.queue.message import Envelope, Job, Lease, Message, Recipient
from relay.store.protocols import Settlement

IN_FLIGHT = 200
FACTS = SessionFacts(security=Security.STS)


class Sink:
    """A Transport whose hosts take everything."""

    committing = False
    facts = FACTS

    @asynccontextmanager
    async def open(self, target: Target, *, destination: str, size: int) -> AsyncIterator["Sink"]:
        yield self

    async def send(self, parcel: Parcel) -> SendResult:
        await asyncio.sleep(0)
        return SendResult(replies={one.id: OK for one in parcel.recipients}, phase=Phase.END_OF_DATA)


class Ledger(RecordingStore):
    """A store that only counts what is settled."""

    def __init__(self, clock: ManualClock, places: asyncio.Semaphore) -> None:
        super().__init__(clock)
        self.settled = 0
        self._places = places

    async def settle(self, settlement: Settlement) -> None:
        await asyncio.sleep(0)
        self.settled += 1
        self._places.release()


def job(number: int, domain: str, clock: ManualClock) -> Job:
    message = Message(
        queue_id=f"q{number}", accepted_at=clock.now(), envelope=Envelope(reverse_path="sender@bench.test"), size=100
    )
    recipient = Recipient(id=number, forward_path=f"user@{domain}")
    lease = Lease(fence=1, incarnation="bench")
    return Job(
        id=number, message=message, destination=domain, recipients=(recipient,), attempts=1, lease=lease, content=b"x"
    )


async def turn(messages: int, domains: int) -> float:
    """Return the CPU milliseconds of one message; the clock goes on by 5 ms with each, as at 200 a second."""
    world = World()
    places = asyncio.Semaphore(IN_FLIGHT)
    ledger = Ledger(world.clock, places)
    world.dispatcher._store = world.worker._store = ledger
    world.worker._transport = Sink()
    names = [f"d{number}.test" for number in range(domains)]
    for name in names:
        world.domain(name, f"mx.{name}")
        world.publish(name, "1", "enforce", f"mx.{name}")
    running = asyncio.create_task(world.dispatcher.run())
    await asyncio.sleep(0)
    jobs = [job(number, names[number % domains], world.clock) for number in range(messages)]
    started = time.process_time()
    for one in jobs:
        await places.acquire()
        world.clock.move(timedelta(milliseconds=5))
        world.dispatcher.lease_for([one.destination])
        world.dispatcher.accept([one])
    for _ in range(IN_FLIGHT):
        await places.acquire()
    assert ledger.settled == messages
    spent = time.process_time() - started
    await world.dispatcher.stop(timedelta(seconds=1))
    await running
    return 1000 * spent / messages


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--messages", type=int, default=20_000)
    parser.add_argument("--turns", type=int, default=5)
    arguments = parser.parse_args()
    logging.getLogger("relay").setLevel(logging.CRITICAL)
    for domains in (1, 200):
        best = min(asyncio.run(turn(arguments.messages, domains)) for _ in range(arguments.turns))
        print(f"{domains:>4} domains: {best:.3f} ms CPU per message")


if __name__ == "__main__":
    main()
