"""Writes that lease jobs and take leases back. Each runs inside one transaction."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import timedelta

from relay.queue.message import HoldReason, Job, Lease
from relay.store.protocols import LeaseLostError
from relay.store.sqlite.intake import LeaseTerms
from relay.store.sqlite.rows import MESSAGE_COLUMNS, MESSAGE_WIDTH, Row, message, recipient

_JOB_COLUMNS = "jobs.id, destination, attempts, fence, held_us, held_at, delay_notified, json(recipients)"
# All rows in one, as JSON, so that they come in one step (see bulk.py).
_SELECT_CHOSEN = f"SELECT json_group_array(json_array({MESSAGE_COLUMNS}, {_JOB_COLUMNS})) FROM"
SELECT_DUE = (
    f"{_SELECT_CHOSEN} (SELECT id AS value FROM jobs WHERE destination = ? AND state = 'queued' "  # noqa: S608  constants
    "AND next_attempt_at <= ? ORDER BY next_attempt_at, id LIMIT ?) AS chosen CROSS JOIN jobs ON jobs.id = chosen.value"
)
SELECT_BY_ID = (
    f"{_SELECT_CHOSEN} json_each(?) AS chosen CROSS JOIN jobs ON jobs.id = chosen.value "
    "WHERE state IN ('queued', 'held')"
)
_IS_DUE = "SELECT 1 FROM destinations WHERE name = ? AND due_at <= ?"
_LEASE = (
    "UPDATE jobs SET state = 'leased', attempts = attempts + ?1, counted = ?1, fence = fence + 1, leased_by = ?2, "
    "leased_until = ?3 WHERE id IN (SELECT value FROM json_each(?4)) AND state IN ('queued', 'held')"
)
_RETURN = (
    "UPDATE jobs SET state = iif(hold_reason IS NULL, 'queued', 'held'), attempts = attempts - counted, counted = 0, "
    "leased_by = NULL, leased_until = NULL WHERE state = 'leased' AND "
)
_LEASED_TO = "id = ? AND fence = ? AND leased_by = ?"
_HOLD = (
    "UPDATE jobs SET state = 'held', hold_reason = ?, held_us = held_us + ifnull(? - held_at, 0), held_at = ?, "
    "counted = 0, lapses = 0, leased_by = NULL, leased_until = NULL WHERE state = 'leased' AND "
)
_LAPSE = (
    "UPDATE jobs SET state = ?, hold_reason = ?, held_at = ?, lapses = ?, counted = 0, leased_by = NULL, "
    "leased_until = NULL WHERE id = ? AND state = 'leased'"
)
SELECT_LAPSED = (
    "SELECT id, lapses + counted, counted, hold_reason, held_at FROM jobs "
    "WHERE state = 'leased' AND leased_until <= ? ORDER BY leased_until LIMIT ?"
)
_SELECT_ORPHANED = (
    "SELECT id, lapses + counted, counted, hold_reason, held_at FROM jobs WHERE state = 'leased' AND leased_by IN "
    "(SELECT incarnation FROM incarnations WHERE node = ?)"
)


def claim(connection: sqlite3.Connection, destination: str, limit: int, now: int, terms: LeaseTerms) -> list[Job]:
    """Lease due jobs of a destination that is neither paused nor cooled down, and count their attempts."""
    if connection.execute(_IS_DUE, (destination, now)).fetchone() is None:
        return []
    return _lease(connection, _rows(connection, SELECT_DUE, (destination, now, limit)), now, terms, counted=1)


def claim_by_id(connection: sqlite3.Connection, ids: Sequence[int], now: int, terms: LeaseTerms) -> list[Job]:
    """Lease queued or held jobs uncounted, in order to drop them."""
    return _lease(connection, _rows(connection, SELECT_BY_ID, (json.dumps(ids),)), now, terms, counted=0)


def renew(connection: sqlite3.Connection, jobs: Sequence[Job] | None, terms: LeaseTerms) -> None:
    """Prolong the leases named, or all of this process."""
    renewal = "UPDATE jobs SET leased_until = ? WHERE state = 'leased' AND "
    if jobs is None:
        connection.execute(renewal + "leased_by = ?", (terms.until, terms.incarnation))
    else:
        connection.executemany(renewal + _LEASED_TO, [(terms.until, *lease_key(job)) for job in jobs])


def give_back(connection: sqlite3.Connection, jobs: Sequence[Job]) -> None:
    """Undo leases that nobody took notice of, uncharged."""
    connection.executemany(_RETURN + _LEASED_TO, [lease_key(job) for job in jobs])


def give_back_all(connection: sqlite3.Connection, incarnation: str) -> None:
    """Undo all leases of this process, uncharged; no lease of its outlives a clean stop."""
    connection.execute(_RETURN + "leased_by = ?", (incarnation,))


def hold(connection: sqlite3.Connection, job: Job, reason: HoldReason, now: int) -> None:
    """Hold a leased job. Raises LeaseLostError."""
    held = connection.execute(_HOLD + _LEASED_TO, (reason.value, now, now, *lease_key(job)))
    if held.rowcount != 1:
        raise LeaseLostError(f"job {job.id} is not leased to us any more")


def start_incarnation(
    connection: sqlite3.Connection, incarnation: str, node: str, now: int, max_lapses: int
) -> list[int]:
    """Free what this node's earlier incarnations left behind; return the jobs that are held for it as poison."""
    held = _lapse(connection, connection.execute(_SELECT_ORPHANED, (node,)).fetchall(), now, max_lapses)
    connection.execute(
        "UPDATE nameless SET incarnation = '' "
        "WHERE incarnation IN (SELECT incarnation FROM incarnations WHERE node = ?)",
        (node,),
    )
    connection.execute("DELETE FROM incarnations WHERE node = ?", (node,))
    connection.execute(
        "INSERT INTO incarnations (incarnation, node, started_at) VALUES (?, ?, ?)", (incarnation, node, now)
    )
    return held


