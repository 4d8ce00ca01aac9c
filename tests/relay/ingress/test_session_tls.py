"""Sessions over a real socket: STARTTLS, implicit TLS, client certificates, AUTH."""

import asyncio
import base64
import os
import smtplib
import ssl
import warnings
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from certs import CertificateAuthority, Issued
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import ExtendedKeyUsageOID
from ingress_world import LIMIT, RawClient, World, body, settings, tls_listener, world

from relay.ingress.settings import AccessSettings, ListenerSettings, TlsMode
from relay.ingress.tls import CertificateError, ServerTls

AUTHORITY = CertificateAuthority()
SERVER = AUTHORITY.issue(["relay.example.com"])
NOBODY = AccessSettings(networks=())
HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)


def b64(text: str) -> bytes:
    return base64.b64encode(text.encode())


ALICE = b64("\0alice\0secret")
MALLORY = b64("\0alice\0guess")


@pytest.fixture
def pem(tmp_path: Path) -> Path:
    return SERVER.write(tmp_path / "server.pem")


@pytest.fixture
def users(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"alice:{HASHER.hash('secret')}\n")
    return path


def trusting(certificate: Path | None = None) -> ssl.SSLContext:
    """A client's context that verifies the relay by name, with a certificate of its own if given."""
    context = ssl.create_default_context(cadata=AUTHORITY.pem.decode())
    if certificate is not None:
        context.load_cert_chain(certificate)
    return context


async def in_tls(it: World, context: ssl.SSLContext | None = None) -> RawClient:
    """A client that has come through STARTTLS and said EHLO again."""
    client = await it.ready()
    assert (await client.say(b"STARTTLS")).short == "220 2.0.0"
    await client.start_tls(context or trusting())
    assert (await client.hello()).code == 250
    return client


