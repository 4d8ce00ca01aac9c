"""The work that is in memory, one lane for each destination, and who may have another runner. No I/O here."""

from collections import OrderedDict, deque
from collections.abc import Iterator
from dataclasses import dataclass, field

from relay.queue.message import Job

MAX_HANDED_PROVEN = 1000
MAX_HANDED_UNPROVEN = 16
"""Jobs of one destination that may wait in memory; the rest waits in the store, whose queue has no such bound."""


@dataclass(slots=True, eq=False)
class Lane:
    """The leased jobs of one destination that wait in memory, and the runners that work on them.

    `due`: the store has more that is due. `claiming`: a runner is fetching it.
    """

    destination: str
    jobs: deque[Job] = field(default_factory=deque)
    runners: int = 0
    due: bool = False
    claiming: bool = False

    @property
    def has_work(self) -> bool:
        return bool(self.jobs) or (self.due and not self.claiming)


class Lanes:
    """All lanes, and the line of those that have work but found no room; served in turn."""

    def __init__(self) -> None:
        self._lanes: dict[str, Lane] = {}
        self._line: OrderedDict[str, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._lanes)

    def get(self, destination: str) -> Lane | None:
        return self._lanes.get(destination)

    def at(self, destination: str) -> Lane:
        """The lane of a destination, laid now if there is none."""
        lane = self._lanes.get(destination)
        if lane is None:
            lane = self._lanes[destination] = Lane(destination)
        return lane

    def discard(self, lane: Lane) -> None:
        """Take away a lane that has neither work nor runners."""
        self._lanes.pop(lane.destination, None)
        self._line.pop(lane.destination, None)

    def line_up(self, lane: Lane) -> None:
        """Let the lane wait for room, behind those that wait already."""
        self._line.setdefault(lane.destination)

    def next_in_line(self) -> Lane | None:
        while self._line:
            destination, _ = self._line.popitem(last=False)
            lane = self._lanes.get(destination)
            if lane is not None and lane.has_work:
                return lane
        return None

    def waiting_jobs(self) -> Iterator[Job]:
        for lane in self._lanes.values():
            yield from lane.jobs
