"""One transaction: who gets which reply, what is sent to whom, and what is never sent."""

import asyncio
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace

import pytest
from client_world import CONTENT, PATIENT, SOON, codes, greet, message, parcel, recipients, say, until, world

from relay.delivery.commands import UnsafeCommandError
from relay.delivery.dot_stuffing import BareNewlineError
from relay.delivery.seam import HostError, Parcel
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    RESET,
    STANDARD_KEYWORDS,
    Answer,
    MxBehaviour,
    Script,
    Then,
    by_path,
    closing,
    limit_recipients,
    raw,
    slow,
)
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase
from relay.queue.message import Envelope, Notify, Recipient, Ret

ONE_BY_ONE = ("8BITMIME", "SMTPUTF8", "DSN")
BOTH_WAYS = pytest.mark.parametrize("keywords", [STANDARD_KEYWORDS, ONE_BY_ONE], ids=["pipelined", "one by one"])
ABC = ("a@shop.test", "b@shop.test", "c@shop.test")


def host(keywords: tuple[str, ...] = STANDARD_KEYWORDS, **replies: Script) -> MxBehaviour:
    """Behave so, with replies by the name of their phase."""
    return MxBehaviour(keywords=keywords, replies={Say[name]: script for name, script in replies.items()})


# Replies by recipient.


@BOTH_WAYS
@pytest.mark.rfc("5321-4.5.4.1-a", "5321-4.1.1.4-c", "2920-3.1-a", "2920-3.1-b", "2920-3.1-c")
async def test_one_copy_for_all_recipients(keywords: tuple[str, ...]) -> None:
    async with world(host(keywords)) as at:
        result = await at.send(parcel(*ABC))
        assert codes(result) == {1: 250, 2: 250, 3: 250}
        assert (result.phase, result.postponed, result.failure, result.dsn) == (Phase.END_OF_DATA, (), None, True)
        (letter,) = at.host.messages
        assert letter.forward_paths == ABC
        assert letter.content == CONTENT
        assert at.host.violations == []


@BOTH_WAYS
@pytest.mark.rfc("5321-rcpt-a", "5321-4.2-b", "2920-3.1-c")
async def test_e7_each_recipient_has_its_own_reply(keywords: tuple[str, ...]) -> None:
    replies = by_path({"b": "550 5.1.1 Nobody", "c": "451 4.7.1 Greylisted"})
    async with world(host(keywords, RCPT=replies)) as at:
        result = await at.send(parcel(*ABC, "d@shop.test"))
        assert codes(result) == {1: 250, 2: 550, 3: 451, 4: 250}
        assert str(result.replies[2]) == "550 5.1.1 Nobody"
        assert at.host.messages[0].forward_paths == ("a@shop.test", "d@shop.test")


@BOTH_WAYS
@pytest.mark.parametrize(("code", "kept"), [(299, 299), (251, 251), (252, 252), (499, 499), (599, 599)])
@pytest.mark.rfc("5321-4.2-b", "5321-3.4-a")
async def test_unknown_codes_count_by_their_first_digit(keywords: tuple[str, ...], code: int, kept: int) -> None:
    async with world(host(keywords, RCPT=by_path({"b": f"{code} odd"}), END_OF_DATA="298 odd")) as at:
        result = await at.send(parcel("a@shop.test", "b@shop.test"))
        assert codes(result) == {1: 298, 2: 298 if code < 300 else kept}


@BOTH_WAYS
@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "554 5.6.0 Bad content", "552 5.3.4 Too big"])
@pytest.mark.rfc("5321-4.1.1.4-c", "5321-4.2.5-c")
async def test_the_end_of_data_decides_for_all_that_were_accepted(keywords: tuple[str, ...], reply: str) -> None:
    async with world(host(keywords, RCPT=by_path({"b": "550 no"}), END_OF_DATA=reply)) as at:
        async with at.open() as session:
            result = await session.send(parcel(*ABC))
            code = int(reply[:3])
            assert codes(result) == {1: code, 2: 550, 3: code}
            assert result.failure is None
            assert codes(await session.send(parcel("z@shop.test"))) == {1: code}
        assert len(at.host.sessions) == 1  # a refusal spoils nothing


