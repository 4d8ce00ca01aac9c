"""Bounds on what clients may use: connections, messages a minute, memory, tries at AUTH. **Pure.** (counting only)

The time is given by the caller. Each table has a bound; what is over it forgets the oldest.
"""

from collections import Counter, OrderedDict
from datetime import datetime, timedelta

_MAX_CLIENTS = 10_000
_FREE_TRIES = 3
_LONGEST_BACK_OFF = timedelta(minutes=15)
_ROOM_LIFE = timedelta(seconds=1)


class ConnectionCount:
    """Open connections, in all and per client."""

    def __init__(self, *, most: int, most_per_client: int) -> None:
        self.most = most
        self.most_per_client = most_per_client
        self.open = 0
        self._by_client: Counter[str] = Counter()

    def enter(self) -> bool:
        """Count a connection; False, and not counted, if there are too many."""
        if self.open >= self.most:
            return False
        self.open += 1
        return True

    def enter_client(self, client: str) -> bool:
        """Count a connection for its client; False, and not counted, if it has too many."""
        if self._by_client[client] >= self.most_per_client:
            return False
        self._by_client[client] += 1
        return True

    def leave(self, client: str | None) -> None:
        """Take back what was counted; `client` None if `enter_client` was not reached or said no."""
        self.open -= 1
        if client is not None:
            self._by_client[client] -= 1
            if not self._by_client[client]:
                del self._by_client[client]


class MessageRate:
    """Messages per client in the current minute; 0 means no bound."""

    def __init__(self, most_per_minute: int) -> None:
        self.most_per_minute = most_per_minute
        self._minute = -1
        self._counts: Counter[str] = Counter()

    def admit(self, client: str, now: datetime) -> bool:
        """Count a message, unless the client has had its share of this minute."""
        if not self.most_per_minute:
            return True
        minute = int(now.timestamp()) // 60
        if minute != self._minute or len(self._counts) > _MAX_CLIENTS:
            self._minute = minute
            self._counts.clear()
        if self._counts[client] >= self.most_per_minute:
            return False
        self._counts[client] += 1
        return True


class MemoryBudget:
    """Octets of content that all sessions together hold."""

    def __init__(self, most: int) -> None:
        self.most = most
        self.used = 0

    def take(self, octets: int) -> bool:
        """Reserve; False, and nothing reserved, if it would be too much."""
        if self.used + octets > self.most:
            return False
        self.used += octets
        return True

    def give_back(self, octets: int) -> None:
        self.used -= octets


class KnownRoom:
    """A size that the store had room for less than a second ago: for what is no larger it need not be asked."""

    def __init__(self) -> None:
        self._size = -1
        self._found_at: datetime | None = None

    def covers(self, size: int, now: datetime) -> bool:
        return size <= self._size and self._found_at is not None and abs(now - self._found_at) < _ROOM_LIFE

    def found(self, size: int, now: datetime) -> None:
        self._size, self._found_at = size, now


class AuthBackOff:
    """Failed tries at AUTH per client: three are free, then each doubles the wait, to 15 minutes."""

    def __init__(self) -> None:
        self._failures: OrderedDict[str, tuple[int, datetime]] = OrderedDict()

    def blocked(self, client: str, now: datetime) -> bool:
        """Whether the client has to wait before it may try again."""
        count, last = self._failures.get(client, (0, now))
        if count < _FREE_TRIES:
            return False
        wait = min(timedelta(seconds=2 ** min(count - _FREE_TRIES, 30)), _LONGEST_BACK_OFF)
        return now < last + wait

    def failed(self, client: str, now: datetime) -> None:
        count, last = self._failures.pop(client, (0, now))
        if now - last > 4 * _LONGEST_BACK_OFF:
            count = 0
        self._failures[client] = (count + 1, now)
        if len(self._failures) > _MAX_CLIENTS:
            self._failures.popitem(last=False)

    def succeeded(self, client: str) -> None:
        self._failures.pop(client, None)
