"""A client's connection: octets in, replies out, TLS, time limits. What commands mean is the session's.

aiosmtpd's protocol, with its ways of doing wrong replaced: one timer that also runs during DATA, a session that is
cancelled in the middle of a commit when the client closes its side, no limit for the TLS handshake, lines that may
end in a bare LF, and 120 us of introspection for each connection.
"""

import asyncio
import contextlib
import ssl
from collections.abc import Iterator
from typing import TYPE_CHECKING, cast

from aiosmtpd.smtp import SMTP

from policy.names import IPAddress
from relay import events
from relay.ingress.access import client_address, client_key
from relay.ingress.reader import BulkReader, ClientGoneError
from relay.ingress.shared import ConnectionResult, Listener

MAX_LINE = 12_288 + 2  # RFC 4954 §4: what an AUTH exchange may need
_MAX_DROPPED_LINE = 1024 * 1024
_REPLIES_AT_ONCE = 16 * 1024
_LINGER_SECONDS = 5.0
_TLS_FIRST_OCTET = 0x16


class GoodbyeError(Exception):
    """The session ends, with this reply line if there is one."""

    def __init__(self, reply: str | None) -> None:
        super().__init__(reply)
        self.reply = reply


class LineError(Exception):
    """A line that is none; it has been read to its end. The text is a whole reply line."""


