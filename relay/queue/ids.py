"""Queue ids: 128 bits, ordered by time, carrying the number of the worker that made them. **Pure.**

26 characters of Crockford's base 32 (no I, L, O, U), upper case: safe in replies, headers, file names and URLs.
Layout: 48 bits of milliseconds since 1970 UTC, 12 bits of worker, 68 bits of randomness.
"""

from collections.abc import Callable
from datetime import datetime

MAX_WORKER = (1 << 12) - 1

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_LENGTH = 26
_TAIL_BITS = 68
_RANDOM_BYTES = 8
_STEP_BYTES = 3


class QueueIds:
    """Makes the ids of one worker; each is greater than the one before, even if the clock goes back.

    `now` gives the time, `random(n)` n random bytes.
    """

    def __init__(self, worker: int, now: Callable[[], datetime], random: Callable[[int], bytes]) -> None:
        if not 0 <= worker <= MAX_WORKER:
            raise ValueError(f"no worker number: {worker}")
        self._worker = worker << _TAIL_BITS
        self._now = now
        self._random = random
        self._milliseconds = -1
        self._tail = 0

    def __call__(self) -> str:
        milliseconds = int(self._now().timestamp() * 1000)
        if milliseconds > self._milliseconds:
            self._milliseconds = milliseconds
            # 64 of the 68 bits: what is left over takes 2^44 steps before it could reach the worker's number.
            self._tail = int.from_bytes(self._random(_RANDOM_BYTES), "big")
        else:
            self._tail += 1 + int.from_bytes(self._random(_STEP_BYTES), "big")
        return _encode(self._milliseconds << 80 | self._worker | self._tail)


def worker_of(queue_id: str) -> int:
    """Return the number of the worker that made the id. Raises ValueError if it is no queue id."""
    if len(queue_id) != _LENGTH or queue_id[0] > "7":
        raise ValueError(f"no queue id: {queue_id!r}")
    number = 0
    for letter in queue_id:
        if letter not in _VALUES:
            raise ValueError(f"no queue id: {queue_id!r}")
        number = number << 5 | _VALUES[letter]
    return number >> _TAIL_BITS & MAX_WORKER


def _encode(number: int) -> str:
    return "".join([_PAIRS[number >> shift & 0x3FF] for shift in range(120, -1, -10)])
