"""Memory of the ingress with many idle client sessions, and its CPU to begin and to end them.

    PYTHONPATH=.:tests python tests/bench/bench_idle.py [--sessions N]

The clients are a process of their own; each has had its greeting and its EHLO answered. Both processes need a file
descriptor for each session (`ulimit -n`).
"""

import argparse
import asyncio
import gc
import resource
import sys
from datetime import timedelta
from pathlib import Path

from bench_ingress import NoStore, cpu_seconds, new_listeners

from relay.ingress.settings import AccessSettings

_CLIENTS = """
import resource, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
sessions = []
for _ in range(int(sys.argv[3])):
    client = socket.create_connection((sys.argv[1], int(sys.argv[2])))
    client.recv(512)
    client.sendall(b"EHLO client.example\\r\\n")
    client.recv(2048)
    sessions.append(client)
print("open", flush=True)
sys.stdin.read()
"""


def memory() -> int:
    """Octets of this process's proportional set size."""
    gc.collect()
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()
    return sum(int(line.split()[1]) * 1024 for line in lines if line.startswith("Pss:"))


async def run(sessions: int) -> None:
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    access = AccessSettings(max_connections=sessions, max_connections_per_client=sessions)
    listeners = new_listeners(NoStore(), access)
    await listeners.start()
    host, port = listeners.addresses[0]
    idle, began = memory(), cpu_seconds()
    clients = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _CLIENTS, host, str(port), str(sessions),
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
    )  # fmt: skip
    assert clients.stdin is not None
    assert clients.stdout is not None
    if await clients.stdout.readline() != b"open\n" or listeners.session_count != sessions:
        sys.exit(f"{listeners.session_count} of {sessions} sessions are open")
    cpu, grown = cpu_seconds() - began, memory() - idle
    clients.stdin.close()
    await clients.wait()
    while listeners.session_count:  # noqa: ASYNC110  what is waited for has no event
        await asyncio.sleep(0.01)
    ended = cpu_seconds() - began - cpu
    await listeners.stop(timedelta(seconds=5))
    print(
        f"{sessions} idle sessions: {grown / 1e6:,.1f} MB above idle, {grown / sessions / 1000:,.1f} kB each; "
        f"{1000 * cpu / sessions:.3f} ms CPU to begin one, {1000 * ended / sessions:.3f} ms to end it"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sessions", type=int, default=10_000)
    asyncio.run(run(parser.parse_args().sessions))


if __name__ == "__main__":
    main()
