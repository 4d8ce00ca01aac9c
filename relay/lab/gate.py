"""A point at which servers of the lab wait until they are let go on: order without sleeping."""

from collections.abc import Callable

from relay.lab.journal import Journal


class Gate:
    """Closed at first. `arrivals` names who has come to it, those still held included."""

    def __init__(self) -> None:
        self.arrivals: Journal[str] = Journal()
        self._opened = False
        self._held: list[Callable[[], None]] = []

    def arrive(self, who: str, go_on: Callable[[], None]) -> None:
        """Call `go_on` when the gate opens; at once where it is open."""
        if self._opened:
            go_on()
        else:
            self._held.append(go_on)
        self.arrivals.record(who)

    def open(self) -> None:
        """Let all go on, and all who come later."""
        self._opened = True
        held, self._held = self._held, []
        for go_on in held:
            go_on()