@BOTH_WAYS
@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "554 5.5.0 No"])
@pytest.mark.rfc("5321-3.3-c", "2920-3.1-d")
async def test_no_content_without_354(keywords: tuple[str, ...], reply: str) -> None:
    once = iter([reply])
    async with world(host(keywords, DATA=lambda _moment: next(once, None))) as at:
        async with at.open() as session:
            assert codes(await session.send(parcel("a@shop.test"))) == {1: int(reply[:3])}
            assert codes(await session.send(parcel("b@shop.test"))) == {1: 250}
        assert at.host.sessions[0].verbs()[-7:] == ["MAIL", "RCPT", "DATA", "RSET", "MAIL", "RCPT", "DATA"]
        assert [letter.forward_paths for letter in at.host.messages] == [("b@shop.test",)]
        assert at.host.violations == []


@BOTH_WAYS
@pytest.mark.parametrize("reply", ["250 ok", "220 what", "399 go on"])
@pytest.mark.rfc("5321-3.3-c")
async def test_l2_another_positive_reply_to_data_is_out_of_order(keywords: tuple[str, ...], reply: str) -> None:
    async with world(host(keywords, DATA=raw(reply.encode() + b"\r\n", accepts=False))) as at:
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.PROTOCOL, Phase.DATA)
        assert at.host.messages == []


@BOTH_WAYS
@pytest.mark.parametrize(
    ("phase", "reached"), [("MAIL", Phase.MAIL), ("RCPT", Phase.RCPT), ("END_OF_DATA", Phase.END_OF_DATA)]
)
async def test_l2_354_where_none_is_due_is_out_of_order(keywords: tuple[str, ...], phase: str, reached: Phase) -> None:
    async with world(host(keywords, **{phase: raw(b"354 go\r\n", accepts=True)})) as at:
        try:
            result = await at.send()
            came = (result.phase, result.failure)
        except HostError as error:
            came = (error.phase, error.failure)
        assert came[0] is reached
        assert came[1] is not None
        assert came[1].kind is FailureKind.PROTOCOL
        await at.host.ended.wait_for(1)


@BOTH_WAYS
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
@pytest.mark.parametrize("twice", [b"250 ok\r\n250 again\r\n", b"354 go\r\n250 early\r\n", b"250 ok\r\n2"], ids=repr)
async def test_e3_l2_two_replies_to_one_command_are_one_too_many(
    keywords: tuple[str, ...], phase: str, twice: bytes
) -> None:
    """In a group the surplus shifts what follows; it shows at the latest when one reply more comes than was owed."""
    async with world(host(keywords, **{phase: raw(twice, accepts=True)})) as at:
        error = await at.fail(parcel(*ABC))
        assert error.failure.kind is FailureKind.PROTOCOL
        assert at.host.messages == []


@BOTH_WAYS
async def test_e11_a_reply_is_cleaned_before_anybody_sees_it(keywords: tuple[str, ...]) -> None:
    nasty = raw(b"550-\x1b[2J<script>\r\n550 caf\xe9 \xe2\x80\xae\x00\r\n", accepts=False)
    async with world(host(keywords, RCPT=nasty)) as at:
        result = await at.send()
        assert result.replies[1].lines == (r"\x1b[2J<script>", r"caf\xe9 \u202e\x00")


# Refused before there is anything to send.


@BOTH_WAYS
@pytest.mark.rfc("5321-3.3-d", "2920-3.1-d")
async def test_all_recipients_refused(keywords: tuple[str, ...]) -> None:
    async with world(host(keywords, RCPT=by_path({"a": "550 5.1.1 No", "b": "451 4.2.1 Later"}))) as at:
        async with at.open() as session:
            result = await session.send(parcel("a@shop.test", "b@shop.test"))
            assert (codes(result), result.phase, result.failure) == ({1: 550, 2: 451}, Phase.RCPT, None)
            assert codes(await session.send(parcel("c@shop.test"))) == {1: 250}
        assert len(at.host.sessions) == 1
        assert "RSET" in at.host.sessions[0].verbs()
        assert [letter.forward_paths for letter in at.host.messages] == [("c@shop.test",)]
        assert at.host.violations == []


@pytest.mark.rfc("2920-3.1-d", "2920-3.2-b")
async def test_a_host_that_wants_content_for_nobody_gets_a_lone_dot() -> None:
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n550 no\r\n550 no\r\n354 go\r\n")
        heard.append(await reader.readuntil(b".\r\n"))
        await say(writer, "554 nothing to send\r\n")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        heard.append(await reader.readuntil(b"\r\n.\r\n"))
        await say(writer, "250 taken\r\n")
        await reader.read()

    async with world(server=serve) as at, at.open() as session:
        assert codes(await session.send(parcel("a@shop.test", "b@shop.test"))) == {1: 550, 2: 550}
        assert codes(await session.send(parcel("c@shop.test"))) == {1: 250}
    assert heard == [b".\r\n", CONTENT + b".\r\n"]


