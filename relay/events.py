"""What happens to mail, one function per event: the log reference, with process_events.py and report_events.py.

Names are `noun.verb`, fields are flat. ERROR: someone must act. WARNING: look this week. Never a message body,
never a credential. Text from peers arrives here already cleaned of control characters.
"""

import logging
import time
from collections.abc import Iterable
from datetime import datetime, timedelta

from policy.findings import CachedPolicy, FetchFailure
from policy.journal import JournalEntry
from relay.delivery.routing_table import Weakening
from relay.delivery.seam import Target
from relay.queue.attempt import Attempt, HostAttempt, Outcome
from relay.queue.enforcement import recipient_breach
from relay.queue.message import Job, Message, NewMessage
from relay.queue.notice import NoticeKind
from relay.store.protocols import QueueEntry, SettledRecipient, StoreError, Verdict

log = logging.getLogger("relay")

_SETTLED = {
    Verdict.DELIVERED: "recipient.delivered",
    Verdict.FAILED: "recipient.failed",
    Verdict.QUEUED: "recipient.deferred",
}


class _Told(logging.LogRecord):
    """An event of each message: a record at INFO whose argument is its fields, without its place in the program."""

    _PLAIN = vars(logging.makeLogRecord({"name": log.name, "levelno": logging.INFO, "levelname": "INFO"}))

    def __init__(self, event: str, fields: dict[str, object]) -> None:
        now = time.time()
        self.__dict__ = {**self._PLAIN, "msg": event, "args": fields, "created": now, "msecs": now % 1 * 1000}


def _tell(event: str, fields: dict[str, object]) -> None:
    """Log an event of each message: what `log.info` does, at a fifth of its cost. All handlers are the root's.

    The caller has asked whether events are heard at all.
    """
    record = _Told(event, fields)
    for handler in logging.root.handlers:
        if handler.level <= logging.INFO:
            handler.handle(record)


# -- ingress --------------------------------------------------------------------------------------------------


def listener_started(address: str, tls: str) -> None:
    log.info("listener.started", extra={"listener": address, "tls": tls})


def listener_certificate_loaded(address: str, expires_at: datetime) -> None:
    """The certificate of a listener has changed, and new sessions get the new one."""
    log.info("listener.certificate_loaded", extra={"listener": address, "expires_at": expires_at.isoformat()})


def listener_certificate_rejected(address: str, problem: str) -> None:
    """A changed certificate, key or CA file cannot be used; the old one serves on until it expires."""
    log.error("listener.certificate_rejected", extra={"listener": address, "problem": problem})


def listener_reload_failed(problem: str) -> None:
    """New settings of the ingress cannot be used; the old ones stay in force."""
    log.error("listener.reload_failed", extra={"problem": problem})


def connection_refused(client: str, reason: str) -> None:
    log.warning("connection.refused", extra={"client": client, "reason": reason})


def handshake_failed(client: str, problem: str) -> None:
    """A client did not come through the TLS handshake with one of our listeners."""
    log.warning("connection.handshake_failed", extra={"client": client, "problem": problem})


def client_denied(client: str, helo: str) -> None:
    """A client that may not relay tried to; either an open-relay probe, or `[access]` lacks somebody."""
    log.warning("client.denied", extra={"client": client, "helo": helo})


def sender_denied(client: str, reverse_path: str) -> None:
    """An admitted client used a sender address outside `access.sender_domains`."""
    log.warning("client.sender_denied", extra={"client": client, "reverse_path": reverse_path})


def authentication_failed(client: str) -> None:
    log.warning("client.authentication_failed", extra={"client": client})


def session_failed(client: str, error: Exception) -> None:
    """A session met something unexpected, which is a fault of ours; the client was told to try again."""
    log.error("session.failed", extra={"client": client}, exc_info=error)


def ingress_store_failed(error: str) -> None:
    """The store did not take a message; the client was told to try again and keeps it."""
    log.error("message.store_failed", extra={"error": error})


def message_accepted(message: NewMessage) -> None:
    """A message is committed, and its client is told so; the relay is responsible from here.

    `requiretls` is a field of this and of the events of its delivery only where the message demands it (RFC 8689).
    """
    if not log.isEnabledFor(logging.INFO):
        return
    client = message.client
    fields: dict[str, object] = {
        "queue_id": message.queue_id,
        "message_id": message.message_id,
        "client": client.address,
        "helo": client.helo,
        "tls_version": client.tls_version,
        "user": client.user,
        "reverse_path": message.envelope.reverse_path,
        "recipients": len(message.recipients),
        "size": message.size,
    }
    if message.require_tls:
        fields["requiretls"] = True
    _tell("message.accepted", fields)


