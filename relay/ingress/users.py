"""The users file: `name:argon2-hash` lines, for AUTH PLAIN and LOGIN (RFC 4954, RFC 4616)."""

import asyncio
from pathlib import Path

from argon2 import PasswordHasher, extract_parameters
from argon2.exceptions import InvalidHashError, VerificationError

from relay import events

# A verification takes tens of milliseconds and 64 MiB: two at a time, off the loop.
_AT_ONCE = 2


class UsersFileError(Exception):
    """The users file cannot be used; the text names the line, never its content."""


class Users:
    """Knows who a name and a password belong to. The file is reread when it changes; a bad one keeps the old.

    A verification is to be made within a turn (`async with users.turns`).
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._hasher = PasswordHasher()
        self.turns = asyncio.Semaphore(_AT_ONCE)
        # Takes as long as a real one, so that the time does not tell which names exist.
        self._nobody = self._hasher.hash("")
        self._stamp = self._stat()
        self._hashes = _read(path)

    async def verify(self, name: str, password: str) -> bool:
        """Whether this is the password of an existing user."""
        return await asyncio.to_thread(self._verify, name, password)

    def reload(self) -> None:
        """Read the file again; raises UsersFileError, and the old users stay."""
        self._stamp = self._stat()
        self._hashes = _read(self._path)

    def _verify(self, name: str, password: str) -> bool:
        self._reload_if_changed()
        known = self._hashes.get(name)
        try:
            self._hasher.verify(known or self._nobody, password)
        except (VerificationError, InvalidHashError):
            return False
        return known is not None

    def _reload_if_changed(self) -> None:
        if self._stat() == self._stamp:
            return
        try:
            self.reload()
        except UsersFileError as error:
            events.listener_reload_failed(str(error))

    def _stat(self) -> tuple[int, int, int]:
        try:
            found = self._path.stat()
        except OSError:
            return (0, 0, 0)
        return (found.st_mtime_ns, found.st_size, found.st_ino)


def _read(path: Path) -> dict[str, str]:
    try:
        lines = path.read_text(encoding="utf-8").split("\n")
    except (OSError, UnicodeDecodeError) as error:
        raise UsersFileError(f"{path}: {error}") from error
    hashes: dict[str, str] = {}
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        name, colon, hash_ = line.strip().partition(":")
        if not (name and colon) or name in hashes:
            raise UsersFileError(f"{path}:{number}: not name:argon2-hash, or a name given twice")
        try:
            extract_parameters(hash_)
        except InvalidHashError:
            raise UsersFileError(f"{path}:{number}: not an argon2 hash") from None
        hashes[name] = hash_
    return hashes
