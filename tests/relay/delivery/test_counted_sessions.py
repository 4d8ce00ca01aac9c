"""Which settlement tells of a TLS session: the first for each domain, once, whatever becomes of it (RFC 8460 §4.2)."""

import asyncio
from datetime import UTC, datetime, time, timedelta
from ipaddress import ip_address

import pytest
from delivery_fakes import World, found_addresses, until
from policy_fakes import START

from policy.answers import Unknown, UnknownReason
from policy.decide import DaneMode
from policy.requirement import PolicyType, ResultType
from policy.tls_facts import TlsFailure
from relay.delivery.negotiation import Countable, Negotiation
from relay.delivery.routing_table import Directions, Judgement, NextHop, StaticRoute
from relay.delivery.seam import HostError
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.queue.message import Origin, State
from relay.queue.tls_results import TlsResult

MX = "mx.example.test"
DAY = START.date()
NO_TLS = TlsFailure(result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason="StartTlsNotSupported", detail="")
HANDSHAKE = TlsFailure(result_type=ResultType.VALIDATION_FAILURE, reason="HandshakeFailure", detail="")


def counting(**fields: object) -> World:
    return World(counts_sessions=True, **fields)  # type: ignore[arg-type]


def session(failure: HostFailure | None = None) -> Countable:
    return Countable(Negotiation(day=DAY, failure=failure))


def results(world: World) -> list[tuple[TlsResult, ...]]:
    return [settlement.tls_results for settlement in world.store.settlements]


def told(world: World) -> list[list[str]]:
    return [[result.recipient_domain for result in settled] for settled in results(world)]


async def patiently(world: World) -> None:
    """Attempt a job, and let the time go by that a failing store takes."""
    attempt = asyncio.create_task(world.worker.attempt(await world.job()))
    while not attempt.done():
        world.clock.move(timedelta(seconds=1))
        await asyncio.sleep(0)


@pytest.mark.rfc("8460-4.2-c", "8460-3-b")
async def test_five_messages_over_one_connection_are_one_session() -> None:
    world = counting()
    world.transport.hosts[MX].countable = session()
    for _ in range(5):
        await world.attempt()
    assert told(world) == [["example.test"], [], [], [], []]
    ((result,), *_) = results(world)
    assert (result.policy.policy_type, result.day, result.failures) == (PolicyType.NO_POLICY_FOUND, DAY, ())


@pytest.mark.rfc("8460-4.2-c")
async def test_a_session_is_told_of_for_each_domain_whose_mail_it_carried() -> None:
    world = counting()
    world.domain("b.test", MX)
    world.transport.hosts[MX].countable = session()
    for path in ("x@example.test", "x@b.test", "y@example.test", "y@b.test"):
        await world.attempt(path)
    assert told(world) == [["example.test"], ["b.test"], [], []]


@pytest.mark.rfc("8460-4.2-c")
async def test_attempts_that_settle_at_once_tell_of_their_session_once() -> None:
    world = counting()
    world.transport.hosts[MX].countable = session()
    world.store.settle_gate = asyncio.Event()
    jobs = [await world.job() for _ in range(4)]
    attempts = [asyncio.create_task(world.worker.attempt(job)) for job in jobs]
    await until(world.store.settling.is_set)
    world.store.settle_gate.set()
    await asyncio.gather(*attempts)
    assert sorted(told(world)) == [[], [], [], ["example.test"]]


async def test_a_settlement_that_cannot_be_written_leaves_the_session_to_the_next() -> None:
    world = counting()
    world.transport.hosts[MX].countable = session()
    world.store.fail_settles = 100
    await patiently(world)
    world.store.fail_settles = 0
    assert told(world) == []
    await world.attempt()
    await world.attempt()
    assert told(world) == [["example.test"], []]


async def test_a_settlement_that_takes_patience_tells_of_it_once() -> None:
    world = counting()
    world.transport.hosts[MX].countable = session()
    world.store.fail_settles = 2
    await patiently(world)
    await world.attempt()
    assert told(world) == [["example.test"], []]


