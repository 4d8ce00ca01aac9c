"""One MX host of the lab, or a server written by hand, and a pool that delivers to it."""

import asyncio
import contextlib
import ipaddress
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from policy_fakes import START, ManualClock
from prometheus_client import CollectorRegistry

from policy.names import IPAddress
from policy.requirement import Level, MxMatch, Requirement
from policy.tls import TlsContexts
from relay.delivery.client import Connector
from relay.delivery.pool import ConnectionPool
from relay.delivery.seam import BLOCK, HostError, Parcel, SendResult, Target
from relay.delivery.session import LentSession
from relay.delivery.slot_table import SlotSettings
from relay.delivery.slots import Slots
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import LabCA
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import MxBehaviour
from relay.metrics import Metrics
from relay.queue.message import Envelope, Message, Recipient

LOOPBACK = ipaddress.ip_address("127.0.0.1")
MX = "mx1.shop.test"
DESTINATION = "shop.test"
LONG = 10 * BLOCK
CONTENT = b"Subject: hello\r\n\r\nA line.\r\n"
SOON = timedelta(seconds=0.15)
PATIENT = Timeouts()

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


def recipients(*paths: str) -> tuple[Recipient, ...]:
    """Number them from 1."""
    return tuple(Recipient(id=number, forward_path=path) for number, path in enumerate(paths, 1))


def message(**fields: Any) -> Message:
    envelope = Envelope(reverse_path="sender@example.com")
    return replace(Message(queue_id="q1", accepted_at=START, envelope=envelope, size=len(CONTENT)), **fields)


def parcel(
    *paths: str, content: bytes | Callable[[], AsyncIterator[bytes]] = CONTENT, letter: Message | None = None
) -> Parcel:
    people = recipients(*(paths or ("someone@shop.test",)))
    return Parcel(message=letter or message(), recipients=people, content=content)


def codes(result: SendResult) -> dict[int, int]:
    return {recipient: reply.code for recipient, reply in result.replies.items()}


@dataclass(slots=True, kw_only=True)
class World:
    """A pool, and one host for it. `registry` is where the pool's metrics are, `slots` are those it goes by."""

    ca: LabCA
    clock: ManualClock
    registry: CollectorRegistry
    pool: ConnectionPool
    connector: Connector
    slots: Slots
    host: LabMx
    port: int

    def target(
        self,
        level: Level = Level.OPPORTUNISTIC,
        *,
        mx_match: MxMatch = MxMatch.NO_POLICY,
        mx_host: str = MX,
        for_reports: bool = False,
    ) -> Target:
        requirement = Requirement(level=level, mx_host=mx_host, mx_match=mx_match, for_reports=for_reports)
        return Target(mx_host=mx_host, address=LOOPBACK, port=self.port, requirement=requirement)

    def open(
        self, level: Level = Level.OPPORTUNISTIC, *, destination: str = DESTINATION, size: int = LONG
    ) -> LentSession:
        """With a small `size` a session waits for one that another is done with, rather than connect."""
        return self.pool.open(self.target(level), destination=destination, size=size)

    async def send(self, what: Parcel | None = None, level: Level = Level.OPPORTUNISTIC) -> SendResult:
        async with self.open(level) as session:
            return await session.send(what or parcel())

    async def fail(self, what: Parcel | None = None, level: Level = Level.OPPORTUNISTIC) -> HostError:
        """Return the HostError that a delivery ends in."""
        try:
            result = await self.send(what, level)
        except HostError as error:
            return error
        raise AssertionError(f"no HostError, but {result}")

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mta_sts_relay_{name}", labels) or 0


@contextlib.asynccontextmanager
async def world(
    behaviour: MxBehaviour | None = None,
    *,
    server: Handler | None = None,
    timeouts: Timeouts = PATIENT,
    connection_idle: timedelta = timedelta(minutes=5),
    max_messages: int = 100,
    max_recipients: int = 100,
    max_idle: int = 200,
    connections: int = 20,
    source_addresses: tuple[IPAddress, ...] = (),
    counts_sessions: bool = False,
    tls_versions: tuple[str, str] = ("1.2", "1.2"),
) -> AsyncIterator[World]:
    """Start a lab MX that behaves so, or instead of it one that `server` writes by hand.

    `tls_versions`: the oldest that will do where TLS is demanded, and where it is not.
    """
    with tempfile.TemporaryDirectory() as directory:
        ca = LabCA(Path(directory))
        host = LabMx(MX, behaviour or MxBehaviour(), ca)
        clock, registry = ManualClock(), CollectorRegistry()
        connector = Connector(
            hostname="relay.example.com",
            contexts=TlsContexts(
                ca_file=str(ca.ca_file),
                minimum_version=tls_versions[0],
                opportunistic_minimum_version=tls_versions[1],
            ),
            timeouts=timeouts,
            clock=clock,
            source_addresses=source_addresses,
            counts_sessions=counts_sessions,
        )
        slots = Slots(settings=SlotSettings(max_connections_per_destination=connections), timer=clock.seconds)
        for _ in range(20):
            slots.succeeded(DESTINATION, MX)
        pool = ConnectionPool(
            connector=connector,
            slots=slots,
            clock=clock,
            metrics=Metrics(registry),
            timeouts=timeouts,
            connection_idle=connection_idle,
            max_messages_per_connection=max_messages,
            max_recipients_per_transaction=max_recipients,
            max_idle=max_idle,
        )
        async with _listening(host, server) as port:
            yield World(
                ca=ca,
                clock=clock,
                registry=registry,
                pool=pool,
                connector=connector,
                slots=slots,
                host=host,
                port=port,
            )
            await pool.close()


@contextlib.asynccontextmanager
async def _listening(host: LabMx, server: Handler | None) -> AsyncIterator[int]:
    if server is None:
        await host.start("127.0.0.1")
        try:
            yield host.port
        finally:
            await host.close()
        return
    open_now: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        open_now.add(task)
        try:
            # asyncio.streams logs a cancelled server as an error, so it ends like one whose client has gone.
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
                await server(reader, writer)
        finally:
            writer.transport.abort()
            open_now.discard(task)

    listener = await asyncio.start_server(serve, "127.0.0.1", 0)
    try:
        yield int(listener.sockets[0].getsockname()[1])
    finally:
        listener.close()
        for task in tuple(open_now):
            task.cancel()
        await asyncio.gather(*open_now, return_exceptions=True)
        await listener.wait_closed()


async def say(writer: asyncio.StreamWriter, text: str | bytes) -> None:
    writer.write(text.encode() if isinstance(text, str) else text)
    await writer.drain()


async def greet(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *keywords: str) -> None:
    """Play a host up to the end of EHLO."""
    await say(writer, "220 hand ESMTP\r\n")
    await reader.readuntil(b"\r\n")
    lines = ["hand", *keywords]
    await say(writer, "".join(f"250-{line}\r\n" for line in lines[:-1]) + f"250 {lines[-1]}\r\n")


async def until(condition: Callable[[], bool], limit: float = 10) -> None:
    """Let the loop turn until the condition holds."""
    async with asyncio.timeout(limit):
        while not condition():  # noqa: ASYNC110  most conditions are a peer's, and nobody can set an event
            await asyncio.sleep(0.001)
