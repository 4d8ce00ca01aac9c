"""Messages with REQUIRETLS or an honoured TLS-Required: No on their way: route, hosts, status (RFC 8689 §4.2, §5)."""

from dataclasses import replace
from datetime import timedelta

import pytest
from delivery_fakes import World, down, found_addresses, found_mx
from policy_fakes import SERVFAIL

from policy.answers import Found, TlsaRecord
from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, MxMatch, Requirement, RouteDemand
from relay.delivery.hosts import Route
from relay.delivery.routing_table import Directions, Judgement, NextHop, StaticRoute
from relay.queue.attempt import FailureKind, Phase
from relay.queue.message import Envelope, Job, NewMessage, NewRecipient, Origin, State
from relay.status import Reply
from relay.store.protocols import QueueEntry

DOMAIN, MX, SPARE = "example.test", "mx.example.test", "spare.example.test"
LACKING = down(FailureKind.REQUIRETLS_MISSING, "the host does not offer it")


def proven(*mx: str) -> World:
    """A domain whose MX records DNSSEC secures."""
    world = World()
    world.domain(DOMAIN, *(mx or (MX,)))
    found = found_mx(*((10 * number, host) for number, host in enumerate(mx or (MX,), 1)))
    world.resolver.mx_answers[DOMAIN] = replace(found, authentic=True)
    return world


async def take(
    world: World, path: str = f"bob@{DOMAIN}", *, sender: str = "alice@contoso.test", optional: bool = False
) -> Job:
    """Queue a message with REQUIRETLS, or instead with TLS-Required: No, and claim its job."""
    destination = path.rpartition("@")[2]
    message = NewMessage(
        queue_id=world.new_id(),
        envelope=Envelope(reverse_path=sender),
        recipients=(NewRecipient(forward_path=path, destination=destination),),
        content=b"Subject: secret\r\n\r\nbody\r\n",
        require_tls=not optional,
        tls_optional=optional,
    )
    await world.store.enqueue(message)
    return await world.claim(destination)


async def attempt(world: World, path: str = f"bob@{DOMAIN}", *, sender: str = "alice@contoso.test") -> QueueEntry:
    job = await take(world, path, sender=sender)
    await world.worker.attempt(job)
    return await world.entry(job)


async def route_of(world: World, path: str = f"bob@{DOMAIN}", *, optional: bool = False) -> Route:
    job = await take(world, path, optional=optional)
    return await world.router.route(job.message, job.destination)


def failures(route: Route) -> list[FailureKind | None]:
    return [host.failure.kind if host.failure else None for host in route.hosts]


# Which hosts are proven to be the right ones.


@pytest.mark.rfc("8689-4.2.1-a", "8689-2-h")
async def test_hosts_that_dnssec_names_are_tried_in_their_order() -> None:
    route = await route_of(proven(MX, SPARE))
    assert [host.verdict for host in route.hosts] == [
        Requirement(level=Level.OPPORTUNISTIC, mx_host=name, requiretls=True) for name in (MX, SPARE)
    ]


@pytest.mark.rfc("8689-2-h", "8689-4.2.1-b")
async def test_hosts_that_nothing_proves_are_not_contacted() -> None:
    world = World()
    entry = await attempt(world)
    assert world.transport.contacted == []
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, "5.7.30")


@pytest.mark.rfc("8689-4.2.1-b", "8689-4.2.1-c")
async def test_a_policy_in_mode_enforce_proves_its_hosts() -> None:
    world = World()
    world.publish(DOMAIN, "1", "enforce", MX)
    (host,) = (await route_of(world)).hosts
    assert host.verdict == Requirement(level=Level.VERIFIED, mx_host=MX, mx_match=MxMatch.MATCHED, requiretls=True)
    lax = World()
    lax.publish(DOMAIN, "1", "testing", MX)
    assert failures(await route_of(lax)) == [FailureKind.MX_NOT_VALIDATED]


@pytest.mark.rfc("8689-4.2.1-e")
async def test_a_host_that_is_the_domain_itself_needs_no_proof() -> None:
    world = World()
    world.addresses(DOMAIN, found_addresses("198.41.0.9"))
    world.resolver.mx_answers[DOMAIN] = found_mx((10, DOMAIN))
    assert failures(await route_of(world)) == [None]


async def test_an_address_literal_has_no_name_to_prove() -> None:
    route = await route_of(World(), "bob@[198.41.0.9]")
    assert failures(route) == [FailureKind.MX_NOT_VALIDATED]


