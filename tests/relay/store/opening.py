"""How the tests here open a queue, and what they check in its file."""

import sqlite3
from contextlib import closing
from datetime import timedelta
from pathlib import Path

from policy_fakes import ManualClock
from queue_store_contract import LEASE, RETAIN

from relay.store.sqlite.queue import Role, SqliteQueueStore


async def open_store(
    path: Path,
    clock: ManualClock,
    incarnation: str = "1",
    *,
    node: str = "n1",
    role: Role = Role.WORKER,
    min_free_disk: int = 0,
    retain_finished: timedelta = RETAIN,
) -> SqliteQueueStore:
    return await SqliteQueueStore.open(
        path,
        clock=clock,
        incarnation=incarnation,
        node=node,
        role=role,
        lease_duration=LEASE,
        retain_finished=retain_finished,
        min_free_disk=min_free_disk,
    )


_TRUE_ROWS = """
    SELECT destination, sum(state = 'queued'), sum(size),
           sum((state = 'queued') * waiting), sum((state = 'held') * waiting),
           min(iif(state = 'queued', accepted_at, NULL)), min(iif(state = 'queued', next_attempt_at, NULL))
    FROM jobs WHERE state IN ('queued', 'held') GROUP BY destination ORDER BY destination
"""
_KEPT_ROWS = """
    SELECT name, queued, bytes, recipients_queued, recipients_held, oldest_at, next_attempt_at
    FROM destinations
    WHERE queued OR bytes OR recipients_queued OR recipients_held
          OR oldest_at IS NOT NULL OR next_attempt_at IS NOT NULL
    ORDER BY name
"""


def check_file(path: Path) -> None:
    """Everything that must hold between the tables at any time, counted in full."""
    with closing(sqlite3.connect(path)) as connection:

        def rows(query: str) -> list[tuple[object, ...]]:
            return connection.execute(query).fetchall()

        assert rows("PRAGMA integrity_check") == [("ok",)]
        assert rows("PRAGMA foreign_key_check") == []
        assert rows(_KEPT_ROWS) == rows(_TRUE_ROWS)
        assert rows("SELECT id FROM jobs WHERE waiting > 0 AND waiting <> json_array_length(recipients)") == []
        named = "SELECT content_id FROM jobs WHERE waiting > 0 UNION SELECT content_id FROM nameless"
        assert rows(f"SELECT id FROM chunks WHERE id >> 20 NOT IN ({named})") == []
        several = "SELECT queue_id FROM jobs GROUP BY queue_id HAVING count(*) > 1"
        needed = f"SELECT content_id, id FROM jobs WHERE waiting > 0 AND queue_id IN ({several})"
        assert rows(f"{needed} EXCEPT SELECT content_id, job_id FROM shared") == []
        assert (
            rows("SELECT content_id, job_id FROM shared EXCEPT SELECT content_id, id FROM jobs WHERE waiting > 0") == []
        )
        size = "(SELECT sum(length(data)) FROM chunks WHERE id >= content_id << 20 AND id < (content_id + 1) << 20)"
        assert rows(f"SELECT queue_id FROM jobs WHERE waiting > 0 AND size <> ifnull({size}, 0)") == []