@pytest.mark.rfc("8460-4.1-a", "8460-4.1-d")
@pytest.mark.parametrize(
    ("settled_after_midnight", "days"),
    [
        (timedelta(seconds=-1), 0),
        (timedelta(minutes=4, seconds=59), 0),
        (timedelta(minutes=5), 1),
        (timedelta(hours=9), 1),
    ],
    ids=["before", "just-after", "too-late-for-the-report", "much-later"],
)
async def test_a_session_is_told_of_on_a_day_whose_report_is_still_to_come(
    settled_after_midnight: timedelta, days: int
) -> None:
    world = counting()
    world.publish("example.test", "1", "enforce", MX)
    world.transport.hosts[MX].countable = session()
    world.clock.set(datetime.combine(DAY + timedelta(days=1), time(), UTC) + settled_after_midnight)
    await world.attempt()
    ((result,),) = results(world)
    assert result.day == DAY + timedelta(days=days)


async def break_off(world: World, attempt: "asyncio.Task[object]") -> None:
    await asyncio.wait_for(world.transport.started.wait(), 5)
    attempt.cancel()
    with pytest.raises(asyncio.CancelledError):
        await attempt


@pytest.mark.rfc("8460-4.2-c")
async def test_an_attempt_that_is_broken_off_tells_of_the_sessions_that_it_had_once() -> None:
    world = counting()
    world.domain("example.test", "mx1.example.test", MX)
    world.publish("example.test", "1", "enforce", "*.example.test")
    first, second = world.transport.hosts["mx1.example.test"], world.transport.hosts[MX]
    first.tls = FailureKind.STARTTLS_MISSING
    first.countable = session(HostFailure(kind=FailureKind.STARTTLS_MISSING, detail="", tls=NO_TLS))
    second.countable, second.gate = session(), asyncio.Event()
    job = await world.job()
    await break_off(world, asyncio.create_task(world.worker.attempt(job)))
    ((bad, good),) = results(world)
    assert (len(bad.failures), good.failures) == (1, ())
    assert (await world.entry(job)).attempts == 0, "it was given back"
    second.gate.set()
    first.countable = None
    await world.worker.attempt(await world.claim())
    assert told(world) == [["example.test"] * 2, []]


async def test_an_attempt_that_is_broken_off_before_tls_has_nothing_to_tell() -> None:
    world = counting()
    host = world.transport.hosts[MX]
    host.countable, host.connect_gate = session(), asyncio.Event()
    await break_off(world, asyncio.create_task(world.worker.attempt(await world.job())))
    host.connect_gate.set()
    await world.worker.attempt(await world.claim())
    assert told(world) == [[], ["example.test"]]


async def test_an_attempt_that_is_broken_off_and_cannot_be_written_leaves_its_session_to_the_next() -> None:
    world = counting()
    host = world.transport.hosts[MX]
    host.countable, host.gate = session(), asyncio.Event()
    world.store.fail_settles = 100
    attempt = asyncio.create_task(world.worker.attempt(await world.job()))
    await asyncio.wait_for(world.transport.started.wait(), 5)
    attempt.cancel()
    while not attempt.done():
        world.clock.move(timedelta(seconds=1))
        await asyncio.sleep(0)
    world.store.fail_settles = 0
    host.gate.set()
    await world.attempt("x@example.test")
    assert told(world) == [["example.test"]]


@pytest.mark.rfc("8460-4.3.1-f")
async def test_an_attempt_that_a_stop_keeps_from_going_on_refuses_no_host() -> None:
    world = counting()
    world.domain("example.test", "mx1.example.test", MX)
    world.publish("example.test", "1", "enforce", MX)
    world.transport.hosts[MX].countable = session()
    world.worker.drain()
    await world.worker.attempt(await world.job())
    assert told(world) == [[]]


async def test_a_lease_that_is_lost_tells_of_nothing() -> None:
    world = counting()
    world.transport.hosts[MX].countable = session()
    job = await world.job()
    world.clock.move(timedelta(hours=1))
    await world.store.sweep()
    await world.worker.attempt(job)
    assert told(world) == []
    await world.worker.attempt(await world.claim())
    assert told(world) == [["example.test"]]


