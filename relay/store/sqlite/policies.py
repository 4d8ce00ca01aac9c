"""The policy cache in an SQLite file of its own, shared by all processes of a node (RFC 8461 §3.3, §10.2)."""

import asyncio
import logging
import sqlite3
from collections.abc import Sequence
from datetime import datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Self

from policy import journal
from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.journal import MAX_ENTRIES, JournalEntry
from policy.mta_sts import InvalidPolicyError, parse_policy
from policy.requirement import ResultType
from relay.store.sqlite import policy_journal
from relay.store.sqlite.database import load_schema, open_database, open_for_reading
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import Row, from_us, to_us
from relay.store.sqlite.writer import Writer

log = logging.getLogger(__name__)

APPLICATION_ID = 0x4D535250
_FAILURE_LIFE = timedelta(days=1)
_UNKNOWN_LIFE = timedelta(days=30)
"""A run of unanswered queries that began longer ago is of a domain that nobody can write to any more."""

_SELECT = (
    "SELECT policy_domain, record_id, policy_text, fetched_at, failed_id, result_type, detail, failed_at, "
    "failing_since, unknown_since FROM policies"
)
_SELECT_ONE = f"{_SELECT} WHERE policy_domain = ?"
_PUT = (
    "INSERT INTO policies (policy_domain, record_id, policy_text, fetched_at, expires_at) VALUES (?, ?, ?, ?, ?) "
    "ON CONFLICT (policy_domain) DO UPDATE SET record_id = excluded.record_id, policy_text = excluded.policy_text, "
    "fetched_at = excluded.fetched_at, expires_at = excluded.expires_at, failed_id = NULL, result_type = NULL, "
    "detail = NULL, failed_at = NULL, failing_since = NULL "
    "WHERE fetched_at IS NULL OR fetched_at <= excluded.fetched_at"
)
_NOTE_FAILURE = (
    "INSERT INTO policies (policy_domain, failed_id, result_type, detail, failed_at, failing_since) "
    "VALUES (?, ?, ?, ?, ?, ?) ON CONFLICT (policy_domain) DO UPDATE SET failed_id = excluded.failed_id, "
    "result_type = excluded.result_type, detail = excluded.detail, failed_at = excluded.failed_at, "
    "failing_since = excluded.failing_since"
)
_NOTE_UNKNOWN = (
    "INSERT INTO policies (policy_domain, unknown_since) VALUES (?, ?) "
    "ON CONFLICT (policy_domain) DO UPDATE SET unknown_since = ifnull(unknown_since, excluded.unknown_since)"
)
_SELECT_DUE = (
    f"{_SELECT} WHERE fetched_at IS NOT NULL AND fetched_at < ? AND expires_at > ? ORDER BY fetched_at LIMIT ?"
)
_PRUNE_STEP = 500
"""Domains looked at in one transaction: others who share the file never wait long for it."""
_SELECT_STEP = "SELECT policy_domain FROM policies WHERE policy_domain > ? ORDER BY policy_domain LIMIT ?"
_SELECT_EXPIRED = f"{_SELECT} WHERE policy_domain > ? AND policy_domain <= ? AND expires_at <= ?"
_CLEAR_POLICY = (
    "UPDATE policies SET record_id = NULL, policy_text = NULL, fetched_at = NULL, expires_at = NULL "
    "WHERE policy_domain > ? AND policy_domain <= ? AND expires_at <= ?"
)
_CLEAR_FAILURE = (
    "UPDATE policies SET failed_id = NULL, result_type = NULL, detail = NULL, failed_at = NULL, failing_since = NULL "
    "WHERE policy_domain > ? AND policy_domain <= ? AND failed_at <= ?"
)
_CLEAR_UNKNOWN = (
    "UPDATE policies SET unknown_since = NULL WHERE policy_domain > ? AND policy_domain <= ? AND unknown_since <= ?"
)
_DELETE_EMPTY = "DELETE FROM policies WHERE policy_text IS NULL AND failed_at IS NULL AND unknown_since IS NULL"


