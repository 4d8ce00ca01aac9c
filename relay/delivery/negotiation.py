"""What came of TLS with one host, as a report tells of it (RFC 8460 §4), and for whose mail it has been counted."""

from dataclasses import dataclass
from datetime import date
from typing import NamedTuple

from policy.tls_facts import TlsFailure
from relay.queue.attempt import HostFailure


class Ends(NamedTuple):
    """Between whom a connection was, in the names of RFC 8460 §4.4; "" is not known. The peer chose the last."""

    sending_mta_ip: str = ""
    receiving_ip: str = ""
    receiving_mx_helo: str = ""


UNTOLD = Ends()


@dataclass(frozen=True, slots=True, kw_only=True)
class Negotiation:
    """One try to have a session with a host, however many connections that took.

    `day` is the UTC day on which it began. `failure` is why the host could not be used. `waived` is what was wrong
    with TLS although the host may be used: what mode testing does not refuse, or why it gets its mail in plaintext.
    `ends` are told only where something was wrong.
    """

    day: date
    failure: HostFailure | None = None
    waived: TlsFailure | None = None
    ends: Ends = UNTOLD


class Countable:
    """A negotiation that counts once for each domain whose mail it carried, with the first settlement to tell of it.

    Who settles takes the count, and gives it back if the settlement comes to nothing.
    """

    __slots__ = ("_taken", "negotiation")

    def __init__(self, negotiation: Negotiation) -> None:
        self.negotiation = negotiation
        self._taken: set[str] = set()

    def take(self, domain: str) -> bool:
        """Whether this domain's count was still to be had."""
        if domain in self._taken:
            return False
        self._taken.add(domain)
        return True

    def give_back(self, domain: str) -> None:
        self._taken.discard(domain)
