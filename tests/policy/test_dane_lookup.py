"""The order of questions on the way to a host's TLSA records (RFC 7672 §2.2.2, §2.2.3)."""

from collections.abc import AsyncIterator
from datetime import timedelta
from ipaddress import ip_address

import dns.rcode
import pytest
from dns_server import Zone, failing, serving
from policy_fakes import HOUR, NODATA, NXDOMAIN, SERVFAIL, TIMEOUT, FakeResolver

from policy.answers import Absence, Absent, Answer, Found, MxRecord, TlsaRecord, Unknown, UnknownReason
from policy.dane_lookup import find_tlsa
from policy.findings import NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.names import IPAddress
from policy.nameservers import NameServer
from policy.resolver import DnsResolver

MX = "mx.p.test"
NAME = f"_25._tcp.{MX}"
RECORD = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
USELESS = TlsaRecord(usage=0, selector=0, matching_type=1, data=b"")
MINUTE = timedelta(minutes=1)
BOGUS = Unknown(reason=UnknownReason.BOGUS, detail="extended error 6")
REFUSED = Unknown(reason=UnknownReason.REFUSED, detail="REFUSED")
MALFORMED = Unknown(reason=UnknownReason.MALFORMED, detail="garbage")
SIGNED_NODATA = Absent(absence=Absence.NODATA, ttl=HOUR, authentic=True)
SIGNED_NXDOMAIN = Absent(absence=Absence.NXDOMAIN, ttl=HOUR, authentic=True)


def located(canonical_name: str = MX, *, authentic: bool = True) -> Found[IPAddress]:
    return Found(records=(ip_address("192.0.2.1"),), canonical_name=canonical_name, ttl=HOUR, authentic=authentic)


def published(*records: TlsaRecord, authentic: bool = True, ttl: timedelta = HOUR) -> Found[TlsaRecord]:
    return Found(records=records or (RECORD,), canonical_name=NAME, ttl=ttl, authentic=authentic)


def alias(*, authentic: bool) -> Found[str]:
    return Found(records=("elsewhere.test",), canonical_name=MX, ttl=MINUTE, authentic=authentic)


SECURE_MX: Found[MxRecord] = Found(
    records=(MxRecord(preference=10, host=MX),), canonical_name="x.test", ttl=HOUR, authentic=True
)
INSECURE_MX: Found[MxRecord] = Found(
    records=(MxRecord(preference=10, host=MX),), canonical_name="x.test", ttl=HOUR, authentic=False
)


async def find(
    resolver: FakeResolver, addresses: Answer[IPAddress], mx: Answer[MxRecord] | None = SECURE_MX, port: int = 25
) -> TlsaFindings:
    return await find_tlsa(resolver, host=MX, port=port, addresses=addresses, domain="x.test", mx=mx)


@pytest.mark.rfc("7672-2.1.2-c", "7672-2.2.1-i", "7672-2.2.2-a", "7672-2.2.2-e", "6698-4.1-a")
async def test_secure_records_of_a_secure_host() -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers[NAME] = published(USELESS, RECORD, ttl=MINUTE)
    assert await find(resolver, located()) == SecureTlsa(
        base_domain=MX, reference_names=(MX, "x.test"), records=(USELESS, RECORD), mx_secure=True, ttl=MINUTE
    )
    assert resolver.asked == [("TLSA", NAME)]


@pytest.mark.rfc("7672-2.2.1-f", "7672-3.2.2-d")
async def test_below_an_insecure_mx_the_records_of_a_secure_host_count_too() -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers[NAME] = published()
    found = await find(resolver, located(), INSECURE_MX)
    assert isinstance(found, SecureTlsa)
    assert not found.mx_secure
    assert found.reference_names == (MX,)


@pytest.mark.rfc("7672-2.2.3-b")
async def test_the_port_is_in_the_name() -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers[f"_2525._tcp.{MX}"] = published()
    assert isinstance(await find(resolver, located(), None, port=2525), SecureTlsa)


@pytest.mark.rfc("7672-2.2.2-b", "7672-2.2.2-c", "7672-2.2.1-j")
@pytest.mark.parametrize("addresses", [NXDOMAIN, NODATA, SIGNED_NODATA, located(authentic=False)])
async def test_without_secure_addresses_no_tlsa_question_is_sent(addresses: Answer[IPAddress]) -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers[NAME] = SERVFAIL
    assert isinstance(await find(resolver, addresses), NoTlsa)
    assert resolver.asked == []


