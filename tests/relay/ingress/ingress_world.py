"""Listeners over a queue in memory, on 127.0.0.1, and a client that sends raw octets."""

import asyncio
import contextlib
import itertools
import re
import socket
import ssl
from collections.abc import AsyncIterator, Sequence
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any, Self

from policy_fakes import ManualClock
from prometheus_client import CollectorRegistry
from queue_fakes import MemoryQueueStore, MemoryUpload

from relay.ingress.listener import Listeners
from relay.ingress.settings import AccessSettings, IngressSettings, ListenerSettings, TlsMode
from relay.metrics import Metrics
from relay.queue.message import Job, NewMessage, StoredContent
from relay.store.protocols import StoreError

LIMIT = 10.0
"""Seconds that a test waits at most for anything."""

CRLF = b"\r\n"
_REPLY = re.compile(r"([2-5][0-9][0-9])(?: ([245]\.[0-9]+\.[0-9]+))?(?: (.*))?", re.DOTALL)


class RecordingStore(MemoryQueueStore):
    """The queue in memory, which also remembers what it was given, and can be made slow or wrong."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.messages: list[NewMessage] = []
        self.open_gate = asyncio.Event()
        self.open_gate.set()
        self.at_gate = asyncio.Event()
        self.unexpected: Exception | None = None
        self.room = True
        self.asked_for_room: list[int] = []
        self.uploads = 0
        self.discarded = 0
        self.upload_error: StoreError | None = None
        self.append_gate = asyncio.Event()
        self.append_gate.set()

    async def enqueue(self, message: NewMessage, lease: frozenset[str] = frozenset()) -> Sequence[Job]:
        self.at_gate.set()
        await self.open_gate.wait()
        if self.unexpected is not None:
            raise self.unexpected
        jobs = await super().enqueue(message, lease)
        self.messages.append(message)
        return jobs

    async def begin_upload(self) -> MemoryUpload:
        self.uploads += 1
        upload = await super().begin_upload()
        append, discard = upload.append, upload.discard

        async def append_at_gate(data: bytes) -> None:
            await self.append_gate.wait()
            await append(data)

        async def counted_discard() -> None:
            self.discarded += 1
            await discard()

        upload.append = append_at_gate  # type: ignore[method-assign]
        upload.discard = counted_discard  # type: ignore[method-assign]
        if self.upload_error is not None:
            upload.finish = self._fail  # type: ignore[method-assign]
        return upload

    async def _fail(self) -> StoredContent:
        assert self.upload_error is not None
        raise self.upload_error

    async def room_for(self, size: int) -> bool:
        self._check()
        self.asked_for_room.append(size)
        return self.room

    @property
    def nameless(self) -> int:
        """Uploads that no message names."""
        return len(self._uploads)

    async def whole(self, queue_id: str) -> bytes:
        return b"".join([piece async for piece in self.content(queue_id)])


class Reply:
    """One reply as it came, code and lines."""

    def __init__(self, code: int, lines: list[str]) -> None:
        self.code = code
        self.lines = lines

    @property
    def status(self) -> str:
        match = re.match(r"[245]\.[0-9]+\.[0-9]+(?= )", self.lines[0])
        return match[0] if match else ""

    @property
    def short(self) -> str:
        """Code and status, "250 2.1.0"."""
        return f"{self.code} {self.status}".rstrip()

    def __repr__(self) -> str:
        return f"{self.code} {self.lines}"


class RawClient:
    """A client that says exactly what it is told."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, address: tuple[str, int], **options: Any) -> Self:
        return cls(*await asyncio.wait_for(asyncio.open_connection(*address, **options), LIMIT))

    async def send(self, data: bytes) -> None:
        self.writer.write(data)
        await self.writer.drain()

    async def reply(self) -> Reply:
        lines: list[str] = []
        while True:
            line = await asyncio.wait_for(self.reader.readline(), LIMIT)
            assert line.endswith(CRLF), f"the connection is closed, or no line: {line!r} after {lines}"
            text = line.decode("ascii")[:-2]
            lines.append(text[4:])
            if text[3] == " ":
                return Reply(int(text[:3]), lines)
            assert text[3] == "-", text

    async def replies(self, count: int) -> list[Reply]:
        return [await self.reply() for _ in range(count)]

    async def say(self, line: bytes) -> Reply:
        await self.send(line + CRLF)
        return await self.reply()

    async def hello(self, command: bytes = b"EHLO client.example") -> Reply:
        return await self.say(command)

    async def mail(self, *recipients: bytes, sender: bytes = b"<alice@example.com>") -> None:
        """MAIL and RCPT, which must be accepted."""
        assert (await self.say(b"MAIL FROM:" + sender)).code == 250
        for recipient in recipients or (b"<bob@remote.test>",):
            assert (await self.say(b"RCPT TO:" + recipient)).code == 250

    async def data(self, content: bytes) -> Reply:
        """DATA with content that is sent as it stands, with its final dot."""
        assert (await self.say(b"DATA")).code == 354
        await self.send(content + b".\r\n")
        return await self.reply()

    async def closed(self) -> bytes:
        """Everything that still comes until the server closes."""
        with contextlib.suppress(ConnectionError):
            return await asyncio.wait_for(self.reader.read(), LIMIT)
        return b""

    async def start_tls(self, context: ssl.SSLContext) -> None:
        async with asyncio.timeout(LIMIT):
            await self.writer.start_tls(context, server_hostname="relay.example.com")

    def close(self) -> None:
        self.writer.close()

    def reset(self) -> None:
        """Vanish: the server sees a reset."""
        sock = self.writer.get_extra_info("socket")
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        self.writer.transport.abort()


