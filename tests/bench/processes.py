"""What a system of many processes costs: CPU time and memory of a process and all that descend from it (proc(5))."""

import os
import threading
from collections.abc import Iterable
from pathlib import Path
from types import TracebackType
from typing import Self

_CLOCK_TICKS = os.sysconf("SC_CLK_TCK")


def tree(roots: Iterable[int]) -> list[int]:
    """Return these processes and their descendants that live."""
    children: dict[int, list[int]] = {}
    for entry in os.scandir("/proc"):
        if entry.name.isdigit() and (fields := _stat(int(entry.name))) is not None:
            children.setdefault(int(fields[1]), []).append(int(entry.name))
    found, new = [], list(roots)
    while new:
        pid = new.pop()
        found.append(pid)
        new += children.get(pid, [])
    return found


def cpu_seconds(roots: Iterable[int]) -> float:
    """Return user and system time of the trees so far, with those that have ended and were waited for.

    A process that ends hands its time to its parent, so that nothing is lost between two calls. Of the two clocks that
    Linux shows, the one by process counts whole ticks of 10 ms and the other, by living thread, nanoseconds: the larger
    figure is the better one.
    """
    return sum(_own_seconds(pid) for pid in tree(roots))


def _own_seconds(pid: int) -> float:
    fields = _stat(pid)
    if fields is None:
        return 0.0
    user, system, children_user, children_system = map(int, fields[11:15])
    return max((user + system) / _CLOCK_TICKS, _threads_seconds(pid)) + (children_user + children_system) / _CLOCK_TICKS


def _threads_seconds(pid: int) -> float:
    try:
        threads = list(Path(f"/proc/{pid}/task").iterdir())
        return sum(int((thread / "schedstat").read_text().split()[0]) for thread in threads) / 1e9
    except OSError:
        return 0.0


def machine_seconds() -> float:
    """Return the CPU time that the machine has spent so far, on whatever, on all cores together."""
    user, nice, system, _idle, _waiting, *rest = map(int, Path("/proc/stat").read_text().split("\n")[0].split()[1:9])
    return (user + nice + system + sum(rest)) / _CLOCK_TICKS


def _stat(pid: int) -> list[str] | None:
    """Return the fields of /proc/PID/stat from the state on, or None if there is no such process (any more)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return None


def memory_bytes(roots: Iterable[int]) -> int:
    """Return the sum of the proportional set sizes: what is shared is counted once."""
    total = 0
    for pid in tree(roots):
        try:
            lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
        except OSError:
            continue
        total += sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))
    return total


class PeakMemory:
    """Samples memory_bytes while inside, less often the longer it takes; `peak` is the most seen."""

    def __init__(self, roots: Iterable[int]) -> None:
        self.peak = 0
        self._roots = list(roots)
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._sample)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._ended.set()
        self._thread.join()
        self.peak = max(self.peak, memory_bytes(self._roots))

    def _sample(self) -> None:
        pause = 0.0
        while not self._ended.wait(pause):
            before = os.times()
            self.peak = max(self.peak, memory_bytes(self._roots))
            after = os.times()
            pause = min(max(0.2, 30 * (after.user + after.system - before.user - before.system)), 5.0)
