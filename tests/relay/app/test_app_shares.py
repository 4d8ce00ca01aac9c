"""How processes share bounds of connections: never more than the bound together, and nobody without any."""

import random
from dataclasses import dataclass, field

import pytest
from hypothesis import given
from hypothesis import strategies as st

from relay.app.part import part_of
from relay.app.restarts import Restarts
from relay.app.shares import Allotment, Bounds, Limits, Report
from relay.config import Settings
from relay.delivery.slot_table import Demand

LIMITS = Limits(max_connections=40, max_connections_per_destination=20)
NONE = Demand(0, bounded=False)


@dataclass
class Process:
    """Does what a worker does: takes as much as it wants and may, lets go when it wants to, and reports."""

    bounds: Bounds
    used: dict[str, int] = field(default_factory=dict)
    wants: dict[str, int] = field(default_factory=dict)

    def work(self, chance: random.Random) -> None:
        for name, want in self.wants.items():
            have = self.used.get(name, 0)
            if have < min(want, self.bounds.settings.most(name)) and self.total < self.bounds.settings.max_connections:
                self.used[name] = have + 1
            elif have > want or (have and self._over(name) and chance.random() < 0.5):
                self.used[name] = have - 1

    def _over(self, name: str) -> bool:
        return self.used[name] > self.bounds.settings.most(name) or self.total > self.bounds.settings.max_connections

    @property
    def total(self) -> int:
        return sum(self.used.values())

    def report(self) -> Report:
        settings = self.bounds.settings
        named = {
            name: Demand(used, bounded=used >= settings.most(name))
            for name, used in self.used.items()
            if used and (used >= settings.most(name) or name in settings.named)
        }
        total = Demand(self.total, bounded=self.total >= settings.max_connections)
        return Report(heard=self.bounds.number, total=total, named=named)


class World:
    """Processes and the parent; bounds and reports arrive late, in the order in which they were sent."""

    def __init__(self, limits: Limits, parties: int, seed: int) -> None:
        self.limits = limits
        self.chance = random.Random(seed)
        self.allotment = Allotment(limits, frozenset(range(parties)))
        self.processes = {party: Process(self.allotment.bounds(party)) for party in range(parties)}
        self.reports: dict[int, list[Report]] = {party: [] for party in range(parties)}
        self.told: dict[int, list[Bounds]] = {party: [] for party in range(parties)}

    def step(self) -> None:
        party = self.chance.choice([*self.processes])
        process = self.processes[party]
        match self.chance.randrange(4):
            case 0:
                process.work(self.chance)
            case 1:
                self.reports[party].append(process.report())
            case 2 if self.reports[party]:
                if self.allotment.heard(party, self.reports[party].pop(0)):
                    self.tell_all()
            case 3 if self.told[party]:
                process.bounds = self.told[party].pop(0)
        self.check()

    def tell_all(self) -> None:
        for party in self.processes:
            self.told[party].append(self.allotment.bounds(party))

    def die(self, party: int) -> None:
        self.reports[party].clear()
        self.told[party].clear()
        self.allotment.died(party)
        self.processes[party] = Process(self.allotment.bounds(party), wants=self.processes[party].wants)

    def leave(self, party: int) -> None:
        del self.processes[party]
        self.allotment.left(party)
        self.tell_all()

    def check(self) -> None:
        assert sum(process.total for process in self.processes.values()) <= self.limits.max_connections
        for name in {name for process in self.processes.values() for name in process.used}:
            used = sum(process.used.get(name, 0) for process in self.processes.values())
            assert used <= self.limits.max_connections_per_destination
        for process in self.processes.values():
            assert process.bounds.settings.max_connections >= 1
            assert min([1, *process.bounds.settings.named.values()]) >= 1

    def settle(self) -> None:
        """Let everything that there is to say be said and heard, for some rounds."""
        for _ in range(60):
            for party, process in self.processes.items():
                for _ in range(5):
                    process.work(self.chance)
                if self.allotment.heard(party, process.report()):
                    self.tell_all()
            for party, process in self.processes.items():
                if self.told[party]:
                    process.bounds = self.told[party][-1]
                    self.told[party].clear()
            self.check()


