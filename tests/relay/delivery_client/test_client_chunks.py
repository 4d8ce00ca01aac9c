"""Content in one flight with its envelope, as the one chunk of a BDAT (RFC 3030), and when it is not sent like that."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta

import pytest
from client_world import (
    CONTENT,
    LONG,
    PATIENT,
    SOON,
    World,
    codes,
    greet,
    message,
    parcel,
    recipients,
    say,
    until,
    world,
)

from policy.requirement import Level
from relay.delivery.dot_stuffing import BareNewlineError
from relay.delivery.seam import BLOCK, HostError, Parcel, SendResult
from relay.lab.gate import Gate
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    RESET,
    STANDARD_KEYWORDS,
    Answer,
    MxBehaviour,
    Script,
    by_path,
    closing,
    limit_recipients,
    only_first,
    raw,
    resolve,
)
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase
from relay.queue.message import Envelope

SMALL = 1000
DAY = timedelta(days=1)
TRIAL = b"BDAT 3 LAST\r\nX\r\nRSET\r\n"
OFFERS = ("PIPELINING", "CHUNKING")

Host = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


async def send(at: World, what: Parcel | None = None, level: Level = Level.OPPORTUNISTIC) -> SendResult:
    """Send behind others where that is possible."""
    async with at.open(level, size=SMALL) as session:
        return await session.send(what or parcel())


def start(at: World, path: str = "someone@shop.test") -> "asyncio.Task[SendResult]":
    return asyncio.ensure_future(send(at, parcel(path)))


async def prove(at: World) -> None:
    """Two messages, the second with content ahead of it that the host has to skip."""
    for _ in range(2):
        assert codes(await send(at)) == {1: 250}


def ways(at: World) -> list[bool]:
    """Whether the messages came by BDAT."""
    return [letter.by_bdat for letter in at.host.messages]


def behaves(**replies: Script) -> MxBehaviour:
    return MxBehaviour(replies={Say[name]: script for name, script in replies.items()})


# What goes out together.


@pytest.mark.rfc("3030-2-e", "2920-3.1-b")
async def test_e12_the_host_is_tried_once_and_then_gets_each_message_in_one_group() -> None:
    groups: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, *OFFERS)
        envelope, taken = "250 ok\r\n250 ok\r\n354 go\r\n", "250 taken\r\n"
        skipped = "503 no\r\n250 forgotten\r\n"
        for replies in (envelope, taken, skipped + envelope, taken, "250 ok\r\n250 ok\r\n250 taken\r\n"):
            groups.append(await reader.read(65536))
            await say(writer, replies)
        await reader.read()

    content = b"A: b\r\n\r\n.\r\n..x"
    async with world(server=serve, connections=1) as at:
        for _ in range(3):
            assert codes(await send(at, parcel(content=content))) == {1: 250}
    envelope = b"MAIL FROM:<sender@example.com>\r\nRCPT TO:<someone@shop.test>\r\n"
    stuffed = b"A: b\r\n\r\n..\r\n...x\r\n.\r\n"
    assert groups[:2] == [envelope + b"DATA\r\n", stuffed]
    assert groups[2:4] == [TRIAL + envelope + b"DATA\r\n", stuffed]
    assert groups[4] == envelope + b"BDAT 16 LAST\r\n" + content + b"\r\n"


@pytest.mark.parametrize("level", Level)
async def test_content_arrives_as_it_was_behind_others(level: Level) -> None:
    async with world() as at:
        contents = [b"A: %d\r\n\r\n.\r\n..\r\n.x\r\n" % number + b"y" * 70 * number for number in range(60)]
        await send(at, level=level)
        await asyncio.gather(*(send(at, parcel(content=content), level) for content in contents))
        taken = at.host.messages[1:]
        assert sorted(letter.content for letter in taken) == sorted(
            content if content.endswith(b"\n") else content + b"\r\n" for content in contents
        )
        assert sum(letter.by_bdat for letter in taken) > 30
        assert sum(record.overlapped for record in at.host.sessions) > 0
        assert at.host.violations == []


async def test_rset_goes_between_a_message_and_the_one_behind_it() -> None:
    gate = Gate()
    behaviour = behaves(END_OF_DATA=lambda moment: Answer(gate=gate) if moment.transactions == 2 else None)
    async with world(behaviour, connections=1) as at:
        await prove(at)
        (record,) = at.host.sessions
        one, two, three = (start(at, f"{name}@shop.test") for name in "abc")
        await gate.arrivals.wait_for(1)
        gate.open()
        assert [codes(result) for result in await asyncio.gather(one, two, three)] == [{1: 250}] * 3
        assert record.verbs()[-10:] == ["MAIL", "RCPT", "BDAT", "RSET", "MAIL", "RCPT", "BDAT", "MAIL", "RCPT", "BDAT"]


async def test_who_is_third_waits_until_the_first_is_answered() -> None:
    heard = asyncio.Queue[bytes]()
    answers = asyncio.Queue[str]()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)

        async def hear() -> None:
            while line := await reader.readline():
                if line.startswith(b"RCPT"):
                    heard.put_nowait(line)

        hearing = asyncio.ensure_future(hear())
        while answer := await answers.get():
            await say(writer, answer)
        hearing.cancel()

    async with world(server=serve, connections=1) as at, asyncio.timeout(10):
        await prove(at)
        sending = [start(at, f"{name}@shop.test") for name in "abc"]
        assert [await heard.get(), await heard.get()] == [b"RCPT TO:<a@shop.test>\r\n", b"RCPT TO:<b@shop.test>\r\n"]
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(heard.get(), SOON.total_seconds())
        answers.put_nowait("250 ok\r\n250 ok\r\n250 taken\r\n250 forgotten\r\n250 ok\r\n")
        assert await heard.get() == b"RCPT TO:<c@shop.test>\r\n"
        answers.put_nowait("250 ok\r\n250 taken\r\n250 forgotten\r\n250 ok\r\n250 ok\r\n250 taken\r\n")
        assert [codes(result) for result in await asyncio.gather(*sending)] == [{1: 250}] * 3
        answers.put_nowait("")


async def take_and_skip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """Play a good host for two messages by DATA, and for the chunk that it has to skip."""
    await greet(reader, writer, *OFFERS)
    for ahead in ("", "503 no\r\n250 forgotten\r\n"):
        await reader.readuntil(b"DATA\r\n")
        await say(writer, ahead + "250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        await say(writer, "250 taken\r\n")


async def read_chunk(reader: asyncio.StreamReader) -> None:
    """Read an envelope and its content, and answer nothing."""
    while not (line := await reader.readuntil(b"\r\n")).startswith(b"BDAT"):
        pass
    await reader.readexactly(int(line.split()[1]))


# Who is tried, and how often.


async def test_each_host_is_tried_once_a_day_over_all_its_connections() -> None:
    async with world() as at:

        def trials() -> int:
            return sum(record.verbs().count("BDAT") for record in at.host.sessions) - sum(ways(at))

        for day in range(3):
            at.clock.move(day * DAY)
            for _ in range(3):
                await asyncio.gather(*(at.send() for _ in range(10)))
            assert trials() == day + 1
        assert sum(ways(at)) > 30
        assert at.host.violations == []


async def test_a_host_that_has_shown_it_gets_the_first_message_of_a_connection_like_that() -> None:
    async with world(max_messages=2) as at:
        await prove(at)
        await send(at)
        assert len(at.host.sessions) == 2
        assert ways(at) == [False, False, True]
        assert at.host.sessions[1].verbs()[-3:] == ["MAIL", "RCPT", "BDAT"]


@pytest.mark.rfc("2920-3.1-a")
@pytest.mark.parametrize("lacks", ["CHUNKING", "PIPELINING"])
async def test_not_where_it_is_not_offered(lacks: str) -> None:
    keywords = tuple(keyword for keyword in STANDARD_KEYWORDS if keyword != lacks)
    async with world(MxBehaviour(keywords=keywords)) as at:
        for _ in range(4):
            await send(at)
        assert ways(at) == [False] * 4
        assert "BDAT" not in at.host.sessions[0].verbs()


@pytest.mark.parametrize(("size", "by_bdat"), [(BLOCK, True), (BLOCK + 1, False), (LONG, False)])
async def test_only_a_small_content_is_sent_before_anybody_wants_it(size: int, by_bdat: bool) -> None:
    async with world() as at:
        await prove(at)
        await send(at, parcel(content=b"x" * (size - 2) + b"\r\n"))
        assert ways(at)[-1] is by_bdat


async def test_content_that_is_read_from_the_disk_goes_by_data() -> None:
    async def content() -> AsyncIterator[bytes]:
        yield CONTENT

    async with world() as at:
        await prove(at)
        await send(at, parcel(content=content))
        assert ways(at) == [False] * 3


async def test_nothing_bare_is_sent() -> None:
    async with world() as at:
        await prove(at)
        with pytest.raises(BareNewlineError):
            await send(at, parcel(content=b"A: b\r\n\r\nbare\n"))
        assert len(at.host.messages) == 2
        assert codes(await send(at)) == {1: 250}


# Hosts that do not do as RFC 3030 says.


def odd_host(answer: str, *, reads_it: bool) -> tuple[Host, list[bytes]]:
    """A host that answers the chunk so, and may then take what it should have skipped for commands.

    Return it, and the commands that it has carried out.
    """
    done: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, *OFFERS)
        while line := await reader.readline():
            done.append(line)
            match line[:4]:
                case b"BDAT":
                    if not reads_it:
                        await reader.readexactly(int(line.split()[1]))
                    await say(writer, answer)
                    if answer in ("", "421 bye\r\n"):
                        return
                case b"DATA":
                    await say(writer, "354 go\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
                    await say(writer, "250 taken\r\n")
                case b"MAIL" | b"RCPT" | b"RSET":
                    await say(writer, "250 ok\r\n")
                case _:
                    await say(writer, "500 what\r\n")

    return serve, done


@pytest.mark.parametrize(
    ("answer", "reads_it"),
    [
        ("503 no\r\n", True),
        ("500 what\r\n", True),
        ("250 ok\r\n", True),
        ("250 ok\r\n", False),
        ("354 go\r\n", False),
        ("503 no\r\n250 ok\r\n", False),
        ("503 no\r\n503 no\r\n", False),
        ("gibberish\r\n", False),
        ("421 bye\r\n", False),
        ("", False),
    ],
)
async def test_a_host_that_does_not_just_skip_is_never_sent_a_message_like_that(answer: str, reads_it: bool) -> None:
    serve, done = odd_host(answer, reads_it=reads_it)
    async with world(server=serve) as at:
        for _ in range(3):
            for _ in range(4):
                result = await send(at)
                assert (codes(result), result.failure) == ({1: 250}, None), "it has cost no message anything"
            at.clock.move(DAY / 4)
        trials = [command for command in done if command.startswith(b"BDAT")]
        assert trials == [b"BDAT 3 LAST\r\n"]
        at.clock.move(DAY)
        await send(at)
        await send(at)
        assert len([command for command in done if command.startswith(b"BDAT")]) == 2


async def test_what_somebody_else_wrote_is_never_taken_for_commands() -> None:
    """A host that reads what it refuses, and mail whose recipient it refuses."""
    serve, done = odd_host("503 no\r\n", reads_it=True)
    attack = b"NOOP\r\nMAIL FROM:<evil@example.com>\r\nRCPT TO:<victim@shop.test>\r\n"
    async with world(server=serve) as at:
        for _ in range(6):
            await send(at, parcel(content=attack))
        assert [line for line in done if b"evil" in line] == []


async def test_silence_about_the_chunk_costs_no_message_anything() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, *OFFERS)
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        await say(writer, "250 taken\r\n")
        await reader.read()

    async with world(server=silent, timeouts=replace(PATIENT, mail=SOON)) as at:
        for _ in range(2):
            assert codes(await send(at)) == {1: 250}


# Refusals: what they decide, and that nothing of them stays for the next message.

ODD = "odd@example.com"


def odd(*paths: str, content: bytes = CONTENT) -> Parcel:
    """A message for which the host has replies of its own."""
    letter = message(envelope=Envelope(reverse_path=ODD), size=len(content))
    return parcel(*(paths or ("a@shop.test", "b@shop.test")), content=content, letter=letter)


def odd_replies(**replies: Script) -> MxBehaviour:
    def only_odd(script: Script) -> Script:
        return lambda moment: resolve(script, moment) if moment.reverse_path == ODD else None

    return behaves(**{name: only_odd(script) for name, script in replies.items()})


REFUSALS: list[tuple[dict[str, Script], dict[int, int], Phase]] = [
    ({"MAIL": "550 5.7.1 Not you"}, {1: 550, 2: 550}, Phase.MAIL),
    ({"RCPT": "550 5.1.1 No"}, {1: 550, 2: 550}, Phase.RCPT),
    ({"RCPT": by_path({"a": "550 5.1.1 No", "b": "451 4.2.1 Later"})}, {1: 550, 2: 451}, Phase.RCPT),
    ({"RCPT": by_path({"a": "550 5.1.1 No"})}, {1: 550, 2: 250}, Phase.END_OF_DATA),
    ({"END_OF_DATA": "550 5.6.0 Bad content"}, {1: 550, 2: 550}, Phase.END_OF_DATA),
    ({"END_OF_DATA": "451 4.3.0 Later"}, {1: 451, 2: 451}, Phase.END_OF_DATA),
    ({"END_OF_DATA": "421 4.3.0 Later"}, {1: 421, 2: 421}, Phase.END_OF_DATA),
    ({"RCPT": by_path({"a": "451 4.2.1 Later"}), "END_OF_DATA": "552 5.2.2 Full"}, {1: 451, 2: 552}, Phase.END_OF_DATA),
]
EACH_REFUSAL = pytest.mark.parametrize(("replies", "expected", "phase"), REFUSALS, ids=[str(r[1:]) for r in REFUSALS])


@pytest.mark.rfc("3030-2-d", "3030-2-b", "5321-4.1.1.4-c")
@EACH_REFUSAL
async def test_each_reply_decides_as_it_does_with_data(
    replies: dict[str, Script], expected: dict[int, int], phase: Phase
) -> None:
    async with world(odd_replies(**replies)) as at:
        await prove(at)
        for _ in range(2):
            result = await send(at, odd())
            assert (codes(result), result.phase, result.failure) == (expected, phase, None)
        assert codes(await send(at)) == {1: 250}
        assert ways(at)[2:] == [True] * (len(at.host.messages) - 2)
        assert sum(session.verbs().count("DATA") for session in at.host.sessions) == 2
        assert at.host.violations == []


@pytest.mark.rfc("3030-2-d", "2920-3.1-c")
@EACH_REFUSAL
async def test_what_is_said_to_the_one_ahead_takes_nothing_from_the_one_behind(
    replies: dict[str, Script], expected: dict[int, int], phase: Phase
) -> None:
    async with world(odd_replies(**replies), connections=1) as at:
        await prove(at)
        one, other, third = await asyncio.gather(send(at, odd()), send(at), send(at, odd()))
        for result in (one, third):
            assert (codes(result), result.phase, result.failure) == (expected, phase, None)
        assert (codes(other), other.failure) == ({1: 250}, None)
        assert at.host.violations == []


async def test_a_host_that_puts_the_message_off_is_told_so_once() -> None:
    async with world(odd_replies(MAIL="451 4.3.0 Later")) as at:
        await prove(at)
        one, other = await asyncio.gather(send(at, odd()), send(at), return_exceptions=True)
        assert isinstance(one, HostError)
        assert (one.phase, one.failure.kind) == (Phase.MAIL, FailureKind.REPLY)
        assert isinstance(other, SendResult)
        assert codes(other) == {1: 250}
        assert len(at.host.messages) == 3


async def test_too_many_recipients_go_in_the_next_transaction() -> None:
    async with world(behaves(RCPT=limit_recipients(2))) as at:
        await prove(at)

        async def deliver(name: str) -> list[dict[int, int]]:
            people, rounds = recipients(*(f"{name}{number}@shop.test" for number in range(3))), []
            async with at.open(size=SMALL) as session:
                while people:
                    result = await session.send(Parcel(message=message(), recipients=people, content=CONTENT))
                    rounds.append(codes(result))
                    people = tuple(one for one in people if one.id in result.postponed)
            return rounds

        assert await asyncio.gather(*(deliver(name) for name in "abc")) == [[{1: 250, 2: 250}, {3: 250}]] * 3
        assert ways(at)[2:] == [True] * 6
        assert at.host.violations == []


# Where it ends before there is a reply.


@pytest.mark.rfc("5321-3.8-c", "3464-4.3-a")
@pytest.mark.parametrize("ends", [DROP, RESET, raw(b"gibberish\r\n"), raw(b"250 ok\n"), raw(b"354 go\r\n")], ids=repr)
@pytest.mark.parametrize("phase", ["RCPT", "END_OF_DATA"])
async def test_without_a_reply_to_all_of_it_nobody_knows_whether_the_host_keeps_it(phase: str, ends: Answer) -> None:
    async with world(odd_replies(**{phase: ends})) as at:
        await prove(at)
        result = await send(at, odd())
        assert (codes(result), result.phase) == ({}, Phase.END_OF_DATA)
        assert result.failure is not None
        assert "not known" in result.failure.detail
        assert codes(await send(at)) == {1: 250}


@pytest.mark.rfc("5321-3.8-c")
@pytest.mark.parametrize("ends", [DROP, RESET, closing("421 4.3.2 Bye")], ids=repr)
async def test_a_host_that_hangs_up_on_mail_has_not_taken_it(ends: Answer) -> None:
    async with world(odd_replies(MAIL=ends), max_messages=2) as at:
        await prove(at)
        with pytest.raises(HostError) as caught:
            await send(at, odd())  # on a fresh connection
        assert caught.value.phase is Phase.MAIL
        assert len(at.host.sessions) == 2


@pytest.mark.parametrize("phase", ["MAIL", "RCPT"])
async def test_what_a_host_answers_with_421_it_has_not_taken(phase: str) -> None:
    async with world(odd_replies(**{phase: closing("421 4.3.2 Bye")}), max_messages=2) as at:
        await prove(at)
        with pytest.raises(HostError) as caught:
            await send(at, odd())
        assert caught.value.failure.reply is not None
        assert "not known" not in caught.value.failure.detail


@pytest.mark.rfc("5321-3.8-c")
@pytest.mark.parametrize("last", ["250 taken\r\n", "451 later\r\n", "421 4.3.2 Bye\r\n", "250 taken\r\n421 Bye\r\n"])
async def test_a_host_that_hangs_up_between_costs_the_one_behind_nothing(last: str) -> None:
    async def closes(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)
        await read_chunk(reader)
        await read_chunk(reader)
        await say(writer, "250 ok\r\n250 ok\r\n" + last)

    async with world(server=closes_then_good(closes), connections=1) as at:
        await prove(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert codes(one) == {1: int(last[:3])}
        assert (codes(other), other.failure) == ({1: 250}, None)


async def test_silence_to_the_one_ahead_leaves_both_in_doubt() -> None:
    async def silent(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)
        await read_chunk(reader)
        await say(writer, "250 ok\r\n250 ok\r\n")
        await reader.read()

    async with world(
        server=closes_then_good(silent), connections=1, timeouts=replace(PATIENT, data_end=2 * SOON)
    ) as at:
        await prove(at)
        for result in await asyncio.gather(start(at), start(at)):
            assert result.failure is not None
            assert (result.failure.kind, result.phase) == (FailureKind.TIMEOUT, Phase.END_OF_DATA)
            assert "not known" in result.failure.detail


def closes_then_good(*odd_ones: Host) -> Host:
    rest = iter(odd_ones)

    async def good(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, *OFFERS)
        while line := await reader.readuntil(b"\r\n"):
            match line[:4]:
                case b"BDAT":
                    await reader.readexactly(int(line.split()[1]))
                case b"DATA":
                    await say(writer, "354 go\r\n")
                    await reader.readuntil(b"\r\n.\r\n")
            await say(writer, "250 ok\r\n")

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await next(rest, good)(reader, writer)

    return serve


# Hosts that turn out not to bear it.


@pytest.mark.parametrize("max_messages", [100, 2], ids=["used before", "fresh"])
async def test_a_host_that_hangs_up_on_content_gets_data_from_then_on(max_messages: int) -> None:
    async with world(odd_replies(RCPT=DROP), max_messages=max_messages) as at:
        await prove(at)
        result = await send(at, odd())
        assert result.failure is not None
        assert codes(await send(at)) == {1: 250}
        assert ways(at) == [False] * 3


async def test_a_host_that_has_enough_after_some_keeps_getting_them() -> None:
    async with world(behaves(MAIL=only_first(4, DROP))) as at:
        await prove(at)
        for _ in range(9):
            assert codes(await send(at)) == {1: 250}
        assert ways(at) == [False] * 2 + [True] * 9


async def test_content_taken_without_recipients_is_no_answer() -> None:
    """It decides nothing for those that were refused, and the host is not trusted with it any more."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)
        await read_chunk(reader)
        await say(writer, "250 ok\r\n550 no\r\n250 taken\r\n")
        assert await reader.read() == b"", "neither RSET nor QUIT"

    async with world(server=closes_then_good(serve), connections=1) as at:
        await prove(at)
        result = await send(at)
        assert (codes(result), result.failure) == ({1: 550}, None)
        await until(lambda: at.metric("pool_open_connections") == 0)
        assert codes(await send(at)) == {1: 250}