@pytest.mark.rfc("8460-4.2-b", "8460-4.3.1-a")
async def test_a_session_that_fails_is_told_of_with_each_attempt() -> None:
    world = counting()
    world.publish("example.test", "1", "enforce", MX)
    host = world.transport.hosts[MX]
    host.tls = FailureKind.STARTTLS_MISSING
    failure = HostFailure(kind=FailureKind.STARTTLS_MISSING, detail="", tls=NO_TLS)
    host.countable = session(failure)
    await world.attempt()
    host.countable = session(failure)
    await world.again(after=timedelta(hours=1))
    assert len(results(world)) == 2
    for (result,) in results(world):
        assert result.policy.policy_type is PolicyType.STS
        assert [failure.result_type for failure in result.failures] == [ResultType.STARTTLS_NOT_SUPPORTED]


@pytest.mark.rfc("8460-4.2-b", "8460-4.2-c")
@pytest.mark.parametrize("published", ["", "testing"])
async def test_a_host_where_tls_failed_is_told_of_beside_the_next_that_took_the_mail(published: str) -> None:
    world = counting()
    world.domain("example.test", "mx1.example.test", MX)
    if published:
        world.publish("example.test", "1", published, "*.example.test")
    first = world.transport.hosts["mx1.example.test"]
    first.down = HostFailure(kind=FailureKind.CONNECTION_REFUSED, detail="")
    first.countable = Countable(Negotiation(day=DAY, failure=first.down, waived=HANDSHAKE))
    world.transport.hosts[MX].countable = session()
    await world.attempt()
    ((bad, good),) = results(world)
    assert [(one.result_type, one.receiving_mx_hostname) for one in bad.failures] == [
        (ResultType.VALIDATION_FAILURE, "mx1.example.test")
    ]
    assert (good.failures, good.policy) == ((), bad.policy)


@pytest.mark.rfc("8460-4.2-b", "8460-4.2-c")
async def test_an_address_where_tls_failed_is_told_of_beside_the_next_one_of_the_host() -> None:
    world = counting()
    world.addresses(MX, found_addresses("198.41.0.1", "198.41.0.2"))
    failure = HostFailure(kind=FailureKind.CONNECTION_REFUSED, detail="")
    error = HostError(failure, Phase.CONNECT)
    error.countable = Countable(Negotiation(day=DAY, failure=failure, waived=HANDSHAKE))
    host = world.transport.hosts[MX]
    host.results, host.countable = [error], session()
    assert (await world.attempt()).state is State.DELIVERED
    ((bad, good),) = results(world)
    assert (len(bad.failures), good.failures) == (1, ())


@pytest.mark.rfc("8460-4.3.1-f")
async def test_a_host_that_the_policy_does_not_name_is_told_of_though_never_contacted() -> None:
    world = counting()
    world.domain("example.test", "mx1.example.test", MX)
    world.publish("example.test", "1", "enforce", MX)
    world.transport.hosts[MX].countable = session()
    await world.attempt()
    ((good, bad),) = results(world)
    assert (good.failures, [failure.failure_reason_code for failure in bad.failures]) == ((), ["mx-not-in-policy"])
    assert bad.failures[0].receiving_mx_hostname == "mx1.example.test"
    assert good.policy == bad.policy


BOGUS = Unknown(reason=UnknownReason.BOGUS, detail="extended error 6", extended_error=6)


def dnssec_failures(world: World) -> list[list[tuple[str, str]]]:
    return [
        [(one.policy.policy_domain, failure.failure_reason_code) for one in settled for failure in one.failures]
        for settled in results(world)
    ]


@pytest.mark.rfc("8460-4.3.2.1-c")
async def test_bogus_mx_records_are_told_of_with_each_attempt() -> None:
    world = counting()
    world.resolver.mx_answers["example.test"] = BOGUS
    await world.attempt()
    await world.again(after=timedelta(hours=1))
    assert dnssec_failures(world) == [[("example.test", "mx-dnssec-bogus")]] * 2


