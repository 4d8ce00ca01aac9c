"""Where the time of a running process goes, as py-spy sees it, if that is installed."""

import asyncio
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

_RATE = "200"
_LINE_NUMBER = re.compile(r":\d+\)$")


@dataclass(slots=True)
class Samples:
    """Samples in which the process held its interpreter's lock, by function, and by thread."""

    total: int = 0
    own: Counter[str] = field(default_factory=Counter)
    whole: Counter[str] = field(default_factory=Counter)
    threads: Counter[str] = field(default_factory=Counter)

    def read(self, stacks: Path) -> None:
        """Read `py-spy record --format raw --threads`: frames from the outermost in, then how often."""
        for line in stacks.read_text(encoding="utf-8").splitlines():
            stack, _, count = line.rpartition(" ")
            thread, *frames = stack.split(";")
            functions = [_LINE_NUMBER.sub(")", frame) for frame in frames]
            self.total += int(count)
            self.threads[thread.partition(": ")[2].removesuffix("_0")] += int(count)
            if functions:
                self.own[functions[-1]] += int(count)
            self.whole.update(dict.fromkeys(functions, int(count)))


def py_spy() -> str | None:
    """Return the program's path, beside this interpreter or on PATH, or None."""
    return shutil.which("py-spy", path=str(Path(sys.executable).parent)) or shutil.which("py-spy")


@asynccontextmanager
async def sampled(pid: int, directory: Path) -> AsyncIterator[Samples]:
    """Sample a process while inside; the samples are there after leaving."""
    program = py_spy()
    assert program is not None, "asked before"
    stacks, samples = directory / "stacks", Samples()
    recorder = await asyncio.create_subprocess_exec(
        program, "record", "--gil", "--threads", "--rate", _RATE, "--format", "raw", "--duration", "3600",
        "--output", str(stacks), "--pid", str(pid), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
    )  # fmt: skip
    try:
        yield samples
    finally:
        recorder.send_signal(signal.SIGINT)
        await recorder.wait()
    samples.read(stacks)
