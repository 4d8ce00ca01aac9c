"""Sessions over a real socket: time, connections, rates, the PROXY protocol, stopping."""

import asyncio
import contextlib
import ipaddress
import struct
from datetime import timedelta
from pathlib import Path

import pytest
from ingress_world import CRLF, LIMIT, RawClient, World, settings, tls_listener, world

from relay.ingress.settings import AccessSettings, ListenerSettings, TlsMode

SHORT = timedelta(seconds=0.2)
LOOPBACK = (ipaddress.ip_network("127.0.0.0/8"),)
PROXIED = ListenerSettings(address="127.0.0.1:0", proxy_protocol=True)


@pytest.mark.rfc("5321-4.5.3.2.7-a", "5321-3.8-a")
@pytest.mark.parametrize(
    "said", [b"", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\n", b"NOO"]
)
async def test_idle_client_gets_421(said: bytes) -> None:
    async with world(settings(idle_timeout=SHORT)) as it:
        client = await it.connect()
        await client.send(said)
        assert (await client.closed()).endswith(b"421 4.4.2 relay.example.com Timeout exceeded, closing connection\r\n")
        assert it.listeners.session_count == 0
        assert it.listeners._shared.connections.open == 1, "a connection that lingers counts"
        client.close()
        await it.until(lambda: it.listeners._shared.connections.open == 0)


def test_idle_timeout_is_five_minutes_by_default() -> None:
    assert settings().idle_timeout == timedelta(minutes=5)


async def test_dripped_command_is_idle_too() -> None:
    """The time counts for the whole line, not for each octet."""
    async with world(settings(idle_timeout=SHORT)) as it:
        client = await it.connect()
        for _ in range(20):
            await client.send(b"x")
            with contextlib.suppress(TimeoutError):
                assert await asyncio.wait_for(client.reader.read(1), 0.05) == b"4"
                return
        pytest.fail("one octet after the other keeps the session alive")


@pytest.mark.parametrize("chunked", [False, True])
async def test_l14_progress_of_content_is_not_idle(chunked: bool) -> None:
    async with world(settings(idle_timeout=SHORT)) as it:
        client = await it.ready()
        await client.mail()
        began = next(iter(it.listeners._sessions)).loop.time()
        await (client.send(b"BDAT 27 LAST\r\n") if chunked else client.say(b"DATA"))
        for _ in range(8):
            await client.send(b"x\r\n")
            with pytest.raises(TimeoutError):
                await asyncio.wait_for(client.reader.read(1), 0.06)
        await client.send(b"x\r\n" if chunked else b".\r\n")
        assert (await client.reply()).short == "250 2.0.0"
        assert asyncio.get_running_loop().time() - began > 2 * SHORT.total_seconds()


async def test_content_that_stops_coming_is_idle() -> None:
    async with world(settings(idle_timeout=SHORT)) as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(b"x\r\n")
        assert (await client.reply()).short == "421 4.4.2"
        assert not it.store.messages


async def test_client_that_reads_no_replies_is_cut_off() -> None:
    """Its replies fill every buffer; the session neither goes on reading nor waits for ever."""
    async with world(settings(idle_timeout=SHORT, max_recipients=1)) as it:
        client = await it.ready()
        await client.mail()
        client.writer.transport.pause_reading()  # type: ignore[attr-defined]
        client.writer.write(b"RCPT TO:<b@x.test>\r\n" * 250_000)
        await it.until(lambda: it.listeners.session_count == 0)
        client.writer.transport.abort()


@pytest.mark.rfc("code-r")
async def test_connections_are_bounded_in_all() -> None:
    async with world(settings(access=AccessSettings(max_connections=2))) as it:
        first, second = await it.connect(), await it.connect()
        third = await it.connect(greeted=False)
        assert (await third.reply()).short == "421 4.3.2"
        assert await third.closed() == b""
        await first.say(b"QUIT")
        await first.closed()
        fourth = await it.connect()
        assert (await fourth.hello()).code == (await second.hello()).code == 250
        assert it.metric("ingress_connections_total", result="too-many") == 1
        assert it.metric("ingress_connections_total", result="accepted") == 3
        assert it.metric("ingress_open_connections") == 2


async def test_connections_are_bounded_per_client() -> None:
    async with world(settings(access=AccessSettings(max_connections_per_client=1))) as it:
        await it.connect()
        second = await it.connect(greeted=False)
        assert (await second.reply()).short == "421 4.7.0"
        assert await second.closed() == b""
        other = await it.connect(local_addr=("127.0.0.2", 0))
        assert (await other.hello()).code == 250


async def test_messages_are_bounded_per_minute() -> None:
    async with world(settings(access=AccessSettings(max_messages_per_minute_per_client=2))) as it:
        client = await it.ready()
        for _ in range(2):
            await client.mail()
            await client.data(b"hi\r\n")
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "451 4.7.0"
        it.clock.move(timedelta(minutes=1))
        await client.mail()


def v2(command: int, family: int, source: str) -> bytes:
    size = "!4s4sHH" if family == 0x11 else "!16s16sHH"
    address = ipaddress.ip_address(source).packed
    tail = struct.pack(size, address, address, 1234, 25) if family else b""
    return b"\r\n\r\n\0\r\nQUIT\n" + bytes([0x20 | command, family]) + struct.pack("!H", len(tail)) + tail


@pytest.mark.parametrize(
    ("header", "address"),
    [
        (b"PROXY TCP4 192.0.2.9 192.0.2.1 1234 25\r\n", "192.0.2.9"),
        (b"PROXY TCP6 2001:db8::9 2001:db8::1 1234 25\r\n", "2001:db8::9"),
        (b"PROXY TCP6 ::ffff:192.0.2.9 ::ffff:192.0.2.1 1234 25\r\n", "192.0.2.9"),
        (b"PROXY UNKNOWN\r\n", "127.0.0.1"),
        (v2(1, 0x11, "192.0.2.9"), "192.0.2.9"),
        (v2(1, 0x21, "2001:db8::9"), "2001:db8::9"),
        (v2(0, 0x11, "192.0.2.9"), "127.0.0.1"),
        (v2(0, 0, "192.0.2.9"), "127.0.0.1"),
    ],
)
async def test_proxy_tells_the_address(header: bytes, address: str) -> None:
    access = AccessSettings(
        proxies=LOOPBACK, networks=(ipaddress.ip_network("0.0.0.0/0"), ipaddress.ip_network("::/0"))
    )
    async with world(settings(PROXIED, access=access)) as it:
        client = await it.connect(greeted=False)
        await client.send(header + b"EHLO c\r\n")
        assert [reply.code for reply in await client.replies(2)] == [220, 250]
        await client.mail()
        await client.data(b"hi\r\n")
        assert it.store.messages[0].client.address == address


async def test_g6_access_goes_by_the_proxied_address() -> None:
    async with world(settings(PROXIED, access=AccessSettings(proxies=LOOPBACK))) as it:
        client = await it.connect(greeted=False)
        await client.send(b"PROXY TCP4 192.0.2.9 127.0.0.1 1234 25\r\nEHLO c\r\nMAIL FROM:<a@x.test>\r\n")
        assert [reply.code for reply in await client.replies(3)] == [220, 250, 550]


@pytest.mark.parametrize(
    "header",
    [
        b"EHLO client.example\r\n",
        b"PROXY\r\n",
        b"PROXY TCP4 1 2 3 4\r\n",
        b"PROXY TCP4 192.0.2.9 127.0.0.1 1 99999\r\n",
        b"PROXY TCP4 192.0.2.9 127.0.0.1 1234 25\n",
        b"\r\n\r\n\0\r\nQUIT\n\x31\x11\0\0",
        b"PRO",
        b"PROXY " + b"x" * 200 + CRLF,
    ],
)
async def test_malformed_proxy_header_is_dropped(header: bytes) -> None:
    limits = settings(PROXIED, access=AccessSettings(proxies=LOOPBACK), handshake_timeout=SHORT)
    async with world(limits) as it:
        client = await it.connect(greeted=False)
        await client.send(header)
        assert await client.closed() == b""


async def test_g6_only_a_proxy_may_say_proxy() -> None:
    async with world(settings(PROXIED, ListenerSettings(address="127.0.0.1:0"))) as it:
        client = await it.connect(greeted=False)
        await client.send(b"PROXY TCP4 127.0.0.1 127.0.0.1 1234 25\r\nEHLO c\r\n")
        assert await client.closed() == b""
        assert it.metric("ingress_connections_total", result="not-a-proxy") == 1
        ordinary = await it.connect(1)
        assert (await ordinary.say(b"PROXY TCP4 127.0.0.1 127.0.0.1 1234 25")).short == "500 5.5.1"


def test_proxy_and_implicit_tls_do_not_go_together() -> None:
    with pytest.raises(ValueError, match="proxy_protocol"):
        tls_listener(Path("x"), TlsMode.IMPLICIT, proxy_protocol=True)


async def stopping(it: World, grace: float = 5.0) -> "asyncio.Task[None]":
    task = asyncio.create_task(it.listeners.stop(timedelta(seconds=grace)))
    await asyncio.sleep(0)
    return task


@pytest.mark.rfc("5321-3.8-b", "code-r")
@pytest.mark.parametrize("said", [b"", b"EHLO c\r\n", b"EHLO c\r\nMAIL FROM:<a@x.test>\r\n", b"NOO"])
async def test_stop_says_421_to_idle_sessions(said: bytes) -> None:
    async with world() as it:
        client = await it.connect()
        await client.send(said)
        for _ in range(said.count(CRLF)):
            await client.reply()
        await it.listeners.stop(timedelta(seconds=5))
        assert await client.closed() == b"421 4.3.2 relay.example.com Service shutting down, closing connection\r\n"
        with pytest.raises(ConnectionRefusedError):
            await RawClient.connect(it.listeners.addresses[0] if it.listeners.addresses else ("127.0.0.1", 1))


async def test_stop_lets_a_commit_and_content_finish() -> None:
    async with world() as it:
        it.store.open_gate.clear()
        committing, sending = await it.ready(), await it.ready()
        for client in (committing, sending):
            await client.mail()
            await client.say(b"DATA")
        await committing.send(b"hi\r\n.\r\n")
        await sending.send(b"hi\r\n")
        await asyncio.wait_for(it.store.at_gate.wait(), 5)
        task = await stopping(it)
        it.store.open_gate.set()
        await sending.send(b"there\r\n.\r\n")
        for client in (committing, sending):
            assert [reply.short for reply in await client.replies(2)] == ["250 2.0.0", "421 4.3.2"]
        await asyncio.wait_for(task, 5)
        assert len(it.store.messages) == 2


async def test_stop_waits_no_longer_than_its_grace_for_content() -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(b"never ends\r\n")
        await it.until(lambda: it.listeners._shared.budget.used > 0)
        await asyncio.wait_for(it.listeners.stop(timedelta(seconds=0.1)), 5)
        assert it.listeners.session_count == 0
        assert not it.store.messages


async def test_commit_outlives_the_grace() -> None:
    async with world() as it:
        it.store.open_gate.clear()
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(b"hi\r\n.\r\n")
        await asyncio.wait_for(it.store.at_gate.wait(), 5)
        task = await stopping(it, grace=0.05)
        await client.closed()
        it.store.open_gate.set()
        await asyncio.wait_for(task, 5)
        assert len(it.store.messages) == 1


async def test_sockets_open_all_or_none() -> None:
    async with world() as it:
        host, port = it.listeners.addresses[0]
        other = World(settings(ListenerSettings(address="127.0.0.1:0"), ListenerSettings(address=f"{host}:{port}")))
        with pytest.raises(OSError, match="in use"):
            await other.listeners.start()
        assert other.listeners.addresses == ()


async def test_many_sessions_at_once() -> None:
    async def one(it: World, number: int) -> None:
        client = await it.ready()
        for _ in range(3):
            await client.mail(b"<r%d@x.test>" % number)
            assert (await client.data(b"Subject: %d\r\n\r\n" % number + b"x" * 5000 + CRLF)).code == 250
        assert (await client.say(b"QUIT")).code == 221

    async with world() as it:
        await asyncio.gather(*(one(it, number) for number in range(40)))
        assert len(it.store.messages) == 120
        for message in it.store.messages:
            subject = message.recipients[0].forward_path.removeprefix("r").removesuffix("@x.test")
            assert f"Subject: {subject}\r\n".encode() in message.content  # type: ignore[operator]
        await it.until(lambda: it.listeners._shared.connections.open == 0)


async def test_a_client_that_is_cut_off_amid_content_can_send_on_and_read_why() -> None:
    """What it sends while we wait for it to close is read and dropped; unread, it would become a reset."""
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        await client.mail()
        assert (await client.say(b"DATA")).code == 354
        async with asyncio.timeout(LIMIT / 3):
            await client.send(b"x" * 30_000_000)
        assert (await client.reply()).short == "552 5.3.4"
        client.close()
        await it.until(lambda: it.listeners._shared.connections.open == 0)
