"""Opens a connection to one host that is protected as its requirement demands, or says why there is none.

RFC 8461 §5 (modes), RFC 7672 §2.2 (DANE), RFC 8689 §4.2.1 (REQUIRETLS), RFC 3207 §4 (STARTTLS), RFC 5321 §3.2 (EHLO,
HELO).
"""

import asyncio
import ssl
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import date, timedelta
from enum import Enum
from typing import TypeVar

from policy.names import IPAddress, parse_address_literal
from policy.requirement import Level, MxMatch, Requirement, ResultType
from policy.tls import TlsContexts, describe_session
from policy.tls_facts import TlsFailure, TlsSession
from relay.clock import Clock
from relay.delivery.commands import REQUIRETLS_MISSING
from relay.delivery.host_failures import host_failure, no_starttls, refuses_ehlo, tls_failure
from relay.delivery.link import QUIT_LIMIT, Link
from relay.delivery.negotiation import UNTOLD, Countable, Negotiation
from relay.delivery.protocol import LinkError
from relay.delivery.remembered import RememberedHosts
from relay.delivery.seam import HostError, LinkObserver, NullLinkObserver, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.queue.attempt import FailureKind, Security
from relay.status import Reply

T = TypeVar("T")
CONCESSION_REMEMBERED = timedelta(hours=1)

_NOBODY = NullLinkObserver()
_MX_NOT_IN_POLICY = TlsFailure(
    result_type=ResultType.VALIDATION_FAILURE,
    reason="MxNotInPolicy",
    detail="the MX host is not among those that the policy names",
)


class Concession(Enum):
    """What a host needs where nothing is demanded of it, the greatest first; each is a new connection."""

    PLAINTEXT = "plaintext"
    SMALL_HELLO = "small-hello"


@dataclass(slots=True, kw_only=True, eq=False)
class Connection:
    """An open connection that meets its target's requirement, and what the pool notes of it.

    `took`: how long it took to open, in seconds. `clean`: a transaction has come to its end on it; `overlaps`: one has
    begun before the one ahead was answered; `took_chunk`: BDAT was answered.
    `waits_since` (loop time) while nobody has it; `timer` is then set, and may still be while somebody does.
    `concession` is what the host needed, `conceded_for` why, where that was found out for this connection.
    """

    target: Target
    link: Link
    facts: SessionFacts
    took: float = 0.0
    transactions: int = 0
    clean: bool = False
    overlaps: bool = False
    took_chunk: bool = False
    domains: set[str] = field(default_factory=set)
    may_carry: int = 1
    waits_since: float | None = None
    timer: asyncio.TimerHandle | None = None
    concession: Concession | None = None
    conceded_for: TlsFailure | None = None


