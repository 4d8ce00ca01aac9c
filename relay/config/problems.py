"""What is wrong with a config file, in words for the person who wrote it, and where."""

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from pydantic_core import ErrorDetails

LISTS = ("listener", "route")
"""The tables of which there can be several."""
KeyPath = tuple[str | int, ...]
"""Where a value stands, e.g. ("listener", 0, "tls")."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One error. `line` is None where the key is not in the file, or could not be found in it."""

    path: KeyPath
    text: str
    line: int | None = None

    def __str__(self) -> str:
        where = f"line {self.line}: " if self.line else ""
        return f"{where}{key_name(self.path)}: {self.text}" if self.path else f"{where}{self.text}"


class ConfigError(Exception):
    """The settings cannot be used. Holds every problem that was found."""

    def __init__(self, source: str, problems: tuple[Problem, ...]) -> None:
        super().__init__("\n".join(f"{source}: {problem}" for problem in problems))
        self.source = source
        self.problems = problems


def key_name(path: KeyPath) -> str:
    """Write a path as an admin would: `listener[1].tls`, counted from 1."""
    name = ""
    for part in path:
        name += f"[{part + 1}]" if isinstance(part, int) else f".{part}" if name else part
    return name


def in_plain_words(error: ErrorDetails) -> str:
    """Say what one pydantic error means."""
    kind, told = str(error["type"]), error.get("ctx", {})
    if kind == "extra_forbidden":
        return "unknown table" if len(error["loc"]) == 1 and isinstance(error["input"], dict | list) else "unknown key"
    if kind == "tuple_type" and error["loc"][0] in LISTS and len(error["loc"]) == 1:
        return f"must be written as [[{error['loc'][0]}]]"
    if kind == "value_error":
        return f"must be {told['error']}"
    if kind in _TEMPLATES:
        return _TEMPLATES[kind].format(**told)
    if kind.startswith("ip_"):
        return 'must be an IP address such as "192.0.2.1"'
    return str(error["msg"])


_TEMPLATES = {
    "int_type": "must be a whole number",
    "int_from_float": "must be a whole number",
    "bool_type": "must be true or false",
    "string_type": "must be text in quotes",
    "tuple_type": 'must be a list such as ["..."]',
    "model_type": "must be a table",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "too_short": "must not be empty",
}

_HEADER = re.compile(r"\s*(\[\[?)\s*([A-Za-z0-9_.\- ]+?)\s*\]\]?")
_KEY = re.compile(r"\s*([A-Za-z0-9_.\- ]+?)\s*=")


def find_lines(text: str) -> dict[KeyPath, int]:
    """Return the line of each table and key. A plain scan: keys in quotes and in inline tables are not found."""
    lines: dict[KeyPath, int] = {}
    table: KeyPath = ()
    for number, line in enumerate(text.splitlines(), start=1):
        if header := _HEADER.match(line):
            table = _parts(header[2])
            if header[1] == "[[":
                lines.setdefault(table, number)
                table = (*table, sum(1 for path in lines if path[:-1] == table and isinstance(path[-1], int)))
            lines.setdefault(table, number)
        elif key := _KEY.match(line):
            lines.setdefault((*table, *_parts(key[1])), number)
    return lines


def _parts(dotted: str) -> KeyPath:
    return tuple(part.strip() for part in dotted.split("."))


def line_of(path: KeyPath, lines: Mapping[KeyPath, int]) -> int | None:
    """Return the line of this value, or of the nearest thing around it."""
    return next((lines[prefix] for prefix in _prefixes(path) if prefix in lines), None)


def _prefixes(path: KeyPath) -> Iterator[KeyPath]:
    for length in range(len(path), 0, -1):
        yield path[:length]