@BOTH_WAYS
@pytest.mark.rfc("1870-6.2-a", "5321-4.5.4.1-b", "5321-4.2.1-a")
async def test_mail_refused_for_good_is_told_of_every_recipient(keywords: tuple[str, ...]) -> None:
    refused = by_path({"sender": "550 5.7.1 Not you"})
    async with world(host(keywords, MAIL=refused), max_recipients=2) as at:
        async with at.open() as session:
            result = await session.send(parcel(*ABC))
            assert (codes(result), result.postponed) == ({1: 550, 2: 550, 3: 550}, ())
            other = message(envelope=Envelope(reverse_path="other@example.com"))
            assert codes(await session.send(parcel(letter=other))) == {1: 250}
        assert len(at.host.sessions) == 1


@BOTH_WAYS
@pytest.mark.parametrize("reply", ["451 4.3.0 Later", "452 4.3.1 Full", closing("421 4.3.2 Bye")])
@pytest.mark.rfc("1870-6.2-a", "5321-5.1-n")
async def test_mail_refused_for_now_is_for_the_next_host(keywords: tuple[str, ...], reply: str | Answer) -> None:
    async with world(host(keywords, MAIL=reply)) as at:
        error = await at.fail(parcel(*ABC))
        assert (error.failure.kind, error.phase) == (FailureKind.REPLY, Phase.MAIL)
        assert error.failure.reply is not None
        assert error.failure.reply.transient
        assert error.tls is not None


async def test_content_wanted_after_a_refused_mail_is_a_lone_dot() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "550 5.7.1 no\r\n503 no\r\n354 go\r\n")
        assert await reader.readuntil(b"\r\n") == b".\r\n"
        await say(writer, "250 a message from nobody to nobody\r\n")
        await reader.read()

    async with world(server=serve) as at:
        assert codes(await at.send()) == {1: 550}


# Too many recipients.


@BOTH_WAYS
@pytest.mark.parametrize("reply", ["452 4.5.3 Too many", "452 too many", "552 too many", "552 5.5.3 Too many"])
@pytest.mark.rfc("5321-4.5.3.1.10-a", "1870-6.4-a", "5321-4.5.3.1.8-b")
async def test_e7_what_is_too_many_is_for_the_next_transaction(keywords: tuple[str, ...], reply: str) -> None:
    async with world(host(keywords, RCPT=limit_recipients(2, reply))) as at:
        people = recipients(*(f"r{number}@shop.test" for number in range(5)))
        rounds = []
        async with at.open() as session:
            while people:
                result = await session.send(Parcel(message=message(), recipients=people, content=CONTENT))
                rounds.append((codes(result), result.postponed))
                people = tuple(one for one in people if one.id in result.postponed)
        assert rounds == [({1: 250, 2: 250}, (3, 4, 5)), ({3: 250, 4: 250}, (5,)), ({5: 250}, ())]
        assert len(at.host.sessions) == 1


@pytest.mark.parametrize(
    "reply", ["452 4.2.2 Mailbox full", "552 5.2.2 Mailbox full", "552 5.3.4 Big", "552 5.2.3 Big"]
)
@pytest.mark.rfc("1870-6.4-a")
async def test_a_full_mailbox_is_not_a_full_transaction(reply: str) -> None:
    async with world(host(RCPT=by_path({"b": reply}))) as at:
        result = await at.send(parcel(*ABC))
        assert (codes(result), result.postponed) == ({1: 250, 2: int(reply[:3]), 3: 250}, ())


async def test_452_to_the_first_recipient_is_its_reply() -> None:
    async with world(host(RCPT="452 4.5.3 Too many")) as at:
        result = await at.send(parcel("a@shop.test", "b@shop.test"))
        assert (codes(result), result.postponed) == ({1: 452, 2: 452}, ())


@pytest.mark.rfc("5321-4.5.3.1.8-b")
async def test_a_transaction_has_at_most_so_many_recipients() -> None:
    async with world(max_recipients=100) as at:
        people = tuple(f"r{number}@shop.test" for number in range(250))
        result = await at.send(parcel(*people))
        assert len(result.replies) == 100
        assert result.postponed == tuple(range(101, 251))


