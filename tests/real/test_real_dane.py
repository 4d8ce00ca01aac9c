"""DANE with a real signed zone: knot signs, unbound validates, OpenSSL is the MX host."""

import asyncio
import contextlib
import ssl
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from real_servers import answers, free_port, program, running, wait_until
from signed_zones import BOGUS, OPEN, SIGNED, signed_zones

from policy.answers import Answer, Found, MxRecord, Unknown, UnknownReason
from policy.dane_check import dane_failure
from policy.dane_lookup import find_tlsa
from policy.decide import DaneMode, decide
from policy.findings import NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.nameservers import DnssecSupport, NameServer, TrustAd
from policy.requirement import Refusal, RefusalReason, Requirement
from policy.resolver import DnsResolver
from policy.tls import TlsContexts
from policy.tls_facts import TlsFailure
from relay.lab.ca import Identity, LabCA, tlsa_record

pytestmark = [pytest.mark.real, pytest.mark.xdist_group("real-dane")]

MX, SPARE, TA = f"mx.{SIGNED}", f"spare.{SIGNED}", f"ta.{SIGNED}"
FULL_OF_ZEROS = f"3 1 1 {'00' * 32}"


@dataclass(frozen=True, kw_only=True)
class Zones:
    """Where the validating resolver listens, and who the MX hosts are."""

    port: int
    leaf: Identity
    below_root: Identity

    def resolver(self, trust_ad: TrustAd = TrustAd.AUTO) -> DnsResolver:
        nameservers = [NameServer(address="127.0.0.1", port=self.port)]
        return DnsResolver(nameservers=nameservers, timer=lambda: 0.0, trust_ad=trust_ad)


def records(leaf: Identity, ca: LabCA) -> list[str]:
    old, new = FULL_OF_ZEROS, tlsa_record(3, 1, 1, leaf.certificate)
    root = tlsa_record(2, 0, 1, ca.root.certificate)
    hosts = [f"{name}. A 127.0.0.1" for name in (f"ns.{SIGNED}", MX, SPARE, TA, f"broken.{SIGNED}", f"mx.{OPEN}")]
    return [
        *hosts,
        f"_25._tcp.{MX}. TLSA {old}",
        f"_25._tcp.{MX}. TLSA {new}",
        f"_25._tcp.{TA}. CNAME root._dane.{SIGNED}.",
        f"root._dane.{SIGNED}. TLSA {root}",
        f"_25._tcp.mx.{OPEN}. TLSA {new}",
        f"_25._tcp.broken.{SIGNED}. TLSA {new}",
        f"mx.{BOGUS}. A 127.0.0.1",
        # Mail domains, each with something else about it.
        f"good.{SIGNED}. MX 10 {MX}.",
        f"ta-only.{SIGNED}. MX 10 {TA}.",
        f"no-tlsa.{SIGNED}. MX 10 {SPARE}.",
        f"insecure-host.{SIGNED}. MX 10 mx.{OPEN}.",
        f"broken-tlsa.{SIGNED}. MX 10 broken.{SIGNED}.",
        f"broken-tlsa.{SIGNED}. MX 20 {MX}.",
        f"bogus-host.{SIGNED}. MX 10 mx.{BOGUS}.",
        f"implicit.{SIGNED}. A 127.0.0.1",
        f"_25._tcp.implicit.{SIGNED}. TLSA {new}",
        f"renamed.{SIGNED}. CNAME good.{SIGNED}.",
        f"aliased.{SIGNED}. MX 10 alias.{SIGNED}.",
        f"alias.{SIGNED}. CNAME {MX}.",
        f"half-aliased.{SIGNED}. MX 10 half.{SIGNED}.",
        f"half.{SIGNED}. CNAME mx.{OPEN}.",
        f"_25._tcp.half.{SIGNED}. TLSA {new}",
        f"old.{SIGNED}. DNAME new.{SIGNED}.",
        f"mx.new.{SIGNED}. A 127.0.0.1",
        f"_25._tcp.mx.new.{SIGNED}. TLSA {new}",
        f"dname.{SIGNED}. MX 10 mx.old.{SIGNED}.",
        *(f"_25._tcp.{'many.' + SIGNED}. TLSA 3 1 1 {number:064x}" for number in range(300)),
        f"many.{SIGNED}. A 127.0.0.1",
        f"odd.{SIGNED}. A 127.0.0.1",
        f"_25._tcp.odd.{SIGNED}. TLSA 1 1 1 {'00' * 32}",
        f"_25._tcp.odd.{SIGNED}. TLSA 9 9 9 00ff",
        f"plain.{OPEN}. MX 10 mx.{OPEN}.",
        f"hosted.{OPEN}. MX 10 {MX}.",
        f"any.{BOGUS}. MX 10 {MX}.",
    ]


