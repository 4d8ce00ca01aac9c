"""The plan: who is offered what, and exactly one outcome for each recipient whatever happens."""

from datetime import UTC, datetime
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement
from relay.delivery.hosts import Host, opportunistic
from relay.delivery.mx_list import MAX_HOSTS
from relay.delivery.plan import MAX_DEFERRALS, MAX_TRIES, DeliveryPlan, verdicts
from relay.delivery.seam import HostError, SendResult, SessionFacts
from relay.queue.attempt import Action, FailureKind, HostFailure, Phase, Security
from relay.queue.message import Envelope, Job, Lease, Message, Recipient
from relay.status import Reply

FACTS = SessionFacts(security=Security.OPPORTUNISTIC)
OK = Reply(250, ("2.0.0 ok",))
LATER = Reply(451, ("4.3.0 later",))
NO = Reply(550, ("5.1.1 no",))


def make_job(recipients: int = 1, *, path: str = "r{}@example.test", reverse_path: str = "a@contoso.test") -> Job:
    now = datetime(2026, 1, 1, tzinfo=UTC)
    return Job(
        id=1,
        message=Message(queue_id="q", accepted_at=now, envelope=Envelope(reverse_path=reverse_path), size=10),
        destination="example.test",
        recipients=tuple(Recipient(id=n, forward_path=path.format(n)) for n in range(1, recipients + 1)),
        attempts=1,
        lease=Lease(fence=1, incarnation="i"),
    )


def make_host(number: int, addresses: int = 1, *, level: Level = Level.OPPORTUNISTIC) -> Host:
    name = f"mx{number}.example.test"
    where = tuple(ip_address(f"198.41.{number}.{n}") for n in range(1, addresses + 1))
    return Host(name=name, port=25, where=where, verdict=Requirement(level=level, mx_host=name))


def refused_host(number: int) -> Host:
    name = f"mx{number}.example.test"
    refusal = Refusal(mx_host=name, reason=RefusalReason.MX_NOT_IN_POLICY, detail="not named")
    return Host(name=name, port=25, where=(ip_address("198.41.0.9"),), verdict=refusal)


def lost_host(number: int, kind: FailureKind = FailureKind.NO_ADDRESS) -> Host:
    name = f"mx{number}.example.test"
    return Host(name=name, port=25, where=HostFailure(kind=kind, detail="none"), verdict=opportunistic(name))


def error(kind: FailureKind, phase: Phase = Phase.CONNECT) -> HostError:
    return HostError(HostFailure(kind=kind, detail=kind.value), phase)


def result(replies: dict[int, Reply], *, postponed: tuple[int, ...] = (), broke_off: bool = False) -> SendResult:
    failure = HostFailure(kind=FailureKind.BROKEN_OFF, detail="closed") if broke_off else None
    return SendResult(replies=replies, phase=Phase.RCPT, postponed=postponed, failure=failure)


def visited(plan: DeliveryPlan, *events: HostError | SendResult) -> list[str]:
    """Walk on with these events, one for each transaction; return the addresses asked for."""
    addresses, waiting = [], list(events)
    while waiting and (target := plan.next_target()) is not None:
        addresses.append(str(target.address))
        while plan.offer and waiting:
            event = waiting.pop(0)
            if isinstance(event, HostError):
                plan.host_failed(event)
            else:
                plan.host_replied(event, FACTS)
    return addresses


@pytest.mark.parametrize(("reply", "action"), [(OK, Action.DELIVERED), (NO, Action.FAILED)])
@pytest.mark.rfc("5321-4.2.5-c", "5321-3.4-a")
def test_a_final_answer_ends_the_walk(reply: Reply, action: Action) -> None:
    plan = DeliveryPlan(make_job(), [make_host(1), make_host(2)])
    assert visited(plan, result({1: reply})) == ["198.41.1.1"]
    assert plan.next_target() is None
    (outcome,) = plan.outcomes()
    assert (outcome.action, outcome.remote_mta, outcome.reply) == (action, "mx1.example.test", reply)