@pytest.mark.rfc("8460-4.3.2.1-c")
async def test_a_host_with_bogus_addresses_is_told_of_beside_the_next() -> None:
    world = counting()
    world.domain("example.test", "mx1.example.test", MX)
    world.addresses("mx1.example.test", BOGUS)
    world.transport.hosts[MX].countable = session()
    assert (await world.attempt()).state is State.DELIVERED
    assert dnssec_failures(world) == [[("mx1.example.test", "address-dnssec-bogus")]]
    assert told(world) == [["example.test"] * 2]


@pytest.mark.rfc("8460-4.3.4-a")
@pytest.mark.parametrize("reason", [one for one in UnknownReason if one is not UnknownReason.BOGUS])
async def test_dns_that_does_not_answer_is_no_failure_of_dane(reason: UnknownReason) -> None:
    world = counting()
    world.domain("b.test", "mx.b.test")
    world.resolver.mx_answers["example.test"] = Unknown(reason=reason, detail="")
    world.addresses("mx.b.test", Unknown(reason=reason, detail=""))
    await world.attempt()
    await world.attempt("x@b.test")
    assert told(world) == [[], []]


async def test_dnssec_is_no_matter_where_the_operator_has_switched_dane_off() -> None:
    directions = Directions(name="*", judgement=Judgement(dane=DaneMode.OFF))
    world = counting(routes=(StaticRoute(patterns=("*",), directions=directions),))
    world.domain("b.test", "mx.b.test")
    world.resolver.mx_answers["example.test"] = BOGUS
    world.addresses("mx.b.test", BOGUS)
    await world.attempt()
    await world.attempt("x@b.test")
    assert told(world) == [[], []]


@pytest.mark.rfc("8461-5-g")
async def test_a_host_that_the_policy_of_now_names_was_not_refused() -> None:
    world = counting()
    world.publish("example.test", "1", "enforce", "other.test")
    job = await world.job()
    await world.router.route(job.message, "example.test")
    world.publish("example.test", "2", "enforce", MX)
    world.transport.hosts[MX].countable = session()
    await world.worker.attempt(job)
    ((result,),) = results(world)
    assert (result.failures, result.policy.mx_host) == ((), (MX,))


async def test_jobs_that_share_what_was_found_tell_of_nothing() -> None:
    world = counting()
    world.publish("example.test", "1", "enforce", "other.test")
    first, second = await world.job(), await world.job()
    ended = await world.worker.attempt(first)
    assert ended is not None
    await world.worker.share(second, ended)
    assert told(world) == [["example.test"], []]


@pytest.mark.rfc("8460-8-a", "8460-3-ac")
async def test_where_nobody_reports_nothing_is_built() -> None:
    world = World()
    world.publish("example.test", "1", "enforce", "other.test")
    world.transport.hosts[MX].countable = session()
    await world.attempt()
    assert told(world) == [[]]


async def test_what_has_no_name_has_no_record() -> None:
    world = counting(ndr_route=(NextHop(host=ip_address("10.1.1.1")),))
    for name in ("[198.41.0.9]", "10.1.1.1"):
        world.transport.hosts[name].countable = session()
    await world.attempt("x@[198.41.0.9]")
    await world.worker.attempt(await world.job(origin=Origin.RELAY))
    assert len(world.transport.sent) == 2
    assert told(world) == [[], []]


@pytest.mark.rfc("8460-3-b")
async def test_each_next_hop_is_told_of_its_own_sessions() -> None:
    hops = (NextHop(host="first.test"), NextHop(host="second.test"))
    directions = Directions(name="*", next_hops=hops)
    world = counting(routes=(StaticRoute(patterns=("*",), directions=directions),))
    world.publish("first.test", "1", "enforce", "other.test")
    for number, name in enumerate(("first.test", "second.test"), 1):
        world.addresses(name, found_addresses(f"10.1.1.{number}"))
        world.transport.hosts[name].countable = session()
    await world.attempt()
    ((second, first),) = results(world)
    assert (second.recipient_domain, second.failures) == ("second.test", ())
    assert first.recipient_domain == first.policy.policy_domain == "first.test"
    assert [failure.failure_reason_code for failure in first.failures] == ["mx-not-in-policy"]
