"""A policy host on loopback whose every octet a test chooses."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from dataclasses import dataclass, field

Handler = Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]]


@dataclass
class PolicyHost:
    """What was seen of the clients. `respond` is called after each request's head was read."""

    respond: Handler
    port: int = 0
    requests: list[bytes] = field(default_factory=list)
    server_names: list[str | None] = field(default_factory=list)
    connections: int = 0
    busy: int = 0
    busiest: int = 0


def response(
    body: bytes,
    *,
    status: str = "200 OK",
    headers: Sequence[str] = ("Content-Type: text/plain",),
    length: int | None = None,
) -> Handler:
    """Answer with these octets; `length` is what Content-Length says, by default the truth."""

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        lines = [f"HTTP/1.1 {status}", *headers, f"Content-Length: {len(body) if length is None else length}"]
        writer.write("\r\n".join([*lines, "", ""]).encode() + body)

    return respond


def raw(octets: bytes) -> Handler:
    """Answer with these octets and close."""

    async def respond(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(octets)

    return respond


@contextlib.asynccontextmanager
async def policy_host(respond: Handler, context: ssl.SSLContext | None) -> AsyncIterator[PolicyHost]:
    """Serve on a free port of 127.0.0.1, over TLS if there is a context."""
    host = PolicyHost(respond=respond)

    def note_name(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        host.server_names.append(name)

    if context is not None:
        context.sni_callback = note_name

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        host.connections += 1
        host.busy += 1
        host.busiest = max(host.busiest, host.busy)
        try:
            with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
                host.requests.append(await reader.readuntil(b"\r\n\r\n"))
                await host.respond(reader, writer)
                await writer.drain()
        finally:
            host.busy -= 1
            writer.close()
            with contextlib.suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    serving: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    host.port = server.sockets[0].getsockname()[1]
    try:
        yield host
    finally:
        server.close()
        await server.wait_closed()
        for task in serving:
            task.cancel()
        await asyncio.gather(*serving, return_exceptions=True)