@pytest.mark.rfc("5321-4.5.3.2-h", "3464-4.3-a")
def test_a_host_that_may_have_the_message_is_the_last_one_asked_in_the_attempt() -> None:
    plan = DeliveryPlan(make_job(3), [make_host(1, addresses=2), make_host(2)])
    failure = HostFailure(kind=FailureKind.TIMEOUT, detail="silence after the final dot")
    broken = SendResult(replies={1: NO, 2: LATER}, phase=Phase.END_OF_DATA, failure=failure)
    assert visited(plan, broken, result({2: OK})) == ["198.41.1.1", "198.41.2.1"]
    outcomes = plan.outcomes()
    assert [outcome.action for outcome in outcomes] == [Action.FAILED, Action.DELIVERED, Action.DEFERRED]
    assert outcomes[2].remote_mta == "mx1.example.test"
    assert plan.answered, "the attempt is charged"


def test_unknown_first_digits_are_final() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1)])
    visited(plan, result({1: Reply(900, ("what",))}))
    assert plan.outcomes()[0].action is Action.FAILED


@pytest.mark.rfc("5321-5.1-l", "5321-5.1-m", "5321-5.2-a")
def test_all_addresses_of_a_host_are_tried_before_the_next_host() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1, 2), make_host(2, 2)])
    timeouts = [error(FailureKind.TIMEOUT) for _ in range(4)]
    assert visited(plan, *timeouts) == ["198.41.1.1", "198.41.1.2", "198.41.2.1", "198.41.2.2"]
    assert plan.outcomes()[0].action is Action.DEFERRED


def test_a_host_that_answered_4yz_is_not_asked_at_its_other_address() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1, 3), make_host(2)])
    assert visited(plan, result({1: LATER}), result({1: OK})) == ["198.41.1.1", "198.41.2.1"]


def test_at_most_two_hosts_answer_4yz() -> None:
    plan = DeliveryPlan(make_job(), [make_host(n) for n in range(1, 5)])
    assert len(visited(plan, *[result({1: LATER})] * 4)) == MAX_DEFERRALS
    (outcome,) = plan.outcomes()
    assert (outcome.action, outcome.reply, outcome.remote_mta) == (Action.DEFERRED, LATER, "mx2.example.test")


def test_a_4yz_answer_outlives_hosts_that_fail_after_it() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1), make_host(2, level=Level.VERIFIED)])
    visited(plan, result({1: LATER}), error(FailureKind.CERTIFICATE, Phase.HANDSHAKE))
    assert plan.outcomes()[0].reply == LATER


def test_tries_are_bounded() -> None:
    plan = DeliveryPlan(make_job(), [make_host(n, 3) for n in range(1, 10)])
    assert len(visited(plan, *[error(FailureKind.TIMEOUT)] * 30)) == MAX_TRIES


@pytest.mark.rfc("8461-4-b")
def test_refused_and_lost_hosts_are_recorded_in_their_place_and_never_targets() -> None:
    plan = DeliveryPlan(make_job(), [refused_host(1), make_host(2), lost_host(3)])
    assert visited(plan, error(FailureKind.TIMEOUT)) == ["198.41.2.1"]
    assert plan.next_target() is None
    kinds = [host.failure.kind for host in plan.hosts if host.failure]
    assert kinds == [FailureKind.MX_NOT_IN_POLICY, FailureKind.TIMEOUT, FailureKind.NO_ADDRESS]
    assert [host.address for host in plan.hosts] == [None, "198.41.2.1", None]
    assert plan.hosts[0].mx_match is MxMatch.NOT_MATCHED
    (outcome,) = plan.outcomes()
    assert (str(outcome.status), outcome.refused) == ("4.4.8", True), "security outranks"


def test_hosts_after_a_delivery_are_not_recorded() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1), refused_host(2)])
    visited(plan, result({1: OK}))
    assert plan.next_target() is None
    assert [host.mx_host for host in plan.hosts] == ["mx1.example.test"]


def test_postponed_recipients_are_offered_again_to_the_same_target() -> None:
    plan = DeliveryPlan(make_job(3), [make_host(1)])
    plan.next_target()
    plan.host_replied(result({1: OK}, postponed=(2, 3)), FACTS)
    assert [one.id for one in plan.offer] == [2, 3]
    plan.host_replied(result({2: LATER, 3: OK}), FACTS)
    assert plan.offer == ()
    assert [one.action for one in plan.outcomes()] == [Action.DELIVERED, Action.DEFERRED, Action.DELIVERED]
    assert len(plan.hosts) == 1


def test_a_host_that_only_postpones_is_not_asked_for_ever() -> None:
    plan = DeliveryPlan(make_job(2), [make_host(1), make_host(2)])
    plan.next_target()
    plan.host_replied(result({}, postponed=(1, 2)), FACTS)
    assert plan.offer == ()
    target = plan.next_target()
    assert target is not None
    assert target.mx_host == "mx2.example.test"
    assert plan.hosts[0].failure is not None


