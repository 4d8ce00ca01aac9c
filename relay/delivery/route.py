"""Where a message goes: MX, addresses, TLSA records and policy, asked side by side.

RFC 5321 §5.1 (MX), RFC 8461 §5 (policy), RFC 7672 §2.2 (TLSA records, once a host's addresses are known to be secure).

No connection slot is held here: a slow DNS or policy host keeps nobody else waiting.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol

from policy.address_guard import is_public
from policy.answers import Answer, MxRecord, Resolver, Unknown
from policy.dane import is_mx_secure
from policy.dane_lookup import find_tlsa
from policy.decide import DaneMode, Enforcement
from policy.findings import Findings, TlsaFindings, TlsaUnknown
from policy.names import IPAddress, parse_address_literal
from relay.delivery.hosts import SMTP_PORT, Host, Judgement, NextHop, Route, for_reports, judged, opportunistic
from relay.delivery.mx_list import LOOP, LocatedHost, MxHost, addresses, below_ourselves, mx_hosts
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
    """The tables [delivery], [ndr], [mta_sts] and [dane] as the router needs them.

    `own_names` and `own_addresses` are the relay's own, for the loop check; an address counts as ours only if mail
    sent to it at `smtp_port` would come back to us. `ndr_route` takes the relay's own messages, in order.
    """

    smtp_port: int = SMTP_PORT
    own_names: frozenset[str] = frozenset()
    own_addresses: frozenset[IPAddress] = frozenset()
    allow_private_addresses: bool = False
    ndr_route: tuple[NextHop, ...] = ()
    judgement: Judgement = field(default_factory=Judgement)


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
    """Finds routes. `draw` gives numbers in [0, 1) for the order among equals, `timer` seconds that never go back."""

    def __init__(
        self,
        *,
        resolver: Resolver,
        policies: Policies,
        settings: RouteSettings,
        draw: Callable[[], float],
        timer: Callable[[], float],
    ) -> None:
        self._resolver = resolver
        self._policies = policies
        self._settings = settings
        self._draw = draw
        self._timer = timer
        self._known: dict[str, _Known] = {}
        self._is_public = lru_cache(_MAX_REMEMBERED)(is_public)

    def way(self, message: Message) -> Origin:
        """Return whose way a message takes: those that take the same one to a destination have the same route."""
        if message.origin is Origin.RELAY and not self._settings.ndr_route:
            return Origin.CLIENT
        return message.origin

    async def route(self, message: Message, destination: str) -> Route:
        """Return the way of a message to one of its destinations.

        Never raises for what the network does; StoreError if the policies cannot be read.
        """
        judgement = self._settings.judgement.of_message(message)
        way = self.way(message)
        if way is Origin.RELAY:
            hosts = tuple([await self._fixed_host(next_hop) for next_hop in self._settings.ndr_route])
            return Route(hosts=judged(hosts, None, judgement))
        if way is Origin.REPORT:
            return await self._report_route(destination)
        literal = parse_address_literal(destination)
        if literal is not None:
            return self._literal_route(destination, literal, judgement)
        if judgement is not self._settings.judgement:
            return await self._look_up(destination, judgement)
        known = self._known.get(destination)
        if known is None or self._timer() >= known.until:
            return await self._look_up(destination, judgement)
        if self._timer() >= known.judged_until:
            await self._judge_anew(destination, known)
        return self._reordered(known.route, known.preferences) if known.preferences else known.route

    async def recheck(self, message: Message, route: Route) -> Route:
        """Return its route judged by the policy as it is now, looked up past all caches (RFC 8461 §5)."""
        if route.findings is None:
            return route
        self._known.pop(route.findings.policy_domain, None)
        findings = await self._policies.findings(route.findings.policy_domain, recheck=True)
        return self._judged(route.hosts, findings, self._settings.judgement.of_message(message))

    # One look-up.

    async def _look_up(self, domain: str, judgement: Judgement) -> Route:
        """Ask for MX and record at once, then for addresses beside the fetch of a policy."""
        async with asyncio.TaskGroup() as group:
            record = group.create_task(self._ask_record(domain))
            mx = await self._resolver.mx(domain)
            listed = self._listed(domain, mx)
            if isinstance(listed, HostFailure):
                # RFC 7505: a null MX ends it here, before any policy is fetched.
                record.cancel()
                return Route(failure=listed)
        findings, located = await self._ask(domain, mx, listed)
        ahead = below_ourselves(located, self._settings.own_addresses)
        if not ahead:
            return Route(failure=LOOP)
        mx_secure = is_mx_secure(mx)
        hosts = tuple(self._host(host, name_proven=mx_secure or host.mx.name == domain) for host in ahead)
        route = self._judged(hosts, findings, judgement)
        if judgement is not self._settings.judgement:
            return route  # it holds for this message alone
        if len(ahead) == len(located):  # else a host was left out for an address that it may not have for ever
            self._remember(domain, min(_ttl(mx), *map(_located_lasts, located)), located, route)
        return route

    async def _ask(
        self, domain: str, mx: Answer[MxRecord], listed: tuple[MxHost, ...]
    ) -> tuple[Findings | None, list[LocatedHost]]:
        try:
            async with asyncio.TaskGroup() as group:
                questions = [group.create_task(self._locate(domain, mx, host)) for host in listed]
                findings = await self._findings(domain)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return findings, [question.result() for question in questions]

    async def _locate(self, domain: str, mx: Answer[MxRecord], host: MxHost) -> LocatedHost:
        answer = await self._resolver.addresses(host.name)
        return LocatedHost(host, answer, await self._tlsa(host.name, self._settings.smtp_port, answer, domain, mx))

    async def _tlsa(
        self, host: str, port: int, answer: Answer[IPAddress], domain: str, mx: Answer[MxRecord] | None
    ) -> TlsaFindings | None:
        """Ask for a host's TLSA records, unless they could make no difference."""
        if self._settings.judgement.dane is DaneMode.OFF or isinstance(answer, Unknown):
            return None
        return await find_tlsa(self._resolver, host=host, port=port, addresses=answer, domain=domain, mx=mx)

    async def _ask_record(self, domain: str) -> None:
        if self._settings.judgement.enforcement is not Enforcement.OFF:
            await self._policies.ask_record(domain)

    def _listed(self, domain: str, answer: Answer[MxRecord]) -> tuple[MxHost, ...] | HostFailure:
        return mx_hosts(domain, answer, own_names=self._settings.own_names, draw=self._draw)

    # What is remembered of it.

    def _remember(self, domain: str, lasts: timedelta, located: Sequence[LocatedHost], route: Route) -> None:
        """Keep a route for no longer than anything that it rests on."""
        self._known.pop(domain, None)
        if not route.hosts or lasts <= timedelta(0):
            return
        now = self._timer()
        preferences = tuple(host.mx.preference for host in located)
        self._known[domain] = _Known(
            route=route,
            until=now + lasts.total_seconds(),
            judged_until=now + _judgement_lasts(route.findings),
            preferences=preferences if len(set(preferences)) < len(preferences) else None,
        )
        if len(self._known) > _MAX_REMEMBERED:
            del self._known[next(iter(self._known))]

    async def _judge_anew(self, domain: str, known: _Known) -> None:
        findings = await self._findings(domain)
        known.route = self._judged(known.route.hosts, findings, self._settings.judgement)
        known.judged_until = self._timer() + _judgement_lasts(findings)
        if not known.route.hosts:
            self._known.pop(domain, None)

    def _reordered(self, route: Route, preferences: Sequence[int]) -> Route:
        """RFC 5321 §5.1: equals are put into random order, for each message anew."""
        drawn = sorted(zip(preferences, route.hosts, strict=False), key=lambda one: (one[0], self._draw()))
        return Route(hosts=tuple([host for _, host in drawn]), findings=route.findings, failure=route.failure)

    async def _findings(self, domain: str) -> Findings | None:
        if self._settings.judgement.enforcement is Enforcement.OFF:
            return None
        return await self._policies.findings(domain)

    def _judged(self, hosts: tuple[Host, ...], findings: Findings | None, judgement: Judgement) -> Route:
        if findings and findings.defer_until is not None and judgement.enforcement is Enforcement.ENFORCE:
            detail = findings.unknown.detail if findings.unknown else "no answer"
            failure = HostFailure(kind=FailureKind.POLICY_UNKNOWN, detail=detail)
            return Route(hosts=(), findings=findings, failure=failure)
        return Route(hosts=judged(hosts, findings, judgement), findings=findings)

    def _host(self, located: LocatedHost, *, name_proven: bool) -> Host:
        name, port = located.mx.name, self._settings.smtp_port
        where = addresses(name, located.addresses, allowed=self._may_contact)
        verdict = opportunistic(name)
        return Host(name=name, port=port, where=where, verdict=verdict, tlsa=located.tlsa, name_proven=name_proven)

    def _may_contact(self, address: IPAddress) -> bool:
        return self._settings.allow_private_addresses or self._is_public(address)

    async def _report_route(self, domain: str) -> Route:
        """Neither policy nor TLSA records keep a TLS report from being delivered (RFC 8460 §3, §5.3)."""
        listed = self._listed(domain, await self._resolver.mx(domain))
        if isinstance(listed, HostFailure):
            return Route(failure=listed)
        answers = await asyncio.gather(*(self._resolver.addresses(host.name) for host in listed))
        located = [LocatedHost(host, answer) for host, answer in zip(listed, answers, strict=True)]
        ahead = below_ourselves(located, self._settings.own_addresses)
        if not ahead:
            return Route(failure=LOOP)
        return Route(hosts=tuple(for_reports(self._host(host, name_proven=False)) for host in ahead))

    def _literal_route(self, destination: str, address: IPAddress, judgement: Judgement) -> Route:
        """RFC 5321 §4.1.3: straight to the address; no policy can exist for it (RFC 8461 §3.4)."""
        if address in self._settings.own_addresses:
            return Route(failure=LOOP)
        where: tuple[IPAddress, ...] | HostFailure = (address,)
        if not self._may_contact(address):
            where = HostFailure(kind=FailureKind.ADDRESS_REFUSED, detail=f"the address {address} is not public")
        verdict = opportunistic(destination)
        host = Host(name=destination, port=self._settings.smtp_port, where=where, verdict=verdict)
        return Route(hosts=judged((host,), None, judgement))

    async def _fixed_host(self, next_hop: NextHop) -> Host:
        """A next hop of the operator's, which may well be a private address."""
        if not isinstance(next_hop.host, str):
            name = str(next_hop.host)
            at, verdict = (next_hop.host,), opportunistic(name)
            return Host(name=name, port=next_hop.port, where=at, verdict=verdict, name_proven=True)
        name, port = next_hop.host, next_hop.port
        answer = await self._resolver.addresses(name)
        where = addresses(name, answer, allowed=lambda _: True)
        tlsa = await self._tlsa(name, port, answer, name, None)
        verdict = opportunistic(name)
        return Host(name=name, port=port, where=where, verdict=verdict, tlsa=tlsa, name_proven=True)


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
