"""Sessions over a real socket: what is worked on in the read itself, what waits, and in which order replies come."""

import asyncio
from datetime import timedelta

import pytest
from ingress_world import CRLF, LIMIT, RawClient, World, body, settings, world

from relay.ingress.connection import Connection
from relay.ingress.input import READ_AHEAD
from relay.ingress.settings import AccessSettings, ListenerSettings
from relay.store.protocols import StoreError

TEXT = b"Subject: x\r\n\r\nhi\r\n"
ENVELOPE = b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@remote.test>\r\n"
LARGE = b"x" * 62 + CRLF


def only_session(it: World) -> Connection:
    (session,) = it.listeners._sessions
    return session


async def codes(client: RawClient, count: int) -> list[int]:
    return [reply.code for reply in await client.replies(count)]


@pytest.mark.rfc("2920-3.2-a")
async def test_messages_in_one_segment_are_answered_one_after_the_other() -> None:
    group = b"".join(
        ENVELOPE + transfer
        for number in range(20)
        for transfer in (
            b"DATA\r\nSubject: %d\r\n\r\n.\r\n" % number,
            b"BDAT 4\r\nX: yBDAT 4 LAST\r\n\r\n\r\n",
        )
    )
    async with world() as it:
        client = await it.ready()
        await client.send(group + b"QUIT\r\n")
        assert await codes(client, 20 * 8 + 1) == [250, 250, 354, 250, 250, 250, 250, 250] * 20 + [221]
        contents = [body(message) for message in it.store.messages]
        assert contents[::2] == [b"Subject: %d\r\n\r\n" % number for number in range(20)]
        assert set(contents[1::2]) == {b"X: y\r\n\r\n"}


async def test_an_idle_session_holds_no_task() -> None:
    async with world() as it:
        before = asyncio.all_tasks()
        client = await it.ready()
        await client.mail()
        assert (await client.say(b"DATA")).code == 354
        await client.send(b"half of it")
        await it.until(lambda: it.listeners._shared.budget.used > 0)
        assert asyncio.all_tasks() == before


async def test_a_group_is_answered_with_one_write() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(ENVELOPE + b"DATA\r\n")
        answer = await asyncio.wait_for(client.reader.read(1000), LIMIT)
        assert answer.count(CRLF) == 3
        await client.send(TEXT + b".\r\n" + ENVELOPE + b"BDAT 2 LAST\r\n" + CRLF)
        assert await codes(client, 4) == [250] * 4