def test_a_session_that_breaks_off_keeps_its_answers_and_its_one_record() -> None:
    plan = DeliveryPlan(make_job(3), [make_host(1, 2), make_host(2)])
    plan.next_target()
    plan.host_replied(result({1: OK}, postponed=(2, 3)), FACTS)
    plan.host_failed(error(FailureKind.BROKEN_OFF, Phase.MAIL))
    target = plan.next_target()
    assert target is not None
    assert (target.mx_host, [one.id for one in plan.offer]) == ("mx2.example.test", [2, 3])
    (record,) = plan.hosts
    assert record.failure is not None
    assert record.failure.kind is FailureKind.BROKEN_OFF
    assert record.security is Security.OPPORTUNISTIC


def test_a_recipient_that_cannot_go_there_keeps_its_reason_when_others_follow() -> None:
    plan = DeliveryPlan(make_job(3), [make_host(1)])
    plan.next_target()
    lacking = HostFailure(kind=FailureKind.SMTPUTF8, detail="no SMTPUTF8")
    plan.host_replied(SendResult(replies={1: OK}, phase=Phase.END_OF_DATA, postponed=(2,), failure=lacking), FACTS)
    assert [one.id for one in plan.offer] == [2]
    plan.host_replied(result({2: OK}), FACTS)
    assert plan.next_target() is None
    assert [str(one.status) for one in plan.outcomes()] == ["2.0.0", "2.0.0", "5.6.9"]


@pytest.mark.parametrize(
    ("path", "reverse_path", "status"),
    [
        ("é{}@example.test", "a@contoso.test", "5.6.7"),
        ("r{}@example.test", "é@contoso.test", "5.6.7"),
        ("r{}@example.test", "a@contoso.test", "5.6.9"),
        ("r{}@exämple.test", "a@contoso.test", "5.6.9"),
    ],
)
@pytest.mark.rfc("6531-3.5-a")
def test_smtputf8_fails_for_the_address_or_for_the_header(path: str, reverse_path: str, status: str) -> None:
    plan = DeliveryPlan(make_job(path=path, reverse_path=reverse_path), [make_host(1)])
    visited(plan, error(FailureKind.SMTPUTF8, Phase.EHLO))
    (outcome,) = plan.outcomes()
    assert (outcome.action, str(outcome.status)) == (Action.FAILED, status)


@pytest.mark.parametrize("kind", [FailureKind.EIGHT_BIT, FailureKind.SMTPUTF8, FailureKind.TOO_LARGE])
def test_what_one_address_of_a_host_lacks_the_others_lack_too(kind: FailureKind) -> None:
    plan = DeliveryPlan(make_job(), [make_host(1, 3), make_host(2)])
    assert visited(plan, error(kind, Phase.EHLO), result({1: OK})) == ["198.41.1.1", "198.41.2.1"]


@pytest.mark.rfc("8689-4.2.1-i")
@pytest.mark.parametrize("kind", [FailureKind.EIGHT_BIT, FailureKind.REQUIRETLS_MISSING])
def test_however_many_hosts_lack_it_the_last_one_is_asked_too(kind: FailureKind) -> None:
    plan = DeliveryPlan(make_job(), [make_host(n, 2) for n in range(1, MAX_HOSTS + 1)])
    lacking = [error(kind, Phase.EHLO)] * (MAX_HOSTS - 1)
    assert visited(plan, *lacking, result({1: OK}))[-1] == f"198.41.{MAX_HOSTS}.1"
    assert plan.outcomes()[0].action is Action.DELIVERED


@pytest.mark.parametrize(
    ("events", "unreachable"),
    [
        ([error(FailureKind.TIMEOUT)], True),
        ([error(FailureKind.CERTIFICATE, Phase.HANDSHAKE)], True),
        ([error(FailureKind.REPLY, Phase.GREETING)], True),
        ([error(FailureKind.REPLY, Phase.MAIL)], False),
        ([error(FailureKind.TOO_LARGE, Phase.EHLO)], False),
        ([result({1: LATER})], False),
    ],
)
def test_unreachable_means_the_same_for_every_message(events: list[HostError | SendResult], unreachable: bool) -> None:
    plan = DeliveryPlan(make_job(), [make_host(1)])
    visited(plan, *events)
    assert plan.unreachable is unreachable


