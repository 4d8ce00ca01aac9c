"""DANE from signed zone to mailbox: knot signs, unbound validates, the relay decides, Postfix takes the mail."""

import asyncio
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_servers import Postfix, free_port, program
from signed_zones import BOGUS, OPEN, SIGNED, signed_zones

from relay.lab.ca import EXPIRY, Identity, LabCA, tlsa_record
from relay.lab.client import submit
from relay.lab.relay_process import Event, RelayProcess

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real-dane")]

EE, TA, OLD, PLAIN = "127.0.0.71", "127.0.0.72", "127.0.0.73", "127.0.0.74"
KINDS = [(selector, matching_type) for selector in (0, 1) for matching_type in (0, 1, 2)]
TA_HOSTS = [f"ta{selector}{matching_type}.{SIGNED}" for selector, matching_type in KINDS]
ZEROS = f"3 1 1 {'00' * 32}"

BY_DANE = ("delivered", "dane", "domain")
WITHOUT = ("delivered", "opportunistic", None)
EXPECTED = {
    **{f"ee{selector}{matching_type}.{SIGNED}": BY_DANE for selector, matching_type in KINDS},
    **dict.fromkeys(TA_HOSTS, BY_DANE),
    f"rollover.{SIGNED}": BY_DANE,
    f"aliased.{SIGNED}": BY_DANE,
    f"implicit.{SIGNED}": BY_DANE,
    f"second.{SIGNED}": BY_DANE,
    f"hosted.{OPEN}": ("delivered", "dane", "host"),
    f"unusable.{SIGNED}": ("delivered", "opportunistic", "domain"),
    f"no-records.{SIGNED}": WITHOUT,
    f"insecure-host.{SIGNED}": WITHOUT,
    f"insecure.{OPEN}": WITHOUT,
    f"mismatch.{SIGNED}": ("deferred", "4.7.323", "domain"),
    f"expired.{SIGNED}": ("deferred", "4.7.322", "domain"),
    f"misnamed.{SIGNED}": ("deferred", "4.7.325", "domain"),
    f"no-tls.{SIGNED}": ("deferred", "4.7.321", "domain"),
    f"bogus-tlsa.{SIGNED}": ("deferred", "4.7.324", None),
    f"any.{BOGUS}": ("deferred", "4.4.312", None),
}
"""What becomes of mail to each domain; `dane` is not told of a host that was not contacted."""


@dataclass(frozen=True, kw_only=True)
class World:
    config: Path
    hosts: tuple[Postfix, ...]


def zone(port: int, leaf: Identity, ca: LabCA) -> list[str]:
    root = ca.root.certificate
    right = tlsa_record(3, 1, 1, leaf.certificate)
    records = [f"ns.{SIGNED}. A 127.0.0.1"]

    def host(name: str, address: str, *tlsa: str) -> None:
        records.append(f"{name}. A {address}")
        records.extend(f"_{port}._tcp.{name}. TLSA {one}" for one in tlsa)

    def domain(name: str, *hosts: str) -> None:
        records.extend(f"{name}. MX {10 * number} {one}." for number, one in enumerate(hosts, 1))

    for selector, matching_type in KINDS:
        name = f"{selector}{matching_type}.{SIGNED}"
        host(f"mx-ee{name}", EE, tlsa_record(3, selector, matching_type, leaf.certificate))
        domain(f"ee{name}", f"mx-ee{name}")
        host(f"mx-ta{name}", TA, tlsa_record(2, selector, matching_type, root))
        domain(f"ta{name}", f"mx-ta{name}")
    for name, address, tlsa in (
        ("rollover", EE, (ZEROS, right)),
        ("unusable", EE, (f"1 1 1 {'00' * 32}",)),
        ("no-records", EE, ()),
        ("mismatch", EE, (ZEROS,)),
        ("expired", OLD, (tlsa_record(2, 0, 1, root),)),
        ("misnamed", TA, (tlsa_record(2, 0, 1, root),)),
        ("no-tls", PLAIN, (right,)),
    ):
        host(f"mx.{name}.{SIGNED}", address, *tlsa)
        domain(f"{name}.{SIGNED}", f"mx.{name}.{SIGNED}")
    host(f"broken.{SIGNED}", EE, right)
    host(f"implicit.{SIGNED}", EE, right)
    host(f"mx.{OPEN}", EE, ZEROS)
    host(f"mx.{BOGUS}", EE, right)
    good = f"mx.rollover.{SIGNED}"
    records.append(f"alias.{SIGNED}. CNAME {good}.")
    domain(f"aliased.{SIGNED}", f"alias.{SIGNED}")
    domain(f"second.{SIGNED}", f"broken.{SIGNED}", good)
    domain(f"bogus-tlsa.{SIGNED}", f"broken.{SIGNED}")
    domain(f"hosted.{OPEN}", good)
    domain(f"insecure-host.{SIGNED}", f"mx.{OPEN}")
    domain(f"insecure.{OPEN}", f"mx.{OPEN}")
    domain(f"any.{BOGUS}", good)
    return records