@pytest.mark.rfc("9422-4.2-a")
async def test_rfc9422_rcptmax_is_kept() -> None:
    async with world(replace(MxBehaviour(), recipients_max=2)) as at:
        result = await at.send(parcel(*ABC))
        assert (codes(result), result.postponed) == ({1: 250, 2: 250}, (3,))
        assert at.host.violations == []


@pytest.mark.rfc("2920-3.1-e")
async def test_a_thousand_recipients_in_one_group_do_not_block() -> None:
    """A host that does not read on until its replies are read, with little room for either."""

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING", "DSN")
        writer.transport.set_write_buffer_limits(high=1024)
        while (line := await reader.readuntil(b"\r\n")) != b"DATA\r\n":
            await say(writer, b"250 " + b"x" * 2000 + b"\r\n")
            assert line[:4] in (b"MAIL", b"RCPT")
        await say(writer, "354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        await say(writer, "250 taken\r\n")

    async with world(server=serve, max_recipients=1000) as at:
        orcpt = "rfc822;" + "x" * 480
        people = tuple(Recipient(id=n, forward_path=f"r{n}@shop.test", orcpt=orcpt) for n in range(1000))
        result = await at.send(Parcel(message=message(), recipients=people, content=CONTENT))
        assert len(result.replies) == 1000


# Broken off.


@BOTH_WAYS
@pytest.mark.parametrize("end", [DROP, RESET], ids=["closed", "reset"])
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
@pytest.mark.rfc("5321-3.8-c")
async def test_e5_a_host_that_hangs_up_has_accepted_nothing(keywords: tuple[str, ...], end: Answer, phase: str) -> None:
    async with world(host(keywords, **{phase: end})) as at:
        error = await at.fail(parcel(*ABC))
        assert error.failure.kind is FailureKind.BROKEN_OFF
        assert error.phase.value <= Phase[phase].value
        assert at.host.messages == []


@BOTH_WAYS
@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA"])
@pytest.mark.rfc("5321-4.5.3.2-a", "5321-4.5.3.2-c", "5321-4.5.3.2-d", "5321-4.5.3.2-e")
async def test_e2_each_phase_has_its_own_limit(keywords: tuple[str, ...], phase: str) -> None:
    limits = replace(PATIENT, **{phase.lower(): SOON})
    async with world(host(keywords, **{phase: HANG}), timeouts=limits) as at:
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.TIMEOUT, Phase[phase])


@BOTH_WAYS
@pytest.mark.rfc("5321-4.5.3.2-a")
async def test_e2_slow_replies_within_their_limits_are_no_fault(keywords: tuple[str, ...]) -> None:
    limits = replace(PATIENT, mail=5 * SOON, rcpt=5 * SOON, data=5 * SOON, data_end=5 * SOON)
    late = slow(2 * SOON.total_seconds())
    async with world(host(keywords, MAIL=late, RCPT=late, DATA=late, END_OF_DATA=late), timeouts=limits) as at:
        assert codes(await at.send(parcel(*ABC))) == {1: 250, 2: 250, 3: 250}


@BOTH_WAYS
@pytest.mark.rfc("5321-rcpt-a")
async def test_e6_a_421_among_the_recipients_keeps_the_replies_before_it(keywords: tuple[str, ...]) -> None:
    replies = by_path({"a": "550 5.1.1 No", "c": closing("421 4.3.2 Going down")})
    async with world(host(keywords, RCPT=replies)) as at:
        result = await at.send(parcel(*ABC, "d@shop.test"))
        assert codes(result) == {1: 550}
        assert (result.phase, result.postponed) == (Phase.RCPT, ())
        assert result.failure is not None
        assert result.failure.kind is FailureKind.REPLY
        assert str(result.failure.reply) == "421 4.3.2 Going down"
        assert at.host.messages == []


@BOTH_WAYS
async def test_e6_a_421_that_does_not_close_closes_all_the_same(keywords: tuple[str, ...]) -> None:
    async with world(host(keywords, RCPT=by_path({"b": "421 4.7.0 Slow down"}))) as at:
        error = await at.fail(parcel(*ABC))
        assert (error.failure.kind, error.phase) == (FailureKind.REPLY, Phase.RCPT)
        await at.host.ended.wait_for(1)


