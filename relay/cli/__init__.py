"""The command line. Commands import what they need when they run, so that --help stays fast.

Exit status: 0 done, 1 the answer is bad news (a check failed, nothing found), 2 wrong use or configuration.
"""

from typing import Annotated

import typer

from relay.cli import checking, configuration, policies, queue, reporting, serving, tls_reports, users

_HELP = (
    "A smarthost that enforces MTA-STS (RFC 8461) on outbound mail.\n\n"
    "Hand it your mail server's outbound mail: it looks up what each recipient domain demands, delivers over verified "
    "TLS where that is demanded, retries, and says exactly why when it cannot."
)

app = typer.Typer(
    name="mta-sts-relay",
    help=_HELP,
    epilog="Example: mta-sts-relay serve --config /etc/mta-sts-relay/config.toml",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
serving.register(app)
checking.register(app)
app.add_typer(configuration.app, name="config")
app.add_typer(queue.app, name="queue")
app.add_typer(policies.app, name="policy")
app.add_typer(reporting.app, name="report")
app.add_typer(tls_reports.app, name="tlsrpt")
app.add_typer(users.app, name="user")


def _print_version(value: bool) -> None:
    if value:
        from relay.app.version import version

        typer.echo(f"mta-sts-relay {version()}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", is_eager=True, callback=_print_version)
    ] = False,
) -> None: ...


def main() -> None:
    """The entry point."""
    app()
