"""What must not take much memory: a long queue, huge messages, clients that are only there."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bench_client import Client, Sent
from figures import Figures, percentile
from load import offer
from processes import PeakMemory, memory_bytes
from stage import DOWN_DOMAIN, Stage
from systems import ADDRESS, System, relay
from throughput import ONE_DOMAIN, SIZE, WARM_DOMAIN, arrived

LARGE = 100_000_000
_LARGE_MESSAGES = 10
_PAUSE = 0.05
IDLE_SESSIONS = 10_000


def backlog(messages: int, system: System, stage: Stage, directory: Path) -> Figures:
    """Queue messages for a destination that is down; then start anew with the queue as it is.

    Memory is the most seen from start to end of the first run, and of the second one up to when it is ready.
    """
    with system.run(stage, directory) as running:
        began = time.monotonic()
        with PeakMemory(running.roots) as memory:
            offer(running.port, DOWN_DOMAIN, messages, SIZE)
            seconds = time.monotonic() - began
        _all_kept(running.queued(), messages)
    with system.run(stage, directory) as running:
        restarted = memory_bytes(running.roots)
        _all_kept(running.queued(), messages)
        return {
            "messages": messages,
            "memory_mb": memory.peak / 1e6,
            "accepted_per_second": messages / seconds,
            "start_seconds": running.start_seconds,
            "memory_after_start_mb": restarted / 1e6,
        }


def _all_kept(queued: int, offered: int) -> None:
    if queued != offered:
        raise SystemExit(f"{queued} of {offered} accepted messages are in the queue")


def large(system: System, stage: Stage, directory: Path) -> Figures:
    """Send huge messages at once, in and out, while small ones come one after another; each waits for its commit."""
    with system.run(stage, directory) as running:
        stage.sink.reset()
        offer(running.port, WARM_DOMAIN, 50, SIZE)
        offer(running.port, ONE_DOMAIN, 1, SIZE)
        arrived(stage, 51)
        stage.sink.reset()
        ended = threading.Event()
        idle = memory_bytes(running.roots)
        began = time.monotonic()
        with PeakMemory(running.roots) as memory, ThreadPoolExecutor(1) as beside:
            small = beside.submit(_send_small, running.port, ended)
            try:
                offer(running.port, ONE_DOMAIN, _LARGE_MESSAGES, LARGE, sessions=_LARGE_MESSAGES)
                accepted = time.monotonic() - began
                _large_arrived(stage)
            finally:
                ended.set()
            sent = small.result()
        arrived(stage, _LARGE_MESSAGES + len(sent))
        waits = [1000 * one.commit_seconds for one in sent]
        return {
            "above_idle_mb": (memory.peak - idle) / 1e6,
            "idle_mb": idle / 1e6,
            "others_longest_wait_ms": max(waits),
            "others_p50_wait_ms": percentile(waits, 50),
            "others": len(waits),
            "accepted_seconds": accepted,
            "delivered_seconds": time.monotonic() - began,
        }


def _send_small(port: int, ended: threading.Event) -> list[Sent]:
    sent = list[Sent]()
    with Client(ADDRESS, port) as client:
        while not ended.wait(_PAUSE):
            sent.append(client.send(f"{len(sent)}@small", f"user@{WARM_DOMAIN}", SIZE))
    return sent


def _large_arrived(stage: Stage) -> None:
    end = time.monotonic() + 300
    while stage.sink.report()["octets"] < _LARGE_MESSAGES * LARGE:
        if time.monotonic() > end:
            raise SystemExit("the large messages did not arrive")
        time.sleep(0.05)


def idle_sessions(system: System, stage: Stage, directory: Path) -> Figures:
    """Open sessions that say EHLO and then nothing; each must be let in, and still answer at the end."""
    assert system.name == "relay", "one process for each session is not what this row is about"
    bound = str(IDLE_SESSIONS + 100)
    raised = {"access": {"max_connections": bound, "max_connections_per_client": bound}}
    with relay(stage, directory, raised) as running:
        stage.sink.reset()
        offer(running.port, ONE_DOMAIN, 50, SIZE)
        arrived(stage, 50)
        idle = memory_bytes(running.roots)
        clients = list[Client]()
        try:
            with PeakMemory(running.roots) as memory:
                began = time.monotonic()
                refused = 0
                for _ in range(IDLE_SESSIONS):
                    try:
                        clients.append(Client(ADDRESS, running.port))
                    except (OSError, RuntimeError):
                        refused += 1
                opened = time.monotonic() - began
                for client in clients:
                    client.command(b"NOOP", b"250")
        finally:
            for client in clients:
                client.__exit__(None, None, None)
        return {
            "sessions": len(clients),
            "refused": refused,
            "above_idle_mb": (memory.peak - idle) / 1e6,
            "idle_mb": idle / 1e6,
            "opened_seconds": opened,
        }
