"""config check, config show"""

import asyncio
from collections.abc import Iterator
from typing import TYPE_CHECKING

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from

if TYPE_CHECKING:
    from relay.app.outbound import Outbound
    from relay.config import Settings

app = typer.Typer(help="Look over the settings.", no_args_is_help=True)


@app.command(epilog="Example: mta-sts-relay config check --config /etc/mta-sts-relay/config.toml")
def check(config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Say everything that is wrong with the config file, and warn of NDRs and TLS reports that would not get through.

    Nothing is started and nothing changed; the DNS is asked for the way that NDRs would take, and for the DKIM key.
    """
    settings = settings_from(config)
    from relay.cli.output import say
    from relay.store.protocols import StoreError

    try:
        warnings = asyncio.run(_warnings(settings))
    except StoreError as error:
        bad_news(str(error))
    from relay.config import laxities

    for warning in [*map(str, laxities(settings)), *warnings]:
        say(f"warning: {warning}")
    typer.echo(f"{config}: good")


async def _warnings(settings: "Settings") -> list[str]:
    from relay.app.clock import SystemClock
    from relay.app.looking import looking_outward
    from relay.app.ndr_route import bad_ndr_routes

    async with looking_outward(settings) as outbound:
        bad = bad_ndr_routes(settings, outbound.router, SystemClock().now())
        told = list(_exceptions(outbound))
        told += [f"an NDR to {domain} would not arrive ({reason}): set ndr.route" async for domain, reason in bad]
        if settings.tlsrpt.mode == "on":
            told += await _key_record_warnings(settings, outbound)
    return told


def _exceptions(outbound: "Outbound") -> Iterator[str]:
    """What routes turn off now."""
    from relay.app.clock import SystemClock
    from relay.cli.route_views import weakening_lines

    now = SystemClock().now()
    for route in outbound.router.routes:
        directions = route.at(now)
        if directions.weakening is not None:
            for line in weakening_lines(directions.weakening):
                yield f"route {directions.name}: {line.strip()}"


async def _key_record_warnings(settings: "Settings", outbound: "Outbound") -> list[str]:
    from relay.app.key_record import key_record_problem
    from relay.app.report_means import report_signer

    signer = report_signer(settings)
    problem = await key_record_problem(outbound.resolver, signer)
    if problem is None:
        return []
    return [f"TLS reports by mail will be ignored: {signer.record_name} {problem}; see mta-sts-relay tlsrpt key-record"]


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
