"""policy list, show, history, refresh, forget"""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from, wrong_use

if TYPE_CHECKING:
    from policy.findings import Findings, PolicyState
    from policy.store import PolicyStore

T = TypeVar("T")

app = typer.Typer(help="The policies that the relay has in its cache.", no_args_is_help=True)

DomainArgument = Annotated[str, typer.Argument(metavar="DOMAIN", help="The policy domain.")]

_LIMIT = 100_000


@app.command("list", epilog="Example: mta-sts-relay policy list")
def list_(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """List all domains of which something is known. Exit status 1 if there are none."""
    states = _with_store(config, lambda store: store.states(_LIMIT))
    if json:
        from relay.cli.output import print_json

        print_json([_facts(state) for state in states])
    elif states:
        _print_states(states)
    if not states:
        bad_news("no policies are known")


@app.command(epilog="Example: mta-sts-relay policy show example.org")
def show(domain: DomainArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Show a domain's policy as it was fetched, and the last failure to fetch it."""
    from relay.cli.output import print_json, say, shown

    name = _domain(domain)
    state = _with_store(config, lambda store: store.get(name))
    if state is None:
        bad_news(f"nothing is known of {name}")
    if json:
        print_json(_facts(state) | {"text": state.cached.policy.text if state.cached else None})
        return
    for key, value in _facts(state).items():
        say(f"{key:14} {', '.join(value) if isinstance(value, tuple) else shown(value)}")
    if state.cached:
        say("")
        for line in state.cached.policy.text.splitlines():
            say(f"  {line}")


@app.command(epilog="Example: mta-sts-relay policy history example.org")
def history(domain: DomainArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """List what has changed about a domain's policy, the newest first. Exit status 1 if nothing is known.

    What was seen is kept for 400 days, at most the last 50 changes of a domain, also if the domain is forgotten.
    """
    from relay.cli.output import print_json
    from relay.cli.policy_views import print_history

    name = _domain(domain)
    entries = _with_store(config, lambda store: store.history(name))
    if json:
        print_json(entries)
    elif entries:
        print_history(entries)
    if not entries:
        bad_news(f"no change of {name} is known")


@app.command(epilog="Example: mta-sts-relay policy refresh example.org")
def refresh(domain: DomainArgument, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Fetch a domain's policy now, whatever its record says. Exit status 1 if there is none to be had."""
    from relay.cli.output import print_json, say

    name = _domain(domain)
    found = _refresh(config, name)
    cached = found.cached
    if json:
        print_json({"policy_domain": name, "result": found.result, "policy": cached, "problem": found.problem})
    elif cached is not None:
        say(f"{name}: {cached.policy.mode.value}, id {cached.record_id} ({found.result.value})")
    if found.problem is not None:
        bad_news(f"{name}: {found.problem.result_type.value}: {found.problem.detail}")
    if found.unknown is not None:
        bad_news(f"{name}: {found.unknown.detail}")
    if cached is None:
        bad_news(f"{name} has no policy")


@app.command(epilog="Example: mta-sts-relay policy forget example.org")
def forget(domain: DomainArgument, config: ConfigOption = DEFAULT_CONFIG) -> None:
    """Remove all that is known of a domain but its history; the next message looks everything up anew.

    A running relay may go by what it has in memory for five seconds more.
    """
    name = _domain(domain)
    if not _with_store(config, lambda store: store.forget(name)):
        bad_news(f"nothing is known of {name}")
    typer.echo(f"{name} is forgotten")


def _refresh(config: "ConfigOption", name: str) -> "Findings":
    settings = settings_from(config)
    from relay.app.looking import looking_outward
    from relay.store.protocols import StoreError

    async def run() -> "Findings":
        async with looking_outward(settings) as outbound:
            return await outbound.policies.refresh(name)

    try:
        return asyncio.run(run())
    except StoreError as error:
        bad_news(str(error))


def _with_store(config: "ConfigOption", action: Callable[["PolicyStore"], Awaitable[T]]) -> T:
    settings = settings_from(config)
    from relay.app.looking import policies_in
    from relay.app.state_dir import POLICY_FILE
    from relay.store.protocols import StoreError

    file = settings.relay.state_dir / POLICY_FILE
    if not file.exists():
        bad_news(f"there are no policies in {settings.relay.state_dir}: the relay has not run there")

    async def run() -> T:
        async with policies_in(file) as store:
            return await action(store)

    try:
        return asyncio.run(run())
    except StoreError as error:
        bad_news(str(error))


def _facts(state: "PolicyState") -> dict[str, object]:
    cached, failure = state.cached, state.failure
    return {
        "policy_domain": state.policy_domain,
        "mode": cached.policy.mode if cached else None,
        "id": cached.record_id if cached else None,
        "mx": cached.policy.mx if cached else (),
        "max_age": cached.policy.max_age if cached else None,
        "fetched_at": cached.fetched_at if cached else None,
        "expires_at": cached.expires_at if cached else None,
        "failure": f"{failure.result_type.value}: {failure.detail}" if failure else None,
        "failing_since": failure.failing_since if failure else None,
        "unknown_since": state.unknown_since,
    }


def _print_states(states: list["PolicyState"]) -> None:
    from relay.cli.output import print_table

    now = datetime.now(UTC)
    rows = []
    for state in states:
        facts = _facts(state)
        left = state.cached.expires_at - now if state.cached else None
        expires = "expired" if left is not None and left.total_seconds() <= 0 else left
        failure = facts["failure"] or ("_mta-sts gets no answer" if state.unknown_since else "")
        rows.append((state.policy_domain, facts["mode"], facts["id"], expires, ", ".join(facts["mx"]), failure))  # type: ignore[arg-type]
    print_table(["domain", "mode", "id", "expires in", "mx", "failure"], rows)


def _domain(text: str) -> str:
    from policy.names import InvalidNameError, to_domain

    try:
        return to_domain(text)
    except InvalidNameError as error:
        wrong_use(str(error))
