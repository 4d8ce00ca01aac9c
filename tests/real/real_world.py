"""One small world for all tests with real servers.

A Postfix as legacy MTA whose relayhost is the relay, three Postfix as MX hosts, unbound, nginx with the policies,
and the relay as it ships, in a process of its own.
"""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from real_servers import PolicySite, Postfix, answers, free_port, nginx, program, unbound, wait_until

from relay.lab.ca import CertificateKind, Identity, LabCA

PASSWORD = "a printer's secret"
GOOD, BAD, PLAIN, LEGACY = "127.0.0.61", "127.0.0.62", "127.0.0.63", "127.0.0.1"


@dataclass(frozen=True, slots=True, kw_only=True)
class World:
    """All that a test may want to touch. `smtp_port` is the relay's listener with STARTTLS; the other two differ."""

    root: Path
    legacy: Postfix
    good: Postfix
    bad: Postfix
    plain: Postfix
    smtp_port: int
    tls_port: int
    proxy_port: int
    http_port: int
    config: Path
    ca_file: Path

    def http(self, path: str, accept: str = "*/*") -> str:
        request = urllib.request.Request(f"http://127.0.0.1:{self.http_port}{path}", headers={"Accept": accept})
        with urllib.request.urlopen(request, timeout=10) as response:
            return str(response.read().decode())

    def cli(self, *arguments: str) -> Any:
        """Run a command of the relay beside the running one; return its JSON."""
        command = [sys.executable, "-m", "relay.cli", *arguments, "--config", str(self.config), "--json"]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
        assert done.returncode in {0, 1}, done.stderr
        return json.loads(done.stdout)


def common_port() -> int:
    """A port that is free on every MX host's address: the relay has one port for all of them."""
    for _ in range(50):
        port = free_port(GOOD)
        try:
            for address in (BAD, PLAIN):
                with socket.socket() as probe:
                    probe.bind((address, port))
        except OSError:
            continue
        return port
    pytest.fail("no port is free on all addresses")


def pem(identity: Identity, into: Path) -> tuple[Path, Path]:
    """Postfix and nginx want key and chain; the lab's file holds both, for either."""
    copy = into / identity.pem_file.name
    shutil.copy(identity.pem_file, copy)
    return copy, copy


def _policy(domain: str) -> str:
    return f"version: STSv1\r\nmode: enforce\r\nmx: *.{domain}\r\nmax_age: 86400\r\n"