def test_a_route_without_hosts_decides_for_all() -> None:
    plan = DeliveryPlan(make_job(2), (), HostFailure(kind=FailureKind.NULL_MX, detail="null"))
    assert plan.next_target() is None
    assert [(one.action, str(one.status)) for one in plan.outcomes()] == [(Action.FAILED, "5.1.10")] * 2


def test_refused_hosts_can_be_offered_again_once_they_are_judged_anew() -> None:
    plan = DeliveryPlan(make_job(), [refused_host(1), make_host(2, level=Level.VERIFIED)])
    visited(plan, error(FailureKind.STARTTLS_MISSING, Phase.EHLO))
    assert plan.next_target() is None
    assert [host.name for host in plan.refused] == ["mx1.example.test", "mx2.example.test"]
    plan.offer_again([make_host(1, level=Level.VERIFIED)])
    assert visited(plan, result({1: OK})) == ["198.41.1.1"]
    assert plan.outcomes()[0].action is Action.DELIVERED
    assert len(plan.hosts) == 3


def test_a_tls_failure_without_a_policy_refuses_nothing() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1)])
    visited(plan, error(FailureKind.HANDSHAKE, Phase.HANDSHAKE))
    assert plan.refused == ()
    assert not plan.outcomes()[0].refused


def test_results_for_nobody_are_a_fault_of_ours() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1)])
    with pytest.raises(RuntimeError):
        plan.host_replied(result({1: OK}), FACTS)


def test_verdicts_for_jobs_that_were_not_tried_are_those_of_the_one_that_was() -> None:
    plan = DeliveryPlan(make_job(), [make_host(1)])
    visited(plan, error(FailureKind.CONNECTION_REFUSED))
    assert [str(one.status) for one in verdicts(make_job(3), plan.hosts, None)] == ["4.4.316"] * 3


_REPLIES = st.sampled_from([OK, LATER, NO, Reply(452, ("4.5.3 many",)), Reply(199, ("odd",))])
_IDS = st.integers(1, 6)
_RESULTS = st.builds(
    lambda replies, postponed, broke_off: result(replies, postponed=tuple(postponed), broke_off=broke_off),
    st.dictionaries(_IDS, _REPLIES),
    st.sets(_IDS),
    st.booleans(),
)
_ERRORS = st.builds(error, st.sampled_from(FailureKind), st.sampled_from(Phase))
_HOSTS = st.one_of(
    st.builds(make_host, st.integers(1, 9), st.integers(1, 4), level=st.sampled_from(Level)),
    st.builds(refused_host, st.integers(1, 9)),
    st.builds(lost_host, st.integers(1, 9), st.sampled_from([FailureKind.NO_ADDRESS, FailureKind.DNS_UNKNOWN])),
)


@given(
    st.integers(1, 5),
    st.lists(_HOSTS, max_size=6),
    st.lists(st.one_of(_RESULTS, _ERRORS), max_size=60),
    st.lists(_HOSTS, max_size=3),
)
def test_any_sequence_of_events_gives_one_outcome_for_each_recipient(
    recipients: int, hosts: list[Host], events: list[HostError | SendResult], again: list[Host]
) -> None:
    job = make_job(recipients)
    plan = DeliveryPlan(job, hosts)
    final: dict[int, Reply] = {}
    transactions = 0
    for more in (None, again):
        if more is not None:
            plan.offer_again(more)
        while events and plan.next_target() is not None:
            while plan.offer and events:
                transactions += 1
                event = events.pop(0)
                offered = {one.id for one in plan.offer}
                assert not offered & final.keys(), "nobody with a final answer is offered again"
                if isinstance(event, HostError):
                    plan.host_failed(event)
                    continue
                plan.host_replied(event, FACTS)
                final |= {n: reply for n, reply in event.replies.items() if n in offered and not reply.transient}
    outcomes = plan.outcomes()
    assert [one.recipient_id for one in outcomes] == [one.id for one in job.recipients]
    for outcome in outcomes:
        reply = final.get(outcome.recipient_id)
        if reply is not None:
            assert outcome.reply == reply
            assert outcome.action is (Action.DELIVERED if reply.positive else Action.FAILED)
        else:
            assert outcome.action is not Action.DELIVERED
    assert transactions <= 2 * MAX_TRIES * recipients