@pytest.mark.rfc("8689-4.2.1-n")
async def test_a_policy_that_cannot_be_had_now_may_prove_them_later() -> None:
    world = World()
    world.publish(DOMAIN, "1", "enforce", MX)
    del world.fetcher.bodies[DOMAIN]
    assert failures(await route_of(world)) == [FailureKind.MX_VALIDATION_UNKNOWN]
    entry = await attempt(world)
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.7.30")
    world.publish(DOMAIN, "2", "enforce", MX)
    entry = await world.again(after=timedelta(hours=1))
    assert entry.state is State.DELIVERED


@pytest.mark.rfc("8689-4.2.1-n")
async def test_where_the_record_does_not_answer_the_mail_waits() -> None:
    world = World()
    world.resolver.txt_answers[f"_mta-sts.{DOMAIN}"] = SERVFAIL
    assert (await attempt(world)).recipients[0].status == "4.4.312"
    entry = await world.again(after=timedelta(hours=1))
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, "4.7.30")


async def test_an_operators_settings_do_not_weaken_it() -> None:
    for enforcement, kind in (
        (Enforcement.REPORT_ONLY, None),
        (Enforcement.OFF, FailureKind.MX_NOT_VALIDATED),
    ):
        world = World(enforcement=enforcement)
        world.publish(DOMAIN, "1", "enforce", MX)
        assert failures(await route_of(world)) == [kind]


async def test_what_holds_for_one_message_is_not_remembered_for_others() -> None:
    world = proven()
    plain = (await world.job()).message
    assert not demands(await world.router.route(plain, DOMAIN))
    assert demands(await route_of(world))
    assert not demands(await world.router.route(plain, DOMAIN))
    other = proven()
    assert demands(await route_of(other))
    assert not demands(await other.router.route(plain, DOMAIN))


async def test_it_outlasts_a_policy_that_changes_during_the_attempt() -> None:
    """RFC 8461 §5: the record is looked up past all caches; the hosts that are allowed then are held to no less."""
    world = World()
    world.publish(DOMAIN, "1", "enforce", "elsewhere.example.test")
    job = await take(world)
    before = await world.router.route(job.message, DOMAIN)
    assert failures(before) == [FailureKind.MX_NOT_IN_POLICY]
    world.publish(DOMAIN, "2", "enforce", MX)
    assert demands(await world.router.recheck(before))
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    ((target, _),) = world.transport.sent
    assert target.requirement.requiretls


def demands(route: Route) -> bool:
    (host,) = route.hosts
    assert isinstance(host.verdict, Requirement)
    return host.verdict.requiretls


# What becomes of the message.


@pytest.mark.rfc("8689-4.2.1-i")
async def test_the_next_host_may_keep_to_it() -> None:
    world = proven(MX, SPARE)
    world.transport.hosts[MX].down, world.transport.hosts[MX].down_at = LACKING, Phase.EHLO
    entry = await attempt(world)
    assert entry.state is State.DELIVERED
    assert [target.mx_host for target, _ in world.transport.sent] == [SPARE]
    assert world.metric("requiretls_recipients_total", result="kept") == 1


@pytest.mark.rfc("8689-4.2.1-k", "8689-4.2.1-l", "8689-4.2.1-m", "8689-7-a", "8689-6-b", "8689-5-a", "code-o")
async def test_where_no_host_keeps_to_it_the_sender_is_told_at_once() -> None:
    world = proven(MX, SPARE)
    for name in (MX, SPARE):
        world.transport.hosts[name].down, world.transport.hosts[name].down_at = LACKING, Phase.EHLO
    entry = await attempt(world)
    assert world.transport.sent == []
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, "5.7.30")
    assert entry.recipients[0].diagnostic.startswith("REQUIRETLS support required [Message=the host does not offer it]")
    (ndr,) = await world.store.claim("contoso.test", 10)
    assert (ndr.message.require_tls, ndr.message.envelope.reverse_path) == (True, "")
    content = b"".join([piece async for piece in world.store.content(ndr.message.queue_id)])
    assert b"Status: 5.7.30\r\n" in content
    assert b"550 5.7.30 REQUIRETLS support required" in content
    assert world.metric("requiretls_recipients_total", result="refused") == 1


