"""An MX host of the lab: a listener at its own loopback address, and what it has received."""

import ssl

from relay.lab.ca import LabCA
from relay.lab.journal import Journal
from relay.lab.mx_behaviour import MxBehaviour
from relay.lab.mx_records import ReceivedMessage, SessionRecord
from relay.lab.mx_session import MxSession
from relay.lab.wire import Listener, server_context

PAIRS_REMEMBERED = 100_000


class LabMx:
    """One host. Set `behaviour` at any time: connections made from then on follow it.

    `sessions` are recorded when they begin, `ended` when they end, `messages` when they are accepted.
    """

    def __init__(self, name: str, behaviour: MxBehaviour, ca: LabCA, *, keep_content: bool = True) -> None:
        self.name = name
        self.keep_content = keep_content
        self.sessions: Journal[SessionRecord] = Journal()
        self.ended: Journal[SessionRecord] = Journal()
        self.messages: Journal[ReceivedMessage] = Journal()
        self.address = ""
        self.port = 0
        self._ca = ca
        self._behaviour = behaviour
        self._context: ssl.SSLContext | None = None
        self._tries: dict[tuple[str, str], int] = {}
        self._listener = Listener()

    @property
    def behaviour(self) -> MxBehaviour:
        return self._behaviour

    @behaviour.setter
    def behaviour(self, behaviour: MxBehaviour) -> None:
        self._behaviour, self._context = behaviour, None

    async def start(self, address: str, port: int = 0) -> None:
        self.port = await self._listener.start(lambda: MxSession(self, self._listener), address, port)
        self.address = address

    async def close(self) -> None:
        """Stop listening and break all sessions off; what was received stays. May be started again."""
        await self._listener.close()

    def hang_up(self) -> None:
        """Close all sessions, as a host does that restarts; new ones are welcome."""
        for connection in tuple(self._listener.connections):
            connection.close()

    async def wait_for_messages(self, count: int, timeout: float = 10) -> list[ReceivedMessage]:
        """Return all messages once there are `count`. Raises TimeoutError."""
        return await self.messages.wait_for(count, timeout)

    @property
    def connections(self) -> int:
        """How many sessions are open now."""
        return len(self._listener.connections)

    @property
    def most_connections(self) -> int:
        """How many sessions there were at one time, at most."""
        return self._listener.most

    @property
    def violations(self) -> list[str]:
        """Every rule that a client has broken here."""
        return [violation for session in self.sessions for violation in session.violations]

    @property
    def context(self) -> ssl.SSLContext:
        """What STARTTLS uses now, made when first needed."""
        if self._context is None:
            behaviour = self._behaviour
            names = behaviour.certificate_names or (self.name,)
            identity = self._ca.identity(behaviour.certificate, *names)
            self._context = server_context(identity, oldest=behaviour.oldest_tls, newest=behaviour.newest_tls)
        return self._context

    def count_try(self, reverse_path: str, forward_path: str) -> int:
        """Return how often this pair was asked for before, and count this time."""
        pair = (reverse_path, forward_path)
        tries = self._tries.get(pair, 0)
        if len(self._tries) < PAIRS_REMEMBERED or tries:
            self._tries[pair] = tries + 1
        return tries
