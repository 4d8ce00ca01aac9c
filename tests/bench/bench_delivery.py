"""What delivering costs: messages per second and CPU per message of the client side alone, over kept connections.

    python tests/bench/bench_delivery.py                  lab MX in another process, verified TLS
    python tests/bench/bench_delivery.py --unverified     the same, any certificate
    python tests/bench/bench_delivery.py --sink           Postfix's smtp-sink, without TLS
    python tests/bench/bench_delivery.py --uvloop         on uvloop, if that is installed

The host counts what it has taken; a run that lost a message, or sent one unverified, fails.
"""

import argparse
import asyncio
import contextlib
import ipaddress
import multiprocessing
import multiprocessing.connection
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path

from prometheus_client import CollectorRegistry

from policy.requirement import Level, Requirement
from policy.tls import TlsContexts
from relay.delivery.client import Connector
from relay.delivery.pool import ConnectionPool
from relay.delivery.seam import Parcel, Target
from relay.delivery.slot_table import SlotSettings
from relay.delivery.slots import Slots
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import LabCA
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import MxBehaviour
from relay.metrics import Metrics
from relay.queue.message import Envelope, Message, Recipient

HOST = "mx.bench.test"
DESTINATION = "bench.test"
SINK = Path("/usr/sbin/smtp-sink")
LINE = b"x" * 74 + b"\r\n"


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


async def run_lab(directory: Path, pipe: "multiprocessing.connection.Connection") -> None:
    ca = LabCA(directory)
    host = LabMx(HOST, MxBehaviour(), ca, keep_content=False)
    await host.start("127.0.0.1")
    pipe.send(host.port)
    await asyncio.to_thread(pipe.recv)
    pipe.send((host.messages.total, host.violations))
    await host.close()


def lab_process(directory: Path, pipe: "multiprocessing.connection.Connection") -> None:
    asyncio.run(run_lab(directory, pipe))


@contextlib.asynccontextmanager
async def lab(directory: Path, messages: int) -> AsyncIterator[int]:
    spawn = multiprocessing.get_context("spawn")
    ours, theirs = spawn.Pipe()
    process = spawn.Process(target=lab_process, args=(directory, theirs))
    process.start()
    try:
        yield await asyncio.to_thread(ours.recv)
        ours.send("report")
        total, violations = await asyncio.to_thread(ours.recv)
        assert (total, violations) == (messages, []), f"the host took {total} of {messages}: {violations}"
    finally:
        process.terminate()
        process.join()


@contextlib.asynccontextmanager
async def sink() -> AsyncIterator[int]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = int(probe.getsockname()[1])
    command = [str(SINK), "-u", "nobody", f"inet:127.0.0.1:{port}", "1024"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)  # noqa: ASYNC220  started before anything runs
    try:
        for _ in range(100):
            with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 0.1):
                break
            await asyncio.sleep(0.05)
        yield port
    finally:
        process.terminate()
        process.wait()


async def deliver(pool: ConnectionPool, slots: Slots, target: Target, parcels: "asyncio.Queue[Parcel]") -> None:
    with contextlib.suppress(asyncio.QueueEmpty):
        while True:
            parcel = parcels.get_nowait()
            async with pool.open(target, destination=DESTINATION, size=parcel.message.size) as session:
                result = await session.send(parcel)
            assert all(reply.code == 250 for reply in result.replies.values()), result
            slots.succeeded(DESTINATION, HOST)


async def measure(port: int, ca_file: str, level: Level, arguments: argparse.Namespace) -> None:
    timeouts = Timeouts()
    contexts = TlsContexts(ca_file=ca_file)
    connector = Connector(hostname="relay.bench.test", contexts=contexts, timeouts=timeouts, clock=WallClock())
    slots = Slots(settings=SlotSettings(max_connections_per_destination=arguments.connections), timer=time.perf_counter)
    for _ in range(arguments.connections):
        slots.succeeded(DESTINATION, HOST)
    pool = ConnectionPool(
        connector=connector,
        slots=slots,
        clock=WallClock(),
        metrics=Metrics(CollectorRegistry()),
        timeouts=timeouts,
        max_messages_per_connection=arguments.per_connection,
    )
    requirement = Requirement(level=level, mx_host=HOST)
    target = Target(mx_host=HOST, address=ipaddress.ip_address("127.0.0.1"), port=port, requirement=requirement)
    content = b"Subject: bench\r\n\r\n" + LINE * (arguments.size // len(LINE))
    envelope = Envelope(reverse_path="sender@bench.test")
    parcels: asyncio.Queue[Parcel] = asyncio.Queue()
    for number in range(arguments.messages):
        message = Message(queue_id=str(number), accepted_at=datetime.now(UTC), envelope=envelope, size=len(content))
        recipient = Recipient(id=number, forward_path="someone@bench.test")
        parcels.put_nowait(Parcel(message=message, recipients=(recipient,), content=content))
    wall, cpu = time.perf_counter(), time.process_time()
    await asyncio.gather(*(deliver(pool, slots, target, parcels) for _ in range(slots.attempts(DESTINATION))))
    wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    await pool.close()
    per_message = cpu / arguments.messages * 1000
    print(f"{arguments.messages / wall:,.0f} messages/s, {per_message:.3f} ms CPU per message ({level.value})")


async def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--unverified", action="store_true")
    parser.add_argument("--sink", action="store_true")
    parser.add_argument("--messages", type=int, default=10_000)
    parser.add_argument("--connections", type=int, default=20)
    parser.add_argument("--per-connection", type=int, default=10_000)
    parser.add_argument("--size", type=int, default=10_000)
    parser.add_argument("--uvloop", action="store_true")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        if arguments.sink:
            async with sink() as port:
                await measure(port, "", Level.OPPORTUNISTIC, arguments)
            return
        async with lab(Path(name), arguments.messages) as port:
            level = Level.OPPORTUNISTIC if arguments.unverified else Level.VERIFIED
            await measure(port, str(Path(name) / "ca.pem"), level, arguments)


if __name__ == "__main__":
    if "--uvloop" in sys.argv:
        import uvloop

        uvloop.install()
    asyncio.run(main())