@pytest.mark.rfc("8689-4.2.1-n")
@pytest.mark.parametrize(
    "failure",
    [
        down(FailureKind.CONNECTION_REFUSED, "refused"),
        down(FailureKind.TIMEOUT, "late"),
        down(FailureKind.REPLY, "451", Reply(451, ("4.3.0 later",))),
        down(FailureKind.REQUIRETLS_TLS, "no STARTTLS"),
        down(FailureKind.REQUIRETLS_CERTIFICATE, "expired"),
    ],
    ids=lambda failure: failure.kind.value,
)
@pytest.mark.parametrize("lacking", [MX, SPARE])
async def test_while_one_host_may_do_better_later_the_message_waits(failure: object, lacking: str) -> None:
    world = proven(MX, SPARE)
    for name in (MX, SPARE):
        host = world.transport.hosts[name]
        host.down, host.down_at = (LACKING, Phase.EHLO) if name == lacking else (failure, Phase.CONNECT)  # type: ignore[assignment]
    entry = await attempt(world)
    assert (entry.state, entry.recipients[0].status[0]) == (State.QUEUED, "4")
    assert await world.notices_to() == []


@pytest.mark.rfc("8689-4.2.1-m", "8689-4.2.1-l")
@pytest.mark.parametrize(
    ("kind", "status"), [(FailureKind.REQUIRETLS_TLS, "7.10"), (FailureKind.REQUIRETLS_CERTIFICATE, "7.30")]
)
async def test_tls_that_fails_waits_for_a_day_without_a_policy_to_look_up(kind: FailureKind, status: str) -> None:
    world = proven()
    world.transport.hosts[MX].down, world.transport.hosts[MX].down_at = down(kind, "why not"), Phase.HANDSHAKE
    entry = await attempt(world)
    assert (entry.state, entry.recipients[0].status) == (State.QUEUED, f"4.{status}")
    entry = await world.again(after=timedelta(hours=25))
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, f"5.{status}")


async def test_a_message_that_demands_more_speaks_for_no_other() -> None:
    """Neither does the destination cool down, nor does what was found out hold for mail that waits there."""
    world = proven()
    world.transport.hosts[MX].down, world.transport.hosts[MX].down_at = LACKING, Phase.EHLO
    ended = await world.worker.attempt(job := await take(world))
    assert ended is not None
    assert not ended.unreachable
    world.transport.hosts[MX].down = None
    plain = await world.job()
    assert not world.worker.shares_route(job, plain)
    assert not world.worker.shares_route(plain, await take(world, optional=True))
    assert world.worker.shares_route(job, await take(world))
    assert (await world.attempt()).state is State.DELIVERED


@pytest.mark.rfc("8689-4.1-d", "8689-4.1-a")
async def test_it_holds_at_each_destination() -> None:
    world = proven()
    world.domain("other.test", "mx.other.test")
    assert (await attempt(world)).state is State.DELIVERED
    assert (await attempt(world, "bob@other.test")).recipients[0].status == "5.7.30"


# By a route of the operator's.


def by_route(*hops: str, demand: RouteDemand | None = None) -> World:
    """A world with one route for all mail, whose next hops have addresses."""
    next_hops = tuple(NextHop.parse(hop) for hop in hops)
    directions = Directions(name="*", next_hops=next_hops, judgement=Judgement(demand=demand))
    world = World(routes=(StaticRoute(patterns=("*",), directions=directions),))
    for number, hop in enumerate(next_hops):
        world.addresses(str(hop.host), found_addresses(f"10.1.1.{number}"))
    return world


@pytest.mark.rfc("8689-4.2.1-q")
@pytest.mark.parametrize("demand", [None, RouteDemand(level=Level.ENCRYPTED), RouteDemand(level=Level.VERIFIED)])
async def test_a_next_hop_that_the_operator_named_is_proven_by_that(demand: RouteDemand | None) -> None:
    (host,) = (await route_of(by_route("smtp://hub.partner.test", demand=demand))).hosts
    assert isinstance(host.verdict, Requirement)
    assert (host.verdict.requiretls, host.verdict.route) == (True, demand)
    assert host.verdict.names == ("hub.partner.test",)


@pytest.mark.rfc("8689-4.2.1-q", "8689-2-h")
async def test_a_next_hop_by_its_mx_records_is_found_by_mx_like_any_other() -> None:
    world = by_route("mx://partner.test")
    world.domain("partner.test", "mx.partner.test")
    assert failures(await route_of(world)) == [FailureKind.MX_NOT_VALIDATED]
    world.publish("partner.test", "1", "enforce", "mx.partner.test")
    world.clock.move(timedelta(hours=2))
    assert failures(await route_of(world)) == [None]