@BOTH_WAYS
async def test_e6_a_421_to_data_or_its_end(keywords: tuple[str, ...]) -> None:
    async with world(host(keywords, DATA=closing("421 4.3.2 Bye"))) as at:
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.REPLY, Phase.DATA)
        at.host.behaviour = host(keywords, END_OF_DATA="421 4.3.2 Bye")
        result = await at.send()
        assert (codes(result), result.failure) == ({1: 421}, None)
        await at.host.ended.wait_for(2)


@BOTH_WAYS
@pytest.mark.parametrize(
    ("end", "kind"),
    [
        pytest.param(DROP, FailureKind.BROKEN_OFF, id="closed"),
        pytest.param(RESET, FailureKind.BROKEN_OFF, id="reset"),
        pytest.param(HANG, FailureKind.TIMEOUT, id="silence"),
        pytest.param(Answer(raw=b"250 o", then=Then.CLOSE), FailureKind.BROKEN_OFF, id="half a reply"),
        pytest.param(raw(b"ok\r\n"), FailureKind.PROTOCOL, id="no code"),
        pytest.param(raw(b"250 ok\n"), FailureKind.PROTOCOL, id="bare LF"),
        pytest.param(raw(b"250 ok\r\n554 no\r\n"), FailureKind.PROTOCOL, id="two replies"),
        pytest.param(raw(b"550-no\r\n250 ok\r\n"), FailureKind.PROTOCOL, id="mixed"),
        pytest.param(raw(b"999 ok\r\n"), FailureKind.PROTOCOL, id="9yz"),
        pytest.param(raw(b"354 go on\r\n"), FailureKind.PROTOCOL, id="3yz"),
    ],
)
@pytest.mark.rfc("5321-4.5.3.2-g", "5321-4.5.3.2-h", "3464-4.3-a")
async def test_e5_l2_after_the_final_dot_the_outcome_is_unknown(
    keywords: tuple[str, ...], end: Answer, kind: FailureKind
) -> None:
    behaviour = host(keywords, RCPT=by_path({"b": "550 5.1.1 No"}), END_OF_DATA=end)
    async with world(behaviour, timeouts=replace(PATIENT, data_end=2 * SOON)) as at:
        result = await at.send(parcel(*ABC))
        assert codes(result) == {2: 550}
        assert result.phase is Phase.END_OF_DATA
        assert result.failure is not None
        assert result.failure.kind is kind
        assert "not known" in result.failure.detail
        await at.host.ended.wait_for(1)


@pytest.mark.rfc("5321-4.1.1.10-a")
async def test_a_host_that_closes_after_its_250_has_the_message() -> None:
    async with world(host(END_OF_DATA=closing("250 2.0.0 Taken"))) as at:
        result = await at.send()
        assert (codes(result), result.failure) == ({1: 250}, None)


@pytest.mark.rfc("5321-4.1.1.10-a")
@pytest.mark.parametrize("answer", [DROP, HANG, "554 no", raw(b"gibberish\r\n")], ids=["drop", "hang", "554", "odd"])
async def test_what_is_said_to_quit_changes_nothing(answer: Script) -> None:
    async with world(host(QUIT=answer), max_messages=1) as at:
        assert codes(await at.send()) == {1: 250}
        await at.pool.close()
        assert at.metric("pool_open_connections") == 0


# What the message needs.


@pytest.mark.rfc("1870-7-a")
async def test_e9_a_host_that_takes_less_is_not_asked() -> None:
    behaviour = replace(MxBehaviour(), size=len(CONTENT) - 1)
    async with world(behaviour) as at:
        error = await at.fail()
        assert error.failure.kind is FailureKind.TOO_LARGE
        assert "MAIL" not in at.host.sessions[0].verbs()
    async with world(replace(MxBehaviour(), size=len(CONTENT))) as at:
        assert codes(await at.send()) == {1: 250}


@pytest.mark.parametrize("keyword", ["SIZE", "SIZE 0", "SIZE abc", "SIZE 1" + "0" * 30])
async def test_e9_a_false_size_refuses_no_mail(keyword: str) -> None:
    async with world(replace(MxBehaviour(), size=None, keywords=(*STANDARD_KEYWORDS, keyword))) as at:
        assert codes(await at.send()) == {1: 250}
        assert at.host.messages[0].mail_parameters == (f"SIZE={len(CONTENT)}",)