@pytest.mark.parametrize("following", [b"NOOP\r\n", ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n"])
async def test_what_arrives_during_a_commit_waits_for_it(following: bytes) -> None:
    async with world() as it:
        client = await it.ready()
        it.store.open_gate.clear()
        await client.send(ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n")
        await asyncio.wait_for(it.store.at_gate.wait(), LIMIT)
        await client.send(following)
        session = only_session(it)
        await it.until(lambda: len(session.input) == len(following))
        assert session.in_transaction  # type: ignore[attr-defined]
        it.store.open_gate.set()
        assert await codes(client, 4) == [250, 250, 354, 250]
        assert await codes(client, 1) == [250]


async def test_input_that_has_to_wait_is_bounded() -> None:
    """A client that sends on during a commit is read no further than READ_AHEAD and one read more."""
    commands = b"RSET x\r\n" * 40
    async with world() as it:
        client = await it.ready()
        it.store.open_gate.clear()
        await client.send(ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n")
        await asyncio.wait_for(it.store.at_gate.wait(), LIMIT)
        session = only_session(it)
        client.writer.write(b"x" * 900_000 + CRLF + commands)
        await it.until(lambda: len(session.input) > READ_AHEAD)
        for _ in range(20):
            await asyncio.sleep(0)
        assert len(session.input) <= 2 * READ_AHEAD
        it.store.open_gate.set()
        assert await codes(client, 4 + 1 + 40) == [250, 250, 354, 250, 500] + [501] * 40
        assert len(session.input) == 0


async def test_client_that_is_gone_has_its_pipelined_messages_committed_still() -> None:
    async with world() as it:
        client = await it.ready()
        it.store.open_gate.clear()
        message = ENVELOPE + b"DATA\r\n" + TEXT + b".\r\n"
        await client.send(message + message + ENVELOPE + b"DATA\r\n" + TEXT)
        await asyncio.wait_for(it.store.at_gate.wait(), LIMIT)
        client.close()
        it.store.open_gate.set()
        await it.until(lambda: it.listeners.session_count == 0)
        assert len(it.store.messages) == 2
        assert it.listeners._shared.budget.used == 0
        assert it.listeners._shared.connections.open == 0


@pytest.mark.parametrize("ending", [b"RSET\r\n", b"EHLO again\r\n"])
async def test_commands_behind_an_upload_that_is_given_up_wait_for_its_end(ending: bytes) -> None:
    large = LARGE * 20_000
    async with world() as it:
        client = await it.ready()
        await client.send(ENVELOPE + b"BDAT %d\r\n" % len(large) + large + b"BDAT 1\r\n\n")
        assert await codes(client, 4) == [250] * 4
        await client.send(ending + ENVELOPE + b"BDAT 2 LAST\r\n" + CRLF)
        assert await codes(client, 4) == [250] * 4
        assert it.store.uploads == 1
        assert it.store.discarded == 1
        assert it.listeners._shared.budget.used == 0


@pytest.mark.parametrize("how", ["close", "reset"])
async def test_upload_under_way_is_discarded_when_the_client_is_gone(how: str) -> None:
    async with world() as it:
        it.store.append_gate.clear()
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(LARGE * 18_000)
        await it.until(lambda: it.store.uploads == 1)
        getattr(client, how)()
        await client.closed()
        assert it.listeners.session_count == 1, "it ends when what is under way has ended"
        it.store.append_gate.set()
        await it.until(lambda: it.listeners.session_count == 0)
        assert it.store.discarded == 1
        assert it.listeners._shared.budget.used == 0


async def test_store_is_asked_for_room_once_a_second_unless_for_more() -> None:
    async with world() as it:
        client = await it.ready()
        for size in (500, 100, 500, 501, 0):
            assert (await client.say(b"MAIL FROM:<a@x.test> SIZE=%d" % size)).code == 250
            assert (await client.say(b"RSET")).code == 250
        assert it.store.asked_for_room == [500, 501]
        it.clock.move(timedelta(seconds=1))
        await client.mail()
        assert it.store.asked_for_room == [500, 501, 0]


async def test_that_there_is_no_room_is_asked_each_time() -> None:
    async with world() as it:
        client = await it.ready()
        it.store.room = False
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "452 4.3.1"
        it.store.broken = StoreError("gone")
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "451 4.3.0"
        it.store.broken, it.store.room = None, True
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "250 2.1.0"


async def test_fault_of_ours_in_bdat_does_not_make_commands_of_its_chunk() -> None:
    def broken() -> str:
        raise RuntimeError("a fault of ours")

    async with world() as it:
        client = await it.ready()
        await client.mail()
        it.listeners._shared.new_id = broken
        await client.send(b"BDAT 6 LAST\r\nRSET\r\n")
        assert (await client.reply()).short == "421 4.3.0"
        assert await client.closed() == b""


async def test_fault_of_ours_in_data_is_no_invitation_to_send_content() -> None:
    def broken() -> str:
        raise RuntimeError("a fault of ours")

    async with world() as it:
        client = await it.ready()
        await client.mail()
        new_id, it.listeners._shared.new_id = it.listeners._shared.new_id, broken
        assert (await client.say(b"DATA")).short == "451 4.3.0"
        it.listeners._shared.new_id = new_id
        await client.mail()
        assert (await client.data(TEXT)).code == 250


@pytest.mark.parametrize("sent", [b"PRO", b"\r\n\r\n\0\r\nQUIT\n\x21"])
async def test_proxy_that_hangs_up_within_its_header_is_not_waited_for(sent: bytes) -> None:
    proxied = ListenerSettings(address="127.0.0.1:0", proxy_protocol=True)
    access = AccessSettings(proxies=AccessSettings().networks)
    async with world(settings(proxied, access=access, handshake_timeout=timedelta(minutes=5))) as it:
        for how in ("close", "reset"):
            client = await it.connect(greeted=False)
            await client.send(sent)
            await it.until(lambda: it.listeners.session_count == 1)
            getattr(client, how)()
            await it.until(lambda: it.listeners.session_count == 0)
            assert it.listeners._shared.connections.open == 0