@pytest.mark.rfc("8689-4.2.1-i")
async def test_the_next_of_several_next_hops_may_keep_to_it() -> None:
    world = by_route("smtp://one.test", "smtp://two.test")
    world.transport.hosts["one.test"].down, world.transport.hosts["one.test"].down_at = LACKING, Phase.EHLO
    assert (await attempt(world)).state is State.DELIVERED
    world.transport.hosts["two.test"].down, world.transport.hosts["two.test"].down_at = LACKING, Phase.EHLO
    assert (await attempt(world)).recipients[0].status == "5.7.30"


# Without a reverse-path.


@pytest.mark.rfc("8689-5-d", "8689-5-f")
async def test_a_notice_is_delivered_even_where_nobody_keeps_to_it() -> None:
    world = World()
    entry = await attempt(world, sender="")
    assert entry.state is State.DELIVERED
    (target, parcel) = world.transport.sent[0]
    assert (target.requirement.requiretls, parcel.message.require_tls) == (False, True)


@pytest.mark.rfc("8689-5-f")
async def test_a_notice_goes_to_the_operators_own_host_as_others_do() -> None:
    world = World(ndr_route=(NextHop.parse("smtp://10.0.0.7:2525"),))
    job = await take(world, sender="")
    message = replace(job.message, origin=Origin.RELAY)
    (host,) = (await world.router.route(message, DOMAIN)).hosts
    assert host.verdict == Requirement(level=Level.OPPORTUNISTIC, mx_host="10.0.0.7")


# TLS-Required: No, where the operator honours it.


@pytest.mark.rfc("8689-3-c", "8689-3-d", "8689-4.2.2-a", "8689-4.2.2-d", "8461-x-a")
async def test_what_a_policy_refuses_is_delivered_and_told() -> None:
    world = World()
    world.publish(DOMAIN, "1", "enforce", "elsewhere.example.test")
    job = await take(world, optional=True)
    (host,) = (await world.router.route(job.message, DOMAIN)).hosts
    assert host.verdict == Requirement(level=Level.TESTING, mx_host=MX, mx_match=MxMatch.NOT_MATCHED)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert world.metric("enforcement_failures_total", type="validation-failure", mode="report-only") == 1
    assert (await world.attempt()).state is State.QUEUED


@pytest.mark.rfc("8689-8.4-a", "7672-h-d")
async def test_neither_tlsa_records_nor_answers_that_do_not_come_keep_it_back() -> None:
    world = World()
    world.resolver.address_answers[MX] = replace(found_addresses("198.41.0.1"), authentic=True)
    world.resolver.tlsa_answers[f"_25._tcp.{MX}"] = SERVFAIL
    world.resolver.txt_answers[f"_mta-sts.{DOMAIN}"] = SERVFAIL
    assert failures(await route_of(world, optional=True)) == [None]
    record = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
    world.resolver.tlsa_answers[f"_25._tcp.{MX}"] = Found(
        records=(record,), canonical_name="", ttl=timedelta(0), authentic=True
    )
    (host,) = (await route_of(world, optional=True)).hosts
    assert host.verdict == Requirement(level=Level.OPPORTUNISTIC, mx_host=MX)


@pytest.mark.rfc("8689-4.2.2-b")
async def test_a_host_that_insists_on_tls_is_not_overruled() -> None:
    world = World()
    world.transport.hosts[MX].replies = {f"bob@{DOMAIN}": Reply(530, ("5.7.0 Must issue a STARTTLS command first",))}
    job = await take(world, optional=True)
    await world.worker.attempt(job)
    entry = await world.entry(job)
    assert (entry.state, entry.recipients[0].status) == (State.FAILED, "5.7.0")
    assert len(await world.notices_to()) == 1


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Judgement(), Judgement(enforcement=Enforcement.REPORT_ONLY, dane=DaneMode.OFF)),
        (
            Judgement(enforcement=Enforcement.OFF, dane=DaneMode.OFF),
            Judgement(enforcement=Enforcement.OFF, dane=DaneMode.OFF),
        ),
        (
            Judgement(enforcement=Enforcement.MANDATORY, dane=DaneMode.MANDATORY),
            Judgement(enforcement=Enforcement.MANDATORY, dane=DaneMode.MANDATORY),
        ),
    ],
)
async def test_what_the_operator_made_mandatory_no_sender_switches_off(given: Judgement, expected: Judgement) -> None:
    job = await take(World(), optional=True)
    assert given.of_message(job.message) == expected


async def test_for_ordinary_mail_the_judgement_is_the_very_same() -> None:
    judgement = Judgement()
    assert judgement.of_message((await World().job()).message) is judgement
