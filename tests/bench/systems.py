"""The systems that are measured, each as one context manager: the relay as it ships, and Postfix."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from real_servers import Postfix, answers, wait_until
from stage import POLICY_PORT, SMTP_PORT, Stage, name_server

ADDRESS = "127.0.0.1"
CONNECTIONS = 20
"""To one destination, for every system: both have it as their default."""
_POSTFIX_PORT = 2526
_POLICY_SERVICE_PORT = 8461
_STARTED = re.compile(r'"event":"relay.started".*"listeners":"[^"]*:([0-9]+)"')
_START_LIMIT = 60.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    """A system that lets clients in. `roots` are the processes whose trees are the whole of it.

    `queued` counts the messages in its queue; it may take a second, and is for when nothing is measured.
    """

    port: int
    roots: tuple[int, ...]
    start_seconds: float
    queued: Callable[[], int]
    directory: Path


@contextlib.contextmanager
def relay(stage: Stage, directory: Path, extra: Mapping[str, Mapping[str, str]] | None = None) -> Iterator[Running]:
    """Run the relay as it ships. `extra` is settings by table, as TOML writes the values.

    A directory that it has run in before still has its queue.
    """
    directory.mkdir(parents=True, exist_ok=True)
    config = directory / "config.toml"
    config.write_text(_relay_config(stage, extra or {}))
    command = [sys.executable, "-m", "relay.cli", "serve", "--config", str(config)]
    log = directory / "relay.log"
    before = time.monotonic()
    with log.open("wb") as output, subprocess.Popen(command, stdout=output, stderr=output) as process:
        try:
            wait_until(lambda: _started(log) > 0 or process.poll() is not None, "the relay", _START_LIMIT)
            if not (port := _started(log)):
                raise SystemExit(f"the relay did not start:\n{log.read_text()}")
            yield Running(
                port=port,
                roots=(process.pid,),
                start_seconds=time.monotonic() - before,
                queued=lambda: _relay_queued(config),
                directory=directory,
            )
        finally:
            process.send_signal(signal.SIGTERM)
            process.wait(_START_LIMIT)


def _relay_config(stage: Stage, extra: Mapping[str, Mapping[str, str]]) -> str:
    tables: dict[str, dict[str, str]] = {
        "relay": {"hostname": '"relay.bench.test"', "postmaster": '"postmaster@bench.test"', "state_dir": '"state"'},
        "http": {"address": f'"{ADDRESS}:0"'},
        "dns": {"nameservers": f'["{name_server()}"]'},
        "tls": {"ca_file": f'"{stage.ca_file}"'},
        "delivery": {
            "smtp_port": str(SMTP_PORT),
            "policy_port": str(POLICY_PORT),
            "max_connections_per_destination": str(CONNECTIONS),
            "allow_private_addresses": "true",
        },
    }
    for table, settings in extra.items():
        tables[table] = tables.get(table, {}) | dict(settings)
    lines = ["[[listener]]", f'address = "{ADDRESS}:0"']
    for table, settings in tables.items():
        lines += [f"[{table}]", *(f"{name} = {value}" for name, value in settings.items())]
    return "\n".join(lines) + "\n"


def _started(log: Path) -> int:
    """Return the listener's port once the log says that clients are let in, else 0."""
    with log.open(errors="backslashreplace") as file:
        found = _STARTED.search(file.read(1 << 20))
    return int(found[1]) if found is not None else 0


def _relay_queued(config: Path) -> int:
    options = ["--limit", "100000", "--json", "--config", str(config)]
    command = [sys.executable, "-m", "relay.cli", "queue", "list", *options]
    listed = subprocess.run(command, check=False, capture_output=True, text=True).stdout
    return len(json.loads(listed))


