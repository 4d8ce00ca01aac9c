"""Hosts of which something is known for a while, as many as there is room for."""

from datetime import timedelta

from cachetools import TTLCache

from policy.names import IPAddress
from relay.clock import Clock
from relay.delivery.seam import Target

_HOSTS = 10_000


class RememberedHosts:
    """A host is a name, an address and a port, whatever is demanded of it. The oldest go first."""

    def __init__(self, time: timedelta, clock: Clock) -> None:
        self._hosts: TTLCache[tuple[str, IPAddress, int], None] = TTLCache(
            _HOSTS, time.total_seconds(), timer=lambda: clock.now().timestamp()
        )

    def note(self, target: Target) -> None:
        self._hosts[target.mx_host, target.address, target.port] = None

    def __contains__(self, target: Target) -> bool:
        # Nothing is known of most hosts, and this is asked for each message.
        return self._hosts.currsize > 0 and (target.mx_host, target.address, target.port) in self._hosts