class Connector:
    """Opens connections. Owns those that it opened until they are closed.

    `source_addresses`: a host is always connected to from the same one, because greylisting knows us by it; where
    none is of the host's family, the operating system chooses. `observe` gives an observer for each connection.
    `counts_sessions`: TLS reports are to tell of them.
    """

    def __init__(
        self,
        *,
        hostname: str,
        contexts: TlsContexts,
        timeouts: Timeouts,
        clock: Clock,
        source_addresses: Sequence[IPAddress] = (),
        observe: Callable[[Target], LinkObserver] = lambda _target: _NOBODY,
        counts_sessions: bool = False,
    ) -> None:
        self._hostname = hostname
        self._contexts = contexts
        self._timeouts = timeouts
        self._source_addresses = tuple(source_addresses)
        self._observe = observe
        self._clock = clock
        self._counts_sessions = counts_sessions
        self._links: set[Link] = set()
        self._conceded = {each: RememberedHosts(CONCESSION_REMEMBERED, clock) for each in Concession}

    async def connect(self, target: Target) -> Connection:
        """Return a connection ready for MAIL. Raises HostError."""
        if not self._counts_sessions or target.requirement.for_reports:  # RFC 8460 §3: else reports beget reports
            return await self._connect(target)
        day = self._clock.now().date()
        try:
            connection = await self._connect(target)
        except HostError as error:
            error.countable = _failed(target.requirement, error, day)
            raise
        countable = _established(connection, day)
        connection.facts = replace(connection.facts, countable=countable)
        return connection

    async def _connect(self, target: Target) -> Connection:
        if target.requirement.level is Level.TESTING:
            return await self._testing(target)
        return await self._as_required(target, target.requirement)

    async def close(self) -> None:
        """End every connection: QUIT where that has its place, within QUIT_LIMIT."""
        links = tuple(self._links)
        for link in links:
            link.leave()
        await self._wait_until_closed(links)
        for link in links:
            link.abort()
        await self._wait_until_closed(links)

    async def _wait_until_closed(self, links: Sequence[Link]) -> None:
        waiting = [link.closed for link in links if not link.closed.done()]
        if waiting:
            await asyncio.wait(waiting, timeout=QUIT_LIMIT.total_seconds())

    # One way to connect for each level.

    async def _as_required(self, target: Target, requirement: Requirement) -> Connection:
        if requirement.level is Level.OPPORTUNISTIC and not requirement.demands_tls:
            return await self._opportunistic(target)
        return await self._attempt(target, requirement, lambda link: self._secure(link, requirement))

    async def _testing(self, target: Target) -> Connection:
        """Verify; if it is TLS that fails, do as without a policy, and note what enforce would have refused.

        What DANE or a route demands stays: where that fails, nothing is delivered (RFC 8461 §2).
        """
        requirement = target.requirement
        without_policy = replace(requirement, level=Level.OPPORTUNISTIC)
        mismatch = _MX_NOT_IN_POLICY if requirement.mx_match is MxMatch.NOT_MATCHED else None
        try:
            connection = await self._as_required(target, requirement)
        except HostError as error:
            kind = error.failure.kind
            failed = None if kind.dane or kind.route else tls_failure(error)
            noted, ends = mismatch or failed, error.ends
            if failed is None and not refuses_ehlo(error):  # without a policy HELO would be tried as well
                error.testing_failure = noted
                raise
        else:
            if mismatch is not None:
                security, tls = _security(without_policy), connection.facts.tls
                connection.facts = SessionFacts(security=security, tls=tls, testing_failure=mismatch)
            return connection
        try:
            connection = await self._as_required(target, without_policy)
        except HostError as error:
            error.testing_failure, error.ends = noted, ends
            raise
        connection.facts = replace(connection.facts, testing_failure=noted)
        return connection

    async def _opportunistic(self, target: Target) -> Connection:
        """TLS where offered. Where the handshake fails, once more with a smaller ClientHello; then in plaintext.

        What the host needed is done at once for the next hour.
        """
        known = next((each for each, hosts in self._conceded.items() if target in hosts), None)
        needed, failure, ends = known, None, UNTOLD
        while True:
            try:
                connection = await self._with_concession(target, needed)
                break
            except HostError as error:
                if error.failure.tls is None:
                    if failure is not None:
                        error.conceded_for, error.ends = failure, ends
                    raise
                needed = _next_concession(needed, error.failure.kind)
                failure, ends = error.failure.tls, error.ends
        if needed is not None and failure is not None:
            self._conceded[needed].note(target)
        connection.concession, connection.conceded_for = needed, failure
        return connection

    async def _with_concession(self, target: Target, needed: Concession | None) -> Connection:
        """Connect with TLS, if the host offers it and that is not what is conceded."""
        if needed is Concession.PLAINTEXT:
            return await self._attempt(target, target.requirement, lambda link: self._in_the_clear(link, target))
        if needed is Concession.SMALL_HELLO:
            # Without a name as well: hosts that break off at one that they do not know need not be told it.
            context, server_name = self._contexts.small, str(target.address)
        else:
            context, server_name = self._contexts.opportunistic, _server_name(target.requirement)
        return await self._attempt(
            target, target.requirement, lambda link: self._secure_if_offered(link, context, server_name)
        )

    async def _attempt(self, target: Target, requirement: Requirement, secure: "_Secure") -> Connection:
        """Connect once, secure the connection in this way, and log in. If anything goes wrong, it is left."""
        observer = self._observe(target)
        link = Link(requirement=requirement, hostname=self._hostname, timeouts=self._timeouts, observer=observer)
        assert requirement.demands_tls or not target.implicit_tls
        tls = self._tls(requirement) if target.implicit_tls else None
        try:
            greeting = await link.connect(target.address, target.port, self._source_for(target.address), tls)
            self._links.add(link)
            link.closed.add_done_callback(lambda _closed: self._links.discard(link))
            _accept(greeting)
            facts = await secure(link)
            if target.login is not None:
                await link.log_in(target.login)
        except LinkError as error:
            link.leave()
            ends = link.ends(target.address) if self._counts_sessions else UNTOLD
            failed = HostError(
                host_failure(error, requirement), link.phase, tls=_described(link.established), ends=ends
            )
            observer.ended(failed)
            raise failed from error
        except BaseException:
            link.abort()
            raise
        observer.ended(None)
        return Connection(target=target, link=link, facts=facts)

    def _source_for(self, address: IPAddress) -> IPAddress | None:
        sources = [source for source in self._source_addresses if source.version == address.version]
        return sources[int(address) % len(sources)] if sources else None

    # What may follow a greeting.

    async def _secure(self, link: Link, requirement: Requirement) -> SessionFacts:
        """Secure as the requirement demands, or not at all."""
        if link.tls is None:
            _accept(await link.ehlo())
            if not link.offered.starttls:
                raise LinkError(FailureKind.STARTTLS_MISSING, "the host does not offer STARTTLS")
            await link.start_tls(*self._tls(requirement))
        _accept(await _proving_handshake(link.ehlo()))
        if requirement.requiretls and not link.offered.requiretls:
            raise LinkError(REQUIRETLS_MISSING.kind, REQUIRETLS_MISSING.detail)
        return _facts(link, _security(requirement))

    def _tls(self, requirement: Requirement) -> tuple[ssl.SSLContext, str]:
        return self._contexts.for_requirement(requirement), _server_name(requirement)

    async def _secure_if_offered(self, link: Link, context: ssl.SSLContext, server_name: str) -> SessionFacts:
        await _say_hello(link)
        if not link.offered.starttls:
            return _facts(link, Security.PLAINTEXT)
        await link.start_tls(context, server_name)
        await _proving_handshake(_say_hello(link))
        return _facts(link, Security.OPPORTUNISTIC)

    async def _in_the_clear(self, link: Link, target: Target) -> SessionFacts:
        # RFC 3207 §4.2: after a failed handshake the connection is in no known state, so this is a new one.
        assert not target.requirement.demands_tls
        await _say_hello(link)
        return _facts(link, Security.PLAINTEXT)


