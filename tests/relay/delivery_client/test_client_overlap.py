"""Transactions that overlap: the end of one message and the envelope of the next in one group (RFC 2920 §3.1)."""

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from client_world import CONTENT, PATIENT, SOON, World, codes, greet, message, parcel, recipients, say, until, world

from policy.requirement import Level
from relay.delivery.seam import HostError, Parcel, SendResult
from relay.lab.gate import Gate
from relay.lab.mx_behaviour import (
    DROP,
    RESET,
    STANDARD_KEYWORDS,
    Answer,
    Moment,
    MxBehaviour,
    Script,
    Then,
    by_path,
    closing,
    limit_recipients,
    raw,
)
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase

SMALL = 1000
ENVELOPE = "250 ok\r\n250 ok\r\n354 go\r\n"
ONE_BY_ONE = ("8BITMIME", "SMTPUTF8", "DSN")
DAY = timedelta(days=1)

Host = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def send(at: World, what: Parcel | None = None) -> SendResult:
    """Send behind others where that is possible."""
    async with at.open(size=SMALL) as session:
        return await session.send(what or parcel())


def start(at: World, path: str = "someone@shop.test") -> "asyncio.Task[SendResult]":
    return asyncio.ensure_future(send(at, parcel(path)))


async def hear_envelope(reader: asyncio.StreamReader) -> None:
    while (line := await reader.readline()) != b"DATA\r\n":
        if line in (b"", b"QUIT\r\n"):
            raise ConnectionAbortedError


async def take_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer, "PIPELINING")
    await hear_envelope(reader)
    await say(writer, ENVELOPE)
    await reader.readuntil(b"\r\n.\r\n")
    await say(writer, "250 taken\r\n")