@pytest.mark.rfc("3207-4-a", "3207-4.2-c", "3848-1-a", "8314-4.3-a")
async def test_starttls(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await it.connect()
        assert "STARTTLS" in (await client.hello()).lines
        assert (await client.say(b"STARTTLS now")).short == "501 5.5.4"
        assert (await client.say(b"STARTTLS")).short == "220 2.0.0"
        await client.start_tls(trusting())
        reply = await client.hello()
        assert "STARTTLS" not in reply.lines
        assert not any(line.startswith("AUTH") for line in reply.lines)
        assert (await client.say(b"STARTTLS")).short == "503 5.5.1"
        await client.mail()
        assert (await client.data(b"hi\r\n")).code == 250
        message = it.store.messages[0]
        assert isinstance(message.content, bytes)
        assert b"with ESMTPS id id1" in message.content
        assert b"\r\n\ttls TLS_AES_256_GCM_SHA384;\r\n" in message.content
        assert (message.client.tls_version, message.client.tls_cipher) == ("TLSv1.3", "TLS_AES_256_GCM_SHA384")
        assert (await client.say(b"QUIT")).short == "221 2.0.0"


@pytest.mark.rfc("3207-4.2-a")
async def test_what_was_said_before_starttls_is_forgotten(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await it.ready()
        await client.mail()
        await client.say(b"STARTTLS")
        await client.start_tls(trusting())
        assert (await client.say(b"RCPT TO:<b@x.test>")).short == "503 5.5.1"
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "503 5.5.1"


@pytest.mark.rfc("3207-4.2-d", "2920-3.2-c")
@pytest.mark.parametrize("injected", [b"RSET\r\n", b"EHLO evil\r\nMAIL FROM:<evil@x.test>\r\n", b"x"])
async def test_plaintext_behind_starttls_ends_the_session(pem: Path, injected: bytes) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await it.ready()
        await client.send(b"STARTTLS\r\n" + injected)
        assert await client.closed() == b""


@pytest.mark.rfc("3207-4-c", "9325-3.2-a", "code-p")
async def test_starttls_can_be_required(pem: Path) -> None:
    async with world(settings(tls_listener(pem, TlsMode.STARTTLS_REQUIRED))) as it:
        client = await it.connect()
        for line in (
            b"HELO c",
            b"MAIL FROM:<a@x.test>",
            b"RSET",
            b"VRFY x",
            b"HELP",
            b"AUTH PLAIN",
            b"DATA",
            b"BDAT 0",
        ):
            assert (await client.say(line)).short == "530 5.7.0"
        assert (await client.say(b"NOOP")).code == 250
        assert (await client.hello()).code == 250
        assert (await client.say(b"STARTTLS")).code == 220
        await client.start_tls(trusting())
        await client.hello()
        await client.mail()
        assert (await client.say(b"QUIT")).code == 221


async def test_implicit_tls(pem: Path) -> None:
    async with world(settings(tls_listener(pem, TlsMode.IMPLICIT))) as it:
        client = await it.connect(ssl=trusting(), server_hostname="relay.example.com")
        assert "STARTTLS" not in (await client.hello()).lines
        assert (await client.say(b"STARTTLS")).short == "503 5.5.1"
        await client.mail()
        assert (await client.data(b"x\r\n" * 1000)).code == 250
        assert b"with ESMTPS" in it.store.messages[0].content  # type: ignore[operator]
        assert (await client.say(b"QUIT")).code == 221
        assert await client.closed() == b""


async def test_a_client_hello_waits_for_tls_while_a_new_certificate_is_loaded(pem: Path) -> None:
    """The ClientHello is there before the context is; it must not be taken for plaintext sent ahead of TLS."""
    async with world(settings(tls_listener(pem, TlsMode.IMPLICIT))) as it:
        for days in range(1, 11):
            os.utime(pem, (days * 86400, days * 86400))
            client = await it.connect(ssl=trusting(), server_hostname="relay.example.com")
            assert (await client.say(b"QUIT")).code == 221


@pytest.mark.rfc("9325-4.1-a", "9325-4.1-b", "9325-4.2-a")
async def test_every_cipher_of_a_listener_has_forward_secrecy(pem: Path) -> None:
    names = [cipher["name"] for cipher in ServerTls(tls_listener(pem)).context.get_ciphers()]
    assert {"ECDHE-RSA-AES128-GCM-SHA256", "ECDHE-RSA-AES256-GCM-SHA384"} <= set(names)
    assert not [name for name in names if not name.startswith(("TLS_", "ECDHE-", "DHE-"))]
    assert not [name for name in names if name.endswith("-SHA") or "PSK" in name]


async def test_handshake_has_a_limit_of_its_own(pem: Path) -> None:
    limits = settings(tls_listener(pem), tls_listener(pem, TlsMode.IMPLICIT), handshake_timeout=timedelta(seconds=0.1))
    async with world(limits) as it:
        client = await it.ready()
        await client.say(b"STARTTLS")
        assert await client.closed() == b""
        implicit = await it.connect(1, greeted=False)
        assert await implicit.closed() == b""


async def test_failed_handshake_ends_the_session_and_is_counted_out(pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        client = await it.ready()
        await client.say(b"STARTTLS")
        await client.send(b"EHLO what TLS?\r\n")
        await client.closed()
        await it.until(lambda: it.listeners.session_count == 0)
        assert it.listeners._shared.connections.open == 0


async def test_nothing_is_said_in_the_clear_where_tls_is_implicit(pem: Path) -> None:
    for access in (AccessSettings(max_connections=1), AccessSettings(max_connections_per_client=1)):
        async with world(settings(tls_listener(pem, TlsMode.IMPLICIT), access=access)) as it:
            await it.connect(ssl=trusting(), server_hostname="relay.example.com")
            second = await it.connect(greeted=False)
            assert await second.closed() == b""


@pytest.mark.rfc("9325-3.1.1-a", "9325-3.1.3-a")
async def test_tls_1_1_is_refused(pem: Path) -> None:
    old = trusting()
    old.set_ciphers("DEFAULT:@SECLEVEL=0")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        old.minimum_version = ssl.TLSVersion.TLSv1
        old.maximum_version = ssl.TLSVersion.TLSv1_1
    async with world(settings(tls_listener(pem))) as it:
        client = await it.ready()
        await client.say(b"STARTTLS")
        with pytest.raises((ssl.SSLError, ConnectionError)):
            await client.start_tls(old)


@pytest.mark.rfc("9325-3.1.1-b", "9325-3.3-a", "9325-3.4-a")
@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_no_session_tickets(pem: Path, version: ssl.TLSVersion) -> None:
    context = trusting()
    context.minimum_version = context.maximum_version = version
    async with world(settings(tls_listener(pem))) as it:
        client = await in_tls(it, context)
        await client.say(b"NOOP")
        tls = client.writer.get_extra_info("ssl_object")
        assert tls.session is None or not tls.session.has_ticket
        assert tls.compression() is None


@pytest.mark.rfc("4954-4-b", "4954-4-c", "4954-6-a", "4954-7-a", "3848-1-a")
async def test_auth_admits_in_tls_only(pem: Path, users: Path) -> None:
    access = replace(NOBODY, users_file=users)
    async with world(settings(tls_listener(pem), access=access)) as it:
        client = await it.connect()
        assert not any(line.startswith("AUTH") for line in (await client.hello()).lines)
        assert (await client.say(b"AUTH PLAIN " + ALICE)).short == "538 5.7.11"
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "530 5.7.0"
        await client.say(b"STARTTLS")
        await client.start_tls(trusting())
        assert (await client.say(b"AUTH PLAIN " + ALICE)).short == "503 5.5.1"
        assert "AUTH PLAIN LOGIN" in (await client.hello()).lines
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "530 5.7.0"
        assert (await client.say(b"auth plain " + ALICE)).short == "235 2.7.0"
        assert (await client.say(b"AUTH PLAIN " + ALICE)).short == "503 5.5.1"
        await client.mail(sender=b"<a@x.test> AUTH=a@x.test")
        assert (await client.data(b"hi\r\n")).code == 250
        message = it.store.messages[0]
        assert message.client.user == "alice"
        assert b"with ESMTPSA id" in message.content  # type: ignore[operator]


@pytest.mark.rfc("4954-4-a", "4954-6-a")
@pytest.mark.parametrize(
    ("lines", "shorts"),
    [
        ([b"AUTH PLAIN", ALICE], ["334", "235 2.7.0"]),
        ([b"AUTH LOGIN", b64("alice"), b64("secret")], ["334", "334", "235 2.7.0"]),
        ([b"AUTH LOGIN " + b64("alice"), b64("secret")], ["334", "235 2.7.0"]),
        ([b"AUTH PLAIN *"], ["501 5.7.0"]),
        ([b"AUTH PLAIN", b"*"], ["334", "501 5.7.0"]),
        ([b"AUTH LOGIN", b64("alice"), b"*"], ["334", "334", "501 5.7.0"]),
        ([b"AUTH PLAIN ="], ["501 5.5.2"]),
        ([b"AUTH PLAIN !!!"], ["501 5.5.2"]),
        ([b"AUTH PLAIN", b"x" * 12_288], ["334", "501 5.5.2"]),
        ([b"AUTH PLAIN", b"x" * 12_400], ["334", "500 5.5.6"]),
        ([b"AUTH"], ["504 5.5.4"]),
        ([b"AUTH CRAM-MD5"], ["504 5.5.4"]),
        ([b"AUTH PLAIN " + b64("\0alice\0guess")], ["535 5.7.8"]),
        ([b"AUTH PLAIN " + b64("\0nobody\0guess")], ["535 5.7.8"]),
        ([b"MAIL FROM:<>", b"AUTH PLAIN " + ALICE], ["250 2.1.0", "503 5.5.1"]),
    ],
)
async def test_auth_exchange(pem: Path, users: Path, lines: list[bytes], shorts: list[str]) -> None:
    async with world(settings(tls_listener(pem), access=AccessSettings(users_file=users))) as it:
        client = await in_tls(it)
        assert [(await client.say(line)).short for line in lines] == shorts
        assert (await client.say(b"NOOP")).code == 250


async def test_auth_login_prompts_are_what_clients_expect(pem: Path, users: Path) -> None:
    async with world(settings(tls_listener(pem), access=AccessSettings(users_file=users))) as it:
        client = await in_tls(it)
        assert (await client.say(b"AUTH LOGIN")).lines == [b64("Username:").decode()]
        assert (await client.say(b64("alice"))).lines == [b64("Password:").decode()]


async def test_stop_interrupts_an_exchange_of_credentials(pem: Path, users: Path) -> None:
    async with world(settings(tls_listener(pem), access=AccessSettings(users_file=users))) as it:
        client = await in_tls(it)
        assert (await client.say(b"AUTH LOGIN")).code == 334
        await it.listeners.stop(timedelta(seconds=LIMIT))
        assert (await client.reply()).short == "421 4.3.2"


async def test_standard_library_client_sends_a_message(pem: Path, users: Path) -> None:
    def send(address: tuple[str, int]) -> None:
        with smtplib.SMTP(*address, timeout=LIMIT) as client:
            client._host = "relay.example.com"  # type: ignore[attr-defined]  # the name to verify
            client.starttls(context=trusting())
            client.login("alice", "secret")
            client.sendmail(
                "a@x.test", ["b@x.test", "c@x.test"], b"Subject: x\r\n\r\n.dot\r\n", ["BODY=8BITMIME"], ["NOTIFY=NEVER"]
            )

    async with world(settings(tls_listener(pem), access=replace(NOBODY, users_file=users))) as it:
        await asyncio.to_thread(send, it.listeners.addresses[0])
        assert body(it.store.messages[0]) == b"Subject: x\r\n\r\n.dot\r\n"
        assert it.store.messages[0].client.user == "alice"


@pytest.mark.rfc("4954-9-a")
async def test_third_failed_try_ends_the_session_and_then_the_address_waits(pem: Path, users: Path) -> None:
    async with world(settings(tls_listener(pem), access=AccessSettings(users_file=users))) as it:
        client = await in_tls(it)
        for _ in range(3):
            assert (await client.say(b"AUTH PLAIN " + MALLORY)).short == "535 5.7.8"
        assert (await client.reply()).short == "421 4.7.0"
        assert await client.closed() == b""
        again = await in_tls(it)
        assert (await again.say(b"AUTH PLAIN " + ALICE)).short == "454 4.7.0"
        it.clock.move(timedelta(seconds=2))
        assert (await again.say(b"AUTH PLAIN " + ALICE)).short == "235 2.7.0"


async def test_many_connections_at_once_get_no_more_tries_than_one(pem: Path, users: Path) -> None:
    async with world(settings(tls_listener(pem), access=AccessSettings(users_file=users))) as it:
        clients = [await in_tls(it) for _ in range(12)]
        replies = await asyncio.gather(*(client.say(b"AUTH PLAIN " + MALLORY) for client in clients))
        tried = [reply for reply in replies if reply.short == "535 5.7.8"]
        assert 3 <= len(tried) <= 4, "three are free, and two are looked at side by side"
        assert {reply.short for reply in replies} == {"535 5.7.8", "454 4.7.0"}


def client_certificate(path: Path, *names: str) -> Issued:
    issued = AUTHORITY.issue(names, usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    issued.write(path)
    return issued


@pytest.mark.parametrize("mode", [TlsMode.STARTTLS, TlsMode.IMPLICIT])
async def test_listed_client_certificate_admits(tmp_path: Path, pem: Path, mode: TlsMode) -> None:
    ca = AUTHORITY.write(tmp_path / "ca.pem")
    listed, other = tmp_path / "listed.pem", tmp_path / "other.pem"
    client_certificate(listed, "mx1.example.com")
    client_certificate(other, "mx2.example.com")
    access = replace(NOBODY, certificates=("mx1.example.com",))
    async with world(settings(tls_listener(pem, mode, client_ca=ca), access=access)) as it:
        for certificate, short in ((listed, "250 2.1.0"), (other, "550 5.7.64"), (None, "550 5.7.64")):
            if mode is TlsMode.IMPLICIT:
                client = await it.connect(ssl=trusting(certificate), server_hostname="relay.example.com")
                await client.hello()
            else:
                client = await in_tls(it, trusting(certificate))
            assert (await client.say(b"MAIL FROM:<a@x.test>")).short == short


async def test_certificate_can_be_listed_by_fingerprint(tmp_path: Path, pem: Path) -> None:
    path = tmp_path / "client.pem"
    issued = client_certificate(path, "any.example")
    fingerprint = issued.certificate.fingerprint(SHA256()).hex(":")
    access = replace(NOBODY, certificates=(fingerprint.upper(),))
    listener = tls_listener(pem, client_ca=AUTHORITY.write(tmp_path / "ca.pem"))
    async with world(settings(listener, access=access)) as it:
        client = await in_tls(it, trusting(path))
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "250 2.1.0"


async def test_unverified_certificate_does_not_come_through(tmp_path: Path, pem: Path) -> None:
    stranger = CertificateAuthority("Stranger").issue(["mx1.example.com"], usage=ExtendedKeyUsageOID.CLIENT_AUTH)
    access = replace(NOBODY, certificates=("mx1.example.com",))
    listener = tls_listener(pem, client_ca=AUTHORITY.write(tmp_path / "ca.pem"))
    async with world(settings(listener, access=access)) as it:
        client = await it.ready()
        await client.say(b"STARTTLS")
        try:
            await client.start_tls(trusting(stranger.write(tmp_path / "stranger.pem")))
        except (ssl.SSLError, ConnectionError):
            return
        await client.send(b"EHLO x\r\nMAIL FROM:<a@x.test>\r\n")
        assert b"250 2.1.0" not in await client.closed()


def replace_file(path: Path, data: bytes) -> None:
    fresh = path.with_suffix(".new")
    fresh.write_bytes(data)
    fresh.rename(path)
    os.utime(path, (1, len(data)))


def private_key(issued: Issued) -> bytes:
    return issued.key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


async def serial(it: World) -> int:
    """The serial number of the certificate that a new session gets."""
    context = trusting()
    client = await in_tls(it, context)
    certificate = client.writer.get_extra_info("ssl_object").getpeercert()
    assert (await client.say(b"QUIT")).code == 221
    return int(certificate["serialNumber"], 16)


async def test_changed_certificate_is_taken_and_a_bad_one_keeps_the_old(tmp_path: Path, pem: Path) -> None:
    async with world(settings(tls_listener(pem))) as it:
        assert await serial(it) == SERVER.certificate.serial_number
        fresh = AUTHORITY.issue(["relay.example.com"])
        replace_file(pem, fresh.write(tmp_path / "x").read_bytes())
        assert await serial(it) == fresh.certificate.serial_number
        assert it.listeners.certificate_expiry == {"127.0.0.1:0": fresh.certificate.not_valid_after_utc}
        for bad in (b"", b"nonsense", SERVER.certificate.public_bytes(Encoding.PEM) + private_key(fresh)):
            replace_file(pem, bad)
            assert await serial(it) == fresh.certificate.serial_number
        replace_file(pem, SERVER.write(tmp_path / "y").read_bytes())
        assert await it.listeners.reload()
        assert await serial(it) == SERVER.certificate.serial_number


async def test_expiry_is_a_metric(tmp_path: Path, pem: Path) -> None:
    name = "listener_certificate_expiry_timestamp_seconds"
    later = AUTHORITY.issue(["relay.example.com"], not_after=SERVER.certificate.not_valid_after_utc + timedelta(days=9))
    async with world(settings(tls_listener(pem))) as it:
        for issued in (SERVER, later):
            replace_file(pem, issued.write(tmp_path / "x").read_bytes())
            await serial(it)
            expires = issued.certificate.not_valid_after_utc.timestamp()
            assert it.metric(name, listener="127.0.0.1:0") == expires


@pytest.mark.parametrize("content", [None, b"", b"nonsense"])
def test_bad_certificate_at_the_start_is_an_error_that_names_the_file(tmp_path: Path, content: bytes | None) -> None:
    path = tmp_path / "bad.pem"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(CertificateError, match=r"bad\.pem"):
        ServerTls(ListenerSettings(address="127.0.0.1:0", tls=TlsMode.STARTTLS, certificate=path))


async def test_reload_takes_new_settings_for_new_sessions(pem: Path) -> None:
    before = settings(tls_listener(pem))
    async with world(before) as it:
        old = await it.ready()
        new = replace(before, max_message_size=1000, access=NOBODY, hostname="renamed.example.com")
        assert await it.listeners.reload(new)
        client = await it.connect()
        reply = await client.hello()
        assert reply.lines[0] == "renamed.example.com"
        assert "SIZE 1000" in reply.lines
        assert (await client.say(b"MAIL FROM:<a@x.test>")).short == "550 5.7.64"
        assert (await old.say(b"MAIL FROM:<a@x.test>")).short == "250 2.1.0"
        assert it.listeners._shared.connections.open == 2


async def test_reload_that_cannot_be_keeps_everything(tmp_path: Path, pem: Path) -> None:
    before = settings(tls_listener(pem))
    async with world(before) as it:
        for bad in (
            replace(before, hostname="other.test", access=AccessSettings(users_file=tmp_path / "none")),
            replace(before, hostname="other.test", postmaster="nobody"),
            replace(before, hostname="other.test", listeners=(tls_listener(tmp_path / "none"),)),
        ):
            assert not await it.listeners.reload(bad)
            assert (await (await it.connect()).hello()).lines[0] == "relay.example.com"


async def test_reload_does_not_move_a_listener() -> None:
    before = settings(ListenerSettings(address="127.0.0.1:0"))
    async with world(before) as it:
        assert await it.listeners.reload(replace(before, listeners=(ListenerSettings(address="127.0.0.1:1"),)))
        assert (await (await it.connect()).hello()).code == 250
