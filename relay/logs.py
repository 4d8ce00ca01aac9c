"""Where log records go: standard error, as JSON lines or for people, written by a thread of its own.

Standard error, because systemd and containers collect it and standard output stays free for what commands print.
The loop never waits for the reader of the log: records pass through a bounded queue, and when that is full, those
below ERROR are dropped and counted, while an ERROR is waited for. Lines are written some at a time, so that a busy
loop and the thread do not take turns for each of them; a line is late by GATHER_SECONDS at most.
"""

import contextlib
import json
import logging
import sys
import threading
import time
import traceback
from collections import deque
from collections.abc import Mapping
from datetime import UTC, datetime
from functools import lru_cache
from types import MappingProxyType, TracebackType
from typing import Any, Protocol, Self, cast

from pydantic_core import to_json

from relay.printable import printable

GATHER_SECONDS = 0.02
_QUEUED_RECORDS = 20_000
_WRITTEN_AT_ONCE = 500
_MAX_VALUE = 1000
_MAX_TRACEBACK = 20_000
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
# Taken down for each record otherwise, and shown in no line (Python's logging HOWTO, "Optimization").
_NOT_ASKED = {"_srcfile": None, "logThreads": False, "logProcesses": False, "logMultiprocessing": False}


class LogStream(Protocol):
    """Where lines go, standard error or what stands in for it."""

    def write(self, text: str, /) -> object: ...

    def flush(self) -> object: ...


def fields(record: logging.LogRecord) -> Mapping[str, object]:
    """Return what the event was logged with, beyond what every record has: its argument, or its `extra`."""
    if _of_message(record):
        return cast("Mapping[str, object]", record.args)
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


def _of_message(record: logging.LogRecord) -> bool:
    """Whether it is an event that each message has: its argument is its fields, texts and numbers all of them."""
    return isinstance(record.args, dict) and record.name == "relay"


class _Marked(logging.Formatter):
    """Writes `marks` into every line: which process it is from, where there are several."""

    def __init__(self, marks: Mapping[str, object] = MappingProxyType({})) -> None:
        super().__init__()
        self._marks = marks


class JsonFormatter(_Marked):
    """One JSON object a line: ts, level, event, then the event's own fields, flat.

    All but printable ASCII is escaped as \\uNNNN, so no text in it can break a line or move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        head: dict[str, object] = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:_MAX_VALUE],
            **self._marks,
        }
        line = {**head, **fields(record), **head}
        if record.name != "relay":
            line["logger"] = record.name
        text = _encode_plain(line) if _of_message(record) else _encode(line)
        if len(text) > _MAX_VALUE:  # or no value in it can be too long
            text = _encode({name: _cut(value) for name, value in line.items()})
        if (told := _traceback(record)) is not None:
            text = f'{text[:-1]},"traceback":{_encode(told)}}}'
        return text.replace("\x7f", "\\u007f")


class ConsoleFormatter(_Marked):
    """For people: time, level, event, then name=value; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record)[11:23], f"{record.levelname:7}", printable(record.getMessage(), _MAX_VALUE)]
        for name, value in (*self._marks.items(), *fields(record).items()):
            text = printable(str(value), _MAX_VALUE)
            parts.append(f'{name}="{text}"' if " " in text or not text else f"{name}={text}")
        if (told := _traceback(record)) is not None:
            parts.append("\n" + "\n".join(printable(line, _MAX_VALUE) for line in told.splitlines()))
        return " ".join(parts)


def _time(record: logging.LogRecord) -> str:
    seconds, rest = divmod(record.created, 1)
    return f"{_date(seconds)}.{int(rest * 1000):03}Z"


@lru_cache(maxsize=1)
def _date(seconds: float) -> str:
    return datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S")


def _cut(value: object) -> object:
    return value[:_MAX_VALUE] if isinstance(value, str) else value