def tls_required_no(queue_id: str, reverse_path: str, result: str) -> None:
    """A message says TLS-Required: No. A warning where it is honoured: enforcement was switched off for it."""
    level = logging.WARNING if result == "honoured" else logging.INFO
    fields = {"queue_id": queue_id, "reverse_path": reverse_path, "result": result}
    log.log(level, "message.tls_required_no", extra=fields)


def message_refused(queue_id: str, client: str, reverse_path: str, reply: str) -> None:
    """A message was refused after its content; nothing of it is kept."""
    fields = {"queue_id": queue_id, "client": client, "reverse_path": reverse_path, "reply": reply}
    log.warning("message.refused", extra=fields)


# -- queue ----------------------------------------------------------------------------------------------------


def poison_held(entry: QueueEntry) -> None:
    """Five attempts at a job ended without a result: the relay itself may be failing over this message."""
    fields = _message_fields(entry.message, entry.destination) | {"attempts": entry.attempts}
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


def tls_conceded(target: Target, concession: str, detail: str) -> None:
    """TLS with a host fails and nothing demands it, so for an hour it gets a small hello, or (a warning) plaintext."""
    fields = {"remote_mta": target.mx_host, "remote_address": str(target.address), "port": target.port}
    level = logging.WARNING if concession == "plaintext" else logging.INFO
    log.log(level, "tls.conceded", extra=fields | {"concession": concession, "detail": detail})


# -- policy ---------------------------------------------------------------------------------------------------


def policy_changed(entry: JournalEntry) -> None:
    """A domain's policy is new to us, says something else than before, expired, or its fetches begin or cease to fail.

    A warning where mail to the domain is protected less than before.
    """
    old, new, problem = entry.before, entry.after, entry.problem
    fields = {
        "policy_domain": entry.policy_domain,
        "changes": ", ".join(change.value for change in entry.changes),
        "policy_id": new.record_id if new else None,
        "policy_mode": new.mode.value if new else None,
        "policy_mx": ", ".join(new.mx) if new else None,
        "max_age_seconds": int(new.max_age.total_seconds()) if new else None,
        "old_policy_id": old.record_id if old else None,
        "old_policy_mode": old.mode.value if old else None,
        "old_policy_mx": ", ".join(old.mx) if old else None,
        "problem": f"{problem.result_type.value}: {problem.detail}" if problem else None,
        "failing_since": entry.failing_since.isoformat() if entry.failing_since else None,
    }
    log.log(logging.WARNING if entry.weakens else logging.INFO, "policy.changed", extra=fields)


def policy_refresh_failed(cached: CachedPolicy, failure: FetchFailure) -> None:
    """A live policy could not be fetched anew; it stays in force until it expires (RFC 8461 §10.2)."""
    fields = {
        "policy_domain": cached.policy_domain,
        "policy_id": cached.record_id,
        "result_type": failure.result_type.value,
        "detail": failure.detail,
        "failing_since": failure.failing_since.isoformat(),
        "expires_at": cached.expires_at.isoformat(),
    }
    log.warning("policy.refresh_failed", extra=fields)


def policy_unknown_given_up(policy_domain: str) -> None:
    """`_mta-sts` has had no answer for mta_sts.unknown_grace: the domain's mail goes as without policy."""
    log.warning("policy.unknown_given_up", extra={"policy_domain": policy_domain})


def dane_inactive(reason: str) -> None:
    """The resolver vouches for no answer, so that no host has TLSA records to keep to: DANE protects nothing."""
    log.warning("dane.inactive", extra={"reason": reason, "setting": "dns.nameservers, dns.trust_ad"})


def dane_active() -> None:
    """The resolver validates: TLSA records are kept to."""
    log.info("dane.active")


# -- delivery -------------------------------------------------------------------------------------------------


def recipients_settled(
    job: Job, recipients: Iterable[SettledRecipient], attempt: Attempt, retry_in: timedelta | None
) -> None:
    """One line per recipient and attempt; the operator greps these. All are in the order of the job's recipients.

    `policy_breach` is how the host failed its policy: refused if `refused_by_policy`, else delivered all the same.
    `route` is a field of this and of what else tells of an attempt only where one applies: its first domain, as in
    `check`, or "ndr.route".
    """
    if not log.isEnabledFor(logging.INFO):
        return
    retry_in_seconds = retry_in.total_seconds() if retry_in else None
    job_fields, attempt_fields = _job_fields(job, attempt.route), _attempt_fields(job, attempt)
    for recipient, one, outcome in zip(job.recipients, recipients, attempt.outcomes, strict=True):
        _tell(
            _SETTLED[one.verdict],
            {
                **job_fields,
                "forward_path": recipient.forward_path,
                "status": str(one.status),
                "diagnostic": one.diagnostic,
                **_outcome_fields(outcome, attempt.host_of(outcome)),
                "policy_breach": breach.reason if (breach := recipient_breach(outcome, attempt)) else None,
                **attempt_fields,
                "retry_in_seconds": retry_in_seconds if one.verdict is Verdict.QUEUED else None,
            },
        )


