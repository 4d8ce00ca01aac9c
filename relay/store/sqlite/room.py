"""How much may still be stored: the disk's free space and the file's own free pages."""

import os
import sqlite3
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from relay.store.sqlite.reader import Reader

_LIFE = timedelta(seconds=1)
"""How long a measurement is believed."""


class Room:
    """Answers from the last measurement while somebody takes a new one. `free_on_disk` counts bytes."""

    def __init__(self, reader: Reader, *, free_on_disk: Callable[[], int], min_free: int) -> None:
        self._free_on_disk = free_on_disk
        self._reader = reader
        self._min_free = min_free
        self._free: int | None = None
        self._measured_at: datetime | None = None

    async def has(self, size: int, now: datetime) -> bool:
        """Whether `size` bytes may come. They are in the log and in the file for a while, so they count twice."""
        if self._free is None or self._measured_at is None or abs(now - self._measured_at) >= _LIFE:
            self._measured_at = now
            self._free = await self._reader.run(self._measure)
        return self._free - 2 * size >= self._min_free

    def _measure(self, connection: sqlite3.Connection) -> int:
        pages, page_size = (
            int(connection.execute(f"PRAGMA {name}").fetchone()[0]) for name in ("freelist_count", "page_size")
        )
        return self._free_on_disk() + pages * page_size


def free_on_disk(path: Path) -> int:
    """Return the bytes that a process without privileges may still write beside the file."""
    disk = os.statvfs(path.parent)
    return disk.f_bavail * disk.f_frsize
