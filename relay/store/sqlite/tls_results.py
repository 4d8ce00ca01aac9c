"""Counted TLS sessions (RFC 8460 §4): a table that each queue file has.

Sessions are counted in the file of the process that had them; who reports adds the files up.
"""

import asyncio
import sqlite3
from collections.abc import Iterable, Sequence
from datetime import date, timedelta
from pathlib import Path
from typing import Self

from relay.queue.tls_results import TlsResult
from relay.store.sqlite.database import open_for_reading
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import Row
from relay.store.tls_records import dump_failures, dump_policy, load_result

_ADD = (
    "INSERT INTO tls_results (day, domain, policy, failures, sessions) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (day, domain, policy, failures) DO UPDATE SET sessions = sessions + excluded.sessions"
)
_IS_THERE = "SELECT 1 FROM tls_results WHERE day = ? AND domain = ? AND policy = ? AND failures = ?"
_HOW_MANY = "SELECT count(*) FROM (SELECT 1 FROM tls_results WHERE day = ? AND domain = ? LIMIT ?)"
_HAS_TABLE = "SELECT 1 FROM sqlite_schema WHERE type = 'table' AND name = 'tls_results'"
_ANY = "SELECT 1 FROM tls_results WHERE day >= ? LIMIT 1"
_DOMAINS = "SELECT DISTINCT domain FROM tls_results WHERE day = ? AND domain > ? ORDER BY domain LIMIT ?"
_OF_DOMAIN = (
    "SELECT policy, failures, sessions FROM tls_results WHERE day = ? AND domain = ? ORDER BY sessions DESC LIMIT ?"
)
_FORGET = (
    "DELETE FROM tls_results WHERE (day, domain, policy, failures) IN "
    "(SELECT day, domain, policy, failures FROM tls_results WHERE day < ? LIMIT ?)"
)
_EPOCH = date(1970, 1, 1)
MAX_RESULTS = 100_000
"""Rows read for one report."""
MAX_KINDS = 1000
"""Kinds of results of one domain and day that a file tells apart; a peer can make up any number."""
_KEPT_DAYS = 3
"""How long sessions are kept: reports on a day are planned in the one after, and tried for one more."""
_STEP_RESULTS = 1000
_DAY_US = 86_400 * 1_000_000


def day_number(day: date) -> int:
    """Days since 1970-01-01, as the files keep them."""
    return (day - _EPOCH).days


def day_of(number: int) -> date:
    return _EPOCH + timedelta(days=number)


def add_results(connection: sqlite3.Connection, results: Iterable[TlsResult]) -> None:
    """Count sessions, as a part of the transaction that is open."""
    for result in results:
        row = _row(result)
        connection.execute(_ADD, row if _has_place(connection, row) else _row(result.in_short))


def _has_place(connection: sqlite3.Connection, row: tuple[int, str, str, str, int]) -> bool:
    day, domain, policy, failures, _ = row
    if connection.execute(_IS_THERE, (day, domain, policy, failures)).fetchone() is not None:
        return True
    (kinds,) = connection.execute(_HOW_MANY, (day, domain, MAX_KINDS)).fetchone()
    return bool(kinds < MAX_KINDS)


def _row(result: TlsResult) -> tuple[int, str, str, str, int]:
    policy, failures = dump_policy(result.policy), dump_failures(result.failures)
    return day_number(result.day), result.recipient_domain, policy, failures, result.sessions


def forget_old_results(connection: sqlite3.Connection, now: int) -> bool:
    """Remove some sessions that no report will tell of any more; `now` is in microseconds since 1970."""
    removed = connection.execute(_FORGET, (now // _DAY_US - _KEPT_DAYS, _STEP_RESULTS))
    return removed.rowcount == _STEP_RESULTS


class TlsResultFile:
    """Reads what one file has counted, beside whoever writes it. A file of a version without the table has nothing."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self._reader = Reader(connection, name="tls-results")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Raises StoreError."""
        return cls(await asyncio.to_thread(open_for_reading, path))

    async def any_since(self, day: date) -> bool:
        """Whether there were sessions on that day or a later one."""
        return bool(await self._reader.run(lambda connection: _select(connection, _ANY, day_number(day))))

    async def domains(self, day: date, after: str, limit: int) -> Sequence[str]:
        """Return domains with sessions on that day in order, those behind `after` only."""
        rows = await self._reader.run(lambda connection: _select(connection, _DOMAINS, day_number(day), after, limit))
        return [domain for (domain,) in rows]

    async def results(self, day: date, domain: str) -> Sequence[TlsResult]:
        rows = await self._reader.run(
            lambda connection: _select(connection, _OF_DOMAIN, day_number(day), domain, MAX_RESULTS)
        )
        read = ((load_result(policy, failures), sessions) for policy, failures, sessions in rows)
        return [
            TlsResult(day=day, recipient_domain=domain, policy=found[0], failures=found[1], sessions=sessions)
            for found, sessions in read
            if found is not None
        ]

    async def close(self) -> None:
        await self._reader.close()


def _select(connection: sqlite3.Connection, query: str, *values: object) -> list[Row]:
    if connection.execute(_HAS_TABLE).fetchone() is None:
        return []
    return connection.execute(query, values).fetchall()
