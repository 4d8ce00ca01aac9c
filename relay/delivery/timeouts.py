"""How long each phase of a session may take (RFC 5321 §4.5.3.2). **Pure.**"""

from dataclasses import dataclass
from datetime import timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Timeouts:
    """One limit a phase, as in `[delivery.timeouts]`. Each reply has its own; none bounds a whole transaction.

    `starttls` holds for the reply to STARTTLS and again for the handshake; `data_block` for each piece of content
    that the host must take; `data_end` is long, because giving up then means delivering twice.
    """

    connect: timedelta = timedelta(seconds=30)
    greeting: timedelta = timedelta(minutes=5)
    ehlo: timedelta = timedelta(minutes=5)
    starttls: timedelta = timedelta(minutes=2)
    mail: timedelta = timedelta(minutes=5)
    rcpt: timedelta = timedelta(minutes=5)
    data: timedelta = timedelta(minutes=2)
    data_block: timedelta = timedelta(minutes=3)
    data_end: timedelta = timedelta(minutes=10)
