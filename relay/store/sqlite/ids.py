"""Row ids that are never used twice, taken from the file a block at a time."""

import sqlite3

_BLOCK = 4096


class RowIds:
    """Hands out ids inside transactions. `forget` after every rollback: it may have undone the taking of the block."""

    def __init__(self) -> None:
        self._next = 0
        self._end = 0

    def take(self, connection: sqlite3.Connection, count: int) -> int:
        """Return the first of `count` ids in a row."""
        if self._next + count > self._end:
            (last,) = connection.execute("SELECT last_id FROM sequence").fetchone()
            self._next, self._end = last + 1, last + 1 + _BLOCK + count
            connection.execute("UPDATE sequence SET last_id = ?", (self._end - 1,))
        first = self._next
        self._next += count
        return first

    def forget(self) -> None:
        self._next = self._end = 0
