"""The message/delivery-status part: what a program reads (RFC 3464, RFC 3461 §6.3, RFC 6533 §3). **Pure.**

Fields stand in the order of the ABNF. The UTF-8 form (message/global-delivery-status) is used only if an address
needs it; a peer's odd reply is no reason, for the sender's system may not know that form.
"""

from collections.abc import Iterator

from policy.names import InvalidNameError, parse_address_literal, to_domain
from relay.queue.attempt import HostAttempt
from relay.queue.message import Recipient
from relay.queue.notice import NoticeKind, NoticeRecipient
from relay.reports.facts import NoticeFacts, coded
from relay.reports.fields import (
    CRLF,
    ascii_only,
    clean,
    clean_address,
    date,
    decode_utf8_address,
    decode_xtext,
    fold,
    utf8_address_xtext,
)
from relay.status import Reply

_MAX_ENVID = 100
_MAX_REPLY_LINES = 20
_MAX_HOSTS = 20
_MAX_PATTERNS = 10

_ACTIONS = {
    NoticeKind.FAILED: "failed",
    NoticeKind.DROPPED: "failed",
    NoticeKind.DELAYED: "delayed",
    NoticeKind.RELAYED: "relayed",
}


def needs_utf8(facts: NoticeFacts) -> bool:
    """Whether an address of the report is not ASCII (RFC 6533 §4.1)."""
    return any(
        not one.recipient.forward_path.isascii() or not (_original_recipient(one.recipient, utf8=True) or "").isascii()
        for one in facts.request.recipients
    )


def delivery_status(facts: NoticeFacts) -> str:
    """Return the body of the part, CRLF throughout; ASCII unless `needs_utf8`."""
    utf8 = needs_utf8(facts)
    groups = [_message_fields(facts), *(_recipient_fields(facts, one, utf8) for one in facts.request.recipients)]
    text = "".join(CRLF.join(group) + CRLF + CRLF for group in groups).removesuffix(CRLF)
    return text if utf8 else ascii_only(text)


def _message_fields(facts: NoticeFacts) -> Iterator[str]:
    message = facts.job.message
    envid = decode_xtext(message.envelope.envid) if message.envelope.envid else None
    if envid is not None and len(envid) <= _MAX_ENVID:
        # RFC 3464 §2.2.1: case and spelling kept, so neither cleaned nor folded.
        yield f"Original-Envelope-Id: {envid}"
    yield fold("Reporting-MTA", f"dns; {facts.hostname}")
    if message.client.address:
        yield fold("Received-From-MTA", f"dns; {_client(message.client.helo, message.client.address)}")
    yield f"Arrival-Date: {date(message.accepted_at)}"
    if facts.attempt is None:
        return
    if policy := facts.attempt.policy:
        yield fold("X-MTA-STS-Relay-Policy-Domain", clean(policy.policy_domain))
        yield fold("X-MTA-STS-Relay-Policy-Mode", clean(policy.mode))
        yield fold("X-MTA-STS-Relay-Policy-Id", clean(policy.record_id))
        yield fold("X-MTA-STS-Relay-Policy-MX", clean(", ".join(policy.mx[:_MAX_PATTERNS])))
        yield f"X-MTA-STS-Relay-Policy-Expires: {date(policy.expires_at)}"
        yield f"X-MTA-STS-Relay-Record-Checked: {'yes' if facts.attempt.record_checked else 'no'}"
    if hosts := facts.attempt.hosts:
        verdicts = [_host_verdict(host) for host in hosts[:_MAX_HOSTS]]
        yield f"X-MTA-STS-Relay-MX-Hosts: {f';{CRLF} '.join(verdicts)}"


def _client(helo: str, address: str) -> str:
    """The client's name where it can be one, with the address as comment (RFC 3464 §2.2.4, RFC 3461 §9.3)."""
    try:
        name = helo if parse_address_literal(helo) else to_domain(helo)
    except InvalidNameError:
        name = f"[{address}]" if ":" not in address else f"[IPv6:{address}]"
    return f"{clean(name)} ({clean(address)})"


def _host_verdict(host: HostAttempt) -> str:
    """One host in one line: name, address, how far it came, verdict."""
    where = host.address or "not contacted"
    failure = host.failure
    if failure is None:
        return clean(f"{host.mx_host} ({where}) {host.phase.name.lower()} answered", 300)
    reason = f" {failure.tls.reason}" if failure.tls else ""
    return clean(f"{host.mx_host} ({where}) {host.phase.name.lower()} {failure.kind.value}{reason}", 300)


def _recipient_fields(facts: NoticeFacts, one: NoticeRecipient, utf8: bool) -> Iterator[str]:
    original = _original_recipient(one.recipient, utf8=utf8)
    if original is not None:
        yield f"Original-Recipient: {original}"
    path = clean_address(one.recipient.forward_path)
    yield f"Final-Recipient: {'rfc822' if path.isascii() else 'utf-8'}; {path}"
    yield f"Action: {_ACTIONS[facts.kind]}"
    yield f"Status: {one.status}"
    outcome = one.outcome
    if outcome and outcome.remote_mta and facts.contacted(outcome):
        yield fold("Remote-MTA", f"dns; {clean(outcome.remote_mta)}")
    if outcome and outcome.reply:
        yield _reply_field(outcome.reply, utf8)
    else:
        # RFC 3461 §9.2: `smtp` is for replies really received; these words are ours.
        yield fold("Diagnostic-Code", f"X-mta-sts-relay; {_text(coded(one.status, one.diagnostic), utf8)}")
    if facts.attempt:
        yield f"Last-Attempt-Date: {date(facts.attempt.finished_at)}"
    yield f"Final-Log-ID: {clean(facts.job.message.queue_id)}"
    if one.will_retry_until:
        yield f"Will-Retry-Until: {date(one.will_retry_until)}"


def _text(text: str, utf8: bool) -> str:
    return clean(text) if utf8 else clean(ascii_only(clean(text)))


def _reply_field(reply: Reply, utf8: bool) -> str:
    """The reply word for word, one line for each of its lines (RFC 3461 §9.2)."""
    lines = [_text(line, utf8) for line in reply.lines[:_MAX_REPLY_LINES]] or [""]
    printed = [f"{reply.code}-{line}" for line in lines[:-1]] + [f"{reply.code} {lines[-1]}".rstrip()]
    return f"Diagnostic-Code: smtp; {f'{CRLF} '.join(printed)}"


def _original_recipient(recipient: Recipient, *, utf8: bool) -> str | None:
    """The value of ORCPT, decoded, its type kept (RFC 3461 §6.3); None without ORCPT.

    A utf-8 address is native in the UTF-8 form of the report, else utf-8-addr-xtext (RFC 6533 §3).
    """
    if recipient.orcpt is None:
        return None
    kind, _, value = clean_address(recipient.orcpt).partition(";")
    if kind.lower() == "utf-8":
        address = decode_utf8_address(value) or value
        return f"{clean(kind)}; {clean_address(address) if utf8 else utf8_address_xtext(address)}"
    decoded = decode_xtext(value)
    return f"{clean(kind)}; {value if decoded is None else decoded}"
