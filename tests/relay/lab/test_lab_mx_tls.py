"""The lab's MX hosts, and what goes wrong with STARTTLS and TLS."""

import asyncio
import socket
import ssl
import warnings

import pytest

from relay.lab.ca import CertificateKind
from relay.lab.client import SmtpClient
from relay.lab.internet import Lab
from relay.lab.mx import LabMx
from relay.lab.mx_behaviour import (
    Handshake,
    MxBehaviour,
    raw,
)

from .lab_smtp import ENVELOPE, NAME, an_mx, at, codes, hello


async def test_starttls_not_offered(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, MxBehaviour(offers_starttls=False))
    assert "STARTTLS" not in await hello(client)


@pytest.mark.parametrize("reply", ["454 4.7.0 Not now", "500 5.5.1 What?", "554 5.7.0 No", "250 2.0.0 OK"])
async def test_starttls_refused(lab: Lab, client: SmtpClient, reply: str) -> None:
    await an_mx(lab, starttls=reply if not reply.startswith("250") else raw(reply.encode() + b"\r\n", accepts=False))
    await hello(client)
    assert str(await client.command("STARTTLS")) == reply
    assert (await client.command("NOOP")).code == 250


async def test_a_reply_is_injected_behind_starttls(lab: Lab, client: SmtpClient) -> None:
    await an_mx(lab, starttls=raw(b"220 2.0.0 Go ahead\r\n250-injected\r\n250 SIZE 1\r\n"))
    await hello(client)
    assert (await client.command("STARTTLS")).code == 220
    assert (await client.reply()).lines == ("injected", "SIZE 1")


