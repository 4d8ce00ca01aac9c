"""config.toml: read it, and say everything that is wrong with it at once.

Nothing but `relay.app` and the commands reads settings; classes get plain values.
"""

import json
import tomllib
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from relay.config.checks import impossible, laxities, unusable
from relay.config.models import Settings
from relay.config.problems import LISTS, ConfigError, KeyPath, Problem, find_lines, in_plain_words, line_of

__all__ = ["ConfigError", "Problem", "Settings", "from_json", "laxities", "load", "parse", "render", "to_json"]

_MAX_FILE = 1 << 20


def load(file: Path) -> Settings:
    """Read the file, and look whether the settings can work on this machine. Raises ConfigError with all problems."""
    try:
        text = file.read_text(encoding="utf-8") if file.stat().st_size <= _MAX_FILE else None
    except OSError as error:
        raise ConfigError(str(file), (Problem((), f"cannot be read: {error.strerror}"),)) from None
    except UnicodeDecodeError:
        raise ConfigError(str(file), (Problem((), "is not UTF-8 text"),)) from None
    if text is None:
        raise ConfigError(str(file), (Problem((), "is larger than 1 MiB, so it is no config file"),))
    settings = parse(text, base=file.absolute().parent, source=str(file))
    problems = tuple(_with_lines(unusable(settings), text))
    if problems:
        raise ConfigError(str(file), problems)
    return settings


def parse(text: str, *, base: Path, source: str = "config.toml") -> Settings:
    """Read settings from text; relative paths are relative to `base`. Touches no file."""
    try:
        data = tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(source, (Problem((), f"is not TOML: {error}"),)) from None
    # Defaults are not validated, so this one, which depends on where the file is, is put in here.
    if isinstance(relay := data.setdefault("relay", {}), dict):
        relay.setdefault("state_dir", "state")
    settings, problems = _validate(data, base)
    wrong = {problem.path for problem in problems}
    # What depends on a value that is wrong by itself would only confuse.
    problems += [
        problem
        for problem in impossible(settings)
        if not any(path == problem.path or _inside(path, problem.path) for path in wrong)
    ]
    if problems:
        raise ConfigError(source, tuple(_with_lines(problems, text)))
    return settings


def _validate(data: dict[str, Any], base: Path) -> tuple[Settings, list[Problem]]:
    """Return the settings, with defaults in place of what is wrong, and what is wrong."""
    problems: list[Problem] = []
    while True:
        try:
            return Settings.model_validate(data, context={"base": base}), problems
        except ValidationError as error:
            found = {place: Problem(place, text) for place, text in _told(error, data)}
        problems += found.values()
        for path in found:
            _remove(data, path)


def _told(error: ValidationError, data: dict[str, Any]) -> list[tuple[KeyPath, str]]:
    """Return where the errors are and what they mean; of a list and an item in it, the item alone."""
    told = [(_place(one["loc"], data), in_plain_words(one)) for one in error.errors(include_url=False)]
    return [(place, text) for place, text in told if not any(_inside(other, place) for other, _ in told)]


def _inside(path: KeyPath, outer: KeyPath) -> bool:
    return len(path) > len(outer) and path[: len(outer)] == outer


def _place(loc: KeyPath, data: Any) -> KeyPath:
    """Return how far the location leads into the file; pydantic adds the names of types and of union members."""
    path: KeyPath = ()
    for part in loc:
        try:
            data = data[part]
        except (KeyError, IndexError, TypeError):
            break
        path = (*path, part)
    return path


def _remove(data: Any, path: KeyPath) -> None:
    """Take out the value, or the whole list that a wrong item is in, so that the others can be looked at."""
    first = 2 if path[0] in LISTS else 0
    keep = next((i for i, part in enumerate(path) if isinstance(part, int) and i >= first), len(path))
    *parents, last = path[:keep]
    for part in parents:
        data = data[part]
    if isinstance(data, dict):
        data.pop(last, None)
    else:
        data[last] = {}


def _with_lines(problems: Iterable[Problem], text: str) -> list[Problem]:
    lines = find_lines(text)
    told = [Problem(problem.path, problem.text, line_of(problem.path, lines)) for problem in problems]
    return sorted(told, key=lambda problem: (problem.line or 0, problem.path[:1]))


def to_json(settings: Settings) -> str:
    """Write the settings for another process of ours, which reads them with `from_json`."""
    return settings.model_dump_json()


def from_json(text: str) -> Settings:
    return Settings.model_validate(json.loads(text), context={"base": Path("/")})


def render(settings: Settings) -> str:
    """Write the settings as a config file that means the same."""
    parts = [_table(name, value) for name, value in settings.model_dump(mode="json").items()]
    return "\n".join(parts)


def _table(name: str, value: Any) -> str:
    if isinstance(value, list):
        return "\n".join(f"[[{name}]]\n{_keys(item)}" for item in value)
    inner = [_table(f"{name}.{key}", item) for key, item in value.items() if isinstance(item, dict)]
    return "\n".join([f"[{name}]\n{_keys(value)}", *inner])


def _keys(table: dict[str, Any]) -> str:
    return "".join(f"{key} = {_value(value)}\n" for key, value in table.items() if not isinstance(value, dict))


def _value(value: Any) -> str:
    match value:
        case bool():
            return "true" if value else "false"
        case list():
            return f"[{', '.join(_value(item) for item in value)}]"
        case str():
            # A basic string of TOML is a JSON string, but for DEL.
            return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
        case _:
            return str(value)
