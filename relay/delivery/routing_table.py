"""The operator's say in where mail goes and what it must keep to there: [mta_sts], [dane] and each [[route]]. **Pure.**

RFC 8461 §3.4 (a next hop is its own policy domain), RFC 3207 §6 (TLS required of selected hosts).
"""

import ipaddress
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from enum import Enum
from urllib.parse import urlsplit

from policy.decide import DaneMode, Enforcement, Precedence
from policy.names import IPAddress, to_host
from policy.requirement import RouteDemand
from relay.delivery.seam import Login
from relay.queue.message import Message

SMTP_PORT = 25
SMTPS_PORT = 465


@dataclass(frozen=True, slots=True, kw_only=True)
class NextHop:
    """A host that the operator named, by a canonical name or an address; or a domain, whose MX hosts are meant."""

    host: str | IPAddress
    port: int = SMTP_PORT
    implicit_tls: bool = False
    by_mx: bool = False

    @classmethod
    def parse(cls, url: str) -> "NextHop":
        """Return what `smtp://host:port`, `smtps://host:port` or `mx://domain` stands for.

        Raises ValueError, with words for the operator.
        """
        parts = urlsplit(url)
        if parts.scheme not in _PORTS or not parts.hostname or parts.path or parts.query or parts.fragment:
            raise ValueError(f"{url!r} is not of the form smtp://host:port, smtps://host:port or mx://domain")
        by_mx, implicit_tls = parts.scheme == "mx", parts.scheme == "smtps"
        if parts.username or (by_mx and parts.port is not None):
            raise ValueError(f"{url!r} has more in it than a {'domain' if by_mx else 'host and a port'}")
        port = _PORTS[parts.scheme] if parts.port is None else parts.port
        if port == 0:
            raise ValueError(f"{url!r} has port 0")
        host: str | IPAddress
        try:
            host = ipaddress.ip_address(parts.hostname)
        except ValueError:
            host = to_host(parts.hostname)
        if by_mx and not isinstance(host, str):
            raise ValueError(f"{url!r} has an address, which has no MX hosts")
        return cls(host=host, port=port, implicit_tls=implicit_tls, by_mx=by_mx)

    def __str__(self) -> str:
        if self.by_mx:
            return f"mx://{self.host}"
        host = f"[{self.host}]" if isinstance(self.host, ipaddress.IPv6Address) else self.host
        return f"{'smtps' if self.implicit_tls else 'smtp'}://{host}:{self.port}"


_PORTS = {"smtp": SMTP_PORT, "smtps": SMTPS_PORT, "mx": SMTP_PORT}


@dataclass(frozen=True, slots=True, kw_only=True)
class Judgement:
    """What hosts are held to: the operator's say, and what a message adds to it (`requiretls`).

    With `for_reports` it is nothing but `demand` (RFC 8460 §3).
    """

    enforcement: Enforcement = Enforcement.ENFORCE
    dane: DaneMode = DaneMode.OPPORTUNISTIC
    precedence: Precedence = Precedence.BOTH
    demand: RouteDemand | None = None
    for_reports: bool = False
    requiretls: bool = False

    def of_message(self, message: Message) -> "Judgement":
        """Return what holds for this message; for most it is this very object."""
        if message.require_tls and message.envelope.reverse_path:
            # RFC 8689 §5: with a null reverse-path the parameter is passed on where it can be, and demanded of nobody.
            return replace(self, requiretls=True)
        if message.tls_optional:
            # RFC 8689 §3: as if there were neither MTA-STS nor DANE, but what they refuse is told all the same. What
            # the operator has made mandatory stays so.
            enforcement = Enforcement.REPORT_ONLY if self.enforcement is Enforcement.ENFORCE else self.enforcement
            dane = DaneMode.OFF if self.dane is DaneMode.OPPORTUNISTIC else self.dane
            return replace(self, enforcement=enforcement, dane=dane)
        return self


class Weakened(Enum):
    """What a route turns off; the value is the key in the settings, and the metric's label."""

    MTA_STS = "mta_sts"
    DANE = "dane"


@dataclass(frozen=True, slots=True, kw_only=True)
class Weakening:
    """An exception from what would hold otherwise. It ends by itself at `ends_at` (aware, UTC), None is never."""

    turns_off: tuple[Weakened, ...]
    reason: str
    ends_at: datetime | None = None

    def over(self, now: datetime) -> bool:
        return self.ends_at is not None and now >= self.ends_at


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Directions:
    """What one route says, or with no `name` what holds where there is none. Each is equal to itself alone.

    Without `next_hops` mail goes to the MX hosts of its destination.
    """

    name: str = ""
    next_hops: tuple[NextHop, ...] = ()
    judgement: Judgement = field(default_factory=Judgement)
    login: Login | None = None
    weakening: Weakening | None = None


ORDINARY = Directions()
"""Mail goes where the DNS says, and keeps to what the domain says."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StaticRoute:
    """A route for all destinations that one of `patterns` fits: a domain, `*.domain` for all below it, or `*`.

    `weakened` holds for as long as its weakening does, `directions` from then on.
    """

    patterns: tuple[str, ...]
    directions: Directions
    weakened: Directions | None = None

    def at(self, now: datetime) -> Directions:
        """Return what the route says at this time."""
        weakened = self.weakened
        if weakened is None or weakened.weakening is None or weakened.weakening.over(now):
            return self.directions
        return weakened


class RoutingTable:
    """Routes in the order of the settings, of which the first that fits counts, and `default` where none does.

    A look-up costs one step for each label of the destination, however many routes there are.
    """

    def __init__(self, default: Directions, routes: Sequence[StaticRoute] = ()) -> None:
        self.default = StaticRoute(patterns=("*",), directions=default)
        self.routes = tuple(routes)
        self._first: Mapping[str, int] = {
            pattern: number for number, route in reversed(list(enumerate(self.routes))) for pattern in route.patterns
        }

    def find(self, destination: str) -> StaticRoute:
        """Return the route for a domain in canonical form or an address literal."""
        if not self._first:
            return self.default
        patterns = ["*", destination]
        _, dot, parent = destination.partition(".")
        while dot and not destination.startswith("["):
            patterns.append(f"*.{parent}")
            _, dot, parent = parent.partition(".")
        fitting = [self._first[pattern] for pattern in patterns if pattern in self._first]
        return self.routes[min(fitting)] if fitting else self.default

    def for_reports(self) -> "RoutingTable":
        """Return the table for TLS reports: the same ways, with no policy and no TLSA record to keep to."""
        routes = [replace(route, directions=_for_reports(route.directions), weakened=None) for route in self.routes]
        return RoutingTable(_for_reports(self.default.directions), routes)


def _for_reports(directions: Directions) -> Directions:
    judgement = replace(directions.judgement, enforcement=Enforcement.OFF, dane=DaneMode.OFF, for_reports=True)
    return replace(directions, judgement=judgement)
