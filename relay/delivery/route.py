"""Where a message goes: MX, addresses, TLSA records and policy, asked side by side.

RFC 5321 §5.1 (MX), RFC 8461 §5 (policy), RFC 7672 §2.2 (TLSA records, once a host's addresses are known to be secure).

No connection slot is held here: a slow DNS or policy host keeps nobody else waiting.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, timedelta
from functools import lru_cache
from typing import Any, NamedTuple, Protocol

from policy.address_guard import is_public
from policy.answers import Answer, MxRecord, Resolver, Unknown, UnknownReason
from policy.dane import is_mx_secure
from policy.dane_lookup import find_tlsa
from policy.decide import DaneMode, Enforcement
from policy.findings import Findings, TlsaFindings, TlsaUnknown
from policy.names import IPAddress, parse_address_literal
from relay.delivery.hosts import Host, Route, judged, opportunistic
from relay.delivery.mx_list import LOOP, LocatedHost, MxHost, addresses, below_ourselves, mx_hosts
from relay.delivery.routing_table import SMTP_PORT, Directions, Judgement, NextHop, RoutingTable, StaticRoute
from relay.queue.attempt import FailureKind, HostFailure
from relay.queue.message import Message, Origin

POLICY_SECONDS = 2.0
"""How long a route keeps what the policy says without asking for it again, so that a change in the store is seen."""
_MAX_REMEMBERED = 10_000


class Policies(Protocol):
    """Says what MTA-STS demands of mail to a domain; `policy.lookup.PolicyService`."""

    async def ask_record(self, policy_domain: str) -> None:
        """Let `_mta-sts` be asked for now, so that `findings` need not wait for it; no policy is fetched."""
        ...

    async def findings(self, policy_domain: str, *, recheck: bool = False) -> Findings:
        """With `recheck` the record is asked for past all caches (RFC 8461 §5). Never raises for the network."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteSettings:
    """The tables [delivery], [ndr], [mta_sts], [dane] and [[route]] as the router needs them.

    `own_names` and `own_addresses` are the relay's own, for the loop check; an address counts as ours only if mail
    sent to it at `smtp_port` would come back to us. `ndr_route` takes the relay's own messages, in order.
    """

    smtp_port: int = SMTP_PORT
    own_names: frozenset[str] = frozenset()
    own_addresses: frozenset[IPAddress] = frozenset()
    allow_private_addresses: bool = False
    ndr_route: tuple[NextHop, ...] = ()
    judgement: Judgement = field(default_factory=Judgement)
    routes: tuple[StaticRoute, ...] = ()


class _Way(NamedTuple):
    """Whose hosts are looked for, and what they are held to: those that `next_hop` names, or the MX hosts of `name`.

    `name` is the policy domain (RFC 8461 §3.4). What is not `lasting` holds for one message alone.
    """

    name: str
    directions: Directions
    next_hop: NextHop | None = None
    lasting: bool = True

    @property
    def by_mx(self) -> bool:
        return self.next_hop is None or self.next_hop.by_mx

    def fails_dnssec(self, answer: Answer[Any] | None) -> bool:
        """Whether it is DNSSEC that keeps an answer back, where DANE counts."""
        is_bogus = isinstance(answer, Unknown) and answer.reason is UnknownReason.BOGUS
        return is_bogus and self.directions.judgement.dane is not DaneMode.OFF


@dataclass(slots=True, kw_only=True)
class _Known:
    """A route, good until a time of `timer`; what the policy says of it, until `judged_until`.

    `preferences` are those of its hosts, in their order; None if no two are equal, and so the order never changes.
    """

    route: Route
    until: float
    judged_until: float
    preferences: tuple[int, ...] | None


