"""Jobs, outcomes and attempts for the tests of the queue's rules."""

from datetime import UTC, datetime, timedelta

from relay.queue.attempt import Action, Attempt, Outcome
from relay.queue.message import Envelope, Job, Lease, Message, Notify, Recipient
from relay.status import Reply, Status

ACCEPTED = datetime(2026, 11, 20, 9, 0, tzinfo=UTC)


def make_job(
    *notify: frozenset[Notify] | None, reverse_path: str = "alice@contoso.test", attempts: int = 1, held_hours: int = 0
) -> Job:
    """A job with one recipient for each `notify`, at least one."""
    recipients = tuple(
        Recipient(id=number, forward_path=f"r{number}@example.test", notify=wants)
        for number, wants in enumerate(notify or (None,), 1)
    )
    message = Message(queue_id="q1", accepted_at=ACCEPTED, envelope=Envelope(reverse_path=reverse_path), size=1000)
    return Job(
        id=7,
        message=message,
        destination="example.test",
        recipients=recipients,
        attempts=attempts,
        lease=Lease(fence=1, incarnation="i"),
        held_for=timedelta(hours=held_hours),
    )


def delivered(recipient_id: int = 1, *, dsn_passed_on: bool = False) -> Outcome:
    reply = Reply(250, ("2.0.0 queued",))
    return Outcome(
        recipient_id=recipient_id,
        action=Action.DELIVERED,
        status=Status(2, 0, 0),
        diagnostic=str(reply),
        reply=reply,
        remote_mta="mx.example.test",
        remote_address="192.0.2.1",
        dsn_passed_on=dsn_passed_on,
    )


def answered(code: int, text: str, recipient_id: int = 1) -> Outcome:
    """What a remote 4yz or 5yz to RCPT means."""
    reply = Reply(code, (text,))
    return Outcome(
        recipient_id=recipient_id,
        action=Action.FAILED if reply.permanent else Action.DEFERRED,
        status=reply.status,
        diagnostic=str(reply),
        reply=reply,
        remote_mta="mx.example.test",
        remote_address="192.0.2.1",
    )


def deferred(recipient_id: int = 1) -> Outcome:
    return Outcome(
        recipient_id=recipient_id,
        action=Action.DEFERRED,
        status=Status(4, 4, 316),
        diagnostic="Connection refused [LastAttemptedServerName=mx.example.test]",
    )


def refused(recipient_id: int = 1) -> Outcome:
    return Outcome(
        recipient_id=recipient_id,
        action=Action.DEFERRED,
        status=Status(4, 4, 8),
        diagnostic="MX hosts of example.test failed MTA-STS validation",
        refused=True,
    )


def failed(recipient_id: int = 1) -> Outcome:
    return answered(550, "5.1.1 no such user", recipient_id)


def make_attempt(*outcomes: Outcome, record_checked: bool = False) -> Attempt:
    return Attempt(
        number=1,
        started_at=ACCEPTED,
        finished_at=ACCEPTED,
        hosts=(),
        outcomes=outcomes,
        record_checked=record_checked,
    )