@pytest.mark.rfc("1870-5-a", "5321-4.1.1.4-b")
@pytest.mark.parametrize("content", [b"", b"A: b", b"A: b\r\n", b"A: b\r\n\r\n.\r\n..\r\n"])
async def test_size_is_what_arrives(content: bytes) -> None:
    async with world() as at:
        await at.send(parcel(content=content))
        (letter,) = at.host.messages
        assert letter.mail_parameters == (f"SIZE={letter.size}",)
        assert letter.content == (content if content.endswith(b"\r\n") or not content else content + b"\r\n")


@pytest.mark.rfc("6152-2-a", "6152-3-a", "6152-3-b", "6152-3-c", "6152-3-d")
async def test_eight_bit_content_goes_only_where_it_is_welcome() -> None:
    content = b"A: b\r\n\r\n" + bytes(range(128, 256)) + b"\r\n"
    async with world() as at:
        await at.send(parcel(content=content, letter=message(eight_bit=True)))
        await at.send(parcel(content=CONTENT))
        eight, seven = at.host.messages
        assert eight.content == content
        assert "BODY=8BITMIME" in eight.mail_parameters
        assert "BODY=8BITMIME" not in seven.mail_parameters
    async with world(host(("PIPELINING",))) as at:
        error = await at.fail(parcel(content=content, letter=message(eight_bit=True)))
        assert error.failure.kind is FailureKind.EIGHT_BIT
        assert "MAIL" not in at.host.sessions[0].verbs()


@pytest.mark.rfc("6531-3.2-c", "6531-3.2-d", "6531-3.4-a")
@pytest.mark.parametrize(
    ("sender", "path", "header", "parameter", "old_host"),
    [
        ("a@example.com", "b@shop.test", False, False, None),
        ("a@bücher.example", "b@bücher.test", False, False, None),
        ("ä@example.com", "b@shop.test", False, True, FailureKind.SMTPUTF8),
        ("a@example.com", "ü@shop.test", False, True, FailureKind.SMTPUTF8),
        ("a@example.com", "b@shop.test", True, True, FailureKind.SMTPUTF8),
    ],
)
async def test_smtputf8_only_where_it_is_needed(
    sender: str, path: str, header: bool, parameter: bool, old_host: FailureKind | None
) -> None:
    letter = message(envelope=Envelope(reverse_path=sender, smtputf8=True), utf8_header=header, eight_bit=header)
    async with world() as at:
        assert codes(await at.send(parcel(path, letter=letter))) == {1: 250}
        (taken,) = at.host.messages
        assert ("SMTPUTF8" in taken.mail_parameters) is parameter
        assert parameter or taken.reverse_path.isascii()
        assert parameter or taken.forward_paths[0].isascii()
        assert at.host.violations == []
    async with world(host(("PIPELINING", "8BITMIME"))) as at:
        if old_host is None:
            assert codes(await at.send(parcel(path, letter=letter))) == {1: 250}
        else:
            error = await at.fail(parcel(path, letter=letter))
            assert error.failure.kind is old_host
            assert "MAIL" not in at.host.sessions[0].verbs()
        assert at.host.violations == []


async def test_a_recipient_that_needs_smtputf8_does_not_hold_up_the_others() -> None:
    async with world(host(("PIPELINING", "8BITMIME"))) as at:
        result = await at.send(parcel("a@shop.test", "ü@shop.test", "c@shop.test"))
        assert codes(result) == {1: 250, 3: 250}
        assert result.failure is not None
        assert result.failure.kind is FailureKind.SMTPUTF8
        assert at.host.messages[0].forward_paths == ("a@shop.test", "c@shop.test")


@pytest.mark.rfc("3461-5.2.1-a", "3461-5.2.1-b", "3461-5.2.1-c", "3461-5.2.1-d", "3461-5.2.2-a", "5321-4.1.1.3-b")
async def test_dsn_parameters_go_to_hosts_that_offer_it() -> None:
    letter = message(envelope=Envelope(reverse_path="", ret=Ret.HDRS, envid="Qq+2B1"))
    people = (
        Recipient(id=1, forward_path="a@shop.test", notify=frozenset({Notify.SUCCESS}), orcpt="rfc822;A+40x@Y.Test"),
        Recipient(id=2, forward_path="b@shop.test"),
    )
    what = Parcel(message=letter, recipients=people, content=CONTENT)
    async with world() as at:
        result = await at.send(what)
        assert result.dsn
        (taken,) = at.host.messages
        assert taken.reverse_path == ""
        assert set(taken.mail_parameters) >= {"RET=HDRS", "ENVID=Qq+2B1"}
        assert taken.recipients[0].parameters == ("NOTIFY=SUCCESS", "ORCPT=rfc822;A+40x@Y.Test")
        assert taken.recipients[1].parameters == ()
    async with world(host(("PIPELINING",))) as at:
        result = await at.send(what)
        assert not result.dsn
        (taken,) = at.host.messages
        assert taken.mail_parameters == (f"SIZE={len(CONTENT)}",)
        assert [one.parameters for one in taken.recipients] == [(), ()]


