"""What an operator does to jobs: selecting reads; each change is in one transaction and checks the state again."""

import json
import sqlite3
from collections.abc import Sequence

from relay.queue.message import HoldReason, State
from relay.store.protocols import QueueFilter
from relay.store.sqlite.rows import duration_us

_RETRY = "UPDATE jobs SET next_attempt_at = min(next_attempt_at, ?) WHERE id = ? AND state = 'queued'"
_WARM = (
    "UPDATE destinations SET cooled_until = 0 WHERE cooled_until > ? "
    "AND name IN (SELECT destination FROM jobs WHERE id IN (SELECT value FROM json_each(?)) AND state = 'queued')"
)
_HOLD = "UPDATE jobs SET state = 'held', hold_reason = ?, held_at = ? WHERE id = ? AND state = 'queued'"
_RELEASE = (
    "UPDATE jobs SET state = 'queued', hold_reason = NULL, held_us = held_us + ? - held_at, held_at = NULL, "
    "lapses = 0, next_attempt_at = ? WHERE id = ? AND state = 'held'"
)
_PAUSE = "INSERT INTO destinations (name, paused) VALUES (?, 1) ON CONFLICT (name) DO UPDATE SET paused = 1"


def select_jobs(
    connection: sqlite3.Connection, which: QueueFilter, states: Sequence[State], now: int, after: int, limit: int
) -> list[int]:
    """Return ids above `after` of the jobs that an operator means, in their order; of `states` only, if given."""
    conditions: list[str] = ["id > ?"]
    values: list[object] = [after]

    def demand(condition: str, value: object) -> None:
        conditions.append(condition)
        values.append(value)

    if which.ids:
        demand("queue_id IN (SELECT value FROM json_each(?))", json.dumps(which.ids))
    if which.domain is not None:
        demand("destination = ?", which.domain)
    if which.sender is not None:
        demand("reverse_path = ? COLLATE NOCASE", which.sender)
    if which.states:
        demand("state IN (SELECT value FROM json_each(?))", json.dumps([state.value for state in which.states]))
    if which.older_than is not None:
        demand("accepted_at <= ?", now - duration_us(which.older_than))
    if len(conditions) == 1 and not which.all:
        return []
    if states:
        demand("state IN (SELECT value FROM json_each(?))", json.dumps([state.value for state in states]))
    query = f"SELECT id FROM jobs WHERE {' AND '.join(conditions)} ORDER BY id LIMIT ?"  # noqa: S608  values are bound
    return [row[0] for row in connection.execute(query, (*values, limit))]


def retry(connection: sqlite3.Connection, ids: Sequence[int], now: int) -> int:
    """Make queued jobs due now, and end the cool-down of their destinations."""
    retried = connection.executemany(_RETRY, [(now, job_id) for job_id in ids])
    connection.execute(_WARM, (now, json.dumps(ids)))
    return retried.rowcount


def hold(connection: sqlite3.Connection, ids: Sequence[int], now: int) -> int:
    held = connection.executemany(_HOLD, [(HoldReason.OPERATOR.value, now, job_id) for job_id in ids])
    return held.rowcount


def release(connection: sqlite3.Connection, ids: Sequence[int], now: int) -> int:
    """Make held jobs due now, an attempt included; the time they were held does not count towards expiry."""
    released = connection.executemany(_RELEASE, [(now, now, job_id) for job_id in ids])
    connection.execute(_WARM, (now, json.dumps(ids)))
    return released.rowcount


def pause(connection: sqlite3.Connection, domain: str) -> None:
    connection.execute(_PAUSE, (domain,))


def resume(connection: sqlite3.Connection, domain: str) -> None:
    connection.execute("UPDATE destinations SET paused = 0 WHERE name = ?", (domain,))