def postfix(root: Path, port: int, address: str, identity: Identity | None) -> Postfix:
    (root / address).mkdir()
    settings = {"smtpd_tls_security_level": "none"}
    if identity is not None:
        chain = root / address / "chain.pem"
        chain.write_bytes(identity.pem_file.read_bytes())
        settings = {"smtpd_tls_chain_files": str(chain), "smtpd_tls_security_level": "may"}
    hostname = f"host{address.rpartition('.')[2]}.{SIGNED}"
    return Postfix(
        root=root / address, address=address, port=port, hostname=hostname, domains=tuple(EXPECTED), settings=settings
    )


@pytest.fixture(scope="module")
def world() -> Iterator[World]:
    program("postfix")
    if os.geteuid() != 0:
        pytest.skip("Postfix instances of its own need root")
    with ExitStack() as stack:
        root = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="relay-dane-")))
        root.chmod(0o755)
        ca, port = LabCA(root / "ca"), free_port(EE)
        leaf = ca.issue(["somewhere-else.test"], self_signed=True)
        names = [f"mx-{host}" for host in TA_HOSTS]
        shown = {
            EE: leaf,
            TA: ca.issue(names, send_root=True),
            OLD: ca.issue([f"mx.expired.{SIGNED}"], not_after=EXPIRY, send_root=True),
            PLAIN: None,
        }
        nameserver = stack.enter_context(signed_zones(root / "dns", zone(port, leaf, ca)))
        hosts = tuple(stack.enter_context(postfix(root, port, *one)) for one in shown.items())
        config = root / "config.toml"
        config.write_text(f"""
[relay]
hostname = "relay.corp.test"
postmaster = "postmaster@corp.test"
[[listener]]
address = "127.0.0.1:0"
[http]
address = "127.0.0.1:0"
[dns]
nameservers = ["127.0.0.1:{nameserver}"]
[delivery]
smtp_port = {port}
allow_private_addresses = true
""")
        yield World(config=config, hosts=hosts)


async def outcome(relay: RelayProcess, domain: str) -> tuple[str, str, str | None]:
    done = await submit(relay.smtp, "alice@corp.test", [f"bob@{domain}"], b"Subject: hello\r\n\r\nHello.\r\n")
    assert done.accepted, done
    assert done.data is not None
    queue_id = done.data.text.rpartition(" ")[2]

    def told(event: Event) -> bool:
        return event.get("queue_id") == queue_id and str(event["event"]).startswith("recipient.")

    event = await relay.wait_for(told, 60)
    word = str(event["event"]).removeprefix("recipient.")
    return word, event["security"] if word == "delivered" else event["status"], event["dane"]


@pytest.mark.rfc(
    "7672-2.1.2-b", "7672-2.1.2-d", "7672-2.2-a", "7672-2.2-b", "7672-2.2-c", "7672-2.2.1-f", "7672-2.2.2-c",
    "7672-3.1.1-a", "7672-3.1.2-a", "7672-1-b",
)  # fmt: skip
async def test_from_the_signed_zone_to_the_mailbox(world: World) -> None:
    async with RelayProcess(world.config) as relay:
        found = await asyncio.gather(*(outcome(relay, domain) for domain in EXPECTED))
    assert dict(zip(EXPECTED, found, strict=True)) == EXPECTED
    taken = [str(message["delivered-to"]) for host in world.hosts for message in host.mailbox()]
    delivered = [f"bob@{domain}" for domain, (word, _, _) in EXPECTED.items() if word == "delivered"]
    assert sorted(taken) == sorted(delivered)


@pytest.mark.parametrize(
    ("domain", "stage", "words"),
    [
        (f"mismatch.{SIGNED}", "chain", "dig TLSA"),
        (f"expired.{SIGNED}", "chain", "dig TLSA"),
        (f"misnamed.{SIGNED}", "names", "dig TLSA"),
        (f"no-tls.{SIGNED}", "starttls", "openssl s_client"),
        (f"bogus-tlsa.{SIGNED}", "tlsa", "delv TLSA"),
        (f"any.{BOGUS}", "mx", "delv MX"),
    ],
)
def test_check_says_at_which_stage_dane_fails(world: World, domain: str, stage: str, words: str) -> None:
    command = [sys.executable, "-m", "relay.cli", "check", domain, "--connect", "--json", "--config", str(world.config)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 1, done.stderr
    found = json.loads(done.stdout)
    tries = [one for host in found["hosts"] for connection in host["connections"] for one in connection["tries"]]
    failed = [step for steps in [found["look_ups"], *tries] for step in steps if step["failed"]]
    assert stage in {step["stage"] for step in failed}
    assert any(words in step["advice"] for step in failed)
