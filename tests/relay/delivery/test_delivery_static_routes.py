"""Routes of the operator's: next hops in order, whose policy counts, what is demanded, and exceptions that end."""

from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address

import pytest
from delivery_fakes import World, down, found_addresses, found_mx
from policy_fakes import HOUR, SERVFAIL, START

from policy.answers import Found, TlsaRecord
from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, MxMatch, Requirement, RouteDemand
from relay.delivery.hosts import Route
from relay.delivery.routing_table import (
    Directions,
    Judgement,
    NextHop,
    StaticRoute,
    Weakened,
    Weakening,
)
from relay.delivery.seam import Login
from relay.logs import fields
from relay.queue.attempt import FailureKind
from relay.queue.message import Origin, State
from relay.status import Reply

VERIFIED = RouteDemand(level=Level.VERIFIED)
ENCRYPTED = RouteDemand(level=Level.ENCRYPTED)


def route(*hops: str, demand: RouteDemand | None = None, login: Login | None = None, **says: object) -> StaticRoute:
    """A route for all mail."""
    judgement = replace(Judgement(demand=demand), **says)  # type: ignore[arg-type]
    next_hops = tuple(NextHop.parse(hop) for hop in hops)
    directions = Directions(name="*", next_hops=next_hops, judgement=judgement, login=login)
    return StaticRoute(patterns=("*",), directions=directions)


def weakened(ends_at: timedelta | None, *turns_off: Weakened) -> StaticRoute:
    lasting = Directions(name="example.test")
    off = Judgement(
        enforcement=Enforcement.OFF if Weakened.MTA_STS in turns_off else Enforcement.ENFORCE,
        dane=DaneMode.OFF if Weakened.DANE in turns_off else DaneMode.OPPORTUNISTIC,
    )
    ends = None if ends_at is None else START + ends_at
    weakening = Weakening(turns_off=turns_off, reason="their CA is broken", ends_at=ends)
    return StaticRoute(
        patterns=("example.test",), directions=lasting, weakened=replace(lasting, judgement=off, weakening=weakening)
    )


async def route_of(world: World, destination: str = "example.test") -> Route:
    return await world.router.route((await world.job(f"bob@{destination}")).message, destination)


async def demanded(world: World, destination: str = "example.test") -> Requirement:
    (host,) = (await route_of(world, destination)).hosts
    assert isinstance(host.verdict, Requirement), host.verdict
    return host.verdict


def kinds(found: Route) -> list[FailureKind | None]:
    return [host.failure.kind if host.failure else None for host in found.hosts]


# -- next hops -----------------------------------------------------------------------------------------------------


async def test_next_hops_are_tried_in_order_and_the_destination_is_not_looked_up() -> None:
    world = World(routes=(route("smtp://10.1.1.1:2525", "smtp://second.test", "smtp://third.test"),))
    for name, address in (("second.test", "10.1.1.2"), ("third.test", "10.1.1.3")):
        world.addresses(name, found_addresses(address))
    world.transport.hosts["10.1.1.1"].down = down(FailureKind.CONNECTION_REFUSED)
    world.transport.hosts["second.test"].down = down(FailureKind.TIMEOUT)
    entry = await world.attempt("bob@example.test")
    assert entry.state is State.DELIVERED
    contacted = [(target.mx_host, str(target.address), target.port) for target in world.transport.contacted]
    assert contacted == [
        ("10.1.1.1", "10.1.1.1", 2525),
        ("second.test", "10.1.1.2", 25),
        ("third.test", "10.1.1.3", 25),
    ]
    assert not any("example.test" in name for _, name in world.resolver.asked)


async def test_a_hop_with_many_dead_addresses_does_not_keep_the_next_one_from_its_turn() -> None:
    hops = [f"hop{number}.test" for number in range(4)]
    world = World(routes=(route(*(f"smtp://{hop}" for hop in hops)),))
    for number, hop in enumerate(hops):
        world.addresses(hop, found_addresses(*(f"10.1.{number}.{n}" for n in (1, 2, 3))))
        if number < 3:
            world.transport.hosts[hop].down = down(FailureKind.TIMEOUT)
    assert (await world.attempt()).state is State.DELIVERED
    assert world.hosts_contacted() == [hop for hop in hops[:3] for _ in range(3)] + ["hop3.test"]


