"""The lab's client, against servers of a few lines."""

import asyncio
import ssl

import pytest

from relay.lab.ca import CertificateKind
from relay.lab.client import ClientReply, SmtpClient, submit
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import DROP, MxBehaviour, Phase
from relay.lab.wire import server_context


async def says(greeting: bytes, *, tls: ssl.SSLContext | None = None) -> tuple[asyncio.Server, str]:
    async def handle(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0, ssl=tls)
    return server, f"127.0.0.1:{server.sockets[0].getsockname()[1]}"


@pytest.mark.parametrize(
    ("sent", "reply"),
    [
        (b"220 a\r\n", ClientReply(220, ("a",))),
        (b"220\r\n", ClientReply(220, ("",))),
        (b"220-a\r\n220-\r\n220 b\r\n", ClientReply(220, ("a", "", "b"))),
        (b"220 a\n", ClientReply(220, ("a",))),
        (b"220 \xff\r\n", ClientReply(220, ("\\xff",))),
    ],
)
async def test_reads_a_reply(sent: bytes, reply: ClientReply) -> None:
    server, address = await says(sent)
    async with server, SmtpClient(address, timeout=5) as client:
        assert await client.connect() == reply
        assert await client.at_eof()


@pytest.mark.parametrize(
    ("sent", "error"),
    [(b"", EOFError), (b"220-a\r\n", EOFError), (b"hello\r\n", ValueError), (b"220-\r\n" * 1001, ValueError)],
)
async def test_what_is_no_reply_is_an_error(sent: bytes, error: type[Exception]) -> None:
    server, address = await says(sent)
    async with server, SmtpClient(address, timeout=5) as client:
        with pytest.raises(error):
            await client.connect()


async def test_connects_by_implicit_tls(lab: Lab, strict: ssl.SSLContext) -> None:
    context = server_context(lab.ca.identity(CertificateKind.GOOD, "relay.test"))
    server, address = await says(b"220 in TLS\r\n", tls=context)
    async with server, SmtpClient(address, timeout=5) as client:
        assert str(await client.connect(tls=strict, name="relay.test")) == "220 in TLS"
        assert client.tls is not None
        assert client.tls.version() == "TLSv1.3"


async def test_submits_by_starttls(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await lab.host("mx.test")
    result = await submit(f"{mx.address}:{mx.port}", "", ["b@x.test"], b"no end of line", tls=lenient, helo="me.test")
    assert result.accepted
    assert (mx.messages[0].tls, mx.messages[0].content, mx.messages[0].reverse_path) == (
        True,
        b"no end of line\r\n",
        "",
    )
    assert mx.sessions[0].hello == "me.test"


async def test_a_refused_starttls_is_said_in_plain_text(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await lab.host("mx.test", MxBehaviour(replies={Phase.STARTTLS: "454 4.7.0 Not now"}))
    async with SmtpClient(f"{mx.address}:{mx.port}", timeout=5) as client:
        await client.connect()
        await client.command("EHLO x")
        assert (await client.start_tls(lenient)).code == 454
        assert client.tls is None
        assert (await client.quit()).code == 221


@pytest.mark.parametrize(
    ("behaviour", "mail", "recipients", "data"),
    [
        (MxBehaviour(replies={Phase.MAIL: "550 5.7.1 No"}), 550, [], None),
        (MxBehaviour(replies={Phase.RCPT: "550 5.1.1 No"}), 250, [550], None),
        (MxBehaviour(replies={Phase.DATA: "451 4.3.0 No"}), 250, [250], 451),
        (MxBehaviour(replies={Phase.END_OF_DATA: "554 5.6.0 No"}), 250, [250], 554),
        (MxBehaviour(replies={Phase.QUIT: DROP}), 250, [250], 250),
    ],
)
async def test_tells_every_reply(
    lab: Lab, behaviour: MxBehaviour, mail: int, recipients: list[int], data: int | None
) -> None:
    mx = await lab.host("mx.test", behaviour)
    result = await submit(f"{mx.address}:{mx.port}", "a@x.test", ["b@x.test"], b"Hi\r\n")
    assert result.mail.code == mail
    assert [reply.code for reply in result.recipients] == recipients
    assert (result.data.code if result.data else None) == data
    assert result.accepted == (data == 250)