async def test_content_taken_after_a_refused_mail_is_no_answer_either() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)
        await read_chunk(reader)
        await say(writer, "550 no\r\n503 no\r\n250 taken\r\n")
        await reader.read()

    async def by_data(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, *OFFERS)
        heard.append(await reader.readuntil(b"DATA\r\n"))
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        await say(writer, "250 taken\r\n")

    async with world(server=closes_then_good(serve, by_data), connections=1) as at:
        await prove(at)
        result = await send(at)
        assert (codes(result), result.failure) == ({1: 550}, None)
        assert codes(await send(at)) == {1: 250}
        assert b"BDAT" not in heard[0], "it is not trusted with content any more"


async def test_a_refused_rset_leaves_the_one_behind_in_doubt() -> None:
    """Who says the rest is not known then: the host might have read what it should have skipped."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await take_and_skip(reader, writer)
        await read_chunk(reader)
        await read_chunk(reader)
        await say(writer, "250 ok\r\n550 no\r\n503 no\r\n500 what\r\n250 ok\r\n250 ok\r\n250 taken\r\n")
        await reader.read()

    async with world(server=closes_then_good(serve), connections=1) as at:
        await prove(at)
        one, other = await asyncio.gather(start(at), start(at))
        assert codes(one) == {1: 550}
        assert codes(other) == {}
        assert other.failure is not None
        assert other.failure.kind is FailureKind.PROTOCOL
        assert codes(await send(at)) == {1: 250}


async def test_committing_is_true_from_the_content_to_its_reply() -> None:
    gate = Gate()
    async with world(behaves(END_OF_DATA=lambda m: Answer(gate=gate) if m.transactions == 2 else None)) as at:
        await prove(at)
        async with at.open(size=SMALL) as session:
            sending = asyncio.ensure_future(session.send(parcel()))
            await gate.arrivals.wait_for(1)
            assert session.committing
            gate.open()
            assert codes(await sending) == {1: 250}
            assert not session.committing


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "END_OF_DATA"])
async def test_cancelling_closes_the_connection(phase: str) -> None:
    async with world(odd_replies(**{phase: HANG})) as at:
        await prove(at)
        sending = asyncio.ensure_future(send(at, odd()))
        await until(lambda: at.host.sessions[0].verbs().count("MAIL") == 3)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await at.host.ended.wait_for(1)
        assert at.metric("pool_open_connections") == 0
