"""One log of several processes: each writes to a pipe of its own, and the parent passes whole lines on.

Written to one file by all, lines would be torn apart: a pipe keeps only some 4,000 octets together.
"""

import contextlib
import os
import threading
from typing import TextIO

_CHUNK = 64 * 1024
_LONGEST_LINE = 1024 * 1024
_END_SECONDS = 5.0


class SharedLog:
    """A stream that several threads write to; what is written at once stays together."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._lock = threading.Lock()

    def write(self, text: str) -> None:
        with self._lock:
            self._stream.write(text)
            self._stream.flush()

    def flush(self) -> None:
        """Done with each write."""


class LogPipe:
    """Passes on what comes out of a pipe, by a thread, until all who write to it are gone."""

    def __init__(self, log: SharedLog) -> None:
        self._log = log
        self._reading, self.writing = os.pipe()
        self._thread = threading.Thread(target=self._run, name="log-pipe", daemon=True)
        self._thread.start()

    def handed_over(self) -> None:
        """The process that writes has its own end now."""
        os.close(self.writing)

    def ended(self) -> None:
        """Wait until all has been passed on; to be called in a thread when the process is gone."""
        self._thread.join(_END_SECONDS)

    def _run(self) -> None:
        rest = b""
        with os.fdopen(self._reading, "rb", buffering=0) as pipe:
            while chunk := pipe.read(_CHUNK):
                lines, newline, rest = (rest + chunk).rpartition(b"\n")
                if len(rest) > _LONGEST_LINE:
                    lines, newline, rest = lines + newline + rest, b"\n", b""
                self._pass_on(lines + newline)
        self._pass_on(rest + b"\n" if rest else b"")

    def _pass_on(self, lines: bytes) -> None:
        if lines:
            with contextlib.suppress(OSError, ValueError):  # who closed the log does not want it
                self._log.write(lines.decode("utf-8", "backslashreplace"))
