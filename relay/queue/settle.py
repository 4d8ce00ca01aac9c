"""What one attempt makes of a job: delivered, failed, queued again, and the notices due for it. **Pure.**

The rules of design §4: exactly one outcome for each recipient or the attempt is void; expiry is decided only at the
end of an attempt; a message without a sender that fails finally is held, never dropped. RFC 5321 §4.5.4.1 and §6.1,
RFC 3461 §5.2, RFC 8461 §5.
"""

from collections.abc import Iterable
from datetime import datetime, timedelta
from typing import NamedTuple

from relay.queue.attempt import Action, Attempt, Outcome
from relay.queue.message import HoldReason, Job, NewMessage, Notify, Recipient
from relay.queue.notice import NoticeKind, NoticeRecipient, NoticeRequest, notice_due
from relay.queue.schedule import ScheduleSettings, delay_notice_due, expires_at, retry_after
from relay.queue.tls_results import TlsResult
from relay.status import Status
from relay.store.protocols import SettledRecipient, Settlement, Verdict

_EXPIRED = Status(5, 4, 300)
_BROKEN_OFF = Status(4, 3, 2)


class Decision(NamedTuple):
    """All that a Settlement needs but the notices themselves, which have to be built from the content first.

    `record_check_missing`: a refusal would have become final, had `_mta-sts` been asked past our caches in this
    attempt (RFC 8461 §5). Its recipients stay queued, and the next attempt has to ask.
    """

    job: Job
    attempt: Attempt
    recipients: tuple[SettledRecipient, ...]
    retry_in: timedelta | None
    hold: HoldReason | None
    notices: tuple[NoticeRequest, ...]
    record_check_missing: bool

    @property
    def delay_notified(self) -> bool:
        """Whether the sender knows of the delay, be it from this attempt or an earlier one."""
        return self.job.delay_notified or any(notice.kind is NoticeKind.DELAYED for notice in self.notices)

    def settlement(
        self,
        notices: Iterable[NewMessage],
        *,
        cool_destination: timedelta | None = None,
        tls_results: tuple[TlsResult, ...] = (),
    ) -> Settlement:
        """Return what the store writes in one transaction, with the notices that were built."""
        return Settlement(
            job=self.job,
            recipients=self.recipients,
            attempt=self.attempt,
            retry_in=self.retry_in,
            hold=self.hold,
            delay_notified=self.delay_notified,
            notices=tuple(notices),
            cool_destination=cool_destination,
            tls_results=tls_results,
        )


class _Judged(NamedTuple):
    """One recipient, what happened and what becomes of it."""

    recipient: Recipient
    outcome: Outcome
    settled: SettledRecipient
    unchecked: bool = False


def settle(job: Job, attempt: Attempt, now: datetime, settings: ScheduleSettings, *, spread: float = 0.0) -> Decision:
    """Decide what becomes of each recipient of `job` after `attempt`, which has just ended at `now`.

    `spread` in [0, 1) varies the wait. Raises ValueError if the attempt is void: then nothing may be settled and
    the lease is left to lapse.
    """
    if [outcome.recipient_id for outcome in attempt.outcomes] != [recipient.id for recipient in job.recipients]:
        raise ValueError("attempt is void: it must have exactly one outcome for each recipient, in their order")
    judged = [
        _judge(recipient, outcome, job, attempt, now, settings)
        for recipient, outcome in zip(job.recipients, attempt.outcomes, strict=True)
    ]
    hold = None
    if job.message.envelope.reverse_path == "":
        judged, hold = _keep_double_bounce(judged)
    waiting = [one for one in judged if one.settled.verdict is Verdict.QUEUED]
    return Decision(
        job=job,
        attempt=attempt,
        recipients=tuple([one.settled for one in judged]),
        retry_in=_retry_in(job, waiting, now, settings, spread) if waiting and hold is None else None,
        hold=hold,
        notices=_notices(job, judged, now, settings),
        record_check_missing=any(one.unchecked for one in waiting),
    )


def uncharged(job: Job, tls_results: tuple[TlsResult, ...]) -> Settlement:
    """Give an attempt back that was broken off: nothing happened to the message, whatever sessions it had."""
    diagnostic = "Attempt broken off: the relay was stopped"
    return Settlement(
        job=job,
        recipients=tuple(_settled(one, Verdict.QUEUED, _BROKEN_OFF, diagnostic) for one in job.recipients),
        attempt=None,
        charged=False,
        tls_results=tls_results,
    )


