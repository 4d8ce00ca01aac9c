"""Whether a message is on the disk before its 250: a sync between its content and its 250, as strace sees it."""

import contextlib
import re
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from bench_client import Client, Sent
from figures import Figures
from processes import tree
from real_servers import program, wait_until
from stage import Stage
from systems import ADDRESS, System
from throughput import ONE_DOMAIN, SIZE, arrived

_MESSAGES = 25
_QUIET = 0.2
"""Between one message and the next, in seconds, so that what delivering has written is not taken for a commit."""
_CLOCK_ERROR = 0.001
"""Between strace's wall clock and the client's monotonic one, in seconds."""
_CALL = re.compile(r"^(\d+) +([\d.]+) (?:fsync|fdatasync|<\.\.\. (?:fsync|fdatasync) resumed>)(.*)$")
_SUCCEEDED = re.compile(r"\) += 0 <([\d.]+)>$")


def commits(system: System, stage: Stage, directory: Path) -> Figures:
    """Send message after message over one session. Raises SystemExit if one gets its 250 before it is synced."""
    with system.run(stage, directory) as running, Client(ADDRESS, running.port) as client:
        stage.sink.reset()
        client.send("first@commit", f"user@{ONE_DOMAIN}", SIZE)
        arrived(stage, 1)
        sent, calls = list[Sent](), directory / "syncs"
        with _traced(tree(running.roots), calls):
            offset = time.time() - time.monotonic()
            for number in range(_MESSAGES):
                time.sleep(_QUIET)
                sent.append(client.send(f"{number}@commit", f"user@{ONE_DOMAIN}", SIZE))
            arrived(stage, _MESSAGES + 1)
        ended = [when - offset for when in synced(calls.read_text())]
        early = [one for one in sent if not any(one.began < when < one.replied + _CLOCK_ERROR for when in ended)]
        if early:
            raise SystemExit(f"{len(early)} of {len(sent)} messages were accepted before they were synced to disk")
        return {"messages": len(sent), "syncs": len(ended)}


@contextlib.contextmanager
def _traced(pids: list[int], calls: Path) -> Iterator[None]:
    chosen = [option for pid in pids for option in ("-p", str(pid))]
    command = [program("strace"), "-f", "-ttt", "-T", "-e", "trace=fsync,fdatasync", "-o", str(calls), *chosen]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as tracer:
        try:
            wait_until(lambda: tracer.poll() is not None or all(_has_tracer(pid) for pid in pids), "strace")
            yield
        finally:
            tracer.terminate()


def _has_tracer(pid: int) -> bool:
    try:
        return "TracerPid:\t0\n" not in Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return True  # it has ended


def synced(calls: str) -> list[float]:
    """Return when each sync that succeeded had ended, in seconds since the epoch; `strace -f -ttt -T` wrote `calls`."""
    ended, begun = list[float](), dict[str, float]()
    for line in calls.splitlines():
        if (call := _CALL.match(line)) is None:
            continue
        thread, when, rest = call[1], float(call[2]), call[3]
        if rest.endswith("<unfinished ...>"):
            begun[thread] = when
        elif (success := _SUCCEEDED.search(rest)) is not None:
            ended.append(begun.pop(thread, when) + float(success[1]))
    return ended
