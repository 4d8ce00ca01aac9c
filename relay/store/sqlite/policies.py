"""The policy cache in one SQLite file: the embedded implementation of PolicyStore (RFC 8461 §10.2).

Writes are few (a fetch, a failure), so each is a transaction of its own; reads have a cache in front of them.
"""

import asyncio
import logging
import sqlite3
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any, Self

from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.mta_sts import InvalidPolicyError, parse_policy
from policy.requirement import ResultType
from relay.store.sqlite.database import load_schema, open_database, open_for_reading
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import from_us, to_us
from relay.store.sqlite.writer import Writer

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4D535250
FAILURE_KEPT = timedelta(days=1)
"""A failed fetch says nothing any more after that; the back-off for an id is minutes."""

_COLUMNS = (
    "policy_domain, record_id, text, fetched_at, failure_record_id, failure_type, failure_detail, failed_at, "
    "failing_since, unknown_since"
)
_PUT = """
INSERT INTO policies (policy_domain, record_id, text, fetched_at, expires_at) VALUES (?, ?, ?, ?, ?)
ON CONFLICT (policy_domain) DO UPDATE SET
    record_id = excluded.record_id, text = excluded.text, fetched_at = excluded.fetched_at,
    expires_at = excluded.expires_at, failure_record_id = NULL, failure_type = NULL, failure_detail = NULL,
    failed_at = NULL, failing_since = NULL
WHERE fetched_at IS NULL OR fetched_at <= excluded.fetched_at
"""
_NOTE_FAILURE = """
INSERT INTO policies (policy_domain, failure_record_id, failure_type, failure_detail, failed_at, failing_since)
VALUES (?, ?, ?, ?, ?, ?)
ON CONFLICT (policy_domain) DO UPDATE SET
    failure_record_id = excluded.failure_record_id, failure_type = excluded.failure_type,
    failure_detail = excluded.failure_detail, failed_at = excluded.failed_at, failing_since = excluded.failing_since
"""
_BEGIN_UNKNOWN = """
INSERT INTO policies (policy_domain, unknown_since) VALUES (?, ?)
ON CONFLICT (policy_domain) DO UPDATE SET unknown_since = coalesce(unknown_since, excluded.unknown_since)
"""
_NOTHING_LEFT = "fetched_at IS NULL AND failed_at IS NULL AND unknown_since IS NULL"


