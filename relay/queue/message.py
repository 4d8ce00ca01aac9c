"""A message in the queue: envelope, recipients, where it came from (RFC 5321, 3461, 6531, 8689). **Pure.**"""

from dataclasses import field
from datetime import datetime, timedelta

from relay.value import Choice, value


class Notify(Choice):
    """NOTIFY of RCPT (RFC 3461 §4.1)."""

    NEVER = "NEVER"
    SUCCESS = "SUCCESS"
    FAILURE = "FAILURE"
    DELAY = "DELAY"


class Ret(Choice):
    """RET of MAIL (RFC 3461 §4.3)."""

    FULL = "FULL"
    HDRS = "HDRS"


class Origin(Choice):
    """Who made the message: a client of ours, or the relay itself.

    RELAY is a notice (NDR, delay, success). REPORT is a TLS report (RFC 8460): delivered whatever is wrong with TLS, in
    sessions of its own that no report counts, for a day at most, and nobody is told of its fate.
    """

    CLIENT = "client"
    RELAY = "relay"
    REPORT = "report"


class State(Choice):
    """States of the recipients of one job (design §4). The last three are final."""

    QUEUED = "queued"
    LEASED = "leased"
    HELD = "held"
    DELIVERED = "delivered"
    FAILED = "failed"
    DROPPED = "dropped"


class HoldReason(Choice):
    """Why a job is held."""

    OPERATOR = "operator"
    POISON = "suspected-poison"
    DOUBLE_BOUNCE = "double-bounce"


@value
class Envelope:
    """What MAIL said. `reverse_path` is "" for the null reverse-path; `envid` is the xtext as it was received."""

    reverse_path: str
    ret: Ret | None = None
    envid: str | None = None
    smtputf8: bool = False


@value
class NewRecipient:
    """One accepted forward-path (RFC 5321 §4.1.1.3) with its DSN options (RFC 3461 §4).

    `destination` is the domain in canonical form (policy.names.to_domain), or the address literal in lower case.
    `notify` None means that NOTIFY was absent, which is not the same as any value. `orcpt` is the parameter's
    value as it was received, letter for letter.
    """

    forward_path: str
    destination: str
    notify: frozenset[Notify] | None = None
    orcpt: str | None = None


@value
class Recipient:
    """A recipient in the queue, still waiting; `id` is the store's and unique within it."""

    id: int
    forward_path: str
    notify: frozenset[Notify] | None = None
    orcpt: str | None = None


@value
class Client:
    """Who handed us the message. `address` is "" for messages of our own; `tls` is e.g. "TLSv1.3"."""

    address: str = ""
    helo: str = ""
    tls_version: str | None = None
    tls_cipher: str | None = None
    user: str | None = None


@value
class StoredContent:
    """Content that is already in the store under an id that no message names yet (large uploads)."""

    content_id: int
    size: int


@value
class NewMessage:
    """A message to be committed. Content is complete, CRLF throughout, our Received: on top, no dot-stuffing.

    `eight_bit`: an octet above 127 anywhere; `utf8_header`: one in the header section or a MIME part header
    (decision 11: found by scanning). `message_id` is the RFC 5322 Message-ID, "" if there is none.

    `require_tls`: MAIL said REQUIRETLS (RFC 8689 §2). `tls_optional`: TLS-Required: No is to be honoured (§3), which
    the former overrules.
    """

    queue_id: str
    envelope: Envelope
    recipients: tuple[NewRecipient, ...]
    content: bytes | StoredContent
    origin: Origin = Origin.CLIENT
    message_id: str = ""
    eight_bit: bool = False
    utf8_header: bool = False
    require_tls: bool = False
    tls_optional: bool = False
    client: Client = field(default_factory=Client)
    size: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if not self.recipients:
            raise ValueError("a message needs a recipient")
        if self.require_tls and self.tls_optional:
            raise ValueError("REQUIRETLS overrules TLS-Required: No")
        size = len(self.content) if isinstance(self.content, bytes) else self.content.size
        object.__setattr__(self, "size", size)


@value
class Message:
    """A committed message without its content."""

    queue_id: str
    accepted_at: datetime
    envelope: Envelope
    size: int
    origin: Origin = Origin.CLIENT
    message_id: str = ""
    eight_bit: bool = False
    utf8_header: bool = False
    require_tls: bool = False
    tls_optional: bool = False
    client: Client = field(default_factory=Client)


@value
class Lease:
    """The right to settle a job. `fence` grows with each claim; a settlement with an old one is refused."""

    fence: int
    incarnation: str


@value
class Job:
    """The waiting recipients of one message at one destination, leased; the unit of work.

    `attempts` counts the current one, at least 1. `held_for` is the time spent held, which does not count
    towards expiry. `content` is there when the message was handed over in memory, else the store has it.
    """

    id: int
    message: Message
    destination: str
    recipients: tuple[Recipient, ...]
    attempts: int
    lease: Lease
    held_for: timedelta = timedelta(0)
    delay_notified: bool = False
    content: bytes | None = field(default=None, repr=False, compare=False)
