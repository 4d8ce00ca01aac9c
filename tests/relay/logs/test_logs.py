"""What log lines look like, and that hostile text and slow readers cannot hurt."""

import io
import json
import logging
import threading
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay import events, logs
from relay.logs import ConsoleFormatter, JsonFormatter, LogOutput
from relay.printable import printable

HOSTILE = "a\r\nb\x1b[31m\x00\x7f\x85\u2028\u202e\ud800é"
log = logging.getLogger("relay")


@pytest.fixture
def restored_levels() -> Iterator[None]:
    loggers = [logging.getLogger(name) for name in ("relay", "policy")]
    levels = [logger.level for logger in loggers]
    yield
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


def record(event: str, **extra: object) -> logging.LogRecord:
    made = logging.LogRecord("relay", logging.INFO, "f", 1, event, None, None)
    made.__dict__.update(extra, created=1_700_000_000.25)
    return made


def test_json_is_one_flat_object_with_time_level_and_event_first() -> None:
    line = JsonFormatter().format(
        record("recipient.deferred", queue_id="q1", attempts=3, at=datetime(2026, 1, 1, tzinfo=UTC))
    )
    assert line == (
        '{"ts":"2023-11-14T22:13:20.250Z","level":"info","event":"recipient.deferred",'
        '"queue_id":"q1","attempts":3,"at":"2026-01-01T00:00:00+00:00"}'
    )


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_hostile_text_cannot_break_the_line_or_reach_the_terminal(formatter: logging.Formatter) -> None:
    line = formatter.format(record("x.y", diagnostic=HOSTILE))
    assert line.replace("é", "").isascii()
    assert line.isprintable()


def test_json_text_reads_back_as_it_was() -> None:
    assert json.loads(JsonFormatter().format(record("x.y", diagnostic=HOSTILE)))["diagnostic"] == HOSTILE


def test_an_event_cannot_overwrite_its_own_head() -> None:
    assert json.loads(JsonFormatter().format(record("x.y", level="fatal", ts="never")))["level"] == "info"


@pytest.mark.parametrize("formatter", [JsonFormatter(), ConsoleFormatter()])
def test_values_are_bounded(formatter: logging.Formatter) -> None:
    assert len(formatter.format(record("x" * 100_000, diagnostic="x" * 100_000, other=["y" * 100_000]))) < 103_500


def test_fields_may_be_the_argument_of_an_event_of_ours() -> None:
    made = logging.LogRecord("relay", logging.INFO, "f", 1, "x.y", ({"mx": "a%sb", "event": "z"},), None)
    assert json.loads(JsonFormatter().format(made)) | {"ts": ""} == {
        "ts": "",
        "level": "info",
        "event": "x.y",
        "mx": "a%sb",
    }
    assert ConsoleFormatter().format(made).endswith("x.y mx=a%sb event=z")


@pytest.mark.parametrize("form", [JsonFormatter(), ConsoleFormatter()])
def test_an_event_of_each_message_is_told_as_any_other(
    form: logging.Formatter, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, logger="relay")
    events._tell("message.accepted", {"queue_id": "Q", "size": 3})
    events.log.info("message.accepted", {"queue_id": "Q", "size": 3})
    ours, usual = caplog.records
    assert 0 <= usual.created - ours.created < 60
    ours.created = usual.created
    assert form.format(ours) == form.format(usual)


_SECONDS = st.integers(0, 10**12).map(lambda milliseconds: milliseconds / 1000)


@given(st.dictionaries(st.text(), st.none() | st.booleans() | st.integers() | _SECONDS | st.text(st.characters())))
def test_an_event_of_each_message_is_written_as_any_other(line: dict[str, object]) -> None:
    assert logs._encode_plain(line).replace("\x7f", "\\u007f") == logs._encode(line)


def test_an_event_of_each_message_may_have_text_that_is_no_unicode() -> None:
    assert logs._encode_plain({"helo": "\ud800"}) == '{"helo":"\\ud800"}'


def test_an_event_of_each_message_keeps_to_the_level(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.WARNING, logger="relay")
    events._tell("message.accepted", {"queue_id": "Q"})
    assert not caplog.records


def test_what_a_library_formats_into_its_message_is_no_field() -> None:
    made = logging.LogRecord("lib", logging.WARNING, "f", 1, "%(shown)s", ({"shown": 1, "secret": 2},), None)
    assert json.loads(JsonFormatter().format(made)) | {"ts": ""} == {
        "ts": "",
        "level": "warning",
        "event": "1",
        "logger": "lib",
    }


@pytest.mark.parametrize("length", [1000, 1001, 5000])
def test_a_long_value_is_cut_and_the_others_are_whole(length: int) -> None:
    line = json.loads(JsonFormatter().format(record("x.y", long="é" * length, number=10**1200, other="z" * 900)))
    assert line["long"] == "é" * 1000
    assert (line["number"], line["other"]) == (10**1200, "z" * 900)


@pytest.mark.parametrize(
    ("created", "ts"),
    [
        (1_700_000_000.0, "2023-11-14T22:13:20.000Z"),
        (1_700_000_000.9996, "2023-11-14T22:13:20.999Z"),
        (1_700_000_001.0625, "2023-11-14T22:13:21.062Z"),
    ],
)
def test_the_time_is_of_the_record(created: float, ts: str) -> None:
    made = record("x.y")
    made.created = created
    assert json.loads(JsonFormatter().format(made))["ts"] == ts


