"""The demo: the lab, the relay as it ships, one message to each domain of the table, and what became of it.

What happened is read from two sides: the relay's own log (outcome, status, security) and what the lab's MX hosts have
seen. A row is good only if both are as they must be.
"""

import asyncio
import contextlib
import signal
import ssl
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from email import message_from_bytes, policy
from email.message import EmailMessage
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from relay.lab.client import submit
from relay.lab.internet import Lab
from relay.lab.mx_records import ReceivedMessage
from relay.lab.relay_process import HOSTNAME, Event, RelayProcess, lab_config
from relay.lab.scenario import (
    SENDER,
    SENDER_MX,
    Observed,
    Outcome,
    Scenario,
    Security,
    Verdict,
    prepare_sender,
)
from relay.lab.scenarios import SCENARIOS
from relay.printable import printable

_AT_ONCE = 8
_ROW_SECONDS = 20.0
_NDR_SECONDS = 40.0
_WIDTH_IN_A_FILE = 140
_NDR_DOMAIN = "expired.test"
"""Whose NDR is shown: mail that a policy kept from going out, until its time was over."""

# Retries and expiry shortened; all else is as it ships.
_SHORTENED = """
[queue]
retry = ["1s", "1s", "3s"]
expire_refused_after = "12s"
"""

_REPORT_ONLY = """
[mta_sts]
mode = "report-only"
"""


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """What became of one scenario; `wrong` is "" if all is as it must be."""

    scenario: Scenario
    happened: str
    wrong: str


async def run_demo(console: Console | None = None) -> bool:
    """Run everything and print it; True if every row is as it must be."""
    console = console or _console()
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="mta-sts-demo-") as directory:
        async with Lab() as lab:
            await prepare_sender(lab)
            for scenario in SCENARIOS:
                await scenario.prepare(lab)
            sender_mx = f"smtp://{lab.hosts[SENDER_MX].address}:{lab.smtp_port}"
            config = Path(directory) / "config.toml"
            settings = lab_config(lab, ndr_route=sender_mx, extra=_SHORTENED, starttls=True)
            settings += "".join(scenario.settings for scenario in SCENARIOS)
            config.write_text(settings, encoding="utf-8")
            console.print(f"A pocket internet with {len(SCENARIOS)} domains is up; starting the relay.")
            async with RelayProcess(config) as relay:
                rows = await _run_all(lab, relay, [one for one in SCENARIOS if not one.report_only])
                ndr = await _ndr(lab)
                config.write_text(settings + _REPORT_ONLY, encoding="utf-8")
                relay.send_signal(signal.SIGHUP)
                await relay.wait_for(lambda event: event["event"] == "config.reloaded", _ROW_SECONDS)
                rows += await _run_all(lab, relay, [one for one in SCENARIOS if one.report_only])
            good = await _report(console, relay, rows, ndr)
    console.print(f"{time.monotonic() - began:.0f} s")
    return good


def _console() -> Console:
    """Text as it is, and in a file wide enough for the table."""
    console = Console(markup=False, highlight=False, emoji=False)
    if not console.is_terminal:
        console.width = max(console.width, _WIDTH_IN_A_FILE)
    return console


async def _run_all(lab: Lab, relay: RelayProcess, scenarios: Sequence[Scenario]) -> list[Row]:
    places = asyncio.Semaphore(_AT_ONCE)

    async def run(scenario: Scenario) -> Row:
        async with places:
            return await _run(lab, relay, scenario)

    return await asyncio.gather(*(run(scenario) for scenario in scenarios))


async def _run(lab: Lab, relay: RelayProcess, scenario: Scenario) -> Row:
    queue_id = await _send(lab, relay, scenario)
    seen, wrong = [], ""
    if scenario.first is not None and scenario.between is not None:
        first = await _observe(relay, queue_id, scenario.first)
        seen.append(first)
        wrong = scenario.first.disagreement(first) if first else "nothing happened"
        await scenario.between(lab)
        if scenario.second_message:
            queue_id = await _send(lab, relay, scenario)
    last = await _observe(relay, queue_id, scenario.expected)
    seen.append(last)
    wrong = wrong or (scenario.expected.disagreement(last) if last else "nothing happened")
    return Row(
        scenario=scenario,
        happened=", then ".join(_words(one) for one in seen),
        wrong=wrong or scenario.wire_disagreement(lab),
    )


