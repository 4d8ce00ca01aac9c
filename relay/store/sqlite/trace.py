"""Reads what attempts came to, out of a queue file that others may be working on; never writes."""

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from datetime import datetime
from pathlib import Path

from relay.queue.attempt import Attempt
from relay.store.protocols import StoreError
from relay.store.records import load_attempt
from relay.store.sqlite.database import open_for_reading
from relay.store.sqlite.rows import to_us

_STEP = 500
"""Jobs read in one go, so that no read keeps the write-ahead log from being cut back for long."""
_SELECT = (
    "SELECT id, destination, attempts, record FROM jobs "
    "WHERE id > ? AND record IS NOT NULL AND (finished_at IS NULL OR finished_at >= ?) ORDER BY id LIMIT ?"
)
_SELECT_EARLIER = "SELECT record FROM attempts WHERE job_id = ? ORDER BY id"


def attempts_since(path: Path, since: datetime) -> Iterator[tuple[str, tuple[Attempt, ...]]]:
    """Yield the destination of each job last attempted since then, with its attempts as far as they are kept.

    Jobs that were finished before, and records of another version, are left out. Raises StoreError.
    """
    try:
        with closing(open_for_reading(path)) as connection:
            after = 0
            while jobs := connection.execute(_SELECT, (after, to_us(since), _STEP)).fetchall():
                for job_id, destination, count, record in jobs:
                    last = load_attempt(record)
                    if last is not None and last.finished_at >= since:
                        yield destination, (*(_earlier(connection, job_id) if count > 1 else ()), last)
                after = jobs[-1][0]
    except sqlite3.Error as error:
        raise StoreError(f"cannot read {path}: {error}") from error


def _earlier(connection: sqlite3.Connection, job_id: int) -> tuple[Attempt, ...]:
    records = connection.execute(_SELECT_EARLIER, (job_id,)).fetchall()
    return tuple([attempt for (record,) in records if (attempt := load_attempt(record)) is not None])