@pytest.mark.rfc("7672-2.1.1-h", "7672-2.2.1-j", "7672-2.2.3-f", "7672-2.2-c", "6698-4.1-a", "7672-2.1.1-j")
@pytest.mark.parametrize("answer", [NXDOMAIN, NODATA, SIGNED_NODATA, SIGNED_NXDOMAIN, published(authentic=False)])
async def test_no_records_or_insecure_ones_are_no_dane_and_no_error(answer: Answer[TlsaRecord]) -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers[NAME] = answer
    found = await find(resolver, located())
    assert isinstance(found, NoTlsa)
    assert found.ttl == HOUR
    assert MX in found.detail


UNKNOWNS = [SERVFAIL, TIMEOUT, BOGUS, REFUSED, MALFORMED]


@pytest.mark.rfc(
    "7672-2.1.1-f", "7672-2.1.1-g", "7672-2.1.1-i", "7672-2.1.2-d", "7672-2.1.2-e", "7672-2.2-e", "7672-2.2.2-h",
    "6698-4.1-a",
)  # fmt: skip
@pytest.mark.parametrize("unknown", UNKNOWNS, ids=lambda unknown: unknown.reason.value)
@pytest.mark.parametrize("where", ["addresses", "own alias", "tlsa", "tlsa at the end of the alias"])
async def test_a_question_without_an_answer_is_no_absence(where: str, unknown: Unknown) -> None:
    resolver = FakeResolver()
    addresses: Answer[IPAddress] = located()
    name = MX
    match where:
        case "addresses":
            addresses = unknown
        case "own alias":
            addresses = located("elsewhere.test", authentic=False)
            resolver.cname_answers[MX] = unknown
        case "tlsa":
            name, resolver.tlsa_answers[NAME] = NAME, unknown
        case _:
            addresses, name = located("elsewhere.test"), "_25._tcp.elsewhere.test"
            resolver.tlsa_answers[name] = unknown
            resolver.tlsa_answers[NAME] = published()
    assert await find(resolver, addresses) == TlsaUnknown(name=name, unknown=unknown)


@pytest.mark.rfc("7672-2.2.2-g", "7672-2.2.3-g", "7672-2.2.3-c", "7672-2.2.3-d", "7671-7-a")
@pytest.mark.parametrize(
    ("at_the_end", "at_the_host", "base_domain", "asked"),
    [
        (published(), published(), "c.test", ["c.test"]),
        (NXDOMAIN, published(), MX, ["c.test", MX]),
        (published(authentic=False), published(), MX, ["c.test", MX]),
        (NODATA, NODATA, None, ["c.test", MX]),
        (NODATA, published(authentic=False), None, ["c.test", MX]),
    ],
)
async def test_of_a_secure_alias_the_end_comes_first_and_then_the_host(
    at_the_end: Answer[TlsaRecord], at_the_host: Answer[TlsaRecord], base_domain: str | None, asked: list[str]
) -> None:
    resolver = FakeResolver()
    resolver.tlsa_answers["_25._tcp.c.test"] = at_the_end
    resolver.tlsa_answers["_25._tcp.b.test"] = published()
    resolver.tlsa_answers[NAME] = at_the_host
    found = await find(resolver, located("c.test"))
    assert (found.base_domain if isinstance(found, SecureTlsa) else None) == base_domain
    assert resolver.asked == [("TLSA", f"_25._tcp.{name}") for name in asked]


@pytest.mark.rfc("7672-2.2.2-f", "7672-2.1.3-e")
@pytest.mark.parametrize(
    ("own", "base_domain"), [(alias(authentic=True), MX), (alias(authentic=False), None), (SIGNED_NODATA, None)]
)
async def test_a_secure_alias_of_an_insecure_name_has_its_records_at_the_host(
    own: Answer[str], base_domain: str | None
) -> None:
    resolver = FakeResolver()
    resolver.cname_answers[MX] = own
    resolver.tlsa_answers[NAME] = published()
    resolver.tlsa_answers["_25._tcp.elsewhere.test"] = published()
    found = await find(resolver, located("elsewhere.test", authentic=False))
    assert (found.base_domain if isinstance(found, SecureTlsa) else None) == base_domain
    assert resolver.asked[0] == ("CNAME", MX)
    assert ("TLSA", "_25._tcp.elsewhere.test") not in resolver.asked
    assert not isinstance(found, TlsaUnknown)
    assert found.ttl == (MINUTE if isinstance(own, Found) else HOUR)