def _judge(
    recipient: Recipient, outcome: Outcome, job: Job, attempt: Attempt, now: datetime, settings: ScheduleSettings
) -> _Judged:
    if outcome.action is Action.DELIVERED:
        return _Judged(recipient, outcome, _settled(recipient, Verdict.DELIVERED, outcome.status, outcome.diagnostic))
    expired = now >= expires_at(job, settings, refused=outcome.refused)
    status, diagnostic = outcome.status.as_class(4), outcome.diagnostic
    verdict, unchecked = Verdict.QUEUED, False
    if outcome.refused and not (outcome.refused_by_dane or attempt.record_checked):
        # RFC 8461 §5: not before the record was looked at past our caches. The next attempt looks.
        unchecked = expired
    elif outcome.action is Action.FAILED:
        verdict, status = Verdict.FAILED, status.as_class(5)
    elif expired:
        verdict = Verdict.FAILED
        status, diagnostic = _expired(outcome)
    return _Judged(recipient, outcome, _settled(recipient, verdict, status, diagnostic), unchecked)


def _settled(recipient: Recipient, verdict: Verdict, status: Status, diagnostic: str) -> SettledRecipient:
    return SettledRecipient(recipient_id=recipient.id, verdict=verdict, status=status, diagnostic=diagnostic)


def _expired(outcome: Outcome) -> tuple[Status, str]:
    """The final status and text of a deferral that has lasted too long (design §6)."""
    if outcome.reply is not None:
        # A 5yz about the host was only deferred (decision 15); its own code says more than "expired" does.
        status = outcome.reply.status if outcome.reply.permanent else _EXPIRED
        return status, f"Message expired -> {outcome.reply}"
    if outcome.refused:
        return outcome.status.as_class(5), outcome.diagnostic
    reason = outcome.diagnostic
    if reason[1:2].islower():
        reason = reason[0].lower() + reason[1:]
    return outcome.status.as_class(5), f"Message expired, {reason}" if reason else "Message expired"


def _keep_double_bounce(judged: list[_Judged]) -> tuple[list[_Judged], HoldReason | None]:
    """Keep the failures of a message without a sender, whom nobody could be told of (design §4, rule 7).

    The job is held once nobody is left to wait for; until then the failed recipients wait with the others, so that
    one failure does not hold up the rest.
    """
    failed = [one for one in judged if one.settled.verdict is Verdict.FAILED]
    if not failed:
        return judged, None
    deferred = any(one.settled.verdict is Verdict.QUEUED for one in judged)
    kept = [_queued(one) if one in failed else one for one in judged]
    return kept, None if deferred else HoldReason.DOUBLE_BOUNCE


def _queued(one: _Judged) -> _Judged:
    settled = _settled(one.recipient, Verdict.QUEUED, one.settled.status, one.settled.diagnostic)
    return _Judged(one.recipient, one.outcome, settled)


def _retry_in(job: Job, waiting: list[_Judged], now: datetime, settings: ScheduleSettings, spread: float) -> timedelta:
    """The next step of the schedule, but no later than the moment at which somebody expires.

    An attempt at that very moment makes the answer final on time.
    """
    if any(one.unchecked for one in waiting):
        return retry_after(1, settings, spread)
    step = retry_after(job.attempts, settings, spread)
    ends = [expires_at(job, settings, refused=one.outcome.refused) for one in waiting]
    return min([step, *(end - now for end in ends if end > now)])


_OCCASIONS = (
    (NoticeKind.FAILED, Notify.FAILURE, Verdict.FAILED),
    (NoticeKind.RELAYED, Notify.SUCCESS, Verdict.DELIVERED),
    (NoticeKind.DELAYED, Notify.DELAY, Verdict.QUEUED),
)


def _notices(job: Job, judged: list[_Judged], now: datetime, settings: ScheduleSettings) -> tuple[NoticeRequest, ...]:
    """At most one notice of each kind; none for a message that is itself a notice (RFC 5321 §4.5.5)."""
    concerned = [one for one in judged if not _as_hoped(one)]
    if not concerned or job.message.envelope.reverse_path == "":
        return ()
    due: list[NoticeRequest] = []
    for kind, occasion, verdict in _OCCASIONS:
        about = [one for one in concerned if one.settled.verdict is verdict and notice_due(one.recipient, occasion)]
        if kind is NoticeKind.RELAYED:
            # RFC 3461 §5.2.1: the next hop has taken over the duty to report success.
            about = [one for one in about if not one.outcome.dsn_passed_on]
        if about and (kind is not NoticeKind.DELAYED or delay_notice_due(job, now, settings)):
            due.append(
                NoticeRequest(kind=kind, recipients=tuple([_noticed(one, job, kind, settings) for one in about]))
            )
    return tuple(due)


def _as_hoped(one: _Judged) -> bool:
    """Whether nobody is told: it was delivered, and NOTIFY asks for nothing (RFC 3461 §4.1)."""
    return one.settled.verdict is Verdict.DELIVERED and one.recipient.notify is None


def _noticed(one: _Judged, job: Job, kind: NoticeKind, settings: ScheduleSettings) -> NoticeRecipient:
    until = expires_at(job, settings, refused=one.outcome.refused) if kind is NoticeKind.DELAYED else None
    return NoticeRecipient(
        recipient=one.recipient,
        status=one.settled.status,
        diagnostic=one.settled.diagnostic,
        outcome=one.outcome,
        will_retry_until=until,
    )
