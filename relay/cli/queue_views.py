"""How the queue is shown: one table of entries, or one entry with all its attempts."""

from collections.abc import Iterable
from datetime import UTC, datetime

from policy.tls_facts import TlsSession
from relay.cli.output import print_table, say, shown
from relay.queue.attempt import Attempt, HostAttempt
from relay.store.protocols import QueueEntry


def entry_facts(entry: QueueEntry) -> dict[str, object]:
    """The entry as `--json` prints it; names are those of the log."""
    message = entry.message
    return {
        "queue_id": message.queue_id,
        "state": entry.state,
        "destination": entry.destination,
        "reverse_path": message.envelope.reverse_path,
        "message_id": message.message_id,
        "size": message.size,
        "origin": message.origin,
        "require_tls": message.require_tls,
        "tls_optional": message.tls_optional,
        "client": message.client,
        "accepted_at": message.accepted_at,
        "attempts": entry.attempts,
        "next_attempt_at": entry.next_attempt_at,
        "hold_reason": entry.hold_reason,
        "recipients": entry.recipients,
    }


def print_entries(entries: Iterable[QueueEntry]) -> None:
    now = datetime.now(UTC)
    print_table(
        ["queue id", "state", "age", "sender", "domain", "recipients", "tries", "next", "last status"],
        [
            (
                entry.message.queue_id,
                entry.hold_reason.value if entry.hold_reason else entry.state,
                now - entry.message.accepted_at,
                entry.message.envelope.reverse_path or "<>",
                entry.destination,
                len(entry.recipients),
                entry.attempts,
                _next(entry, now),
                next((f"{one.status} {one.diagnostic}".strip() for one in entry.recipients if one.status), ""),
            )
            for entry in entries
        ],
    )


def _next(entry: QueueEntry, now: datetime) -> object:
    if entry.next_attempt_at is None:
        return ""
    return "now" if entry.next_attempt_at <= now else entry.next_attempt_at - now


def print_entry(entry: QueueEntry) -> None:
    message, client = entry.message, entry.message.client
    source = " ".join(part for part in (client.address, client.helo, client.tls_version, client.user) if part)
    for name, value in (
        ("queue id", message.queue_id),
        ("state", f"{entry.state.value} ({entry.hold_reason.value})" if entry.hold_reason else entry.state),
        ("sender", message.envelope.reverse_path or "<>"),
        ("domain", entry.destination),
        ("message-id", message.message_id),
        ("size", message.size),
        ("from client", source or message.origin.value),
        ("accepted", message.accepted_at),
        ("tries", entry.attempts),
        ("next try", entry.next_attempt_at),
    ):
        say(f"{name:12} {shown(value)}")
    if message.require_tls or message.tls_optional:
        say(f"{'demands':12} {'REQUIRETLS' if message.require_tls else 'TLS-Required: No'}")
    print_table(
        ["recipient", "state", "status", "diagnostic"],
        [(one.forward_path, one.state, one.status, one.diagnostic) for one in entry.recipients],
    )
    for attempt in entry.attempts_made:
        _print_attempt(attempt)


def _print_attempt(attempt: Attempt) -> None:
    say(f"attempt {attempt.number}  {shown(attempt.started_at)}  took {_seconds(attempt)}")
    if attempt.route:
        say(f"  route {attempt.route}")
    if (policy := attempt.policy) is not None:
        until = shown(policy.expires_at)
        say(f"  policy {policy.mode}, id {policy.record_id}, mx {', '.join(policy.mx)}, until {until}")
    if attempt.policy_problem:
        say(f"  policy problem: {attempt.policy_problem}")
    if attempt.failure is not None:
        say(f"  no way there: {attempt.failure.detail}")
    for host in attempt.hosts:
        _print_host(host)
    for outcome in attempt.outcomes:
        say(f"  recipient {outcome.recipient_id}: {outcome.action.value} {outcome.status} {outcome.diagnostic}")


def _print_host(host: HostAttempt) -> None:
    where = f"{host.mx_host} {f'[{host.address}]:{host.port}' if host.address else '(not contacted)'}"
    held_to = f"level {host.level.value}" + ("  DANE" if host.dane else "")
    say(f"  {where}  {held_to}  came as far as {host.phase.name.lower().replace('_', ' ')}")
    if host.tls is not None:
        for line in tls_lines(host.tls):
            say(f"    {line}")
    if host.reply is not None:
        say(f"    replied: {host.reply}")
    if host.failure is not None:
        say(f"    failed: {host.failure.detail}")
    if host.testing_failure is not None:
        say(f"    mode testing, would have failed: {host.testing_failure.reason}: {host.testing_failure.detail}")


def tls_lines(tls: TlsSession) -> list[str]:
    """Say what a session was, and whose certificate."""
    lines = [f"{tls.version} {tls.cipher}, certificate {'verified' if tls.verified else 'not verified'}"]
    if (certificate := tls.certificate) is not None:
        lines.append(f"names {', '.join(certificate.names) or '(none)'}")
        lines.append(
            f"issuer {certificate.issuer}, expires {shown(certificate.not_after)}, SHA-256 {certificate.sha256}"
        )
    return lines


def _seconds(attempt: Attempt) -> str:
    return f"{(attempt.finished_at - attempt.started_at).total_seconds():.3f} s"