# The same over the wire.


@pytest.fixture
async def signed() -> AsyncIterator[tuple[Zone, NameServer]]:
    zone = Zone(authentic=True)
    zone.add(MX, "A", "192.0.2.1")
    zone.add(NAME, "TLSA", f"3 1 1 {'ab' * 32}")
    async with serving(zone) as server:
        yield zone, server


async def find_over_the_wire(server: NameServer, host: str = MX) -> TlsaFindings:
    resolver = DnsResolver(nameservers=[server], timer=lambda: 0.0)
    addresses = await resolver.addresses(host)
    return await find_tlsa(resolver, host=host, port=25, addresses=addresses, domain="x.test", mx=None)


@pytest.mark.rfc("7672-2.2.2-a")
async def test_addresses_are_asked_for_before_tlsa(signed: tuple[Zone, NameServer]) -> None:
    zone, server = signed
    found = await find_over_the_wire(server)
    assert isinstance(found, SecureTlsa)
    assert [rdtype for _, rdtype, _ in zone.asked][2:] == ["TLSA"]


@pytest.mark.rfc("7672-2.1.1-k")
async def test_the_ad_bit_is_that_of_each_answer(signed: tuple[Zone, NameServer]) -> None:
    zone, server = signed
    zone.insecure.add(NAME)
    assert isinstance(await find_over_the_wire(server), NoTlsa)


@pytest.mark.rfc("7672-2.1.2-d", "7672-2.2.2-c")
async def test_a_broken_answer_to_tlsa_hurts_only_signed_hosts(signed: tuple[Zone, NameServer]) -> None:
    zone, server = signed
    zone.rules[NAME, "TLSA"] = failing(dns.rcode.NOTIMP)
    assert isinstance(await find_over_the_wire(server), TlsaUnknown)
    zone.insecure.add(MX)
    assert isinstance(await find_over_the_wire(server), NoTlsa)


@pytest.mark.rfc("7672-2.2.2-d", "7672-2.2.2-f", "7672-2.2.2-g", "7672-2.1.3-d")
@pytest.mark.parametrize("chase", [True, False])
@pytest.mark.parametrize(
    ("insecure", "base_domain"),
    [(set(), "c.test"), ({"c.test"}, "alias.test"), ({"b.test"}, "alias.test"), ({"alias.test"}, None)],
)
async def test_a_chain_of_aliases(
    signed: tuple[Zone, NameServer], insecure: set[str], base_domain: str | None, chase: bool
) -> None:
    zone, server = signed
    zone.chase = chase
    zone.add("alias.test", "CNAME", "b.test.")
    zone.add("b.test", "CNAME", "c.test.")
    zone.add("c.test", "A", "192.0.2.1")
    for name in ("alias.test", "b.test", "c.test"):
        zone.add(f"_25._tcp.{name}", "TLSA", f"3 1 1 {'00' * 32}")
    zone.insecure |= insecure
    found = await find_over_the_wire(server, "alias.test")
    assert (found.base_domain if isinstance(found, SecureTlsa) else None) == base_domain
    assert zone.count("_25._tcp.b.test", "TLSA") == 0


@pytest.mark.rfc("7672-2.2.3-d", "7672-2.2.3-e")
@pytest.mark.parametrize("secure", [True, False])
async def test_an_alias_of_the_records_does_not_move_the_base_domain(
    signed: tuple[Zone, NameServer], secure: bool
) -> None:
    zone, server = signed
    zone.records[NAME, "CNAME"] = ["tlsa._dane.test."]
    zone.records["tlsa._dane.test", "TLSA"] = zone.records.pop((NAME, "TLSA"))
    if not secure:
        zone.insecure.add("tlsa._dane.test")
    found = await find_over_the_wire(server)
    assert (found.base_domain if isinstance(found, SecureTlsa) else None) == (MX if secure else None)
