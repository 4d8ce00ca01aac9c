"""The HTTP endpoints over a real socket."""

import asyncio
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator, Sequence

import pytest
from prometheus_client import CollectorRegistry

from relay.admin.endpoints import always, endpoints
from relay.admin.server import AdminServer
from relay.metrics import Metrics


class Relay:
    """Stands in for the relay behind the endpoints."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.reasons: Sequence[str] = ()

    async def readiness(self) -> Sequence[str]:
        return self.reasons


@pytest.fixture
def relay() -> Relay:
    return Relay()


@pytest.fixture
async def port(relay: Relay) -> AsyncIterator[int]:
    app = endpoints(
        collect=always(relay.registry),
        readiness=relay.readiness,
        names=["relay.example.com"],
    )
    server = AdminServer(app, "127.0.0.1", 0)
    task = asyncio.create_task(server.run())
    yield server.address[1]
    server.stop()
    async with asyncio.timeout(10):
        await task


async def ask(
    port: int, path: str, *, method: str = "GET", host: str = "127.0.0.1", accept: str = "*/*"
) -> tuple[int, str, str]:
    """Return status, head and body."""
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        request = f"{method} {path} HTTP/1.1\r\nHost: {host}\r\nAccept: {accept}\r\nConnection: close\r\n\r\n"
        writer.write(request.encode())
        answer = (await reader.read()).decode()
        writer.close()
        await writer.wait_closed()
    head, _, body = answer.partition("\r\n\r\n")
    return int(head.split()[1]), head.lower(), body


async def test_alive_is_alive(port: int) -> None:
    assert (await ask(port, "/healthz"))[::2] == (200, "alive\n")


@pytest.mark.parametrize(
    "accept",
    [
        "application/openmetrics-text; version=abc; escaping=values",
        "application/openmetrics-text; version=; q=x",
        "text/plain; version=1.0.0; escaping=nonsense",
        "text/plain; version=x",
        ";;=,,",
    ],
)
async def test_metrics_for_those_who_ask_in_nonsense_are_plain_text(port: int, accept: str) -> None:
    status, head, _ = await ask(port, "/metrics", accept=accept)
    assert status == 200
    assert "text/plain" in head or "openmetrics" in head


async def test_ready_is_200_or_503_with_the_reasons(port: int, relay: Relay) -> None:
    assert (await ask(port, "/readyz"))[::2] == (200, "ready\n")
    relay.reasons = ["store: disk full", "listener 127.0.0.1:25: \x1b[31mnot open"]
    assert (await ask(port, "/readyz"))[::2] == (503, "store: disk full\nlistener 127.0.0.1:25: \\x1b[31mnot open\n")


async def test_metrics_are_prometheus_text(port: int, relay: Relay) -> None:
    relay.metrics.messages_received.labels("accepted").inc()
    status, head, body = await ask(port, "/metrics")
    assert status == 200
    assert "content-type: text/plain; version=" in head
    assert 'mta_sts_relay_ingress_messages_total{result="accepted"} 1.0' in body


async def test_metrics_are_openmetrics_for_who_asks(port: int) -> None:
    _, head, body = await ask(port, "/metrics", accept="application/openmetrics-text; version=1.0.0")
    assert "content-type: application/openmetrics-text" in head
    assert body.endswith("# EOF\n")


@pytest.mark.real
async def test_promtool_has_nothing_to_say(port: int) -> None:
    if (promtool := shutil.which("promtool")) is None:
        pytest.skip("promtool is not installed (make apt)")
    _, _, body = await ask(port, "/metrics")
    done = await asyncio.to_thread(
        subprocess.run, [promtool, "check", "metrics"], input=body.encode(), capture_output=True, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


@pytest.mark.parametrize(
    "host", ["localhost", "LOCALHOST:9465", "127.0.0.1:9465", "[::1]:9465", "relay.example.com.", "relay"]
)
async def test_our_own_names_are_known(port: int, host: str) -> None:
    assert (await ask(port, "/healthz", host=host))[0] == 200


@pytest.mark.parametrize(
    "host", ["evil.example", "relay.example.com.evil.example", "127.0.0.1.evil.example:9465", "", "."]
)
async def test_a_rebound_name_gets_nothing(port: int, host: str) -> None:
    status, _, body = await ask(port, "/metrics", host=host)
    assert status == 421
    assert "mta_sts" not in body


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH"])
async def test_only_get_and_head(port: int, method: str) -> None:
    assert (await ask(port, "/healthz", method=method))[0] == 405


async def test_head_has_no_body(port: int) -> None:
    assert (await ask(port, "/metrics", method="HEAD"))[::2] == (200, "")


async def test_other_paths_are_404(port: int) -> None:
    assert (await ask(port, "/../etc/passwd"))[0] == 404


async def test_a_head_without_end_is_refused(port: int) -> None:
    async with asyncio.timeout(10):
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(b"GET /" + b"a" * 20_000)
        assert (await reader.read()).startswith(b"HTTP/1.1 400 ")
        writer.close()
        await writer.wait_closed()


async def test_signals_stay_the_relays(port: int) -> None:
    before = signal.getsignal(signal.SIGTERM)
    await ask(port, "/healthz")
    assert signal.getsignal(signal.SIGTERM) is before
    assert before in {signal.SIG_DFL, signal.default_int_handler}


async def test_a_taken_address_is_an_os_error(port: int, relay: Relay) -> None:
    with pytest.raises(OSError, match="Address already in use"):
        AdminServer(
            endpoints(collect=always(relay.registry), readiness=relay.readiness, names=[]),
            "127.0.0.1",
            port,
        )
