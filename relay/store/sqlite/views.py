"""Reads: destinations, gauges, what an operator sees, content. Nothing here writes."""

import json
import sqlite3
from collections.abc import Sequence
from datetime import timedelta
from operator import itemgetter

from relay.queue.attempt import Attempt
from relay.queue.message import HoldReason, State
from relay.store.protocols import Destination, QueuedRecipient, QueueEntry, QueueStats, StoreError
from relay.store.records import load_attempt
from relay.store.sqlite.intake import CHUNK_SIZE, chunk_key
from relay.store.sqlite.rows import MESSAGE_COLUMNS, MESSAGE_WIDTH, Row, from_us, message, notify_of

SELECT_DUE_DESTINATIONS = (
    "SELECT name FROM destinations WHERE due_at IS NOT NULL AND due_at <= ? ORDER BY due_at LIMIT ?"
)
SELECT_NEXT_DUE = "SELECT min(due_at) FROM destinations WHERE due_at IS NOT NULL AND due_at > ?"
_SELECT_DESTINATIONS = (
    "SELECT name, sum(queued), sum(bytes), sum(in_flight), min(oldest_at), max(due_at), max(paused) FROM ("
    "SELECT name, queued, bytes, 0 AS in_flight, oldest_at, due_at, paused FROM destinations "
    "UNION ALL SELECT destination, 0, size, 1, accepted_at, NULL, 0 FROM jobs WHERE state = 'leased'"
    ") GROUP BY name ORDER BY sum(queued) DESC, name LIMIT ?"
)
_SELECT_SUMS = (
    "SELECT sum(queued), sum(leased), sum(held), sum(bytes), min(oldest_at) FROM ("
    "SELECT recipients_queued AS queued, 0 AS leased, recipients_held AS held, bytes, oldest_at FROM destinations "
    "UNION ALL SELECT 0, waiting, 0, size, accepted_at FROM jobs WHERE state = 'leased')"
)
SELECT_ENTRY = (
    f"SELECT {MESSAGE_COLUMNS}, destination, state, attempts, next_attempt_at, hold_reason, "  # noqa: S608  constants
    "recipients, finished, record FROM jobs WHERE id = ?"
)
SELECT_JOBS_OF = "SELECT id FROM jobs WHERE queue_id = ? ORDER BY number"
SELECT_CONTENT = "SELECT content_id, size FROM jobs WHERE queue_id = ? AND waiting > 0 LIMIT 1"


def due_destinations(connection: sqlite3.Connection, now: int, limit: int) -> list[str]:
    return [row[0] for row in connection.execute(SELECT_DUE_DESTINATIONS, (now, limit))]


def destinations(connection: sqlite3.Connection, now: int, limit: int) -> list[Destination]:
    return [_destination(row, now) for row in connection.execute(_SELECT_DESTINATIONS, (limit,))]


def next_due(connection: sqlite3.Connection, after: int) -> int | None:
    """When the next destination becomes due after the given time."""
    due: int | None = connection.execute(SELECT_NEXT_DUE, (after,)).fetchone()[0]
    return due


def stats(connection: sqlite3.Connection) -> QueueStats:
    queued, leased, held, size, oldest_at = connection.execute(_SELECT_SUMS).fetchone()
    return QueueStats(
        by_state={State.QUEUED: queued or 0, State.LEASED: leased or 0, State.HELD: held or 0},
        queued_bytes=size or 0,
        oldest_at=None if oldest_at is None else from_us(oldest_at),
    )


def entries(connection: sqlite3.Connection, ids: Sequence[int], *, attempts: bool) -> list[QueueEntry]:
    """The jobs as the operator sees them, with or without the records of their attempts."""
    found = [(job_id, connection.execute(SELECT_ENTRY, (job_id,)).fetchone()) for job_id in ids]
    return [
        _entry(job_id, row, _attempts(connection, job_id, row[-1]) if attempts else ())
        for job_id, row in found
        if row is not None
    ]


def jobs_of(connection: sqlite3.Connection, queue_id: str) -> list[int]:
    return [row[0] for row in connection.execute(SELECT_JOBS_OF, (queue_id,))]


def content_of(connection: sqlite3.Connection, queue_id: str) -> tuple[int, int]:
    """The id and size of a message's content. Raises StoreError if it is gone."""
    row: tuple[int, int] | None = connection.execute(SELECT_CONTENT, (queue_id,)).fetchone()
    if row is None:
        raise StoreError(f"there is no content of {queue_id} any more")
    return row


def content_piece(connection: sqlite3.Connection, content_id: int, number: int) -> bytes:
    """One piece of content, at most 256 KiB. Raises StoreError if it is gone."""
    row = connection.execute("SELECT data FROM chunks WHERE id = ?", (chunk_key(content_id, number),)).fetchone()
    if row is None:
        raise StoreError("the content went away while it was read")
    data: bytes = row[0]
    return data


def content_start(connection: sqlite3.Connection, queue_id: str, max_bytes: int) -> bytes:
    """At least the first `max_bytes` of the content, if there are so many. Raises StoreError if it is gone."""
    content_id, _ = content_of(connection, queue_id)
    last = chunk_key(content_id, max_bytes // CHUNK_SIZE)
    pieces = connection.execute(
        "SELECT data FROM chunks WHERE id BETWEEN ? AND ? ORDER BY id", (chunk_key(content_id), last)
    )
    return b"".join([row[0] for row in pieces])


def _destination(row: Row, now: int) -> Destination:
    name, queued, size, in_flight, oldest_at, due_at, paused = row
    return Destination(
        name=name,
        queued=queued,
        queued_bytes=size,
        in_flight=in_flight,
        oldest_at=None if oldest_at is None else from_us(oldest_at),
        due_in=None if due_at is None else timedelta(microseconds=due_at - now),
        paused=bool(paused),
    )


def _entry(job_id: int, row: Row, attempts: tuple[Attempt, ...]) -> QueueEntry:
    destination, state_text, attempts_counted, next_attempt_at, hold_reason, recipients, finished, _ = row[
        MESSAGE_WIDTH:
    ]
    state = State(state_text)
    rows = [[*values, state_text] for values in json.loads(recipients)] + json.loads(f"[{finished.rstrip(',')}]")
    return QueueEntry(
        job_id=job_id,
        message=message(row),
        destination=destination,
        state=state,
        attempts=attempts_counted,
        next_attempt_at=from_us(next_attempt_at) if state is State.QUEUED else None,
        hold_reason=HoldReason(hold_reason) if hold_reason else None,
        recipients=tuple([_recipient(values) for values in sorted(rows, key=itemgetter(0))]),
        attempts_made=attempts,
    )


def _recipient(values: Row) -> QueuedRecipient:
    _, forward_path, notify, orcpt, status, diagnostic, state = values
    return QueuedRecipient(
        forward_path=forward_path,
        state=State(state),
        status=status,
        diagnostic=diagnostic,
        notify=notify_of(notify),
        orcpt=orcpt,
    )


def _attempts(connection: sqlite3.Connection, job_id: int, last: str | None) -> tuple[Attempt, ...]:
    earlier = connection.execute("SELECT record FROM attempts WHERE job_id = ? ORDER BY id", (job_id,)).fetchall()
    records = [record for (record,) in earlier] + ([last] if last is not None else [])
    return tuple([attempt for record in records if (attempt := load_attempt(record)) is not None])
