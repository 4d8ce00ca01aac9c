"""Counting replies, without a network."""

import asyncio
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.delivery.protocol import TLS_OVERHEAD, Answers, LinkError, ReplyProtocol
from relay.queue.attempt import FailureKind
from relay.status import Reply

NOW = timedelta(0)


class StubTransport(asyncio.Transport):
    """Takes what is written; `unwritten` is what it says it has not got rid of."""

    def __init__(self, unwritten: int = 0) -> None:
        super().__init__()
        self.unwritten = unwritten
        self.aborted = False
        self.written: list[bytes] = []

    def write(self, data: bytes | bytearray | memoryview) -> None:
        assert not self.aborted
        self.written.append(bytes(data))

    def get_write_buffer_size(self) -> int:
        return self.unwritten

    def is_closing(self) -> bool:
        return self.aborted

    def abort(self) -> None:
        self.aborted = True


class Exchange:
    """A protocol past its greeting, and what one transaction is owed on it."""

    def __init__(self, *, owed: int, transport: StubTransport) -> None:
        self.protocol = ReplyProtocol(lambda _protocol: None)
        self.protocol.connection_made(transport)
        self.hear(b"220 hello\r\n")
        self.answers = Answers(self.protocol)
        if owed:
            self.protocol.expect(self.answers, owed)

    def hear(self, octets: bytes) -> None:
        self.protocol.data_received(octets)

    async def reply(self, limit: timedelta = NOW) -> Reply:
        return await self.answers.next(limit)


@given(st.integers(0, 6), st.lists(st.integers(200, 599), max_size=8), st.integers(1, 60))
def test_l2_replies_are_counted_and_nothing_comes_after_them(owed: int, codes: list[int], size: int) -> None:
    async def scenario() -> None:
        transport = StubTransport()
        link = Exchange(owed=owed, transport=transport)
        octets = b"".join(b"%d text\r\n" % code for code in codes)
        for start in range(0, len(octets), size):
            link.hear(octets[start : start + size])
        if len(codes) > owed:
            assert transport.aborted
            with pytest.raises(LinkError) as caught:
                await link.reply()
            assert caught.value.kind is FailureKind.PROTOCOL
        else:
            assert [(await link.reply()).code for _ in codes] == codes
            assert link.answers.owed == owed - len(codes)
            assert not transport.aborted

    asyncio.run(scenario())


async def test_e3_a_reply_before_the_content_is_out_is_none() -> None:
    transport = StubTransport(unwritten=1)
    link = Exchange(owed=1, transport=transport)
    link.answers.content_end = 0
    link.hear(b"250 taken\r\n")
    with pytest.raises(LinkError, match="before it had the whole content") as caught:
        await link.reply()
    assert caught.value.kind is FailureKind.PROTOCOL
    assert transport.aborted


async def test_replies_that_came_before_the_end_are_still_had() -> None:
    link = Exchange(owed=2, transport=StubTransport())
    link.hear(b"250 taken\r\n")
    link.protocol.eof_received()
    assert (await link.reply()).code == 250
    with pytest.raises(LinkError) as caught:
        await link.reply()
    assert caught.value.kind is FailureKind.BROKEN_OFF


async def test_a_fault_outranks_replies_that_nobody_has_taken() -> None:
    link = Exchange(owed=2, transport=StubTransport())
    link.hear(b"250 taken\r\n554 refused\r\n250 what\r\n")
    with pytest.raises(LinkError) as caught:
        await link.reply()
    assert caught.value.kind is FailureKind.PROTOCOL


async def test_what_comes_after_the_end_is_not_looked_at() -> None:
    link = Exchange(owed=1, transport=StubTransport())
    link.protocol.eof_received()
    link.hear(b"250 late\r\n")
    with pytest.raises(LinkError) as caught:
        await link.reply()
    assert caught.value.kind is FailureKind.BROKEN_OFF


