"""Writes that end an attempt or a job. Each runs inside one transaction (design: settlement + notices are one)."""

import sqlite3
from collections.abc import Sequence

from relay.queue.message import Job, NewMessage, State
from relay.store.protocols import LeaseLostError, Settlement, Verdict
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.intake import LeaseTerms, discard_content, insert_message
from relay.store.sqlite.leasing import lease_key
from relay.store.sqlite.rows import duration_us

_KEPT_ATTEMPTS = 11
"""Attempt records kept: the first and the last ten; what lies between tells nothing new."""

_SETTLE = (
    "UPDATE jobs SET state = ?, waiting = ?, hold_reason = ?, held_us = held_us + ifnull(? - held_at, 0), held_at = ?, "
    "next_attempt_at = ifnull(?, next_attempt_at), attempts = attempts - (counted AND NOT ?), counted = 0, lapses = 0, "
    "delay_notified = delay_notified OR ?, leased_by = NULL, leased_until = NULL "
    "WHERE id = ? AND fence = ? AND leased_by = ? AND state = 'leased'"
)
_SETTLE_RECIPIENT = "UPDATE recipients SET state = ?, status = ?, diagnostic = ? WHERE job_id = ? AND id = ?"
_ANY_FAILED = "SELECT 1 FROM recipients WHERE job_id = ? AND state = 'failed' LIMIT 1"
_SELECT_OPEN = (
    "SELECT messages.id, open_jobs, content_id, messages.size FROM jobs JOIN messages ON messages.id = jobs.message_id "
    "WHERE jobs.id = ?"
)
_FINISH = "UPDATE messages SET open_jobs = ?, finished_at = ? WHERE id = ?"
_PRUNE_ATTEMPTS = (
    "DELETE FROM attempts WHERE job_id = ?1 "
    "AND id > (SELECT min(id) FROM attempts WHERE job_id = ?1) "
    "AND id < (SELECT min(id) FROM (SELECT id FROM attempts WHERE job_id = ?1 ORDER BY id DESC LIMIT 10))"
)
_COOL = "UPDATE destinations SET cooled_until = max(cooled_until, ?) WHERE name = ?"


def settle(
    connection: sqlite3.Connection, ids: RowIds, settlement: Settlement, record: str | None, now: int, terms: LeaseTerms
) -> None:
    """Write the end of an attempt. Raises LeaseLostError."""
    job = settlement.job
    state, waiting = _settled_state(connection, settlement)
    hold_reason = settlement.hold.value if settlement.hold and state is State.HELD else None
    retry_at = None if settlement.retry_in is None else now + duration_us(settlement.retry_in)
    settled = connection.execute(
        _SETTLE,
        (
            state.value,
            waiting,
            hold_reason,
            now,
            now if hold_reason else None,
            retry_at,
            settlement.charged,
            settlement.delay_notified,
            *lease_key(job),
        ),
    )
    _demand_one(settled, job)
    connection.executemany(
        _SETTLE_RECIPIENT,
        [
            (
                "waiting" if r.verdict is Verdict.QUEUED else r.verdict.value,
                str(r.status),
                r.diagnostic,
                job.id,
                r.recipient_id,
            )
            for r in settlement.recipients
        ],
    )
    if record is not None:
        prune = job.attempts > _KEPT_ATTEMPTS or not settlement.charged
        _insert_attempt(connection, ids.take(connection, 1), job, record, prune=prune)
    if waiting == 0:
        _finish(connection, job, now)
    if settlement.cool_destination is not None:
        connection.execute(_COOL, (now + duration_us(settlement.cool_destination), job.destination))
    for notice in settlement.notices:
        insert_message(connection, ids, notice, now, terms)


def drop(
    connection: sqlite3.Connection, ids: RowIds, job: Job, notices: Sequence[NewMessage], now: int, terms: LeaseTerms
) -> None:
    """Make what waits of a leased job final as dropped. Raises LeaseLostError."""
    dropped = connection.execute(_SETTLE, (State.DROPPED.value, 0, None, now, None, None, True, False, *lease_key(job)))
    _demand_one(dropped, job)
    connection.execute("UPDATE recipients SET state = 'dropped' WHERE job_id = ? AND state = 'waiting'", (job.id,))
    _finish(connection, job, now)
    for notice in notices:
        insert_message(connection, ids, notice, now, terms)


def _settled_state(connection: sqlite3.Connection, settlement: Settlement) -> tuple[State, int]:
    """The job's state, and how many of its recipients still wait. A job with any failure, ever, is failed."""
    verdicts = [recipient.verdict for recipient in settlement.recipients]
    waiting = verdicts.count(Verdict.QUEUED)
    if waiting:
        return (State.HELD if settlement.hold else State.QUEUED), waiting
    failed = Verdict.FAILED in verdicts
    if not failed and settlement.job.lease.fence > 1:  # there was a lease before, whose settlement may have failed some
        failed = connection.execute(_ANY_FAILED, (settlement.job.id,)).fetchone() is not None
    return (State.FAILED if failed else State.DELIVERED), 0


def _insert_attempt(connection: sqlite3.Connection, attempt_id: int, job: Job, record: str, *, prune: bool) -> None:
    connection.execute("INSERT INTO attempts (job_id, id, record) VALUES (?, ?, ?)", (job.id, attempt_id, record))
    if prune:
        connection.execute(_PRUNE_ATTEMPTS, (job.id,))


def _finish(connection: sqlite3.Connection, job: Job, now: int) -> None:
    """One job fewer; the content goes with the last one."""
    message_id, open_jobs, content_id, size = connection.execute(_SELECT_OPEN, (job.id,)).fetchone()
    open_jobs -= 1
    connection.execute(_FINISH, (open_jobs, None if open_jobs else now, message_id))
    if open_jobs == 0:
        discard_content(connection, content_id, size)


def _demand_one(cursor: sqlite3.Cursor, job: Job) -> None:
    if cursor.rowcount != 1:
        raise LeaseLostError(f"job {job.id} is not leased to us any more")
