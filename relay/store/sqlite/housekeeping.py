"""Steps of cleaning up, each a short transaction; `True` or a count says that there may be more to do."""

import sqlite3

from relay.store.sqlite.intake import chunk_key

_UPLOAD_LIFE = 3600 * 1_000_000
"""An upload that was not touched for an hour has been given up by its client."""
_STEP_JOBS = 100
_STEP_CHUNKS = 16
_STEP_DESTINATIONS = 1000
_STEP_PAGES = 256
SPARE_PAGES = 4096
"""Free pages left in the file: the next messages use them, and the file does not breathe with each delivery."""

SELECT_FINISHED = (
    "SELECT finished_at, id, queue_id FROM jobs "
    "WHERE (finished_at, id) > (?, ?) AND finished_at <= ? ORDER BY finished_at, id LIMIT ?"
)
DELETE_MESSAGE = (
    "DELETE FROM jobs WHERE queue_id = ?1 "
    "AND NOT EXISTS (SELECT 1 FROM jobs WHERE queue_id = ?1 AND (finished_at IS NULL OR finished_at > ?2))"
)
SELECT_DESTINATIONS = "SELECT name FROM destinations WHERE name > ? ORDER BY name LIMIT ?"
DELETE_IDLE = (
    "DELETE FROM destinations WHERE name > ? AND name <= ? "
    "AND oldest_at IS NULL AND recipients_held = 0 AND NOT paused AND cooled_until <= ?"
)

Position = tuple[int, int]
"""How far a walk through what is finished has come: finished_at and id of a job."""
BEFORE_ALL: Position = (-1, -1)


def remove_nameless(connection: sqlite3.Connection, now: int) -> bool:
    """Remove some pieces of one content that nobody will name any more."""
    row = connection.execute(
        "SELECT content_id FROM nameless WHERE incarnation = '' OR touched_at <= ? LIMIT 1", (now - _UPLOAD_LIFE,)
    ).fetchone()
    if row is None:
        return False
    (content_id,) = row
    # From now on nobody may name it, for it is whole no longer.
    connection.execute("UPDATE nameless SET incarnation = '' WHERE content_id = ?", (content_id,))
    removed = connection.execute(
        "DELETE FROM chunks WHERE id IN (SELECT id FROM chunks WHERE id >= ? AND id < ? LIMIT ?)",
        (chunk_key(content_id), chunk_key(content_id + 1), _STEP_CHUNKS),
    )
    if removed.rowcount < _STEP_CHUNKS:
        connection.execute("DELETE FROM nameless WHERE content_id = ?", (content_id,))
    return True


def remove_finished(connection: sqlite3.Connection, before: int, after: Position) -> Position | None:
    """Remove the trace of some messages all of whose jobs finished before the given time.

    Returns where to go on; None at the end. A job that finished long before the last one of its message is passed by.
    """
    removed, last = 0, None
    for finished_at, job_id, queue_id in connection.execute(SELECT_FINISHED, (*after, before, _STEP_JOBS)).fetchall():
        removed += connection.execute(DELETE_MESSAGE, (queue_id, before)).rowcount
        last = finished_at, job_id
        if removed >= _STEP_JOBS:
            break
    return last


def remove_idle_destinations(connection: sqlite3.Connection, now: int, after: str) -> str | None:
    """Of some rows, remove those with nothing in them and nothing to remember.

    Returns where to go on; None at the end.
    """
    names = connection.execute(SELECT_DESTINATIONS, (after, _STEP_DESTINATIONS)).fetchall()
    if not names:
        return None
    (last,) = names[-1]
    connection.execute(DELETE_IDLE, (after, last, now))
    return str(last)


def give_pages_back(connection: sqlite3.Connection) -> bool:
    """Make the file smaller by some of the free pages at its end."""
    free: int = connection.execute("PRAGMA freelist_count").fetchone()[0]
    step = min(_STEP_PAGES, free - SPARE_PAGES)
    for _ in range(step):
        # Whatever number it is given: one page goes with each row, and Python stops at the first, which is empty.
        connection.execute("PRAGMA incremental_vacuum(1)")
    return step == _STEP_PAGES