async def _send(lab: Lab, relay: RelayProcess, scenario: Scenario) -> str:
    """Submit a message by SMTP, as a legacy MTA does, and return its queue id. REQUIRETLS is said within TLS."""
    content = (
        f"From: Alice <{SENDER}>\r\nTo: <{scenario.recipient}>\r\nSubject: To {scenario.domain}\r\n"
        f"Message-ID: <{time.time_ns()}@legacy.test>\r\nDate: Sun, 22 Nov 2026 10:00:00 +0000\r\n\r\nHello.\r\n"
    )
    submission = await submit(
        relay.smtp,
        SENDER,
        [scenario.recipient],
        content.encode(),
        mail_params="REQUIRETLS" if scenario.requiretls else "",
        tls=ssl.create_default_context(cafile=lab.ca_file) if scenario.requiretls else None,
        tls_name=HOSTNAME,
    )
    if not submission.accepted or submission.data is None:
        raise RuntimeError(f"the relay did not take the message for {scenario.domain}: {submission}")
    return submission.data.text.rpartition(" ")[2]


async def _observe(relay: RelayProcess, queue_id: str, expected: Verdict) -> Observed | None:
    """Return what the log says of the message once it is as expected, or final, or time is up (None: nothing)."""
    last: list[Observed] = []

    def settled(event: Event) -> bool:
        if event.get("queue_id") != queue_id:
            return False
        outcome = str(event["event"]).partition("recipient.")[2]
        if outcome not in {one.value for one in Outcome}:
            return bool(event["event"] == "delivery.crashed")  # there is nothing to wait for
        last.append(_observed(event, Outcome(outcome)))
        return last[-1].outcome is not Outcome.DEFERRED or not expected.disagreement(last[-1])

    with contextlib.suppress(TimeoutError, EOFError):  # then what was last is what there is
        await relay.wait_for(settled, _ROW_SECONDS)
    return last[-1] if last else None


def _observed(event: Event, outcome: Outcome) -> Observed:
    security = event.get("security")
    return Observed(
        outcome=outcome,
        status=str(event["status"]),
        security=Security(security) if security and outcome is Outcome.DELIVERED else None,
        text=str(event["diagnostic"]),
    )


def _words(seen: Observed | None) -> str:
    if seen is None:
        return "nothing"
    if seen.outcome is Outcome.DELIVERED:
        return f"delivered {seen.status}, {seen.security.value if seen.security else 'security not known'}"
    # What follows in brackets is for the log and the NDR.
    text = seen.text.partition(" [")[0].removeprefix(f"{seen.status} ")
    return f"{seen.outcome.value} {seen.status}, {printable(text, 100)}"


async def _ndr(lab: Lab) -> EmailMessage | None:
    """Return the NDR about one refused domain, as it came to the sender's own mail host."""

    def about_it(message: ReceivedMessage) -> bool:
        return message.reverse_path == "" and f"bob@{_NDR_DOMAIN}".encode() in message.content

    arrived = lab.hosts[SENDER_MX].messages
    try:
        async with asyncio.timeout(_NDR_SECONDS):
            while not any(about_it(message) for message in arrived):
                await arrived.wait_for(arrived.total + 1, _NDR_SECONDS)
    except TimeoutError:
        return None
    found = next(message for message in arrived if about_it(message))
    return message_from_bytes(found.content, policy=policy.default)


async def _report(console: Console, relay: RelayProcess, rows: list[Row], ndr: EmailMessage | None) -> bool:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("", "domain", "what is wrong with it", "what must happen", "what happened"):
        table.add_column(column, overflow="fold")
    for row in rows:
        mark = Text("no", "bold red") if row.wrong else Text("ok", "green")
        happened = f"{row.happened}\n{row.wrong}" if row.wrong else row.happened
        scenario = row.scenario
        table.add_row(mark, scenario.domain, scenario.title, scenario.must, happened)
    console.print(table)
    wrong = sum(bool(row.wrong) for row in rows)
    if ndr is None:
        console.print(f"The NDR about {_NDR_DOMAIN} did not come.")
    else:
        _print_ndr(console, ndr)
    if wrong or ndr is None:
        console.print(f"The end of the relay's log:\n{relay.log_end()}", soft_wrap=True)
    console.print(f"{len(rows) - wrong} of {len(rows)} rows are as they must be.")
    return not wrong and ndr is not None


def _print_ndr(console: Console, ndr: EmailMessage) -> None:
    console.rule(f"The NDR about {_NDR_DOMAIN}, as the sender sees it")
    for name in ("From", "To", "Subject", "Date"):
        console.print(f"{name}: {printable(str(ndr[name]))}", soft_wrap=True)
    console.print()
    body = ndr.get_body(("plain",))
    for line in body.get_content().splitlines() if body else ():
        console.print(printable(line), soft_wrap=True)
    for part in ndr.walk():
        if part.get_content_type() == "message/delivery-status":
            console.rule("and its part for programs")
            for group in part.iter_parts() if part.is_multipart() else ():
                console.print(printable_lines(str(group)), soft_wrap=True)
    console.rule()


def printable_lines(text: str) -> str:
    """Clean each line by itself."""
    return "\n".join(printable(line) for line in text.splitlines())
