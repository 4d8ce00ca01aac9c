"""The files for operators are read by the programs that they are for."""

import re
import subprocess
from pathlib import Path

import pytest
from real_servers import program

pytestmark = pytest.mark.real

DOCKER = Path(__file__).parents[2] / "docker"


def _run(*command: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_promtool_accepts_the_alerts() -> None:
    done = _run(program("promtool"), "check", "rules", str(DOCKER / "alerts.yml"))
    assert done.returncode == 0, done.stderr


def test_promtool_accepts_the_scrape_config(tmp_path: Path) -> None:
    config = (DOCKER / "prometheus.yml").read_text().replace("/etc/prometheus", str(DOCKER))
    (tmp_path / "prometheus.yml").write_text(config)
    done = _run(program("promtool"), "check", "config", str(tmp_path / "prometheus.yml"))
    assert done.returncode == 0, done.stderr


def test_alerts_name_metrics_that_exist() -> None:
    from prometheus_client import CollectorRegistry

    from relay.metrics import Metrics

    registry = CollectorRegistry()
    Metrics(registry)
    known = {metric.name for metric in registry.collect()}
    named = set(re.findall(r"mta_sts_relay_\w+", (DOCKER / "alerts.yml").read_text()))
    assert {name.removesuffix("_total") for name in named} <= known


def test_unbound_accepts_its_configuration() -> None:
    done = _run(program("unbound-checkconf"), str(DOCKER / "unbound/unbound.conf"))
    assert done.returncode == 0, done.stderr


def test_systemd_accepts_the_unit(tmp_path: Path) -> None:
    unit = (DOCKER / "mta-sts-relay.service").read_text()
    executable = tmp_path / "mta-sts-relay"
    executable.write_text("#!/bin/sh\n")
    executable.chmod(0o755)
    (tmp_path / "mta-sts-relay.service").write_text(
        re.sub(r"^ExecStart=\S+", f"ExecStart={executable}", unit, flags=re.MULTILINE)
    )
    done = _run(program("systemd-analyze"), "verify", "--man=no", str(tmp_path / "mta-sts-relay.service"))
    complaints = [line for line in done.stderr.splitlines() if "mta-sts-relay.service" in line]
    assert complaints == []


def test_systemd_calls_the_unit_safe(tmp_path: Path) -> None:
    unit = tmp_path / "mta-sts-relay.service"
    unit.write_text((DOCKER / "mta-sts-relay.service").read_text())
    done = _run(program("systemd-analyze"), "security", "--offline=true", "--threshold=25", str(unit))
    assert done.returncode == 0, done.stdout[-400:]
