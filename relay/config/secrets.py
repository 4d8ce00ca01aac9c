"""Passwords that stand outside config.toml: where each is, and what it is. They are read when they are needed."""

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

_MAX_OCTETS = 4096


class SecretError(ValueError):
    """A secret cannot be had; the words are for the operator, and never hold any of it."""


class Secret(NamedTuple):
    """Where a secret is: a file, or a variable of the environment."""

    file: Path | None = None
    variable: str = ""

    @classmethod
    def parse(cls, text: str, base: Path) -> "Secret":
        """Read `file:PATH` or `env:NAME`; a relative path starts at `base`. Raises ValueError without the text."""
        kind, _, where = text.partition(":")
        if kind == "file" and where:
            return cls(file=base / where)
        if kind == "env" and where:
            return cls(variable=where)
        raise ValueError('written as "file:PATH" or "env:NAME"; the secret itself has no place here')

    def __str__(self) -> str:
        return f"file:{self.file}" if self.file is not None else f"env:{self.variable}"

    def read(self, environ: Mapping[str, str]) -> str:
        """Return the secret, without a line end behind it. Raises SecretError."""
        secret = environ.get(self.variable) if self.file is None else _read(self.file)
        if secret is None:
            raise SecretError(f"{self}: there is no such variable in the environment")
        if not secret:
            raise SecretError(f"{self}: it is empty")
        if not secret.isprintable():
            raise SecretError(f"{self}: it has more than one line, or control characters")
        return secret


def _read(file: Path) -> str:
    try:
        with file.open("rb") as opened:
            octets = opened.read(_MAX_OCTETS + 1)
        if len(octets) > _MAX_OCTETS:
            raise SecretError(f"file:{file}: it is larger than {_MAX_OCTETS} octets")
        return octets.decode().removesuffix("\n").removesuffix("\r")
    except OSError as error:
        raise SecretError(f"file:{file}: it cannot be read: {error.strerror}") from None
    except UnicodeDecodeError:
        raise SecretError(f"file:{file}: it is not UTF-8 text") from None
