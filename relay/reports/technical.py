"""What administrators read in a notice: the stamped lines, every MX host tried, the policy in force. **Pure.**

The stamped lines follow Exchange's plain layout, newest first, but for one thing: words of our own are never put
into the mouth of the remote server.
"""

from collections.abc import Iterator
from datetime import datetime

from policy.tls_facts import CertificateFacts
from relay.queue.attempt import Attempt, FailureKind, HostAttempt, Outcome, PolicyFacts
from relay.queue.notice import NoticeKind, NoticeRecipient
from relay.reports.facts import NoticeFacts, coded
from relay.reports.fields import clean, clean_address
from relay.reports.remedy import listed

MAX_RECIPIENTS = 50
_MAX_HOSTS = 20


def stamp(moment: datetime) -> str:
    """A time as logs write it, to be compared with them."""
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def diagnostics(facts: NoticeFacts) -> Iterator[str]:
    """Return the lines of the last section."""
    yield "Diagnostic information for administrators:"
    yield ""
    yield f"Generating server: {facts.hostname}"
    receiving = dict.fromkeys(_server(o) for o in _outcomes(facts) if o.remote_mta)
    if receiving:
        yield f"Receiving server: {', '.join(receiving)}"
    yield f"Queue id: {clean(facts.job.message.queue_id)}"
    for group in _same_story(facts):
        yield ""
        yield from (clean_address(one.recipient.forward_path) for one in group[:MAX_RECIPIENTS])
        if len(group) > MAX_RECIPIENTS:
            yield f"(and {len(group) - MAX_RECIPIENTS} more, all named in the delivery status part)"
        yield from _stamped_lines(facts, group[0])
    attempt = facts.attempt
    # A remote server's own answer needs no explanation from our side of the connection.
    if attempt and any(outcome.reply is None for outcome in _outcomes(facts)):
        yield from _hosts(attempt)
        yield from _policy(attempt)


def _outcomes(facts: NoticeFacts) -> Iterator[Outcome]:
    return (one.outcome for one in facts.request.recipients if one.outcome)


def _server(outcome: Outcome) -> str:
    address = f" ({clean(outcome.remote_address)})" if outcome.remote_address else ""
    return f"{clean(outcome.remote_mta or '', 253)}{address}"


def _same_story(facts: NoticeFacts) -> list[list[NoticeRecipient]]:
    groups: dict[tuple[str, str, str], list[NoticeRecipient]] = {}
    for one in facts.request.recipients:
        where = _server(one.outcome) if one.outcome else ""
        groups.setdefault((str(one.status), one.diagnostic, where), []).append(one)
    return list(groups.values())


def _stamped_lines(facts: NoticeFacts, one: NoticeRecipient) -> Iterator[str]:
    outcome = one.outcome
    ours = f"Server at {facts.hostname} returned"
    if outcome is None or facts.attempt is None:
        yield f"{stamp(facts.now)} - {ours} '{clean(coded(one.status, one.diagnostic))}'"
        return
    when = stamp(facts.attempt.finished_at)
    if facts.kind is NoticeKind.DELAYED:
        yield f"{stamp(facts.now)} - {ours} '400 4.4.7 Message delayed'"
    elif outcome.reply is None or one.diagnostic != outcome.diagnostic:
        final = coded(one.status, clean(one.diagnostic).partition(" [")[0])
        yield f"{stamp(facts.now)} - {ours} '{final}'"
    if outcome.reply:
        yield f"{when} - Remote server at {_server(outcome)} returned '{clean(str(outcome.reply))}'"
    else:
        place = f"Server at {facts.hostname}, trying {_server(outcome) if outcome.remote_mta else 'to find a host'},"
        yield f"{when} - {place} noted '{clean(coded(outcome.status, outcome.diagnostic))}'"


def _hosts(attempt: Attempt) -> Iterator[str]:
    yield ""
    if not attempt.hosts:
        detail = attempt.failure.detail if attempt.failure else ""
        yield f"Mail hosts tried: none{f' ({clean(detail)})' if detail else ''}"
        return
    yield "Mail hosts tried, in this order:"
    for number, host in enumerate(attempt.hosts[:_MAX_HOSTS], 1):
        where = f"{clean(host.address)} port {host.port}" if host.address else "not contacted"
        yield f"  {number}. {clean(host.mx_host, 253)} ({where})"
        yield from (f"       {name + ':':<13} {value}" for name, value in _host_facts(host))


def _host_facts(host: HostAttempt) -> Iterator[tuple[str, str]]:
    failure = host.failure
    yield "verdict", clean(_verdict(host))
    if failure and failure.tls and failure.tls.detail != failure.detail:
        yield "detail", clean(failure.tls.detail)
    if reply := (failure.reply if failure else host.reply):
        yield "answer", clean(str(reply))
    if host.tls:
        yield "TLS", clean(f"{host.tls.version}, {host.tls.cipher}")
    certificate = (failure.tls.certificate if failure and failure.tls else None) or (
        host.tls.certificate if host.tls else None
    )
    if certificate:
        yield from _certificate(certificate)


def _verdict(host: HostAttempt) -> str:
    failure = host.failure
    if failure is None:
        return "answered; see above"
    if failure.kind is FailureKind.MX_NOT_IN_POLICY:
        return "MX host is not in the policy, so it was not contacted"
    phase = host.phase.name.replace("_", " ").lower()
    told = [f"{failure.kind.value} (at {phase})", failure.tls.reason if failure.tls else "", failure.detail]
    return ": ".join(filter(None, told))


def _certificate(certificate: CertificateFacts) -> Iterator[tuple[str, str]]:
    yield "certificate", f"for {listed(certificate.names) if certificate.names else 'no DNS name'}"
    yield "subject", clean(certificate.subject)
    yield "issuer", clean(certificate.issuer)
    yield "valid", f"{stamp(certificate.not_before)} to {stamp(certificate.not_after)}"
    yield "SHA-256", clean(certificate.sha256)


def _policy(attempt: Attempt) -> Iterator[str]:
    policy = attempt.policy
    if policy:
        yield ""
        yield f"MTA-STS policy of {clean(policy.policy_domain, 253)}:"
        yield from (f"       {name + ':':<13} {value}" for name, value in _policy_facts(policy))
    if policy or attempt.policy_problem:
        asked = "was asked for again at this attempt" if attempt.record_checked else "was not asked for again"
        yield f"       {'record:':<13} the TXT record {asked}"
    if attempt.policy_problem:
        yield f"       {'problem:':<13} {clean(attempt.policy_problem)}"


def _policy_facts(policy: PolicyFacts) -> Iterator[tuple[str, str]]:
    yield "id", clean(policy.record_id)
    yield "mode", clean(policy.mode)
    yield "mx", listed(policy.mx)
    yield "fetched", stamp(policy.fetched_at)
    yield "valid until", stamp(policy.expires_at)
