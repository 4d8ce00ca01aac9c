"""How processes share the bounds of connections. **Pure.**

Each has its even part of a bound, and needs nobody's leave to use it. Where one stands at its part and another has
some to spare, they are told other bounds. What is taken from one is given to another only once the first has said
that it has let go of it, so that all together never have more than the bound.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from relay.delivery.slot_table import Demand, SlotSettings

_NOTHING = Demand(0, bounded=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """`delivery.max_connections` and `delivery.max_connections_per_destination`, for all processes together."""

    max_connections: int
    max_connections_per_destination: int

    @property
    def most_processes(self) -> int:
        """How many processes can share them: each needs one connection to wherever its own mail goes."""
        return min(self.max_connections, self.max_connections_per_destination)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bounds:
    """What a process is told, with a number to say that it has heard it."""

    number: int
    settings: SlotSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a process has, in all and of the names whose bound matters. `heard`: the last bounds that it keeps to."""

    heard: int
    total: Demand
    named: Mapping[str, Demand]


@dataclass(slots=True)
class _Party:
    """`told` is its bound; `held` what it may still have, which is more until it has heard of a lower bound."""

    told: int
    held: int
    told_in: int = 0
    demand: Demand = _NOTHING

    def tell(self, bound: int, number: int) -> None:
        self.told, self.told_in = bound, number
        self.held = max(self.held, bound)

    def heard(self, demand: Demand, number: int) -> None:
        up_to_date = number >= self.told_in
        if up_to_date:
            self.held = max(self.told, demand.used)
        self.demand = Demand(demand.used, bounded=demand.bounded and up_to_date)


class _Shared:
    """One bound and those under it."""

    def __init__(self, limit: int, parties: Collection[int]) -> None:
        self._limit = limit
        part = limit // len(parties)
        self.parties = {party: _Party(part, part) for party in parties}

    def divide(self, number: int) -> bool:
        """Tell other bounds if somebody needs more than he has; whether any were told."""
        wants = {party: self._want(one.demand) for party, one in self.parties.items()}
        if not any(one.demand.bounded for one in self.parties.values()):
            if not self._back_to_parts_possible:
                return False
            wants = dict.fromkeys(wants, self._limit)
        before = [one.told for one in self.parties.values()]
        fair = _fair(self._limit, wants)
        for lower in (True, False):
            for party, one in self.parties.items():
                if lower and fair[party] < one.told:
                    one.tell(fair[party], number)
                if not lower and fair[party] > one.told:
                    free = self._limit - sum(other.held for other in self.parties.values())
                    if (bound := min(fair[party], one.held + free)) > one.told:
                        one.tell(bound, number)
        return before != [one.told for one in self.parties.values()]

    @property
    def even(self) -> bool:
        """Whether everybody has his part again, and no more."""
        part = self._limit // len(self.parties)
        return all(one.told == one.held == part for one in self.parties.values())

    @property
    def _back_to_parts_possible(self) -> bool:
        part = self._limit // len(self.parties)
        return all(one.demand.used < part for one in self.parties.values())

    def _want(self, demand: Demand) -> int:
        return self._limit if demand.bounded else min(2 * demand.used + 1, self._limit)


def _fair(limit: int, wants: Mapping[int, int]) -> dict[int, int]:
    """Divide so that nobody gets more than he wants while another gets less than he wants and less than that one.

    Who wants all gets an even part at least; what is left over by the division stays unused.
    """
    fair: dict[int, int] = {}
    left = limit
    greedy = [party for party, want in wants.items() if want >= limit]
    modest = sorted((want, party) for party, want in wants.items() if want < limit)
    for index, (want, party) in enumerate(modest):
        fair[party] = min(want, left // (len(wants) - index))
        left -= fair[party]
    return fair | dict.fromkeys(greedy, left // len(greedy) if greedy else 0)


@dataclass(slots=True)
class Allotment:
    """The bounds of all processes; `heard` returns which of them are to be told new ones."""

    limits: Limits
    parties: frozenset[int]
    _number: int = 0
    _total: _Shared = field(init=False)
    _names: dict[str, _Shared] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self._total = _Shared(self.limits.max_connections, self.parties)

    def bounds(self, party: int) -> Bounds:
        """What a process is to be told, now and when it is started anew."""
        return Bounds(
            number=self._number,
            settings=SlotSettings(
                max_connections=self._total.parties[party].told,
                max_connections_per_destination=self._part,
                named={name: shared.parties[party].told for name, shared in self._names.items()},
            ),
        )

    def heard(self, party: int, report: Report) -> bool:
        """Take in what a process has; whether all are to be told new bounds."""
        self._number += 1
        for name in report.named.keys() - self._names.keys():
            if report.named[name].bounded:
                self._names[name] = _Shared(self.limits.max_connections_per_destination, self.parties)
        changed = self._heard(self._total, party, report.total, report.heard)
        for name, shared in [*self._names.items()]:
            changed = self._heard(shared, party, report.named.get(name, _NOTHING), report.heard) or changed
            if shared.even and not any(one.demand.bounded for one in shared.parties.values()):
                del self._names[name]
        return changed

    def died(self, party: int) -> None:
        """The process is gone, with its connections; its successor begins under its bounds."""
        for shared in (self._total, *self._names.values()):
            one = shared.parties[party]
            one.held, one.told_in, one.demand = one.told, 0, _NOTHING

    def left(self, party: int) -> None:
        """The process is gone, with its connections, and has no successor; all others are to be told new bounds."""
        self._number += 1
        self.parties -= {party}
        for shared in (self._total, *self._names.values()):
            del shared.parties[party]
            shared.divide(self._number)

    @property
    def _part(self) -> int:
        return self.limits.max_connections_per_destination // len(self.parties)

    def _heard(self, shared: _Shared, party: int, demand: Demand, number: int) -> bool:
        shared.parties[party].heard(demand, number)
        return shared.divide(self._number)
