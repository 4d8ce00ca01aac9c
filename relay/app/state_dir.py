"""The directory of the queue: made for us alone, and held by one relay at a time."""

import fcntl
import os
import re
from pathlib import Path
from types import TracebackType
from typing import Self

POLICY_FILE = "policy.db"
REPORT_FILE = "reports.db"
_LOCK_FILE = "lock"
NODE = "local"
"""Whoever holds the lock is the only worker on these files, whatever the host is called: a container is called anew
at each start, and leases of the one before are to be freed at once.
"""


_QUEUE_FILE = re.compile(r"queue-(0|[1-9][0-9]{0,3})\.db")


def queue_file(directory: Path, number: int) -> Path:
    """Return the file that the worker process of this number owns; a relay of one process owns that of number 0."""
    return directory / f"queue-{number}.db"


def queue_files(directory: Path) -> dict[int, Path]:
    """Return the queue files that there are, by number."""
    named = ((_QUEUE_FILE.fullmatch(file.name), file) for file in directory.glob("queue-*.db"))
    return dict(sorted((int(match[1]), file) for match, file in named if match))


def remove_queue_file(file: Path) -> None:
    """Remove a file that nobody has open. What belongs to it goes first: a later file of the name would inherit it."""
    for part in ("-wal", "-shm", ""):
        file.with_name(file.name + part).unlink(missing_ok=True)


class StateDirError(Exception):
    """The directory cannot be used, and why."""


class StateDirLock:
    """A context manager: while inside, no other relay can get in.

    Processes that inherit `fd` hold it as well: the system lets go when the last of them is gone, whoever dies first.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._fd = -1

    @property
    def fd(self) -> int:
        return self._fd

    def __enter__(self) -> Self:
        """Raises StateDirError, naming who holds it."""
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._fd = os.open(self._directory / _LOCK_FILE, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise StateDirError(f"{self._directory} cannot be used: {error.strerror}") from error
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(self._fd, 32, 0).decode("ascii", "replace").strip()
            self._close()
            raise StateDirError(f"{self._directory} is in use by process {holder or 'unknown'}") from None
        os.ftruncate(self._fd, 0)
        os.pwrite(self._fd, f"{os.getpid()}\n".encode(), 0)
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        # The file stays: to remove it would let two processes lock two files of the same name.
        self._close()

    def _close(self) -> None:
        os.close(self._fd)
        self._fd = -1