class Router:
    """Finds routes. `draw` gives numbers in [0, 1) for the order among equals, `timer` seconds that never go back.

    `now` is the time of day, by which weakenings end.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        policies: Policies,
        settings: RouteSettings,
        draw: Callable[[], float],
        timer: Callable[[], float],
        now: Callable[[], datetime],
    ) -> None:
        self._resolver = resolver
        self._policies = policies
        self._settings = settings
        self._draw = draw
        self._timer = timer
        self._now = now
        self._for_notices = Directions(name="ndr.route", next_hops=settings.ndr_route, judgement=settings.judgement)
        self._table = RoutingTable(Directions(judgement=settings.judgement), settings.routes)
        self._report_table = self._table.for_reports()
        self._ordinary = self._table.default.directions
        self._known: dict[str | _Way, _Known] = {}
        self._is_public = lru_cache(_MAX_REMEMBERED)(is_public)

    @property
    def routes(self) -> tuple[StaticRoute, ...]:
        return self._table.routes

    def way(self, message: Message) -> Origin:
        """Return whose way a message takes: those that take the same one to a destination have the same route."""
        if message.origin is Origin.RELAY and not self._settings.ndr_route:
            return Origin.CLIENT
        return message.origin

    async def route(self, message: Message, destination: str) -> Route:
        """Return the way of a message to one of its destinations.

        Never raises for what the network does; StoreError if the policies cannot be read.
        """
        directions = self._directions(message, destination)
        judgement = directions.judgement.of_message(message)
        lasting = judgement is directions.judgement
        if not lasting:
            directions = replace(directions, judgement=judgement)  # they hold for this message alone
        elif directions is self._ordinary and (route := self._remembered(destination)) is not None:
            return route
        if directions.next_hops:
            first, *others = [await self._by_next_hop(directions, one, lasting) for one in directions.next_hops]
            return replace(first, others=tuple(others)) if others else first
        literal = parse_address_literal(destination)
        if literal is not None:
            return self._literal_route(destination, literal, directions)
        return await self._route(_Way(destination, directions, lasting=lasting))

    def _directions(self, message: Message, destination: str) -> Directions:
        way = self.way(message)
        if way is Origin.RELAY:
            return self._for_notices
        route = (self._report_table if way is Origin.REPORT else self._table).find(destination)
        return route.directions if route.weakened is None else route.at(self._now())

    async def _by_next_hop(self, directions: Directions, next_hop: NextHop, lasting: bool) -> Route:
        if isinstance(next_hop.host, str):
            return await self._route(_Way(next_hop.host, directions, next_hop, lasting))
        return self._address_route(directions, next_hop, next_hop.host)

    async def _route(self, way: _Way) -> Route:
        if not way.lasting:
            return await self._look_up(way)
        key = self._key(way)
        if (route := self._remembered(key)) is not None:
            return route
        known = self._known.get(key)
        if known is None or self._timer() >= known.until:
            return await self._look_up(way)
        await self._judge_anew(way, known)
        return self._reordered(known.route, known.preferences) if known.preferences else known.route

    def _remembered(self, key: str | _Way) -> Route | None:
        """Return a route that is good as it is, None if something has to be asked or judged."""
        known = self._known.get(key)
        if known is None:
            return None
        now = self._timer()
        if now >= known.until or now >= known.judged_until:
            return None
        return self._reordered(known.route, known.preferences) if known.preferences else known.route

    def _key(self, way: _Way) -> str | _Way:
        return way.name if way.directions is self._ordinary else way

    async def recheck(self, route: Route) -> Route:
        """Return the route judged by the policy as it is now, looked up past all caches (RFC 8461 §5)."""
        if route.findings is None:
            return route
        way = _Way(route.findings.policy_domain, route.directions, route.next_hop)
        self._known.pop(way.name, None)
        self._known.pop(way, None)
        findings = await self._policies.findings(way.name, recheck=True)
        return self._judged(way, route.hosts, findings)

    # One look-up.

    async def _look_up(self, way: _Way) -> Route:
        """Ask for MX and record at once, then for addresses beside the fetch of a policy."""
        mx, listed = await self._listed(way)
        if isinstance(listed, HostFailure):
            # RFC 7505: a null MX ends it here, before any policy is fetched.
            bogus = way.fails_dnssec(mx)
            return Route(failure=listed, bogus=bogus, directions=way.directions, next_hop=way.next_hop)
        findings, located = await self._ask(way, mx, listed)
        ahead = below_ourselves(located, self._settings.own_addresses) if self._may_loop(way) else tuple(located)
        if not ahead:
            return Route(failure=LOOP, directions=way.directions, next_hop=way.next_hop)
        proven = way.next_hop is not None if mx is None else is_mx_secure(mx)
        hosts = tuple(self._host(way, host, name_proven=proven or host.mx.name == way.name) for host in ahead)
        route = self._judged(way, hosts, findings)
        # A host that was left out has an address that it may not have for ever.
        if way.lasting and len(ahead) == len(located):
            lasts = min(_ttl(mx), *map(_located_lasts, located)) if mx else min(map(_located_lasts, located))
            self._remember(self._key(way), lasts, located, route)
        return route

    async def _listed(self, way: _Way) -> tuple[Answer[MxRecord] | None, tuple[MxHost, ...] | HostFailure]:
        if not way.by_mx:
            return None, (MxHost(0, way.name),)
        async with asyncio.TaskGroup() as group:
            record = group.create_task(self._ask_record(way))
            mx = await self._resolver.mx(way.name)
            listed = mx_hosts(way.name, mx, own_names=self._settings.own_names, draw=self._draw)
            if isinstance(listed, HostFailure):
                record.cancel()
        return mx, listed

    async def _ask(
        self, way: _Way, mx: Answer[MxRecord] | None, listed: Sequence[MxHost]
    ) -> tuple[Findings | None, list[LocatedHost]]:
        try:
            async with asyncio.TaskGroup() as group:
                questions = [group.create_task(self._locate(way, mx, host)) for host in listed]
                findings = await self._findings(way)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return findings, [question.result() for question in questions]

    async def _locate(self, way: _Way, mx: Answer[MxRecord] | None, host: MxHost) -> LocatedHost:
        answer = await self._resolver.addresses(host.name)
        return LocatedHost(host, answer, await self._tlsa(way, mx, host.name, answer))

    async def _tlsa(
        self, way: _Way, mx: Answer[MxRecord] | None, host: str, answer: Answer[IPAddress]
    ) -> TlsaFindings | None:
        """Ask for a host's TLSA records, unless they could make no difference."""
        dane = way.directions.judgement.dane
        if dane is DaneMode.OFF or (isinstance(answer, Unknown) and dane is not DaneMode.MANDATORY):
            return None
        port = self._port(way)
        return await find_tlsa(self._resolver, host=host, port=port, addresses=answer, domain=way.name, mx=mx)

    async def _ask_record(self, way: _Way) -> None:
        if way.directions.judgement.enforcement is not Enforcement.OFF:
            await self._policies.ask_record(way.name)

    def _port(self, way: _Way) -> int:
        return self._settings.smtp_port if way.by_mx or way.next_hop is None else way.next_hop.port

    def _may_loop(self, way: _Way) -> bool:
        return self._port(way) == self._settings.smtp_port

    # What is remembered of it.

    def _remember(self, key: str | _Way, lasts: timedelta, located: Sequence[LocatedHost], route: Route) -> None:
        """Keep a route for no longer than anything that it rests on."""
        self._known.pop(key, None)
        if not route.hosts or lasts <= timedelta(0):
            return
        now = self._timer()
        preferences = tuple(host.mx.preference for host in located)
        self._known[key] = _Known(
            route=route,
            until=now + lasts.total_seconds(),
            judged_until=now + _judgement_lasts(route.findings),
            preferences=preferences if len(set(preferences)) < len(preferences) else None,
        )
        if len(self._known) > _MAX_REMEMBERED:
            del self._known[next(iter(self._known))]

    async def _judge_anew(self, way: _Way, known: _Known) -> None:
        findings = await self._findings(way)
        known.route = self._judged(way, known.route.hosts, findings)
        known.judged_until = self._timer() + _judgement_lasts(findings)
        if not known.route.hosts:
            self._known.pop(self._key(way), None)

    def _reordered(self, route: Route, preferences: Sequence[int]) -> Route:
        """RFC 5321 §5.1: equals are put into random order, for each message anew."""
        drawn = sorted(zip(preferences, route.hosts, strict=False), key=lambda one: (one[0], self._draw()))
        return Route(
            hosts=tuple([host for _, host in drawn]),
            findings=route.findings,
            failure=route.failure,
            directions=route.directions,
            next_hop=route.next_hop,
        )

    async def _findings(self, way: _Way) -> Findings | None:
        if way.directions.judgement.enforcement is Enforcement.OFF:
            return None
        return await self._policies.findings(way.name)

    def _judged(self, way: _Way, hosts: tuple[Host, ...], findings: Findings | None) -> Route:
        directions, next_hop = way.directions, way.next_hop
        judgement = directions.judgement
        if findings and findings.defer_until is not None and judgement.enforcement in _WAIT_FOR_RECORD:
            detail = findings.unknown.detail if findings.unknown else "no answer"
            failure = HostFailure(kind=FailureKind.POLICY_UNKNOWN, detail=detail)
            return Route(failure=failure, findings=findings, directions=directions, next_hop=next_hop)
        hosts = judged(hosts, findings, judgement)
        return Route(hosts=hosts, findings=findings, directions=directions, next_hop=next_hop)

    def _host(self, way: _Way, located: LocatedHost, *, name_proven: bool) -> Host:
        name, next_hop = located.mx.name, way.next_hop
        # Where the operator sends mail is the operator's affair: such a host may well have a private address.
        allowed = self._may_contact if next_hop is None else lambda _: True
        return Host(
            name=name,
            port=self._port(way),
            where=addresses(name, located.addresses, allowed=allowed),
            verdict=opportunistic(name),
            bogus=way.fails_dnssec(located.addresses),
            tlsa=located.tlsa,
            name_proven=name_proven,
            implicit_tls=next_hop is not None and next_hop.implicit_tls,
            login=way.directions.login,
        )

    def _may_contact(self, address: IPAddress) -> bool:
        return self._settings.allow_private_addresses or self._is_public(address)

    def _literal_route(self, destination: str, address: IPAddress, directions: Directions) -> Route:
        """RFC 5321 §4.1.3: straight to the address; no policy can exist for it (RFC 8461 §3.4)."""
        if address in self._settings.own_addresses:
            return Route(failure=LOOP, directions=directions)
        where: tuple[IPAddress, ...] | HostFailure = (address,)
        if not self._may_contact(address):
            where = HostFailure(kind=FailureKind.ADDRESS_REFUSED, detail=f"the address {address} is not public")
        port = self._settings.smtp_port
        host = Host(name=destination, port=port, where=where, verdict=opportunistic(destination))
        return Route(hosts=judged((host,), None, directions.judgement), directions=directions)

    def _address_route(self, directions: Directions, next_hop: NextHop, address: IPAddress) -> Route:
        """A next hop that is an address: no policy can exist for it either."""
        if next_hop.port == self._settings.smtp_port and address in self._settings.own_addresses:
            return Route(failure=LOOP, directions=directions, next_hop=next_hop)
        name = str(address)
        host = Host(
            name=name,
            port=next_hop.port,
            where=(address,),
            verdict=opportunistic(name),
            name_proven=True,
            implicit_tls=next_hop.implicit_tls,
            login=directions.login,
        )
        hosts = judged((host,), None, directions.judgement)
        return Route(hosts=hosts, directions=directions, next_hop=next_hop)


_WAIT_FOR_RECORD = frozenset({Enforcement.ENFORCE, Enforcement.MANDATORY})


def _judgement_lasts(findings: Findings | None) -> float:
    """For how many seconds what the policy says may be used again: as long as there can be none, for ever."""
    return math.inf if findings is None else min(findings.lasts.total_seconds(), POLICY_SECONDS)


def _located_lasts(host: LocatedHost) -> timedelta:
    if host.tlsa is None:
        return _ttl(host.addresses)
    return timedelta(0) if isinstance(host.tlsa, TlsaUnknown) else min(host.tlsa.ttl, _ttl(host.addresses))


def _ttl(answer: Answer[Any]) -> timedelta:
    """For how long the answer may be used again; one that is unknown, not at all."""
    return timedelta(0) if isinstance(answer, Unknown) else answer.ttl
