"""What an attempt makes of a job (design §4; RFC 3461 §5.2, RFC 5321 §6.1, RFC 8461 §5)."""

from collections.abc import Callable
from dataclasses import replace
from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from queue_makers import ACCEPTED, answered, deferred, delivered, failed, make_attempt, make_job, refused

from relay.queue.attempt import Action, Attempt, Outcome
from relay.queue.message import Envelope, HoldReason, Job, NewMessage, NewRecipient, Notify
from relay.queue.notice import ADMINISTRATOR_DROPPED, NoticeKind, NoticeRequest, drop_notice
from relay.queue.schedule import ScheduleSettings
from relay.queue.settle import Decision, settle
from relay.status import Status
from relay.store.protocols import Verdict

SETTINGS = ScheduleSettings()
SOON = ACCEPTED + timedelta(seconds=3)
SUCCESS = frozenset({Notify.SUCCESS})
FAILURE = frozenset({Notify.FAILURE})
DELAY = frozenset({Notify.DELAY})
NEVER = frozenset({Notify.NEVER})


def after(**age: float) -> datetime:
    return ACCEPTED + timedelta(**age)


def decide(job: Job, attempt: Attempt, now: datetime = SOON) -> Decision:
    return settle(job, attempt, now, SETTINGS)


def verdicts(decision: Decision) -> list[Verdict]:
    return [one.verdict for one in decision.recipients]


def kinds(decision: Decision) -> list[NoticeKind]:
    return [notice.kind for notice in decision.notices]


# -- void attempts ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "outcomes",
    [
        (),
        (delivered(1),),
        (delivered(1), delivered(1)),
        (delivered(2), delivered(1)),
        (delivered(1), delivered(2), delivered(3)),
        (delivered(3),),
    ],
)
def test_an_attempt_without_exactly_one_outcome_per_recipient_is_void(outcomes: tuple[Outcome, ...]) -> None:
    with pytest.raises(ValueError, match="attempt is void"):
        decide(make_job(None, None), make_attempt(*outcomes))


# -- verdicts --------------------------------------------------------------------------------------------------


def test_each_recipient_gets_its_own_verdict() -> None:
    decision = decide(make_job(None, None, None), make_attempt(delivered(1), failed(2), deferred(3)))
    assert verdicts(decision) == [Verdict.DELIVERED, Verdict.FAILED, Verdict.QUEUED]
    assert [str(one.status) for one in decision.recipients] == ["2.0.0", "5.1.1", "4.4.316"]
    assert decision.retry_in == timedelta(minutes=5)


def test_without_anyone_waiting_there_is_no_retry() -> None:
    assert decide(make_job(), make_attempt(delivered())).retry_in is None


def test_a_queued_recipient_never_carries_a_permanent_status() -> None:
    odd = replace(deferred(), status=Status(5, 4, 316))
    assert decide(make_job(), make_attempt(odd)).recipients[0].status == Status(4, 4, 316)


# -- expiry ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("outcome", "age", "status", "text"),
    [
        (answered(451, "4.7.1 greylisted"), timedelta(days=5), "5.4.300", "Message expired -> 451 4.7.1 greylisted"),
        (answered(451, "no code"), timedelta(days=5), "5.4.300", "Message expired -> 451 no code"),
        (
            deferred(),
            timedelta(days=5),
            "5.4.316",
            "Message expired, connection refused [LastAttemptedServerName=mx.example.test]",
        ),
        (
            replace(deferred(), status=Status(4, 4, 312), diagnostic="DNS query failed"),
            timedelta(days=5),
            "5.4.312",
            "Message expired, DNS query failed",
        ),
        (replace(deferred(), diagnostic=""), timedelta(days=5), "5.4.316", "Message expired"),
        (refused(), timedelta(hours=24), "5.4.8", "MX hosts of example.test failed MTA-STS validation"),
    ],
)
def test_a_deferral_that_has_lasted_too_long_takes_class_5(
    outcome: Outcome, age: timedelta, status: str, text: str
) -> None:
    attempt = make_attempt(outcome, record_checked=True)
    before = decide(make_job(), attempt, ACCEPTED + age - timedelta(seconds=1))
    assert verdicts(before) == [Verdict.QUEUED]
    final = decide(make_job(), attempt, ACCEPTED + age).recipients[0]
    assert (final.verdict, str(final.status), final.diagnostic) == (Verdict.FAILED, status, text)


