"""How long a message takes when there is little to do: from the client's last octet to the MX host's 250."""

import time
from pathlib import Path

from bench_client import Client, Sent
from figures import Figures, percentile
from stage import Stage
from systems import ADDRESS, System
from throughput import ONE_DOMAIN, SIZE, arrived

_WARM_UP = 50
_MESSAGES = 500
_INTERVAL = 0.02
_RECIPIENT = f"user@{ONE_DOMAIN}"


def latency(system: System, stage: Stage, directory: Path) -> Figures:
    """Send 50 messages a second to one warm domain. The time includes the commit, and so is above the target's."""
    with system.run(stage, directory) as running, Client(ADDRESS, running.port) as client:
        stage.sink.reset()
        for number in range(_WARM_UP):
            client.send(f"{number}@warm-up", _RECIPIENT, SIZE)
        arrived(stage, _WARM_UP)
        stage.sink.reset()
        sent = []
        for number in range(_MESSAGES):
            time.sleep(_INTERVAL)
            sent.append(client.send(f"{number}@latency", _RECIPIENT, SIZE))
        arrived(stage, _MESSAGES)
        return _figures(sent, stage.sink.times())


def _figures(sent: list[Sent], times: dict[str, float]) -> Figures:
    accepted = [1000 * one.commit_seconds for one in sent]
    handed_over = [1000 * (times[one.delivery] - one.ended) for one in sent]
    return {
        "handed_over_p50_ms": percentile(handed_over, 50),
        "handed_over_p99_ms": percentile(handed_over, 99),
        "accepted_p50_ms": percentile(accepted, 50),
        "accepted_p99_ms": percentile(accepted, 99),
    }
