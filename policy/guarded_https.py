"""HTTPS to hosts that a stranger chose: a transport for httpx, of our own on httpcore.

The name is resolved by our Resolver, and the address that was checked is the one connected to.
"""

import asyncio
import os
import socket
import ssl
from collections.abc import AsyncIterator
from typing import assert_never

import httpcore
import httpx

from policy.address_guard import is_public
from policy.answers import Absent, Found, Resolver, Unknown
from policy.names import IPAddress
from policy.sockets import connected

_HTTPS_PORT = 443
_MAX_ADDRESSES = 8
_CONNECT_SECONDS = 10.0
BROKEN = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpx.HTTPError,
    httpx.InvalidURL,
    OSError,  # with ssl.SSLError, for alerts that come after the handshake
    UnicodeError,
)
"""What a request may raise for what the other side does."""


def innermost(error: BaseException) -> str:
    """Return what the innermost error says: the outer ones only say that something failed."""
    said = type(error).__name__
    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, OSError) and cause.errno and not isinstance(cause, ssl.SSLError):
            said = os.strerror(cause.errno)
        else:
            said = str(cause) or said
        cause = cause.__cause__
    return said


class UnreachableError(httpcore.ConnectError):
    """The host has no address that may be, or could be, connected to. Reads on after the host's name."""


class GuardedTransport(httpx.AsyncBaseTransport):
    """Sends each request over a connection of its own, to an address that our Resolver gives and the guard lets pass.

    With `port` it connects to no other port. `context` is not to be used for anything else. Connections are not kept:
    fetches come daily, and each shall see the certificate of its day.
    """

    def __init__(self, context: ssl.SSLContext, *, resolver: Resolver, port: int | None, allow_private: bool) -> None:
        context.set_alpn_protocols(["http/1.1"])
        self._context = context
        self._resolver = resolver
        self._port = port
        self._allow_private = allow_private

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        if request.url.scheme != "https":
            raise httpx.UnsupportedProtocol("only https is spoken here")
        url = httpcore.URL(
            scheme=request.url.raw_scheme,
            host=request.url.raw_host,
            port=request.url.port,
            target=request.url.raw_path,
        )
        stream = await self._connect(request.url.raw_host.decode("ascii"), request.url.port or _HTTPS_PORT)
        connection = httpcore.AsyncHTTP11Connection(origin=url.origin, stream=stream)
        try:
            response = await connection.handle_async_request(
                httpcore.Request(request.method, url, headers=request.headers.raw, content=request.content)
            )
        except BaseException:
            await stream.aclose()
            raise
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response, stream))

    async def _connect(self, host: str, port: int) -> "_Stream":
        sock = await self._reach(host, self._port or port)
        try:
            # From here on asyncio closes the socket, also where the handshake fails or is broken off.
            reader, writer = await asyncio.open_connection(sock=sock, ssl=self._context, server_hostname=host)
        except OSError as error:
            raise httpcore.ConnectError(str(error)) from error
        return _Stream(reader, writer)

    async def _reach(self, host: str, port: int) -> socket.socket:
        """Return a socket that is connected to one of the host's addresses. Raises UnreachableError."""
        failures: list[str] = []
        for address in await self._addresses(host):
            try:
                family = socket.AF_INET if address.version == 4 else socket.AF_INET6
                async with asyncio.timeout(_CONNECT_SECONDS):
                    return await connected(family, (str(address), port))
            except TimeoutError:
                failures.append(f"{address}: no answer within {_CONNECT_SECONDS:g} s")
            except OSError as error:
                failures.append(f"{address}: {innermost(error)}")
        raise UnreachableError("cannot be connected to: " + "; ".join(failures))

    async def _addresses(self, host: str) -> list[IPAddress]:
        answer = await self._resolver.addresses(host)
        match answer:
            case Found():
                public = [a for a in answer.records[:_MAX_ADDRESSES] if self._allow_private or is_public(a)]
                if not public:
                    raise UnreachableError(f"has only addresses that are not public ({answer.records[0]})")
                return public
            case Absent():
                raise UnreachableError(f"has no address ({answer.absence.value})")
            case Unknown():
                raise UnreachableError(f"could not be resolved ({answer.reason.value}: {answer.detail})")
            case _:
                assert_never(answer)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection with TLS, over asyncio, whose TLS costs a third of that of anyio.

    It is closed without a word: a host that does not answer our farewell would hold it for half a minute. Time is
    limited by whoever sends the request.
    """

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:  # noqa: ARG002  see above
        try:
            return await self._reader.read(max_bytes)
        except OSError as error:
            raise httpcore.ReadError(str(error)) from error

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:  # noqa: ARG002  see above
        try:
            self._writer.write(buffer)
            await self._writer.drain()
        except OSError as error:
            raise httpcore.WriteError(str(error)) from error

    async def aclose(self) -> None:
        self._writer.transport.abort()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response, stream: _Stream) -> None:
        self._response = response
        self._stream = stream

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._stream.aclose()