def test_a_5yz_about_the_host_keeps_its_code_when_it_expires() -> None:
    reply = answered(554, "5.7.1 your address is listed").reply
    outcome = replace(deferred(), status=Status(4, 7, 1), reply=reply, diagnostic=str(reply))
    assert decide(make_job(), make_attempt(outcome)).recipients[0].status == Status(4, 7, 1)
    assert decide(make_job(), make_attempt(outcome), after(days=5)).recipients[0].status == Status(5, 7, 1)


@pytest.mark.rfc("8461-5-f", "8461-5-g")
def test_a_refusal_is_not_final_before_the_record_was_asked_for() -> None:
    decision = decide(make_job(), make_attempt(refused()), after(hours=30))
    assert verdicts(decision) == [Verdict.QUEUED]
    assert decision.record_check_missing
    assert decision.retry_in == timedelta(minutes=5)
    assert decision.notices[0].kind is NoticeKind.DELAYED


def test_a_failed_refusal_is_temporary_too_until_the_record_was_asked_for() -> None:
    outcome = replace(refused(), action=Action.FAILED, status=Status(5, 7, 5))
    decision = decide(make_job(), make_attempt(outcome))
    assert verdicts(decision) == [Verdict.QUEUED]
    assert decision.recipients[0].status == Status(4, 7, 5)
    assert not decision.record_check_missing


@pytest.mark.rfc("8461-5-j", "code-q")
@pytest.mark.parametrize("status", ["5.1.1", "5.7.1", "5.7.13", "5.7.29"])
def test_a_5yz_of_the_remote_passes_through_at_once_and_needs_no_record_check(status: str) -> None:
    decision = decide(make_job(), make_attempt(answered(550, f"{status} no"), record_checked=False))
    assert verdicts(decision) == [Verdict.FAILED]
    assert str(decision.recipients[0].status) == status


def test_dead_dns_expires_without_any_record_check() -> None:
    outcome = replace(deferred(), status=Status(4, 4, 312), diagnostic="DNS query failed")
    decision = decide(make_job(), make_attempt(outcome, record_checked=False), after(days=5))
    assert verdicts(decision) == [Verdict.FAILED]


def test_a_refusal_with_dead_dns_expires_once_the_record_was_asked_for_in_vain() -> None:
    attempt = replace(make_attempt(refused(), record_checked=True), policy_problem="_mta-sts: time-out")
    assert verdicts(decide(make_job(), attempt, after(hours=24))) == [Verdict.FAILED]


def test_the_last_attempt_is_at_the_moment_of_expiry() -> None:
    job = make_job(attempts=30)
    assert decide(job, make_attempt(refused()), after(hours=23, minutes=40)).retry_in == timedelta(minutes=20)
    assert decide(job, make_attempt(deferred()), after(hours=23, minutes=40)).retry_in == timedelta(hours=1)


# -- notices ---------------------------------------------------------------------------------------------------

NOTIFY_TABLE = [
    # notify, outcome, age, what the sender is told
    (None, failed, timedelta(0), [NoticeKind.FAILED]),
    (FAILURE, failed, timedelta(0), [NoticeKind.FAILED]),
    (SUCCESS, failed, timedelta(0), []),
    (DELAY, failed, timedelta(0), []),
    (NEVER, failed, timedelta(0), []),
    (None, delivered, timedelta(0), []),
    (FAILURE, delivered, timedelta(0), []),
    (SUCCESS, delivered, timedelta(0), [NoticeKind.RELAYED]),
    (NEVER, delivered, timedelta(0), []),
    (None, deferred, timedelta(hours=3), []),
    (None, deferred, timedelta(hours=4), [NoticeKind.DELAYED]),
    (DELAY, deferred, timedelta(hours=4), [NoticeKind.DELAYED]),
    (FAILURE | SUCCESS, deferred, timedelta(hours=4), []),
    (NEVER, deferred, timedelta(hours=4), []),
]


