"""The line between the parent and a worker, and the log that all share."""

import asyncio
import io
import os
import socket
import threading
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from relay.app.line import Line, LineClosedError
from relay.app.log_lines import LogPipe, SharedLog


class End:
    """One end of a line, and what it has heard."""

    def __init__(self, line: Line) -> None:
        self.line = line
        self.heard: list[tuple[str, Any]] = []
        self.news = asyncio.Event()
        self.answering = asyncio.Event()
        self.answering.set()
        self.running = asyncio.create_task(line.run(self._told, self._asked))

    def _told(self, kind: str, value: Any) -> None:
        self.heard.append((kind, value))
        self.news.set()

    async def _asked(self, kind: str, value: Any) -> Any:
        await self.answering.wait()
        return [kind, value]


@asynccontextmanager
async def ends() -> AsyncIterator[tuple[End, End]]:
    one, other = socket.socketpair()
    pair = End(await Line.over(one)), End(await Line.over(other))
    try:
        yield pair
    finally:
        for end in pair:
            end.running.cancel()
        await asyncio.gather(*(end.running for end in pair), return_exceptions=True)


async def test_what_is_told_is_heard_in_order() -> None:
    async with ends() as (parent, worker), asyncio.timeout(10):
        parent.line.tell("begin", {"text": "a\nb é", "number": 7})
        parent.line.tell("stop")
        while len(worker.heard) < 2:
            worker.news.clear()
            await worker.news.wait()
        assert worker.heard == [("begin", {"text": "a\nb é", "number": 7}), ("stop", None)]


async def test_answers_find_their_questions() -> None:
    async with ends() as (parent, _):
        answers = await asyncio.gather(*(parent.line.ask("n", number, seconds=10) for number in range(20)))
        assert answers == [["n", number] for number in range(20)]


async def test_a_slow_answer_is_not_waited_for_and_disturbs_no_later_one() -> None:
    async with ends() as (parent, worker):
        worker.answering.clear()
        with pytest.raises(TimeoutError):
            await parent.line.ask("slow", seconds=0.05)
        worker.answering.set()
        assert await parent.line.ask("next", seconds=10) == ["next", None]


async def test_a_line_whose_other_side_is_gone_says_so() -> None:
    async with ends() as (parent, worker), asyncio.timeout(10):
        worker.answering.clear()
        question = asyncio.create_task(parent.line.ask("x", seconds=10))
        await asyncio.sleep(0)
        worker.running.cancel()
        with pytest.raises(LineClosedError):
            await question
        await parent.running
        assert not parent.line.tell("anything")
        with pytest.raises(LineClosedError):
            await parent.line.ask("more", seconds=10)


async def test_who_does_not_read_is_told_no_more_than_a_bounded_amount() -> None:
    one, other = socket.socketpair()
    with other:
        line = Line(*await asyncio.open_unix_connection(sock=one))
        told = 0
        while line.tell("x", "y" * 100_000):
            told += 1
            assert told < 1000
        line._writer.transport.abort()


def _write(pipe: LogPipe, data: bytes) -> None:
    """Write all of it: a signal that comes in between ends a write to a full pipe half done."""
    while data:
        data = data[os.write(pipe.writing, data) :]


def test_lines_of_several_processes_are_never_torn() -> None:
    stream = io.StringIO()
    log = SharedLog(stream)
    pipes = [LogPipe(log) for _ in range(4)]

    def write(name: int, pipe: LogPipe) -> None:
        for number in range(50):
            _write(pipe, f"{name}-{number} {'x' * 9000}\nhalf of {name}-{number}".encode())
            _write(pipe, b" and the rest\n")
        _write(pipe, b"last, without an end")
        pipe.handed_over()

    writers = [threading.Thread(target=write, args=(name, pipe)) for name, pipe in enumerate(pipes)]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join()
    for pipe in pipes:
        pipe.ended()
    lines = stream.getvalue().splitlines()
    wanted = [
        line
        for name in range(4)
        for number in range(50)
        for line in (f"{name}-{number} {'x' * 9000}", f"half of {name}-{number} and the rest")
    ]
    assert sorted(lines) == sorted([*wanted, *["last, without an end"] * 4])


def test_a_line_without_end_is_passed_on_in_pieces() -> None:
    stream = io.StringIO()
    pipe = LogPipe(SharedLog(stream))
    for _ in range(40):
        _write(pipe, b"x" * 60_000)
    pipe.handed_over()
    pipe.ended()
    lines = stream.getvalue().splitlines()
    assert "".join(lines) == "x" * 2_400_000
    assert len(lines) == 3
