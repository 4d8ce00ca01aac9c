"""Answers: JSON for programs, tables for people. Nothing that came from outside can move the terminal."""

import dataclasses
import json
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from enum import Enum
from pathlib import Path
from typing import Any

import typer

from relay.printable import printable
from relay.status import Reply, Status

_MAX_CELL = 300
_WIDTH_IN_A_FILE = 240


def plain(value: object) -> Any:
    """Return a value as JSON knows it. Times are ISO 8601 in UTC, durations seconds, statuses and replies text."""
    match value:
        case Status() | Reply() | Path():
            return str(value)
        case Enum():
            return value.value if isinstance(value.value, str) else value.name.lower()
        case datetime():
            return value.isoformat()
        case timedelta():
            return value.total_seconds()
        case dict():
            return {str(plain(key)): plain(item) for key, item in value.items()}
        case frozenset() | set():
            return sorted(plain(item) for item in value)
        case list() | tuple():
            return [plain(item) for item in value]
        case None | bool() | int() | float() | str():
            return value
        case _ if dataclasses.is_dataclass(value) and not isinstance(value, type):
            fields = (field for field in dataclasses.fields(value) if field.repr)
            return {field.name: plain(getattr(value, field.name)) for field in fields}
        case _:
            return str(value)


def print_json(value: object) -> None:
    typer.echo(json.dumps(plain(value), indent=2).replace("\x7f", "\\u007f"))


def print_table(columns: Sequence[str], rows: Iterable[Sequence[object]]) -> None:
    """Print rows for people; what is wide is folded, never cut, and the first column not even that."""
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="bold")
    for number, column in enumerate(columns):
        table.add_column(column, overflow="fold", no_wrap=number == 0)
    for row in rows:
        table.add_row(*(Text(shown(cell)) for cell in row))
    console().print(table)


def console() -> Any:
    """Return a console that prints text as it is, without markup, and into files without folding."""
    from rich.console import Console

    made = Console(markup=False, emoji=False, highlight=False)
    if not made.is_terminal:
        made.width = _WIDTH_IN_A_FILE
    return made


def shown(value: object) -> str:
    """Write a cell for people."""
    match value:
        case None:
            return ""
        case bool():
            return "yes" if value else "no"
        case datetime():
            return value.astimezone().strftime("%Y-%m-%d %H:%M:%S")
        case timedelta():
            return ago(value)
        case _:
            return printable(str(plain(value)), _MAX_CELL)


def ago(duration: timedelta) -> str:
    """Write a duration in its two largest units."""
    seconds = int(duration.total_seconds())
    parts = [(seconds // 86400, "d"), (seconds // 3600 % 24, "h"), (seconds // 60 % 60, "m"), (seconds % 60, "s")]
    while len(parts) > 1 and not parts[0][0]:
        parts.pop(0)
    return "".join(f"{number}{unit}" for number, unit in parts[:2] if number or len(parts) == 1) or "0s"


def say(text: str) -> None:
    """Print one line for people."""
    typer.echo(printable(text, 2000))