async def test_a_hop_that_is_not_in_the_dns_does_not_keep_the_next_one_from_its_turn() -> None:
    world = World(routes=(route("smtp://gone.test", "mx://gone.test", "smtp://10.1.1.1"),))
    assert (await world.attempt()).state is State.DELIVERED
    assert world.hosts_contacted() == ["10.1.1.1"]


async def test_mail_waits_when_no_hop_can_be_reached() -> None:
    world = World(routes=(route("smtp://10.1.1.1", "smtp://10.1.1.2"),))
    for host in ("10.1.1.1", "10.1.1.2"):
        world.transport.hosts[host].down = down(FailureKind.CONNECTION_REFUSED)
    entry = await world.attempt()
    assert (entry.state, str(entry.recipients[0].status)) == (State.QUEUED, "4.4.316")
    assert (await world.again(after=timedelta(minutes=6))).state is State.QUEUED


async def test_the_mx_hosts_of_another_domain() -> None:
    world = World(routes=(route("mx://gateway.test"),))
    world.domain("gateway.test", "mx1.gateway.test", "mx2.gateway.test")
    world.addresses("mx1.gateway.test", found_addresses("10.9.9.9"))  # the operator's affair
    assert [host.name for host in (await route_of(world)).hosts] == ["mx1.gateway.test", "mx2.gateway.test"]
    assert (await world.attempt()).state is State.DELIVERED
    assert world.hosts_contacted() == ["mx1.gateway.test"]


async def test_a_route_without_next_hops_leaves_private_addresses_refused() -> None:
    world = World(routes=(route(demand=ENCRYPTED),))
    world.addresses("mx.example.test", found_addresses("10.9.9.9"))
    assert kinds(await route_of(world)) == [FailureKind.ADDRESS_REFUSED]


async def test_how_a_hop_is_entered_is_part_of_the_target() -> None:
    login = Login(user="relay", password="secret")
    world = World(routes=(route("smtps://hop.test", demand=VERIFIED, login=login),))
    world.addresses("hop.test", found_addresses("10.1.1.1"))
    await world.attempt()
    (target,) = world.transport.contacted
    assert (target.port, target.implicit_tls, target.login) == (465, True, login)
    assert target.requirement.route == VERIFIED


async def test_implicit_tls_is_tls_though_the_route_demands_none() -> None:
    world = World(routes=(route("smtps://10.1.1.1"),))
    assert (await demanded(world)).route == ENCRYPTED


async def test_an_address_literal_takes_the_route_for_all() -> None:
    world = World(routes=(route("smtp://10.1.1.1"),))
    assert [host.name for host in (await route_of(world, "[198.41.0.9]")).hosts] == ["10.1.1.1"]
    world = World(routes=(route(demand=ENCRYPTED),))
    assert (await demanded(world, "[198.41.0.9]")).route == ENCRYPTED


@pytest.mark.parametrize("host", ["legacy.test", "10.0.0.1"])
async def test_a_hop_that_is_ourselves_is_a_loop_and_another_port_of_this_machine_is_not(host: str) -> None:
    own = frozenset({ip_address("10.0.0.1")})
    for port, loops in ((25, True), (2525, False)):
        world = World(routes=(route(f"smtp://{host}:{port}"),), own_addresses=own)
        world.addresses("legacy.test", found_addresses("10.0.0.1"))
        failure = (await route_of(world)).failure
        assert (failure is not None and failure.kind is FailureKind.LOOP) is loops


async def test_notices_take_the_route_unless_they_have_their_own() -> None:
    world = World(routes=(route("smtp://10.1.1.1"),))
    job = await world.job("alice@contoso.test", reverse_path="", origin=Origin.RELAY)
    await world.worker.attempt(job)
    assert world.hosts_contacted() == ["10.1.1.1"]
    world = World(routes=(route("smtp://10.1.1.1"),), ndr_route=(NextHop.parse("smtp://10.2.2.2"),))
    job = await world.job("alice@contoso.test", reverse_path="", origin=Origin.RELAY)
    await world.worker.attempt(job)
    assert world.hosts_contacted() == ["10.2.2.2"]


