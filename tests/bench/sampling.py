"""Where the time of a running process goes, as py-spy sees it, if that is installed."""

import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
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


@contextmanager
def sampled(pid: int, directory: Path) -> Iterator[Samples]:
    """Sample a process while inside; the samples are there after leaving."""
    program = py_spy()
    assert program is not None, "asked before"
    stacks, samples = directory / "stacks", Samples()
    command = [
        program, "record", "--gil", "--threads", "--rate", _RATE, "--format", "raw", "--duration", "3600",
        "--output", str(stacks), "--pid", str(pid),
    ]  # fmt: skip
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as recorder:
        try:
            yield samples
        finally:
            recorder.send_signal(signal.SIGINT)
    samples.read(stacks)


def tables(samples: Samples) -> list[str]:
    """Return the profile as it stands in the page: the ten functions that cost most by themselves, and in all."""

    def share(count: int) -> str:
        return f"{100 * count / samples.total:.1f} %"

    def rows(functions: list[str]) -> list[str]:
        shown = [(one, share(samples.own[one]), share(samples.whole[one])) for one in functions]
        return [
            "| function | itself | with what it calls |",
            "|---|---|---|",
            *(f"| `{name}` | {own} | {whole} |" for name, own, whole in shown),
            "",
        ]

    threads = ", ".join(f"{name} {share(count)}" for name, count in samples.threads.most_common(4))
    return [
        f"The ten functions that cost most by themselves, of {samples.total} samples in which a thread of the relay",
        "held the interpreter's lock (`py-spy record --gil`, in a turn of its own). System calls and cryptography run",
        f"outside that lock. By thread: {threads}.",
        "",
        *rows([name for name, _ in samples.own.most_common(10)]),
        "The ten functions of the relay that cost most with what they call, without those that call nearly all others:",
        "",
        *rows(_parts(samples)),
    ]


def _parts(samples: Samples) -> list[str]:
    ours = [one for one in samples.whole.most_common() if "(relay/" in one[0] or "(policy/" in one[0]]
    return [name for name, count in ours if count < samples.total // 5][:10]
