"""The HTTP server inside the relay's own loop."""

import asyncio
import contextlib
import socket
from collections.abc import Iterator

import uvicorn
from starlette.applications import Starlette

_MAX_CONNECTIONS = 100
_MAX_HEADER_BYTES = 16 * 1024
_KEEP_ALIVE_SECONDS = 10
_CLOSE_SECONDS = 1
_BACKLOG = 64


class _Server(uvicorn.Server):
    """Leaves signals alone: they are the relay's."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class AdminServer:
    """Serves the endpoints at one address; `address` is known from construction, also where the port was 0."""

    def __init__(self, app: Starlette, host: str, port: int) -> None:
        """Bind the address. Raises OSError."""
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self._socket = socket.create_server((host, port), family=family, backlog=_BACKLOG)
        self.address: tuple[str, int] = self._socket.getsockname()[:2]
        self._server = _Server(
            uvicorn.Config(
                app,
                http="h11",
                ws="none",
                lifespan="off",
                log_config=None,
                access_log=False,
                server_header=False,
                proxy_headers=False,
                limit_concurrency=_MAX_CONNECTIONS,
                h11_max_incomplete_event_size=_MAX_HEADER_BYTES,
                timeout_keep_alive=_KEEP_ALIVE_SECONDS,
                timeout_graceful_shutdown=_CLOSE_SECONDS,
                backlog=_BACKLOG,
            )
        )

    async def run(self) -> None:
        """Serve until `stop`; to be run as a task. Cancelling it closes everything as well."""
        try:
            await self._server.serve(sockets=[self._socket])
        except asyncio.CancelledError:
            for server in self._server.servers if self._server.started else ():
                server.close()
            raise
        finally:
            self._socket.close()

    def stop(self) -> None:
        """Let `run` return as soon as the requests under way are answered, within a second."""
        self._server.should_exit = True
