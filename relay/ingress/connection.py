"""A client's connection: octets in, replies out, TLS, time limits. What octets mean is the session's.

Most of what a client says can be answered at once, so that no task waits for it: each read is worked on as far as it
goes, within the loop's own call, and answered with one write. Only what takes its time (the commit, TLS, AUTH, large
content) is a task, and the client's further octets wait until it is done.
"""

import asyncio
import ssl
from collections.abc import Callable, Coroutine
from typing import Any, cast

from policy.names import IPAddress
from relay import events
from relay.ingress.access import client_address, client_key
from relay.ingress.input import READ_AHEAD, EndlessLineError, Input, TlsError
from relay.ingress.sessions import Sessions
from relay.ingress.shared import ConnectionResult, Listener

Take = Callable[[], bool]
"""Takes a piece of the input, if there is a whole one, and says whether there was."""

_REPLIES_AT_ONCE = 8 * 1024
"""Characters of replies that are kept for one write."""
_LINGER_SECONDS = 5.0


class GoodbyeError(Exception):
    """The session ends, with this reply line if there is one."""

    def __init__(self, reply: str | None) -> None:
        super().__init__(reply)
        self.reply = reply


class Connection(asyncio.BufferedProtocol):
    """Hands the input to `take` as long as that goes on, batches replies, upgrades to TLS, ends the session.

    `take` is the session's state: what the next octets are for. `at_command` says whether they are a command, so
    that a fault of ours need not end the session; `eof` that no more will come.
    """

    transport: asyncio.Transport
    address: IPAddress

    def __init__(
        self, listener: Listener, sessions: Sessions, lingering: Sessions, loop: asyncio.AbstractEventLoop
    ) -> None:
        self.listener = listener
        self.shared = listener.shared
        self.loop = loop
        self.input = Input()
        self.take: Take = self._hold
        self.at_command = False
        self.client: str | None = None
        self.tls: ssl.SSLObject | None = None
        self.eof = False
        self.stopping = False
        self._sessions = sessions
        self._lingering = lingering
        self._replies = ""
        self._mute = listener.implicit
        self._unread = False
        self._tasks: set[asyncio.Task[None] | None] = set()
        self._take_after_tasks = self.take
        self._waiting_since: float | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._paused: asyncio.Transport | None = None
        self._over = False

    # -- what the session adds

    def begin(self) -> None:
        """Greet the client, or see first who it is."""
        raise NotImplementedError

    def end_transaction(self) -> None:
        """Forget the mail transaction, if there is one, and let go of what it holds."""
        raise NotImplementedError

    def apologize(self) -> None:
        """Reply to a command that met a fault of ours."""
        raise NotImplementedError

    # -- the beginning

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before it was accepted
            self._over = True
            self.transport.abort()
            return
        self.address = client_address(peer[0])
        if not self.shared.connections.enter():
            self._turn_away()
            return
        self._sessions.add(self)
        self.shared.metrics.open_connections.inc()
        self._waiting_since = self.loop.time()
        self._timer = self.loop.call_later(self.shared.idle_seconds, self._look_at_time)
        try:
            self.begin()
        except Exception as error:  # noqa: BLE001  the top of what the loop calls
            self._recover(error)
        self.work()

    def identify(self, address: IPAddress) -> None:
        """Fix who the client is, and count it. Raises GoodbyeError if it has too many connections."""
        self.address = address
        client = client_key(address)
        if not self.shared.connections.enter_client(client):
            self.shared.connection_results[ConnectionResult.TOO_MANY].inc()
            events.connection_refused(str(address), "too many connections of this client")
            raise self.goodbye("421 4.7.0", "Too many connections from your address")
        self.client = client
        self.shared.connection_results[ConnectionResult.ACCEPTED].inc()

    def _turn_away(self) -> None:
        self._over = True
        self.shared.connection_results[ConnectionResult.TOO_MANY].inc()
        events.connection_refused(str(self.address), "too many connections")
        if not self.listener.implicit:
            self.transport.write(f"{self.goodbye('421 4.3.2', 'Too many connections')}\r\n".encode("ascii"))
        self.transport.close()

    # -- input

    def get_buffer(self, _sizehint: int) -> memoryview:
        """One buffer for all connections: what has been read into it is taken out before anything else is read."""
        return self.shared.read_buffer

    def buffer_updated(self, nbytes: int) -> None:
        self.input.feed(self.shared.read_buffer[:nbytes])
        self.work()
        if (self._tasks or self._unread) and len(self.input) > READ_AHEAD:
            self._pause_reading()

    def eof_received(self) -> bool:
        """A client may close its side after QUIT and still wants our replies, where the transport allows."""
        self.eof = True
        self.work()
        return self.tls is None and self not in self._lingering

    def work(self) -> None:
        """Take what is here as far as it goes; the replies are sent when the client is waited for (RFC 2920 §3.2)."""
        moved = False
        while not self._unread:
            try:
                if not self.take():
                    break
            except Exception as error:  # noqa: BLE001  the top of what the loop calls
                self._recover(error)
            moved = True
            if not self.input:  # as mostly
                break
            if len(self._replies) > _REPLIES_AT_ONCE:
                self._write_out()
        if not self._tasks:
            self._write_out()
            if moved:  # else the client is waited for since before: the time counts for a whole line
                self._waiting_since = self.loop.time()
            if self.eof and not self._unread and not self._over:
                self._end(None)
        if self._paused is not None and len(self.input) <= READ_AHEAD:
            self._resume_reading()

    def wait_for(self, work: Coroutine[Any, Any, None]) -> None:
        """Let a task do this, and go on with `take` as it is now when it is done. It is never cancelled."""
        if not self._tasks:
            self._take_after_tasks, self.take = self.take, self._hold
            self._waiting_since = None
        self._tasks.add(self.loop.create_task(self._carry_out(work)))

    async def _carry_out(self, work: Coroutine[Any, Any, None]) -> None:
        failure: Exception | None = None
        try:
            await work
        except Exception as error:  # noqa: BLE001  the top of a task
            failure = error
        self._tasks.discard(asyncio.current_task())
        if not self._tasks:
            self.take = self._take_after_tasks
            self._waiting_since = self.loop.time()
        if failure is not None:
            self._recover(failure)
        if self._over:
            self._leave()
        self.work()

    def take_line(self) -> bytes | None:
        """Take a line of the client's, or None; raises LineError, GoodbyeError."""
        if self.stopping:
            raise self.goodbye("421 4.3.2", "Service shutting down")
        try:
            return self.input.take_line()
        except TlsError:
            raise GoodbyeError(None) from None
        except EndlessLineError:
            raise self.goodbye("421 4.7.0", "Line too long") from None

    def _hold(self) -> bool:
        return False

    def _pause_reading(self) -> None:
        if self._paused is None and not self.transport.is_closing():
            self._paused = self.transport
            self._paused.pause_reading()

    def _resume_reading(self) -> None:
        transport, self._paused = self._paused, None
        if transport is not None and not transport.is_closing():
            transport.resume_reading()

    # -- output

    def reply(self, line: str) -> None:
        """Give a reply; it is sent when there is no more input to work on."""
        self._replies += line + "\r\n"

    def _write_out(self) -> None:
        replies = self._replies
        if replies:
            self._replies = ""
            if not (self._mute or self.transport.is_closing()):
                self.transport.write(replies.encode("ascii", "replace"))

    def pause_writing(self) -> None:
        """The client does not read its replies: it gets no more of them until it does."""
        self._unread = True

    def resume_writing(self) -> None:
        self._unread = False
        self.work()

    # -- the end

    def goodbye(self, code: str, reason: str) -> GoodbyeError:
        """The end of the session with a reply that names us, as 421 does (RFC 5321 §4.2.3)."""
        return GoodbyeError(f"{code} {self.shared.settings.hostname} {reason}, closing connection")

    def stop(self) -> None:
        """Say 421 4.3.2 and end, at once if idle, else after what is under way."""
        self.stopping = True
        self.work()

    def abort(self) -> None:
        """Break the connection; what is being committed is not broken off."""
        self.transport.abort()

    def connection_lost(self, _error: Exception | None) -> None:
        self.eof = True
        self._unread = False
        if self in self._lingering:
            self._lingering.discard(self)
            self.shared.connections.leave(self.client)
        if self._over:
            self._cancel_timer()
        else:
            self.work()

    def _look_at_time(self) -> None:
        """One timer for the whole session, moved on lazily; time counts only while the client is waited for."""
        limit, since = self.shared.idle_seconds, self._waiting_since
        waited = 0.0 if since is None else self.loop.time() - since
        if waited < limit:
            self._timer = self.loop.call_later(limit - waited, self._look_at_time)
        elif self._unread:
            self.abort()
        else:
            self._end(self.goodbye("421 4.4.2", "Timeout exceeded").reply)

    def _recover(self, error: Exception) -> None:
        """What an exception means: nothing of its text may reach the client, unless it is meant to."""
        if isinstance(error, GoodbyeError):
            self._end(error.reply)
            return
        events.session_failed(str(self.address), error)
        if self.at_command:
            self.end_transaction()
            self.apologize()
        else:  # what follows could be taken for commands
            self._end(self.goodbye("421 4.3.0", "Temporary failure").reply)

    def _end(self, reply: str | None) -> None:
        self._over = True
        self.take = self._take_after_tasks = self._drop
        self.input.clear()
        self._resume_reading()
        self._cancel_timer()
        self.shared.metrics.open_connections.dec()
        if reply is not None:
            self.reply(reply)
        self._write_out()
        if reply is None or reply.startswith("221") or not self._linger():
            self.shared.connections.leave(self.client)
            self._close()
        self.end_transaction()
        self._leave()

    def _leave(self) -> None:
        """The session is over when nothing of it is under way any more."""
        if not self._tasks:
            self._sessions.discard(self)

    def _drop(self) -> bool:
        self.input.clear()
        return False

    def _linger(self) -> bool:
        """Close our side and wait a moment for the client's, who does not expect it; False if that cannot be.

        Closing both while its octets still arrive would make a reset, and our last reply would be lost in it. What
        still comes is read and dropped.
        """
        if self.tls is not None or self.eof or self.transport.is_closing():
            return False
        try:
            self.transport.write_eof()
        except OSError:  # it is gone already
            return False
        self._lingering.add(self)
        self._timer = self.loop.call_later(_LINGER_SECONDS, self.abort)
        return True

    def _close(self) -> None:
        if self.transport.is_closing():
            return
        self.transport.close()
        # A client that does not read would keep a closing transport for ever.
        if self.transport.get_write_buffer_size() or self.tls is not None:
            self._timer = self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def _cancel_timer(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None

    # -- TLS

    async def start_tls(self, announcement: str | None) -> None:
        """Put TLS before the transport, after this reply if it is given. Raises GoodbyeError if that fails.

        Plaintext that is here already was sent by whoever sits between, and must not reach the session inside TLS:
        it ends the session (RFC 3207 §4.2). Where TLS is implicit, what is here is the beginning of its handshake.
        """
        assert self.listener.tls is not None
        context = await self.listener.tls.current()
        if self.input and (not self.listener.implicit or self._paused is not None):
            raise GoodbyeError(None)
        if announcement is not None:
            self.reply(announcement)
        self._write_out()
        if self.input:
            self.loop.call_soon(self._hand_to_tls, self.input.take())
        try:
            transport = await self.loop.start_tls(
                self.transport,
                self,
                context,
                server_side=True,
                ssl_handshake_timeout=self.shared.settings.handshake_timeout.total_seconds(),
            )
        except OSError as error:  # ssl.SSLError and ConnectionError among them
            events.handshake_failed(str(self.address), str(error))
            raise GoodbyeError(None) from error
        assert transport is not None
        self.transport = transport
        self._mute = False
        self.tls = transport.get_extra_info("ssl_object")

    def _hand_to_tls(self, octets: bytes) -> None:
        """Let TLS, which stands before the transport by now, read what was read before it did."""
        protocol = cast("asyncio.BufferedProtocol", self.transport.get_protocol())
        protocol.get_buffer(len(octets))[: len(octets)] = octets  # type: ignore[index]
        protocol.buffer_updated(len(octets))
