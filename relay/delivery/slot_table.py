"""Which connections may be had at once: per recipient domain, per MX host, and for domains not proven. **Pure.**

A domain is proven for ten minutes after a delivery. All others together have a quarter of the connections, and each
of them one, so that hosts that hang cannot keep mail from hosts that work (design §3, Slots). A proven domain has one
more with each message that is taken, and half as many when no host of it is to be reached; an MX host has as many as
`concurrency` says.
"""

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TypeVar

from policy.names import IPAddress
from relay.delivery.concurrency import FIRST_LIMIT, Window, one_too_many, overloaded
from relay.queue.attempt import HostFailure, Phase
from relay.value import Choice

PROVEN_SECONDS = 600.0
_MAX_REMEMBERED = 20_000

K = TypeVar("K")
V = TypeVar("V")


class Standing(Choice):
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

    def lower_than(self, other: "SlotSettings") -> bool:
        """Whether any of these bounds is lower than it is there."""
        return (
            self.max_connections < other.max_connections
            or self.max_connections_per_destination < other.max_connections_per_destination
            or any(self.most(name) < other.most(name) for name in self.named.keys() | other.named.keys())
        )


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
        self.in_use = 0
        self._destinations: Counter[str] = Counter()
        self._mx_hosts: Counter[str] = Counter()
        self._unproven = 0
        self._slow_ones = 0
        self._successes: OrderedDict[str, _Success] = OrderedDict()
        self._slow: OrderedDict[str, None] = OrderedDict()
        self._windows: OrderedDict[str, Window] = OrderedDict()
        self._cooled: OrderedDict[str, int] = OrderedDict()
        self._sessions: Counter[tuple[str, IPAddress]] = Counter()

    def standing(self, destination: str, now: float) -> Standing:
        success = self._successes.get(destination)
        if success is not None and now - success.at < PROVEN_SECONDS:
            return Standing.PROVEN
        return Standing.SLOW if destination in self._slow else Standing.NEW

    def limit(self, destination: str, now: float) -> int:
        """How many connections the destination may have: one more with each success, half after a failure."""
        success, settings = self._successes.get(destination), self.settings
        limit = success.limit if success is not None and now - success.at < PROVEN_SECONDS else 1
        return min(limit, settings.named.get(destination, settings.max_connections_per_destination))

    def host_limit(self, mx_host: str) -> int:
        """How many connections the MX host may have."""
        window, settings = self._windows.get(mx_host), self.settings
        limit = window.limit if window is not None else FIRST_LIMIT
        return min(limit, settings.named.get(mx_host, settings.max_connections_per_destination))

    def take(self, destination: str, mx_host: str, now: float) -> Standing | None:
        """Take a slot, or return None if there is none; the standing it was taken at goes back with `give_back`."""
        standing = self.standing(destination, now)
        of_destination, of_host = self._destinations.get(destination, 0), self._mx_hosts.get(mx_host, 0)
        if (
            self.full
            or of_destination >= self.limit(destination, now)
            or of_host >= self.host_limit(mx_host)
            or (standing is not Standing.PROVEN and self.unproven_are_full)
            or (standing is Standing.SLOW and self._slow_ones >= self.settings.slow)
        ):
            return None
        self._destinations[destination], self._mx_hosts[mx_host] = of_destination + 1, of_host + 1
        self._count(standing, 1)
        return standing

    def give_back(self, destination: str, mx_host: str, standing: Standing) -> None:
        _count_down(self._destinations, destination)
        _count_down(self._mx_hosts, mx_host)
        self._count(standing, -1)

    def _count(self, standing: Standing, change: int) -> None:
        self.in_use += change
        if standing is not Standing.PROVEN:
            self._unproven += change
            self._slow_ones += change if standing is Standing.SLOW else 0

    def demand(self) -> dict[str, Demand]:
        """What the domains and MX hosts have that stand at their bound, or whose bound is a named one."""
        used = self._destinations | self._mx_hosts  # of the same name, the greater count
        found = {name: Demand(count, count >= self.settings.most(name)) for name, count in used.items()}
        return {name: one for name, one in found.items() if one.bounded or name in self.settings.named}

    def exceeded(self, destination: str, mx_host: str, now: float) -> bool:
        """Whether the destination or the host has more than it may have by now."""
        too_many = self._destinations.get(destination, 0) > self.limit(destination, now)
        return too_many or self._mx_hosts.get(mx_host, 0) > self.host_limit(mx_host)

    @property
    def full(self) -> bool:
        return self.in_use >= self.settings.max_connections

    @property
    def unproven_are_full(self) -> bool:
        return self._unproven >= self.settings.unproven

    def session_began(self, destination: str, mx_host: str, address: IPAddress) -> None:
        self._cooled.pop(destination, None)
        self._sessions[mx_host, address] += 1

    def session_ended(self, mx_host: str, address: IPAddress) -> None:
        _count_down(self._sessions, (mx_host, address))

    def succeeded(self, destination: str, mx_host: str, now: float) -> bool:
        """The host took mail: the destination is proven from now on. Return whether more may be had than before."""
        self._slow.pop(destination, None)
        before = self.limit(destination, now)
        limit = min(before + 1, self.settings.most(destination))
        _remember(self._successes, destination, _Success(now, limit))
        in_use, most = self._mx_hosts.get(mx_host, 0), self.settings.most(mx_host)
        return self._window(mx_host).took_mail(in_use, most, now) or limit > before

    def refused(self, mx_host: str, address: IPAddress, failure: HostFailure, phase: Phase, now: float) -> bool:
        """The host failed somebody who still counts as one of its connections, but has no session.

        Return whether it only has connections enough.
        """
        others = self._mx_hosts[mx_host] - 1
        enough = one_too_many(failure, phase, self._sessions[mx_host, address])
        if enough:
            self._window(mx_host).refused_one(others, now)
        elif phase is not Phase.CONNECT and overloaded(failure, phase):  # else this address is dead, not the host
            self._window(mx_host).was_overloaded(now)
        return enough

    def _window(self, mx_host: str) -> Window:
        window = self._windows.get(mx_host)
        if window is None:
            window = Window()
            _remember(self._windows, mx_host, window)
        else:
            self._windows.move_to_end(mx_host)
        return window

    def failed(self, destination: str) -> None:
        """No host of the destination could be reached just now."""
        if success := self._successes.get(destination):
            success.limit = max(1, success.limit // 2)

    def cooled(self, destination: str) -> int:
        """Count how often the destination was given up for a while, one time after the other."""
        times = self._cooled.get(destination, 0) + 1
        _remember(self._cooled, destination, times)
        return times

    def gave_way(self, destination: str) -> None:
        _remember(self._slow, destination, None)


def _remember(remembered: OrderedDict[str, V], key: str, value: V) -> None:
    remembered[key] = value
    remembered.move_to_end(key)
    if len(remembered) > _MAX_REMEMBERED:
        remembered.popitem(last=False)


def _count_down(counter: Counter[K], key: K) -> None:
    counter[key] -= 1
    if not counter[key]:
        del counter[key]
