"""user add"""

import sys
from typing import Annotated

import typer

from relay.cli.options import wrong_use

app = typer.Typer(help="Users who may send with AUTH (access.users_file).", no_args_is_help=True)

_MAX_PASSWORD = 1024


@app.command(epilog="Example: mta-sts-relay user add scanner >> /etc/mta-sts-relay/users")
def add(name: Annotated[str, typer.Argument(help="The user's name, as the client sends it.")]) -> None:
    """Print a line for access.users_file. The password is asked for, or read from standard input."""
    from argon2 import PasswordHasher

    if not name or not name.isprintable() or ":" in name or name.strip() != name or name.startswith("#"):
        wrong_use("a name is printable, has no colon, and neither begins with # nor begins or ends with a blank")
    if sys.stdin.isatty():
        password = typer.prompt("Password", hide_input=True, confirmation_prompt=True, err=True)
    else:
        password = sys.stdin.readline(_MAX_PASSWORD + 2).rstrip("\r\n")
    if not password or len(password) > _MAX_PASSWORD:
        wrong_use(f"a password has 1 to {_MAX_PASSWORD} characters")
    typer.echo(f"{name}:{PasswordHasher().hash(password)}")
