"""Writes that end attempts or jobs. Settlement and the notices that it causes are one transaction (design §4)."""

import sqlite3
from collections.abc import Sequence
from typing import NamedTuple

from relay.queue.message import HoldReason, Job, NewMessage, State
from relay.queue.tls_results import TlsResult
from relay.store.protocols import LeaseLostError, Settlement, Verdict
from relay.store.records import dump_attempt, dump_rows
from relay.store.sqlite.bulk import Bulk, marks
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.intake import Arrival, LeaseTerms, insert_messages
from relay.store.sqlite.leasing import lease_key
from relay.store.sqlite.rows import Row, duration_us, recipient_values
from relay.store.sqlite.tls_results import add_results

_KEPT_ATTEMPTS = 11
"""Attempt records kept: the first, and the last ten (one of them with the job); those between tell nothing new."""

# A list of VALUES has columns named column1, column2, ...
END_JOBS = Bulk(
    "UPDATE jobs SET state = v.column4, waiting = v.column5, hold_reason = nullif(v.column6, ''), "
    "held_at = nullif(v.column7, 0), "
    "held_us = held_us + ifnull(v.column8 - held_at, 0), "
    "next_attempt_at = ifnull(nullif(v.column9, 0), next_attempt_at), "
    "attempts = attempts - (counted AND NOT v.column10), delay_notified = delay_notified OR v.column11, "
    "recipients = ifnull(v.column12, recipients), finished = finished || v.column13, "
    "record = ifnull(v.column14, record), finished_at = v.column15, "
    "counted = 0, lapses = 0, leased_by = NULL, leased_until = NULL FROM (",
    marks(15),
    ") AS v WHERE jobs.id = v.column1 AND jobs.fence = v.column2 AND jobs.leased_by = v.column3 "
    "AND jobs.state = 'leased'",
)
PRUNE_ATTEMPTS = (
    "DELETE FROM attempts WHERE job_id = ?1 "
    "AND id > (SELECT min(id) FROM attempts WHERE job_id = ?1) "
    "AND id < (SELECT min(id) FROM (SELECT id FROM attempts WHERE job_id = ?1 ORDER BY id DESC LIMIT 9))"
)
_MARK_FAILED = (
    "UPDATE jobs SET state = 'failed' WHERE id = ? AND state = 'delivered' "
    "AND EXISTS (SELECT 1 FROM json_each('[' || rtrim(finished, ',') || ']') "
    "WHERE json_extract(value, '$[6]') = 'failed')"
)
_COOL = (
    "INSERT INTO destinations (name, cooled_until) VALUES (?, ?) "
    "ON CONFLICT (name) DO UPDATE SET cooled_until = max(cooled_until, excluded.cooled_until)"
)


class Ending(NamedTuple):
    """What becomes of a leased job and its recipients at `now`. Times are microseconds; None leaves what is there.

    `recipients` are those that go on waiting, `finished` those that are final from now on, as the file keeps them.
    """

    job: Job
    now: int
    terms: LeaseTerms
    state: State
    waiting: int
    recipients: str | None = None
    finished: str = ""
    hold_reason: HoldReason | None = None
    retry_at: int | None = None
    cool_until: int | None = None
    charged: bool = True
    delay_notified: bool = False
    record: str | None = None
    notices: tuple[NewMessage, ...] = ()
    tls_results: tuple[TlsResult, ...] = ()


def settled(settlement: Settlement, now: int, terms: LeaseTerms) -> Ending:
    """What a settlement comes to. Raises ValueError if recipients would be tried again at once, without end."""
    job = settlement.job
    waiting, finished = _told(settlement)
    hold_reason = settlement.hold if waiting else None
    if waiting and hold_reason is None and settlement.retry_in is None and settlement.charged:
        raise ValueError("recipients that are queued again need a time to retry")
    if waiting:
        state = State.QUEUED if hold_reason is None else State.HELD
    else:
        state = State.FAILED if Verdict.FAILED in [told.verdict for told in settlement.recipients] else State.DELIVERED
    return Ending(
        job=job,
        now=now,
        terms=terms,
        state=state,
        waiting=len(waiting),
        recipients=dump_rows(waiting),
        finished=dump_rows(finished)[1:-1] + "," if finished else "",
        hold_reason=hold_reason,
        retry_at=None if settlement.retry_in is None else now + duration_us(settlement.retry_in),
        cool_until=None if settlement.cool_destination is None else now + duration_us(settlement.cool_destination),
        charged=settlement.charged,
        delay_notified=settlement.delay_notified,
        record=None if settlement.attempt is None else dump_attempt(settlement.attempt),
        notices=settlement.notices,
        tls_results=settlement.tls_results,
    )


def dropped(job: Job, notices: tuple[NewMessage, ...], now: int, terms: LeaseTerms) -> Ending:
    """What dropping comes to: the recipients are in the job's state, with status and text of the last attempt."""
    return Ending(job=job, now=now, terms=terms, state=State.DROPPED, waiting=0, notices=notices)


def end_jobs(connection: sqlite3.Connection, ids: RowIds, endings: Sequence[Ending]) -> list[None]:
    """Write the ends of attempts. Raises LeaseLostError if any of the leases is not current."""
    if END_JOBS.run(connection, [_job_row(ending) for ending in endings]) != len(endings):
        raise LeaseLostError(f"{', '.join(f'job {e.job.id}' for e in endings)}: not leased to us any more")
    for ending in endings:
        _end_rarely(connection, ending)
    notices = [
        Arrival(new=notice, now=ending.now, terms=ending.terms) for ending in endings for notice in ending.notices
    ]
    if notices:
        insert_messages(connection, ids, notices)
    if sessions := [result for ending in endings for result in ending.tls_results]:
        add_results(connection, sessions)
    return [None] * len(endings)


def _told(settlement: Settlement) -> tuple[list[Row], list[Row]]:
    """The rows of those who go on waiting, and of those who are final now."""
    waiting: list[Row] = []
    finished: list[Row] = []
    for recipient, told in zip(settlement.job.recipients, settlement.recipients, strict=True):
        values = recipient_values(recipient.id, recipient, str(told.status), told.diagnostic)
        if told.verdict is Verdict.QUEUED:
            waiting.append(values)
        else:
            finished.append((*values, told.verdict.value))
    return waiting, finished


def _job_row(ending: Ending) -> Row:
    """Values for END_JOBS; "" and 0 stand for NULL where that is what most mail has (see MESSAGE_MARKS)."""
    reason = ending.hold_reason.value if ending.hold_reason else ""
    return (
        *lease_key(ending.job),
        ending.state.value,
        ending.waiting,
        reason,
        ending.now if reason else 0,
        ending.now,
        ending.retry_at or 0,
        int(ending.charged),
        int(ending.delay_notified),
        ending.recipients,
        ending.finished,
        ending.record,
        None if ending.waiting else ending.now,
    )


def _end_rarely(connection: sqlite3.Connection, ending: Ending) -> None:
    """What mail that is delivered at the first attempt does not need."""
    job = ending.job
    if ending.record is not None and (job.attempts > _KEPT_ATTEMPTS or not ending.charged):
        connection.execute(PRUNE_ATTEMPTS, (job.id,))
    if ending.state is State.DELIVERED and job.lease.fence > 1:  # an earlier attempt may have failed some
        connection.execute(_MARK_FAILED, (job.id,))
    if ending.cool_until is not None:
        connection.execute(_COOL, (job.destination, ending.cool_until))
