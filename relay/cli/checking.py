"""check"""

import asyncio
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from, wrong_use

if TYPE_CHECKING:
    from policy.findings import Findings
    from relay.app.looking import HostLook, Look
    from relay.config import Settings
    from relay.delivery.hosts import Host


def register(app: typer.Typer) -> None:
    app.command(epilog="Example: mta-sts-relay check bob@example.org --connect")(check)


def check(
    destination: Annotated[str, typer.Argument(metavar="DOMAIN|ADDRESS", help="Where the mail would go.")],
    connect: Annotated[
        bool, typer.Option("--connect", help="Connect to the hosts, as far as the certificate.")
    ] = False,
    requiretls: Annotated[
        bool, typer.Option("--requiretls", help="For a message that demands REQUIRETLS (RFC 8689).")
    ] = False,
    config: ConfigOption = DEFAULT_CONFIG,
    json: JsonOption = False,
) -> None:
    """Say what the relay would do with mail for a domain: MX by MX, with policy, verdict and reason.

    Exit status 1 if the mail would not be delivered now. No message is sent.
    """
    domain = _destination(destination)
    settings = settings_from(config)
    from relay.store.protocols import StoreError

    try:
        found = asyncio.run(_look(settings, domain, connect=connect, require_tls=requiretls))
    except StoreError as error:
        bad_news(str(error))
    if json:
        from relay.cli.output import print_json

        print_json(_facts(found) | {"postmaster": _words(found)})
    else:
        _print(found)
        _print_words(found)
    if not found.deliverable:
        raise typer.Exit(1)


async def _look(settings: "Settings", domain: str, *, connect: bool, require_tls: bool) -> "Look":
    import time

    from relay.app.clock import SystemClock
    from relay.app.looking import look, looking_outward
    from relay.app.stopwatch import Stopwatch

    watch = Stopwatch(time.monotonic)
    async with looking_outward(settings, watch) as outbound:
        now = SystemClock().now()
        return await look(outbound, watch, domain, now, connect=connect, require_tls=require_tls)


def _destination(text: str) -> str:
    from policy.names import InvalidNameError, parse_address_literal, to_domain

    domain = text.rpartition("@")[2]
    if parse_address_literal(domain):
        return domain.lower()
    try:
        return to_domain(domain)
    except InvalidNameError as error:
        wrong_use(str(error))


def _facts(found: "Look") -> dict[str, object]:
    from relay.cli.route_views import route_facts

    return {
        "destination": found.destination,
        "deliverable": found.deliverable,
        "failure": found.failure,
        "advice": found.advice,
        "look_ups": found.look_ups,
        "route": route_facts(found.directions),
        "next_hop": str(found.next_hop) if found.next_hop is not None else None,
        "others": [_facts(other) for other in found.others],
        "policy": _policy_facts(found.findings),
        "hosts": [_host_facts(one) | {"advice": one.advice(found.destination)} for one in found.hosts],
    }


def _policy_facts(findings: "Findings | None") -> dict[str, object] | None:
    if findings is None:
        return None
    cached = findings.cached
    return {
        "result": findings.result,
        "mode": cached.policy.mode if cached else None,
        "id": cached.record_id if cached else None,
        "mx": cached.policy.mx if cached else (),
        "max_age": cached.policy.max_age if cached else None,
        "fetched_at": cached.fetched_at if cached else None,
        "expires_at": cached.expires_at if cached else None,
        "problem": findings.problem,
        "unknown": findings.unknown,
        "defer_until": findings.defer_until,
    }


def _host_facts(one: "HostLook") -> dict[str, object]:
    from policy.requirement import Requirement

    host, failure = one.host, one.host.failure
    return {
        "mx_host": host.name,
        "port": host.port,
        "addresses": host.where if isinstance(host.where, tuple) else (),
        "level": host.level,
        "requiretls": isinstance(host.verdict, Requirement) and host.verdict.requiretls,
        "mx_match": host.mx_match,
        "dane": host.dane,
        "tlsa": _tlsa_words(host),
        "usable": one.usable,
        "failure": failure,
        "connections": one.connections,
    }


def _print(found: "Look") -> None:
    from relay.cli.check_views import print_look_ups
    from relay.cli.output import say
    from relay.cli.route_views import route_lines

    for line in route_lines(found.directions):
        say(line)
    for number, way in enumerate((found, *found.others)):
        if found.others:
            say(f"next hop {number + 1}: {way.next_hop}")
        _print_policy(way)
        if way is found:
            print_look_ups(found.look_ups)
        _print_way(way)
    say("mail would be delivered" if found.deliverable else "mail would not be delivered now")