def test_an_exception_is_inside_the_json_line() -> None:
    error = ValueError("bad\nthing")
    made = record("task.died")
    made.exc_info = (ValueError, error, None)
    line = JsonFormatter().format(made)
    assert "\n" not in line
    assert json.loads(line)["traceback"].endswith("ValueError: bad\nthing\n")
    assert "ValueError: bad\nthing" in ConsoleFormatter().format(made)


def test_console_quotes_what_has_blanks() -> None:
    line = ConsoleFormatter().format(record("a.b", one="1", two="x y", three=""))
    assert line == '22:13:20.250 INFO    a.b one=1 two="x y" three=""'


@pytest.mark.usefixtures("restored_levels")
def test_all_is_written_on_leaving_and_the_level_counts() -> None:
    stream = io.StringIO()
    with LogOutput(stream) as output:
        output.configure("json", "info")
        log.debug("not.this")
        for number in range(500):
            log.info("event.%s", number)
    events = [json.loads(line)["event"] for line in stream.getvalue().splitlines()]
    assert events == [f"event.{number}" for number in range(500)]


def test_what_no_line_shows_is_not_asked_for_meanwhile() -> None:
    with LogOutput(io.StringIO()):
        assert logging.LogRecord("relay", logging.INFO, "f", 1, "x", None, None).threadName is None
    assert logging.LogRecord("relay", logging.INFO, "f", 1, "x", None, None).threadName == "MainThread"


class StuckStream(io.StringIO):
    """A log whose reader does not read until it is let go."""

    def __init__(self) -> None:
        super().__init__()
        self.go = threading.Event()
        self.stuck = threading.Event()

    def write(self, text: str) -> int:
        self.stuck.set()
        assert self.go.wait(10)
        return super().write(text)


@pytest.mark.usefixtures("restored_levels")
def test_a_stuck_reader_costs_records_below_error_and_they_are_counted() -> None:
    stream = StuckStream()
    with LogOutput(stream, queued_records=10) as output:
        output.configure("json", "info")
        log.info("first")
        assert stream.stuck.wait(10)
        for _ in range(30):
            log.info("more")
        threading.Timer(0.05, stream.go.set).start()
        log.error("someone.must.act")
        log.info("last")
    lines = [json.loads(line) for line in stream.getvalue().splitlines()]
    events = [line["event"] for line in lines]
    assert events.count("more") == 10
    assert "someone.must.act" in events
    assert sum(line["records"] for line in lines if line["event"] == "log.dropped") == 20


class Interrupted(logging.LogRecord):
    """A record during whose handling another one is logged, as a finalizer does that the collector runs just then."""

    @property
    def levelno(self) -> int:
        log.warning("from.within")
        return logging.INFO

    @levelno.setter
    def levelno(self, level: int) -> None:
        pass


@pytest.mark.usefixtures("restored_levels")
def test_a_record_within_a_record_does_not_lock_the_loop_up() -> None:
    stream = StuckStream()
    with LogOutput(stream, queued_records=1) as output:
        output.configure("json", "info")
        log.info("first")
        assert stream.stuck.wait(10)
        log.info("fills the queue")
        interrupted = Interrupted("relay", logging.INFO, "f", 1, "outer", None, None)
        handling = threading.Thread(target=logging.getLogger().handle, args=(interrupted,), daemon=True)
        handling.start()
        handling.join(10)
        stream.go.set()
        assert not handling.is_alive()
        log.error("waits for room")
    dropped = [json.loads(line) for line in stream.getvalue().splitlines() if "log.dropped" in line]
    assert [line["records"] for line in dropped] == [3]  # its level is looked at twice


class Untellable:
    def __str__(self) -> str:
        raise RuntimeError("no")


@pytest.mark.usefixtures("restored_levels")
def test_a_record_that_cannot_be_told_does_not_silence_the_others() -> None:
    stream = io.StringIO()
    with LogOutput(stream) as output:
        output.configure("json", "info")
        log.info("bad", extra={"value": Untellable()})
        log.info("good")
    assert [json.loads(line)["event"] for line in stream.getvalue().splitlines()] == ["log.unwritable", "good"]


class CountingStream(io.StringIO):
    """Counts writes."""

    writes = 0

    def write(self, text: str) -> int:
        self.writes += 1
        return super().write(text)


@pytest.mark.usefixtures("restored_levels")
def test_what_comes_at_once_is_written_at_once() -> None:
    stream = CountingStream()
    with LogOutput(stream) as output:
        output.configure("json", "info")
        for _ in range(100):
            log.info("more")
    assert len(stream.getvalue().splitlines()) == 100
    assert stream.writes < 50


@given(st.text())
def test_printable_is_printable_and_keeps_what_was(text: str) -> None:
    shown = printable(text)
    assert all(char.isprintable() for char in shown)
    if text.isprintable() and text.isascii():
        assert shown == text


def test_printable_keeps_letters_and_escapes_the_rest() -> None:
    assert printable("jörg@bücher.example") == "jörg@bücher.example"
    assert printable("\x1b]0;x\x07\u202egpj\U000e0001") == r"\x1b]0;x\x07\u202egpj\U000e0001"
    assert printable("x" * 9, 5) == "xxxxx..."


@pytest.mark.parametrize("form", ["json", "console"])
def test_a_process_marks_its_lines(form: str) -> None:
    stream = io.StringIO()
    with LogOutput(stream, marks={"worker": 3}) as logs:
        logs.configure(form, "info")
        logging.getLogger("relay").info("a.b", extra={"mx": "x"})
    assert '"worker":3,"mx":"x"' in stream.getvalue() or stream.getvalue().endswith("a.b worker=3 mx=x\n")
