"""The HTTPS fetch of a policy file (RFC 8461 §3.3, §7.1), over httpx.

Everything here is chosen by a stranger: the address, the certificate, the pace, the size. So the name is resolved
by our Resolver and the address that was checked is the one connected to, one time limit covers all, and what is not
exactly a policy file is a failure.
"""

import asyncio
import re
from datetime import timedelta
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from policy.answers import Resolver
from policy.guarded_https import BROKEN, GuardedTransport, UnreachableError, innermost
from policy.one_line import one_line
from policy.requirement import ResultType
from policy.store import FetchFailedError
from policy.tls import classify, verified_context

MAX_BODY = 64 * 1024
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
        transport = GuardedTransport(
            verified_context(ca_file), resolver=resolver, port=policy_port, allow_private=allow_private_addresses
        )
        self._client = httpx.AsyncClient(
            transport=transport,
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
            except httpcore.ConnectError as error:
                raise _connect_failed(host, error) from error
            except BROKEN as error:
                raise _failed(f"{host} broke off or broke HTTP: {innermost(error)}") from error

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


def _failed(detail: str) -> FetchFailedError:
    return FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, one_line(detail, 500))


def _connect_failed(host: str, error: BaseException) -> FetchFailedError:
    if isinstance(error, UnreachableError):
        return _failed(f"{host} {error}")
    failure = classify(error)
    if failure.result_type is ResultType.VALIDATION_FAILURE:
        return _failed(f"{host}: {failure.reason}: {failure.detail}")
    detail = f"the certificate of {host} was refused: {failure.reason}: {failure.detail}"
    return FetchFailedError(ResultType.STS_WEBPKI_INVALID, one_line(detail, 500))