class Sessions:
    """A set of connections, and a way to wait until it is empty."""

    def __init__(self) -> None:
        self._open: set[Connection] = set()
        self._none_open = asyncio.Event()
        self._none_open.set()

    def __len__(self) -> int:
        return len(self._open)

    def __contains__(self, connection: "Connection") -> bool:
        return connection in self._open

    def __iter__(self) -> "Iterator[Connection]":
        return iter(tuple(self._open))

    def add(self, connection: "Connection") -> None:
        self._open.add(connection)
        self._none_open.clear()

    def discard(self, connection: "Connection") -> None:
        self._open.discard(connection)
        if not self._open:
            self._none_open.set()

    async def ended(self, seconds: float) -> None:
        """Return when none is open, or after that time."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(seconds):
                await self._none_open.wait()


class Connection(SMTP):
    """Reads lines and content, batches replies, upgrades to TLS. Constructed for each connection: keep it cheap."""

    _paused: bool
    _stream_reader_wr: object

    if TYPE_CHECKING:

        async def _drain_helper(self) -> None: ...

    def __init__(
        self, listener: Listener, sessions: "Sessions", lingering: "Sessions", loop: asyncio.AbstractEventLoop
    ) -> None:
        # Not SMTP.__init__: it inspects its class for hooks each time. A contract test knows which methods remain.
        self.input = BulkReader(loop)
        asyncio.StreamReaderProtocol.__init__(self, self.input, None, loop)
        self.loop = loop
        self.listener = listener
        self.shared = listener.shared
        self.transport: asyncio.Transport | None = None
        self.address: IPAddress
        self.client: str | None = None
        self.tls: ssl.SSLObject | None = None
        self.in_content = False
        self.stopping = False
        self.task: asyncio.Task[None] | None = None
        self._sessions = sessions
        self._lingering = lingering
        self._replies: list[str] = []
        self._replies_size = 0
        self._idle_timer: asyncio.TimerHandle | None = None
        self._broken_line = False

    async def serve(self) -> None:
        """Talk to the client until GoodbyeError or ClientGoneError."""
        raise NotImplementedError

    async def clean_up(self) -> None:
        """Let go of what the session holds; called once, however it ended."""
        raise NotImplementedError

    # -- lifecycle

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)
        asyncio.StreamReaderProtocol.connection_made(self, transport)
        self.transport = transport
        peer = transport.get_extra_info("peername")
        if not peer:  # gone before it was accepted
            transport.abort()
            return
        if self.listener.implicit:
            # The ClientHello is for TLS to read. Not paused at once: asyncio starts to read after this method, and
            # early releases of CPython 3.11 (Debian 12 has 3.11.2) do so even when paused here (gh-103607).
            self.loop.call_soon(transport.pause_reading)
        self.address = client_address(peer[0])
        if not self.shared.connections.enter():
            self._turn_away()
            return
        self._sessions.add(self)
        self.task = self.loop.create_task(self._handle_client())

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
        assert self.transport is not None
        self.shared.connection_results[ConnectionResult.TOO_MANY].inc()
        events.connection_refused(str(self.address), "too many connections")
        if not self.listener.implicit:
            self.transport.write(f"{self.goodbye('421 4.3.2', 'Too many connections')}\r\n".encode("ascii"))
        self.transport.close()

    def connection_lost(self, error: Exception | None) -> None:
        # The session learns of it when it next reads. It is not cancelled: it may be in the middle of a commit.
        asyncio.StreamReaderProtocol.connection_lost(self, error)
        if self in self._lingering:
            self._lingering.discard(self)
            self.shared.connections.leave(self.client)

    def eof_received(self) -> bool:
        """A client may close its side after QUIT and still wants our replies, where the transport allows."""
        self.input.feed_eof()
        return self.tls is None and self not in self._lingering

    async def _handle_client(self) -> None:
        self._idle_timer = self.loop.call_later(self.shared.idle_seconds, self._look_at_time)
        self.shared.metrics.open_connections.inc()
        linger = False
        try:
            await self.serve()
        except GoodbyeError as goodbye:
            if goodbye.reply is not None:
                self.reply(goodbye.reply)
                linger = not goodbye.reply.startswith("221")
        except ClientGoneError:
            pass
        except Exception as error:  # noqa: BLE001  the top of the task: nothing of it may reach the client
            events.session_failed(str(self.address), error)
            self.reply(str(self.goodbye("421 4.3.0", "Temporary failure")))
        finally:
            self._idle_timer.cancel()
            self.shared.metrics.open_connections.dec()
            self._sessions.discard(self)
            self._write_out()
            if not (linger and self._linger()):
                self.shared.connections.leave(self.client)
                self._close()
            await self.clean_up()

    def _linger(self) -> bool:
        """Close our side and wait a moment for the client's, who does not expect it; False if that cannot be.

        Closing both while its octets still arrive would make a reset, and our last reply would be lost in it.
        """
        assert self.transport is not None
        if self.tls is not None or self.transport.is_closing():
            return False
        try:
            self.transport.write_eof()
        except OSError:  # it is gone already
            return False
        self._stream_reader_wr = None  # what still comes is read and dropped
        self.transport.resume_reading()
        self._lingering.add(self)
        self.loop.call_later(_LINGER_SECONDS, self.abort)
        return True

    def _close(self) -> None:
        assert self.transport is not None
        self.transport.close()
        # A client that does not read would keep a closing transport for ever.
        if self.transport.get_write_buffer_size() or self.tls is not None:
            self.loop.call_later(_LINGER_SECONDS, self.transport.abort)

    def stop(self) -> None:
        """Say 421 4.3.2 and end, at once if idle, else after what is under way."""
        self.stopping = True
        if self.is_idle:
            self.input.set_exception(self.farewell())

    def abort(self) -> None:
        """Break the connection; what is being committed is not broken off."""
        if self.transport is not None:
            self.transport.abort()

    def farewell(self) -> GoodbyeError:
        return self.goodbye("421 4.3.2", "Service shutting down")

    def goodbye(self, code: str, reason: str) -> GoodbyeError:
        """The end of the session with a reply that names us, as 421 does (RFC 5321 §4.2.3)."""
        return GoodbyeError(f"{code} {self.shared.settings.hostname} {reason}, closing connection")

    @property
    def is_idle(self) -> bool:
        """Whether the session waits for a command."""
        return self.input.waiting_since is not None and not self.in_content

    def _look_at_time(self) -> None:
        """One timer for the whole session, moved on lazily; time counts only while the client is waited for."""
        limit = self.shared.idle_seconds
        since = self.input.waiting_since
        waited = 0.0 if since is None else self.loop.time() - since
        if waited >= limit:
            self.input.set_exception(self.goodbye("421 4.4.2", "Timeout exceeded"))
        else:
            self._idle_timer = self.loop.call_later(limit - waited, self._look_at_time)

    # -- input

    async def next_line(self, most: int = MAX_LINE) -> bytes:
        """Return the next line without its CRLF. Raises LineError for one that is too long or has bare line ends.

        A line with a bare LF goes on to its CRLF: nothing in it is ever executed, however it arrives.
        """
        line = await self._take_line(most)
        if not line.endswith(b"\n"):
            await self._drop_line(line)
            raise LineError("500 5.5.2 Line too long")
        if not line.endswith(b"\r\n"):
            self._broken_line = True
            raise LineError("500 5.5.2 Lines must end with CRLF")
        line = line[:-2]
        if self._broken_line or b"\r" in line or b"\0" in line:
            self._broken_line = False
            raise LineError("500 5.5.2 Lines must end with CRLF and have no control characters")
        return line

    async def read(self, most: int) -> bytes:
        """Return what is here of content, at least one octet, waiting for it if need be."""
        if not self.input.pending:
            await self.flush()
            await self.input.more()
        return self.input.take(most)

    async def _take_line(self, most: int) -> bytes:
        since: float | None = None
        while True:
            if self.input.starts_with(_TLS_FIRST_OCTET):
                raise GoodbyeError(None)
            line = self.input.take_line(most)
            if line is not None:
                break
            if since is None:
                await self.flush()
                since = self.loop.time()
            await self.input.more(since)
        if self._replies_size > _REPLIES_AT_ONCE:
            await self.flush()
        return line

    async def _drop_line(self, line: bytes) -> None:
        """Read on to the end of a line that is too long already."""
        dropped = len(line)
        while not line.endswith(b"\n"):
            line = line[-1:] + await self._take_line(MAX_LINE)
            dropped += len(line) - 1
            if dropped > _MAX_DROPPED_LINE:
                raise self.goodbye("421 4.7.0", "Line too long")
        self._broken_line = not line.endswith(b"\r\n")

    # -- output

    def reply(self, line: str) -> None:
        """Give a reply; it is sent when there is no more input to work on (RFC 2920 §3.2)."""
        self._replies.append(line)
        self._replies_size += len(line)

    async def flush(self) -> None:
        """Send the replies; waits if the client does not read them, at most the idle time."""
        self._write_out()
        if self._paused:
            try:
                async with asyncio.timeout(self.shared.idle_seconds):
                    await self._drain_helper()
            except OSError as error:  # TimeoutError is one
                self.abort()
                raise ClientGoneError from error

    def _write_out(self) -> None:
        if self._replies:
            data = "\r\n".join(self._replies) + "\r\n"
            self._replies.clear()
            self._replies_size = 0
            assert self.transport is not None
            awaits_tls = self.listener.implicit and self.tls is None
            if not self.transport.is_closing() and not awaits_tls:
                self.transport.write(data.encode("ascii", "replace"))

    # -- TLS

    async def start_tls(self, announcement: str | None) -> None:
        """Put TLS before the transport, after this reply if it is given.

        Plaintext that is here already was sent by whoever sits between, and must not reach the session inside TLS:
        it ends the session (RFC 3207 §4.2).
        """
        assert self.listener.tls is not None
        assert self.transport is not None
        context = await self.listener.tls.current()
        if self.input.pending:
            raise GoodbyeError(None)
        if announcement is not None:
            self.reply(announcement)
        self._write_out()
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
            raise ClientGoneError from error
        assert transport is not None
        self.transport = transport
        self._transport = transport
        self._over_ssl = True
        self.input.use_transport(transport)
        self.tls = transport.get_extra_info("ssl_object")
