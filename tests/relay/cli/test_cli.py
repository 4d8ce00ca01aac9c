"""Commands that need no relay: help, version, config, users; and how answers are written."""

import json
from datetime import UTC, datetime, timedelta
from enum import Enum
from pathlib import Path

import pytest
from argon2 import PasswordHasher
from typer.testing import CliRunner

from relay.cli import app
from relay.cli.output import ago, plain, shown
from relay.queue.message import Client, Notify, State
from relay.status import Reply, Status

COMMANDS = [
    "serve", "demo", "check", "config check", "config show", "queue list", "queue show", "queue retry", "queue hold",
    "queue release", "queue drop", "queue pause", "queue resume", "policy list", "policy show", "policy history",
    "policy refresh", "policy forget", "report enforcement", "tlsrpt preview", "tlsrpt key-record", "user add",
]  # fmt: skip


def run(*arguments: str, stdin: str | None = None) -> tuple[int, str, str]:
    done = CliRunner().invoke(
        app, list(arguments), input=stdin, env={"TERM": "dumb", "NO_COLOR": "1", "COLUMNS": "200"}
    )
    return done.exit_code, done.stdout, done.stderr


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_explains_itself_with_an_example(command: str) -> None:
    status, out, _ = run(*command.split(), "--help")
    assert status == 0
    assert f"Example: mta-sts-relay {command}" in out


def test_the_names_of_the_interface_are_all_there() -> None:
    _, out, _ = run("--help")
    for name in ("serve", "demo", "check", "config", "queue", "policy", "tlsrpt", "user", "--version"):
        assert name in out


def test_version() -> None:
    status, out, _ = run("--version")
    assert (status, out.startswith("mta-sts-relay ")) == (0, True)


@pytest.mark.parametrize(
    "arguments",
    [
        ["nonsense"],
        ["queue", "nonsense"],
        ["check"],
        ["queue", "list", "--state", "x"],
        ["tlsrpt", "preview", "--day", "yesterday"],
        ["tlsrpt", "preview", "--domain", "a b"],
    ],
)
def test_wrong_use_is_2(arguments: list[str]) -> None:
    assert run(*arguments)[0] == 2


def test_config_check_with_policies_that_cannot_be_read_says_so(tmp_path: Path) -> None:
    (tmp_path / "config.toml").touch()
    (tmp_path / "state").mkdir()
    (tmp_path / "state/policy.db").write_text("not a database, by any means")
    status, _, err = run("config", "check", "--config", str(tmp_path / "config.toml"))
    assert (status, err.count("\n")) == (1, 1)
    assert "policy.db" in err


def test_config_show_prints_what_would_be_read_back(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text('[queue]\nretry = ["7m"]\n')
    status, out, _ = run("config", "show", "--config", str(tmp_path / "config.toml"))
    assert status == 0
    assert 'retry = ["7m"]' in out
    (tmp_path / "again.toml").write_text(out)
    assert run("config", "show", "--config", str(tmp_path / "again.toml")) == (0, out, "")
    _, out, _ = run("config", "show", "--config", str(tmp_path / "config.toml"), "--json")
    assert json.loads(out)["queue"]["retry"] == ["7m"]


def test_a_config_that_cannot_be_used_is_2_with_all_errors(tmp_path: Path) -> None:
    (tmp_path / "config.toml").write_text("[relay]\nworkers = 0\nx = 1\n")
    status, out, err = run("config", "check", "--config", str(tmp_path / "config.toml"))
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 2


def test_tls_reports_that_are_not_set_up_say_what_is_missing(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.touch()
    status, _, err = run("tlsrpt", "key-record", "--config", str(config))
    assert (status, err) == (2, "tlsrpt.dkim_domain is not set\n")
    status, _, err = run("tlsrpt", "preview", "--config", str(config))
    assert (status, err.startswith('tlsrpt.mode is "off"')) == (1, True)
    config.write_text('[tlsrpt]\ndkim_domain = "x.test"\ndkim_selector = "s"\ndkim_key_file = "none.pem"\n')
    status, _, err = run("tlsrpt", "key-record", "--config", str(config))
    assert (status, "none.pem cannot be read" in err, "to make one: openssl genrsa" in err) == (2, True, True)


def test_user_add_prints_a_line_that_verifies() -> None:
    status, out, _ = run("user", "add", "scanner", stdin="correct horse\n")
    assert status == 0
    name, _, hash_ = out.strip().partition(":")
    assert name == "scanner"
    assert PasswordHasher().verify(hash_, "correct horse")


@pytest.mark.parametrize(
    ("name", "password"), [("a:b", "x"), ("#a", "x"), (" a", "x"), ("a\tb", "x"), ("a", ""), ("a", "x" * 2000)]
)
def test_user_add_refuses_what_the_file_could_not_hold(name: str, password: str) -> None:
    status, out, _ = run("user", "add", name, stdin=f"{password}\n")
    assert (status, out) == (2, "")


class _Colour(Enum):
    RED = 1


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (Status(4, 7, 5), "4.7.5"),
        (Reply(550, ("5.1.1 no", "such user")), "550 5.1.1 no such user"),
        (State.HELD, "held"),
        (_Colour.RED, "red"),
        (datetime(2026, 1, 2, tzinfo=UTC), "2026-01-02T00:00:00+00:00"),
        (timedelta(minutes=2), 120.0),
        (frozenset({Notify.SUCCESS, Notify.FAILURE}), ["FAILURE", "SUCCESS"]),
        ({State.HELD: (1, None)}, {"held": [1, None]}),
        (Client(address="x"), {"address": "x", "helo": "", "tls_version": None, "tls_cipher": None, "user": None}),
        (Path("/a"), "/a"),
        (3 + 4j, "(3+4j)"),
    ],
)
def test_values_become_json(value: object, written: object) -> None:
    assert plain(value) == written
    json.dumps(plain(value))


@pytest.mark.parametrize(
    ("seconds", "written"), [(0, "0s"), (59, "59s"), (60, "1m"), (3661, "1h1m"), (90000, "1d1h"), (86400, "1d")]
)
def test_durations_for_people(seconds: int, written: str) -> None:
    assert ago(timedelta(seconds=seconds)) == written


def test_cells_cannot_move_the_terminal() -> None:
    assert shown("\x1b[2Jx\u202e") == r"\x1b[2Jx\u202e"
    assert shown(None) == ""
