"""Opening files: durable settings, schema versions, migrations, files of another kind."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest

from relay.store.protocols import StoreError
from relay.store.sqlite.database import Schema, load_schema, open_database, open_for_reading
from relay.store.sqlite.policies import APPLICATION_ID as POLICIES
from relay.store.sqlite.queue import APPLICATION_ID as QUEUE

OLD = Schema(application_id=7, text="CREATE TABLE t (a TEXT);\nINSERT INTO t VALUES ('semi;colon');")
NEW = Schema(
    application_id=7,
    text="CREATE TABLE t (a TEXT, b INTEGER);",
    migrations=("ALTER TABLE t ADD COLUMN b INTEGER;\nUPDATE t SET b = 1;", "UPDATE t SET b = b + 1;"),
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "t.db"


def pragma(connection: sqlite3.Connection, name: str) -> object:
    return connection.execute(f"PRAGMA {name}").fetchone()[0]


@pytest.mark.rfc("5321-6.1-d")
@pytest.mark.parametrize(("name", "application_id"), [("schema", QUEUE), ("policies", POLICIES)])
def test_a_commit_is_durable_and_the_file_can_shrink(path: Path, name: str, application_id: int) -> None:
    with closing(open_database(path, load_schema(name, application_id))) as connection:
        assert pragma(connection, "journal_mode") == "wal"
        assert pragma(connection, "synchronous") == 2
        assert pragma(connection, "secure_delete") == 2
        assert pragma(connection, "auto_vacuum") == 2
        assert pragma(connection, "foreign_keys") == 1
        assert pragma(connection, "busy_timeout") == 10_000
        assert pragma(connection, "application_id") == application_id
        assert pragma(connection, "user_version") == load_schema(name, application_id).version


def test_files_are_for_their_owner_only(path: Path) -> None:
    with closing(open_database(path, OLD)) as connection:
        connection.execute("INSERT INTO t VALUES ('x')")
        assert {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()} == {
            "t.db": 0o600,
            "t.db-wal": 0o600,
            "t.db-shm": 0o600,
        }


def test_an_old_file_is_brought_up_to_date_step_by_step(path: Path) -> None:
    open_database(path, OLD).close()
    for _ in range(2):
        with closing(open_database(path, NEW)) as connection:
            assert pragma(connection, "user_version") == 3
            assert connection.execute("SELECT a, b FROM t").fetchall() == [("semi;colon", 2)]


def test_a_new_file_gets_the_schema_as_it_is_now(path: Path) -> None:
    with closing(open_database(path, NEW)) as connection:
        assert pragma(connection, "user_version") == 3
        assert connection.execute("SELECT a, b FROM t").fetchall() == []


def test_a_migration_that_fails_leaves_the_old_file_as_it_was(path: Path) -> None:
    open_database(path, OLD).close()
    broken = Schema(application_id=7, text="", migrations=("DELETE FROM t;", "SELECT nonsense;"))
    with pytest.raises(StoreError, match="nonsense"):
        open_database(path, broken)
    with closing(open_database(path, OLD)) as connection:
        assert connection.execute("SELECT a FROM t").fetchall() == [("semi;colon",)]


def test_a_file_of_a_newer_version_is_refused_in_words(path: Path) -> None:
    open_database(path, NEW).close()
    with pytest.raises(StoreError, match=r"newer mta-sts-relay \(schema 3, this one knows 1\)"):
        open_database(path, OLD)
    with closing(open_database(path, NEW)) as connection:
        assert pragma(connection, "user_version") == 3


def test_a_database_of_another_kind_is_refused(path: Path) -> None:
    open_database(path, OLD).close()
    with pytest.raises(StoreError, match="another kind"):
        open_database(path, Schema(application_id=8, text=""))


@pytest.mark.parametrize("garbage", [b"garbage" * 1000, b"SQLite format 3\0" + b"\xff" * 4096])
def test_a_file_that_is_no_database_is_refused(path: Path, garbage: bytes) -> None:
    path.write_bytes(garbage)
    with pytest.raises(StoreError, match="cannot open"):
        open_database(path, OLD)
    assert path.read_bytes() == garbage


def test_a_directory_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="cannot open"):
        open_database(tmp_path / "no" / "t.db", OLD)


def test_a_reading_connection_cannot_write(path: Path) -> None:
    open_database(path, OLD).close()
    with closing(open_for_reading(path)) as connection, pytest.raises(sqlite3.OperationalError, match="readonly"):
        connection.execute("DELETE FROM t")
