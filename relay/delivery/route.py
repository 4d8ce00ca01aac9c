"""Where a message goes: MX, addresses and policy of its destination, asked side by side (RFC 5321 §5.1, RFC 8461 §5).

No connection slot is held here: a slow DNS or policy host keeps nobody else waiting.
"""

import asyncio
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import lru_cache
from typing import Any, Protocol

from policy.address_guard import is_public
from policy.answers import Answer, MxRecord, Resolver, Unknown
from policy.decide import Enforcement
from policy.findings import Findings
from policy.names import IPAddress, parse_address_literal
from relay.delivery.hosts import SMTP_PORT, Host, NextHop, Route, opportunistic, with_policy
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
    """The tables [delivery] and [ndr] as the router needs them.

    `own_names` and `own_addresses` are the relay's own, for the loop check; an address counts as ours only if mail
    sent to it at `smtp_port` would come back to us. `ndr_route` takes the relay's own messages, in order.
    """

    smtp_port: int = SMTP_PORT
    own_names: frozenset[str] = frozenset()
    own_addresses: frozenset[IPAddress] = frozenset()
    allow_private_addresses: bool = False
    ndr_route: tuple[NextHop, ...] = ()
    enforcement: Enforcement = Enforcement.ENFORCE


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

    def is_fixed(self, message: Message) -> bool:
        """Whether the operator, not the DNS, says where this message goes."""
        return message.origin is Origin.RELAY and bool(self._settings.ndr_route)

    async def route(self, message: Message, destination: str) -> Route:
        """Return the way of a message to one of its destinations.

        Never raises for what the network does; StoreError if the policies cannot be read.
        """
        if self.is_fixed(message):
            return Route(hosts=tuple([await self._fixed_host(next_hop) for next_hop in self._settings.ndr_route]))
        literal = parse_address_literal(destination)
        if literal is not None:
            return self._literal_route(destination, literal)
        known = self._known.get(destination)
        if known is None or self._timer() >= known.until:
            return await self._look_up(destination)
        if self._timer() >= known.judged_until:
            await self._judge_anew(destination, known)
        return self._reordered(known.route, known.preferences) if known.preferences else known.route

    async def recheck(self, route: Route) -> Route:
        """Return the route judged by the policy as it is now, looked up past all caches (RFC 8461 §5)."""
        if route.findings is None:
            return route
        self._known.pop(route.findings.policy_domain, None)
        findings = await self._policies.findings(route.findings.policy_domain, recheck=True)
        return self._judged(route.hosts, findings)

    # One look-up.

    async def _look_up(self, domain: str) -> Route:
        """Ask for MX and record at once, then for addresses beside the fetch of a policy."""
        async with asyncio.TaskGroup() as group:
            record = group.create_task(self._ask_record(domain))
            mx = await self._resolver.mx(domain)
            listed = self._listed(domain, mx)
            if isinstance(listed, HostFailure):
                # RFC 7505: a null MX ends it here, before any policy is fetched.
                record.cancel()
                return Route(failure=listed)
        findings, answers = await self._ask(domain, listed)
        located = [LocatedHost(host, answer) for host, answer in zip(listed, answers, strict=True)]
        ahead = below_ourselves(located, self._settings.own_addresses)
        if not ahead:
            return Route(failure=LOOP)
        hosts = tuple(self._host(host.mx.name, self._settings.smtp_port, host) for host in ahead)
        route = self._judged(hosts, findings)
        if len(ahead) == len(located):  # else a host was left out for an address that it may not have for ever
            self._remember(domain, min(_ttl(mx), *map(_ttl, answers)), located, route)
        return route

    async def _ask(self, domain: str, listed: tuple[MxHost, ...]) -> tuple[Findings | None, list[Answer[IPAddress]]]:
        try:
            async with asyncio.TaskGroup() as group:
                questions = [group.create_task(self._resolver.addresses(mx.name)) for mx in listed]
                findings = await self._findings(domain)
        except ExceptionGroup as errors:
            raise errors.exceptions[0] from errors
        return findings, [question.result() for question in questions]

    async def _ask_record(self, domain: str) -> None:
        if self._settings.enforcement is not Enforcement.OFF:
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
        known.route = self._judged(known.route.hosts, findings)
        known.judged_until = self._timer() + _judgement_lasts(findings)
        if not known.route.hosts:
            self._known.pop(domain, None)

    def _reordered(self, route: Route, preferences: Sequence[int]) -> Route:
        """RFC 5321 §5.1: equals are put into random order, for each message anew."""
        drawn = sorted(zip(preferences, route.hosts, strict=False), key=lambda one: (one[0], self._draw()))
        return Route(hosts=tuple([host for _, host in drawn]), findings=route.findings, failure=route.failure)

    async def _findings(self, domain: str) -> Findings | None:
        if self._settings.enforcement is Enforcement.OFF:
            return None
        return await self._policies.findings(domain)

    def _judged(self, hosts: tuple[Host, ...], findings: Findings | None) -> Route:
        if findings is None:
            return Route(hosts=hosts)
        if findings.defer_until is not None and self._settings.enforcement is Enforcement.ENFORCE:
            detail = findings.unknown.detail if findings.unknown else "no answer"
            failure = HostFailure(kind=FailureKind.POLICY_UNKNOWN, detail=detail)
            return Route(hosts=(), findings=findings, failure=failure)
        return Route(hosts=with_policy(hosts, findings, self._settings.enforcement), findings=findings)

    def _host(self, name: str, port: int, located: LocatedHost) -> Host:
        where = addresses(name, located.addresses, allowed=self._may_contact)
        return Host(name=name, port=port, where=where, verdict=opportunistic(name))

    def _may_contact(self, address: IPAddress) -> bool:
        return self._settings.allow_private_addresses or self._is_public(address)

    def _literal_route(self, destination: str, address: IPAddress) -> Route:
        """RFC 5321 §4.1.3: straight to the address; no policy can exist for it (RFC 8461 §3.4)."""
        if address in self._settings.own_addresses:
            return Route(failure=LOOP)
        where: tuple[IPAddress, ...] | HostFailure = (address,)
        if not self._may_contact(address):
            where = HostFailure(kind=FailureKind.ADDRESS_REFUSED, detail=f"the address {address} is not public")
        verdict = opportunistic(destination)
        return Route(hosts=(Host(name=destination, port=self._settings.smtp_port, where=where, verdict=verdict),))

    async def _fixed_host(self, next_hop: NextHop) -> Host:
        """A next hop of the operator's, which may well be a private address."""
        if not isinstance(next_hop.host, str):
            name = str(next_hop.host)
            return Host(name=name, port=next_hop.port, where=(next_hop.host,), verdict=opportunistic(name))
        answer = await self._resolver.addresses(next_hop.host)
        where = addresses(next_hop.host, answer, allowed=lambda _: True)
        return Host(name=next_hop.host, port=next_hop.port, where=where, verdict=opportunistic(next_hop.host))


def _judgement_lasts(findings: Findings | None) -> float:
    """For how many seconds what the policy says may be used again: as long as there can be none, for ever."""
    return math.inf if findings is None else min(findings.lasts.total_seconds(), POLICY_SECONDS)


def _ttl(answer: Answer[Any]) -> timedelta:
    """For how long the answer may be used again; one that is unknown, not at all."""
    return timedelta(0) if isinstance(answer, Unknown) else answer.ttl
