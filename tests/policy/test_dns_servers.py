"""What keeps a forger out who cannot see our questions (RFC 5452), and which name server is asked when."""

import asyncio
import contextlib
import itertools
from collections.abc import AsyncIterator, Callable

import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import pytest
from dns_server import Zone, failing, serving, silent

from policy.dns_servers import NameServers, NoAnswerError
from policy.dns_wire import Question
from policy.nameservers import NameServer

QUESTION = Question(dns.name.from_text("x.test."), dns.rdatatype.TXT, dnssec=False, payload=1232)
Address = tuple[str, int]
OnQuestion = Callable[["Server", bytes, Address], None]


class Server(asyncio.DatagramProtocol):
    """A name server that notes where each question came from, and answers as a test says."""

    def __init__(self, on_question: OnQuestion) -> None:
        self.asked: list[tuple[Address, bytes]] = []
        self._on_question = on_question

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self.transport = transport

    def datagram_received(self, data: bytes, addr: Address) -> None:
        self.asked.append((addr, data))
        self._on_question(self, data, addr)

    def answer(self, data: bytes, to: Address, text: str = "real") -> None:
        self.transport.sendto(reply(data, text), to)


def reply(question: bytes, text: str) -> bytes:
    response = dns.message.make_response(dns.message.from_wire(question))
    response.answer.append(dns.rrset.from_text("x.test.", 300, "IN", "TXT", f'"{text}"'))
    return response.to_wire()


@contextlib.asynccontextmanager
async def listening(on_question: OnQuestion) -> AsyncIterator[tuple[Server, NameServers]]:
    loop = asyncio.get_running_loop()
    transport, server = await loop.create_datagram_endpoint(lambda: Server(on_question), local_addr=("127.0.0.1", 0))
    host, port = transport.get_extra_info("sockname")
    try:
        yield server, NameServers([NameServer(address=host, port=port)], patience_seconds=2)
    finally:
        transport.close()


def soon(seconds: float = 5) -> float:
    return asyncio.get_running_loop().time() + seconds


async def ask(nameservers: NameServers) -> str:
    (record,) = (await nameservers.ask(QUESTION, soon())).records
    return str(record)


async def test_c6_every_question_has_a_port_and_an_id_of_its_own() -> None:
    async with listening(Server.answer) as (server, nameservers):
        for _ in range(64):
            await ask(nameservers)
    ports = {address[1] for address, _ in server.asked}
    ids = {message[:2] for _, message in server.asked}
    # Out of 28,000 and 65,536: that more than a few of 64 fall together is out of the question.
    assert len(ports) > 50
    assert len(ids) > 50
    gaps = {port - last for last, port in itertools.pairwise(sorted(ports))}
    assert len(gaps) > 10


async def test_c6_of_all_that_comes_only_the_answer_from_that_server_is_heard() -> None:
    def forged_then_real(server: Server, data: bytes, to: Address) -> None:
        other.sendto(reply(data, "from elsewhere"), to)
        server.transport.sendto(b"", to)
        server.transport.sendto(b"\xff" * 40, to)
        wrong_id = bytes([data[0] ^ 1]) + data[1:]
        server.transport.sendto(reply(wrong_id, "wrong id"), to)
        server.answer(data, to)

    loop = asyncio.get_running_loop()
    other, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0))
    try:
        async with listening(forged_then_real) as (_, nameservers):
            assert await ask(nameservers) == '"real"'
    finally:
        other.close()


async def test_an_answer_that_cannot_be_is_a_complaint_at_once() -> None:
    def contradict(server: Server, data: bytes, to: Address) -> None:
        response = dns.message.from_wire(reply(data, "there"))
        response.set_rcode(dns.rcode.NXDOMAIN)
        server.transport.sendto(response.to_wire(), to)

    async with listening(contradict) as (server, nameservers):
        with pytest.raises(NoAnswerError) as caught:
            await nameservers.ask(QUESTION, soon())
    assert not caught.value.timed_out
    assert "said not to exist" in caught.value.complaints[0].words
    assert len(server.asked) == 1


async def test_who_says_nothing_is_asked_again_who_refuses_is_not() -> None:
    quiet = Zone(rules={("x.test", "TXT"): silent})
    unwilling = Zone(rules={("x.test", "TXT"): failing(dns.rcode.REFUSED)})
    async with serving(quiet) as first, serving(unwilling) as second:
        nameservers = NameServers([first, second], patience_seconds=0.05)
        asking = asyncio.create_task(nameservers.ask(QUESTION, soon(10)))
        async with asyncio.timeout(5):
            while len(quiet.asked) < 2:  # noqa: ASYNC110  the server has no event to wait for
                await asyncio.sleep(0.01)
        quiet.rules.clear()
        quiet.add("x.test", "TXT", '"at last"')
        assert [str(record) for record in (await asking).records] == ['"at last"']
    assert len(unwilling.asked) == 1


async def test_one_who_gives_up_leaves_nothing_behind() -> None:
    asked = asyncio.Event()
    async with listening(lambda *_: asked.set()) as (_, nameservers):
        asking = asyncio.create_task(nameservers.ask(QUESTION, soon()))
        await asked.wait()
        asking.cancel()
        with pytest.raises(asyncio.CancelledError):
            await asking  # an unclosed socket would be a warning, and so an error


async def test_an_answer_over_tcp_has_to_fit_the_question_too() -> None:
    def other(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.question[0].name = dns.name.from_text("y.test.")
        return response.to_wire()

    zone = Zone(truncate_udp=True)
    async with serving(zone) as server:

        def cut_off(query: dns.message.Message) -> bytes:
            zone.rules["x.test", "TXT"] = other
            response = dns.message.make_response(query)
            response.flags |= dns.flags.TC
            return response.to_wire()

        zone.rules["x.test", "TXT"] = cut_off
        with pytest.raises(NoAnswerError) as caught:
            await NameServers([server], patience_seconds=2).ask(QUESTION, soon())
    assert "another question" in caught.value.complaints[0].words
