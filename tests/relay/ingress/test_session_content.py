"""Sessions over a real socket: DATA and BDAT, the commit, and what goes wrong."""

import asyncio
from collections.abc import Sequence

import pytest
from ingress_world import CRLF, RawClient, World, body, settings, world
from test_ingress_framing import SMUGGLES

from relay.ingress.settings import BareNewlines
from relay.queue.message import Job, StoredContent
from relay.store.protocols import StoreError

MIB = 1024 * 1024
TEXT = b"Subject: x\r\n\r\nhi\r\n"


@pytest.mark.rfc("5321-4.4-a", "5321-4.4-b", "6152-3-a", "5321-3.6.3-r")
async def test_received_goes_on_top_and_nothing_else_changes() -> None:
    content = b"Return-Path: <x@y.test>\r\nReceived: from a by b; x\r\nSubject: \xc3\xbc\r\n\r\n\x80\xff\r\n"
    async with world() as it:
        message = await it.deliver(content)
        assert isinstance(message.content, bytes)
        head = message.content[: -len(content)]
        assert head.startswith(
            b"Received: from client.example ([127.0.0.1])\r\n\tby relay.example.com with ESMTP id id1"
        )
        assert head.endswith(b"+0000\r\n")
        assert message.content.endswith(content)


@pytest.mark.parametrize("blank", [b" ", b"\t"])
async def test_content_that_begins_with_a_blank_does_not_go_on_with_our_received(blank: bytes) -> None:
    """Folded onto the field it would be words of the client's in the relay's mouth, behind the date."""
    async with world() as it:
        content = blank + b"(forged)\r\nX: y\r\n"
        message = await it.deliver(content)
        assert isinstance(message.content, bytes)
        assert message.content.endswith(b" +0000\r\n\r\n" + content)


@pytest.mark.rfc("5321-4.5.2-a")
async def test_stuffed_dots_round_trip() -> None:
    async with world() as it:
        message = await it.deliver(b"..\r\n...\r\n..x\r\nx.\r\n")
        assert body(message) == b".\r\n..\r\n.x\r\nx.\r\n"


async def test_empty_message() -> None:
    async with world() as it:
        assert body(await it.deliver(b"")) == b""


@pytest.mark.rfc("5321-4.1.1.4-a", "smug-a")
@pytest.mark.parametrize("smuggle", SMUGGLES)
async def test_l8_smuggled_commands_stay_content(smuggle: bytes) -> None:
    inside = b"hi" + smuggle + b"MAIL FROM:<evil@x.test>\r\nRCPT TO:<v@x.test>\r\nDATA\r\nevil\r\n"
    async with world() as it:
        client = await it.ready()
        await client.mail()
        reply = await client.data(inside)
        assert reply.short == ("550 5.6.0" if b"\0" in smuggle else "250 2.0.0")
        assert (await client.say(b"NOOP")).code == 250, "nothing else was answered"
        assert len(it.store.messages) == (0 if b"\0" in smuggle else 1)
        for message in it.store.messages:
            assert b"evil" in body(message)
            rest = body(message).replace(CRLF, b"")
            assert b"\r" not in rest
            assert b"\n" not in rest


@pytest.mark.rfc("5321-2.3.8-c")
async def test_bare_line_ends_can_be_refused_instead() -> None:
    async with world(settings(bare_newlines=BareNewlines.REJECT)) as it:
        client = await it.ready()
        for content in (b"a\nb\r\n", b"a\rb\r\n", b"hi\n.\nMAIL FROM:<evil@x.test>\r\n"):
            await client.mail()
            assert (await client.data(content)).short == "550 5.6.11"
        await client.mail()
        assert (await client.data(TEXT)).short == "250 2.0.0"
        assert len(it.store.messages) == 1


