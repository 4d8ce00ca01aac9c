"""A route to a Postfix that wants a password: STARTTLS, TLS from the first octet, PLAIN and LOGIN, and a wrong one."""

import asyncio
import base64
import json
import socketserver
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from real_servers import Postfix, answers, free_port, wait_until

from relay.lab.ca import CertificateKind, LabCA
from relay.lab.client import submit
from relay.lab.relay_process import RelayProcess

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real-smarthost")]

ADDRESS, NAME = "127.0.0.81", "smtp.partner.test"
USER, PASSWORD = "us@corp.test", "correct horse"


class Passwords(socketserver.ThreadingTCPServer):
    """Answers Postfix as Dovecot's auth service does (protocol 1.2); `used` are the mechanisms that were asked for."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Dialogue)
        self.used: list[str] = []


class _Dialogue(socketserver.StreamRequestHandler):
    server: Passwords

    def handle(self) -> None:
        self.wfile.write(b"VERSION\t1\t2\nMECH\tPLAIN\tplaintext\nMECH\tLOGIN\tplaintext\n")
        self.wfile.write(b"SPID\t1\nCUID\t1\nCOOKIE\t00\nDONE\n")
        said: list[str] = []
        for octets in self.rfile:
            command, *fields = octets.decode().rstrip("\n").split("\t")
            if command == "AUTH":
                self.server.used.append(fields[1])
                said = []
            if command == "CONT" or (command == "AUTH" and fields[-1].startswith("resp=")):
                said.append(base64.b64decode(fields[-1].removeprefix("resp=")).decode())
            if command in ("AUTH", "CONT"):
                self.wfile.write(_answer(fields[0], self.server.used[-1], said))


def _answer(number: str, mechanism: str, said: list[str]) -> bytes:
    login = said[0].split("\0")[1:] if mechanism == "PLAIN" and said else said
    if len(login) < 2:
        return f"CONT\t{number}\t\n".encode()
    verdict = "OK" if login == [USER, PASSWORD] else "FAIL"
    return f"{verdict}\t{number}\tuser={login[0]}\n".encode()


class Smarthost:
    """A Postfix that lets in nobody without a password, at two ports, and the way to its passwords."""

    def __init__(self, root: Path, passwords: Passwords) -> None:
        (root / "ca").mkdir()
        self.passwords = passwords
        self.ca = LabCA(root / "ca")
        self.tls_port = free_port(ADDRESS)
        identity = self.ca.identity(CertificateKind.GOOD, NAME)
        (root / "postfix").mkdir()
        chain = root / "postfix" / "chain.pem"
        chain.write_bytes(identity.pem_file.read_bytes())
        self.postfix = Postfix(
            root=root / "postfix",
            address=ADDRESS,
            port=free_port(ADDRESS),
            hostname=NAME,
            domains=("partner.test",),
            settings={
                "smtpd_tls_chain_files": str(chain),
                "smtpd_tls_security_level": "may",
                "smtpd_tls_auth_only": "yes",
                "smtpd_sasl_auth_enable": "yes",
                "smtpd_sasl_type": "dovecot",
                "smtpd_sasl_path": f"inet:127.0.0.1:{passwords.server_address[1]}",
                "smtpd_sasl_authenticated_header": "yes",
                "smtpd_client_restrictions": "permit_sasl_authenticated, reject",
            },
            services=(f"{ADDRESS}:{self.tls_port} inet n - n - - smtpd", "  -o smtpd_tls_wrappermode=yes"),
        )


@pytest.fixture(scope="module")
def smarthost() -> Iterator[Smarthost]:
    with tempfile.TemporaryDirectory(prefix="real-smarthost-") as directory:
        root = Path(directory)
        root.chmod(0o755)
        with Passwords() as passwords:
            thread = threading.Thread(target=passwords.serve_forever)
            thread.start()
            try:
                made = Smarthost(root, passwords)
                with made.postfix:
                    wait_until(lambda: answers(ADDRESS, made.tls_port), "the port with TLS at once")
                    yield made
            finally:
                passwords.shutdown()
                thread.join()


def settings(smarthost: Smarthost, hop: str) -> str:
    route = {
        "next_hop": [hop],
        "user": USER,
        "password": "file:password",
        "tls": "verify-name",
        "tls_name": NAME,
    }
    lines = "\n".join(f"{key} = {json.dumps(value)}" for key, value in route.items())
    return f"""
[relay]
hostname = "relay.corp.test"
postmaster = "postmaster@corp.test"
[[listener]]
address = "127.0.0.1:0"
[http]
address = "127.0.0.1:0"
[dns]
nameservers = ["127.0.0.1:1"]
[tls]
ca_file = "{smarthost.ca.ca_file}"
[[route]]
domains = ["*"]
{lines}
"""


async def outcome(smarthost: Smarthost, directory: Path, hop: str, subject: str, password: str) -> dict[str, object]:
    """Return what the log of a relay with this route says of a message."""
    (directory / "password").write_text(password + "\n")
    (directory / "config.toml").write_text(settings(smarthost, hop))
    async with RelayProcess(directory / "config.toml") as relay:
        content = f"Subject: {subject}\r\n\r\nHello.\r\n".encode()
        done = await submit(relay.smtp, "alice@corp.test", ["bob@partner.test"], content)
        assert done.accepted, done
        event = await relay.wait_for(lambda one: str(one["event"]).startswith("recipient."), 30)
        assert password not in relay.log_end(1000)
        return dict(event)


@pytest.mark.rfc("4954-4-c", "4954-5-b")
@pytest.mark.parametrize("mechanism", ["PLAIN", "LOGIN"])
@pytest.mark.parametrize("scheme", ["smtp", "smtps"])
async def test_postfix_lets_us_in(smarthost: Smarthost, tmp_path: Path, scheme: str, mechanism: str) -> None:
    port = smarthost.postfix.port if scheme == "smtp" else smarthost.tls_port
    offered = {"PLAIN": "static:all", "LOGIN": "!plain, static:all"}[mechanism]
    smarthost.postfix.set("smtpd_sasl_mechanism_filter", offered)
    smarthost.passwords.used.clear()
    subject = f"{scheme} {mechanism}"
    event = await outcome(smarthost, tmp_path, f"{scheme}://{ADDRESS}:{port}", subject, PASSWORD)
    assert (event["event"], event["security"]) == ("recipient.delivered", "route"), event
    assert smarthost.passwords.used == [mechanism]
    found = await asyncio.to_thread(
        smarthost.postfix.wait_for_mail, lambda one: one["Subject"] == subject, "the message"
    )
    assert f"Authenticated sender: {USER}" in str(found["Received"])


@pytest.mark.rfc("4954-6-a")
async def test_postfix_does_not_let_us_in_with_a_wrong_password(smarthost: Smarthost, tmp_path: Path) -> None:
    hop = f"smtps://{ADDRESS}:{smarthost.tls_port}"
    event = await outcome(smarthost, tmp_path, hop, "wrong", "battery staple")
    assert (event["event"], event["status"]) == ("recipient.deferred", "4.7.8")
    assert "535 5.7.8" in str(event["diagnostic"])
