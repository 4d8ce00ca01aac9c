"""How TLSA records enter a route: asked for beside the policy, judged host by host, kept no longer than they last."""

from dataclasses import replace
from datetime import timedelta

import pytest
from delivery_fakes import World, found_addresses, found_mx
from policy_fakes import SERVFAIL

from policy.answers import Answer, Found, TlsaRecord, Unknown, UnknownReason
from policy.names import IPAddress
from policy.requirement import Level, MxMatch, Requirement
from relay.delivery.hosts import Host, Route
from relay.delivery.routing_table import NextHop
from relay.queue.attempt import DaneScope, FailureKind
from relay.queue.message import Origin

DOMAIN, MX, SPARE = "example.test", "mx.example.test", "spare.example.test"
BOGUS = Unknown(reason=UnknownReason.BOGUS, detail="the signature does not match", extended_error=6)
RECORD = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))


def secure(*addresses: str) -> Found[IPAddress]:
    return replace(found_addresses(*addresses), authentic=True)


def tlsa(*records: TlsaRecord, ttl: timedelta = timedelta(hours=1), authentic: bool = True) -> Found[TlsaRecord]:
    return Found(records=records or (RECORD,), canonical_name="", ttl=ttl, authentic=authentic)


def signed(answer: Answer[TlsaRecord] | None = None, *, mode: str = "", mx: str = MX) -> World:
    """A domain with two hosts, the first of which has TLSA records."""
    world = World()
    if mode:
        world.publish(DOMAIN, "1", mode, mx, SPARE)
    world.resolver.mx_answers[DOMAIN] = replace(found_mx((10, MX), (20, SPARE)), authentic=True)
    world.resolver.address_answers[MX] = secure("198.41.0.1")
    world.resolver.address_answers[SPARE] = found_addresses("198.41.0.2")
    world.resolver.tlsa_answers[f"_25._tcp.{MX}"] = answer or tlsa()
    return world


async def route_of(world: World, destination: str = DOMAIN) -> Route:
    return await world.router.route((await world.job()).message, destination)


def demand(host: Host) -> Requirement:
    assert isinstance(host.verdict, Requirement), host.verdict
    return host.verdict


@pytest.mark.rfc("7672-2.2.1-b", "7672-2.2.1-c")
async def test_each_host_is_held_to_its_own_records_in_the_order_of_the_mx_records() -> None:
    first, second = (await route_of(signed())).hosts
    assert (first.name, first.dane, demand(first).level) == (MX, DaneScope.DOMAIN, Level.OPPORTUNISTIC)
    assert demand(first).by_dane
    assert (second.name, second.dane, demand(second).dane) == (SPARE, None, None)
    world = signed()
    world.resolver.mx_answers[DOMAIN] = found_mx((10, SPARE), (20, MX))
    assert [host.name for host in (await route_of(world)).hosts] == [SPARE, MX]


@pytest.mark.rfc("7672-2.2.1-f", "7672-2.2.1-g", "7672-2.2.1-h")
async def test_a_host_that_an_insecure_mx_record_names_is_not_said_to_be_secure_for_the_domain() -> None:
    world = signed()
    world.resolver.mx_answers[DOMAIN] = found_mx((10, MX))
    world.resolver.address_answers[MX] = replace(secure("198.41.0.1"), canonical_name="real.example.test")
    (host,) = (await route_of(world)).hosts
    assert (host.name, host.dane, demand(host).by_dane) == (MX, DaneScope.HOST, True)


@pytest.mark.rfc("8461-2-a", "8461-2-b")
async def test_policy_and_records_add_up() -> None:
    host = (await route_of(signed(mode="enforce"))).hosts[0]
    assert (demand(host).level, demand(host).mx_match, demand(host).by_dane) == (Level.VERIFIED, MxMatch.MATCHED, True)
    refused = (await route_of(signed(mode="enforce", mx="other.example.test"))).hosts[0]
    assert refused.failure is not None
    assert (refused.failure.kind, refused.dane) == (FailureKind.MX_NOT_IN_POLICY, None)