@pytest.mark.rfc("5321-4.5.2-b", "5321-4.5.3.1.6-a", "5321-6.3-a", "code-f", "5321-4.2.5-a")
@pytest.mark.parametrize(
    ("content", "short"),
    [
        (b"a\0b\r\n", "550 5.6.0"),
        (b"l" * 100_000 + CRLF, "250 2.0.0"),
        (b"l" * 100_001 + CRLF, "550 5.6.0"),
        (b"Received: x\r\n" * 100 + CRLF, "250 2.0.0"),
        (b"Received: x\r\n" * 101 + CRLF, "554 5.4.6"),
    ],
)
async def test_what_is_refused_at_the_end_of_data(content: bytes, short: str) -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        assert (await client.data(content)).short == short
        await client.mail()
        assert (await client.data(TEXT)).short == "250 2.0.0"
        assert len(it.store.messages) == (2 if short.startswith("250") else 1)


@pytest.mark.rfc("1870-5-a", "1870-6.1-a", "1870-4-a", "1870-6-a", "code-i")
async def test_size_is_bounded_whatever_was_declared() -> None:
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        assert (await client.say(b"MAIL FROM:<a@x.test> SIZE=1001")).short == "552 5.3.4"
        for length, short in ((998, "250 2.0.0"), (999, "552 5.3.4"), (1900, "552 5.3.4")):
            await client.mail(sender=b"<a@x.test> SIZE=10")
            assert (await client.data(b".." + b"x" * (length - 1) + CRLF)).short == short
        await client.mail()
        await client.send(b"BDAT 600\r\n" + b"x" * 600 + b"BDAT 401 LAST\r\n" + b"x" * 401)
        assert [reply.short for reply in await client.replies(2)] == ["250 2.0.0", "552 5.3.4"]
        assert it.metric("ingress_messages_total", result="refused") == 4


async def test_endless_content_ends_the_session() -> None:
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(b"x" * 100_000)
        assert (await client.reply()).short == "552 5.3.4"
        assert await client.closed() == b""


@pytest.mark.rfc("3030-2-a", "3030-2-b", "3030-2-e")
async def test_bdat_takes_octets_as_they_are() -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT 8\r\n.\r\n..a\r\nbdat 0\r\nBDAT 3 last\r\n.\r\n")
        assert [reply.short for reply in await client.replies(3)] == ["250 2.0.0"] * 3
        assert body(it.store.messages[0]) == b".\r\n..a\r\n.\r\n"
        await client.mail()
        await client.send(b"BDAT 5\r\nhello")
        assert (await client.reply()).short == "250 2.0.0"
        assert (await client.say(b"BDAT 0 LAST")).short == "250 2.0.0"
        assert body(it.store.messages[1]) == b"hello\r\n"


@pytest.mark.rfc("5321-2.3.8-c")
async def test_bdat_normalises_across_chunks() -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT 2\r\na\rBDAT 2\r\n\nbBDAT 2\r\n\rcBDAT 1 LAST\r\n\n")
        assert {reply.short for reply in await client.replies(4)} == {"250 2.0.0"}
        assert body(it.store.messages[0]) == b"a\r\nb\r\nc\r\n"


@pytest.mark.rfc("3030-2-b", "3030-2-c")
async def test_after_a_failed_chunk_only_rset_helps() -> None:
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT 1001\r\n" + b"x" * 1001 + b"BDAT 4\r\nQUITBDAT 4 LAST\r\nQUIT")
        assert [reply.short for reply in await client.replies(3)] == ["552 5.3.4", "503 5.5.1", "503 5.5.1"]
        for line in (b"DATA", b"RCPT TO:<b@x.test>", b"MAIL FROM:<a@x.test>"):
            assert (await client.say(line)).short == "503 5.5.1"
        assert (await client.say(b"RSET")).short == "250 2.0.0"
        await client.mail()
        await client.send(b"BDAT 4 LAST\r\nhi\r\n")
        assert (await client.reply()).short == "250 2.0.0"
        await client.send(b"BDAT 4 LAST\r\nQUIT")
        assert (await client.reply()).short == "503 5.5.1", "LAST has ended the transaction"


