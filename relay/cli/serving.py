"""serve, demo; and worker, which serve starts"""

import asyncio
import gc
import os
import socket
import sys
from collections.abc import Callable
from typing import Annotated

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, settings_from


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mta-sts-relay serve --config /etc/mta-sts-relay/config.toml")(serve)
    app.command(epilog="Example: mta-sts-relay demo")(demo)
    app.command(hidden=True)(worker)


def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the relay. The log goes to standard error; SIGTERM stops it, SIGHUP rereads config and certificates."""
    settings = settings_from(config)
    from relay.app.log_lines import SharedLog
    from relay.app.service import serve as serve_relay
    from relay.app.systemd import ServiceManager
    from relay.logs import LogOutput

    log = SharedLog(sys.stderr)
    with LogOutput(log) as logs, _runner() as runner:
        logs.configure(settings.log.format, settings.log.level)
        manager = ServiceManager(os.environ)
        done = runner.run(serve_relay(config, settings, logs=logs, log=log, manager=manager))
    raise typer.Exit(0 if done else 1)


def worker(
    number: Annotated[int, typer.Option()],
    line: Annotated[int, typer.Option()],
    listen: Annotated[list[int] | None, typer.Option()] = None,
) -> None:
    """Be a worker process of a running relay, which starts it with these open sockets."""
    from relay.app.working import work
    from relay.logs import LogOutput

    sockets = tuple(socket.socket(fileno=fd) for fd in listen or ())
    with LogOutput(marks={"worker": number}) as logs, _runner() as runner:
        done = runner.run(work(number, socket.socket(fileno=line), sockets, logs=logs))
    raise typer.Exit(0 if done else 1)


_COLLECT_AFTER = 10_000
"""Objects made and not freed, before cyclic garbage is looked for; Python's own is 700, reached every ten messages."""


def _runner() -> asyncio.Runner:
    """Return what runs the event loop: uvloop where it is installed, unless MTA_STS_RELAY_LOOP is "asyncio".

    Looking for cyclic garbage was a twentieth of the CPU time of a message, though a message leaves none: what the
    program itself consists of is not looked through any more, and the rest less often.
    """
    gc.collect()
    gc.freeze()
    gc.set_threshold(_COLLECT_AFTER)
    return asyncio.Runner(loop_factory=None if os.environ.get("MTA_STS_RELAY_LOOP") == "asyncio" else _uvloop())


def _uvloop() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:
        return None
    return uvloop.new_event_loop


def demo() -> None:
    """Show what is enforced: a pocket internet on loopback, mail to one domain per fault, and a table of outcomes.

    Exit status 0 only if every row is as it must be. Nothing outside this machine is touched.
    """
    from relay.lab.demo import run_demo

    raise typer.Exit(0 if asyncio.run(run_demo()) else 1)
