"""The HTTPS fetch of a policy file (RFC 8461 §3.3, §7.1), over httpx and a transport of our own on httpcore.

Everything here is chosen by a stranger: the address, the certificate, the pace, the size. So the name is resolved
by our Resolver and the address that was checked is the one connected to, one time limit covers all, and what is not
exactly a policy file is a failure.
"""

import asyncio
import os
import re
import ssl
from collections.abc import AsyncIterator
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy
from typing import Any, assert_never

import httpcore
import httpx

from policy.address_guard import is_public
from policy.answers import Absent, Found, Resolver, Unknown
from policy.one_line import one_line
from policy.requirement import ResultType
from policy.store import FetchFailedError
from policy.tls import classify, verified_context

MAX_BODY = 64 * 1024
_MAX_ADDRESSES = 8
_CONNECT_SECONDS = 10.0
_BROKEN = (
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.TimeoutException,
    httpx.HTTPError,
    httpx.InvalidURL,
    OSError,  # with ssl.SSLError, for alerts that come after the handshake
    UnicodeError,
)
_MEDIA_TYPE = re.compile(r"[ \t]*text/plain[ \t]*(?:;.*)?", re.IGNORECASE)


class HttpsPolicyFetcher:
    """Implements `policy.store.PolicyFetcher`. To be closed with `aclose`.

    `policy_port` changes the port connected to and nothing else: URL, Host and SNI stay those of RFC 8461.
    `max_fetches` bounds how many run at once; waiting for a place does not count towards `timeout`.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        ca_file: str = "",
        timeout: timedelta = timedelta(seconds=60),
        policy_port: int = 443,
        allow_private_addresses: bool = False,
        max_fetches: int = 300,
        user_agent: str = "mta-sts-relay",
    ) -> None:
        backend = _GuardedBackend(resolver=resolver, port=policy_port, allow_private=allow_private_addresses)
        self._client = httpx.AsyncClient(
            transport=_Transport(verified_context(ca_file), backend),
            headers=httpx.Headers({"Accept": "text/plain", "Accept-Encoding": "identity", "User-Agent": user_agent}),
            follow_redirects=False,  # RFC 8461 §3.3: HTTP 3xx redirects MUST NOT be followed
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=None,  # noqa: S113  one limit covers the whole request; httpx's start anew with each read
        )
        self._timeout = timeout
        self._places = asyncio.Semaphore(max_fetches)

    async def aclose(self) -> None:
        await self._client.aclose()

    async def fetch(self, policy_domain: str) -> bytes:
        host = f"mta-sts.{policy_domain}"
        async with self._places:
            try:
                async with asyncio.timeout(self._timeout.total_seconds()):
                    return await self._get(host)
            except TimeoutError:
                raise _failed(f"{host} did not serve it within {self._timeout.total_seconds():g} s") from None
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                raise _connect_failed(host, error) from error
            except _BROKEN as error:
                raise _failed(f"{host} broke off or broke HTTP: {_said(error)}") from error

    async def _get(self, host: str) -> bytes:
        async with self._client.stream("GET", f"https://{host}/.well-known/mta-sts.txt") as response:
            _check_head(host, response)
            body = bytearray()
            # The octets as they came: a decoder would turn a small body into a large one.
            async for chunk in response.aiter_raw():
                body += chunk
                if len(body) > MAX_BODY:
                    raise _failed(f"{host} served more than {MAX_BODY} octets")
            return bytes(body)


def _check_head(host: str, response: httpx.Response) -> None:
    """Raise unless this is the head of a policy file (RFC 8461 §3.2, §3.3)."""
    if response.status_code != 200:
        where = f" (redirect to {response.headers['location']}, not followed)" if response.has_redirect_location else ""
        raise _failed(f"{host} answered with HTTP status {response.status_code}, not 200{where}")
    media_types = response.headers.get_list("content-type")
    if len(media_types) != 1:
        raise _failed(f"{host} sent {len(media_types) or 'no'} Content-Type where one is needed")
    if _MEDIA_TYPE.fullmatch(media_types[0]) is None:
        raise _failed(f"{host} served the media type {media_types[0]}, not text/plain")
    encodings = [value for value in response.headers.get_list("content-encoding") if value.lower() != "identity"]
    if encodings:
        raise _failed(f"{host} used the Content-Encoding {encodings[0]}, which was not asked for")
    if "content-length" not in response.headers and "transfer-encoding" not in response.headers:
        # Such a body ends with the connection, so one who cuts it off could cut `max_age: 86400` to `max_age: 8`.
        raise _failed(f"{host} did not say how long the policy is (neither Content-Length nor chunks)")


def _said(error: BaseException) -> str:
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


def _failed(detail: str) -> FetchFailedError:
    return FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, one_line(detail, 500))


def _connect_failed(host: str, error: BaseException) -> FetchFailedError:
    if isinstance(error, _UnreachableError):
        return _failed(f"{host} {error}")
    failure = classify(error)
    if failure.result_type is ResultType.VALIDATION_FAILURE:
        return _failed(f"{host}: {failure.reason}: {failure.detail}")
    detail = f"the certificate of {host} was refused: {failure.reason}: {failure.detail}"
    return FetchFailedError(ResultType.STS_WEBPKI_INVALID, one_line(detail, 500))


class _UnreachableError(httpcore.ConnectError):
    """The policy host has no address that may be, or could be, connected to. Reads on after the host's name."""


class _GuardedBackend(httpcore.AsyncNetworkBackend):
    """Connects to the addresses that our Resolver gives and the guard lets pass, on the policy port."""

    def __init__(self, *, resolver: Resolver, port: int, allow_private: bool) -> None:
        self._resolver = resolver
        self._port = port
        self._allow_private = allow_private
        self._network = httpcore.AnyIOBackend()

    async def connect_tcp(self, host: str, *_: Any, **__: Any) -> httpcore.AsyncNetworkStream:
        failures: list[str] = []
        for address in await self._addresses(host):
            try:
                return _Stream(await self._network.connect_tcp(address, self._port, timeout=_CONNECT_SECONDS))
            except (httpcore.ConnectError, httpcore.ConnectTimeout) as error:
                failures.append(f"{address}: {_said(error)}")
        raise _UnreachableError("cannot be connected to: " + "; ".join(failures))

    async def _addresses(self, host: str) -> list[str]:
        answer = await self._resolver.addresses(host)
        match answer:
            case Found():
                public = [a for a in answer.records[:_MAX_ADDRESSES] if self._allow_private or is_public(a)]
                if not public:
                    raise _UnreachableError(f"has only addresses that are not public ({answer.records[0]})")
                return [str(address) for address in public]
            case Absent():
                raise _UnreachableError(f"has no address ({answer.absence.value})")
            case Unknown():
                raise _UnreachableError(f"could not be resolved ({answer.reason.value}: {answer.detail})")
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


class _Transport(httpx.AsyncBaseTransport):
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
