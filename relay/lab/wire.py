"""The server's end of one TCP connection, in plain text or TLS, as a synchronous state machine.

TLS runs over two memory buffers instead of asyncio's own layer: a server can then begin TLS in the middle of a
connection, stop in the middle of a handshake, or say something wrong before it, and nothing is left running.
"""

import asyncio
import contextlib
import socket
import ssl
import struct
import warnings
from collections.abc import Callable
from typing import cast

from relay.lab.ca import Identity

REPEAT_LIMIT = 64 * 1024 * 1024
READ_SIZE = 256 * 1024
BLOCK_SIZE = 64 * 1024
TURNS_TO_END = 4  # of the loop: a connection accepted just now is made, closed, and lost


class ServerSide(ssl.SSLObject):
    """A TLS server's end that remembers which name the client asked for (RFC 6066 §3)."""

    sni: str | None = None
    hello_seen = False


def server_context(
    identity: Identity,
    *,
    oldest: ssl.TLSVersion = ssl.TLSVersion.TLSv1_2,
    newest: ssl.TLSVersion = ssl.TLSVersion.MAXIMUM_SUPPORTED,
    choose: Callable[[str | None], ssl.SSLContext | None] = lambda _sni: None,
) -> ssl.SSLContext:
    """Return a context that shows `identity`, or what `choose` picks for the name that the client asks for."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(identity.pem_file)
    if min(oldest, _ceiling(newest)) < ssl.TLSVersion.TLSv1_2:
        context.set_ciphers("DEFAULT:@SECLEVEL=0")  # OpenSSL 3 has TLS 1.0 and 1.1 at this level only
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # a server that knows nothing newer is what is wanted
        context.minimum_version = min(oldest, _ceiling(newest))
        context.maximum_version = newest
    context.sslobject_class = ServerSide

    def on_sni(connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> None:
        assert isinstance(connection, ServerSide)
        connection.sni = name
        connection.hello_seen = True
        chosen = choose(name)
        if chosen is not None:
            connection.context = chosen

    context.sni_callback = on_sni
    return context


def _ceiling(version: ssl.TLSVersion) -> ssl.TLSVersion:
    return ssl.TLSVersion.TLSv1_3 if version is ssl.TLSVersion.MAXIMUM_SUPPORTED else version


class Connection(asyncio.Protocol):
    """One accepted connection. Subclasses answer `on_data`; every call is made by the event loop, none waits."""

    def __init__(self, listener: "Listener") -> None:
        self._listener = listener
        self._timers: set[asyncio.TimerHandle | asyncio.Handle] = set()
        self._transport: asyncio.Transport | None = None
        self._tls: ServerSide | None = None
        self._handshaking = False
        self._muted = False
        self._from_client = ssl.MemoryBIO()
        self._to_client = ssl.MemoryBIO()
        self._repeat = b""
        self._repeated = 0
        self._paused = False
        self._closing = False

    # What subclasses answer.

    def on_open(self) -> None:
        """The client has connected."""

    def on_data(self, data: bytes) -> None:
        """The client has sent `data`, decrypted where TLS is on."""

    def on_hello(self, sni: str | None) -> bool:  # noqa: ARG002  for subclasses
        """The ClientHello is here, not yet answered. Return False to leave it without an answer for ever."""
        return True

    def on_secured(self, tls: ServerSide) -> None:
        """The handshake is done."""

    def on_handshake_failed(self, reason: str, sni: str | None) -> None:
        """The client or we gave up during the handshake. The connection is being closed."""

    def on_close(self) -> None:
        """The connection has ended, whoever ended it."""

    # What subclasses do.

    @property
    def secured(self) -> bool:
        return self._tls is not None and not self._handshaking

    @property
    def peer(self) -> str:
        """The client's address."""
        peer = self._transport.get_extra_info("peername") if self._transport is not None else None
        return str(peer[0]) if peer else ""

    @property
    def closing(self) -> bool:
        return self._closing

    def send(self, data: bytes) -> None:
        if not data or self._closing or self._transport is None:
            return
        if self._tls is not None:
            self._tls.write(data)
            data = self._to_client.read()
        self._transport.write(data)

    def send_raw(self, data: bytes) -> None:
        """Send bytes as they are, beside any TLS."""
        if self._transport is not None and not self._closing:
            self._transport.write(data)

    def send_for_ever(self, data: bytes) -> None:
        """Send `data` again and again as fast as the client reads. Ends after `REPEAT_LIMIT` bytes with a close."""
        self._repeat = data
        self._send_again()

    def send_slowly(self, data: bytes, interval: float, then: Callable[[], None] = lambda: None) -> None:
        """Send `data` one byte every `interval` seconds, then call `then`."""
        if self._closing:
            return
        self.send(data[:1])
        if len(data) > 1:
            self.later(interval, self.send_slowly, data[1:], interval, then)
        else:
            then()

    def stop_reading(self) -> None:
        """Let the client's bytes pile up in the kernel."""
        if self._transport is not None:
            self._transport.pause_reading()

    def later(self, delay: float, call: Callable[..., None], *arguments: object) -> None:
        """Call in `delay` seconds, unless the connection has ended by then."""
        if self._closing:
            return
        loop = asyncio.get_running_loop()

        def run() -> None:
            self._timers.discard(handle)
            call(*arguments)

        handle: asyncio.TimerHandle = loop.call_later(delay, run)
        self._timers.add(handle)

    def start_tls(self, context: ssl.SSLContext) -> None:
        """Take what comes next as a ClientHello."""
        tls = context.wrap_bio(self._from_client, self._to_client, server_side=True)
        assert isinstance(tls, ServerSide)
        self._tls = tls
        self._handshaking = True

    def close(self) -> None:
        """Send what is left, then close: with close_notify under TLS, in the manner of a good server."""
        if self._closing or self._transport is None:
            return
        if self._tls is not None and not self._handshaking:
            # unwrap() writes our close_notify and then wants the client's, for which nobody waits here.
            with contextlib.suppress(ssl.SSLError):
                self._tls.unwrap()
            self._transport.write(self._to_client.read())
        self._closing = True
        self._transport.close()

    def reset(self) -> None:
        """Close with a TCP RST; what was sent just before may be lost to the client."""
        if self._transport is None:
            return
        self._closing = True
        sock = self._transport.get_extra_info("socket")
        if sock is not None and sock.fileno() >= 0:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self._transport.abort()

    # asyncio.Protocol.

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        transport = cast("asyncio.Transport", transport)  # those of uvloop are like it, but no subclass
        self._transport = transport
        if self._listener.closed:
            self.reset()
            return
        self._listener.add(self)
        self.on_open()

    def data_received(self, data: bytes) -> None:
        if self._closing or self._muted:
            return
        if self._tls is None:
            self.on_data(data)
            return
        self._from_client.write(data)
        if self._handshaking and not self._shake_hands(self._tls):
            return
        self._decrypt(self._tls)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:  # noqa: ARG002  asyncio's name
        self._closing = True
        for timer in self._timers:
            timer.cancel()
        self._timers.clear()
        if self._handshaking and not self._muted and self._tls is not None:
            self._handshaking = False
            self.on_handshake_failed("the client closed the connection", self._tls.sni)
        self._listener.connections.discard(self)
        self.on_close()

    def pause_writing(self) -> None:
        self._paused = True

    def resume_writing(self) -> None:
        self._paused = False
        if self._repeat:
            self._send_again()

    def _shake_hands(self, tls: ServerSide) -> bool:
        """Go on with the handshake; True once it is done."""
        done, failure = False, ""
        was_greeted = tls.hello_seen
        try:
            tls.do_handshake()
            done = True
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            failure = error.reason or str(error)
        if tls.hello_seen and not was_greeted and not self.on_hello(tls.sni):
            self._muted = True
            return False
        self.send_raw(self._to_client.read())  # our part of the handshake, or the alert that ends it
        self._handshaking = not done and not failure
        if failure:
            self.on_handshake_failed(failure, tls.sni)
            self.close_plainly()
        if done:
            self.on_secured(tls)
        return done

    def close_plainly(self) -> None:
        """Close the TCP connection without a word of TLS."""
        if self._transport is not None and not self._closing:
            self._closing = True
            self._transport.close()

    def _decrypt(self, tls: ServerSide) -> None:
        parts: list[bytes] = []
        ended, failure = False, ""
        try:
            while part := tls.read(READ_SIZE):
                parts.append(part)
            ended = True  # the client's close_notify
        except ssl.SSLWantReadError:
            pass
        except ssl.SSLError as error:
            # With TLS 1.3 a client that does not like our certificate says so after we have finished.
            failure = error.reason or str(error)
        self.send_raw(self._to_client.read())
        if parts:
            self.on_data(b"".join(parts))
        if failure:
            self.on_handshake_failed(failure, tls.sni)
            self.close_plainly()
        elif ended:
            self.close()

    def _send_again(self) -> None:
        if self._repeated >= REPEAT_LIMIT:
            self.close()
            return
        block = self._repeat * max(1, BLOCK_SIZE // len(self._repeat))
        self._repeated += len(block)
        self.send(block)
        if not self._paused and not self._closing:
            self.later(0, self._send_again)


class Listener:
    """A listening socket and the connections accepted from it; `most` is how many there were at once."""

    def __init__(self) -> None:
        self.connections: set[Connection] = set()
        self.most = 0
        self.closed = True
        self._server: asyncio.Server | None = None

    def add(self, connection: Connection) -> None:
        self.connections.add(connection)
        self.most = max(self.most, len(self.connections))

    async def start(self, accept: Callable[[], Connection], address: str, port: int) -> int:
        """Listen there, at a port chosen by the kernel for 0. Returns the port. Raises OSError."""
        self._server = await asyncio.get_running_loop().create_server(accept, address, port, backlog=1024)
        self.closed = False
        bound: int = self._server.sockets[0].getsockname()[1]
        return bound

    async def close(self) -> None:
        """Stop listening, break all connections off, and wait until the loop has forgotten them. May start again."""
        self.closed = True
        if self._server is not None:
            self._server.close()
        for connection in tuple(self.connections):
            connection.reset()
        for _turn in range(TURNS_TO_END):
            await asyncio.sleep(0)