def build_world(root: Path, stack: ExitStack) -> World:
    (root / "ca").mkdir()
    (root / "pem").mkdir()
    ca = LabCA(root / "ca")
    mx_port, legacy_port, smtp_port, http_port = common_port(), free_port(), free_port(), free_port()
    tls_port, proxy_port = free_port(), free_port()

    def postfix(name: str, address: str, port: int, host: str, domains: tuple[str, ...], **settings: str) -> Postfix:
        (root / name).mkdir()
        instance = Postfix(
            root=root / name, address=address, port=port, hostname=host, domains=domains, settings=settings
        )
        return stack.enter_context(instance)

    def tls(kind: CertificateKind, host: str) -> dict[str, str]:
        chain, _ = pem(ca.identity(kind, host), root / "pem")
        return {"smtpd_tls_chain_files": str(chain), "smtpd_tls_security_level": "may", "smtpd_tls_loglevel": "1"}

    good = postfix(
        "good",
        GOOD,
        mx_port,
        "mx1.good.test",
        ("good.test",),
        **tls(CertificateKind.GOOD, "mx1.good.test"),
        smtpd_recipient_restrictions="check_recipient_access inline:{nobody@good.test=REJECT}, permit",
        smtpd_data_restrictions="reject_unauth_pipelining",
        smtpd_forbid_unauth_pipelining="yes",
        debug_peer_list="127.0.0.0/8",  # each command stands in its log
    )
    bad = postfix(
        "bad", BAD, mx_port, "mx1.bad.test", ("bad.test",), **tls(CertificateKind.SELF_SIGNED, "mx1.bad.test")
    )
    plain = postfix("plain", PLAIN, mx_port, "mx1.plain.test", ("plain.test",), smtpd_tls_security_level="none")
    legacy = postfix(
        "legacy", LEGACY, legacy_port, "legacy.corp.test", ("corp.test",),
        relayhost=f"[127.0.0.1]:{smtp_port}",
        smtp_tls_security_level="verify",
        smtp_tls_loglevel="1",
        smtp_tls_CAfile=str(ca.ca_file),
        smtp_tls_verify_cert_match="relay.corp.test",
        smtp_dns_support_level="disabled",
        mime_header_checks="regexp:{{/^Content-Type: *message.(global-)?delivery-status/ INFO status-part}}",
    )  # fmt: skip
    records = []
    for domain, address in (("good.test", GOOD), ("bad.test", BAD), ("plain.test", PLAIN)):
        records += [f"{domain}. 60 IN MX 10 mx1.{domain}.", f"mx1.{domain}. 60 IN A {address}"]
    sites = []
    for domain in ("good.test", "bad.test"):
        host = f"mta-sts.{domain}"
        certificate, key = pem(ca.identity(CertificateKind.GOOD, host), root / "pem")
        sites.append(PolicySite(domain=domain, policy=_policy(domain), certificate=certificate, key=key))
        records += [f'_mta-sts.{domain}. 60 IN TXT "v=STSv1; id=1"', f"{host}. 60 IN A 127.0.0.1"]
    nameserver = stack.enter_context(unbound(root / "unbound", records))
    (root / "nginx").mkdir()
    policy_port = stack.enter_context(nginx(root / "nginx", sites))

    listener, _ = pem(ca.identity(CertificateKind.GOOD, "relay.corp.test"), root / "pem")
    add_user = [sys.executable, "-m", "relay.cli", "user", "add", "printer"]
    line = subprocess.run(
        add_user, input=f"{PASSWORD}\n", capture_output=True, text=True, check=True, timeout=30
    ).stdout
    (root / "users").write_text(line)
    (root / "users").chmod(0o600)
    config = root / "config.toml"
    config.write_text(f"""
[relay]
hostname = "relay.corp.test"
postmaster = "postmaster@corp.test"
state_dir = "state"
[[listener]]
address = "127.0.0.1:{smtp_port}"
tls = "starttls"
certificate = "{listener}"
key = "{listener}"
[[listener]]
address = "127.0.0.1:{tls_port}"
tls = "implicit"
certificate = "{listener}"
key = "{listener}"
[[listener]]
address = "127.0.0.1:{proxy_port}"
proxy_protocol = true
[access]
users_file = "users"
proxies = ["127.0.0.1/32"]
[queue]
retry = ["1s"]
expire_refused_after = "3s"
[dns]
nameservers = ["{nameserver}"]
[tls]
ca_file = "{ca.ca_file}"
[delivery]
smtp_port = {mx_port}
policy_port = {policy_port}
allow_private_addresses = true
[ndr]
route = ["smtp://127.0.0.1:{legacy_port}"]
[http]
address = "127.0.0.1:{http_port}"
""")
    command = [sys.executable, "-m", "relay.cli", "serve", "--config", str(config)]
    log = stack.enter_context((root / "relay.log").open("wb"))
    relay = stack.enter_context(subprocess.Popen(command, stdout=log, stderr=log))
    stack.callback(_stop, relay)
    wait_until(lambda: answers("127.0.0.1", smtp_port) or relay.poll() is not None, "the relay's listener")
    assert relay.poll() is None, (root / "relay.log").read_text()
    return World(
        root=root, legacy=legacy, good=good, bad=bad, plain=plain, smtp_port=smtp_port, tls_port=tls_port,
        proxy_port=proxy_port, http_port=http_port,
        config=config, ca_file=ca.ca_file,
    )  # fmt: skip


def _stop(relay: subprocess.Popen[bytes]) -> None:
    relay.send_signal(signal.SIGTERM)
    try:
        relay.wait(30)
    except subprocess.TimeoutExpired:
        relay.kill()


@pytest.fixture(scope="session")
def world() -> Iterator[World]:
    """Built once for all tests that use it."""
    for name in ("postfix", "unbound", "nginx"):
        program(name)
    if os.geteuid() != 0:
        pytest.skip("Postfix instances of its own need root")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-real-")))
        root.chmod(0o755)
        yield build_world(root, stack)
