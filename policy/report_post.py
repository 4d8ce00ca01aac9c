"""The HTTPS POST of a TLS report (RFC 8460 §5.4) to an endpoint that a stranger chose."""

import asyncio
from datetime import timedelta
from enum import Enum
from http.cookiejar import CookieJar, DefaultCookiePolicy

import httpcore
import httpx

from policy.answers import Resolver
from policy.guarded_https import BROKEN, GuardedTransport, UnreachableError, innermost
from policy.one_line import one_line
from policy.tls import verified_context

_WORTH_A_RETRY = frozenset({408, 425, 429})
_MAX_REASON = 500


class Posted(Enum):
    """What became of a POST."""

    ACCEPTED = "accepted"
    FAILED = "failed"
    """It may work later."""
    REFUSED = "refused"
    """It will not."""


class HttpsReportPoster:
    """Posts compressed reports. To be closed with `aclose`.

    The endpoint's certificate is verified: a report tells of the reporter's own network, too. What the endpoint
    answers is not read beyond the status.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        ca_file: str = "",
        timeout: timedelta = timedelta(seconds=60),
        allow_private_addresses: bool = False,
        user_agent: str = "mta-sts-relay",
    ) -> None:
        transport = GuardedTransport(
            verified_context(ca_file), resolver=resolver, port=None, allow_private=allow_private_addresses
        )
        # No Content-Encoding: the media type says that the file is compressed, and a reader would unpack it twice.
        headers = {"Content-Type": "application/tlsrpt+gzip", "Accept-Encoding": "identity", "User-Agent": user_agent}
        self._client = httpx.AsyncClient(
            transport=transport,
            headers=httpx.Headers(headers),
            follow_redirects=False,
            trust_env=False,
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            timeout=None,  # noqa: S113  one limit covers the whole request; httpx's start anew with each read
        )
        self._timeout = timeout

    async def aclose(self) -> None:
        await self._client.aclose()

    async def post(self, url: str, body: bytes) -> tuple[Posted, str]:
        """Return what became of it, and one line of why. Raises nothing for what the endpoint does."""
        try:
            async with (
                asyncio.timeout(self._timeout.total_seconds()),
                self._client.stream("POST", url, content=body) as response,
            ):
                return _verdict(response.status_code)
        except TimeoutError:
            return Posted.FAILED, f"no answer within {self._timeout.total_seconds():g} s"
        except UnreachableError as error:
            return Posted.FAILED, one_line(f"the host {error}", _MAX_REASON)
        except (httpcore.ConnectError, *BROKEN) as error:
            return Posted.FAILED, one_line(innermost(error), _MAX_REASON)


def _verdict(status: int) -> tuple[Posted, str]:
    """Any 2xx accepts (RFC 8460 §5.4); a redirect is not followed, and like most of 4xx it will not pass by itself."""
    reason = f"HTTP status {status}"
    if 200 <= status < 300:
        return Posted.ACCEPTED, reason
    return (Posted.FAILED if status >= 500 or status in _WORTH_A_RETRY else Posted.REFUSED), reason
