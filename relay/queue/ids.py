"""Queue ids: 128 bits, ordered by time, carrying the number of the worker that made them. **Pure.**

26 characters of Crockford's base 32 (no I, L, O, U), upper case: safe in replies, headers, file names and URLs.
Layout: 48 bits of milliseconds since 1970 UTC, 12 bits of worker, 8 bits that count within a millisecond, and 60 bits
of randomness, which are 12 letters of their own.
"""

from collections.abc import Callable
from datetime import datetime
from functools import lru_cache

MAX_WORKER = (1 << 12) - 1

_ALPHABET = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"
_VALUES = {letter: value for value, letter in enumerate(_ALPHABET)}
_PAIRS = tuple(high + low for high in _ALPHABET for low in _ALPHABET)
_LETTERS = bytes(ord(_ALPHABET[octet % 32]) for octet in range(256))
_LENGTH = 26
_COUNT_BITS = 8
_COUNT = (1 << _COUNT_BITS) - 1
_RANDOM_LETTERS = 12
_TAIL_BITS = _COUNT_BITS + 5 * _RANDOM_LETTERS


class QueueIds:
    """Makes the ids of one worker; each is greater than the one before, even if the clock goes back.

    `now` gives the time, `random(n)` n random bytes.
    """

    def __init__(self, worker: int, now: Callable[[], datetime], random: Callable[[int], bytes]) -> None:
        if not 0 <= worker <= MAX_WORKER:
            raise ValueError(f"no worker number: {worker}")
        self._worker = worker << _COUNT_BITS
        self._now = now
        self._random = random
        self._last = -1

    def __call__(self) -> str:
        # Milliseconds and count as one number, so that a millisecond with too many ids runs on into the next.
        self._last = last = max(int(self._now().timestamp() * 1000) << _COUNT_BITS, self._last + 1)
        time, maker = last >> _COUNT_BITS, self._worker | last & _COUNT
        random = self._random(_RANDOM_LETTERS).translate(_LETTERS).decode("ascii")
        changing = _PAIRS[time >> 10 & 0x3FF] + _PAIRS[time & 0x3FF] + _PAIRS[maker >> 10] + _PAIRS[maker & 0x3FF]
        return _slowly(time >> 20) + changing + random


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


@lru_cache(maxsize=1)
def _slowly(time: int) -> str:
    """The six letters that change every 17 minutes."""
    return _PAIRS[time >> 20 & 0x3FF] + _PAIRS[time >> 10 & 0x3FF] + _PAIRS[time & 0x3FF]
