"""Which connections may be had at once: per recipient domain, per MX host, and for domains not proven. **Pure.**

A domain is proven for ten minutes after a delivery. All others together have a quarter of the connections, and each
of them one, so that hosts that hang cannot keep mail from hosts that work (design §3, Slots).
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum

PROVEN_SECONDS = 600.0
_MAX_REMEMBERED = 20_000


class Standing(Enum):
    """What is known of a domain's hosts."""

    PROVEN = "proven"
    NEW = "new"
    SLOW = "slow"


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotSettings:
    """The bounds of [delivery]: connections in all, and for one recipient domain as for one MX host.

    `named` has the bounds of single domains and MX hosts in its place, for a process that shares them with others:
    with 0 nobody is let in until the settings are others.
    """

    max_connections: int = 200
    max_connections_per_destination: int = 20
    named: Mapping[str, int] = field(default_factory=dict)

    @property
    def unproven(self) -> int:
        return max(1, self.max_connections // 4)

    @property
    def slow(self) -> int:
        return max(1, self.unproven // 2)

    def most(self, name: str) -> int:
        """How many connections a recipient domain or an MX host may have."""
        return self.named.get(name, self.max_connections_per_destination)


@dataclass(frozen=True, slots=True)
class Demand:
    """How many connections a name has, and whether its bound is what keeps it from more."""

    used: int
    bounded: bool


@dataclass(slots=True)
class _Success:
    at: float
    limit: int


class SlotTable:
    """The counts and the rule; no waiting, no clock. Times are seconds of a timer that never goes back."""

    def __init__(self, settings: SlotSettings) -> None:
        self.settings = settings
        self._destinations: Counter[str] = Counter()
        self._mx_hosts: Counter[str] = Counter()
        self._standings: Counter[Standing] = Counter()
        self._successes: OrderedDict[str, _Success] = OrderedDict()
        self._slow: OrderedDict[str, None] = OrderedDict()

    @property
    def in_use(self) -> int:
        return self._standings.total()

    def standing(self, destination: str, now: float) -> Standing:
        success = self._successes.get(destination)
        if success is not None and now - success.at < PROVEN_SECONDS:
            return Standing.PROVEN
        return Standing.SLOW if destination in self._slow else Standing.NEW

    def limit(self, destination: str, now: float) -> int:
        """How many connections the destination may have: one more with each success, half after a failure."""
        limit = self._successes[destination].limit if self.standing(destination, now) is Standing.PROVEN else 1
        return min(limit, self.settings.most(destination))

    def take(self, destination: str, mx_host: str, now: float) -> Standing | None:
        """Take a slot, or return None if there is none; the standing it was taken at goes back with `give_back`."""
        standing = self.standing(destination, now)
        unproven = self._standings[Standing.NEW] + self._standings[Standing.SLOW]
        if (
            self.in_use >= self.settings.max_connections
            or self._destinations[destination] >= self.limit(destination, now)
            or self._mx_hosts[mx_host] >= self.settings.most(mx_host)
            or (standing is not Standing.PROVEN and unproven >= self.settings.unproven)
            or (standing is Standing.SLOW and self._standings[Standing.SLOW] >= self.settings.slow)
        ):
            return None
        self._destinations[destination] += 1
        self._mx_hosts[mx_host] += 1
        self._standings[standing] += 1
        return standing

    def give_back(self, destination: str, mx_host: str, standing: Standing) -> None:
        for counter, key in ((self._destinations, destination), (self._mx_hosts, mx_host)):
            counter[key] -= 1
            if not counter[key]:
                del counter[key]
        self._standings[standing] -= 1

    def demand(self) -> dict[str, Demand]:
        """What the domains and MX hosts have that stand at their bound, or whose bound is a named one."""
        used = self._destinations | self._mx_hosts  # of the same name, the greater count
        found = {name: Demand(count, count >= self.settings.most(name)) for name, count in used.items()}
        return {name: one for name, one in found.items() if one.bounded or name in self.settings.named}

    def exceeded(self, destination: str, mx_host: str, now: float) -> bool:
        """Whether the destination or the host has more than it may have by now."""
        return self._destinations[destination] > self.limit(destination, now) or self._mx_hosts[
            mx_host
        ] > self.settings.most(mx_host)

    @property
    def full(self) -> bool:
        return self.in_use >= self.settings.max_connections

    @property
    def unproven_are_full(self) -> bool:
        return self._standings[Standing.NEW] + self._standings[Standing.SLOW] >= self.settings.unproven

    def succeeded(self, destination: str, now: float) -> None:
        """Mail was taken: the destination is proven from now on."""
        limit = self.limit(destination, now) + 1
        self._slow.pop(destination, None)
        self._successes[destination] = _Success(now, min(limit, self.settings.most(destination)))
        _remember(self._successes, destination)

    def failed(self, destination: str) -> None:
        """No host of the destination could be reached just now."""
        if success := self._successes.get(destination):
            success.limit = max(1, success.limit // 2)

    def gave_way(self, destination: str) -> None:
        self._slow[destination] = None
        _remember(self._slow, destination)


def _remember(remembered: "OrderedDict[str, _Success] | OrderedDict[str, None]", key: str) -> None:
    remembered.move_to_end(key)
    if len(remembered) > _MAX_REMEMBERED:
        remembered.popitem(last=False)
