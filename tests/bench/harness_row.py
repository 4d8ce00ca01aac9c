"""What generator and sink can do without a system between them: it has to be far more than any system does."""

import ssl
import time
from contextlib import ExitStack
from pathlib import Path

from bench_client import Client, content
from figures import Figures
from load import offer
from processes import cpu_seconds
from sink_client import wait_for
from stage import PLAIN_DOMAIN, PLAIN_HOST, SMTP_PORT, Stage
from systems import System
from throughput import ONE_DOMAIN, SIZE, arrived

_MESSAGES = 8000
_CONNECTIONS = 4
_STALLED = 10.0


def harness(_system: System, stage: Stage, _directory: Path) -> Figures:
    """Measure smtp-source straight into the sink, and a pipelining client over TLS into the sink."""
    return _plain(stage) | _over_tls(stage)


def _plain(stage: Stage) -> dict[str, float]:
    sink = stage.sink
    sink.reset()
    began, cpu = time.monotonic(), cpu_seconds([sink.pid])
    offer(SMTP_PORT, PLAIN_DOMAIN, _MESSAGES, SIZE, address=stage.addresses[PLAIN_HOST])
    wait_for(sink, _MESSAGES, stalled=_STALLED)
    report = sink.report()
    # The very checks that every turn relies on must see this: all of it came in the clear.
    if report["deliveries"] != _MESSAGES or report["plaintext"] != _MESSAGES:
        raise SystemExit(f"the sink has counted wrongly: {report.counts}")
    return {
        "generator_per_second": _MESSAGES / (report["last"] - began),
        "sink_plain_ms": 1000 * (cpu_seconds([sink.pid]) - cpu) / _MESSAGES,
    }


def _over_tls(stage: Stage) -> dict[str, float]:
    """Send MAIL, RCPT and DATA in one piece; the clients take turns, so that the sink never waits for one of them."""
    host, sink = stage.mx_of[ONE_DOMAIN], stage.sink
    context = ssl.create_default_context(cafile=stage.ca_file)
    envelope = f"MAIL FROM:<sender@bench.test>\r\nRCPT TO:<user@{ONE_DOMAIN}>\r\nDATA\r\n".encode()
    sink.reset()
    with ExitStack() as stack:
        clients = [stack.enter_context(Client(stage.addresses[host], SMTP_PORT)) for _ in range(_CONNECTIONS)]
        for client in clients:
            client.start_tls(context, host)
        began, cpu = time.monotonic(), cpu_seconds([sink.pid])
        for first in range(0, _MESSAGES, _CONNECTIONS):
            for client in clients:
                client.write(envelope)
            for client in clients:
                client.expect(b"354", replies=3)
            for number, client in enumerate(clients, first):
                client.write(content(f"{number}@harness", SIZE) + b".\r\n")
            for client in clients:
                client.expect(b"250")
    arrived(stage, _MESSAGES)
    return {
        "tls_per_second": _MESSAGES / (sink.report()["last"] - began),
        "sink_tls_ms": 1000 * (cpu_seconds([sink.pid]) - cpu) / _MESSAGES,
    }