@contextlib.contextmanager
def postfix(stage: Stage, directory: Path, *, tls_reuse: bool = True) -> Iterator[Running]:
    """Run Postfix with postfix-mta-sts-resolver, tuned: TLS connections reused, TLS sessions cached, 100 processes."""
    directory.mkdir(parents=True, exist_ok=True)
    directory.chmod(0o755)
    (directory / "instance").mkdir(exist_ok=True)
    instance = Postfix(
        root=directory / "instance",
        address=ADDRESS,
        port=_POSTFIX_PORT,
        hostname="relay.bench.test",
        services=("tlsproxy unix - - n - 0 tlsproxy",),
        settings={
            "smtp_tcp_port": str(SMTP_PORT),
            "smtp_tls_CAfile": str(stage.ca_file),
            "smtp_tls_security_level": "may",
            "smtp_tls_policy_maps": f"socketmap:inet:{ADDRESS}:{_POLICY_SERVICE_PORT}:postfix",
            "smtp_tls_session_cache_database": "btree:${data_directory}/smtp_scache",
            "smtp_tls_connection_reuse": "yes" if tls_reuse else "no",
            "default_destination_concurrency_limit": str(CONNECTIONS),
            "default_process_limit": "100",
            "message_size_limit": str(150 << 20),
            "virtual_mailbox_domains": "",
            # Postfix' own defaults, where the tests have them shorter
            "minimal_backoff_time": "300s",
            "maximal_backoff_time": "4000s",
            "queue_run_delay": "300s",
            "bounce_queue_lifetime": "5d",
        },
    )
    before = time.monotonic()
    with _policy_service(stage, directory) as policy_service, instance:
        yield Running(
            port=_POSTFIX_PORT,
            roots=(instance.pid, policy_service.pid),
            start_seconds=time.monotonic() - before,
            queued=lambda: _postfix_queued(instance),
            directory=directory,
        )


@contextlib.contextmanager
def _policy_service(stage: Stage, directory: Path) -> Iterator[subprocess.Popen[bytes]]:
    config = directory / "mta-sts-daemon.yml"
    config.write_text(f"""\
host: {ADDRESS}
port: {_POLICY_SERVICE_PORT}
reuse_port: true
shutdown_timeout: 1
cache:
  type: internal
  options:
    cache_size: 100000
default_zone:
  strict_testing: false
  timeout: 4
""")
    program = Path(sys.executable).with_name("mta-sts-daemon")
    with (
        (directory / "mta-sts-daemon.log").open("wb") as log,
        subprocess.Popen(
            [sys.executable, str(program), "--config", str(config)],
            stdout=log,
            stderr=log,
            env=os.environ | {"SSL_CERT_FILE": str(stage.ca_file)},
        ) as process,
    ):
        try:
            wait_until(lambda: answers(ADDRESS, _POLICY_SERVICE_PORT), "postfix-mta-sts-resolver")
            yield process
        finally:
            process.kill()


def _postfix_queued(instance: Postfix) -> int:
    folders = [instance.root / "queue" / name for name in ("maildrop", "incoming", "active", "deferred")]
    return sum(1 for folder in folders for file in folder.rglob("*") if file.is_file())


@contextlib.contextmanager
def _nothing(_stage: Stage, directory: Path) -> Iterator[Running]:
    """Run nothing, for what measures the harness itself."""
    yield Running(port=SMTP_PORT, roots=(), start_seconds=0.0, queued=lambda: 0, directory=directory)


@dataclass(frozen=True, slots=True, kw_only=True)
class System:
    """A system by its name on the command line and in the report."""

    name: str
    title: str
    run: Callable[[Stage, Path], contextlib.AbstractContextManager[Running]] = field(repr=False)


SYSTEMS = {
    system.name: system
    for system in (
        System(name="relay", title="mta-sts-relay", run=relay),
        System(
            name="relay-cores",
            title=f"mta-sts-relay, workers = {os.cpu_count()}",
            run=lambda stage, directory: relay(stage, directory, {"relay": {"workers": str(os.cpu_count())}}),
        ),
        System(name="postfix", title="Postfix, TLS connections reused", run=postfix),
        System(
            name="postfix-no-reuse",
            title="Postfix, its default (no TLS connection reuse)",
            run=lambda stage, directory: postfix(stage, directory, tls_reuse=False),
        ),
        System(name="none", title="no system: the harness by itself", run=_nothing),
    )
}
