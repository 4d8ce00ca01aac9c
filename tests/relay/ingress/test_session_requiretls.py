"""REQUIRETLS and TLS-Required: No as clients say them (RFC 8689)."""

import ssl
from pathlib import Path

import pytest
from certs import CertificateAuthority
from ingress_world import RawClient, World, body, settings, tls_listener, world

from relay.ingress.settings import IngressSettings, ListenerSettings, TlsMode, TlsRequiredNo
from relay.queue.message import NewMessage, Ret

AUTHORITY = CertificateAuthority()
MAIL = b"MAIL FROM:<alice@example.com> REQUIRETLS"
NO = b"TLS-Required: No\r\nSubject: hello\r\n\r\nhello\r\n"


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return AUTHORITY.issue(["relay.example.com"]).write(tmp_path / "server.pem")


def trusting() -> ssl.SSLContext:
    return ssl.create_default_context(cadata=AUTHORITY.pem.decode())


async def in_tls(it: World, listener: int = 0) -> RawClient:
    client = await it.ready(listener)
    assert (await client.say(b"STARTTLS")).code == 220
    await client.start_tls(trusting())
    return client


async def deliver(it: World, client: RawClient, mail: bytes, content: bytes = NO) -> NewMessage:
    assert (await client.say(mail)).short == "250 2.1.0"
    assert (await client.say(b"RCPT TO:<bob@remote.test>")).code == 250
    assert (await client.data(content)).code == 250
    return it.store.messages[-1]


@pytest.mark.rfc("8689-2-a", "8689-2-d", "8689-2-f", "8689-4.3-a")
async def test_it_is_offered_within_tls_alone(pem: Path) -> None:
    implicit = tls_listener(pem, TlsMode.IMPLICIT)
    async with world(settings(tls_listener(pem), implicit, ListenerSettings(address="127.0.0.1:0"))) as it:
        client = await it.connect()
        assert "REQUIRETLS" not in (await client.hello()).lines
        await client.say(b"STARTTLS")
        await client.start_tls(trusting())
        assert "REQUIRETLS" in (await client.hello()).lines
        secured = await it.connect(1, ssl=trusting(), server_hostname="relay.example.com")
        assert "REQUIRETLS" in (await secured.hello()).lines
        plain = await it.connect(2)
        assert "REQUIRETLS" not in (await plain.hello()).lines


@pytest.mark.rfc("8689-4.1-a", "8689-2-c", "8689-g-b")
async def test_the_message_is_tagged(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await in_tls(it)
        await client.hello()
        message = await deliver(it, client, MAIL + b" RET=FULL", b"Subject: x\r\n\r\nx\r\n")
        assert (message.require_tls, message.tls_optional, message.envelope.ret) == (True, False, Ret.FULL)
        long = (
            b"MAIL FROM:<" + b"a" * 64 + b"@" + b".".join([b"d" * 60] * 3) + b"> ENVID=" + b"e" * 100 + b" REQUIRETLS"
        )
        assert (await deliver(it, client, long)).require_tls
        assert not (await deliver(it, client, b"MAIL FROM:<alice@example.com>")).require_tls
        assert (await deliver(it, client, b"MAIL FROM:<> REQUIRETLS")).require_tls
        assert it.metric("requiretls_messages_total") == 3


@pytest.mark.rfc("8689-2-e")
async def test_in_the_clear_it_is_refused(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await it.ready()
        assert (await client.say(MAIL)).short == "530 5.7.10"
        assert (await client.say(MAIL + b"=1")).short == "501 5.5.4"
        assert (await client.say(b"RCPT TO:<b@x.test>")).code == 503


@pytest.mark.rfc("8689-2-g")
async def test_switched_off_it_is_neither_offered_nor_known(pem: Path) -> None:
    async with world(settings(tls_listener(pem), requiretls=False)) as it:
        client = await in_tls(it)
        assert "REQUIRETLS" not in (await client.hello()).lines
        assert (await client.say(MAIL)).short == "555 5.5.4"


async def test_after_helo_there_are_no_extensions(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await in_tls(it)
        await client.hello(b"HELO c")
        assert (await client.say(MAIL)).short == "555 5.5.4"


def lenient(*listeners: ListenerSettings) -> IngressSettings:
    return settings(*listeners, tls_required_no=TlsRequiredNo.HONOUR)


@pytest.mark.rfc("8689-3-g", "8689-3-h")
async def test_tls_required_no_is_ignored_unless_the_operator_says_otherwise() -> None:
    async with world() as it:
        message = await it.deliver(NO)
        assert (message.require_tls, message.tls_optional) == (False, False)
        assert body(message) == NO
        assert it.metric("tls_required_no_total", result="ignored") == 1


@pytest.mark.rfc("8689-4.1-b", "8689-3-h")
async def test_tls_required_no_can_be_honoured() -> None:
    async with world(lenient()) as it:
        message = await it.deliver(NO)
        assert (message.require_tls, message.tls_optional) == (False, True)
        assert body(message) == NO
        assert not (await it.deliver(b"Subject: x\r\n\r\nTLS-Required: No\r\n")).tls_optional
        assert it.metric("tls_required_no_total", result="honoured") == 1


@pytest.mark.rfc("8689-4.1-c")
async def test_the_parameter_overrules_the_field(pem: Path) -> None:
    async with world(lenient(tls_listener(pem))) as it:
        client = await in_tls(it)
        await client.hello()
        message = await deliver(it, client, MAIL)
        assert (message.require_tls, message.tls_optional) == (True, False)
        assert body(message) == NO
        assert it.metric("tls_required_no_total", result="overruled") == 1
