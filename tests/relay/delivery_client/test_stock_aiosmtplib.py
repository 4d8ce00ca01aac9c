"""What aiosmtplib does as it is shipped, beside what our link makes of the same host. Not a gate."""

import asyncio
import inspect
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import aiosmtplib
import aiosmtplib.protocol
import pytest
from client_world import CONTENT, DESTINATION, LONG, codes, greet, parcel, say, world

from policy.requirement import Level
from relay.delivery.protocol import ReplyProtocol, SmtpClient
from relay.delivery.seam import HostError
from relay.lab.mx_behaviour import MxBehaviour, raw
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind


@asynccontextmanager
async def stock(port: int) -> AsyncIterator[aiosmtplib.SMTP]:
    client = aiosmtplib.SMTP(
        hostname="127.0.0.1", port=port, start_tls=False, local_hostname="relay.example.com", timeout=5
    )
    await client.connect()
    try:
        yield client
    finally:
        if isinstance(client.transport, asyncio.WriteTransport):
            client.transport.abort()
        client.close()


async def refuse_all(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that accepts the sender, says three things too many, and then refuses whatever comes."""
    await greet(reader, writer)
    await reader.readuntil(b"\r\n")
    await say(writer, "250 ok\r\n250 stale\r\n354 stale\r\n250 stale\r\n")
    while await reader.readuntil(b"\r\n"):
        await say(writer, "554 5.7.1 refused\r\n")


@pytest.mark.stock
async def test_stock_l2_stale_replies_answer_later_commands() -> None:
    async with world(server=refuse_all) as at, stock(at.port) as client:
        errors, reply = await client.sendmail("a@example.com", ["b@shop.test"], CONTENT)
        assert (errors, reply) == ({}, "stale")


async def test_l2_stale_replies_are_a_protocol_error() -> None:
    async with world(server=refuse_all) as at:
        error = await at.fail()
        assert error.failure.kind is FailureKind.PROTOCOL


MIXED = MxBehaviour(offers_starttls=False, replies={Say.END_OF_DATA: raw(b"550-no\r\n250 ok\r\n", accepts=False)})


@pytest.mark.stock
async def test_stock_l2_mixed_codes_count_as_the_last_one() -> None:
    async with world(MIXED) as at, stock(at.port) as client:
        errors, _ = await client.sendmail("a@example.com", ["b@shop.test"], CONTENT)
        assert errors == {}
        assert at.host.messages == []


async def test_l2_mixed_codes_deliver_nothing() -> None:
    async with world(MIXED) as at:
        result = await at.send()
        assert result.replies == {}
        assert result.failure is not None
        assert result.failure.kind is FailureKind.PROTOCOL


@pytest.mark.stock
async def test_stock_l12_int_reads_what_is_no_code() -> None:
    odd = MxBehaviour(offers_starttls=False, replies={Say.NOOP: raw(b"2_5 ok\r\n")})
    async with world(odd) as at, stock(at.port) as client:
        assert (await client.execute_command(b"NOOP")).code == 25


@pytest.mark.stock
async def test_stock_l5_the_default_goes_on_in_plaintext() -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at:
        client = aiosmtplib.SMTP(hostname="127.0.0.1", port=at.port, local_hostname="relay.example.com", timeout=5)
        async with client:
            await client.sendmail("a@example.com", ["b@shop.test"], CONTENT)
        assert not at.host.messages[0].tls


@pytest.mark.stock
async def test_stock_l6_a_bad_name_raises_what_nobody_expects() -> None:
    async with world() as at, stock(at.port) as client:
        with pytest.raises(UnicodeError) as caught:
            await client.starttls(server_hostname="a..b")
        assert not isinstance(caught.value, aiosmtplib.SMTPException)


async def sever(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    await greet(reader, writer)
    for reply in ("250 ok", "550 5.1.1 nobody", "421 4.3.2 going down"):
        await reader.readuntil(b"\r\n")
        await say(writer, reply + "\r\n")


@pytest.mark.stock
async def test_stock_l15_a_421_at_rcpt_loses_the_replies_before_it() -> None:
    async with world(server=sever) as at, stock(at.port) as client:
        with pytest.raises(aiosmtplib.SMTPServerDisconnected):
            await client.sendmail("a@example.com", ["b@shop.test", "c@shop.test", "d@shop.test"], CONTENT)


async def test_l15_a_421_at_rcpt_keeps_the_replies_before_it() -> None:
    async with world(server=sever) as at:
        result = await at.send(parcel("b@shop.test", "c@shop.test", "d@shop.test"))
        assert codes(result) == {1: 550}
        assert str(result.failure and result.failure.reply) == "421 4.3.2 going down"


@pytest.mark.stock
async def test_stock_l15_the_null_path_has_two_spellings() -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at, stock(at.port) as client:
        await client.ehlo()
        assert (await client.mail("")).code == 250
        with pytest.raises(ValueError):
            await client.mail("<>")


async def stall_at_content(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A host that asks for content and then reads none of it."""
    await greet(reader, writer)
    for reply in ("250 ok", "250 ok", "354 go ahead"):
        await reader.readuntil(b"\r\n")
        await say(writer, reply + "\r\n")
    await asyncio.Event().wait()


@pytest.mark.stock
async def test_stock_l15_content_is_written_without_flow_control() -> None:
    """All of it lies in memory once more, however slowly the host reads."""
    content = b"x" * 76 + b"\r\n"
    content *= 400_000
    async with world(server=stall_at_content) as at, stock(at.port) as client:
        sending = asyncio.create_task(client.sendmail("a@example.com", ["b@shop.test"], content))
        assert isinstance(client.transport, asyncio.WriteTransport)
        async with asyncio.timeout(10):
            while client.transport.get_write_buffer_size() < len(content) // 2:  # noqa: ASYNC110  its buffer is asked
                await asyncio.sleep(0.01)
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending


@pytest.mark.stock
def test_stock_addresses_are_rewritten() -> None:
    assert aiosmtplib.email.parse_address("a(b)c@d.test") == "ac@d.test"


@pytest.mark.stock
# Some releases of Python warn here, and go on.
@pytest.mark.filterwarnings("ignore:check_hostname requires server_hostname:DeprecationWarning")
async def test_stock_l4_an_empty_name_is_no_name_to_check() -> None:
    """asyncio takes "" for None, and OpenSSL then checks no name at all, whatever `check_hostname` says."""
    async with world(MxBehaviour(certificate_names=("somewhere-else.test",))) as at, stock(at.port) as client:
        context = at.connector._contexts.verified
        assert context.check_hostname
        assert (await client.starttls(server_hostname="", tls_context=context)).code == 220


async def test_l4_an_empty_name_is_refused() -> None:
    async with world() as at:
        with pytest.raises(HostError) as caught:
            async with at.pool.open(at.target(Level.VERIFIED, mx_host=""), destination=DESTINATION, size=LONG):
                pass
        assert caught.value.failure.kind is FailureKind.HANDSHAKE


@pytest.mark.rfc("smug-b")
async def test_l3_the_locked_library_refuses_line_breaks() -> None:
    version = tuple(int(part) for part in aiosmtplib.__version__.split(".")[:3])
    assert version >= (5, 1, 3)
    async with world() as at, stock(at.port) as client:
        with pytest.raises(ValueError):
            await client.execute_command(b"NOOP\r\nRSET")


def test_what_we_override_is_what_the_library_calls() -> None:
    """Private names that our subclasses rest on: another version of aiosmtplib must be looked at again."""
    assert SmtpClient._create_connection is not aiosmtplib.SMTP._create_connection
    assert "_create_connection(" in inspect.getsource(aiosmtplib.SMTP.connect)
    start_tls = inspect.getsource(aiosmtplib.protocol.SMTPProtocol.start_tls)
    assert start_tls.index("self.write(") < start_tls.index("self.read_response(")
    execute = inspect.getsource(aiosmtplib.protocol.SMTPProtocol.execute_command)
    assert execute.index("self.write(") < execute.index("self.read_response(")
    assert set(vars(ReplyProtocol)) >= {"read_response", "data_received", "eof_received", "connection_lost"}
    assert "_drain_helper" in vars(aiosmtplib.protocol.FlowControlMixin)
