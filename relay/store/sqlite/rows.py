"""Between rows and words: times, enums, messages, recipients. **Pure.**"""

from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from typing import Any

from relay.queue.message import Client, Envelope, Message, NewMessage, NewRecipient, Notify, Origin, Recipient, Ret

Row = Sequence[Any]

_REQUIRE_TLS, _TLS_OPTIONAL = 1, 2
"""jobs.tls_wish: what the message says about TLS; 0 is nothing."""
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

MESSAGE_COLUMNS = (
    "queue_id, accepted_at, size, origin, message_id, reverse_path, ret, envid, smtputf8, eight_bit, utf8_header, "
    "tls_wish, client_address, client_helo, client_tls_version, client_tls_cipher, client_user"
)
MESSAGE_WIDTH = MESSAGE_COLUMNS.count(",") + 1
"""How many columns `message` takes; others may follow them in a row."""
MESSAGE_MARKS = (
    "?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), ?, ?, ?, ?, ?, ?, nullif(?, ''), nullif(?, ''), nullif(?, '')"
)
"""Where `message_values` go. Python looks for adapters of each None and bool it binds, at three times the cost."""


def to_us(time: datetime) -> int:
    """Return microseconds since 1970 UTC."""
    return (time - _EPOCH) // _MICROSECOND


def from_us(value: int) -> datetime:
    return _EPOCH + timedelta(microseconds=value)


def duration_us(duration: timedelta) -> int:
    return duration // _MICROSECOND


def notify_text(notify: frozenset[Notify] | None) -> str | None:
    """NULL says that NOTIFY was absent, which is not the same as any value."""
    return None if notify is None else ",".join(sorted(option.value for option in notify))


def notify_of(text: str | None) -> frozenset[Notify] | None:
    return None if text is None else frozenset(Notify(word) for word in text.split(",") if word)


def committed(new: NewMessage, accepted_at: int) -> Message:
    """The message as it will be read back."""
    return Message(
        queue_id=new.queue_id,
        accepted_at=from_us(accepted_at),
        envelope=new.envelope,
        size=new.size,
        origin=new.origin,
        message_id=new.message_id,
        eight_bit=new.eight_bit,
        utf8_header=new.utf8_header,
        require_tls=new.require_tls,
        tls_optional=new.tls_optional,
        client=new.client,
    )


def message_values(message: Message, accepted_at: int) -> Row:
    """Values for MESSAGE_MARKS, in the order of MESSAGE_COLUMNS."""
    envelope, client = message.envelope, message.client
    return (
        message.queue_id,
        accepted_at,
        message.size,
        message.origin.value,
        message.message_id,
        envelope.reverse_path,
        envelope.ret.value if envelope.ret else "",
        envelope.envid or "",
        int(envelope.smtputf8),
        int(message.eight_bit),
        int(message.utf8_header),
        _REQUIRE_TLS if message.require_tls else _TLS_OPTIONAL if message.tls_optional else 0,
        client.address,
        client.helo,
        client.tls_version or "",
        client.tls_cipher or "",
        client.user or "",
    )


def message(row: Row) -> Message:
    """The message of a row that begins with MESSAGE_COLUMNS."""
    queue_id, accepted_at, size, origin, message_id, reverse_path, ret, envid, smtputf8, eight_bit, utf8_header = row[
        :11
    ]
    tls_wish, address, helo, tls_version, tls_cipher, user = row[11:MESSAGE_WIDTH]
    return Message(
        queue_id=queue_id,
        accepted_at=from_us(accepted_at),
        envelope=Envelope(
            reverse_path=reverse_path, ret=Ret(ret) if ret else None, envid=envid, smtputf8=bool(smtputf8)
        ),
        size=size,
        origin=Origin(origin),
        message_id=message_id,
        eight_bit=bool(eight_bit),
        utf8_header=bool(utf8_header),
        require_tls=tls_wish == _REQUIRE_TLS,
        tls_optional=tls_wish == _TLS_OPTIONAL,
        client=Client(address=address, helo=helo, tls_version=tls_version, tls_cipher=tls_cipher, user=user),
    )


def recipient_values(recipient_id: int, recipient: NewRecipient | Recipient, status: str, diagnostic: str) -> Row:
    """A recipient as it stands in jobs.recipients; in jobs.finished its state follows."""
    return (recipient_id, recipient.forward_path, notify_text(recipient.notify), recipient.orcpt, status, diagnostic)


def recipient(row: Row) -> Recipient:
    """The recipient of a row that `recipient_values` made."""
    return Recipient(id=row[0], forward_path=row[1], notify=notify_of(row[2]), orcpt=row[3])
