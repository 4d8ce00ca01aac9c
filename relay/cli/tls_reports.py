"""tlsrpt preview, tlsrpt key-record"""

import asyncio
from collections.abc import Sequence
from datetime import UTC, date, datetime
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from, wrong_use

if TYPE_CHECKING:
    from relay.app.report_preview import Preview
    from relay.config import Settings
    from relay.dkim import DkimSigner

app = typer.Typer(help="Reports to recipient domains on TLS (TLS-RPT, RFC 8460).", no_args_is_help=True)

DayOption = Annotated[str, typer.Option("--day", help="The UTC day, as 2026-11-21.", show_default="today")]
DomainOption = Annotated[str, typer.Option("--domain", help="This recipient domain only.", show_default=False)]

_STRING = 255
"""Octets in one character-string of a TXT record (RFC 1035 §3.3)."""


@app.command(epilog="Example: mta-sts-relay tlsrpt preview --day 2026-11-21 --domain example.org")
def preview(
    day: DayOption = "", domain: DomainOption = "", config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False
) -> None:
    """Show the reports on a day as they would be sent, and to whom. Nothing is sent.

    Today's are shown with what is counted so far; what is counted is kept for three days. With --json, each is the
    report itself. Exit status 1 if there are none. Works beside a running relay.
    """
    when, name = _day(day), _domain(domain) if domain else None
    settings = settings_from(config)
    if settings.tlsrpt.mode == "off":
        bad_news('tlsrpt.mode is "off": nothing is counted, and nothing will be sent')
    from relay.app.report_preview import MAX_DOMAINS
    from relay.app.reporting import is_left_out
    from relay.store.protocols import StoreError

    if name and is_left_out(name, settings.tlsrpt.no_reports_to):
        bad_news(f"tlsrpt.no_reports_to names {name}: no report on it will be sent")
    try:
        found = asyncio.run(_previews(settings, when, name))
    except StoreError as error:
        bad_news(str(error))
    if json:
        from relay.cli.output import print_json

        print_json([_facts(one) for one in found])
    elif found:
        _print(found)
    if len(found) >= MAX_DOMAINS:
        typer.echo(f"only the first {MAX_DOMAINS} domains are shown: ask for another one with --domain", err=True)
    if not found:
        bad_news(f"no TLS sessions {f'with {name} ' if name else ''}are counted on {when}")


@app.command("key-record", epilog="Example: mta-sts-relay tlsrpt key-record")
def key_record(config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Print the DNS record to publish, so that receivers can verify the signature of reports.

    `mta-sts-relay config check` says whether it is there.
    """
    signer = _signer(settings_from(config))
    pieces = (signer.record[at : at + _STRING] for at in range(0, len(signer.record), _STRING))
    zone_file = f"{signer.record_name}. IN TXT " + " ".join(f'"{piece}"' for piece in pieces)
    if json:
        from relay.cli.output import print_json

        print_json({"name": signer.record_name, "type": "TXT", "value": signer.record, "zone_file": zone_file})
        return
    typer.echo(f"name   {signer.record_name}\ntype   TXT\nvalue  {signer.record}\n")
    typer.echo(f"or, as a line of a zone file:\n\n{zone_file}")


def _day(text: str) -> date:
    try:
        return date.fromisoformat(text) if text else datetime.now(UTC).date()
    except ValueError:
        wrong_use(f"{text} is not a day such as 2026-11-21")


def _domain(text: str) -> str:
    from policy.names import InvalidNameError, to_domain

    try:
        return to_domain(text)
    except InvalidNameError as error:
        wrong_use(str(error))


def _signer(settings: "Settings") -> "DkimSigner":
    from relay.app.report_means import report_signer
    from relay.dkim import KeyUnusableError

    for key in ("dkim_domain", "dkim_selector", "dkim_key_file"):
        if not getattr(settings.tlsrpt, key):
            wrong_use(f"tlsrpt.{key} is not set")
    try:
        return report_signer(settings)
    except KeyUnusableError as error:
        wrong_use(f"{error}; to make one: openssl genrsa -out {settings.tlsrpt.dkim_key_file} 2048")


async def _previews(settings: "Settings", day: date, domain: str | None) -> Sequence["Preview"]:
    from relay.app import plain
    from relay.app.looking import looking_outward
    from relay.app.report_preview import MAX_DOMAINS, previews
    from relay.app.session_counts import counts_in
    from relay.app.state_dir import queue_files

    async with counts_in(queue_files(settings.relay.state_dir).values()) as counts, looking_outward(settings) as out:
        domains = [domain] if domain else await counts.domains(day, "", MAX_DOMAINS)
        left_out = settings.tlsrpt.no_reports_to
        return await previews(counts, out.resolver, plain.reporter(settings), day, domains, no_reports_to=left_out)


def _facts(one: "Preview") -> dict[str, object]:
    from relay.reports.tlsrpt import as_json

    return {
        "domain": one.report.domain,
        "endpoints": [str(endpoint) for endpoint in one.endpoints],
        "problem": one.problem or None,
        "report": as_json(one.report),
    }


def _print(found: Sequence["Preview"]) -> None:
    from relay.cli.output import print_table

    print_table(
        ["domain", "goes to", "policy", "successful", "failed", "failures"],
        [row for one in found for row in _rows(one)],
    )


def _rows(one: "Preview") -> list[tuple[object, ...]]:
    to = ", ".join(str(endpoint) for endpoint in one.endpoints) or one.problem or "nobody: it asks for no reports"
    rows: list[tuple[object, ...]] = []
    for counts in one.report.policies:
        policy = f"{counts.policy.policy_type.value} {counts.policy.policy_domain}"
        failures = ", ".join(
            " ".join(filter(None, (failure.result_type.value, failure.receiving_mx_hostname, str(number))))
            for failure, number in counts.details
        )
        rows.append((one.report.domain, to, policy, counts.successful, counts.failed, failures))
    return rows