@pytest.mark.rfc("3030-2-c")
async def test_data_and_bdat_do_not_mix() -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT 2\r\nhi")
        await client.reply()
        assert (await client.say(b"DATA")).short == "503 5.5.1"
        assert (await client.say(b"RCPT TO:<c@x.test>")).short == "503 5.5.1"
        await client.send(b"BDAT 2 LAST\r\n\r\n")
        assert (await client.reply()).short == "250 2.0.0"


@pytest.mark.parametrize(
    "argument",
    [
        b"",
        b" ",
        b" x",
        b" +5",
        b" -5",
        b" 5_0",
        b" 5 FIRST",
        b" 0x5",
        b" 5.0",
        b" 123456789012345678901",
        " ٥".encode(),
    ],
)
async def test_l12_bdat_without_a_size_ends_the_session_before_its_octets_are_read_as_commands(argument: bytes) -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT" + argument + b"\r\nRSET\r\n")
        assert (await client.reply()).short == "501 5.5.4"
        assert await client.closed() == b""


async def test_chunk_that_could_never_be_taken_ends_the_session() -> None:
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        await client.mail()
        await client.send(b"BDAT 99999999999999999999\r\n")
        assert (await client.reply()).short == "552 5.3.4"
        assert await client.closed() == b""


@pytest.mark.parametrize("chunked", [False, True])
async def test_large_content_streams_into_the_store(chunked: bool) -> None:
    content = b"Subject: large\r\nMessage-ID: <l@x>\r\n\r\n" + b"..line\r\n" * 400_000 + "ü\r\n".encode()
    async with world() as it:
        client = await it.ready()
        await client.mail()
        if chunked:
            half = len(content) // 2
            await client.send(b"BDAT %d\r\n" % half + content[:half])
            assert (await client.reply()).code == 250
            await client.send(b"BDAT %d LAST\r\n" % (len(content) - half) + content[half:])
            reply = await client.reply()
        else:
            reply = await client.data(content)
        assert reply.short == "250 2.0.0"
        message = it.store.messages[0]
        assert isinstance(message.content, StoredContent)
        assert (message.message_id, message.eight_bit, message.utf8_header) == ("<l@x>", True, False)
        stored = await it.store.whole(message.queue_id)
        assert stored.startswith(b"Received: ")
        assert stored.endswith(content if chunked else content.replace(b"\r\n..", b"\r\n."))
        assert it.listeners._shared.budget.used == 0


