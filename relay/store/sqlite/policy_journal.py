"""The journal of policies in the file of policies: what changed, kept bounded for each domain."""

import json
import logging
import sqlite3
from datetime import timedelta
from typing import Any

from policy.findings import FetchProblem
from policy.journal import LIFE, MAX_ENTRIES, Change, JournalEntry, PolicyVersion
from policy.mta_sts import Mode
from policy.requirement import ResultType
from relay.store.sqlite.rows import Row, duration_us, from_us, to_us

log = logging.getLogger(__name__)

_INSERT = (
    "INSERT INTO journal (policy_domain, number, at, entry) "
    "SELECT ?1, ifnull(max(number), 0) + 1, ?2, ?3 FROM journal WHERE policy_domain = ?1"
)
_TRIM = (
    "DELETE FROM journal WHERE policy_domain = ?1 "
    "AND number <= (SELECT max(number) FROM journal WHERE policy_domain = ?1) - ?2"
)
_SELECT = "SELECT policy_domain, at, entry FROM journal WHERE policy_domain = ? ORDER BY number DESC LIMIT ?"
_DELETE_OLD = (
    "DELETE FROM journal WHERE (policy_domain, number) IN "
    "(SELECT policy_domain, number FROM journal WHERE at <= ? LIMIT ?)"
)


def write(connection: sqlite3.Connection, entry: JournalEntry) -> None:
    """Add an entry, and let go the oldest of the domain beyond those that are kept."""
    connection.execute(_INSERT, (entry.policy_domain, to_us(entry.at), _dump(entry)))
    connection.execute(_TRIM, (entry.policy_domain, MAX_ENTRIES))


def read(connection: sqlite3.Connection, policy_domain: str, limit: int) -> list[JournalEntry]:
    """The newest entries of a domain, the newest first; one that cannot be read is left out."""
    rows = connection.execute(_SELECT, (policy_domain, limit)).fetchall()
    return [entry for row in rows if (entry := _load(row)) is not None]


def forget_old(connection: sqlite3.Connection, now: int, limit: int) -> int:
    """Let go entries past their life, so many at most; return how many went."""
    return connection.execute(_DELETE_OLD, (now - duration_us(LIFE), limit)).rowcount


def _dump(entry: JournalEntry) -> str:
    problem = entry.problem
    return json.dumps(
        {
            "changes": [change.value for change in entry.changes],
            "before": _dump_version(entry.before),
            "after": _dump_version(entry.after),
            "problem": [problem.result_type.value, problem.detail] if problem else None,
            "failing_since": to_us(entry.failing_since) if entry.failing_since else None,
        }
    )


def _load(row: Row) -> JournalEntry | None:
    policy_domain, at, text = row
    try:
        entry = json.loads(text)
        problem, failing_since = entry["problem"], entry["failing_since"]
        return JournalEntry(
            policy_domain=policy_domain,
            at=from_us(at),
            changes=tuple([Change(change) for change in entry["changes"]]),
            before=_load_version(entry["before"]),
            after=_load_version(entry["after"]),
            problem=FetchProblem(result_type=ResultType(problem[0]), detail=str(problem[1])) if problem else None,
            failing_since=None if failing_since is None else from_us(failing_since),
        )
    except (ValueError, KeyError, TypeError, IndexError, OverflowError) as error:
        log.warning("policy.journal_unreadable", extra={"policy_domain": policy_domain, "error": str(error)})
        return None


def _dump_version(version: PolicyVersion | None) -> dict[str, object] | None:
    if version is None:
        return None
    return {
        "record_id": version.record_id,
        "mode": version.mode.value,
        "mx": version.mx,
        "mx_count": version.mx_count,
        "max_age": version.max_age.total_seconds(),
    }


def _load_version(fields: dict[str, Any] | None) -> PolicyVersion | None:
    if fields is None:
        return None
    return PolicyVersion(
        record_id=str(fields["record_id"]),
        mode=Mode(fields["mode"]),
        mx=tuple([str(pattern) for pattern in fields["mx"]]),
        mx_count=int(fields["mx_count"]),
        max_age=timedelta(seconds=fields["max_age"]),
    )
