"""HTTPS to hosts that a stranger chose: a transport for httpx, of our own on httpcore.

The name is resolved by our Resolver, and the address that was checked is the one connected to.
"""

import os
import ssl
from collections.abc import AsyncIterator
from typing import Any, assert_never

import httpcore
import httpx

from policy.address_guard import is_public
from policy.answers import Absent, Found, Resolver, Unknown

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


class GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that our Resolver gives and the guard lets pass; with `port` to no other port."""

    def __init__(self, *, resolver: Resolver, port: int | None, allow_private: bool) -> None:
        self._resolver = resolver
        self._port = port
        self._allow_private = allow_private
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, port: int, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        failures: list[str] = []
        for address in await self._addresses(host):
            try:
                return _Stream(await self._network.connect_tcp(address, self._port or port, timeout=_CONNECT_SECONDS))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failures.append(f"{address}: {innermost(error)}")
        raise UnreachableError("cannot be connected to: " + "; ".join(failures))

    async def _addresses(self, host: str) -> list[str]:
        answer = await self._resolver.addresses(host)
        match answer:
            case Found():
                public = [a for a in answer.records[:_MAX_ADDRESSES] if self._allow_private or is_public(a)]
                if not public:
                    raise UnreachableError(f"has only addresses that are not public ({answer.records[0]})")
                return [str(address) for address in public]
            case Absent():
                raise UnreachableError(f"has no address ({answer.absence.value})")
            case Unknown():
                raise UnreachableError(f"could not be resolved ({answer.reason.value}: {answer.detail})")
            case _:
                assert_never(answer)


class _Stream(httpcore.AsyncNetworkStream):
    """A connection that has TLS yet to come, closed also when the handshake is cancelled.

    httpcore closes it on errors only. It does nothing else with such a connection but to start TLS or to close it.
    """

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream

    async def aclose(self) -> None:
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        try:
            return await self._stream.start_tls(ssl_context, server_hostname, timeout)
        except BaseException:
            await self.aclose()
            raise


class GuardedTransport(httpx.AsyncBaseTransport):
    """httpx's own transport does not let a network backend be given; httpcore's pool, which is public, does."""

    def __init__(self, context: ssl.SSLContext, backend: httpcore.AsyncNetworkBackend) -> None:
        # No connection is kept: fetches come daily, and each shall see the certificate of its day.
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context, max_connections=None, max_keepalive_connections=0, network_backend=backend
        )

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        response = await self._pool.handle_async_request(
            httpcore.Request(
                request.method,
                httpcore.URL(
                    scheme=request.url.raw_scheme,
                    host=request.url.raw_host,
                    port=request.url.port,
                    target=request.url.raw_path,
                ),
                headers=request.headers.raw,
                content=request.content,
            )
        )
        return httpx.Response(response.status, headers=response.headers, stream=_Body(response))

    async def aclose(self) -> None:
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response) -> None:
        self._response = response

    async def __aiter__(self) -> AsyncIterator[bytes]:
        async for chunk in self._response.aiter_stream():
            yield chunk

    async def aclose(self) -> None:
        await self._response.aclose()