async def test_reports_take_the_route_and_leave_its_policy_aside() -> None:
    world = World(routes=(route("smtp://hop.test", enforcement=Enforcement.MANDATORY, demand=ENCRYPTED),))
    world.addresses("hop.test", found_addresses("10.1.1.1"))
    job = await world.job("reports@example.test", origin=Origin.REPORT)
    (host,) = (await world.router.route(job.message, "example.test")).hosts
    assert host.verdict == Requirement(level=Level.OPPORTUNISTIC, mx_host="hop.test", route=ENCRYPTED, for_reports=True)
    assert ("TXT", "_mta-sts.hop.test") not in world.resolver.asked


# -- whose policy ----------------------------------------------------------------------------------------------------


@pytest.mark.rfc("8461-3.4-a", "8461-3.4-b")
@pytest.mark.parametrize("hop", ["smtp://hop.test:2525", "mx://hop.test"])
async def test_the_next_hop_is_the_policy_domain_and_the_recipients_policy_is_not_asked_for(hop: str) -> None:
    world = World(routes=(route(hop),))
    host = "hop.test" if hop.startswith("smtp:") else "mx.hop.test"
    world.domain("hop.test", "mx.hop.test")
    world.addresses("hop.test", found_addresses("10.1.1.1"))
    world.publish("example.test", "1", "enforce", "elsewhere.test")
    world.publish("hop.test", "1", "enforce", host)
    asked = await demanded(world)
    assert (asked.mx_host, asked.level, asked.mx_match) == (host, Level.VERIFIED, MxMatch.MATCHED)
    assert {name for kind, name in world.resolver.asked if kind == "TXT"} == {"_mta-sts.hop.test"}


@pytest.mark.rfc("8461-3.4-b")
async def test_an_address_has_no_policy() -> None:
    world = World(routes=(route("smtp://10.1.1.1"),))
    assert await demanded(world) == Requirement(level=Level.OPPORTUNISTIC, mx_host="10.1.1.1")
    assert world.resolver.asked == []


@pytest.mark.rfc("8461-3.4-a", "8461-5-a")
async def test_each_next_hop_has_its_own_policy_and_a_refusal_is_looked_up_anew_before_the_next() -> None:
    world = World(routes=(route("mx://first.test", "mx://second.test"),))
    for name in ("first", "second"):
        world.domain(f"{name}.test", f"mx.{name}.test")
    world.publish("first.test", "1", "enforce", "elsewhere.test")
    world.publish("second.test", "7", "enforce", "mx.second.test")
    entry = await world.attempt()
    assert entry.state is State.DELIVERED
    assert world.hosts_contacted() == ["mx.second.test"]
    assert world.resolver.asked_fresh == ["_mta-sts.first.test"]
    (settlement,) = world.store.settlements
    assert settlement.attempt is not None
    assert settlement.attempt.policy is not None
    assert settlement.attempt.policy.policy_domain == "second.test"


async def test_a_policy_of_a_next_hop_that_is_not_known_lets_the_next_one_take_the_mail() -> None:
    world = World(routes=(route("smtp://first.test", "smtp://10.1.1.1"),))
    world.addresses("first.test", found_addresses("10.1.1.9"))
    world.resolver.publish("first.test", SERVFAIL)
    assert (await world.attempt()).state is State.DELIVERED
    assert world.hosts_contacted() == ["10.1.1.1"]


async def test_a_changed_policy_of_a_next_hop_is_tried_at_once() -> None:
    world = World(routes=(route("smtp://hop.test"),))
    world.addresses("hop.test", found_addresses("10.1.1.1"))
    world.publish("hop.test", "1", "enforce", "elsewhere.test")
    entry = await world.attempt()
    assert str(entry.recipients[0].status) == "4.4.8"
    world.publish("hop.test", "2", "enforce", "hop.test")
    assert (await world.again(after=timedelta(minutes=6))).state is State.DELIVERED


# -- what is demanded ------------------------------------------------------------------------------------------------


@pytest.mark.rfc("3207-6-a")
@pytest.mark.parametrize(
    ("tls", "demand", "status"),
    [
        (FailureKind.STARTTLS_MISSING, ENCRYPTED, "4.4.317"),
        (FailureKind.HANDSHAKE, ENCRYPTED, "4.4.317"),
        (FailureKind.STARTTLS_MISSING, VERIFIED, "4.4.317"),
        (FailureKind.CERTIFICATE, VERIFIED, "4.7.320"),
    ],
)
async def test_tls_that_a_route_demands_is_not_done_without(tls: FailureKind, demand: RouteDemand, status: str) -> None:
    world = World(routes=(route(demand=demand),))
    world.transport.hosts["mx.example.test"].tls = tls
    entry = await world.attempt()
    assert (entry.state, str(entry.recipients[0].status)) == (State.QUEUED, status)
    entry = await world.again(after=timedelta(hours=25))  # queue.expire_refused_after
    assert (entry.state, str(entry.recipients[0].status)) == (State.FAILED, "5" + status[1:])
    assert world.resolver.asked_fresh == [], "no policy could mend it"
    assert len(await world.notices_to()) == 1


