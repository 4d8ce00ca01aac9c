"""Hosts of which something is known for a while, as many as there is room for."""

from collections import OrderedDict
from datetime import datetime, timedelta

from relay.clock import Clock
from relay.delivery.seam import Target

_HOSTS = 10_000


class RememberedHosts:
    """A host is a name, an address and a port, whatever is demanded of it. The oldest go first."""

    def __init__(self, time: timedelta, clock: Clock) -> None:
        self._time = time
        self._clock = clock
        self._until: OrderedDict[tuple[str, str, int], datetime] = OrderedDict()

    def note(self, target: Target) -> None:
        host = (target.mx_host, target.address_text, target.port)
        self._until[host] = self._clock.now() + self._time
        self._until.move_to_end(host)
        if len(self._until) > _HOSTS:
            self._until.popitem(last=False)

    def forget(self, target: Target) -> None:
        self._until.pop((target.mx_host, target.address_text, target.port), None)

    def __contains__(self, target: Target) -> bool:
        if not self._until:  # as mostly, and this is asked for each message
            return False
        until = self._until.get((target.mx_host, target.address_text, target.port))
        return until is not None and self._clock.now() < until
