"""Queue files of a former, larger number of workers: their mail is delivered, then they go."""

from collections.abc import Collection
from pathlib import Path

from relay import events, process_events
from relay.app.clock import SystemClock
from relay.app.operating import new_incarnation
from relay.app.session_counts import to_be_reported
from relay.app.state_dir import NODE, queue_file, queue_files, remove_queue_file
from relay.config import Settings
from relay.store.protocols import QueueFilter, QueueStore
from relay.store.sqlite.queue import Role, SqliteQueueStore

_MAX_PAUSED = 1_000_000


async def mail_waits(settings: Settings, own: Collection[int]) -> tuple[int, ...]:
    """Return the numbers of the files in which mail waits, besides our `own`. Those with nothing in them are removed.

    A file stays, with nobody to work on it, while it knows of finished mail (`queue.retain_finished`) or of TLS
    sessions that are yet to be reported.
    Nobody may work on these files meanwhile. Raises StoreError.
    """
    others = {number: file for number, file in queue_files(settings.relay.state_dir).items() if number not in own}
    return tuple([number for number, file in others.items() if await _mail_waits_in(file, settings)])


async def _mail_waits_in(file: Path, settings: Settings) -> bool:
    store = await _open(file, settings)
    try:
        for entry in await store.sweep():
            events.poison_held(entry)
        waits = any((await store.stats()).by_state.values())
        empty = not waits and not await store.list(QueueFilter(all=True), 1)
        empty = empty and not await to_be_reported(file, SystemClock().now())
    finally:
        await store.close()
    if empty:
        remove_queue_file(file)
        process_events.queue_file_removed(str(file))
    return waits


async def pause_in_new_files(settings: Settings) -> None:
    """Make the files that workers lack, with the domains paused that are in the others. Raises StoreError."""
    there = queue_files(settings.relay.state_dir)
    new = [number for number in range(settings.relay.workers) if number not in there]
    if not new or not there:
        return
    paused: set[str] = set()
    for file in there.values():
        store = await _open(file, settings)
        try:
            paused |= await _paused(store)
        finally:
            await store.close()
    for number in new if paused else ():
        store = await _open(queue_file(settings.relay.state_dir, number), settings)
        try:
            for domain in sorted(paused):
                await store.pause(domain)
        finally:
            await store.close()


async def _paused(store: QueueStore) -> set[str]:
    return {one.name for one in await store.destinations(_MAX_PAUSED) if one.paused}


async def _open(file: Path, settings: Settings) -> SqliteQueueStore:
    return await SqliteQueueStore.open(
        file,
        clock=SystemClock(),
        incarnation=new_incarnation(),
        node=NODE,
        role=Role.OPERATOR,
        retain_finished=settings.queue.retain_finished,
    )
