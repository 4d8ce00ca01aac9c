"""NDR, delay notice and success notice as messages of our own (RFC 3464, RFC 6522, RFC 3834; design §6). **Pure.**

The relay's notices have a null reverse-path, so that nothing can answer them (RFC 5321 §4.5.5), and go the way of
any mail: the return domain's policy holds for them too.
"""

import re
from dataclasses import dataclass
from datetime import datetime

from policy.names import InvalidNameError, parse_address_literal, to_domain
from relay.queue.attempt import Attempt
from relay.queue.message import Envelope, Job, NewMessage, NewRecipient, Notify, Origin
from relay.queue.notice import NoticeKind, NoticeRequest
from relay.reports.delivery_status import delivery_status, needs_utf8
from relay.reports.facts import NoticeFacts
from relay.reports.fields import date, fold, header_address, original_subject, subject_field
from relay.reports.mime import multipart, text_part
from relay.reports.returned import returned_part, returns_content
from relay.reports.text import notice_text

_SUBJECTS = {
    NoticeKind.FAILED: "Undeliverable",
    NoticeKind.DROPPED: "Undeliverable",
    NoticeKind.DELAYED: "Delivery delayed",
    NoticeKind.RELAYED: "Relayed",
}
_MESSAGE_ID = re.compile(r"<[!-;=?-~]{1,248}>")


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeSettings:
    """What notices say of the relay, and whether they return whole messages (`ndr.include`)."""

    hostname: str
    postmaster: str
    include_full: bool = False


def wants_content(request: NoticeRequest, job: Job, settings: NoticeSettings) -> bool:
    """Whether `build_notice` is to be given the whole content; otherwise the header section will do."""
    return returns_content(request.kind, job.message, include_full=settings.include_full)


def build_notice(
    request: NoticeRequest,
    job: Job,
    attempt: Attempt | None,
    returned: bytes,
    now: datetime,
    settings: NoticeSettings,
    *,
    queue_id: str,
) -> NewMessage:
    """Return the notice, ready to be queued under `queue_id` in the same transaction as the settlement.

    `returned` is the content if `wants_content`, else its header section. `attempt` is None for a job that never
    had one. Raises InvalidNameError if the reverse-path has no domain that mail can be sent to.
    """
    reverse_path = job.message.envelope.reverse_path
    facts = NoticeFacts(
        request=request,
        job=job,
        attempt=attempt,
        subject=original_subject(returned),
        now=now,
        hostname=settings.hostname,
        postmaster=settings.postmaster,
    )
    fields = _header(facts, queue_id)
    status_type = "message/global-delivery-status" if needs_utf8(facts) else "message/delivery-status"
    parts = [
        text_part("text/plain", notice_text(facts)),
        text_part(status_type, delivery_status(facts)),
        returned_part(returned, full=wants_content(request, job, settings)),
    ]
    # The subtype in report-type stays, whichever form part two has (RFC 6533 §4).
    content = multipart(fields, "delivery-status", parts, queue_id)
    return NewMessage(
        queue_id=queue_id,
        envelope=Envelope(reverse_path="", smtputf8=not header_address(reverse_path).isascii()),
        recipients=(
            NewRecipient(
                forward_path=reverse_path, destination=_destination(reverse_path), notify=frozenset({Notify.NEVER})
            ),
        ),
        content=content,
        origin=Origin.RELAY,
        message_id=_message_id(facts, queue_id),
        eight_bit=not content.isascii(),
        utf8_header=not content.isascii(),
        # RFC 8689 §5: what it tells of the message is as much in need of protection.
        require_tls=job.message.require_tls,
    )


def _header(facts: NoticeFacts, queue_id: str) -> list[str]:
    fields = [
        f"Date: {date(facts.now)}",
        f"From: Mail Delivery System {header_address(facts.postmaster)}",
        f"To: {header_address(facts.job.message.envelope.reverse_path)}",
        subject_field(f"{_SUBJECTS[facts.kind]}: {facts.subject}".rstrip()),
        fold("Message-ID", _message_id(facts, queue_id)),
        "Auto-Submitted: auto-replied",
        "Content-Language: en",
    ]
    original = facts.job.message.message_id
    if _MESSAGE_ID.fullmatch(original):
        fields += [fold("In-Reply-To", original), fold("References", original)]
    if facts.kind in (NoticeKind.FAILED, NoticeKind.DROPPED):
        fields.append("X-MS-Exchange-Message-Is-Ndr:")
    return fields


def _message_id(facts: NoticeFacts, queue_id: str) -> str:
    return f"<{queue_id}@{facts.hostname}>"


def _destination(path: str) -> str:
    _, at, domain = path.rpartition("@")
    if not at:
        raise InvalidNameError(f"{path!r} has no domain")
    return domain.lower() if parse_address_literal(domain) else to_domain(domain)