@pytest.fixture(scope="module")
def zones(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Zones]:
    ca = LabCA(tmp_path_factory.mktemp("ca"))
    leaf = ca.issue(["somewhere-else.test"], self_signed=True)
    with signed_zones(tmp_path_factory.mktemp("dns"), records(leaf, ca)) as port:
        yield Zones(port=port, leaf=leaf, below_root=ca.issue([TA], send_root=True))


async def mx_of(resolver: DnsResolver, domain: str) -> tuple[Answer[MxRecord], list[str]]:
    answer = await resolver.mx(domain)
    found = sorted(answer.records) if isinstance(answer, Found) else []
    return answer, [record.host for record in found] or [domain]


async def look(zones: Zones, domain: str, trust_ad: TrustAd = TrustAd.AUTO) -> list[TlsaFindings]:
    """What is found for each host of a domain, the best first."""
    resolver = zones.resolver(trust_ad)
    mx, hosts = await mx_of(resolver, domain)
    return [
        await find_tlsa(resolver, host=host, port=25, addresses=await resolver.addresses(host), domain=domain, mx=mx)
        for host in hosts
    ]


@pytest.mark.rfc(
    "7672-2.1.1-c", "7672-2.1.1-e", "7672-2.2.1-a", "7672-2.2.1-d", "7672-2.2.1-f", "7672-2.2.1-k", "7672-2.2.2-f",
    "7672-2.2.2-g", "7672-2.2.3-e", "7672-2.1.3-a", "7672-3.2.2-c", "7672-3.2.2-d",
)  # fmt: skip
@pytest.mark.parametrize(
    ("domain", "base_domain", "names", "mx_secure"),
    [
        (f"good.{SIGNED}", MX, (MX, f"good.{SIGNED}"), True),
        (f"ta-only.{SIGNED}", TA, (TA, f"ta-only.{SIGNED}"), True),
        (f"renamed.{SIGNED}", MX, (MX, f"renamed.{SIGNED}", f"good.{SIGNED}"), True),
        (f"aliased.{SIGNED}", MX, (MX, f"aliased.{SIGNED}"), True),
        (f"half-aliased.{SIGNED}", f"half.{SIGNED}", (f"half.{SIGNED}", f"half-aliased.{SIGNED}"), True),
        (f"dname.{SIGNED}", f"mx.new.{SIGNED}", (f"mx.new.{SIGNED}", f"dname.{SIGNED}"), True),
        (f"implicit.{SIGNED}", f"implicit.{SIGNED}", (f"implicit.{SIGNED}",), True),
        (f"hosted.{OPEN}", MX, (MX,), False),
    ],
)
async def test_secure_records(
    zones: Zones, domain: str, base_domain: str, names: tuple[str, ...], mx_secure: bool
) -> None:
    (found,) = await look(zones, domain)
    assert isinstance(found, SecureTlsa), found
    assert (found.base_domain, found.reference_names, found.mx_secure) == (base_domain, names, mx_secure)


@pytest.mark.rfc("7672-2.1.1-h", "7672-2.1.1-j", "7672-2.2.1-j", "7672-2.2.2-c", "7672-2.2.3-f")
@pytest.mark.parametrize("domain", [f"plain.{OPEN}", f"insecure-host.{SIGNED}", f"no-tlsa.{SIGNED}"])
async def test_what_is_not_signed_or_not_there_is_no_dane(zones: Zones, domain: str) -> None:
    (found,) = await look(zones, domain)
    assert isinstance(found, NoTlsa), found
    assert isinstance(decide("mx", None, found), Requirement)
    refusal = decide("mx", None, found, dane=DaneMode.MANDATORY)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.DANE_REQUIRED


