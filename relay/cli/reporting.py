"""report enforcement"""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from relay.cli.options import DEFAULT_CONFIG, ConfigOption, JsonOption, bad_news, settings_from

if TYPE_CHECKING:
    from relay.app.enforcement_report import EnforcementReport

app = typer.Typer(help="What has come of the mail of the last days.", no_args_is_help=True)

DaysOption = Annotated[int, typer.Option("--days", min=1, max=3650, help="So many days back.")]


@app.callback()
def _root() -> None: ...


@app.command(epilog="Example: mta-sts-relay report enforcement --days 7")
def enforcement(days: DaysOption = 7, config: ConfigOption = DEFAULT_CONFIG, json: JsonOption = False) -> None:
    """Count messages by domain: delivered with proof or without policy, refused, or (report-only) to be refused.

    Exit status 1 if there was no mail. A message counts once for each recipient domain, by its latest attempt; what is
    finished is known for queue.retain_finished. Works beside a running relay.
    """
    settings = settings_from(config)
    from relay.app.state_dir import queue_files
    from relay.cli.output import print_json
    from relay.cli.report_views import facts, print_report

    files = queue_files(settings.relay.state_dir)
    if not files:
        bad_news(f"there is no queue in {settings.relay.state_dir}: the relay has not run there")
    report = _report([*files.values()], datetime.now(UTC) - timedelta(days=days))
    if json:
        print_json({"mta_sts_mode": settings.mta_sts.mode} | facts(report))
    elif report.domains:
        print_report(report)
        if settings.queue.retain_finished < timedelta(days=days):
            typer.echo("finished mail is known for queue.retain_finished only, which is shorter", err=True)
    if not report.domains:
        bad_news(f"no mail in the last {days} days")


def _report(files: list[Path], since: datetime) -> "EnforcementReport":
    from relay.app.enforcement_report import report_of
    from relay.store.protocols import StoreError

    try:
        return report_of(files, since)
    except StoreError as error:
        bad_news(str(error))
