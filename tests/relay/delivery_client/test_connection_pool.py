"""Connections kept and lent: what is reused, what never is, and what a lapsed one costs."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import pytest
from client_world import (
    CONTENT,
    DESTINATION,
    LONG,
    MX,
    PATIENT,
    SOON,
    codes,
    greet,
    message,
    parcel,
    recipients,
    say,
    until,
    world,
)

from policy.requirement import Level, MxMatch
from relay.delivery.pool import ConnectionPool
from relay.delivery.seam import HostError, Parcel, Target, Transport
from relay.delivery.slot_table import SlotSettings
from relay.lab.ca import CertificateKind
from relay.lab.mx_behaviour import DROP, HANG, RESET, STANDARD_KEYWORDS, Answer, MxBehaviour, closing, only_first, raw
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, HostFailure, Phase, Security


async def test_the_pool_is_a_transport() -> None:
    async with world() as at:
        transport: Transport = at.pool
        assert isinstance(at.pool, ConnectionPool)
        async with transport.open(at.target(), destination=DESTINATION, size=LONG) as session:
            assert codes(await session.send(parcel())) == {1: 250}


@pytest.mark.parametrize("level", Level)
async def test_a_clean_connection_is_used_again(level: Level) -> None:
    async with world() as at:
        for _ in range(5):
            assert codes(await at.send(level=level)) == {1: 250}
        (record,) = at.host.sessions
        assert record.verbs().count("MAIL") == 5
        assert record.verbs().count("RSET") == 1, "once behind content that the host is to skip"
        assert at.metric("pool_connections_opened_total", result="ok") == 1
        assert at.metric("pool_connections_reused_total") == 4
        assert at.metric("pool_open_connections") == 1
    assert at.metric("pool_open_connections") == 0


async def test_one_session_may_carry_several_transactions() -> None:
    async with world() as at:
        async with at.open() as session:
            for _ in range(3):
                await session.send(parcel())
        assert len(at.host.sessions) == 1
        assert len(at.host.messages) == 3


async def test_what_is_lent_is_lent_to_one() -> None:
    async with world() as at:
        async with at.open() as one, at.open() as other:
            await asyncio.gather(one.send(parcel()), other.send(parcel()))
        assert len(at.host.sessions) == 2
        await at.send()
        assert len(at.host.sessions) == 2


# The key.


@pytest.mark.rfc("8461-4.2-i", "8460-3-ad")
@pytest.mark.parametrize(
    "other",
    [
        {"level": Level.VERIFIED},
        {"level": Level.TESTING},
        {"mx_match": MxMatch.MATCHED},
        {"mx_host": "mx2.shop.test"},
        {"for_reports": True},
    ],
)
async def test_a9_a_connection_is_kept_for_the_same_requirement_only(other: dict[str, Any]) -> None:
    names = (MX, "mx2.shop.test")
    async with world(MxBehaviour(certificate_names=names)) as at:
        for target in (at.target(), at.target(**other), at.target()):
            async with at.pool.open(target, destination=DESTINATION, size=LONG) as session:
                assert codes(await session.send(parcel())) == {1: 250}
        assert len(at.host.sessions) == 2


@pytest.mark.rfc("8461-5-a")
async def test_a9_enforce_never_gets_a_connection_of_a_domain_without_policy() -> None:
    async with world(MxBehaviour(certificate=CertificateKind.EXPIRED)) as at:
        assert codes(await at.send(level=Level.OPPORTUNISTIC)) == {1: 250}
        assert codes(await at.send(level=Level.TESTING)) == {1: 250}
        error = await at.fail(level=Level.VERIFIED)
        assert error.failure.kind is FailureKind.CERTIFICATE


async def test_the_address_is_part_of_the_key() -> None:
    async with world() as at:
        elsewhere = replace(at.target(), port=1)
        await at.send()
        with pytest.raises(HostError):
            async with at.pool.open(elsewhere, destination=DESTINATION, size=LONG):
                pass
        assert isinstance(elsewhere, Target)


# Bounds.


async def test_a_connection_carries_so_many_messages() -> None:
    async with world(max_messages=2) as at:
        for _ in range(5):
            await at.send()
        assert [record.verbs().count("MAIL") for record in at.host.sessions] == [2, 2, 1]
        await at.host.ended.wait_for(2)
        assert at.host.ended[0].verbs()[-1] == "QUIT"


@pytest.mark.rfc("9422-4.1-a", "9422-3.8-a")
async def test_rfc9422_mailmax_is_kept_also_within_a_session() -> None:
    async with world(MxBehaviour(keywords=(*STANDARD_KEYWORDS, "LIMITS MAILMAX=2"))) as at:
        async with at.open() as session:
            for _ in range(5):
                assert codes(await session.send(parcel())) == {1: 250}
        assert [record.verbs().count("MAIL") for record in at.host.sessions] == [2, 2, 1]


@pytest.mark.rfc("9422-4.3-a")
async def test_rfc9422_rcptdomainmax_is_kept() -> None:
    async with world(MxBehaviour(keywords=(*STANDARD_KEYWORDS, "LIMITS RCPTDOMAINMAX=2"))) as at:
        for domain in ("one.test", "two.test", "one.test", "three.test", "two.test"):
            async with at.open(destination=domain) as session:
                await session.send(parcel(f"someone@{domain}"))
        assert [record.verbs().count("MAIL") for record in at.host.sessions] == [3, 2]


async def test_so_many_connections_may_wait() -> None:
    async with world(max_idle=1) as at:
        async with at.open() as one, at.open() as two:
            await one.send(parcel())
            await two.send(parcel())
        await at.host.ended.wait_for(1)
        await until(lambda: at.metric("pool_open_connections") == 1)


@pytest.mark.rfc("5321-4.1.1.10-a")
async def test_a_connection_that_nobody_wants_is_left_with_quit() -> None:
    async with world(connection_idle=SOON) as at:
        await at.send()
        (record,) = await at.host.ended.wait_for(1)
        assert record.verbs()[-1] == "QUIT"
        await until(lambda: at.metric("pool_open_connections") == 0)
        await at.send()
        assert len(at.host.sessions) == 2


async def test_idle_connections_can_be_left_all_at_once() -> None:
    async with world() as at:
        async with at.open() as one, at.open() as two:
            await one.send(parcel())
            await two.send(parcel())
        closing = at.pool.leave_idle()
        assert len(closing) == 2
        async with asyncio.timeout(5):
            await asyncio.gather(*closing)
        assert [record.verbs()[-1] for record in await at.host.ended.wait_for(2)] == ["QUIT"] * 2
        assert at.pool.leave_idle() == []
        assert codes(await at.send()) == {1: 250}


async def test_what_is_above_a_lowered_bound_is_closed_as_it_becomes_idle() -> None:
    async with world(connections=3) as at:
        async with at.open() as one, at.open() as two, at.open() as three:
            for session in (one, two, three):
                await session.send(parcel())
            assert at.slots.use(SlotSettings(max_connections_per_destination=3, named={MX: 1}))
        await at.host.ended.wait_for(2)
        await until(lambda: at.metric("pool_open_connections") == 1)
        assert not at.slots.use(SlotSettings(max_connections_per_destination=3))


async def test_waiting_starts_anew_with_each_use() -> None:
    async with world(connection_idle=4 * SOON) as at:
        for _ in range(6):
            await at.send()
            await asyncio.sleep(SOON.total_seconds())
        assert len(at.host.sessions) == 1


# Lapsed connections cost nothing.


@pytest.mark.rfc("5321-3.8-c")
@pytest.mark.parametrize("keywords", [STANDARD_KEYWORDS, ("8BITMIME",)], ids=["pipelined", "one by one"])
@pytest.mark.parametrize("otherwise", [DROP, RESET, "421 4.4.2 Idle", closing("421 4.4.2 Idle")])
async def test_a_reused_connection_that_ends_before_the_reply_to_mail_costs_nothing(
    keywords: tuple[str, ...], otherwise: "str | Answer"
) -> None:
    async with world(MxBehaviour(keywords=keywords, replies={Say.MAIL: only_first(1, otherwise)})) as at:
        assert codes(await at.send()) == {1: 250}
        assert codes(await at.send()) == {1: 250}
        assert len(at.host.sessions) == 2
        assert len(at.host.messages) == 2
        async with at.open() as session:
            assert codes(await session.send(parcel())) == {1: 250}
            assert session.facts.security is Security.OPPORTUNISTIC


async def test_a_fresh_connection_that_ends_is_not_tried_again() -> None:
    async with world(MxBehaviour(replies={Say.MAIL: DROP})) as at:
        assert (await at.fail()).failure.kind is FailureKind.BROKEN_OFF
        assert len(at.host.sessions) == 1


async def test_a_lapsed_connection_is_replaced_once() -> None:
    async with world(MxBehaviour(replies={Say.MAIL: only_first(1, DROP)})) as at:
        await at.send()
        at.host.behaviour = MxBehaviour(replies={Say.MAIL: DROP})
        assert (await at.fail()).failure.kind is FailureKind.BROKEN_OFF
        assert len(at.host.sessions) == 2


async def test_a_lapsed_connection_to_a_host_that_takes_no_more() -> None:
    connections = 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal connections
        connections += 1
        if connections == 1:
            await _take_one(reader, writer)
            await reader.readuntil(b"DATA\r\n")

    async with world(server=serve) as at:
        await at.send()
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.BROKEN_OFF, Phase.GREETING)
        assert connections == 2


@pytest.mark.parametrize(
    ("phase", "otherwise", "kind"),
    [
        (Say.MAIL, raw(b"gibberish\r\n"), FailureKind.PROTOCOL),
        (Say.MAIL, "451 4.3.0 Later", FailureKind.REPLY),
        (Say.MAIL, HANG, FailureKind.TIMEOUT),
        (Say.RCPT, closing("421 4.3.2 Bye"), FailureKind.REPLY),
        (Say.DATA, DROP, FailureKind.BROKEN_OFF),
    ],
)
async def test_anything_else_on_a_reused_connection_counts(
    phase: Say, otherwise: "str | Answer", kind: FailureKind
) -> None:
    limits = replace(PATIENT, mail=2 * SOON)
    # One by one: with a group, a close at DATA would come before the reply to MAIL is read.
    behaviour = MxBehaviour(keywords=("8BITMIME",), replies={phase: only_first(1, otherwise)})
    async with world(behaviour, timeouts=limits) as at:
        await at.send()
        assert (await at.fail()).failure.kind is kind
        assert len(at.host.sessions) == 1


@pytest.mark.parametrize("keywords", [STANDARD_KEYWORDS, ("8BITMIME",)], ids=["pipelined", "one by one"])
async def test_a_connection_on_which_mail_was_deferred_is_not_kept(keywords: tuple[str, ...]) -> None:
    """Some hosts count messages, and say 452 to all that come after: kept, it would defer a hundred more."""
    behaviour = MxBehaviour(keywords=keywords, replies={Say.MAIL: only_first(1, "452 4.5.3 Too many in this session")})
    async with world(behaviour) as at:
        assert codes(await at.send()) == {1: 250}
        assert (await at.fail()).failure.kind is FailureKind.REPLY
        assert codes(await at.send()) == {1: 250}
        assert len(at.host.sessions) == 2
        await until(lambda: at.metric("pool_open_connections") == 1)
        assert at.host.sessions[0].verbs()[-1] == "QUIT"


@pytest.mark.parametrize("reply", ["500 5.5.1 What?", closing("421 4.3.2 Bye"), DROP])
async def test_a_refused_rset_costs_a_connection_and_no_more(reply: "str | Answer") -> None:
    async with world(MxBehaviour(replies={Say.RCPT: only_first(9, "x"), Say.RSET: reply})) as at:
        at.host.behaviour = replace(at.host.behaviour, replies={Say.RCPT: _no_for_nobody, Say.RSET: reply})
        assert codes(await at.send(parcel("nobody@shop.test"))) == {1: 550}
        assert codes(await at.send()) == {1: 250}
        assert len(at.host.messages) == 1


async def test_a_host_without_pipelining_is_told_one_thing_after_the_other() -> None:
    behaviour = MxBehaviour(keywords=("8BITMIME",), replies={Say.RCPT: _no_for_nobody})
    async with world(behaviour, max_messages=3) as at:
        for _ in range(3):
            assert codes(await at.send(parcel("nobody@shop.test"))) == {1: 550}
        (record,) = await at.host.ended.wait_for(1)
        assert record.violations == []
        assert record.verbs()[-4:] == ["RSET", "MAIL", "RCPT", "QUIT"]


def _no_for_nobody(moment: object) -> str | None:
    return "550 5.1.1 No" if "nobody" in str(moment) else None


# Connections that are not clean.


@pytest.mark.rfc("5321-4.2-a")
@pytest.mark.parametrize("unasked", [b"421 4.4.2 Idle\r\n", b"250 ok\r\n", b"2", b"\r\n", b"gibberish\n"], ids=repr)
async def test_l2_a_waiting_connection_that_says_something_is_dropped(unasked: bytes) -> None:
    speak, sessions = asyncio.Event(), 0

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sessions
        sessions += 1
        await _take_one(reader, writer)
        if sessions == 1:
            await speak.wait()
            await say(writer, unasked)
        await reader.read()

    async with world(server=serve) as at:
        assert codes(await at.send()) == {1: 250}
        assert at.metric("pool_open_connections") == 1
        speak.set()
        await until(lambda: at.metric("pool_open_connections") == 0)
        assert codes(await at.send()) == {1: 250}
        assert sessions == 2


async def test_a_waiting_connection_that_the_host_closes_is_dropped() -> None:
    end = asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await _take_one(reader, writer)
        await end.wait()

    async with world(server=serve) as at:
        await at.send()
        end.set()
        await until(lambda: at.metric("pool_open_connections") == 0)


async def _take_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer, "PIPELINING")
    await reader.readuntil(b"DATA\r\n")
    await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
    await reader.readuntil(b"\r\n.\r\n")
    await say(writer, "250 taken\r\n")


async def test_a_session_that_an_error_ends_is_not_kept() -> None:
    async with world() as at:
        with contextlib.suppress(HostError):
            async with at.open() as session:
                await session.send(parcel())
                raise HostError(HostFailure(kind=FailureKind.INTERNAL, detail=""), Phase.MAIL)
        await at.send()
        assert len(at.host.sessions) == 1  # the connection itself was clean

        at.host.behaviour = MxBehaviour(replies={Say.END_OF_DATA: raw(b"250 ok\r\n250 more\r\n")})
        async with at.open() as other, at.open() as fresh:
            await other.send(parcel())
            await fresh.send(parcel())
        await at.host.ended.wait_for(1)
        assert at.metric("pool_open_connections") == 1


# Shutting down.


async def test_closing_says_quit_to_those_that_wait() -> None:
    async with world() as at:
        async with at.open() as one, at.open(Level.VERIFIED) as two:
            await one.send(parcel())
            await two.send(parcel())
        await at.pool.close()
        assert [record.verbs()[-1] for record in at.host.sessions] == ["QUIT", "QUIT"]
        assert at.metric("pool_open_connections") == 0


async def test_closing_breaks_off_what_is_lent() -> None:
    async with world(MxBehaviour(replies={Say.DATA: HANG})) as at:
        sending = asyncio.ensure_future(at.send())
        await until(lambda: any("DATA" in record.verbs() for record in at.host.sessions))
        await at.pool.close()
        with pytest.raises(HostError):
            await sending
        await at.host.ended.wait_for(1)


async def test_closing_says_no_quit_within_content() -> None:
    under_way, stop = asyncio.Event(), asyncio.Event()

    async def content() -> AsyncIterator[bytes]:
        yield CONTENT
        yield CONTENT
        under_way.set()
        await stop.wait()
        yield CONTENT

    received = bytearray()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")
        await reader.readuntil(b"DATA\r\n")
        await say(writer, "250 ok\r\n250 ok\r\n354 go\r\n")
        while octets := await reader.read(4096):
            received.extend(octets)

    async with world(server=serve) as at:
        sending = asyncio.ensure_future(at.send(parcel(content=content)))
        await asyncio.wait_for(under_way.wait(), 5)
        await until(lambda: CONTENT in received)
        await at.pool.close()
        stop.set()
        with pytest.raises(HostError):
            await sending
        assert b"QUIT" not in received


async def test_closing_does_not_wait_for_close_notify() -> None:
    """A host that answers QUIT and keeps the connection open, or does not answer at all."""
    async with world(MxBehaviour(replies={Say.QUIT: raw(b"221 bye\r\n", accepts=False)})) as at:
        await at.send(level=Level.VERIFIED)
        async with asyncio.timeout(2):
            await at.pool.close()
        assert at.metric("pool_open_connections") == 0


async def test_after_closing_nothing_is_kept() -> None:
    async with world() as at:
        async with at.open() as session:
            await session.send(parcel())
            closing_pool = asyncio.ensure_future(at.pool.close())
            await asyncio.sleep(0)
        await closing_pool
        await at.host.ended.wait_for(1)


async def test_after_closing_nothing_is_opened() -> None:
    async with world() as at:
        await at.pool.close()
        assert (await at.fail()).failure.kind is FailureKind.INTERNAL
        assert len(at.host.sessions) == 0


# Metrics.


@pytest.mark.parametrize(
    ("behaviour", "result"),
    [
        (MxBehaviour(offers_starttls=False), "starttls-missing"),
        (MxBehaviour(certificate=CertificateKind.EXPIRED), "certificate"),
        (MxBehaviour(replies={Say.BANNER: "554 no"}), "reply"),
    ],
)
async def test_connections_that_could_not_be_had_are_counted_by_why(behaviour: MxBehaviour, result: str) -> None:
    async with world(behaviour) as at:
        await at.fail(level=Level.VERIFIED)
        assert at.metric("pool_connections_opened_total", result=result) == 1
        assert at.metric("pool_open_connections") == 0


async def test_many_jobs_at_once_share_what_there_is() -> None:
    async with world(max_messages=10) as at:
        gate = asyncio.Semaphore(5)

        async def deliver(number: int) -> None:
            async with gate, at.open(Level.VERIFIED) as session:
                people = recipients(f"r{number}@shop.test")
                result = await session.send(Parcel(message=message(), recipients=people, content=CONTENT))
                assert codes(result) == {1: 250}

        await asyncio.gather(*(deliver(number) for number in range(100)))
        assert len({letter.forward_paths for letter in at.host.messages}) == 100
        assert len(at.host.sessions) <= 15
        assert all(record.verbs().count("MAIL") <= 10 for record in at.host.sessions)
        assert at.host.violations == []
