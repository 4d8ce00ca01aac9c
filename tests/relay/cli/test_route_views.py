"""A route in words and in fields."""

from datetime import UTC, datetime

import pytest

from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, RouteDemand
from relay.cli.route_views import route_facts, route_lines
from relay.delivery.routing_table import ORDINARY, Directions, Judgement, NextHop, Weakened, Weakening
from relay.delivery.seam import Login

HOPS = (NextHop.parse("smtps://smtp.partner.test"), NextHop.parse("mx://partner.test"))
NAMED = RouteDemand(level=Level.VERIFIED, tls_name="mail.partner.test")
END = datetime(2027, 1, 1, tzinfo=UTC)


def directions(**says: object) -> Directions:
    judgement = Judgement(**says)  # type: ignore[arg-type]
    return Directions(name="partner.test", judgement=judgement)


@pytest.mark.parametrize(
    ("shown", "lines"),
    [
        (ORDINARY, []),
        (directions(), ["route partner.test: nothing of its own"]),
        (directions(demand=RouteDemand(level=Level.ENCRYPTED)), ["route partner.test: TLS is demanded"]),
        (directions(demand=NAMED), ["route partner.test: verified TLS is demanded for mail.partner.test"]),
        (
            directions(enforcement=Enforcement.MANDATORY, dane=DaneMode.MANDATORY),
            ["route partner.test: a policy (MTA-STS) is demanded; DANE is demanded"],
        ),
        (
            Directions(name="partner.test", next_hops=HOPS, login=Login(user="us", password="hunter2")),
            ["route partner.test: next hop smtps://smtp.partner.test:465, then mx://partner.test; AUTH as us"],
        ),
        (
            Directions(
                name="partner.test",
                weakening=Weakening(turns_off=(Weakened.MTA_STS, Weakened.DANE), reason="ticket 4711", ends_at=END),
            ),
            [
                "route partner.test: nothing of its own",
                "  mta_sts is off until the end of 2026-12-31 (UTC): ticket 4711",
                "  dane is off until the end of 2026-12-31 (UTC): ticket 4711",
            ],
        ),
        (
            Directions(name="x", weakening=Weakening(turns_off=(Weakened.DANE,), reason="why")),
            ["route x: nothing of its own", "  dane is off without end: why"],
        ),
    ],
)
def test_a_route_in_words(shown: Directions, lines: list[str]) -> None:
    assert list(route_lines(shown)) == lines


def test_a_route_in_fields_has_no_password() -> None:
    facts = route_facts(Directions(name="x", next_hops=HOPS, login=Login(user="us", password="hunter2")))
    assert facts is not None
    assert (facts["next_hop"], facts["user"]) == (["smtps://smtp.partner.test:465", "mx://partner.test"], "us")
    assert "hunter2" not in repr(facts)
    assert route_facts(ORDINARY) is None