@pytest.mark.rfc(
    "3461-4.1-b", "3461-5.2.2-b", "3461-5.2.2-c", "3461-5.2.2-d", "3461-5.2.2-f", "3461-5.2.2-g", "3461-5.2.5-a",
    "3461-5.2.5-b", "3461-5.2.6-a", "3461-5.2.6-b", "3464-2.3.3-b",
)  # fmt: skip
@pytest.mark.parametrize(("notify", "outcome", "age", "told"), NOTIFY_TABLE)
def test_rfc3461_s5_2_notify_decides_what_the_sender_is_told(
    notify: frozenset[Notify] | None, outcome: Callable[[], Outcome], age: timedelta, told: list[NoticeKind]
) -> None:
    assert kinds(decide(make_job(notify), make_attempt(outcome()), SOON + age)) == told


@pytest.mark.rfc("3461-5.2.1-f")
def test_rfc3461_s5_2_1_a_next_hop_with_dsn_reports_success_itself() -> None:
    decision = decide(make_job(SUCCESS), make_attempt(delivered(dsn_passed_on=True)))
    assert verdicts(decision) == [Verdict.DELIVERED]
    assert kinds(decision) == []


@pytest.mark.rfc("3461-5.2.8-a", "5321-4.4-n")
def test_one_notice_names_all_failed_recipients_that_it_is_due_for() -> None:
    decision = decide(make_job(None, NEVER, None), make_attempt(failed(1), failed(2), failed(3)))
    (notice,) = decision.notices
    assert [one.recipient.id for one in notice.recipients] == [1, 3]


def test_each_kind_of_notice_has_its_own_recipients() -> None:
    decision = decide(make_job(None, SUCCESS, DELAY), make_attempt(failed(1), delivered(2), refused(3)), after(hours=4))
    assert [(n.kind, [r.recipient.id for r in n.recipients]) for n in decision.notices] == [
        (NoticeKind.FAILED, [1]),
        (NoticeKind.RELAYED, [2]),
        (NoticeKind.DELAYED, [3]),
    ]


def test_a_delay_notice_names_the_end_of_the_clock_that_runs_and_comes_once() -> None:
    job = make_job(None, None)
    decision = decide(job, make_attempt(refused(1), deferred(2)), after(hours=4))
    assert [one.will_retry_until for one in decision.notices[0].recipients] == [after(hours=24), after(days=5)]
    assert decision.delay_notified
    again = decide(replace(job, delay_notified=True), make_attempt(refused(1), deferred(2)), after(hours=5))
    assert kinds(again) == []
    assert again.delay_notified


# -- messages without a sender ---------------------------------------------------------------------------------


@pytest.mark.rfc("3461-5.2-a", "3461-5.2-b", "5321-4.5.4-n", "5321-6.1-b", "3834-2-a", "5321-3.6.3-b", "dsn-hdr-c")
def test_a_message_without_a_sender_that_fails_is_held_and_nobody_is_told() -> None:
    decision = decide(make_job(SUCCESS, reverse_path=""), make_attempt(failed()), after(hours=6))
    assert verdicts(decision) == [Verdict.QUEUED]
    assert decision.recipients[0].status == Status(5, 1, 1)
    assert decision.hold is HoldReason.DOUBLE_BOUNCE
    assert decision.retry_in is None
    assert kinds(decision) == []


def test_a_double_bounce_does_not_hold_up_the_recipients_that_still_wait() -> None:
    job = make_job(None, None, None, reverse_path="")
    decision = decide(job, make_attempt(failed(1), deferred(2), delivered(3)))
    assert verdicts(decision) == [Verdict.QUEUED, Verdict.QUEUED, Verdict.DELIVERED]
    assert decision.hold is None
    assert decision.retry_in == timedelta(minutes=5)