@given(
    parties=st.integers(1, 4),
    limits=st.tuples(st.integers(4, 40), st.integers(4, 20)),
    seed=st.integers(0, 10_000),
    wants=st.lists(st.dictionaries(st.sampled_from(["a", "b", "mx"]), st.integers(0, 30)), min_size=4, max_size=4),
)
def test_together_they_never_have_more_than_the_bound(
    parties: int, limits: tuple[int, int], seed: int, wants: list[dict[str, int]]
) -> None:
    world = World(Limits(max_connections=limits[0], max_connections_per_destination=limits[1]), parties, seed)
    for turn in range(6):
        for party, process in world.processes.items():
            process.wants = dict.fromkeys(process.used, 0) | wants[(party + turn) % 4]
        for _ in range(80):
            world.step()
        if turn == 3:
            world.die(next(iter(world.processes)))
        if turn == 4 and len(world.processes) > 1:
            gone = [*world.processes][-1]
            world.leave(gone)


def test_each_has_its_even_part_without_a_question() -> None:
    world = World(LIMITS, 2, seed=1)
    settings = world.processes[0].bounds.settings
    assert (settings.max_connections, settings.most("a.test"), settings.named) == (20, 10, {})


def test_who_needs_more_gets_what_nobody_else_uses() -> None:
    world = World(LIMITS, 2, seed=1)
    world.processes[0].wants = {"a.test": 30}
    world.settle()
    assert world.processes[0].used == {"a.test": 19}
    world.processes[1].wants = {"a.test": 30}
    world.settle()
    assert [process.used for process in world.processes.values()] == [{"a.test": 10}] * 2
    world.processes[0].wants = {"a.test": 0}
    world.settle()
    assert [process.used["a.test"] for process in world.processes.values()] == [0, 19]
    world.processes[1].wants = {"a.test": 0}
    world.settle()
    assert [process.bounds.settings.named for process in world.processes.values()] == [{}, {}]


def test_the_bound_for_all_moves_as_well() -> None:
    world = World(Limits(max_connections=10, max_connections_per_destination=4), 2, seed=1)
    world.processes[0].wants = {f"{n}.test": 2 for n in range(8)}
    world.settle()
    assert world.processes[0].total == 9
    world.processes[1].wants = {f"{n}.example": 2 for n in range(8)}
    world.settle()
    assert [process.total for process in world.processes.values()] == [5, 5]


def test_as_many_processes_as_connections_have_one_each() -> None:
    world = World(Limits(max_connections=4, max_connections_per_destination=4), 4, seed=1)
    for process in world.processes.values():
        process.wants = {"a.test": 9}
    world.settle()
    assert [process.used["a.test"] for process in world.processes.values()] == [1] * 4


def test_a_successor_begins_under_the_bounds_of_the_one_that_died() -> None:
    world = World(LIMITS, 2, seed=1)
    world.processes[0].wants = {"a.test": 30}
    world.settle()
    world.die(1)
    assert world.processes[1].bounds.settings.most("a.test") == 1


def test_who_leaves_leaves_his_part_to_the_others() -> None:
    world = World(LIMITS, 2, seed=1)
    world.leave(1)
    world.settle()
    settings = world.processes[0].bounds.settings
    assert (settings.max_connections, settings.most("a.test")) == (40, 20)


def test_restarts_are_at_once_then_ever_later() -> None:
    restarts = Restarts()
    assert [restarts.died(5.0) for _ in range(6)] == [0.0, 1.0, 2.0, 4.0, 8.0, 8.0]
    assert restarts.in_a_row == 6
    assert restarts.died(60.0) == 0.0
    assert restarts.in_a_row == 1


@pytest.mark.parametrize("parts", [1, 2, 3])
def test_a_part_has_an_even_share_of_what_clients_may_use(parts: int) -> None:
    part = part_of(Settings(), parts)
    assert part.access.max_connections == 1000 // parts
    assert part.access.max_connections_per_client == 100 // parts
    assert part.access.max_messages_per_minute_per_client == 0
    assert part.queue.memory_budget == (256 << 20) // parts
    rate = Settings().access.model_copy(update={"max_messages_per_minute_per_client": 2})
    assert part_of(Settings(access=rate), parts).access.max_messages_per_minute_per_client == max(2 // parts, 1)
