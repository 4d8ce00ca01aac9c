"""The listening sockets and the sessions behind them: start, reload, stop."""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial

from relay import events
from relay.clock import Clock
from relay.ingress.paths import PathError
from relay.ingress.session import Session
from relay.ingress.sessions import Sessions
from relay.ingress.settings import IngressSettings, ListenerSettings, TlsMode
from relay.ingress.shared import Dispatch, LeaseFor, Listener, NewId, Shared
from relay.ingress.tls import CertificateError, ServerTls
from relay.ingress.users import UsersFileError
from relay.metrics import Metrics
from relay.store.protocols import QueueStore

_BACKLOG = 1024
_ABORT_SECONDS = 2.0
_LINGER_SECONDS = 0.5


class Listeners:
    """All listeners of a process. `dispatch` gets jobs that are leased already; `lease_for` says which may be.

    Constructing reads certificates and the users file: raises CertificateError, UsersFileError, PathError.
    """

    def __init__(
        self,
        *,
        settings: IngressSettings,
        store: QueueStore,
        dispatch: Dispatch,
        lease_for: LeaseFor,
        new_id: NewId,
        clock: Clock,
        metrics: Metrics,
    ) -> None:
        self._store = store
        self._dispatch = dispatch
        self._lease_for = lease_for
        self._new_id = new_id
        self._clock = clock
        self._metrics = metrics
        self._shared, self._listeners = self._make(settings)
        self._servers: list[asyncio.Server] = []
        self._sessions = Sessions()
        self._lingering = Sessions()

    async def start(self, bound: Sequence[socket.socket] | None = None) -> None:
        """Open every listening socket, or none: raises OSError. `bound` are ready-made ones, one for each listener."""
        loop = asyncio.get_running_loop()
        try:
            for number, listener in enumerate(self._listeners):
                make = partial(self._session, number, loop)
                if bound is None:
                    host, port = listener.settings.host_port
                    server = await loop.create_server(make, host, port, backlog=_BACKLOG)
                else:
                    server = await loop.create_server(make, sock=bound[number], backlog=_BACKLOG)
                self._servers.append(server)
        except OSError:
            self._close_sockets()
            raise
        for listener in self._listeners:
            events.listener_started(listener.settings.address, listener.settings.tls.value)

    @property
    def addresses(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener as it is bound, in the order of the settings."""
        return tuple(server.sockets[0].getsockname()[:2] for server in self._servers if server.sockets)

    @property
    def open(self) -> bool:
        """Whether every listener that was to be opened at the start is open."""
        return len(self.addresses) == len(self._listeners)

    @property
    def certificate_expiry(self) -> dict[str, datetime]:
        """When the certificate of each listener with TLS expires, by address."""
        return {
            listener.settings.address: listener.tls.expires_at
            for listener in self._listeners
            if listener.tls is not None
        }

    @property
    def session_count(self) -> int:
        return len(self._sessions)

    async def reload(self, settings: IngressSettings | None = None) -> bool:
        """Take new settings for new sessions, and read certificates and users again. Addresses stay as they are.

        False if a file cannot be used: then everything stays as it was, and the log says why.
        """
        settings = settings or self._shared.settings
        try:
            shared, listeners = await asyncio.to_thread(self._make, self._with_bound_addresses(settings))
        except (CertificateError, UsersFileError, PathError) as error:
            events.listener_reload_failed(str(error))
            return False
        shared.keep_counts_of(self._shared)
        self._shared, self._listeners = shared, listeners
        return True

    def _with_bound_addresses(self, settings: IngressSettings) -> IngressSettings:
        """The settings, but with the listeners that there are: by address the new ones, else those of before."""
        new = {one.address: one for one in settings.listeners}
        bound = (one.settings for one in self._listeners)
        return replace(settings, listeners=tuple(new.get(one.address, one) for one in bound))

    async def stop(self, grace: timedelta) -> None:
        """Close the sockets; idle sessions get 421 4.3.2, others may finish what is under way within `grace`."""
        self._close_sockets()
        for session in self._sessions:
            session.stop()
        await self._sessions.ended(grace.total_seconds())
        for session in self._sessions:
            session.abort()
        await self._sessions.ended(_ABORT_SECONDS)
        await self._lingering.ended(_LINGER_SECONDS)
        for session in self._lingering:
            session.abort()

    def _session(self, number: int, loop: asyncio.AbstractEventLoop) -> Session:
        return Session(self._listeners[number], self._sessions, self._lingering, loop)

    def _close_sockets(self) -> None:
        for server in self._servers:
            server.close()

    def _make(self, settings: IngressSettings) -> tuple[Shared, list[Listener]]:
        shared = Shared(
            settings=settings,
            store=self._store,
            dispatch=self._dispatch,
            lease_for=self._lease_for,
            new_id=self._new_id,
            clock=self._clock,
            metrics=self._metrics,
        )
        return shared, [Listener(one, self._tls(one), shared) for one in settings.listeners]

    def _tls(self, settings: ListenerSettings) -> ServerTls | None:
        if settings.tls is TlsMode.NONE:
            return None
        gauge = self._metrics.certificate_expiry.labels(listener=settings.address)
        return ServerTls(settings, lambda expires_at: gauge.set(expires_at.timestamp()))