async def test_what_a_route_refused_is_counted_as_such() -> None:
    world = World(routes=(route(demand=VERIFIED),))
    world.transport.hosts["mx.example.test"].tls = FailureKind.CERTIFICATE
    await world.attempt()
    assert world.metric("enforcement_failures_total", type="certificate-expired", mode="route") == 1


@pytest.mark.parametrize(
    ("mode", "enforcement", "level", "kind"),
    [
        ("", Enforcement.MANDATORY, None, FailureKind.POLICY_REQUIRED),
        ("none", Enforcement.MANDATORY, None, FailureKind.POLICY_REQUIRED),
        ("testing", Enforcement.MANDATORY, Level.VERIFIED, None),
        ("enforce", Enforcement.MANDATORY, Level.VERIFIED, None),
        ("testing", Enforcement.ENFORCE, Level.TESTING, None),
        ("enforce", Enforcement.OFF, Level.OPPORTUNISTIC, None),
    ],
)
async def test_a_policy_may_be_demanded_or_turned_off(
    mode: str, enforcement: Enforcement, level: Level | None, kind: FailureKind | None
) -> None:
    world = World(routes=(route(enforcement=enforcement),))
    if mode:
        world.publish("example.test", "1", mode, "mx.example.test")
    found = await route_of(world)
    assert kinds(found) == [kind]
    if level is not None:
        assert found.hosts[0].level is level
    else:
        entry = await world.attempt()
        assert str(entry.recipients[0].status) == "4.7.320"
        assert "mta-sts-required" in entry.recipients[0].diagnostic


async def test_a_record_that_is_not_known_is_waited_for_where_a_policy_is_demanded_and_then_nothing_is_sent() -> None:
    world = World(routes=(route(enforcement=Enforcement.MANDATORY),))
    world.resolver.publish("example.test", SERVFAIL)
    assert str((await world.attempt()).recipients[0].status) == "4.4.312"
    assert str((await world.again(after=timedelta(minutes=31))).recipients[0].status) == "4.7.320"
    assert world.hosts_contacted() == []


async def test_dane_that_is_demanded_lets_no_unknown_address_pass_as_one_without_records() -> None:
    world = World(routes=(route(dane=DaneMode.MANDATORY),))
    assert kinds(await route_of(world)) == [FailureKind.DANE_REQUIRED]
    world = World(routes=(route(dane=DaneMode.MANDATORY),))
    world.addresses("mx.example.test", SERVFAIL)
    assert kinds(await route_of(world)) == [FailureKind.DNS_UNKNOWN]
    entry = await world.attempt()
    assert str(entry.recipients[0].status) == "4.4.312"


async def test_dane_that_is_turned_off_asks_for_no_records() -> None:
    world = World(routes=(route(dane=DaneMode.OFF),))
    world.resolver.mx_answers["example.test"] = replace(found_mx((10, "mx.example.test")), authentic=True)
    world.addresses("mx.example.test", replace(found_addresses("198.41.0.1"), authentic=True))
    record = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
    world.resolver.tlsa_answers["_25._tcp.mx.example.test"] = Found(
        records=(record,), canonical_name="", ttl=HOUR, authentic=True
    )
    assert (await demanded(world)).dane is None
    assert not any(kind == "TLSA" for kind, _ in world.resolver.asked)


async def test_routes_do_not_touch_each_other() -> None:
    strict = StaticRoute(patterns=("a.test",), directions=Directions(name="a", judgement=Judgement(demand=VERIFIED)))
    world = World(routes=(strict,))
    for name in ("a.test", "b.test"):
        world.domain(name, "mx.shared.test")
    asked = [await demanded(world, name) for name in ("a.test", "b.test", "a.test", "b.test")]
    assert [one.route for one in asked] == [VERIFIED, None, VERIFIED, None]


# -- the log -------------------------------------------------------------------------------------------------------