def policy_changed_in_attempt(job: Job, route: str, old_id: str | None, new_id: str | None) -> None:
    """A policy refused hosts, was looked up again, and is another one now: they are tried at once (RFC 8461 §5)."""
    fields = _job_fields(job, route) | {"old_policy_id": old_id, "new_policy_id": new_id}
    log.info("delivery.policy_changed", extra=fields)


def route_weakening(route: str, weakening: Weakening, now: datetime) -> None:
    """At start and on SIGHUP: a route makes an exception, or did until it ended by itself and can be taken out."""
    ended = weakening.over(now)
    log.warning("route.weakening_ended" if ended else "route.weakening", extra=_weakening_fields(route, weakening))


def route_weakening_ends(route: str, weakening: Weakening, days_left: int, then: str) -> None:
    """At start and once a day in the week before: a route's exception ends by itself. `then` is what will hold."""
    log.warning(
        "route.weakening_ends", extra=_weakening_fields(route, weakening) | {"days_left": days_left, "then": then}
    )


def route_weakened(job: Job, route: str, weakening: Weakening) -> None:
    """An attempt goes under an exception that a route makes: policy or TLSA records count for nothing."""
    log.info("delivery.weakened", extra=_job_fields(job) | _weakening_fields(route, weakening))


def _weakening_fields(route: str, weakening: Weakening) -> dict[str, object]:
    return {
        "route": route,
        "turns_off": ", ".join(one.value for one in weakening.turns_off),
        "reason": weakening.reason,
        "ends_at": weakening.ends_at.isoformat() if weakening.ends_at else None,
    }


def attempt_broken_off(job: Job, route: str) -> None:
    """The relay is stopping: the attempt counts for nothing."""
    log.info("delivery.broken_off", extra=_job_fields(job, route))


def attempt_crashed(job: Job, error: Exception) -> None:
    """A fault of the relay's own, with its traceback. The job is left to its lease; five in a row hold it."""
    log.error("delivery.crashed", exc_info=error, extra=_job_fields(job))


def notice_impossible(job: Job, reason: str) -> None:
    """The sender's address is none that a notice can be sent to."""
    log.error("notice.impossible", extra=_job_fields(job) | {"reason": reason})


def _job_fields(job: Job, route: str = "") -> dict[str, object]:
    fields = _message_fields(job.message, job.destination)
    if route:
        fields["route"] = route
    return fields


def _message_fields(message: Message, destination: str) -> dict[str, object]:
    fields: dict[str, object] = {
        "queue_id": message.queue_id,
        "message_id": message.message_id,
        "reverse_path": message.envelope.reverse_path,
        "destination": destination,
    }
    if message.require_tls:
        fields["requiretls"] = True
    return fields


def _outcome_fields(outcome: Outcome, host: HostAttempt | None) -> dict[str, object]:
    """The host that decided, how it was reached, and what it said."""
    tls = host.tls if host else None
    return {
        "mx": outcome.remote_mta,
        "address": outcome.remote_address,
        "reply": str(outcome.reply) if outcome.reply else None,
        "security": outcome.security.value if outcome.security else None,
        "dane": host.dane.value if host and host.dane else None,
        "tls_version": tls.version if tls else None,
        "tls_cipher": tls.cipher if tls else None,
        "refused_by_policy": outcome.refused,
    }


def _attempt_fields(job: Job, attempt: Attempt) -> dict[str, object]:
    """What all recipients of an attempt have in common."""
    policy = attempt.policy
    return {
        "policy_id": policy.record_id if policy else None,
        "policy_mode": policy.mode if policy else None,
        "policy_problem": attempt.policy_problem or None,
        "record_checked": attempt.record_checked,
        "attempt": attempt.number,
        "accepted_at": job.message.accepted_at.isoformat(),
        "started_at": attempt.started_at.isoformat(),
        "finished_at": attempt.finished_at.isoformat(),
    }


# -- reports --------------------------------------------------------------------------------------------------


def notice_queued(job: Job, notice: NewMessage, kind: NoticeKind, recipients: int) -> None:
    """The sender is told, by an NDR, delay notice or success notice that is queued as a message of our own."""
    log.info(
        "notice.queued",
        extra=_job_fields(job) | {"notice_id": notice.queue_id, "kind": kind.value, "recipients": recipients},
    )
