"""What a route says, in words and in fields."""

from collections.abc import Iterator
from datetime import timedelta

from policy.decide import DaneMode, Enforcement
from policy.requirement import Level
from relay.delivery.routing_table import Directions, Weakening

_A_MOMENT = timedelta(microseconds=1)


def route_facts(directions: Directions) -> dict[str, object] | None:
    """Return the route that applies, None where there is none; its password stays out."""
    if not directions.name:
        return None
    demand, weakening = directions.judgement.demand, directions.weakening
    return {
        "name": directions.name,
        "next_hop": [str(hop) for hop in directions.next_hops],
        "user": directions.login.user if directions.login is not None else None,
        "tls": demand.level if demand is not None else Level.OPPORTUNISTIC,
        "tls_name": demand.tls_name if demand is not None else "",
        "mta_sts": directions.judgement.enforcement,
        "dane": directions.judgement.dane,
        "weakening": weakening,
    }


def route_lines(directions: Directions) -> Iterator[str]:
    """Yield the lines of the same for people."""
    if not directions.name:
        return
    yield f"route {directions.name}: {'; '.join(_says(directions)) or 'nothing of its own'}"
    if directions.weakening is not None:
        yield from weakening_lines(directions.weakening)


def weakening_lines(weakening: Weakening) -> Iterator[str]:
    # The end is midnight (UTC); people think of the last day.
    until = f"until the end of {weakening.ends_at - _A_MOMENT:%Y-%m-%d} (UTC)" if weakening.ends_at else "without end"
    for one in weakening.turns_off:
        yield f"  {one.value} is off {until}: {weakening.reason}"


def _says(directions: Directions) -> Iterator[str]:
    judgement = directions.judgement
    if directions.next_hops:
        yield f"next hop {', then '.join(map(str, directions.next_hops))}"
    if directions.login is not None:
        yield f"AUTH as {directions.login.user}"
    match judgement.demand:
        case None:
            pass
        case demand if demand.level is Level.ENCRYPTED:
            yield "TLS is demanded"
        case demand:
            yield f"verified TLS is demanded{f' for {demand.tls_name}' if demand.tls_name else ''}"
    if judgement.enforcement is Enforcement.MANDATORY:
        yield "a policy (MTA-STS) is demanded"
    if judgement.dane is DaneMode.MANDATORY:
        yield "DANE is demanded"