class SqlitePolicyStore:
    """Implements policy.store.PolicyStore. Made by `open`; several processes may use one file."""

    def __init__(self, connections: tuple[sqlite3.Connection, sqlite3.Connection]) -> None:
        writing, reading = connections
        self._writer = Writer(writing, name="policy-writer", rolled_back=lambda: None)
        self._reader = Reader(reading, name="policy-reader")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Raises StoreError."""
        return cls(await asyncio.to_thread(_connect, path))

    async def close(self) -> None:
        await self._writer.close()
        await self._reader.close()

    async def get(self, policy_domain: str) -> PolicyState | None:
        query = f"SELECT {_COLUMNS} FROM policies WHERE policy_domain = ?"  # noqa: S608  constants
        found = await self._states(query, policy_domain)
        return found[0] if found else None

    async def put(self, cached: CachedPolicy) -> None:
        values = (
            cached.policy_domain,
            cached.record_id,
            cached.policy.text,
            to_us(cached.fetched_at),
            to_us(cached.expires_at),
        )
        await self._write(_PUT, *values)

    async def note_failure(self, policy_domain: str, failure: FetchFailure) -> None:
        values = (
            policy_domain,
            failure.record_id,
            failure.result_type.value,
            failure.detail,
            to_us(failure.failed_at),
            to_us(failure.failing_since),
        )
        await self._write(_NOTE_FAILURE, *values)

    async def note_unknown(self, policy_domain: str, since: datetime | None) -> None:
        if since is not None:
            await self._write(_BEGIN_UNKNOWN, policy_domain, to_us(since))
            return

        def end(connection: sqlite3.Connection) -> None:
            connection.execute("UPDATE policies SET unknown_since = NULL WHERE policy_domain = ?", (policy_domain,))
            connection.execute(f"DELETE FROM policies WHERE policy_domain = ? AND {_NOTHING_LEFT}", (policy_domain,))  # noqa: S608  constants

        await self._writer.run(end)

    async def due_for_refresh(self, fetched_before: datetime, now: datetime, limit: int) -> list[PolicyState]:
        query = (
            f"SELECT {_COLUMNS} FROM policies WHERE fetched_at < ? AND expires_at > ? "  # noqa: S608  constants
            "ORDER BY fetched_at, policy_domain LIMIT ?"
        )
        states = await self._states(query, to_us(fetched_before), to_us(now), limit)
        return [state for state in states if state.cached is not None]

    async def forget(self, policy_domain: str) -> bool:
        return await self._write("DELETE FROM policies WHERE policy_domain = ?", policy_domain) > 0

    async def states(self, limit: int = 10_000) -> list[PolicyState]:
        query = f"SELECT {_COLUMNS} FROM policies ORDER BY policy_domain LIMIT ?"  # noqa: S608  constants
        return await self._states(query, limit)

    async def prune(self, now: datetime) -> int:
        def prune(connection: sqlite3.Connection) -> int:
            connection.execute(
                "UPDATE policies SET record_id = NULL, text = NULL, fetched_at = NULL, expires_at = NULL "
                "WHERE expires_at <= ?",
                (to_us(now),),
            )
            connection.execute(
                "UPDATE policies SET failure_record_id = NULL, failure_type = NULL, failure_detail = NULL, "
                "failed_at = NULL, failing_since = NULL WHERE failed_at <= ?",
                (to_us(now - FAILURE_KEPT),),
            )
            return connection.execute(f"DELETE FROM policies WHERE {_NOTHING_LEFT}").rowcount  # noqa: S608  constants

        return await self._writer.run(prune)

    async def _write(self, statement: str, *values: object) -> int:
        def write(connection: sqlite3.Connection) -> int:
            return connection.execute(statement, values).rowcount

        return await self._writer.run(write)

    async def _states(self, query: str, *values: object) -> list[PolicyState]:
        rows = await self._reader.run(lambda connection: connection.execute(query, values).fetchall())
        return [state for row in rows if (state := _state(row)) is not None]


def _connect(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    writing = open_database(path, load_schema("policies", APPLICATION_ID))
    try:
        return writing, open_for_reading(path)
    except BaseException:
        writing.close()
        raise


def _state(row: tuple[Any, ...]) -> PolicyState | None:
    """Read a row; what cannot be read back as what it should be counts as absent, and is logged."""
    domain, record_id, text, fetched_at, *failure, unknown_since = row
    try:
        return PolicyState(
            policy_domain=domain,
            cached=None if text is None else _cached(domain, record_id, text, fetched_at),
            failure=None if failure[1] is None else _failure(*failure),
            unknown_since=None if unknown_since is None else from_us(unknown_since),
        )
    except (InvalidPolicyError, ValueError, TypeError, OverflowError) as error:
        log.exception("policy.row_unreadable", extra={"policy_domain": domain, "detail": str(error)})
        return None


def _cached(domain: str, record_id: str | None, text: str, fetched_at: int) -> CachedPolicy:
    return CachedPolicy(
        policy_domain=domain,
        record_id=record_id or "",
        policy=parse_policy(text.encode("utf-8")),
        fetched_at=from_us(fetched_at),
    )


def _failure(record_id: str | None, type_: str, detail: str | None, failed_at: int, since: int) -> FetchFailure:
    return FetchFailure(
        record_id=record_id or "",
        result_type=ResultType(type_),
        detail=detail or "",
        failed_at=from_us(failed_at),
        failing_since=from_us(since),
    )
