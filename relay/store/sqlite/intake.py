"""Writes that take messages in: whole ones, and big content piece by piece. Each runs inside one transaction."""

import sqlite3
from dataclasses import dataclass

from relay.queue.message import Job, Lease, NewMessage, NewRecipient, Recipient, StoredContent
from relay.store.protocols import StoreError
from relay.store.sqlite.ids import RowIds
from relay.store.sqlite.rows import MESSAGE_COLUMNS, MESSAGE_WIDTH, committed, message_values, notify_text

CHUNK_SIZE = 256 * 1024
HANDED_OVER_BYTES = 1024 * 1024
"""Jobs leased at once carry content up to this size in memory."""

_INSERT_MESSAGE = (
    f"INSERT INTO messages ({MESSAGE_COLUMNS.replace('messages.', '')}, id, content_id, open_jobs) "  # noqa: S608  constants
    f"VALUES ({', '.join('?' * (MESSAGE_WIDTH + 3))})"
)
_INSERT_JOB = (
    "INSERT INTO jobs (id, message_id, destination, state, waiting, size, accepted_at, next_attempt_at, "
    "attempts, fence, leased_by, leased_until, counted) VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"
)
_INSERT_RECIPIENT = "INSERT INTO recipients (job_id, id, forward_path, notify, orcpt) VALUES (?, ?, ?, ?, ?)"
_INSERT_CHUNK = "INSERT INTO chunks (id, data) VALUES (?, ?)"
_LEASABLE = "SELECT NOT paused AND cooled_until <= ?1 AND ifnull(due_at > ?1, 1) FROM destinations WHERE name = ?2"


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseTerms:
    """Who leases, and until when (microseconds)."""

    incarnation: str
    until: int


def chunk_key(content_id: int, number: int = 0) -> int:
    """The key of a piece of content; the pieces of one content are the keys up to the next content's first."""
    return content_id << 20 | number


def insert_message(
    connection: sqlite3.Connection,
    ids: RowIds,
    new: NewMessage,
    now: int,
    terms: LeaseTerms,
    lease: frozenset[str] = frozenset(),
) -> list[Job]:
    """Commit a message with its jobs; lease those at the destinations named, where nothing stands before them."""
    by_destination: dict[str, list[NewRecipient]] = {}
    for recipient in new.recipients:
        by_destination.setdefault(recipient.destination, []).append(recipient)
    next_id = ids.take(connection, 2 + len(by_destination) + len(new.recipients))
    message_id, content_id = next_id, next_id + 1
    next_id += 2
    if isinstance(new.content, bytes):
        insert_content(connection, content_id, new.content)
    else:
        content_id = _name_content(connection, new.content, terms.incarnation)
    message = committed(new, now)
    connection.execute(_INSERT_MESSAGE, (*message_values(message), message_id, content_id, len(by_destination)))
    jobs: list[Job] = []
    for destination, recipients in by_destination.items():
        leased = destination in lease and _leasable(connection, destination, now)
        job_id = next_id
        next_id += 1 + len(recipients)
        holder = (terms.incarnation, terms.until) if leased else (None, None)
        state = "leased" if leased else "queued"
        connection.execute(
            _INSERT_JOB,
            (
                job_id,
                message_id,
                destination,
                state,
                len(recipients),
                new.size,
                now,
                now,
                leased,
                leased,
                *holder,
                leased,
            ),
        )
        connection.executemany(
            _INSERT_RECIPIENT,
            [(job_id, job_id + n, r.forward_path, notify_text(r.notify), r.orcpt) for n, r in enumerate(recipients, 1)],
        )
        if leased:
            jobs.append(
                Job(
                    id=job_id,
                    message=message,
                    destination=destination,
                    recipients=tuple(
                        Recipient(id=job_id + n, forward_path=r.forward_path, notify=r.notify, orcpt=r.orcpt)
                        for n, r in enumerate(recipients, 1)
                    ),
                    attempts=1,
                    lease=Lease(fence=1, incarnation=terms.incarnation),
                    content=new.content if isinstance(new.content, bytes) and new.size <= HANDED_OVER_BYTES else None,
                )
            )
    return jobs


def insert_content(connection: sqlite3.Connection, content_id: int, content: bytes, first: int = 0) -> int:
    """Write content in pieces, numbered from `first`; return the number after the last one."""
    if len(content) <= CHUNK_SIZE:
        connection.execute(_INSERT_CHUNK, (chunk_key(content_id, first), content))
        return first + 1
    pieces = memoryview(content)
    number = first
    for start in range(0, len(content), CHUNK_SIZE):
        connection.execute(_INSERT_CHUNK, (chunk_key(content_id, number), pieces[start : start + CHUNK_SIZE]))
        number += 1
    return number


def begin_upload(connection: sqlite3.Connection, ids: RowIds, incarnation: str, now: int) -> int:
    """Return the id of a new content that no message names."""
    content_id = ids.take(connection, 1)
    connection.execute(
        "INSERT INTO nameless (content_id, incarnation, size, touched_at) VALUES (?, ?, 0, ?)",
        (content_id, incarnation, now),
    )
    return content_id


def append_upload(
    connection: sqlite3.Connection, content_id: int, incarnation: str, piece: bytes, number: int, now: int
) -> int:
    """Add a piece; return the number of the next. Raises StoreError if the upload was swept away."""
    touched = connection.execute(
        "UPDATE nameless SET touched_at = ?, size = size + ? WHERE content_id = ? AND incarnation = ?",
        (now, len(piece), content_id, incarnation),
    )
    if touched.rowcount != 1:
        raise StoreError("the upload is gone")
    return insert_content(connection, content_id, piece, number)


def discard_content(connection: sqlite3.Connection, content_id: int, size: int) -> None:
    """Remove content; a big one is only made nameless, and swept in bounded steps."""
    if size <= HANDED_OVER_BYTES:
        connection.execute(
            "DELETE FROM chunks WHERE id >= ? AND id < ?", (chunk_key(content_id), chunk_key(content_id + 1))
        )
    else:
        connection.execute(
            "INSERT INTO nameless (content_id, incarnation, size, touched_at) VALUES (?, '', ?, 0) "
            "ON CONFLICT (content_id) DO UPDATE SET incarnation = ''",
            (content_id, size),
        )


def discard_upload(connection: sqlite3.Connection, content_id: int, incarnation: str) -> None:
    """Give an upload up. Content that a message names by now is no upload any more, and stays."""
    connection.execute(
        "UPDATE nameless SET incarnation = '' WHERE content_id = ? AND incarnation = ?", (content_id, incarnation)
    )


def _name_content(connection: sqlite3.Connection, content: StoredContent, incarnation: str) -> int:
    named = connection.execute(
        "DELETE FROM nameless WHERE content_id = ? AND incarnation = ? AND size = ?",
        (content.content_id, incarnation, content.size),
    )
    if named.rowcount != 1:
        raise StoreError("the uploaded content is gone")
    return content.content_id


def _leasable(connection: sqlite3.Connection, destination: str, now: int) -> bool:
    row = connection.execute(_LEASABLE, (now, destination)).fetchone()
    return row is None or bool(row[0])