class SqlitePolicyStore:
    """Implements policy.store.PolicyStore. Made by `open`; belongs to the event loop that opened it."""

    def __init__(self, writing: sqlite3.Connection, reading: sqlite3.Connection) -> None:
        self._writer = Writer(writing, name="policy-writer")
        self._reader = Reader(reading, name="policy-reader")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Raises StoreError."""
        return cls(*await asyncio.to_thread(_connect, path))

    async def get(self, policy_domain: str) -> PolicyState | None:
        found = await self._select(_SELECT_ONE, policy_domain)
        return found[0] if found and found[0] != PolicyState(policy_domain=policy_domain) else None

    async def put(self, cached: CachedPolicy) -> JournalEntry | None:
        return await self._writer.run(partial(_put, cached=cached))

    async def note_failure(self, policy_domain: str, failure: FetchFailure) -> JournalEntry | None:
        return await self._writer.run(partial(_note_failure, policy_domain=policy_domain, failure=failure))

    async def note_unknown(self, policy_domain: str, since: datetime | None) -> None:
        if since is not None:
            await self._execute(_NOTE_UNKNOWN, policy_domain, to_us(since))
        else:
            await self._writer.run(partial(_end_unknown, policy_domain=policy_domain))

    async def due_for_refresh(self, fetched_before: datetime, now: datetime, limit: int) -> list[PolicyState]:
        """Unexpired policies last fetched before the given time; those that cannot be read are left out."""
        found = await self._select(_SELECT_DUE, to_us(fetched_before), to_us(now), limit)
        return [state for state in found if state.cached is not None]

    async def forget(self, policy_domain: str) -> bool:
        return await self._execute("DELETE FROM policies WHERE policy_domain = ?", policy_domain) > 0

    async def states(self, limit: int = 10_000) -> list[PolicyState]:
        return await self._select(f"{_SELECT} ORDER BY policy_domain LIMIT ?", limit)

    async def prune(self, now: datetime) -> list[JournalEntry]:
        expired: list[JournalEntry] = []
        after = ""
        while names := await self._names(after):
            step = partial(_prune, after=after, last=names[-1], now=now)
            expired += await self._writer.run(step)
            after = names[-1]
        while await self._writer.run(partial(policy_journal.forget_old, now=to_us(now), limit=_PRUNE_STEP)):
            pass
        return expired

    async def history(self, policy_domain: str, limit: int = MAX_ENTRIES) -> list[JournalEntry]:
        return await self._reader.run(partial(policy_journal.read, policy_domain=policy_domain, limit=limit))

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def _names(self, after: str) -> list[str]:
        rows = await self._reader.run(
            lambda connection: connection.execute(_SELECT_STEP, (after, _PRUNE_STEP)).fetchall()
        )
        return [name for (name,) in rows]

    async def _execute(self, statement: str, *values: object) -> int:
        return await self._writer.run(lambda connection: connection.execute(statement, values).rowcount)

    async def _select(self, query: str, *values: object) -> list[PolicyState]:
        rows = await self._reader.run(lambda connection: connection.execute(query, values).fetchall())
        return [_state(row) for row in rows]


def _connect(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    writing = open_database(path, load_schema("policies", APPLICATION_ID))
    return writing, open_for_reading(path)


def _put(connection: sqlite3.Connection, cached: CachedPolicy) -> JournalEntry | None:
    state = _known(connection, cached.policy_domain)
    text = cached.policy.text.encode()
    values = (cached.policy_domain, cached.record_id, text, to_us(cached.fetched_at), to_us(cached.expires_at))
    if connection.execute(_PUT, values).rowcount == 0:
        return None
    return _noted(connection, journal.fetched(state, cached))


def _note_failure(connection: sqlite3.Connection, policy_domain: str, failure: FetchFailure) -> JournalEntry | None:
    state = _known(connection, policy_domain)
    what = (failure.record_id, failure.result_type.value, failure.detail)
    times = (to_us(failure.failed_at), to_us(failure.failing_since))
    connection.execute(_NOTE_FAILURE, (policy_domain, *what, *times))
    return _noted(connection, journal.failed(state, failure))


def _known(connection: sqlite3.Connection, policy_domain: str) -> PolicyState:
    row = connection.execute(_SELECT_ONE, (policy_domain,)).fetchone()
    return PolicyState(policy_domain=policy_domain) if row is None else _state(row)


def _noted(connection: sqlite3.Connection, entry: JournalEntry | None) -> JournalEntry | None:
    if entry is not None:
        policy_journal.write(connection, entry)
    return entry


def _end_unknown(connection: sqlite3.Connection, policy_domain: str) -> None:
    connection.execute("UPDATE policies SET unknown_since = NULL WHERE policy_domain = ?", (policy_domain,))
    connection.execute(f"{_DELETE_EMPTY} AND policy_domain = ?", (policy_domain,))


def _prune(connection: sqlite3.Connection, after: str, last: str, now: datetime) -> list[JournalEntry]:
    """Only what is expired goes (RFC 8461 §10.2): no number of domains can push a live policy out."""
    step = (after, last)
    rows = connection.execute(_SELECT_EXPIRED, (*step, to_us(now))).fetchall()
    entries = [_noted(connection, journal.expired(_state(row), now)) for row in rows]
    connection.execute(_CLEAR_POLICY, (*step, to_us(now)))
    connection.execute(_CLEAR_FAILURE, (*step, to_us(now - _FAILURE_LIFE)))
    connection.execute(_CLEAR_UNKNOWN, (*step, to_us(now - _UNKNOWN_LIFE)))
    connection.execute(f"{_DELETE_EMPTY} AND policy_domain > ? AND policy_domain <= ?", step)
    return [entry for entry in entries if entry is not None]


def _state(row: Row) -> PolicyState:
    domain, *cached, failed_id, result_type, detail, failed_at, failing_since, unknown_since = row
    return PolicyState(
        policy_domain=domain,
        cached=_cached(domain, cached),
        failure=_failure(domain, (failed_id, result_type, detail, failed_at, failing_since)),
        unknown_since=None if unknown_since is None else from_us(unknown_since),
    )


def _cached(domain: str, columns: Sequence[object]) -> CachedPolicy | None:
    """The policy, read anew from its text; what cannot be read is absent, and fetched again."""
    match columns:
        case [str(record_id), bytes(text), int(fetched_at)]:
            try:
                policy = parse_policy(text)
                fetched = from_us(fetched_at)
                return CachedPolicy(policy_domain=domain, record_id=record_id, policy=policy, fetched_at=fetched)
            except (InvalidPolicyError, OverflowError) as error:
                log.warning("policy.unreadable", extra={"policy_domain": domain, "error": str(error)})
    return None


def _failure(domain: str, columns: Sequence[object]) -> FetchFailure | None:
    match columns:
        case [str(record_id), str(result_type), str(detail), int(failed_at), int(failing_since)]:
            try:
                return FetchFailure(
                    record_id=record_id,
                    result_type=ResultType(result_type),
                    detail=detail,
                    failed_at=from_us(failed_at),
                    failing_since=from_us(failing_since),
                )
            except (ValueError, OverflowError) as error:
                log.warning("policy.failure_unreadable", extra={"policy_domain": domain, "error": str(error)})
    return None
