"""What one of several processes does of the relay's work, and its part of the limits."""

import socket
from dataclasses import dataclass

from relay.config import Settings
from relay.delivery.slot_table import SlotSettings


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """A worker process: it owns the queue file of its number, and takes mail from its sockets, one for each listener.

    Without sockets it takes none, and delivers what is in its file. `slots` are its bounds of connections at first.
    """

    number: int
    sockets: tuple[socket.socket, ...]
    slots: SlotSettings

    @property
    def leads(self) -> bool:
        """Whether it does what is to be done by one process only, such as refreshing policies."""
        return self.number == 0

    @property
    def drains(self) -> bool:
        return not self.sockets


def part_of(settings: Settings, parts: int) -> Settings:
    """Return the settings for one of so many processes; what they say holds for all of them together.

    Connections of clients come to the processes as the system's hash of their addresses has it, so each process keeps
    to an even part of the bounds. Those of [delivery] are shared by need instead (`shares`).
    """
    access = settings.access
    return settings.model_copy(
        update={
            "access": access.model_copy(
                update={
                    "max_connections": access.max_connections // parts or 1,
                    "max_connections_per_client": access.max_connections_per_client // parts or 1,
                    "max_messages_per_minute_per_client": _part(access.max_messages_per_minute_per_client, parts),
                }
            ),
            "queue": settings.queue.model_copy(update={"memory_budget": settings.queue.memory_budget // parts}),
            "delivery": settings.delivery.model_copy(
                update={"max_connections": settings.delivery.max_connections // parts or 1}
            ),
        }
    )


def _part(bound: int, parts: int) -> int:
    """Where 0 is no bound."""
    return max(bound // parts, 1) if bound else 0