def _print_way(found: "Look") -> None:
    from relay.cli.check_views import print_advice, print_connections
    from relay.cli.output import print_table, say

    if found.failure is not None:
        say(f"no way to deliver: {found.failure.detail}")
        print_advice(found.advice)
    if found.hosts:
        print_table(
            ["host", "addresses", "demands", "verdict", "reason"],
            [_row(one) for one in found.hosts],
        )
    for one in found.hosts:
        if one.host.tlsa is not None:
            say(f"{one.host.name}: {_tlsa_words(one.host)}")
        print_advice(one.advice(found.destination))
        print_connections(one)


def _print_policy(found: "Look") -> None:
    from relay.cli.output import say, shown

    findings = found.findings
    if findings is None:
        say(f"{found.destination}: no policy can apply")
        return
    if (cached := findings.cached) is not None:
        policy = cached.policy
        say(f"{findings.policy_domain}: policy {policy.mode.value}, id {cached.record_id} ({findings.result.value})")
        fetched, until = shown(cached.fetched_at), shown(cached.expires_at)
        say(f"  mx {', '.join(policy.mx) or '(none)'}; fetched {fetched}, until {until}")
    else:
        say(f"{findings.policy_domain}: no policy ({findings.result.value})")
    if findings.problem is not None:
        say(f"  policy problem: {findings.problem.result_type.value}: {findings.problem.detail}")
    if findings.unknown is not None:
        say(f"  _mta-sts is not known: {findings.unknown.detail}")
    if findings.defer_until is not None:
        say(f"  mail waits until {shown(findings.defer_until)} (mta_sts.unknown_grace)")


_DEMANDS = {
    "opportunistic": "TLS if offered",
    "testing": "TLS if offered (testing)",
    "encrypted": "TLS",
    "verified": "verified TLS",
}


_SHOWN_RECORDS = 10


def _tlsa_words(host: "Host") -> str | None:
    """What was found of the host's TLSA records, and what that means."""
    from policy.findings import NoTlsa, SecureTlsa, TlsaUnknown

    match host.tlsa:
        case None:
            return None
        case NoTlsa(detail=detail):
            return f"no DANE: {detail}"
        case TlsaUnknown(name=name, unknown=unknown):
            return f"TLSA records not known: {name}: {unknown.reason.value}: {unknown.detail}"
        case SecureTlsa(base_domain=base_domain, records=records):
            shown = "; ".join(str(record) for record in records[:_SHOWN_RECORDS])
            more = f" and {len(records) - _SHOWN_RECORDS} more" if len(records) > _SHOWN_RECORDS else ""
            insecure = "" if host.tlsa.mx_secure else " (the MX record itself is not secured by DNSSEC)"
            return f"TLSA records of {base_domain}: {shown}{more}{insecure}"


def _demands(host: "Host") -> str:
    from policy.requirement import Requirement

    route = host.verdict.route if isinstance(host.verdict, Requirement) else None
    demands = ["DANE"] if host.dane is not None else []
    if route is not None:
        named = f" for {route.tls_name}" if route.tls_name else ""
        demands.append(f"{_DEMANDS[route.level.value]}{named} (route)")
    if isinstance(host.verdict, Requirement) and host.verdict.requiretls:
        demands.append("REQUIRETLS")
    if host.level.value != "opportunistic" or not demands:
        demands.append(_DEMANDS[host.level.value])
    return ", ".join(demands)


def _row(one: "HostLook") -> tuple[object, ...]:
    from policy.requirement import Refusal

    host, failure = one.host, one.host.failure
    addresses = ", ".join(str(address) for address in host.where) if isinstance(host.where, tuple) else ""
    if isinstance(host.verdict, Refusal):
        return host.name, addresses, _demands(host), "refused", host.verdict.detail
    if failure is not None:
        return host.name, addresses, _demands(host), "not usable", failure.detail
    failures = [look.failure.detail for look in one.connections if look.failure is not None]
    verdict = "not usable" if not one.usable else "connected" if one.connections else "would be tried"
    return host.name, addresses, _demands(host), verdict, "; ".join(failures)


def _words(found: "Look") -> list[str]:
    from relay.app.clock import SystemClock
    from relay.app.postmaster import words

    now = SystemClock().now()
    return [paragraph for way in (found, *found.others) for paragraph in words(way, now)]


def _print_words(found: "Look") -> None:
    """What one can paste into a mail to the recipient's postmaster."""
    import textwrap

    from relay.cli.output import say

    paragraphs = _words(found)
    if paragraphs:
        say("")
        say(f"for a mail to postmaster@{found.destination}:")
    for paragraph in paragraphs:
        say("")
        for line in textwrap.wrap(paragraph, 76, break_long_words=False, break_on_hyphens=False):
            say(f"  {line}")