def lapse(connection: sqlite3.Connection, now: int, max_lapses: int, limit: int) -> tuple[int, list[int]]:
    """Take back leases that ran out; return how many, and the jobs that are held for it as poison."""
    rows = connection.execute(SELECT_LAPSED, (now, limit)).fetchall()
    return len(rows), _lapse(connection, rows, now, max_lapses)


def _lapse(connection: sqlite3.Connection, rows: list[Row], now: int, max_lapses: int) -> list[int]:
    """A lapse is charged and due again at once, until there were too many in a row."""
    poison: list[int] = []
    for job_id, lapses, counted, hold_reason, held_at in rows:
        if counted and lapses >= max_lapses:
            poison.append(job_id)
            hold_reason, held_at = HoldReason.POISON.value, now
        state = "held" if hold_reason else "queued"
        connection.execute(_LAPSE, (state, hold_reason, held_at, lapses, job_id))
    return poison


def _lease(connection: sqlite3.Connection, rows: list[Row], now: int, terms: LeaseTerms, *, counted: int) -> list[Job]:
    """Lease the jobs of rows (message, then _JOB_COLUMNS)."""
    if not rows:
        return []
    ids = json.dumps([row[MESSAGE_WIDTH] for row in rows])
    connection.execute(_LEASE, (counted, terms.incarnation, terms.until, ids))
    return [_job(row, now, terms.incarnation, counted) for row in rows]


def _job(row: Row, now: int, incarnation: str, counted: int) -> Job:
    job_id, destination, attempts, fence, held_us, held_at, delay_notified, recipients = row[MESSAGE_WIDTH:]
    if held_at is not None:
        held_us += now - held_at
    return Job(
        id=job_id,
        message=message(row),
        destination=destination,
        recipients=tuple([recipient(values) for values in recipients]),
        attempts=attempts + counted,
        lease=Lease(fence=fence + 1, incarnation=incarnation),
        held_for=timedelta(microseconds=held_us),
        delay_notified=bool(delay_notified),
    )


def _rows(connection: sqlite3.Connection, query: str, values: Row) -> list[Row]:
    rows: list[Row] = json.loads(connection.execute(query, values).fetchone()[0])
    return rows


def lease_key(job: Job) -> tuple[int, int, str]:
    """Values for `id = ? AND fence = ? AND leased_by = ?`."""
    return job.id, job.lease.fence, job.lease.incarnation
