"""The load generator: Debian's `smtp-source`, over 20 sessions in all."""

import os
import subprocess
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

from real_servers import program

SESSIONS = 20


def offer(
    port: int,
    domain: str,
    messages: int,
    size: int,
    *,
    sessions: int = SESSIONS,
    address: str = "127.0.0.1",
    recipients: int = 1,
) -> None:
    """Offer messages to one domain and wait until all are accepted; each has an id of its own (Message-Id)."""
    command = [
        program("smtp-source"), "-d", "-N", "-s", str(min(sessions, messages)), "-m", str(messages), "-l", str(size),
        "-r", str(recipients), "-f", "sender@bench.test", "-t", f"user@{domain}", f"inet:{address}:{port}",
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode or done.stderr:
        raise SystemExit(f"smtp-source failed: {done.stderr}")


def offer_each(port: int, domains: Sequence[str], messages: int, size: int) -> None:
    """Offer so many messages to each domain, 20 domains at a time over one session each."""
    with ThreadPoolExecutor(SESSIONS) as generators:
        for done in [generators.submit(offer, port, domain, messages, size, sessions=1) for domain in domains]:
            done.result()


def own_seconds() -> float:
    """Return the CPU time of this process and of the generators that have ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system
