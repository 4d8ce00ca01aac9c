"""Where log records go: standard error, as JSON lines or for people, written by a thread of its own.

Standard error, because systemd and containers collect it and standard output stays free for what commands print.
The loop never waits for the reader of the log: records pass through a bounded queue, and when that is full, those
below ERROR are dropped and counted, while an ERROR is waited for. Lines are written some at a time, so that a busy
loop and the thread do not take turns for each of them; a line is late by GATHER_SECONDS at most.
"""

import contextlib
import json
import logging
import logging.handlers
import queue
import sys
import threading
import time
import traceback
from datetime import UTC, datetime
from types import TracebackType
from typing import Self, TextIO

from relay.printable import printable

GATHER_SECONDS = 0.02
_QUEUED_RECORDS = 20_000
_WRITTEN_AT_ONCE = 500
_MAX_VALUE = 1000
_MAX_TRACEBACK = 20_000
_STANDARD = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def fields(record: logging.LogRecord) -> dict[str, object]:
    """Return what the event was logged with, beyond what every record has."""
    return {name: value for name, value in record.__dict__.items() if name not in _STANDARD}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: ts, level, event, then the event's own fields, flat.

    All but printable ASCII is escaped as \\uNNNN, so no text in it can break a line or move a terminal's cursor.
    """

    def format(self, record: logging.LogRecord) -> str:
        line: dict[str, object] = {
            "ts": _time(record),
            "level": record.levelname.lower(),
            "event": record.getMessage()[:_MAX_VALUE],
        }
        for name, value in fields(record).items():
            line.setdefault(name, value[:_MAX_VALUE] if isinstance(value, str) else value)
        if record.name != "relay":
            line["logger"] = record.name
        if (told := _traceback(record)) is not None:
            line["traceback"] = told
        return _encode(line).replace("\x7f", "\\u007f")


class ConsoleFormatter(logging.Formatter):
    """For people: time, level, event, then name=value; a traceback follows on its own lines."""

    def format(self, record: logging.LogRecord) -> str:
        parts = [_time(record)[11:23], f"{record.levelname:7}", printable(record.getMessage(), _MAX_VALUE)]
        for name, value in fields(record).items():
            text = printable(str(value), _MAX_VALUE)
            parts.append(f'{name}="{text}"' if " " in text or not text else f"{name}={text}")
        if (told := _traceback(record)) is not None:
            parts.append("\n" + "\n".join(printable(line, _MAX_VALUE) for line in told.splitlines()))
        return " ".join(parts)


def _time(record: logging.LogRecord) -> str:
    return datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _traceback(record: logging.LogRecord) -> str | None:
    if not record.exc_info or record.exc_info[1] is None:
        return None
    text = "".join(traceback.format_exception(record.exc_info[1]))
    # The end of a traceback says what happened.
    return text[-_MAX_TRACEBACK:]


def _shown(value: object) -> str:
    return value.isoformat() if isinstance(value, datetime) else str(value)[:_MAX_VALUE]


_encode = json.JSONEncoder(default=_shown, separators=(",", ":")).encode


class _QueueHandler(logging.handlers.QueueHandler):
    """Puts records into the bounded queue as they are; the writer's thread formats them."""

    def __init__(self, records: "queue.Queue[logging.LogRecord | None]") -> None:
        super().__init__(records)
        self._records = records
        self._dropped = 0

    def prepare(self, record: logging.LogRecord) -> logging.LogRecord:
        return record

    def enqueue(self, record: logging.LogRecord) -> None:
        waits = record.levelno >= logging.ERROR
        try:
            if self._dropped:
                self._records.put(_dropped_record(self._dropped), block=waits)
                self._dropped = 0
            self._records.put(record, block=waits)
        except queue.Full:
            self._dropped += 1


def _dropped_record(count: int) -> logging.LogRecord:
    record = logging.LogRecord("relay", logging.WARNING, __file__, 0, "log.dropped", None, None)
    record.records = count
    return record


class _Writer:
    """Formats and writes records in its own thread, until it meets a None."""

    def __init__(self, records: "queue.Queue[logging.LogRecord | None]", stream: TextIO) -> None:
        self.formatter: logging.Formatter = JsonFormatter()
        self._records = records
        self._stream = stream
        self._thread = threading.Thread(target=self._run, name="log-writer", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Return when all has been written."""
        self._records.put(None)
        self._thread.join()

    def _run(self) -> None:
        going_on = True
        while going_on:
            going_on = self._write_some()

    def _write_some(self) -> bool:
        """Wait for a record, then write what has come until a moment later; False at the end."""
        record = self._records.get()
        if record is not None and record.levelno < logging.ERROR:
            time.sleep(GATHER_SECONDS)
        lines: list[str] = []
        while record is not None:
            lines.append(self._line(record))
            if self._records.empty() or len(lines) == _WRITTEN_AT_ONCE:
                break
            record = self._records.get()
        with contextlib.suppress(OSError, ValueError):  # who closed the log does not want it
            self._stream.write("".join(lines))
            self._stream.flush()
        return record is not None

    def _line(self, record: logging.LogRecord) -> str:
        try:
            return self.formatter.format(record) + "\n"
        except Exception:  # noqa: BLE001  a record that cannot be told must not silence all others
            return json.dumps({"level": "error", "event": "log.unwritable", "logger": record.name}) + "\n"


class LogOutput:
    """A context manager: inside it, all log records go to the stream; on leaving, all of them have been written."""

    def __init__(self, stream: TextIO | None = None, *, queued_records: int = _QUEUED_RECORDS) -> None:
        records: queue.Queue[logging.LogRecord | None] = queue.Queue(queued_records)
        self._handler = _QueueHandler(records)
        self._writer = _Writer(records, stream or sys.stderr)
        self._before: tuple[list[logging.Handler], int] = ([], logging.WARNING)

    def configure(self, form: str, level: str) -> None:
        """Set `log.format` and `log.level`. Libraries are heard from WARNING on."""
        self._writer.formatter = ConsoleFormatter() if form == "console" else JsonFormatter()
        for name in ("relay", "policy"):
            logging.getLogger(name).setLevel(level.upper())

    def __enter__(self) -> Self:
        root = logging.getLogger()
        self._before = (root.handlers[:], root.level)
        root.handlers[:] = [self._handler]
        root.setLevel(logging.WARNING)
        logging.captureWarnings(capture=True)
        self._writer.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        logging.captureWarnings(capture=False)
        root = logging.getLogger()
        root.handlers[:], level = self._before
        root.setLevel(level)
        self._writer.stop()
