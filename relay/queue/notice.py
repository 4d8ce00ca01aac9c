"""What the sender of a message is to be told, and about which recipients (RFC 3461 §5.2, RFC 3464). **Pure.**"""

from dataclasses import dataclass
from datetime import datetime

from relay.queue.attempt import Outcome
from relay.queue.message import Job, Notify, Recipient
from relay.status import Status
from relay.value import Choice

ADMINISTRATOR_DROPPED = Status(5, 3, 2)
"""What Exchange says of a message that an administrator took from its queue."""


class NoticeKind(Choice):
    """The notices that the relay writes; the value is the metric's label."""

    FAILED = "failed"
    DELAYED = "delayed"
    RELAYED = "relayed"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRecipient:
    """One recipient that a notice is about, with the status it is given there.

    `outcome` is what the last attempt meant for it, None if there was none (dropped). `will_retry_until` is set
    in delay notices only (RFC 3464 §2.3.9).
    """

    recipient: Recipient
    status: Status
    diagnostic: str
    outcome: Outcome | None = None
    will_retry_until: datetime | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class NoticeRequest:
    """One notice that is due, to be built from the message's header section or content."""

    kind: NoticeKind
    recipients: tuple[NoticeRecipient, ...]

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("a notice is about a recipient")


def notice_due(recipient: Recipient, occasion: Notify) -> bool:
    """Whether RFC 3461 §5.2.2, §5.2.5 and §5.2.6 want a notice of this kind for a recipient.

    An absent NOTIFY asks for failures and delays, never for success (§4.1).
    """
    if recipient.notify is None:
        return occasion in (Notify.FAILURE, Notify.DELAY)
    return occasion in recipient.notify


def drop_notice(job: Job) -> NoticeRequest | None:
    """Return the notice for a job that the administrator removes, or None where none is due."""
    if job.message.envelope.reverse_path == "":
        return None
    about = tuple(
        NoticeRecipient(
            recipient=recipient,
            status=ADMINISTRATOR_DROPPED,
            diagnostic="Message removed from the queue by the administrator",
        )
        for recipient in job.recipients
        if notice_due(recipient, Notify.FAILURE)
    )
    return NoticeRequest(kind=NoticeKind.DROPPED, recipients=about) if about else None