async def read_overlap(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Play the host on as far as to the end of a message with the next envelope, neither answered."""
    await hear_envelope(reader)
    await say(writer, ENVELOPE)
    await reader.readuntil(b"\r\n.\r\n")
    await hear_envelope(reader)


async def finish(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, messages: int = 1) -> None:
    """Play a good host for the content of a message, then for more messages, one after the other."""
    for number in range(messages):
        if number:
            await hear_envelope(reader)
            await say(writer, ENVELOPE)
        await reader.readuntil(b"\r\n.\r\n")
        await say(writer, "250 taken\r\n")
    await reader.readline()


def then_good(*odd: Host) -> Host:
    """One host after the other for each connection, and good ones when these have been."""
    rest = iter(odd)

    async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        while True:
            await hear_envelope(reader)
            await say(writer, ENVELOPE)
            await reader.readuntil(b"\r\n.\r\n")
            await say(writer, "250 taken\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(rest, good)(reader, writer)

    return serve


# What goes out together.


@pytest.mark.rfc("2920-3.1-b", "2920-3.1-c")
async def test_the_end_of_a_message_and_the_next_envelope_are_one_group() -> None:
    groups: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        groups.append(await reader.read(65536))
        await say(writer, ENVELOPE)
        for replies in ("250 a\r\n" + ENVELOPE, "250 b\r\n" + ENVELOPE, "250 c\r\n"):
            groups.append(await reader.read(65536))
            await say(writer, replies)
        await reader.readline()

    async with world(server=serve, connections=1) as at:
        await send(at)
        results = await asyncio.gather(*(start(at, f"{name}@shop.test") for name in "abc"))
        assert [str(result.replies[1]) for result in results] == ["250 a", "250 b", "250 c"]
    envelopes = [
        b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<%s@shop.test>\r\nDATA\r\n" % name for name in (b"a", b"b", b"c")
    ]
    end = CONTENT + b".\r\n"
    assert groups == [envelopes[0], end + envelopes[1], end + envelopes[2], end]


@pytest.mark.rfc("2920-3.1-b")
@pytest.mark.parametrize("level", Level)
async def test_many_messages_go_through_few_connections_in_order(level: Level) -> None:
    async with world() as at:

        async def deliver(number: int) -> None:
            async with at.open(level, size=SMALL) as session:
                assert codes(await session.send(parcel(f"r{number}@shop.test"))) == {1: 250}

        await asyncio.gather(*(deliver(number) for number in range(60)))
        paths = [letter.forward_paths for letter in at.host.messages]
        assert sorted(paths) == sorted((f"r{number}@shop.test",) for number in range(60))
        assert [letter.content for letter in at.host.messages] == [CONTENT] * 60
        assert at.host.violations == []
        assert len(at.host.sessions) <= 20
        assert sum(record.overlapped for record in at.host.sessions) > 0


async def test_one_that_comes_late_begins_while_the_reply_is_awaited() -> None:
    dot, begun = asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await hear_envelope(reader)
        await say(writer, ENVELOPE)
        await reader.readuntil(b"\r\n.\r\n")
        dot.set()
        await hear_envelope(reader)
        begun.set()
        await say(writer, "250 taken\r\n" + ENVELOPE)
        await finish(reader, writer)

    async with world(server=serve) as at:
        await send(at)
        one = start(at)
        await asyncio.wait_for(dot.wait(), 5)
        other = start(at)
        await asyncio.wait_for(begun.wait(), 5)
        assert codes(await one) == codes(await other) == {1: 250}


async def test_replies_in_small_pieces_are_dealt_out_all_the_same() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        for octet in b"250-a\r\n250 a\r\n" + ENVELOPE.encode():
            await say(writer, bytes([octet]))
            await asyncio.sleep(0)
        await finish(reader, writer)

    async with world(server=serve) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert (one.replies[1].lines, codes(other)) == (("a", "a"), {1: 250})


# When it is not done.


async def test_not_with_the_first_message_of_a_connection() -> None:
    early: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await hear_envelope(reader)
        await say(writer, ENVELOPE)
        await reader.readuntil(b"\r\n.\r\n")
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(SOON.total_seconds()):
                early.append(await reader.read(65536))
        await say(writer, "250 taken\r\n")
        await hear_envelope(reader)
        await say(writer, ENVELOPE)
        await finish(reader, writer)

    async with world(server=serve, connections=1) as at:
        assert [codes(result) for result in await asyncio.gather(start(at), start(at))] == [{1: 250}] * 2
        assert early == []


@pytest.mark.rfc("2920-3.1-a")
async def test_not_where_pipelining_is_not_offered() -> None:
    async with world(MxBehaviour(keywords=ONE_BY_ONE)) as at:
        await send(at)
        results = await asyncio.gather(*(start(at) for _ in range(10)))
        assert [codes(result) for result in results] == [{1: 250}] * 10
        assert at.host.violations == []
        assert all(record.overlapped == 0 for record in at.host.sessions)


@pytest.mark.rfc("9422-4.1-a")
@pytest.mark.parametrize(
    ("keywords", "bound"), [(STANDARD_KEYWORDS, 3), ((*STANDARD_KEYWORDS, "LIMITS MAILMAX=3"), 100)]
)
async def test_no_connection_carries_more_than_it_may(keywords: tuple[str, ...], bound: int) -> None:
    async with world(MxBehaviour(keywords=keywords), max_messages=bound) as at:
        await send(at)
        results = await asyncio.gather(*(start(at) for _ in range(20)))
        assert [codes(result) for result in results] == [{1: 250}] * 20
        assert max(record.verbs().count("MAIL") for record in at.host.sessions) == 3
        assert len(at.host.messages) == 21


async def test_nobody_waits_behind_a_large_message() -> None:
    gate = Gate()
    async with world(MxBehaviour(replies={Say.DATA: _gated("big", gate)})) as at:
        big = message(size=10**8)
        sending = asyncio.ensure_future(_send_big(at, parcel("big@shop.test", letter=big)))
        await gate.arrivals.wait_for(1)
        assert codes(await send(at)) == {1: 250}
        assert len(at.host.sessions) == 2
        gate.open()
        await sending


async def _send_big(at: World, what: Parcel) -> SendResult:
    async with at.open(size=what.message.size) as session:
        return await session.send(what)


def _gated(local_part: str, gate: Gate) -> Script:
    """Hold up the first transaction that follows; paths are not known at DATA."""
    held: list[str] = []

    def script(moment: Moment) -> Answer | None:
        if held or moment.phase is not Say.DATA:
            return None
        held.append(local_part)
        return Answer(gate=gate)

    return script


@pytest.mark.rfc("8461-4.2-i")
async def test_a9_only_what_has_the_same_requirement_shares_a_connection() -> None:
    gate = Gate()
    behaviour = MxBehaviour(replies={Say.END_OF_DATA: lambda m: Answer(gate=gate) if m.transactions else None})
    async with world(behaviour) as at:
        await send(at)
        plain = start(at)
        await gate.arrivals.wait_for(1)
        async with at.open(Level.VERIFIED, size=SMALL) as verified:
            assert codes(await verified.send(parcel())) == {1: 250}
        assert [record.verbs().count("MAIL") for record in at.host.sessions] == [2, 1]
        gate.open()
        await plain


async def test_what_is_too_many_comes_before_the_next_message() -> None:
    async with world(MxBehaviour(replies={Say.RCPT: limit_recipients(2)})) as at:
        await send(at)

        async def deliver(name: str) -> list[dict[int, int]]:
            people, rounds = recipients(*(f"{name}{number}@shop.test" for number in range(3))), []
            async with at.open(size=SMALL) as session:
                while people:
                    result = await session.send(Parcel(message=message(), recipients=people, content=CONTENT))
                    rounds.append(codes(result))
                    people = tuple(one for one in people if one.id in result.postponed)
            return rounds

        assert await asyncio.gather(*(deliver(name) for name in "abc")) == [[{1: 250, 2: 250}, {3: 250}]] * 3
        assert at.host.violations == []


# What is said to one says nothing about the other.


@pytest.mark.rfc("2920-3.1-c", "5321-4.1.1.4-c")
@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "554 5.6.0 Bad content"])
async def test_the_message_ahead_is_refused(reply: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, f"{reply}\r\n{ENVELOPE}")
        await finish(reader, writer)

    async with world(server=serve) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert codes(one) == {1: int(reply[:3])}
        assert codes(other) == {1: 250}
        assert (one.failure, other.failure) == (None, None)


@pytest.mark.parametrize("reply", ["550 5.7.1 Not you", "451 4.3.0 Later"])
async def test_the_message_behind_is_refused(reply: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, f"250 taken\r\n{reply}\r\n503 no\r\n503 no\r\n")
        await reader.readline()

    async with world(server=serve) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at), return_exceptions=True)
        assert isinstance(one, SendResult)
        assert codes(one) == {1: 250}
        if reply.startswith("5"):
            assert isinstance(other, SendResult)
            assert codes(other) == {1: 550}
        else:
            assert isinstance(other, HostError)
            assert (other.phase, other.failure.kind) == (Phase.MAIL, FailureKind.REPLY)


@pytest.mark.rfc("5321-3.8-c")
@pytest.mark.parametrize(
    "last", ["250 taken\r\n", "451 later\r\n", "421 4.3.2 Bye\r\n", "250 taken\r\n421 4.3.2 Bye\r\n"]
)
async def test_a_host_that_hangs_up_between_costs_the_one_behind_nothing(last: str) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, last)

    async with world(server=then_good(closes)) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert codes(one) == {1: int(last[:3])}
        assert (codes(other), other.failure) == ({1: 250}, None)


@pytest.mark.rfc("5321-3.8-c", "3464-4.3-a")
async def test_a_host_that_hangs_up_on_both_has_left_the_one_ahead_in_doubt() -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)

    async with world(server=then_good(closes)) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert (codes(one), one.phase) == ({}, Phase.END_OF_DATA)
        assert one.failure is not None
        assert "not known" in one.failure.detail
        assert (codes(other), other.failure) == ({1: 250}, None)


@pytest.mark.rfc("5321-4.2-a")
@pytest.mark.parametrize("odd", [b"gibberish\r\n", b"250 ok\n", b"250-a\r\n550 b\r\n", b"999 what\r\n"], ids=repr)
async def test_l2_odd_words_to_the_one_behind_take_nothing_from_the_one_ahead(odd: bytes) -> None:
    async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, b"250 taken\r\n" + odd)
        await reader.readline()

    async with world(server=then_good(babbles)) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert (codes(one), one.failure) == ({1: 250}, None)
        assert (codes(other), other.failure) == ({1: 250}, None)


@pytest.mark.rfc("5321-4.2-a")
async def test_l2_odd_words_to_the_one_ahead_cost_the_one_behind_nothing() -> None:
    async def babbles(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, "gibberish\r\n" + ENVELOPE)
        await reader.readline()

    async with world(server=then_good(babbles)) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert one.failure is not None
        assert one.failure.kind is FailureKind.PROTOCOL
        assert "not known" in one.failure.detail
        assert (codes(other), other.failure) == ({1: 250}, None)


# Hosts out of step.


@pytest.mark.rfc("2920-3.1-c", "5321-4.2-a")
@pytest.mark.parametrize(
    "said",
    [
        "250 taken\r\n250 and taken\r\n" + ENVELOPE,
        "250 taken\r\n" + ENVELOPE + "250 more\r\n",
        "250 taken\r\n2" + ENVELOPE + "2",
        ENVELOPE + "250 taken\r\n",
    ],
    ids=["two for one", "one too many", "unfinished", "in another order"],
)
async def test_l2_too_many_replies_or_others_than_those_owed(said: str) -> None:
    """Counting is all there is: whose reply it was is not known, so that the one behind is not believed delivered."""
    rounds = 0

    async def odd(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await say(writer, said)
        await reader.readline()

    async def careful(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """A host that takes notice of anything it is told too early."""
        nonlocal rounds
        await greet(reader, writer, "PIPELINING")
        while True:
            await hear_envelope(reader)
            await say(writer, ENVELOPE)
            assert (await reader.read(65536)).endswith(b"\r\n.\r\n"), "no envelope behind it"
            rounds += 1
            await say(writer, "250 taken\r\n")

    hosts = iter([odd])

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(hosts, careful)(reader, writer)

    async with world(server=serve) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at), return_exceptions=True)
        assert isinstance(one, SendResult)
        assert codes(one) == {1: 250}
        if isinstance(other, SendResult):
            assert codes(other) == {1: 250}
            assert rounds == 1
        else:
            assert isinstance(other, HostError)
            assert other.failure.kind is FailureKind.PROTOCOL
        before = rounds
        results = await asyncio.gather(*(start(at) for _ in range(12)))
        assert [codes(result) for result in results] == [{1: 250}] * 12
        assert rounds == before + 12


async def test_a_host_that_loses_what_it_is_told_early_gets_one_group_a_message_for_a_day() -> None:
    lost = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal lost
        await greet(reader, writer, "PIPELINING")
        while True:
            await hear_envelope(reader)
            await say(writer, ENVELOPE)
            lost += not (await reader.read(65536)).endswith(b".\r\n")
            await say(writer, "250 taken\r\n")

    async with world(server=serve, connections=1, timeouts=replace(PATIENT, mail=2 * SOON)) as at:
        await send(at)
        for number, day in ((1, DAY), (1, DAY), (2, DAY)):
            results = await asyncio.gather(*(start(at) for _ in range(4)))
            assert [(codes(result), result.failure) for result in results] == [({1: 250}, None)] * 4
            assert lost == number
            at.clock.move(day / 2)


async def test_e2_the_time_for_a_reply_begins_when_all_before_it_have_come() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await asyncio.sleep(4 * SOON.total_seconds())
        await say(writer, "250 taken\r\n")
        await asyncio.sleep(SOON.total_seconds())
        await say(writer, ENVELOPE)
        await finish(reader, writer)

    limits = replace(PATIENT, mail=2 * SOON, data_end=20 * SOON)
    async with world(server=serve, timeouts=limits) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert codes(one) == codes(other) == {1: 250}


async def test_e2_silence_to_the_one_ahead_costs_the_one_behind_nothing() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        await reader.readline()

    async with world(server=then_good(silent), timeouts=replace(PATIENT, data_end=2 * SOON)) as at:
        await send(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert one.failure is not None
        assert one.failure.kind is FailureKind.TIMEOUT
        assert (codes(other), other.failure) == ({1: 250}, None)


async def test_a_host_that_always_hangs_up_on_it_is_found_out() -> None:
    """It answers what it has, and takes the next envelope for an attack."""
    early = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal early
        await greet(reader, writer, "PIPELINING")
        while True:
            await hear_envelope(reader)
            await say(writer, ENVELOPE)
            octets = await reader.readuntil(b"\r\n.\r\n")
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(0.02):
                    octets += await reader.read(65536)
            await say(writer, "250 taken\r\n")
            if not octets.endswith(b"\r\n.\r\n"):
                early += 1
                return

    async with world(server=serve) as at:
        await send(at)
        results = await asyncio.gather(*(start(at) for _ in range(12)))
        assert [codes(result) for result in results] == [{1: 250}] * 12
        assert 1 <= early <= 5


# Cancelling, and leaving.


async def test_cancelling_the_one_behind_leaves_the_one_ahead_its_reply() -> None:
    begun, go_on = asyncio.Event(), asyncio.Event()
    left = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        begun.set()
        await go_on.wait()
        await say(writer, "250 taken\r\n")
        assert await reader.readline() == b"", "neither content nor QUIT"
        left.set()

    async with world(server=then_good(serve)) as at:
        await send(at)
        one, other = start(at), start(at)
        await asyncio.wait_for(begun.wait(), 5)
        other.cancel()
        await asyncio.gather(other, return_exceptions=True)
        third = start(at)
        go_on.set()
        assert codes(await one) == {1: 250}
        assert codes(await third) == {1: 250}
        await asyncio.wait_for(left.wait(), 5)
        assert other.cancelled()


async def test_cancelling_the_one_ahead_costs_the_one_behind_nothing() -> None:
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        begun.set()
        await reader.readline()

    async with world(server=then_good(serve)) as at:
        await send(at)
        one, other = start(at), start(at)
        await asyncio.wait_for(begun.wait(), 5)
        one.cancel()
        assert codes(await other) == {1: 250}
        with pytest.raises(asyncio.CancelledError):
            await one


async def test_cancelling_one_in_line_changes_nothing() -> None:
    gate = Gate()
    async with world(MxBehaviour(replies={Say.DATA: Answer(gate=gate)})) as at:
        one = start(at)
        await gate.arrivals.wait_for(1)
        waiting = start(at)
        await asyncio.sleep(0)
        waiting.cancel()
        await asyncio.gather(waiting, return_exceptions=True)
        gate.open()
        assert codes(await one) == {1: 250}
        assert codes(await send(at)) == {1: 250}
        assert len(at.host.sessions) == 1


async def test_only_the_one_whose_dot_is_out_is_committing() -> None:
    begun = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_one(reader, writer)
        await read_overlap(reader, writer)
        begun.set()
        await reader.readline()

    async with world(server=serve) as at:
        await send(at)
        async with at.open(size=SMALL) as ahead:
            one = asyncio.ensure_future(ahead.send(parcel()))
            async with at.open(size=SMALL) as behind:
                other = asyncio.ensure_future(behind.send(parcel()))
                await asyncio.wait_for(begun.wait(), 5)
                assert (ahead.committing, behind.committing) == (True, False)
                await at.pool.close()
                results = await asyncio.gather(one, other, return_exceptions=True)
        assert isinstance(results[0], SendResult)
        assert results[0].phase is Phase.END_OF_DATA
        assert isinstance(results[1], HostError)
        assert results[1].failure.kind is FailureKind.INTERNAL


async def test_one_that_cannot_use_the_host_leaves_its_place_to_the_next() -> None:
    gate = Gate()
    behaviour = MxBehaviour(
        keywords=("PIPELINING",),
        replies={Say.END_OF_DATA: lambda m: Answer(gate=gate) if m.transactions == 1 else None},
    )
    async with world(behaviour) as at:
        await send(at)
        one = start(at)
        await gate.arrivals.wait_for(1)
        with pytest.raises(HostError):
            await send(at, parcel(letter=message(eight_bit=True)))
        third = start(at)
        await asyncio.sleep(0)
        gate.open()
        assert codes(await one) == codes(await third) == {1: 250}
        assert len(at.host.sessions) == 1


@pytest.mark.parametrize("ends", [True, False])
async def test_content_that_breaks_leaves_the_one_ahead_alone(ends: bool) -> None:
    async def content() -> AsyncIterator[bytes]:
        yield b"A: b\r\n"
        if ends:
            raise ConnectionAbortedError("the store is gone")
        yield b"bare\n"

    async with world() as at:
        await send(at)
        results = await asyncio.gather(start(at), send(at, parcel(content=content)), start(at), return_exceptions=True)
        assert isinstance(results[1], Exception)
        assert not isinstance(results[1], HostError)
        assert [codes(result) for result in results[::2] if isinstance(result, SendResult)] == [{1: 250}] * 2
        assert len(at.host.messages) == 3


# All of it at once.


@pytest.mark.rfc("2920-3.1-c")
@pytest.mark.parametrize("seed", range(8))
async def test_no_message_is_lost_or_believed_delivered_wrongly_whatever_hosts_do(seed: int) -> None:
    """Hosts that refuse, hang up and babble at any point, for many messages over few connections."""
    chance = random.Random(seed)
    odd: list[str | Answer] = [
        "451 later", "550 no", "421 bye", closing("421 bye"), DROP, RESET, raw(b"gibberish\r\n"),
        raw(b"250 ok\r\n250 again\r\n", accepts=True), Answer(raw=b"25", then=Then.CLOSE),
    ]  # fmt: skip

    def script(moment: Moment) -> "str | Answer | None":
        answer = chance.choice(odd) if chance.random() < 0.04 else None
        # RFC 5321 §3.8: who says 421 closes. To anything else it refuses, so that only here it could go on.
        return closing("421 bye") if answer == "421 bye" and moment.phase is Say.RSET else answer

    phases = (Say.MAIL, Say.RCPT, Say.DATA, Say.END_OF_DATA, Say.RSET)
    async with world(MxBehaviour(replies=dict.fromkeys(phases, script)), max_messages=20) as at:

        async def deliver(number: int) -> SendResult | None:
            with contextlib.suppress(HostError):
                return await send(at, parcel(f"r{number}@shop.test"))
            return None

        async with asyncio.timeout(60):
            results = await asyncio.gather(*(deliver(number) for number in range(300)))
        taken = [letter.forward_paths[0] for letter in at.host.messages]
        for number, result in enumerate(results):
            copies = taken.count(f"r{number}@shop.test")
            if result is not None and codes(result).get(1, 0) == 250:
                assert copies == 1, number
            elif result is None or result.failure is None:
                assert copies == 0, (number, result)
            else:  # in doubt, once its dot was out
                assert copies == 0 or (copies == 1 and result.phase is Phase.END_OF_DATA), (number, result)
        assert sum(result is not None and codes(result) == {1: 250} for result in results) > 100
        await until(lambda: at.metric("pool_open_connections") <= 20)


async def test_the_other_host_is_none_the_worse() -> None:
    """What is remembered of a host is remembered of that one alone."""
    replies = by_path({"odd": raw(b"gibberish\r\n")})
    async with world(MxBehaviour(replies={Say.RCPT: replies})) as at:
        await send(at)
        assert (await at.fail(parcel("odd@shop.test"))).failure.kind is FailureKind.PROTOCOL
        await asyncio.gather(*(start(at) for _ in range(40)))
        assert sum(record.overlapped for record in at.host.sessions) > 0, "it was alone on its connection"
