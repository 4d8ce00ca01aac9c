"""Every event that the relay logs, one function each; this file is the log reference.

Names are `noun.verb`, fields are flat. ERROR: someone must act. WARNING: look this week. Never a message body,
never a credential. Text from peers arrives here already cleaned of control characters.
"""

import logging
from datetime import timedelta

from relay.queue.attempt import Attempt, Outcome
from relay.queue.message import Job, Message, Recipient
from relay.store.protocols import QueueEntry, SettledRecipient, StoreError, Verdict

log = logging.getLogger("relay")

# -- process --------------------------------------------------------------------------------------------------

# -- ingress --------------------------------------------------------------------------------------------------

# -- queue ----------------------------------------------------------------------------------------------------


def poison_held(entry: QueueEntry) -> None:
    """Five attempts at a job ended without a result: the relay itself may be failing over this message."""
    fields = _message_fields(entry.message) | {"destination": entry.destination, "attempts": entry.attempts}
    log.error("queue.suspected_poison", extra=fields)


def double_bounce_held(job: Job) -> None:
    """A message without a sender failed for good; there is nobody to tell, so it is kept for the operator."""
    log.error("queue.double_bounce", extra=_job_fields(job))


def lease_lost(job: Job) -> None:
    """The job was somebody else's by the time its attempt ended; a duplicate is possible."""
    log.warning("queue.lease_lost", extra=_job_fields(job) | {"fence": job.lease.fence})


def settle_failed(job: Job, error: StoreError, tries_left: int) -> None:
    """The end of an attempt could not be written down; without a try left the job is attempted again."""
    level = logging.WARNING if tries_left else logging.ERROR
    log.log(level, "queue.settle_failed", extra=_job_fields(job) | {"error": str(error), "tries_left": tries_left})


def queue_failed(task: str, error: StoreError) -> None:
    """The store did not do what the named task asked; it is asked again."""
    log.error("queue.store_failed", extra={"task": task, "error": str(error)})


def job_dropped(job: Job, *, silent: bool) -> None:
    log.warning("queue.dropped", extra=_job_fields(job) | {"silent": silent})


def destination_cooled(destination: str, wait: timedelta, reason: str) -> None:
    """No host of a destination could be used, so that all its mail waits."""
    fields = {"destination": destination, "wait_seconds": wait.total_seconds(), "reason": reason}
    log.warning("destination.cooled", extra=fields)


# -- policy ---------------------------------------------------------------------------------------------------

# -- delivery -------------------------------------------------------------------------------------------------


def recipient_settled(
    job: Job, recipient: Recipient, settled: SettledRecipient, attempt: Attempt, retry_in: timedelta | None
) -> None:
    """One line per recipient and attempt; the operator greps these."""
    outcome = next((one for one in attempt.outcomes if one.recipient_id == recipient.id), None)
    verdict = "deferred" if settled.verdict is Verdict.QUEUED else settled.verdict.value
    log.info(
        "recipient.%s",
        verdict,
        extra=_job_fields(job)
        | {"forward_path": recipient.forward_path, "status": str(settled.status), "diagnostic": settled.diagnostic}
        | _outcome_fields(outcome, attempt)
        | _policy_fields(attempt)
        | {
            "attempt": attempt.number,
            "accepted_at": job.message.accepted_at.isoformat(),
            "started_at": attempt.started_at.isoformat(),
            "finished_at": attempt.finished_at.isoformat(),
            "retry_in_seconds": retry_in.total_seconds() if retry_in and verdict == "deferred" else None,
        },
    )


def policy_changed_in_attempt(job: Job, old_id: str | None, new_id: str | None) -> None:
    """A policy refused hosts, was looked up again, and is another one now: they are tried at once (RFC 8461 §5)."""
    log.info("delivery.policy_changed", extra=_job_fields(job) | {"old_policy_id": old_id, "new_policy_id": new_id})


def attempt_broken_off(job: Job) -> None:
    """The relay is stopping: the attempt counts for nothing."""
    log.info("delivery.broken_off", extra=_job_fields(job))


def attempt_crashed(job: Job) -> None:
    """A fault of the relay's own, with its traceback. The job is left to its lease; five in a row hold it."""
    log.exception("delivery.crashed", extra=_job_fields(job))


def _message_fields(message: Message) -> dict[str, object]:
    return {
        "queue_id": message.queue_id,
        "message_id": message.message_id,
        "reverse_path": message.envelope.reverse_path,
    }


def _job_fields(job: Job) -> dict[str, object]:
    return _message_fields(job.message) | {"destination": job.destination}


def _outcome_fields(outcome: Outcome | None, attempt: Attempt) -> dict[str, object]:
    """The host that decided, how it was reached, and what it said."""
    if outcome is None:
        return {}
    host = next(
        (
            host
            for host in reversed(attempt.hosts)
            if (host.mx_host, host.address) == (outcome.remote_mta, outcome.remote_address)
        ),
        None,
    )
    tls = host.tls if host else None
    return {
        "mx": outcome.remote_mta,
        "address": outcome.remote_address,
        "reply": str(outcome.reply) if outcome.reply else None,
        "security": outcome.security.value if outcome.security else None,
        "tls_version": tls.version if tls else None,
        "tls_cipher": tls.cipher if tls else None,
        "refused_by_policy": outcome.refused,
    }


def _policy_fields(attempt: Attempt) -> dict[str, object]:
    policy = attempt.policy
    return {
        "policy_id": policy.record_id if policy else None,
        "policy_mode": policy.mode if policy else None,
        "policy_problem": attempt.policy_problem or None,
        "record_checked": attempt.record_checked,
    }


# -- reports --------------------------------------------------------------------------------------------------
