"""Writes that end attempts or jobs. Settlement and the notices that it causes are one transaction (design §4)."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from relay.queue.message import HoldReason, Job, NewMessage, State
from relay.store.protocols import LeaseLostError, Settlement, Verdict
from relay.store.records import dump_attempt
from relay.store.sqlite.bulk import Bulk
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.intake import Arrival, LeaseTerms, discard_contents, insert_messages
from relay.store.sqlite.leasing import lease_key
from relay.store.sqlite.rows import Row, duration_us

_KEPT_ATTEMPTS = 11
"""Attempt records kept: the first and the last ten; what lies between tells nothing new."""

# A list of VALUES has columns named column1, column2, ...
END_JOBS = Bulk(
    "UPDATE jobs SET state = v.column4, waiting = v.column5, hold_reason = v.column6, held_at = v.column7, "
    "held_us = held_us + ifnull(v.column8 - held_at, 0), next_attempt_at = ifnull(v.column9, next_attempt_at), "
    "attempts = attempts - (counted AND NOT v.column10), delay_notified = delay_notified OR v.column11, "
    "counted = 0, lapses = 0, leased_by = NULL, leased_until = NULL FROM (",
    11,
    ") AS v WHERE jobs.id = v.column1 AND jobs.fence = v.column2 AND jobs.leased_by = v.column3 "
    "AND jobs.state = 'leased'",
)
END_RECIPIENTS = Bulk(
    "UPDATE recipients SET state = v.column3, status = ifnull(v.column4, status), "
    "diagnostic = ifnull(v.column5, diagnostic) FROM (",
    5,
    ") AS v WHERE recipients.job_id = v.column1 AND recipients.id = v.column2",
)
_INSERT_ATTEMPTS = Bulk("INSERT INTO attempts (job_id, id, record)", 3)
_PRUNE_ATTEMPTS = (
    "DELETE FROM attempts WHERE job_id = ?1 "
    "AND id > (SELECT min(id) FROM attempts WHERE job_id = ?1) "
    "AND id < (SELECT min(id) FROM (SELECT id FROM attempts WHERE job_id = ?1 ORDER BY id DESC LIMIT 10))"
)
_MARK_FAILED = (
    "UPDATE jobs SET state = 'failed' WHERE id = ?1 AND state = 'delivered' "
    "AND EXISTS (SELECT 1 FROM recipients WHERE job_id = ?1 AND recipients.state = 'failed')"
)
SELECT_OPEN = (
    "SELECT messages.id, messages.open_jobs, messages.content_id, messages.size "
    "FROM json_each(?) CROSS JOIN jobs ON jobs.id = value CROSS JOIN messages ON messages.id = jobs.message_id"
)
FINISH_MESSAGES = Bulk(
    "UPDATE messages SET open_jobs = v.column2, finished_at = v.column3 FROM (",
    3,
    ") AS v WHERE messages.id = v.column1",
)
_COOL = "UPDATE destinations SET cooled_until = max(cooled_until, ?) WHERE name = ?"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ending:
    """What becomes of a leased job and its recipients at `now`. Times are microseconds; None leaves what is there."""

    job: Job
    now: int
    terms: LeaseTerms
    state: State
    waiting: int
    recipients: tuple[Row, ...]
    hold_reason: HoldReason | None = None
    retry_at: int | None = None
    cool_until: int | None = None
    charged: bool = True
    delay_notified: bool = False
    record: str | None = None
    notices: tuple[NewMessage, ...] = ()


def settled(settlement: Settlement, now: int, terms: LeaseTerms) -> Ending:
    """What a settlement comes to. Raises ValueError if recipients would be tried again at once, without end."""
    job = settlement.job
    verdicts = [recipient.verdict for recipient in settlement.recipients]
    waiting = verdicts.count(Verdict.QUEUED)
    hold_reason = settlement.hold if waiting else None
    if waiting and hold_reason is None and settlement.retry_in is None and settlement.charged:
        raise ValueError("recipients that are queued again need a time to retry")
    if waiting:
        state = State.QUEUED if hold_reason is None else State.HELD
    else:
        state = State.FAILED if Verdict.FAILED in verdicts else State.DELIVERED
    return Ending(
        job=job,
        now=now,
        terms=terms,
        state=state,
        waiting=waiting,
        recipients=tuple(
            [
                (
                    job.id,
                    told.recipient_id,
                    "waiting" if told.verdict is Verdict.QUEUED else told.verdict.value,
                    str(told.status),
                    told.diagnostic,
                )
                for told in settlement.recipients
            ]
        ),
        hold_reason=hold_reason,
        retry_at=None if settlement.retry_in is None else now + duration_us(settlement.retry_in),
        cool_until=None if settlement.cool_destination is None else now + duration_us(settlement.cool_destination),
        charged=settlement.charged,
        delay_notified=settlement.delay_notified,
        record=None if settlement.attempt is None else dump_attempt(settlement.attempt),
        notices=settlement.notices,
    )


def dropped(job: Job, notices: tuple[NewMessage, ...], now: int, terms: LeaseTerms) -> Ending:
    """What dropping comes to; status and text of the last attempt stay."""
    recipients = tuple([(job.id, recipient.id, State.DROPPED.value, None, None) for recipient in job.recipients])
    return Ending(job=job, now=now, terms=terms, state=State.DROPPED, waiting=0, recipients=recipients, notices=notices)


def end_jobs(connection: sqlite3.Connection, ids: RowIds, endings: Sequence[Ending]) -> list[None]:
    """Write the ends of attempts. Raises LeaseLostError if any of the leases is not current."""
    if END_JOBS.run(connection, [_job_row(ending) for ending in endings]) != len(endings):
        raise LeaseLostError(f"{', '.join(f'job {e.job.id}' for e in endings)}: not leased to us any more")
    END_RECIPIENTS.run(connection, [row for ending in endings for row in ending.recipients])
    _insert_attempts(connection, ids, endings)
    _finish(connection, [ending for ending in endings if ending.waiting == 0])
    for ending in endings:
        if ending.cool_until is not None:
            connection.execute(_COOL, (ending.cool_until, ending.job.destination))
    notices = [
        Arrival(new=notice, now=ending.now, terms=ending.terms) for ending in endings for notice in ending.notices
    ]
    insert_messages(connection, ids, notices)
    return [None] * len(endings)


def _job_row(ending: Ending) -> Row:
    reason = ending.hold_reason.value if ending.hold_reason else None
    return (
        *lease_key(ending.job),
        ending.state.value,
        ending.waiting,
        reason,
        ending.now if reason else None,
        ending.now,
        ending.retry_at,
        ending.charged,
        ending.delay_notified,
    )


def _insert_attempts(connection: sqlite3.Connection, ids: RowIds, endings: Sequence[Ending]) -> None:
    recorded = [ending for ending in endings if ending.record is not None]
    rows = [(ending.job.id, ids.take(connection, 1), ending.record) for ending in recorded]
    _INSERT_ATTEMPTS.run(connection, rows)
    for ending in recorded:
        if ending.job.attempts > _KEPT_ATTEMPTS or not ending.charged:
            connection.execute(_PRUNE_ATTEMPTS, (ending.job.id,))


def _finish(connection: sqlite3.Connection, finished: Sequence[Ending]) -> None:
    """One job fewer for each message; the content goes with the last one."""
    if not finished:
        return
    for ending in finished:
        if ending.state is State.DELIVERED and ending.job.lease.fence > 1:  # an earlier attempt may have failed some
            connection.execute(_MARK_FAILED, (ending.job.id,))
    job_ids = json.dumps([ending.job.id for ending in finished])
    messages: dict[int, tuple[int, int, int]] = {}
    for message_id, open_jobs, content_id, size in connection.execute(SELECT_OPEN, (job_ids,)).fetchall():
        if message_id in messages:
            open_jobs = messages[message_id][0]
        messages[message_id] = (open_jobs - 1, content_id, size)
    now = max(ending.now for ending in finished)
    FINISH_MESSAGES.run(
        connection,
        [(message_id, open_jobs, None if open_jobs else now) for message_id, (open_jobs, _, _) in messages.items()],
    )
    discard_contents(
        connection, [(content_id, size) for open_jobs, content_id, size in messages.values() if not open_jobs]
    )
