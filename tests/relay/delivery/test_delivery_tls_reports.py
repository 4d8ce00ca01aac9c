"""TLS reports in the queue: delivered whatever is wrong with TLS, apart from other mail (RFC 8460 §3, §5.3, §5.5)."""

import asyncio
from dataclasses import replace
from datetime import timedelta

import pytest
from delivery_fakes import World, down, found_addresses, found_mx, until
from policy_fakes import NXDOMAIN

from policy.answers import Found, TlsaRecord, Unknown, UnknownReason
from policy.requirement import Level, Requirement
from relay.delivery.routing_table import NextHop
from relay.queue.attempt import FailureKind
from relay.queue.message import Job, Notify, Origin, State
from relay.queue.schedule import REPORT_LIFETIME
from relay.status import Reply
from relay.store.protocols import QueueFilter

NEVER = frozenset({Notify.NEVER})
TLS_FAULTS = [
    FailureKind.STARTTLS_MISSING,
    FailureKind.STARTTLS_REFUSED,
    FailureKind.HANDSHAKE,
    FailureKind.CERTIFICATE,
]
MX = "mx.example.test"


async def report(world: World) -> Job:
    """Queue a report to the domain and claim its job."""
    await world.enqueue("tlsrpt@example.test", origin=Origin.REPORT, notify=NEVER)
    return await world.claim()


@pytest.mark.rfc("8460-3-aa", "8460-5.3-a")
@pytest.mark.parametrize("fault", TLS_FAULTS)
async def test_a_report_arrives_where_enforce_keeps_other_mail_back(fault: FailureKind) -> None:
    world = World()
    world.publish("example.test", "1", "enforce", MX)
    world.transport.hosts[MX].tls = fault
    job = await report(world)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert (await world.attempt()).state is State.QUEUED


@pytest.mark.rfc("8460-3-aa", "8460-5.3-a")
async def test_a_report_arrives_at_a_host_that_the_policy_does_not_name() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.example.test")
    job = await report(world)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert {kind for kind, _ in world.resolver.asked} == {"MX", "ADDRESS"}, "no policy, no TLSA record counts"


@pytest.mark.rfc("8460-5.3-a")
@pytest.mark.parametrize("bogus", [False, True])
async def test_a_report_arrives_whatever_the_tlsa_records_say(bogus: bool) -> None:
    world = World()
    world.resolver.mx_answers["example.test"] = replace(found_mx((10, MX)), authentic=True)
    world.addresses(MX, replace(found_addresses("198.41.0.1"), authentic=True))
    record = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
    world.resolver.tlsa_answers[f"_25._tcp.{MX}"] = (
        Unknown(reason=UnknownReason.BOGUS, detail="no", extended_error=6)
        if bogus
        else Found(records=(record,), canonical_name="", ttl=timedelta(hours=1), authentic=True)
    )
    job = await report(world)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.DELIVERED
    assert world.transport.contacted[0].requirement.dane is None


@pytest.mark.rfc("8460-3-ad", "8460-3-ac")
async def test_a_report_and_other_mail_never_share_a_session_even_where_nothing_is_demanded() -> None:
    world = World()
    await world.attempt()
    job = await report(world)
    await world.worker.attempt(job)
    mail, reports = world.transport.contacted
    assert (mail.mx_host, mail.address, mail.port) == (reports.mx_host, reports.address, reports.port)
    assert mail != reports, "the pool's key"
    assert reports.requirement == Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, for_reports=True)


async def test_a_report_goes_where_its_domain_says_not_to_the_host_for_notices() -> None:
    world = World(ndr_route=(NextHop(host="mta.contoso.test"),))
    job = await report(world)
    await world.worker.attempt(job)
    assert world.hosts_contacted() == [MX]


@pytest.mark.rfc("8460-5.5-a", "8460-5.5-b")
async def test_a_report_is_given_up_after_a_day_and_nobody_is_told(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    world = World()
    world.transport.hosts[MX].down = down(FailureKind.CONNECTION_REFUSED)
    job = await report(world)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.QUEUED
    assert (await world.again(after=REPORT_LIFETIME - timedelta(minutes=90))).state is State.QUEUED
    assert (await world.again(after=timedelta(minutes=90))).state is State.FAILED
    assert await world.notices_to() == []
    assert caplog.messages.count("recipient.failed") == 1


@pytest.mark.rfc("8460-5.5-b", "8460-5.5-c")
@pytest.mark.parametrize("why", ["refused", "no domain", "loop"])
async def test_a_report_that_cannot_be_delivered_is_gone_at_once_and_not_held(why: str) -> None:
    world = World()
    if why == "refused":
        world.transport.hosts[MX].replies["tlsrpt@example.test"] = Reply(550, ("5.1.1 no such user",))
    elif why == "loop":
        world = World(own_names=frozenset({MX}))
    else:
        world.resolver.mx_answers["example.test"] = NXDOMAIN
    job = await report(world)
    await world.worker.attempt(job)
    assert (await world.entry(job)).state is State.FAILED
    assert await world.notices_to() == []


async def test_mail_that_a_policy_keeps_back_does_not_keep_reports_back() -> None:
    """They wait in one lane: what was found out for the one does not hold for the other."""
    world = World()
    world.publish("example.test", "1", "enforce", MX)
    world.transport.hosts[MX].tls = FailureKind.CERTIFICATE
    for path, origin in (("bob", Origin.CLIENT), ("tlsrpt", Origin.REPORT), ("eve", Origin.CLIENT)):
        await world.enqueue(f"{path}@example.test", origin=origin, notify=NEVER)
    running = asyncio.create_task(world.dispatcher.run())
    await until(lambda: len(world.store.settlements) == 3)
    await world.dispatcher.stop(timedelta(seconds=1))
    await running
    entries = {entry.message.origin: entry.state for entry in await world.store.list(QueueFilter(all=True), 10)}
    assert entries == {Origin.CLIENT: State.QUEUED, Origin.REPORT: State.DELIVERED}
    assert len(world.transport.contacted) == 2, "of the mail, one asked for all"