def _traceback(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    text = "".join(traceback.format_exception(record.exc_info[1]))
    # The end of a traceback says what happened.
    return text[-_MAX_TRACEBACK:]


def _shown(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)[:_MAX_VALUE]


_encode = json.JSONEncoder(default=_shown, separators=(",", ":")).encode


def _encode_plain(line: dict[str, object]) -> str:
    """What `_encode` makes of texts and numbers, in a third of the time; pydantic escapes nothing that is not ASCII."""
    try:
        text = to_json(line)
    except ValueError:  # half of a surrogate pair
        return _encode(line)
    return text.decode("ascii") if text.isascii() else _encode(line)


class _Waiting(logging.Handler):
    """Records on their way to the writer, as they are; the writer's thread formats them."""

    def __init__(self, most: int) -> None:
        super().__init__()
        self.records: deque[logging.LogRecord] = deque()
        self.some = threading.Event()
        self.room = threading.Event()
        self._turn = threading.RLock()  # a collection of garbage may log in the middle of a record
        self._most = most
        self._dropped = 0

    def handle(self, record: logging.LogRecord) -> bool:
        """There are no filters here, and nothing is emitted: a record is kept, or dropped and counted."""
        with self._turn:
            if len(self.records) >= self._most and not self._make_room(record):
                self._dropped += 1
                return False
            if self._dropped:
                self.records.append(_dropped_record(self._dropped))
                self._dropped = 0
            self.records.append(record)
            if not self.some.is_set():
                self.some.set()
        return True

    def _make_room(self, record: logging.LogRecord) -> bool:
        """Wait until there is room for an ERROR; False for anything below, which is not worth it."""
        while len(self.records) >= self._most:
            if record.levelno < logging.ERROR:
                return False
            self.room.clear()
            if len(self.records) >= self._most:
                self.room.wait()
        return True


def _dropped_record(count: int) -> logging.LogRecord:
    return logging.LogRecord("relay", logging.WARNING, __file__, 0, "log.dropped", ({"records": count},), None)


class _Writer:
    """Formats and writes records in its own thread, until it is stopped."""

    def __init__(self, waiting: _Waiting, stream: LogStream, formatter: logging.Formatter) -> None:
        self.formatter = formatter
        self._waiting = waiting
        self._stream = stream
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when all has been written."""
        self._stopping = True
        self._waiting.some.set()
        self._thread.join()

    def _run(self) -> None:
        waiting = self._waiting
        while not self._stopping or waiting.records:
            waiting.some.wait()
            if not self._stopping:
                time.sleep(GATHER_SECONDS)
            if not waiting.records:
                self._rest()
            while waiting.records:
                self._write_some()

    def _rest(self) -> None:
        """Be woken by the next record; not before nothing came for a while, as waking costs him who logs."""
        self._waiting.some.clear()
        if self._waiting.records or self._stopping:  # it came between the look and the clearing
            self._waiting.some.set()

    def _write_some(self) -> None:
        records = self._waiting.records
        lines: list[str] = []
        while records and len(lines) < _WRITTEN_AT_ONCE:
            lines.append(self._line(records.popleft()))
        self._waiting.room.set()
        with contextlib.suppress(OSError, ValueError):  # who closed the log does not want it
            self._stream.write("".join(lines))
            self._stream.flush()

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.formatter.format(record) + "\n"
        except Exception:  # noqa: BLE001  a record that cannot be told must not silence all others
            return json.dumps({"level": "error", "event": "log.unwritable", "logger": record.name}) + "\n"


class LogOutput:
    """A context manager: inside it, all log records go to the stream; on leaving, all of them have been written."""

    def __init__(
        self,
        stream: LogStream | None = None,
        *,
        marks: Mapping[str, object] = MappingProxyType({}),
        queued_records: int = _QUEUED_RECORDS,
    ) -> None:
        self._marks = marks
        self._handler = _Waiting(queued_records)
        self._writer = _Writer(self._handler, stream or sys.stderr, JsonFormatter(marks))
        self._before: tuple[list[logging.Handler], int, dict[str, Any]] = ([], logging.WARNING, {})

    def configure(self, form: str, level: str) -> None:
        """Set `log.format` and `log.level`. Libraries are heard from WARNING on."""
        self._writer.formatter = (ConsoleFormatter if form == "console" else JsonFormatter)(self._marks)
        for name in ("relay", "policy"):
            logging.getLogger(name).setLevel(level.upper())

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._before = (root.handlers[:], root.level, {name: getattr(logging, name) for name in _NOT_ASKED})
        vars(logging).update(_NOT_ASKED)
        root.handlers[:] = [self._handler]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(capture=True)
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        logging.captureWarnings(capture=False)
        root = logging.getLogger()
        root.handlers[:], level, asked = self._before
        root.setLevel(level)
        vars(logging).update(asked)
        self._writer.stop()