async def test_content_up_to_1_mib_stays_in_memory() -> None:
    async with world() as it:
        message = await it.deliver((b"x" * 62 + CRLF) * (MIB // 64))
        assert isinstance(message.content, bytes)
        assert it.store.uploads == 0


@pytest.mark.rfc("5321-4.1.1.10-b")
@pytest.mark.parametrize("large", [False, True])
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_vanishes_before_the_dot_leaves_nothing(large: bool, how: str) -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        await client.send(b"x\r\n" * (600_000 if large else 10))
        await it.until(lambda: it.listeners._shared.budget.used > 0)
        if large:
            await it.until(lambda: it.store.uploads == 1)
        getattr(client, how)()
        await it.until(lambda: it.listeners.session_count == 0)
        assert not it.store.messages
        assert it.store.nameless == 0
        assert it.listeners._shared.budget.used == 0


async def until_committing(it: World) -> RawClient:
    it.store.open_gate.clear()
    client = await it.ready()
    await client.mail()
    await client.say(b"DATA")
    await client.send(TEXT + b".\r\n")
    await asyncio.wait_for(it.store.at_gate.wait(), 10)
    return client


@pytest.mark.rfc("5321-6.1-d", "5321-4.1.1.10-b")
@pytest.mark.parametrize("how", ["close", "reset"])
async def test_client_that_hangs_up_during_the_commit_does_not_cancel_it(how: str) -> None:
    async with world() as it:
        it.leasable = frozenset({"remote.test"})
        client = await until_committing(it)
        getattr(client, how)()
        await client.closed()
        it.store.open_gate.set()
        await it.until(lambda: it.listeners.session_count == 0)
        assert len(it.store.messages) == 1
        assert [job.destination for job in it.dispatched] == ["remote.test"], "its job is not lost for the lease's time"


@pytest.mark.rfc("5321-6.1-d")
async def test_250_waits_for_the_commit() -> None:
    async with world() as it:
        client = await until_committing(it)
        await client.send(b"NOOP\r\n")
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.reader.read(1), 0.05)
        it.store.open_gate.set()
        assert [reply.short for reply in await client.replies(2)] == ["250 2.0.0", "250 2.0.0"]


async def test_half_closed_client_gets_its_replies() -> None:
    async with world() as it:
        client = await it.ready()
        await client.send(b"MAIL FROM:<a@x.test>\r\nRCPT TO:<b@x.test>\r\nDATA\r\nhi\r\n.\r\nQUIT\r\n")
        client.writer.write_eof()
        assert [reply.code for reply in await client.replies(5)] == [250, 250, 354, 250, 221]
        assert len(it.store.messages) == 1


@pytest.mark.rfc("5321-6.1-e")
async def test_leased_jobs_go_to_delivery_and_others_do_not() -> None:
    async with world() as it:
        it.leasable = frozenset({"one.test"})
        client = await it.ready()
        await client.mail(b"<a@one.test>", b"<b@two.test>", b"<c@one.test>")
        await client.data(TEXT)
        assert [(job.destination, len(job.recipients)) for job in it.dispatched] == [("one.test", 2)]
        assert it.dispatched[0].content == it.store.messages[0].content


async def test_delivery_that_fails_to_take_a_job_does_not_put_the_message_in_doubt() -> None:
    def broken(jobs: Sequence[Job]) -> None:
        raise RuntimeError("a fault of ours")

    async with world() as it:
        it.leasable = frozenset({"remote.test"})
        it.listeners._shared.dispatch = broken
        client = await it.ready()
        await client.mail()
        assert (await client.data(TEXT)).short == "250 2.0.0"
        assert len(it.store.messages) == 1


@pytest.mark.rfc("5321-4.2.5-a", "code-r")
@pytest.mark.parametrize("large", [False, True])
async def test_store_that_is_full_or_failing_is_a_4yz_and_nothing_is_kept(large: bool) -> None:
    content = b"x\r\n" * (600_000 if large else 1)
    async with world() as it:
        client = await it.ready()
        await client.mail()
        it.store.full = True
        assert (await client.data(content)).short == "452 4.3.1"
        it.store.full = False
        await client.mail()
        it.store.broken = StoreError("postgresql://relay:secret@db is gone")
        reply = await client.data(content)
        assert reply.short == "451 4.3.0"
        assert "secret" not in repr(reply)
        it.store.broken = None
        await client.mail()
        assert (await client.data(content)).short == "250 2.0.0"
        assert len(it.store.messages) == 1
        assert it.store.nameless == 0
        assert it.metric("ingress_messages_total", result="deferred") == 2
        assert it.metric("ingress_messages_total", result="accepted") == 1


async def test_upload_that_cannot_be_finished_is_a_451() -> None:
    async with world() as it:
        it.store.upload_error = StoreError("secret")
        client = await it.ready()
        await client.mail()
        assert (await client.data(b"x\r\n" * 600_000)).short == "451 4.3.0"
        assert it.store.nameless == 0
        assert it.listeners._shared.budget.used == 0


@pytest.mark.rfc("1870-6.1-a")
async def test_no_room_is_said_at_mail() -> None:
    async with world() as it:
        client = await it.ready()
        it.store.room = False
        assert (await client.say(b"MAIL FROM:<a@x.test> SIZE=1234")).short == "452 4.3.1"
        assert it.store.asked_for_room == [1234]


async def test_room_that_ends_amid_content_is_said_at_its_end() -> None:
    """Nobody has to say SIZE, and many messages can come at once."""
    async with world() as it:
        client = await it.ready()
        await client.mail()
        it.store.room = False
        assert (await client.data(b"x\r\n" * 600_000)).short == "452 4.3.1"
        assert it.store.nameless == 0
        assert it.listeners._shared.budget.used == 0


async def test_a_store_that_cannot_be_asked_for_room_is_no_fault_of_the_session(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async with world() as it:
        client = await it.ready()
        it.store.broken = StoreError("secret")
        reply = await client.say(b"MAIL FROM:<a@x.test>")
        assert reply.short == "451 4.3.0"
        assert "secret" not in repr(reply)
        assert it.metric("ingress_messages_total", result="deferred") == 1
        assert [record.message for record in caplog.records] == ["message.store_failed"]
        it.store.broken = None
        await client.mail()


async def test_content_counts_as_held_until_the_store_has_it() -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        it.store.append_gate.clear()
        await client.send(b"x\r\n" * 600_000 + b".\r\n")
        await it.until(lambda: it.store.uploads)
        await asyncio.sleep(0)
        assert it.listeners._shared.budget.used > MIB
        it.store.append_gate.set()
        assert (await client.reply()).short == "250 2.0.0"
        assert it.listeners._shared.budget.used == 0


@pytest.mark.parametrize(
    ("commands", "code"),
    [
        (b"BDAT 3\r\nx\0\nRSET\r\n", "550 5.6.0"),
        (b"BDAT 1001\r\n" + b"x" * 1001 + b"RSET\r\n", "552 5.3.4"),
        (b"BDAT 2001 LAST\r\n", "552 5.3.4"),
        (b"DATA\r\n" + b"x" * 2100, "552 5.3.4"),
    ],
)
async def test_every_refused_message_is_counted_and_logged_once(
    commands: bytes, code: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with world(settings(max_message_size=1000)) as it:
        client = await it.ready()
        await client.mail()
        await client.send(commands)
        reply = await client.reply()
        assert code in (reply.short, (await client.reply()).short if reply.code == 354 else "")
        assert it.metric("ingress_messages_total", result="refused") == 1
        assert [record.message for record in caplog.records] == ["message.refused"]


@pytest.mark.parametrize(
    "error", [RuntimeError("postgresql://relay:secret@db"), ConnectionRefusedError("secret"), KeyError("secret")]
)
async def test_l7_unexpected_failure_is_a_451_without_its_text(error: Exception) -> None:
    async with world() as it:
        client = await it.ready()
        await client.mail()
        it.store.unexpected = error
        reply = await client.data(TEXT)
        assert reply.short == "451 4.3.0"
        assert "secret" not in repr(reply)
        it.store.unexpected = None
        await client.mail()
        assert (await client.data(TEXT)).short == "250 2.0.0"


async def test_l7_unexpected_failure_amid_content_ends_the_session() -> None:
    """What follows could be taken for commands."""
    async with world() as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"DATA")
        it.store.broken = RuntimeError("secret")  # type: ignore[assignment]
        await client.send(b"x\r\n" * 600_000)
        reply = await client.reply()
        assert reply.short == "421 4.3.0"
        assert "secret" not in repr(reply)
        assert await client.closed() == b""
        it.store.broken = None


async def test_memory_of_all_sessions_together_is_bounded() -> None:
    async with world(settings(memory_budget=100_000)) as it:
        first, second = await it.ready(), await it.ready()
        for client in (first, second):
            await client.mail()
            await client.say(b"DATA")
        await first.send(b"x" * 79_998 + CRLF)
        await it.until(lambda: it.listeners._shared.budget.used >= 79_000)
        await second.send((b"x" * 998 + CRLF) * 30 + b".\r\n")
        assert (await second.reply()).short == "452 4.3.1"
        await first.send(b".\r\n")
        assert (await first.reply()).short == "250 2.0.0"
        assert it.listeners._shared.budget.used == 0
        await second.mail()
        assert (await second.data(TEXT)).short == "250 2.0.0"