# What never leaves.


@BOTH_WAYS
@pytest.mark.rfc("5321-2.3.8-b", "smug-a")
@pytest.mark.parametrize(
    "content",
    [b"A: b\r\n\r\nx\n.\r\nMAIL FROM:<evil@x.test>\r\n", b"A: b\r\n\r\nx\r.\r\r\n", b"x" * 100_000 + b"\n\r\n"],
)
async def test_f2_bare_newlines_stop_the_transaction_before_the_dot(keywords: tuple[str, ...], content: bytes) -> None:
    async with world(host(keywords)) as at:
        with pytest.raises(BareNewlineError):
            await at.send(parcel(content=content))
        await at.host.ended.wait_for(1)
        assert at.host.messages == []


@pytest.mark.rfc("smug-b")
async def test_l3_an_unsafe_address_stops_everything() -> None:
    async with world() as at:
        with pytest.raises(UnsafeCommandError):
            await at.send(parcel("a@shop.test>\r\nRCPT TO:<b@shop.test"))
        assert [verb for session in at.host.sessions for verb in session.verbs() if verb == "RCPT"] == []


# Content in pieces.


def streamed(*pieces: bytes) -> "_Source":
    return _Source(pieces)


class _Source:
    """Gives the same pieces each time it is asked, and counts how often that was."""

    def __init__(self, pieces: tuple[bytes, ...]) -> None:
        self.pieces = pieces
        self.asked = 0

    async def __call__(self) -> AsyncIterator[bytes]:
        self.asked += 1
        for piece in self.pieces:
            yield piece


@BOTH_WAYS
@pytest.mark.parametrize("size", [1, 7, 65536, 65537, 300_000])
@pytest.mark.rfc("5321-4.5.2-a", "5321-2.3.8-b")
async def test_l15_content_arrives_as_it_was_whatever_its_pieces(keywords: tuple[str, ...], size: int) -> None:
    content = (b"A: b\r\n\r\n" + b".\r\n..\r\n.x\r\n" + b"y" * 70 + b"\r\n") * (4000 if size > 10 else 20)
    pieces = [content[at : at + size] for at in range(0, len(content), size)]
    letter = message(size=len(content))
    async with world(host(keywords)) as at:
        await at.send(parcel(content=streamed(*pieces), letter=letter))
        await at.send(parcel(content=content, letter=letter))
        assert [taken.content for taken in at.host.messages] == [content, content]
        assert at.host.violations == []


async def test_an_error_of_the_store_breaks_the_transaction_off() -> None:
    async def failing() -> AsyncIterator[bytes]:
        yield b"A: b\r\n"
        yield b"x" * 70_000
        raise ConnectionAbortedError("the store is gone")

    async with world() as at:
        with pytest.raises(ConnectionAbortedError):
            await at.send(parcel(content=failing))
        await at.host.ended.wait_for(1)
        assert at.host.messages == []


@pytest.mark.rfc("5321-4.5.3.2-f")
async def test_e2_a_host_that_does_not_read_is_given_up() -> None:
    behaviour = host(DATA=Answer(raw=b"354 go\r\n", then=Then.STOP_READING))
    async with world(behaviour, timeouts=replace(PATIENT, data_block=SOON)) as at:
        content = streamed(*[b"x" * 70 + b"\r\n"] * 300_000)
        error = await at.fail(parcel(content=content, letter=message(size=21_600_000)))
        assert (error.failure.kind, error.phase) == (FailureKind.TIMEOUT, Phase.CONTENT)