@pytest.mark.rfc("7672-2.1.1-g", "7672-2.1.2-d", "7672-2.2-e")
async def test_one_host_with_a_bogus_answer_does_not_take_the_other_with_it(zones: Zones) -> None:
    broken, good = await look(zones, f"broken-tlsa.{SIGNED}")
    assert isinstance(broken, TlsaUnknown)
    assert broken.unknown.reason is UnknownReason.BOGUS
    assert broken.unknown.extended_error is not None
    refusal = decide(f"broken.{SIGNED}", None, broken)
    assert isinstance(refusal, Refusal)
    assert refusal.reason is RefusalReason.DNSSEC_BOGUS
    assert isinstance(good, SecureTlsa)


@pytest.mark.rfc("7672-2.1.1-g", "7672-2.1.2-a")
async def test_a_bogus_zone_answers_nothing(zones: Zones) -> None:
    answer = await zones.resolver().mx(f"any.{BOGUS}")
    assert isinstance(answer, Unknown)
    assert answer.reason is UnknownReason.BOGUS
    (found,) = await look(zones, f"bogus-host.{SIGNED}")
    assert isinstance(found, TlsaUnknown)


@pytest.mark.rfc("6698-4.1-c", "7672-3.1.3-a", "7672-2.2-b")
async def test_odd_and_very_many_records(zones: Zones) -> None:
    (many,) = await look(zones, f"many.{SIGNED}")
    (odd,) = await look(zones, f"odd.{SIGNED}")
    assert isinstance(many, SecureTlsa)
    assert isinstance(odd, SecureTlsa)
    assert (len(many.records), len(odd.records)) == (300, 2)
    demand = decide(f"odd.{SIGNED}", None, odd)
    assert isinstance(demand, Requirement)
    assert demand.dane is not None
    assert demand.dane.records == ()


@pytest.mark.rfc("7672-2.1.1-b", "7672-2.1.1-d")
async def test_the_probe_and_a_resolver_that_is_not_to_be_trusted(zones: Zones) -> None:
    assert await zones.resolver().dnssec_support(SIGNED) is DnssecSupport.VALIDATES
    assert await zones.resolver().dnssec_support(OPEN) is DnssecSupport.NOT_VALIDATING
    assert await zones.resolver().dnssec_support(BOGUS) is DnssecSupport.UNKNOWN
    assert await zones.resolver(TrustAd.NO).dnssec_support(SIGNED) is DnssecSupport.NOT_TRUSTED
    (found,) = await look(zones, f"good.{SIGNED}", TrustAd.NO)
    assert isinstance(found, NoTlsa)


@contextlib.contextmanager
def mx_host(identity: Identity, directory: Path) -> Iterator[int]:
    """OpenSSL's server, which says nothing: all that is looked at is its handshake."""
    port = free_port()
    command = [program("openssl"), "s_server", "-accept", f"127.0.0.1:{port}", "-quiet"]
    command += ["-cert", str(identity.pem_file), "-key", str(identity.pem_file), "-cert_chain", str(identity.pem_file)]
    with running(command, directory / "s_server.out", stdin=subprocess.PIPE):
        wait_until(lambda: answers("127.0.0.1", port), "openssl s_server")
        yield port


async def shake_hands(port: int, requirement: Requirement) -> TlsFailure | None:
    _, writer = await asyncio.open_connection(
        "127.0.0.1", port, ssl=TlsContexts().for_requirement(requirement), server_hostname=requirement.server_name
    )
    failure = dane_failure(requirement, writer.get_extra_info("ssl_object"))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return failure


@pytest.mark.rfc("7672-3.1.1-a", "7672-3.1.2-a", "7672-2.2-a", "6698-4.1-e")
@pytest.mark.parametrize("domain", [f"good.{SIGNED}", f"ta-only.{SIGNED}"])
@pytest.mark.parametrize("right", [True, False], ids=["matching", "mismatch"])
async def test_from_the_zone_to_the_session(zones: Zones, tmp_path: Path, domain: str, right: bool) -> None:
    (found,) = await look(zones, domain)
    assert isinstance(found, SecureTlsa)
    requirement = decide(found.base_domain, None, found, dane=DaneMode.MANDATORY)
    assert isinstance(requirement, Requirement)
    by_leaf = found.base_domain == MX
    with mx_host(zones.leaf if by_leaf is right else zones.below_root, tmp_path) as port:
        failure = await shake_hands(port, requirement)
    assert (failure.reason if failure else None) == (None if right else "TlsaMismatch")