_Secure = Callable[[Link], Awaitable[SessionFacts]]


def _next_concession(conceded: Concession | None, failure: FailureKind) -> Concession:
    """Return what to concede next to a host whose TLS has failed. One that refuses STARTTLS takes no ClientHello."""
    failed_at_full_hello = conceded is None and failure is FailureKind.HANDSHAKE
    return Concession.SMALL_HELLO if failed_at_full_hello else Concession.PLAINTEXT


async def _proving_handshake(hello: Awaitable[T]) -> T:
    """Say EHLO for the first time within TLS.

    In TLS 1.3 a host may say only now that it did not like our part of the handshake (RFC 8446 §4.4.4), or just go.
    """
    try:
        return await hello
    except LinkError as error:
        if error.kind is not FailureKind.BROKEN_OFF:
            raise
        raise LinkError(FailureKind.HANDSHAKE, "the host broke off right after the handshake") from error


async def _say_hello(link: Link) -> None:
    """EHLO, and HELO if the host does not know it. Only where nothing demands TLS (RFC 5321 §3.2)."""
    reply = await link.ehlo()
    if reply.permanent:
        try:
            if _is_completion(await link.helo()):
                return
        except LinkError as error:
            # The host said no, and hung up on the second question: its own words say more.
            raise _refusal(reply) from error
    _accept(reply)


def _is_completion(reply: Reply) -> bool:
    return 200 <= reply.code < 300


def _accept(reply: Reply) -> None:
    """Go on after 2yz. A 5yz at the greeting or to EHLO concerns the host alone (decision 15)."""
    if not _is_completion(reply):
        raise _refusal(reply)


def _refusal(reply: Reply) -> LinkError:
    if reply.positive:
        return LinkError(FailureKind.PROTOCOL, f"the host answered out of order: {reply}")
    return LinkError(FailureKind.REPLY, f"the host said {reply}", reply)


def _server_name(requirement: Requirement) -> str:
    """Return the name for SNI. An address literal is its address, of which none is sent (RFC 6066 §3)."""
    address = parse_address_literal(requirement.mx_host)
    return str(address) if address else requirement.server_name


def _security(requirement: Requirement) -> Security:
    """Say what a TLS session is worth that is as the requirement demands."""
    if requirement.level is not Level.OPPORTUNISTIC:
        return Security.DANE_STS if requirement.by_dane else Security.STS
    if requirement.by_dane:
        return Security.DANE
    if requirement.by_route:
        return Security.ROUTE
    return Security.REQUIRETLS if requirement.requiretls else Security.OPPORTUNISTIC


def _facts(link: Link, security: Security) -> SessionFacts:
    return SessionFacts(security=security, tls=_described(link.tls))


def _described(session: ssl.SSLObject | None) -> TlsSession | None:
    return describe_session(session) if session else None


def _established(connection: Connection, day: date) -> Countable | None:
    """Return what is to be counted of a connection; None for plaintext because TLS failed there within the hour."""
    waived = connection.facts.testing_failure
    if waived is None and connection.facts.tls is None:
        waived = connection.conceded_for
    if waived is None and connection.facts.tls is None:
        if connection.link.offered.starttls:
            return None
        waived = no_starttls("the host does not offer STARTTLS")
    requirement = connection.target.requirement
    amiss = waived is not None or (requirement.dane is not None and not requirement.by_dane)
    ends = connection.link.ends(connection.target.address) if amiss else UNTOLD
    return Countable(Negotiation(day=day, waived=waived, ends=ends))


def _failed(requirement: Requirement, error: HostError, day: date) -> Countable | None:
    """Return what is to be counted where TLS failed, now or before, or mode testing has to tell (RFC 8460 §4.3.4).

    A session that is refused only within TLS was a good one.
    """
    failure = error.failure
    if requirement.demands_tls and failure.tls is None:
        failure = replace(failure, tls=tls_failure(error))
    waived = error.testing_failure or error.conceded_for
    if failure.tls is None and waived is None and error.tls is None:
        return None
    spoilt = None if failure.tls is None and error.tls is not None else failure
    return Countable(Negotiation(day=day, failure=spoilt, waived=waived, ends=error.ends))
