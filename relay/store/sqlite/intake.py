"""Writes that take messages in: whole ones, and big content piece by piece. Each runs inside one transaction."""

import json
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

from relay.queue.message import Job, Lease, Message, NewMessage, NewRecipient, Origin, Recipient, StoredContent
from relay.queue.schedule import REPORT_HEAD_START
from relay.store.protocols import StoreError
from relay.store.records import dump_rows
from relay.store.sqlite.bulk import Bulk, marks
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.rows import (
    MESSAGE_COLUMNS,
    MESSAGE_MARKS,
    Row,
    committed,
    duration_us,
    message_values,
    recipient_values,
)

CHUNK_SIZE = 256 * 1024
HANDED_OVER_BYTES = 1024 * 1024
"""Jobs leased at once carry content up to this size in memory."""

_INSERT_JOBS = Bulk(
    f"INSERT INTO jobs ({MESSAGE_COLUMNS}, content_id, id, number, destination, state, waiting, recipients, "
    "next_attempt_at, attempts, fence, counted, leased_by, leased_until)",
    f"{MESSAGE_MARKS}, {marks(13)}",
)
_INSERT_CHUNKS = Bulk("INSERT INTO chunks (id, data)", marks(2))
SELECT_BLOCKED = (
    "SELECT name FROM destinations WHERE name IN (SELECT value FROM json_each(?1)) "
    "AND (paused OR cooled_until > ?2 OR due_at <= ?2)"
)
_INSERT_SHARED = Bulk("INSERT INTO shared (content_id, job_id)", marks(2))
_INSERT_NAMELESS = "INSERT INTO nameless (content_id, incarnation, size, touched_at) VALUES (?, ?, ?, ?)"


_HEAD_START_US = duration_us(REPORT_HEAD_START)
_NO_LEASE: Row = (0, 0, 0, None, None)
"""attempts, fence, counted, leased_by, leased_until"""


class LeaseTerms(NamedTuple):
    """Who leases, and until when (microseconds)."""

    incarnation: str
    until: int


class Arrival(NamedTuple):
    """A message that comes in at `now`; its jobs at the destinations in `lease` may be leased at once."""

    new: NewMessage
    now: int
    terms: LeaseTerms
    lease: frozenset[str] = frozenset()


@dataclass(slots=True)
class _Rows:
    """What a batch of messages comes to."""

    jobs: list[Row] = field(default_factory=list)
    shared: list[Row] = field(default_factory=list)
    chunks: list[tuple[int, Any]] = field(default_factory=list)


def chunk_key(content_id: int, number: int = 0) -> int:
    """The key of a piece of content; the pieces of one content are the keys up to the next content's first."""
    return content_id << 20 | number


def insert_messages(connection: sqlite3.Connection, ids: RowIds, arrivals: Sequence[Arrival]) -> list[list[Job]]:
    """Commit messages with their jobs; lease those that may be, and return them for each message."""
    blocked = _blocked(connection, arrivals)
    rows = _Rows()
    leased = [_add_message(connection, ids, rows, arrival, blocked) for arrival in arrivals]
    _INSERT_JOBS.run(connection, rows.jobs)
    _INSERT_SHARED.run(connection, rows.shared)
    _INSERT_CHUNKS.run(connection, rows.chunks)
    return leased


def begin_upload(connection: sqlite3.Connection, ids: RowIds, incarnation: str, now: int) -> int:
    """Return the id of a new content that no message names."""
    content_id = ids.take(connection, 1)
    connection.execute(_INSERT_NAMELESS, (content_id, incarnation, 0, now))
    return content_id


def append_upload(
    connection: sqlite3.Connection, content_id: int, incarnation: str, piece: bytes, number: int, now: int
) -> None:
    """Add a piece. Raises StoreError if the upload was swept away."""
    touched = connection.execute(
        "UPDATE nameless SET touched_at = ?, size = size + ? WHERE content_id = ? AND incarnation = ?",
        (now, len(piece), content_id, incarnation),
    )
    if touched.rowcount != 1:
        raise StoreError("the upload is gone")
    _INSERT_CHUNKS.run(connection, [(chunk_key(content_id, number), piece)])