@pytest.mark.rfc("7672-2.1.2-b", "7672-2.1.2-d", "7672-2.2-e")
@pytest.mark.parametrize(
    ("answer", "kind", "refused"),
    [(BOGUS, FailureKind.DNSSEC_BOGUS, True), (SERVFAIL, FailureKind.DNS_UNKNOWN, False)],
)
async def test_a_host_whose_records_are_not_known_is_passed_over_and_the_next_one_takes_the_mail(
    answer: Answer[TlsaRecord], kind: FailureKind, refused: bool
) -> None:
    world = signed(answer)
    first, second = (await route_of(world)).hosts
    assert first.failure is not None
    assert (first.failure.kind, first.failure.kind.refusal) == (kind, refused)
    assert second.failure is None
    await world.attempt("bob@example.test")
    assert world.hosts_contacted() == [SPARE]


async def test_an_address_that_is_not_known_is_dns_that_fails_and_no_question_follows() -> None:
    world = signed()
    world.resolver.address_answers[MX] = SERVFAIL
    host = (await route_of(world)).hosts[0]
    assert host.failure is not None
    assert (host.failure.kind, host.tlsa) == (FailureKind.DNS_UNKNOWN, None)
    assert "TLSA" not in {kind for kind, _ in world.resolver.asked}


async def test_a_domain_without_dnssec_is_asked_nothing_more() -> None:
    world = World()
    world.resolver.mx_answers[DOMAIN] = found_mx((10, MX))
    world.resolver.address_answers[MX] = found_addresses("198.41.0.1")
    await route_of(world)
    assert set(world.resolver.asked) == {("ADDRESS", MX), ("MX", DOMAIN), ("TXT", f"_mta-sts.{DOMAIN}")}


@pytest.mark.rfc("7672-2.2-i")
async def test_an_address_in_place_of_a_host_is_a_name_that_is_not_there() -> None:
    world = World()
    world.resolver.mx_answers[DOMAIN] = replace(found_mx((10, "198.41.0.9")), authentic=True)
    (host,) = (await route_of(world)).hosts
    assert host.failure is not None
    assert (host.failure.kind, host.dane) == (FailureKind.NO_ADDRESS, None)


@pytest.mark.rfc("7672-2.2-h")
async def test_an_address_literal_has_no_records() -> None:
    world = World()
    (host,) = (await route_of(world, "[198.41.0.9]")).hosts
    assert (host.tlsa, host.dane) == (None, None)
    assert world.resolver.asked == []


@pytest.mark.rfc("7672-1-a")
async def test_a_next_hop_of_the_operators_is_held_to_its_records_at_its_port() -> None:
    world = World(ndr_route=(NextHop(host=MX, port=2525),))
    world.resolver.address_answers[MX] = secure("198.41.0.1")
    world.resolver.tlsa_answers[f"_2525._tcp.{MX}"] = tlsa()
    job = await world.job("alice@example.test", reverse_path="", origin=Origin.RELAY)
    (host,) = (await world.router.route(job.message, DOMAIN)).hosts
    assert (host.dane, demand(host).by_dane) == (DaneScope.DOMAIN, True)


@pytest.mark.parametrize("kind", ["records", "none"])
async def test_a_route_lasts_no_longer_than_its_records_or_that_there_are_none(kind: str) -> None:
    ttl = timedelta(minutes=5)
    world = signed(tlsa(ttl=ttl) if kind == "records" else tlsa(ttl=ttl, authentic=False))
    await route_of(world)
    world.clock.move(ttl - timedelta(seconds=1))
    world.resolver.asked.clear()
    await route_of(world)
    assert ("TLSA", f"_25._tcp.{MX}") not in world.resolver.asked
    world.clock.move(timedelta(seconds=1))
    await route_of(world)
    assert ("TLSA", f"_25._tcp.{MX}") in world.resolver.asked


async def test_records_that_are_not_known_are_asked_for_with_each_message() -> None:
    world = signed(SERVFAIL)
    for count in (1, 2):
        await route_of(world)
        assert world.resolver.asked.count(("TLSA", f"_25._tcp.{MX}")) == count


async def test_what_the_records_refuse_expires_without_a_look_at_the_policy() -> None:
    world = signed(BOGUS, mode="enforce")
    world.resolver.mx_answers[DOMAIN] = replace(found_mx((10, MX)), authentic=True)
    entry = await world.attempt("bob@example.test")
    assert [str(one.status) for one in entry.recipients] == ["4.7.324"]
    assert world.resolver.asked_fresh == []
    entry = await world.again(after=timedelta(hours=25))
    assert [str(one.status) for one in entry.recipients] == ["5.7.324"]
    (ndr,) = await world.notices_to()
    assert b"dnssec-invalid" in ndr
