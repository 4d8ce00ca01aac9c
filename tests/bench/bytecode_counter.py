"""Counts bytecodes in the relay's main thread, from one SIGUSR2 to the next; see bytecodes.py."""

import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

Counted = list[tuple[int, int, str, str]]
"""Bytecodes, calls (and each time a coroutine goes on), function and file."""


class Count:
    """What one thread does, by function."""

    def __init__(self) -> None:
        self._bytecodes: Counter[CodeType] = Counter()
        self._calls: Counter[CodeType] = Counter()

    def trace(self, frame: FrameType, event: str, _argument: Any) -> Any:
        if event == "call":
            self._calls[frame.f_code] += 1
            frame.f_trace_opcodes, frame.f_trace_lines = True, False
        elif event == "opcode":
            self._bytecodes[frame.f_code] += 1
        return self.trace

    def found(self) -> Counted:
        return [
            (bytecodes, self._calls[code], code.co_qualname, code.co_filename)
            for code, bytecodes in self._bytecodes.most_common()
        ]


def arm() -> None:
    """Have the process count, if it is a relay that serves; what was found is written to $BYTECODES_TO."""
    if "serve" not in sys.orig_argv:
        return
    to, counter = Path(os.environ["BYTECODES_TO"]), Count()

    def toggle(_signal: int, _frame: FrameType | None) -> None:
        if sys.gettrace() is None:
            sys.settrace(counter.trace)
        else:
            sys.settrace(None)
            whole = to.with_suffix(".new")
            whole.write_text(json.dumps(counter.found()))
            whole.rename(to)

    signal.signal(signal.SIGUSR2, toggle)