def discard_upload(connection: sqlite3.Connection, content_id: int, incarnation: str) -> None:
    """Give an upload up. Content that a message names by now is no upload any more, and stays."""
    connection.execute(
        "UPDATE nameless SET incarnation = '' WHERE content_id = ? AND incarnation = ?", (content_id, incarnation)
    )


def pieces(size: int) -> int:
    """In how many pieces content of this size is kept: all full but the last."""
    return -(-size // CHUNK_SIZE)


def _blocked(connection: sqlite3.Connection, arrivals: Sequence[Arrival]) -> set[str]:
    """Destinations at which something stands before new mail, of those where it would be leased."""
    wanted = {destination for arrival in arrivals for destination in arrival.lease}
    if not wanted:
        return set()
    now = max(arrival.now for arrival in arrivals)
    return {row[0] for row in connection.execute(SELECT_BLOCKED, (json.dumps(list(wanted)), now))}


def _add_message(
    connection: sqlite3.Connection, ids: RowIds, rows: _Rows, arrival: Arrival, blocked: set[str]
) -> list[Job]:
    new = arrival.new
    by_destination: dict[str, list[NewRecipient]] = {}
    for recipient in new.recipients:
        by_destination.setdefault(recipient.destination, []).append(recipient)
    first_id = ids.take(connection, 1 + len(by_destination) + len(new.recipients))
    content_id = _add_content(connection, rows, first_id, arrival)
    message = committed(new, arrival.now)
    values = message_values(message, arrival.now)
    leased: list[Job] = []
    lease: Row
    job_id = first_id + 1
    due_at = arrival.now - (_HEAD_START_US if new.origin is Origin.REPORT else 0)
    for number, (destination, recipients) in enumerate(by_destination.items()):
        if destination in arrival.lease and destination not in blocked:
            leased.append(_leased_job(job_id, message, destination, recipients, arrival))
            state, lease = "leased", (1, 1, 1, arrival.terms.incarnation, arrival.terms.until)
        else:
            blocked.add(destination)
            state, lease = "queued", _NO_LEASE
        listed = dump_rows([recipient_values(job_id + n, r, "", "") for n, r in enumerate(recipients, 1)])
        what = (content_id, job_id, number, destination, state, len(recipients), listed, due_at)
        rows.jobs.append((*values, *what, *lease))
        if len(by_destination) > 1:
            rows.shared.append((content_id, job_id))
        job_id += 1 + len(recipients)
    return leased


def _add_content(connection: sqlite3.Connection, rows: _Rows, content_id: int, arrival: Arrival) -> int:
    """Note the pieces of content under the id given, or take the id under which it was uploaded."""
    content = arrival.new.content
    if isinstance(content, StoredContent):
        return _name_content(connection, content, arrival.terms.incarnation)
    if len(content) <= CHUNK_SIZE:
        rows.chunks.append((chunk_key(content_id), content))
        return content_id
    view = memoryview(content)
    for number in range(pieces(len(content))):
        piece = view[number * CHUNK_SIZE : (number + 1) * CHUNK_SIZE]
        rows.chunks.append((chunk_key(content_id, number), piece))
    return content_id


def _name_content(connection: sqlite3.Connection, content: StoredContent, incarnation: str) -> int:
    named = connection.execute(
        "DELETE FROM nameless WHERE content_id = ? AND incarnation = ? AND size = ?",
        (content.content_id, incarnation, content.size),
    )
    if named.rowcount != 1:
        raise StoreError("the uploaded content is gone")
    return content.content_id


def _leased_job(
    job_id: int, message: Message, destination: str, recipients: Sequence[NewRecipient], arrival: Arrival
) -> Job:
    content = arrival.new.content
    return Job(
        id=job_id,
        message=message,
        destination=destination,
        recipients=tuple(
            [
                Recipient(id=job_id + number, forward_path=r.forward_path, notify=r.notify, orcpt=r.orcpt)
                for number, r in enumerate(recipients, 1)
            ]
        ),
        attempts=1,
        lease=Lease(fence=1, incarnation=arrival.terms.incarnation),
        content=content if isinstance(content, bytes) and len(content) <= HANDED_OVER_BYTES else None,
    )