async def test_after_a_reply_that_came_too_late_the_connection_is_of_no_use() -> None:
    link = Exchange(owed=1, transport=StubTransport())
    with pytest.raises(LinkError) as caught:
        await link.reply(timedelta(milliseconds=1))
    assert caught.value.kind is FailureKind.TIMEOUT
    assert not link.protocol.usable


async def test_the_last_reply_closes_a_connection_that_is_being_left() -> None:
    transport = StubTransport()
    link = Exchange(owed=1, transport=transport)
    link.protocol.leaving = True
    link.hear(b"221 by")
    assert not transport.is_closing()
    link.hear(b"e\r\n")
    assert transport.is_closing()
    await link.protocol.closed


@pytest.mark.rfc("2920-3.1-c")
@given(st.lists(st.integers(1, 4), min_size=1, max_size=4), st.integers(1, 60), st.booleans())
def test_l2_replies_are_dealt_out_in_order_and_a_fault_takes_none_of_those_before(
    groups: list[int], size: int, babbles: bool
) -> None:
    async def scenario() -> None:
        exchange = Exchange(owed=groups[0], transport=StubTransport())
        behind = [Answers(exchange.protocol) for _ in groups[1:]]
        for answers, owed in zip(behind, groups[1:], strict=True):
            exchange.protocol.expect(answers, owed)
        *others, last = (exchange.answers, *behind)
        codes = list(range(200, 200 + sum(groups)))
        octets = b"".join(b"%d text\r\n" % code for code in codes[:-1]) + (b"babble\r\n" if babbles else b"299 end\r\n")
        for start in range(0, len(octets), size):
            exchange.hear(octets[start : start + size])
        dealt = [
            [(await answers.next(NOW)).code for _ in range(owed)] for answers, owed in zip(others, groups, strict=False)
        ]
        assert [code for group in dealt for code in group] == codes[: sum(groups[:-1])]
        if babbles:
            with pytest.raises(LinkError) as caught:
                await last.next(NOW)
            assert caught.value.kind is FailureKind.PROTOCOL
        else:
            assert [(await last.next(NOW)).code for _ in range(groups[-1])] == [*codes[sum(groups[:-1]) : -1], 299]

    asyncio.run(scenario())


async def test_what_is_written_in_one_turn_is_written_at_once() -> None:
    transport = StubTransport()
    exchange = Exchange(owed=0, transport=transport)
    exchange.protocol.write(b"one ")
    exchange.protocol.write(b"two")
    assert transport.written == []
    await asyncio.sleep(0)
    exchange.protocol.write(b"three ")
    exchange.protocol.write_now(b"four")
    assert transport.written == [b"one two", b"three ", b"four"]
    await asyncio.sleep(0)
    exchange.protocol.write(b"never")
    exchange.protocol.abort()
    await asyncio.sleep(0)
    assert transport.written == [b"one two", b"three ", b"four"]


@pytest.mark.parametrize(("unwritten", "early"), [(40, False), (40 + TLS_OVERHEAD, False), (41 + TLS_OVERHEAD, True)])
async def test_e3_commands_behind_the_content_are_not_taken_for_content(unwritten: int, early: bool) -> None:
    exchange = Exchange(owed=1, transport=StubTransport(unwritten))
    exchange.answers.content_end = exchange.protocol.written
    exchange.protocol.write_now(b"x" * 40)
    exchange.hear(b"250 taken\r\n")
    assert (exchange.protocol.fault is not None) is early


async def test_an_abandoned_transaction_ends_the_connection_when_its_turn_comes() -> None:
    transport = StubTransport()
    exchange = Exchange(owed=1, transport=transport)
    behind = Answers(exchange.protocol)
    exchange.protocol.expect(behind, 3)
    exchange.protocol.abandon(behind)
    assert (transport.is_closing(), exchange.protocol.usable) == (False, False)
    exchange.hear(b"250 taken\r\n")
    assert transport.is_closing()
    assert (await exchange.reply()).code == 250
