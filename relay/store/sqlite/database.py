"""Opens an SQLite file: settings that make a commit durable, schema, migrations."""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from relay.store.protocols import StoreError, StoreFullError

log = logging.getLogger(__name__)

_BUSY_SECONDS = 10.0
"""How long a write waits for another process's; every transaction here is far shorter."""
_CACHE_KIB = 16_384
_WAL_LIMIT = 64 * 1024 * 1024
"""A write-ahead log that grew beyond this is cut back once its pages are in the file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schema:
    """A kind of file: the schema as it is now, and what brings an older file there, step by step.

    `migrations[i]` turns version i + 1 into i + 2. `application_id` tells the kinds of file apart.
    """

    application_id: int
    text: str
    migrations: tuple[str, ...] = ()

    @property
    def version(self) -> int:
        return 1 + len(self.migrations)


def load_schema(name: str, application_id: int) -> Schema:
    """Read `<name>.sql` and `migrations/<name>_<number>.sql`, numbers counting from 2 without a gap."""
    here = resources.files("relay.store.sqlite")
    migrations: list[str] = []
    while (step := here / "migrations" / f"{name}_{len(migrations) + 2:04}.sql").is_file():
        migrations.append(step.read_text("utf-8"))
    text = (here / f"{name}.sql").read_text("utf-8")
    return Schema(application_id=application_id, text=text, migrations=tuple(migrations))


def open_database(path: Path, schema: Schema) -> sqlite3.Connection:
    """Open for writing; create or bring up to date what is there. Raises StoreError.

    The connection may be handed to another thread, and used by one thread at a time.
    """
    with _errors(path):
        _create_private(path)
        connection = _connect(path)
        try:
            # Before the first table: the setting cannot be changed later without rewriting the file.
            connection.execute("PRAGMA auto_vacuum = INCREMENTAL")
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            # Debian's library would write zeros over what is deleted: a third of all that a message makes us write,
            # while the write-ahead log keeps a copy for a while anyway.
            connection.execute("PRAGMA secure_delete = FAST")
            connection.execute(f"PRAGMA journal_size_limit = {_WAL_LIMIT}")
            connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
            # What undoes a statement of many rows: in a file it would cost each big batch a file made and deleted.
            connection.execute("PRAGMA temp_store = MEMORY")
            _migrate(connection, path, schema)
        except BaseException:
            connection.close()
            raise
        return connection


def open_for_reading(path: Path) -> sqlite3.Connection:
    """Open a file that `open_database` has prepared; nothing can be written through this connection."""
    with _errors(path):
        connection = _connect(path)
        connection.execute("PRAGMA query_only = ON")
        return connection


def store_error(error: Exception) -> StoreError:
    """Return what to raise for an exception met inside a transaction."""
    if isinstance(error, StoreError):
        return error
    if isinstance(error, sqlite3.Error) and getattr(error, "sqlite_errorcode", None) == sqlite3.SQLITE_FULL:
        return StoreFullError(f"no room left: {error}")
    return StoreError(f"{type(error).__name__}: {error}")


def _connect(path: Path) -> sqlite3.Connection:
    return sqlite3.connect(
        path, timeout=_BUSY_SECONDS, isolation_level=None, check_same_thread=False, cached_statements=256
    )


def _create_private(path: Path) -> None:
    """Make the file with mode 0600, which SQLite gives its log files too: queues hold mail."""
    os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))


def _migrate(connection: sqlite3.Connection, path: Path, schema: Schema) -> None:
    """Bring the file to the schema's version, in one transaction."""
    connection.execute("BEGIN IMMEDIATE")
    try:
        version = _number(connection, "user_version")
        if version:
            _check(connection, path, schema, version)
        steps = schema.migrations[version - 1 :] if version else (schema.text,)
        for step in steps:
            for statement in _statements(step):
                connection.execute(statement)
        if steps:
            log.info("store.migrated", extra={"path": str(path), "from": version, "to": schema.version})
            connection.execute(f"PRAGMA application_id = {schema.application_id}")
            connection.execute(f"PRAGMA user_version = {schema.version}")
    except BaseException:
        connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


def _check(connection: sqlite3.Connection, path: Path, schema: Schema, version: int) -> None:
    if _number(connection, "application_id") != schema.application_id:
        raise StoreError(f"{path} is a database of another kind")
    if version > schema.version:
        raise StoreError(
            f"{path} was written by a newer mta-sts-relay (schema {version}, this one knows {schema.version}); "
            "upgrade, or restore the backup made before the upgrade"
        )


def _statements(script: str) -> Iterator[str]:
    """Split a script, each statement on lines of its own; `executescript` would commit between them."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
    if statement.strip():
        yield statement


def _number(connection: sqlite3.Connection, pragma: str) -> int:
    return int(connection.execute(f"PRAGMA {pragma}").fetchone()[0])


@contextmanager
def _errors(path: Path) -> Iterator[None]:
    try:
        yield
    except (sqlite3.Error, OSError) as error:
        raise StoreError(f"cannot open {path}: {error}") from error
