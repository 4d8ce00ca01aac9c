"""The tables [[route]] as the router needs them. **Pure.**"""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from datetime import UTC, date, datetime, time, timedelta

from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, RouteDemand
from relay.config.models import RouteTable
from relay.delivery.routing_table import Directions, Judgement, StaticRoute, Weakened, Weakening
from relay.delivery.seam import Login


def static_routes(
    tables: Iterable[RouteTable], judgement: Judgement, environ: Mapping[str, str]
) -> tuple[StaticRoute, ...]:
    """Return the routes in order; `judgement` is what holds without any. Raises SecretError."""
    return tuple(_route(table, judgement, environ) for table in tables)


def _route(table: RouteTable, judgement: Judgement, environ: Mapping[str, str]) -> StaticRoute:
    if table.mta_sts == "mandatory":
        judgement = replace(judgement, enforcement=Enforcement.MANDATORY)
    if table.dane == "mandatory":
        judgement = replace(judgement, dane=DaneMode.MANDATORY)
    directions = Directions(
        name=table.domains[0],
        next_hops=table.next_hop,
        judgement=replace(judgement, demand=_demand(table)),
        login=_login(table, environ),
    )
    return StaticRoute(patterns=table.domains, directions=directions, weakened=_weakened(table, directions))


def _demand(table: RouteTable) -> RouteDemand | None:
    match table.tls:
        case "opportunistic":
            return None
        case "encrypt":
            return RouteDemand(level=Level.ENCRYPTED)
        case "verify" | "verify-name":
            return RouteDemand(level=Level.VERIFIED, tls_name=table.tls_name)


def _login(table: RouteTable, environ: Mapping[str, str]) -> Login | None:
    if table.password is None:
        return None
    return Login(user=table.user, password=table.password.read(environ))


def _weakened(table: RouteTable, lasting: Directions) -> Directions | None:
    turns_off = tuple(one for one in Weakened if getattr(table, one.value) == "off")
    if not turns_off:
        return None
    judgement = lasting.judgement
    if Weakened.MTA_STS in turns_off:
        judgement = replace(judgement, enforcement=Enforcement.OFF)
    if Weakened.DANE in turns_off:
        judgement = replace(judgement, dane=DaneMode.OFF)
    ends_at = _end_of(table.until) if table.until is not None else None
    weakening = Weakening(turns_off=turns_off, reason=table.reason, ends_at=ends_at)
    return replace(lasting, judgement=judgement, weakening=weakening)


def _end_of(day: date) -> datetime:
    """The named day is the last one, in UTC."""
    return datetime.combine(day, time(), UTC) + timedelta(days=1)
