"""The users file and what AUTH says."""

import os
from pathlib import Path

import pytest
from argon2 import PasswordHasher, extract_parameters

from relay.ingress.auth import AuthError, Credentials, decode_response, plain_credentials
from relay.ingress.users import Users, UsersFileError

HASHER = PasswordHasher(time_cost=1, memory_cost=64, parallelism=1)
ALICE = f"alice:{HASHER.hash('secret')}\n"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "users"
    path.write_text(f"# users\n\n{ALICE}bob:{HASHER.hash('pässwörd')}\n")
    return path


def rewrite(path: Path, text: str | None) -> None:
    """Change the file, or with None remove it."""
    path.unlink()
    if text is not None:
        path.write_text(text)
        os.utime(path, (len(text), len(text)))


async def test_password_is_verified(path: Path) -> None:
    users = Users(path)
    assert await users.verify("alice", "secret")
    assert await users.verify("bob", "pässwörd")
    assert not await users.verify("alice", "Secret")
    assert not await users.verify("alice", "")
    assert not await users.verify("carol", "secret")
    assert not await users.verify("carol", ""), "the stand-in for nobody is nobody's password"


def test_nobody_takes_as_long_as_somebody(path: Path) -> None:
    """The stand-in for names that do not exist is hashed as `user add` hashes."""
    assert extract_parameters(Users(path)._nobody) == extract_parameters(PasswordHasher().hash("x"))


async def test_changed_file_is_read_again_and_a_bad_one_keeps_the_old(
    path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    users = Users(path)
    rewrite(path, f"alice:{HASHER.hash('changed')}\n")
    assert await users.verify("alice", "changed")
    assert not await users.verify("bob", "pässwörd")
    rewrite(path, "nonsense\n")
    assert await users.verify("alice", "changed")
    (record,) = caplog.records  # or somebody who was taken out of the file could go on unnoticed
    assert record.levelname == "ERROR"
    assert f"{path}:1: not name:argon2-hash" in str(record.__dict__["problem"])
    assert await users.verify("alice", "changed")
    assert len(caplog.records) == 1
    with pytest.raises(UsersFileError):
        users.reload()
    rewrite(path, None)
    assert await users.verify("alice", "changed")


@pytest.mark.parametrize(
    "text",
    ["alice\n", f":{HASHER.hash('x')}\n", "alice:plain\n", "alice:$argon2id$\n", ALICE + ALICE, "alice:\n"],
    ids=["no hash", "no name", "plain text", "half a hash", "twice", "empty hash"],  # a hash is never the same
)
def test_bad_file_names_the_line_and_not_its_content(tmp_path: Path, text: str) -> None:
    path = tmp_path / "users"
    path.write_text("# first line\n" + text)
    with pytest.raises(UsersFileError, match=r":[23]: ") as refused:
        Users(path)
    assert "argon2id" not in str(refused.value)


def test_missing_or_binary_file(tmp_path: Path) -> None:
    with pytest.raises(UsersFileError):
        Users(tmp_path / "none")
    (tmp_path / "binary").write_bytes(b"\xff\xfe:x\n")
    with pytest.raises(UsersFileError):
        Users(tmp_path / "binary")


@pytest.mark.rfc("4954-4-a")
@pytest.mark.parametrize(
    ("line", "octets"), [(b"=", b""), (b"", b""), (b"YQ==", b"a"), (b"AGFsaWNlAHNlY3JldA==", b"\0alice\0secret")]
)
def test_response_is_decoded(line: bytes, octets: bytes) -> None:
    assert decode_response(line) == octets


@pytest.mark.parametrize(
    ("line", "code"), [(b"*", "501 5.7.0"), (b"YQ", "501 5.5.2"), (b"Y!Q=", "501 5.5.2"), (b"YQ==\xff", "501 5.5.2")]
)
def test_bad_response(line: bytes, code: str) -> None:
    with pytest.raises(AuthError, match=code):
        decode_response(line)


@pytest.mark.parametrize("octets", [b"\0alice\0secret", b"alice\0alice\0secret"])
def test_plain(octets: bytes) -> None:
    assert plain_credentials(octets) == Credentials("alice", "secret")


@pytest.mark.parametrize("octets", [b"", b"alice\0secret", b"bob\0alice\0secret", b"\0a\0b\0c", b"\0\xff\0x"])
def test_bad_plain(octets: bytes) -> None:
    with pytest.raises(AuthError, match=r"501 5\.5\.2"):
        plain_credentials(octets)


def test_password_is_not_printed() -> None:
    assert "secret" not in repr(Credentials("alice", "secret"))