async def test_bytes_before_the_handshake_are_thrown_away(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await an_mx(lab)
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        await client.send(b"STARTTLS\r\nMAIL FROM:<evil@x.test>\r\n")
        assert (await client.reply()).code == 220
    await mx.ended.wait_for(1)
    assert mx.violations == ["bytes after STARTTLS before its reply", "bytes between STARTTLS and the handshake"]
    assert mx.sessions[0].verbs() == ["EHLO", "STARTTLS"]


@pytest.mark.parametrize(
    ("handshake", "error"),
    [
        (Handshake.CLOSE, OSError),
        (Handshake.RESET, ConnectionResetError),
        (Handshake.ALERT, ssl.SSLError),
        (Handshake.GARBAGE, ssl.SSLError),
        (Handshake.PLAINTEXT, ssl.SSLError),
        (Handshake.HANG, TimeoutError),
    ],
)
async def test_handshakes_that_fail(
    lab: Lab, lenient: ssl.SSLContext, handshake: Handshake, error: type[Exception]
) -> None:
    mx = await an_mx(lab, MxBehaviour(handshake=handshake))
    async with SmtpClient(at(mx), timeout=0.2 if handshake is Handshake.HANG else 5) as client:
        await hello(client)
        with pytest.raises(error):
            await client.start_tls(lenient, NAME)
    await mx.ended.wait_for(1)


async def test_a_host_that_takes_a_small_client_hello_alone(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await an_mx(lab, MxBehaviour(handshake=Handshake.SMALL))
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        with pytest.raises(ConnectionResetError):
            await client.start_tls(lenient, NAME)
    lenient.maximum_version = ssl.TLSVersion.TLSv1_2
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        await client.start_tls(lenient, NAME)
        assert (await client.command("EHLO x")).code == 250
    assert [session.tls_version for session in mx.sessions] == [None, "TLSv1.2"]


async def test_a_session_that_goes_on_in_plain_text(lab: Lab, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(handshake=Handshake.PLAINTEXT))
    await hello(client)
    assert await codes(client, "STARTTLS", "EHLO x", *ENVELOPE) == [220, 250, 250, 250]
    assert mx.sessions[0].tls_version is None


@pytest.mark.parametrize("kind", [CertificateKind.EXPIRED, CertificateKind.WRONG_NAME, CertificateKind.SELF_SIGNED])
async def test_a_certificate_that_the_client_refuses(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, kind: CertificateKind
) -> None:
    mx = await an_mx(lab, MxBehaviour(certificate=kind))
    await hello(client)
    with pytest.raises(ssl.SSLCertVerificationError):
        await client.start_tls(strict, NAME)
    (session,) = await mx.ended.wait_for(1)
    assert session.sni == NAME
    assert session.tls_failure
    assert session.verbs() == ["EHLO", "STARTTLS"]


async def test_a_certificate_for_other_names(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab, MxBehaviour(certificate_names=("shop.test",)))
    await hello(client)
    with pytest.raises(ssl.SSLCertVerificationError, match="Hostname mismatch"):
        await client.start_tls(strict, NAME)


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_a_host_that_knows_old_tls_only(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, version: ssl.TLSVersion
) -> None:
    await an_mx(lab, MxBehaviour(newest_tls=version))
    await hello(client)
    with pytest.raises(ssl.SSLError):
        await client.start_tls(strict, NAME)


async def test_old_tls_works_for_those_who_take_it(lab: Lab, lenient: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(newest_tls=ssl.TLSVersion.TLSv1))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        lenient.minimum_version = ssl.TLSVersion.TLSv1
    lenient.set_ciphers("DEFAULT:@SECLEVEL=0")
    await hello(client)
    await client.start_tls(lenient, NAME)
    assert await codes(client, "EHLO x") == [250]
    assert mx.sessions[0].tls_version == "TLSv1"


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_one_version_of_tls(
    lab: Lab, strict: ssl.SSLContext, client: SmtpClient, version: ssl.TLSVersion
) -> None:
    mx = await an_mx(lab, MxBehaviour(oldest_tls=version, newest_tls=version))
    await hello(client)
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x", *ENVELOPE) == [250] * 3
    assert (mx.sessions[0].tls_version or "").replace(".", "_") == version.name


async def test_other_keywords_after_tls(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    mx = await an_mx(lab, MxBehaviour(keywords_in_tls=("8BITMIME",), size=None))
    assert "DSN" in await hello(client)
    await client.start_tls(strict, NAME)
    assert (await client.command("EHLO x")).lines == (NAME, "8BITMIME")
    assert await codes(client, "MAIL FROM:<a@x.test> RET=FULL") == [555]
    assert mx.violations == ["parameter RET that was not offered"]


async def test_starttls_twice(lab: Lab, strict: ssl.SSLContext, client: SmtpClient) -> None:
    await an_mx(lab)
    await hello(client)
    await client.start_tls(strict, NAME)
    assert await codes(client, "EHLO x", "STARTTLS") == [250, 503]


async def test_a_new_certificate_for_new_connections(lab: Lab, strict: ssl.SSLContext) -> None:
    mx = await an_mx(lab)
    mx.behaviour = MxBehaviour(certificate=CertificateKind.EXPIRED)
    async with SmtpClient(at(mx), timeout=5) as client:
        await hello(client)
        with pytest.raises(ssl.SSLCertVerificationError, match="expired"):
            await client.start_tls(strict, NAME)


async def test_a_resumed_tls_session_is_seen(lab: Lab, strict: ssl.SSLContext) -> None:
    mx = await an_mx(lab, MxBehaviour(newest_tls=ssl.TLSVersion.TLSv1_2))
    session: ssl.SSLSession | None = None
    for _connection in range(2):
        session = await asyncio.to_thread(shake_hands, mx, strict, session)
    await mx.ended.wait_for(2)
    assert [one.tls_resumed for one in mx.sessions] == [False, True]


def shake_hands(mx: LabMx, context: ssl.SSLContext, session: ssl.SSLSession | None) -> ssl.SSLSession | None:
    with socket.create_connection((mx.address, mx.port), timeout=5) as plain:
        plain.recv(1000)
        for command in (b"EHLO x\r\n", b"STARTTLS\r\n"):
            plain.sendall(command)
            plain.recv(1000)
        with context.wrap_socket(plain, server_hostname=NAME, session=session) as tls:
            return tls.session


async def test_implicit_tls_says_nothing_before_the_handshake(lab: Lab, lenient: ssl.SSLContext) -> None:
    mx = await an_mx(lab, MxBehaviour(implicit_tls=True))
    reader, writer = await asyncio.open_connection(mx.address, mx.port, ssl=lenient, server_hostname=NAME)
    async with asyncio.timeout(5):
        assert (await reader.readline()).startswith(b"220 ")
        writer.write(b"EHLO x.test\r\n")
        assert b"STARTTLS" not in await reader.readuntil(b"250 ")
    writer.transport.abort()
