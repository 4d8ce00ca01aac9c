"""The seam between the worker and the network: targets, sessions, what came of a transaction."""

from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass, field
from typing import Protocol

from policy.names import IPAddress
from policy.requirement import Requirement
from policy.tls_facts import TlsFailure, TlsSession
from relay.delivery.negotiation import UNTOLD, Countable, Ends
from relay.queue.attempt import HostFailure, Phase, Security
from relay.queue.message import Message, Recipient
from relay.status import Reply
from relay.value import value


@value
class Login:
    """Who we are to a next hop that asks for it (RFC 4954)."""

    user: str
    password: str = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One address of one host, and the conditions under which it may be given mail. The pool's key is all of it.

    `implicit_tls`: TLS begins with the first octet (RFC 8314 §3.3).
    It is made once for a route, and used several times a message: its hash and the text of its address are kept.
    """

    mx_host: str
    address: IPAddress
    port: int
    requirement: Requirement
    implicit_tls: bool = False
    login: Login | None = None
    address_text: str = field(init=False, repr=False, compare=False)
    _hash: int = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        key = (self.mx_host, self.address, self.port, self.requirement, self.implicit_tls, self.login)
        object.__setattr__(self, "address_text", str(self.address))
        object.__setattr__(self, "_hash", hash(key))

    def __hash__(self) -> int:
        return self._hash


BLOCK = 64 * 1024
"""Octets of content written at once, and about what a connection buffers. What is no more is handed over whole."""


@value
class Parcel:
    """One message for some recipients of one domain. Content is bytes, or a function that streams it anew."""

    message: Message
    recipients: tuple[Recipient, ...]
    content: bytes | Callable[[], AsyncIterator[bytes]] = field(repr=False)


@value
class SessionFacts:
    """How the session is protected. `testing_failure`: what mode testing would have refused (decision 6).

    `countable` is the session as TLS reports count it, None where there are none.
    """

    security: Security
    tls: TlsSession | None = None
    testing_failure: TlsFailure | None = None
    countable: Countable | None = field(default=None, compare=False, repr=False)


@value
class SendResult:
    """What a host made of a parcel.

    `replies`: the deciding reply by recipient id - to MAIL if that was refused, to RCPT, to DATA, or to the end of
    the data. `postponed`: recipients to offer at once in the next transaction on the same host, no attempt charged
    (452 or 552 after an accepted RCPT, RCPTMAX, the bound of one transaction). Recipients in neither have no
    answer, and `failure` says why: the host broke off; they are for the next host. `phase` is how far it came.
    `dsn`: the host offers DSN and got the parameters.
    """

    replies: Mapping[int, Reply]
    phase: Phase
    postponed: tuple[int, ...] = ()
    failure: HostFailure | None = None
    dsn: bool = False


class HostError(Exception):
    """The host could not be used for this parcel; nothing was accepted. Never says anything about a recipient.

    `conceded_for` is why TLS had failed there, where it failed for another reason without it. `ends`: between whom it
    went wrong with TLS, where that is to be reported.
    """

    def __init__(
        self,
        failure: HostFailure,
        phase: Phase,
        *,
        tls: TlsSession | None = None,
        testing_failure: TlsFailure | None = None,
        ends: Ends = UNTOLD,
    ) -> None:
        super().__init__(failure.detail)
        self.failure = failure
        self.phase = phase
        self.tls = tls
        self.testing_failure = testing_failure
        self.conceded_for: TlsFailure | None = None
        self.ends = ends
        self.countable: Countable | None = None


class LinkObserver(Protocol):
    """Hears how far one connection comes, from connecting to the EHLO after TLS. Must not raise or block."""

    def entered(self, phase: Phase) -> None: ...

    def replied(self, reply: Reply) -> None: ...

    def secured(self, session: Callable[[], TlsSession]) -> None:
        """TLS is up, with a certificate that will do."""
        ...

    def ended(self, failure: HostError | None) -> None:
        """It is as its requirement demands, or says why it could not be."""
        ...


class NullLinkObserver:
    """Hears everything and tells no one."""

    def entered(self, phase: Phase) -> None: ...

    def replied(self, reply: Reply) -> None: ...

    def secured(self, session: Callable[[], TlsSession]) -> None: ...

    def ended(self, failure: HostError | None) -> None: ...


class Session(Protocol):
    """A connection that meets its target's requirement, lent for one job."""

    @property
    def facts(self) -> SessionFacts: ...

    async def send(self, parcel: Parcel) -> SendResult:
        """Run one transaction, at most `max_recipients_per_transaction` of the recipients, in order.

        Raises HostError if the host lacks what the message needs (8BITMIME, SMTPUTF8, SIZE) or broke off before
        any recipient was answered. Once all of the message is sent, the next job may send on the same connection
        meanwhile; what becomes of the one says nothing about the other. Cancelling closes the connection, but not
        before a message that it has all of is answered. `committing` tells whether it has all of this one.
        """
        ...

    @property
    def committing(self) -> bool:
        """True from the end of the content to its reply: shutdown waits for these and breaks off the others."""
        ...


class Transport(Protocol):
    """Opens sessions, or lends open ones."""

    def open(self, target: Target, *, destination: str, size: int) -> AbstractAsyncContextManager[Session]:
        """Wait until the destination may have a session, for a message of about so many octets.

        Raises HostError on entering if there can be none as the requirement demands, or not in good time.
        """
        ...