async def test_what_becomes_of_mail_names_the_route_that_it_took(caplog: pytest.LogCaptureFixture) -> None:
    hop = Directions(name="partner.test", next_hops=(NextHop.parse("smtp://10.1.1.1"),))
    world = World(
        routes=(StaticRoute(patterns=("partner.test", "*.partner.test"), directions=hop),),
        ndr_route=(NextHop.parse("smtp://10.1.1.2"),),
    )
    world.transport.hosts["10.1.1.1"].replies = {"b@eu.partner.test": Reply(451, ("4.2.0 later",))}
    with caplog.at_level("INFO", logger="relay"):
        entry = await world.attempt("a@eu.partner.test", "b@eu.partner.test")
        await world.attempt("a@example.test")
        await world.worker.attempt(await world.job(origin=Origin.RELAY))
    told = [(one.message, fields(one)) for one in caplog.records if one.message.startswith("recipient.")]
    assert [(event, said.get("route", "-")) for event, said in told] == [
        ("recipient.delivered", "partner.test"),
        ("recipient.deferred", "partner.test"),
        ("recipient.delivered", "-"),
        ("recipient.delivered", "ndr.route"),
    ]
    assert [one.route for one in entry.attempts_made] == ["partner.test"]


async def test_an_attempt_that_is_broken_off_names_its_route_as_well(caplog: pytest.LogCaptureFixture) -> None:
    world = World(routes=(weakened(None, Weakened.MTA_STS),))
    world.domain("other.test", "mx.other.test")
    world.worker.drain()
    with caplog.at_level("INFO", logger="relay"):
        await world.worker.attempt(await world.job())
        await world.worker.attempt(await world.job("x@other.test"))
    told = [vars(one) for one in caplog.records if one.message == "delivery.broken_off"]
    assert [said.get("route", "-") for said in told] == ["example.test", "-"]


async def test_a_policy_that_changed_in_an_attempt_is_told_of_with_the_route(caplog: pytest.LogCaptureFixture) -> None:
    world = World(routes=(route("mx://hop.test"),))
    world.domain("hop.test", "mx.hop.test")
    world.publish("hop.test", "1", "enforce", "other.test")
    job = await world.job()
    await world.router.route(job.message, "example.test")
    world.publish("hop.test", "2", "enforce", "mx.hop.test")
    with caplog.at_level("INFO", logger="relay"):
        await world.worker.attempt(job)
    (said,) = [vars(one) for one in caplog.records if one.message == "delivery.policy_changed"]
    assert (said["route"], said["old_policy_id"], said["new_policy_id"]) == ("*", "1", "2")


# -- exceptions --------------------------------------------------------------------------------------------------------


async def test_an_exception_ends_while_the_relay_runs() -> None:
    world = World(routes=(weakened(timedelta(hours=2), Weakened.MTA_STS),))
    world.publish("example.test", "1", "enforce", "elsewhere.test")
    assert (await world.attempt()).state is State.DELIVERED
    assert world.metric("route_weakenings_total", weakens="mta_sts") == 1
    world.clock.move(timedelta(hours=2) - timedelta(seconds=1))
    assert (await world.attempt()).state is State.DELIVERED
    world.clock.move(timedelta(seconds=1))
    entry = await world.attempt()
    assert (entry.state, str(entry.recipients[0].status)) == (State.QUEUED, "4.4.8")
    assert world.metric("route_weakenings_total", weakens="mta_sts") == 2, "it is counted while it lasts"


async def test_each_use_of_an_exception_is_in_the_log(caplog: pytest.LogCaptureFixture) -> None:
    world = World(routes=(weakened(None, Weakened.MTA_STS, Weakened.DANE),))
    with caplog.at_level("INFO", logger="relay"):
        await world.attempt()
    (record,) = [one for one in caplog.records if one.msg == "delivery.weakened"]
    said = vars(record)
    assert (said["route"], said["turns_off"]) == ("example.test", "mta_sts, dane")
    assert (said["reason"], said["ends_at"]) == ("their CA is broken", None)


async def test_an_exception_still_encrypts_where_it_can() -> None:
    world = World(routes=(weakened(None, Weakened.MTA_STS),))
    world.publish("example.test", "1", "enforce", "elsewhere.test")
    await world.attempt()
    assert world.metric("deliveries_total", security="opportunistic", tls_version="TLSv1.3") == 1
