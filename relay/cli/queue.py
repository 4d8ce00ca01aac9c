"""queue list, show, retry, hold, release, drop, pause, resume: beside a running relay, through the same files."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from, wrong_use
from relay.queue.message import State

if TYPE_CHECKING:
    from relay.app.operating import Operator
    from relay.store.protocols import QueueFilter

T = TypeVar("T")

app = typer.Typer(help="Look at the queue and act on it, also while the relay runs.", no_args_is_help=True)

IdsArgument = Annotated[list[str] | None, typer.Argument(metavar="[ID]...", help="Queue ids, as in 250 and the log.")]
IdArgument = Annotated[str, typer.Argument(metavar="ID", help="A queue id.")]
DomainOption = Annotated[str | None, typer.Option("--domain", help="Recipient domain.")]
OneDomainOption = Annotated[str, typer.Option("--domain", help="Recipient domain.")]
SenderOption = Annotated[str | None, typer.Option("--sender", help='Sender address; "" for the null sender.')]
StateOption = Annotated[list[State] | None, typer.Option("--state", help="May be given more than once.")]
OlderOption = Annotated[str | None, typer.Option("--older-than", help="Accepted longer ago than this, e.g. 4h.")]
AllOption = Annotated[bool, typer.Option("--all", help="Everything; with list also what is finished.")]
LimitOption = Annotated[int, typer.Option("--limit", min=1, max=100_000, help="At most so many.")]

_WAITING = frozenset({State.QUEUED, State.LEASED, State.HELD})


@app.command("list", epilog="Example: mta-sts-relay queue list --domain example.org --older-than 4h")
def list_(
    ids: IdsArgument = None,
    domain: DomainOption = None,
    sender: SenderOption = None,
    state: StateOption = None,
    older_than: OlderOption = None,
    all_: AllOption = False,
    limit: LimitOption = 1000,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """List what waits, or what the conditions name; all of them must hold. Exit status 1 if there is nothing."""
    from dataclasses import replace

    from relay.cli.output import print_json
    from relay.cli.queue_views import entry_facts, print_entries

    which = _filter(ids, domain, sender, state, older_than, all_)
    which = replace(which, states=which.states or (frozenset() if all_ else _WAITING), all=True)
    entries = _operate(config, lambda operator: operator.list(which, limit))
    if json:
        print_json([entry_facts(entry) for entry in entries])
    elif entries:
        print_entries(entries)
        if len(entries) == limit:
            typer.echo(f"... the first {limit}; --limit shows more", err=True)
    if not entries:
        bad_news("nothing found")


@app.command(epilog="Example: mta-sts-relay queue show 06CA4G6T3V0000R2J5W0M1ZK7Q")
def show(id_: IdArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Show all that is known of a message: recipients, and every attempt host by host."""
    from relay.cli.output import print_json
    from relay.cli.queue_views import entry_facts, print_entry

    entries = _operate(config, lambda operator: operator.show(id_))
    if not entries:
        bad_news(f"{id_} is not in the queue")
    if json:
        print_json([entry_facts(entry) | {"attempts_made": entry.attempts_made} for entry in entries])
        return
    for entry in entries:
        print_entry(entry)


@app.command(epilog="Example: mta-sts-relay queue retry --domain example.org")
def retry(
    ids: IdsArgument = None,
    domain: DomainOption = None,
    sender: SenderOption = None,
    state: StateOption = None,
    older_than: OlderOption = None,
    all_: AllOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Let queued messages be tried now instead of at their next step."""
    which = _filter(ids, domain, sender, state, older_than, all_, required=True)
    _report(_operate(config, lambda operator: operator.retry(which)), "to be tried now", json)


@app.command(epilog="Example: mta-sts-relay queue hold 06CA4G6T3V0000R2J5W0M1ZK7Q")
def hold(
    ids: IdsArgument = None,
    domain: DomainOption = None,
    sender: SenderOption = None,
    older_than: OlderOption = None,
    all_: AllOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Keep queued messages until they are released. Time held does not count towards expiry."""
    which = _filter(ids, domain, sender, None, older_than, all_, required=True)
    _report(_operate(config, lambda operator: operator.hold(which)), "held", json)


@app.command(epilog="Example: mta-sts-relay queue release --all")
def release(
    ids: IdsArgument = None,
    domain: DomainOption = None,
    sender: SenderOption = None,
    older_than: OlderOption = None,
    all_: AllOption = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Let held messages go on; they are tried at once."""
    which = _filter(ids, domain, sender, None, older_than, all_, required=True)
    _report(_operate(config, lambda operator: operator.release(which)), "released", json)


@app.command(epilog="Example: mta-sts-relay queue drop --sender newsletter@example.com --silent")
def drop(
    ids: IdsArgument = None,
    domain: DomainOption = None,
    sender: SenderOption = None,
    state: StateOption = None,
    older_than: OlderOption = None,
    all_: AllOption = False,
    silent: Annotated[bool, typer.Option("--silent", help="Send no NDR.")] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Remove queued and held messages for good. The senders get an NDR unless --silent is given."""
    which = _filter(ids, domain, sender, state, older_than, all_, required=True)
    _report(_operate(config, lambda operator: operator.drop(which, silent=silent)), "dropped", json)


@app.command(epilog="Example: mta-sts-relay queue pause --domain example.org")
def pause(domain: OneDomainOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Keep all mail for a domain, new mail too, until it is resumed."""
    name = _domain(domain)
    _operate(config, lambda operator: operator.pause(name))
    typer.echo(f"{name} is paused")


@app.command(epilog="Example: mta-sts-relay queue resume --domain example.org")
def resume(domain: OneDomainOption, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Let mail for a domain go again."""
    name = _domain(domain)
    _operate(config, lambda operator: operator.resume(name))
    typer.echo(f"{name} is resumed")


def _operate(config: "ConfigOption", action: Callable[["Operator"], Awaitable[T]]) -> T:
    """Run one action on the queue's files."""
    settings = settings_from(config)
    from relay.app.operating import NoQueueError, operating
    from relay.store.protocols import StoreError

    async def run() -> T:
        async with operating(settings) as operator:
            return await action(operator)

    try:
        return asyncio.run(run())
    except (NoQueueError, StoreError) as error:
        bad_news(str(error))


def _filter(
    ids: list[str] | None,
    domain: str | None,
    sender: str | None,
    states: list[State] | None,
    older_than: str | None,
    all_: bool,
    *,
    required: bool = False,
) -> "QueueFilter":
    from relay.store.protocols import QueueFilter

    if required and not (ids or domain or sender is not None or states or older_than or all_):
        wrong_use("say which: queue ids, --domain, --sender, --state, --older-than or --all")
    return QueueFilter(
        ids=tuple(ids or ()),
        domain=_domain(domain) if domain else None,
        sender=sender,
        states=frozenset(states or ()),
        older_than=_duration(older_than) if older_than else None,
        all=all_,
    )


def _domain(text: str) -> str:
    from policy.names import InvalidNameError, parse_address_literal, to_domain

    if parse_address_literal(text):
        return text.lower()
    try:
        return to_domain(text)
    except InvalidNameError as error:
        wrong_use(str(error))


def _duration(text: str) -> timedelta:
    from relay.config.quantities import parse_duration

    try:
        return parse_duration(text)
    except ValueError as error:
        wrong_use(f"--older-than must be {error}")


def _report(count: int, done: str, json: bool) -> None:
    if json:
        from relay.cli.output import print_json

        print_json({"count": count})
    elif count:
        typer.echo(f"{count} {done}")
    if not count:
        bad_news("nothing found")
