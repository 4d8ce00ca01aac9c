"""What the sink has seen: every message by its id, and whatever was wrong with how it came. **Pure.**"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields

_MESSAGE_ID = re.compile(rb"^message-id:[ \t]*<([^>\r\n]+)>", re.IGNORECASE | re.MULTILINE)


@dataclass(slots=True)
class HostTally:
    """What came to one MX name (the SNI; "" where none was sent), or to the host without TLS.

    `mails` are MAIL commands: a sender that refuses the host has sessions there, and no MAIL.
    """

    sessions: int = 0
    mails: int = 0
    messages: int = 0


@dataclass(slots=True)
class Tally:
    """Counts since the last reset. A delivery is one message id at one recipient.

    `mx_of` says which MX host serves a domain; mail that comes in under another name is misdirected. Loss does not show
    here: whoever offered the messages compares `deliveries` with what it offered.
    """

    mx_of: Mapping[bytes, str]
    transactions: int = 0
    duplicates: int = 0
    plaintext: int = 0
    unidentified: int = 0
    misdirected: int = 0
    octets: int = 0
    smallest: int | None = None
    connections: int = 0
    handshakes: int = 0
    failed_handshakes: int = 0
    resumed: int = 0
    first: float = 0.0
    last: float = 0.0
    hosts: dict[str, HostTally] = field(default_factory=dict)
    times: dict[bytes, float] = field(default_factory=dict)
    """When each delivery was complete, on the machine's monotonic clock, in seconds."""

    def reset(self) -> None:
        fresh = Tally(self.mx_of)
        for one in fields(self):
            setattr(self, one.name, getattr(fresh, one.name))

    def host(self, name: str) -> HostTally:
        found = self.hosts.get(name)
        if found is None:
            found = self.hosts[name] = HostTally()
        return found

    def message(
        self, head: bytes, recipients: Sequence[bytes], octets: int, *, tls: bool, host: str, now: float
    ) -> None:
        """Count one message; `head` is the beginning of its content, with at least the header."""
        found = _MESSAGE_ID.search(head)
        if found is None:
            self.unidentified += 1
            return
        for recipient in recipients:
            delivery = found[1] + b" " + recipient
            if delivery in self.times:
                self.duplicates += 1
            self.times[delivery] = now
            if self.mx_of.get(recipient.rpartition(b"@")[2]) != host:
                self.misdirected += 1
        self.host(host).messages += 1
        self.plaintext += not tls
        self.transactions += 1
        self.octets += octets
        self.smallest = octets if self.smallest is None else min(self.smallest, octets)
        self.first = self.first or now
        self.last = now
