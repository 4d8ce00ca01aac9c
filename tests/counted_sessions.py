"""Sessions in a queue file that no mail had, for tests of what is made of them."""

from collections.abc import Iterable
from pathlib import Path

from policy_fakes import ManualClock

from relay.queue.tls_results import TlsResult
from relay.store.sqlite.queue import Role, SqliteQueueStore


async def count_in(path: Path, results: Iterable[TlsResult]) -> None:
    """Count them in a file, which is made if need be; a relay may have it open."""
    store = await SqliteQueueStore.open(
        path, clock=ManualClock(), incarnation="counter", node="counter", role=Role.OPERATOR
    )
    try:
        await store.record(list(results))
    finally:
        await store.close()