@pytest.mark.parametrize("then", [Then.CLOSE, Then.RESET])
async def test_e5_a_host_that_hangs_up_in_the_middle_of_the_content(then: Then) -> None:
    async with world(host(DATA=Answer(raw=b"354 go\r\n", then=then))) as at:
        content = streamed(*[b"x" * 70 + b"\r\n"] * 300_000)
        error = await at.fail(parcel(content=content, letter=message(size=21_600_000)))
        # A reset may overtake the 354 that was sent before it.
        assert error.failure.kind is FailureKind.BROKEN_OFF
        assert error.phase in (Phase.MAIL, Phase.DATA, Phase.CONTENT)


@pytest.mark.parametrize("rest", ["", "503 no\r\n", "gibberish\r\n"])
async def test_what_follows_a_refused_mail_can_spoil_nothing(rest: str) -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "550 5.7.1 no\r\n")
        await asyncio.sleep(SOON.total_seconds() / 5)  # the reply to MAIL is read by then
        await say(writer, rest)

    async with world(server=serve) as at:
        result = await at.send(parcel(*ABC))
        assert (codes(result), result.failure) == ({1: 550, 2: 550, 3: 550}, None)
        await until(lambda: at.metric("pool_open_connections") == 0)


async def test_e3_a_host_that_refuses_in_the_middle_of_the_content_is_out_of_order() -> None:
    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readexactly(10_000)
        await say(writer, "552 5.3.4 too big\r\n")
        await reader.read()

    async with world(server=serve) as at:
        content = streamed(*[b"x" * 70 + b"\r\n"] * 300_000)
        error = await at.fail(parcel(content=content, letter=message(size=21_600_000)))
        assert (error.failure.kind, error.phase) == (FailureKind.PROTOCOL, Phase.CONTENT)
        assert "552 5.3.4 too big" in error.failure.detail


# Committing, and being broken off ourselves.


async def test_committing_is_true_from_the_final_dot_to_its_reply() -> None:
    release = asyncio.Event()
    dot_seen = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        await reader.readuntil(b"\r\n.\r\n")
        dot_seen.set()
        await release.wait()
        await say(writer, "250 taken\r\n")
        await reader.read()

    async with world(server=serve) as at, at.open() as session:
        seen = [session.committing]
        sending = asyncio.ensure_future(session.send(parcel()))
        await until(dot_seen.is_set)
        seen.append(session.committing)
        release.set()
        assert codes(await sending) == {1: 250}
        assert [*seen, session.committing] == [False, True, False]


@pytest.mark.parametrize("phase", ["MAIL", "RCPT", "DATA", "END_OF_DATA"])
async def test_cancelling_closes_the_connection(phase: str) -> None:
    async with world(MxBehaviour(replies={Say[phase]: HANG})) as at:
        sending = asyncio.ensure_future(at.send())
        await until(lambda: any("MAIL" in session.verbs() for session in at.host.sessions))
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        await at.host.ended.wait_for(1)
        assert at.metric("pool_open_connections") == 0


async def test_k8_a_large_message_lets_others_have_their_turn() -> None:
    """Content that is there at once, and a host that takes it as fast as it comes."""
    turns = 0

    async def count() -> None:
        nonlocal turns
        while True:
            turns += 1
            await asyncio.sleep(0)

    async with world() as at:
        counting = asyncio.ensure_future(count())
        content = streamed(*[(b"x" * 62 + b"\r\n") * 1024] * 200)
        await at.send(parcel(content=content, letter=message(size=64 * 1024 * 200)))
        counting.cancel()
    assert turns > 200


@pytest.mark.rfc("5321-4.5.3.2-f")
async def test_l15_k9_large_messages_pass_through_without_staying() -> None:
    """Ten messages of 26 MB at once, to hosts that read them slowly enough for any buffer to fill."""
    block = (b"x" * 62 + b"\r\n") * 1024
    blocks = 26 * 16
    taken: list[int] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        octets, end = 0, b""
        while end != b"\r\n.\r\n":
            chunk = await reader.read(65536)
            octets, end = octets + len(chunk), (end + chunk)[-5:]
        taken.append(octets - len(b".\r\n"))
        await say(writer, "250 taken\r\n")
        await reader.read()

    async def content() -> AsyncIterator[bytes]:
        for _ in range(blocks):
            yield block

    letter = message(size=len(block) * blocks)
    async with world(server=serve, max_messages=1) as at:
        tracemalloc.start()
        try:
            results = await asyncio.gather(*(at.send(parcel(content=content, letter=letter)) for _ in range(10)))
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
    assert [codes(result) for result in results] == [{1: 250}] * 10
    assert taken == [letter.size] * 10
    assert peak < 16 * 1024 * 1024