@pytest.mark.parametrize("outcome", [deferred(), delivered()])
def test_a_message_without_a_sender_waits_and_arrives_as_any_other(outcome: Outcome) -> None:
    decision = decide(make_job(SUCCESS, reverse_path=""), make_attempt(outcome), after(hours=6))
    assert decision.hold is None
    assert kinds(decision) == []


# -- the settlement --------------------------------------------------------------------------------------------


def test_the_settlement_carries_the_decision_and_the_notices_that_were_built() -> None:
    decision = decide(make_job(), make_attempt(failed()))
    notice = NewMessage(
        queue_id="n1",
        envelope=Envelope(reverse_path=""),
        recipients=(NewRecipient(forward_path="alice@contoso.test", destination="contoso.test"),),
        content=b"",
    )
    settlement = decision.settlement([notice], cool_destination=timedelta(minutes=1))
    assert settlement.recipients == decision.recipients
    assert settlement.attempt is decision.attempt
    assert settlement.notices == (notice,)
    assert settlement.cool_destination == timedelta(minutes=1)


OUTCOMES: list[Callable[[int], Outcome]] = [delivered, failed, deferred, refused]


@given(
    st.lists(st.sampled_from(OUTCOMES), min_size=1, max_size=6),
    st.integers(1, 200),
    st.timedeltas(timedelta(0), timedelta(days=10)),
    st.booleans(),
    st.booleans(),
)
def test_every_recipient_is_settled_once_and_the_waiting_have_a_date(
    outcomes: list[Callable[[int], Outcome]], attempts: int, age: timedelta, checked: bool, null_sender: bool
) -> None:
    job = make_job(*[None] * len(outcomes), attempts=attempts, reverse_path="" if null_sender else "a@b.test")
    made = [make(number) for number, make in enumerate(outcomes, 1)]
    decision = decide(job, make_attempt(*made, record_checked=checked), ACCEPTED + age)
    settlement = decision.settlement([])
    assert [one.recipient_id for one in settlement.recipients] == [r.id for r in job.recipients]
    waits = Verdict.QUEUED in verdicts(decision)
    assert waits == (decision.retry_in is not None or decision.hold is not None)
    assert decision.retry_in is None or decision.hold is None
    assert not (null_sender and Verdict.FAILED in verdicts(decision))
    assert not (null_sender and decision.notices)


# -- dropped by the operator -----------------------------------------------------------------------------------


def test_dropping_tells_the_sender_where_a_failure_would() -> None:
    notice = drop_notice(make_job(None, NEVER, FAILURE))
    assert notice is not None
    assert notice.kind is NoticeKind.DROPPED
    assert [(one.recipient.id, one.status) for one in notice.recipients] == [
        (1, ADMINISTRATOR_DROPPED),
        (3, ADMINISTRATOR_DROPPED),
    ]


def test_dropping_a_message_without_a_sender_or_with_notify_never_tells_nobody() -> None:
    assert drop_notice(make_job(reverse_path="")) is None
    assert drop_notice(make_job(NEVER)) is None


def test_a_notice_about_nobody_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="about a recipient"):
        NoticeRequest(kind=NoticeKind.FAILED, recipients=())


def test_what_dane_refuses_is_final_in_time_without_a_look_at_the_policy() -> None:
    outcome = replace(refused(), status=Status(4, 7, 323), refused_by_dane=True)
    early = decide(make_job(), make_attempt(outcome, record_checked=False), after(hours=23))
    assert (verdicts(early), early.record_check_missing) == ([Verdict.QUEUED], False)
    late = decide(make_job(), make_attempt(outcome, record_checked=False), after(hours=24))
    assert verdicts(late) == [Verdict.FAILED]
    assert str(late.recipients[0].status) == "5.7.323"
