"""serve, demo"""

import asyncio
import os

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, settings_from


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mta-sts-relay serve --config /etc/mta-sts-relay/config.toml")(serve)
    app.command(epilog="Example: mta-sts-relay demo")(demo)


def serve(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Run the relay. The log goes to standard error; SIGTERM stops it, SIGHUP rereads config and certificates."""
    settings = settings_from(config)
    from relay.app.service import serve as serve_relay
    from relay.app.systemd import ServiceManager
    from relay.logs import LogOutput

    with LogOutput() as logs:
        logs.configure(settings.log.format, settings.log.level)
        done = asyncio.run(serve_relay(config, settings, logs=logs, manager=ServiceManager(os.environ)))
    raise typer.Exit(0 if done else 1)


def demo() -> None:
    """Show what is enforced: a pocket internet on loopback, mail to one domain per fault, and a table of outcomes.

    Exit status 0 only if every row is as it must be. Nothing outside this machine is touched.
    """
    from relay.lab.demo import run_demo

    raise typer.Exit(0 if asyncio.run(run_demo()) else 1)
