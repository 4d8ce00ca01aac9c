"""config check, config show"""

import asyncio
from typing import TYPE_CHECKING

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from

if TYPE_CHECKING:
    from relay.config import Settings

app = typer.Typer(help="Look over the settings.", no_args_is_help=True)


@app.command(epilog="Example: mta-sts-relay config check --config /etc/mta-sts-relay/config.toml")
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Say everything that is wrong with the config file, and warn of NDRs that would not arrive.

    Nothing is started and nothing changed; the DNS is asked for the way that NDRs would take.
    """
    settings = settings_from(config)
    from relay.cli.output import say
    from relay.store.protocols import StoreError

    try:
        bad = asyncio.run(_bad_ndr_routes(settings))
    except StoreError as error:
        bad_news(str(error))
    for domain, reason in bad:
        say(f"warning: an NDR to {domain} would not arrive ({reason}): set ndr.route")
    typer.echo(f"{config}: good")


async def _bad_ndr_routes(settings: "Settings") -> list[tuple[str, str]]:
    from relay.app.clock import SystemClock
    from relay.app.looking import looking_outward
    from relay.app.ndr_route import bad_ndr_routes

    async with looking_outward(settings) as outbound:
        return [found async for found in bad_ndr_routes(settings, outbound.router, SystemClock().now())]


@app.command(epilog="Example: mta-sts-relay config show --json")
def show(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Print the settings in effect, defaults included, in the form of the config file."""
    settings = settings_from(config)
    if json:
        from relay.cli.output import print_json

        print_json(settings.model_dump(mode="json"))
        return
    from relay.config import render

    typer.echo(render(settings), nl=False)