class World:
    """Listeners with everything around them faked."""

    def __init__(self, settings: IngressSettings) -> None:
        self.clock = ManualClock()
        self.store = RecordingStore(self.clock)
        self.dispatched: list[Job] = []
        self.leasable: frozenset[str] = frozenset()
        self.registry = CollectorRegistry()
        self._ids = itertools.count(1)
        self.clients: list[RawClient] = []
        self.listeners = Listeners(
            settings=settings,
            store=self.store,
            dispatch=self.dispatched.extend,
            lease_for=lambda destinations: destinations & self.leasable,
            new_id=lambda: f"id{next(self._ids)}",
            clock=self.clock,
            metrics=Metrics(self.registry),
        )

    async def connect(self, listener: int = 0, *, greeted: bool = True, **options: Any) -> RawClient:
        client = await RawClient.connect(self.listeners.addresses[listener], **options)
        self.clients.append(client)
        if greeted:
            assert (await client.reply()).code == 220
        return client

    async def ready(self, listener: int = 0) -> RawClient:
        """A client that has said EHLO."""
        client = await self.connect(listener)
        assert (await client.hello()).code == 250
        return client

    async def deliver(self, content: bytes, **envelope: Any) -> NewMessage:
        """Send one message; return what was stored, which must be accepted."""
        client = await self.ready()
        await client.mail(**envelope)
        assert (await client.data(content)).code == 250
        return self.store.messages[-1]

    async def until(self, condition: Any) -> None:
        """Wait until something is so that no event tells."""
        async with asyncio.timeout(LIMIT):
            while not condition():  # noqa: ASYNC110  what is waited for has no event
                await asyncio.sleep(0.001)

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mta_sts_relay_{name}", labels) or 0.0


def body(message: NewMessage) -> bytes:
    """The content without the Received field that the relay put on top."""
    assert isinstance(message.content, bytes)
    end = 0
    while True:
        end = message.content.index(CRLF, end) + 2
        if message.content[end : end + 1] not in (b" ", b"\t"):
            return message.content[end:]


def settings(*listeners: ListenerSettings, access: AccessSettings | None = None, **changes: Any) -> IngressSettings:
    base = IngressSettings(
        hostname="relay.example.com",
        postmaster="postmaster@example.com",
        listeners=listeners or (ListenerSettings(address="127.0.0.1:0"),),
        access=access or AccessSettings(),
    )
    return replace(base, **changes)


def tls_listener(certificate: Path, mode: TlsMode = TlsMode.STARTTLS, **options: Any) -> ListenerSettings:
    return ListenerSettings(address="127.0.0.1:0", tls=mode, certificate=certificate, **options)


@contextlib.asynccontextmanager
async def world(ingress: IngressSettings | None = None) -> AsyncIterator[World]:
    it = World(ingress or settings())
    await it.listeners.start()
    try:
        yield it
    finally:
        it.store.open_gate.set()
        it.store.append_gate.set()
        for client in it.clients:
            client.close()
        await it.listeners.stop(timedelta(seconds=LIMIT))
        assert it.listeners.session_count == 0
