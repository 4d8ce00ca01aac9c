"""/metrics, /healthz and /readyz: what they answer, and to whom."""

import asyncio
import ipaddress
from collections.abc import Awaitable, Callable, Sequence

from prometheus_client.exposition import choose_encoder
from prometheus_client.registry import Collector
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import ASGIApp, Receive, Scope, Send

from relay.printable import printable

READINESS_LIMIT = 3.0
"""Seconds for all questions of one /readyz; a store that takes longer is not ready."""

_HEADERS = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}

Readiness = Callable[[], Awaitable[Sequence[str]]]
"""Returns the reasons why the relay may not take mail; none when it may."""


Collect = Callable[[], Awaitable[Collector]]
"""Returns all metrics, up to date."""


def always(collector: Collector) -> Collect:
    """Return what collects from a registry that is up to date by itself."""

    async def collect() -> Collector:
        return collector

    return collect


def endpoints(
    *,
    collect: Collect,
    readiness: Readiness,
    names: Sequence[str],
) -> Starlette:
    """Build the application; `names` are the hosts that it may be asked as."""

    async def metrics(request: Request) -> Response:
        try:
            encoder, content_type = choose_encoder(request.headers.get("accept", ""))
        except (TypeError, ValueError):  # the library fails on a version that is no number
            encoder, content_type = choose_encoder("")
        collector = await collect()
        # Thousands of series take tens of milliseconds to render, for which mail shall not wait.
        body = await asyncio.to_thread(encoder, collector)
        return Response(body, headers=_HEADERS | {"Content-Type": content_type})

    async def healthz(request: Request) -> Response:  # noqa: ARG001  the framework's signature
        return PlainTextResponse("alive\n", headers=_HEADERS)

    async def readyz(request: Request) -> Response:  # noqa: ARG001  the framework's signature
        try:
            async with asyncio.timeout(READINESS_LIMIT):
                reasons = await readiness()
        except TimeoutError:
            reasons = [f"the store has not answered for {READINESS_LIMIT:g} s"]
        if not reasons:
            return PlainTextResponse("ready\n", headers=_HEADERS)
        text = "".join(f"{printable(reason)}\n" for reason in reasons)
        return PlainTextResponse(text, status_code=503, headers=_HEADERS)

    return Starlette(
        routes=[Route("/metrics", metrics), Route("/healthz", healthz), Route("/readyz", readyz)],
        middleware=[Middleware(_KnownHosts, names=frozenset(names))],
    )


class _KnownHosts:
    """Refuses requests for a host that is not ours: a web page that rebinds its own name in DNS gets nothing here.

    IP addresses and names without a dot are let through: nobody can publish them as a name of his own.
    """

    def __init__(self, app: ASGIApp, names: frozenset[str]) -> None:
        self._app = app
        self._names = names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and not self._known(Request(scope).headers.get("host", "")):
            refusal = PlainTextResponse("unknown host: see http.hosts\n", status_code=421, headers=_HEADERS)
            await refusal(scope, receive, send)
            return
        await self._app(scope, receive, send)

    def _known(self, host: str) -> bool:
        name = host.partition("]")[0].removeprefix("[") if host.startswith("[") else host.partition(":")[0]
        name = name.lower().removesuffix(".")
        return bool(name) and ("." not in name.strip(".") or _is_address(name) or name in self._names)


def _is_address(name: str) -> bool:
    try:
        ipaddress.ip_address(name)
    except ValueError:
        return False
    return True
