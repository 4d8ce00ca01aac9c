"""What several commands have in common: where the settings are, and how the answer is to be printed."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer

if TYPE_CHECKING:
    from relay.config import Settings

ConfigOption = Annotated[Path, typer.Option("--config", "-c", help="The config file.", show_default=True)]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]

DEFAULT_CONFIG = Path("config.toml")


def settings_from(config: Path) -> "Settings":
    """Load the settings; where they cannot be used, say everything that is wrong and exit with 2."""
    from relay.config import ConfigError, load

    try:
        return load(config)
    except ConfigError as error:
        typer.echo(str(error), err=True)
        raise typer.Exit(2) from None


def bad_news(text: str) -> NoReturn:
    """The answer is no."""
    from relay.printable import printable

    typer.echo(printable(text), err=True)
    raise typer.Exit(1)


def wrong_use(text: str) -> NoReturn:
    from relay.printable import printable

    typer.echo(printable(text), err=True)
    raise typer.Exit(2)
