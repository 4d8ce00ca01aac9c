"""Which route fits a destination, what it says at what time, and how next hops are written."""

from contextlib import suppress
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, RouteDemand
from relay.delivery.routing_table import (
    Directions,
    Judgement,
    NextHop,
    RoutingTable,
    StaticRoute,
    Weakened,
    Weakening,
)
from relay.delivery.seam import Login

DEFAULT = Directions()
END = datetime(2026, 7, 1, tzinfo=UTC)


def table(*patterns: tuple[str, ...]) -> RoutingTable:
    """One route for each group of patterns, named by its number."""
    routes = [
        StaticRoute(patterns=group, directions=Directions(name=str(number))) for number, group in enumerate(patterns)
    ]
    return RoutingTable(DEFAULT, routes)


@pytest.mark.parametrize(
    ("destination", "patterns", "found"),
    [
        ("x.test", [], ""),
        ("x.test", [("x.test",)], "0"),
        ("a.x.test", [("x.test",)], ""),
        ("x.test", [("*.x.test",)], ""),
        ("a.x.test", [("*.x.test",)], "0"),
        ("a.b.c.x.test", [("*.x.test",)], "0"),
        ("ax.test", [("*.x.test", "x.test")], ""),
        ("x.test", [("y.test", "x.test")], "0"),
        ("x.test", [("y.test",), ("x.test",)], "1"),
        ("x.test", [("*",), ("x.test",)], "0"),
        ("x.test", [("x.test",), ("*",)], "0"),
        ("y.test", [("x.test",), ("*",)], "1"),
        ("a.b.test", [("*.test",), ("*.b.test",), ("a.b.test",)], "0"),
        ("a.b.test", [("a.b.test",), ("*.b.test",), ("*.test",)], "0"),
        ("[192.0.2.1]", [("*",)], "0"),
        ("[192.0.2.1]", [("*.2.1]",)], ""),
        ("[192.0.2.1]", [("x.test",)], ""),
    ],
)
def test_the_first_route_that_fits_counts(destination: str, patterns: list[tuple[str, ...]], found: str) -> None:
    assert table(*patterns).find(destination).directions.name == found


@given(
    st.lists(st.lists(st.sampled_from(["*", "*.a", "*.b.a", "a", "b.a", "c.b.a"]), min_size=1, max_size=3), max_size=5),
    st.sampled_from(["a", "b.a", "c.b.a", "d.c.b.a", "x"]),
)
def test_a_look_up_agrees_with_reading_the_list_from_the_top(routes: list[list[str]], destination: str) -> None:
    def fits(pattern: str) -> bool:
        return pattern in ("*", destination) or (pattern.startswith("*.") and destination.endswith(pattern[1:]))

    expected = next((str(n) for n, patterns in enumerate(routes) if any(map(fits, patterns))), "")
    assert table(*map(tuple, routes)).find(destination).directions.name == expected


def weakened_route(ends_at: datetime | None) -> StaticRoute:
    lasting = Directions(name="x.test")
    weakening = Weakening(turns_off=(Weakened.MTA_STS,), reason="they know", ends_at=ends_at)
    off = replace(lasting, judgement=Judgement(enforcement=Enforcement.OFF), weakening=weakening)
    return StaticRoute(patterns=("x.test",), directions=lasting, weakened=off)


@pytest.mark.parametrize(
    ("ends_at", "now", "weakened"),
    [
        (None, END + timedelta(days=36500), True),
        (END, END - timedelta(microseconds=1), True),
        (END, END, False),
        (END, END + timedelta(days=1), False),
    ],
)
def test_a_weakening_ends_by_itself(ends_at: datetime | None, now: datetime, weakened: bool) -> None:
    route = weakened_route(ends_at)
    assert route.at(now) is (route.weakened if weakened else route.directions)


def test_a_route_that_weakens_nothing_is_the_same_at_all_times() -> None:
    route = StaticRoute(patterns=("*",), directions=DEFAULT)
    assert route.at(END) is DEFAULT


def test_for_reports_the_ways_are_the_same_and_nothing_but_the_operators_demand_is_left() -> None:
    demand = RouteDemand(level=Level.ENCRYPTED)
    hop, login = NextHop(host="mta.x.test"), Login(user="relay", password="secret")
    judgement = Judgement(enforcement=Enforcement.MANDATORY, dane=DaneMode.MANDATORY, demand=demand)
    mandatory = Directions(name="y.test", next_hops=(hop,), judgement=judgement, login=login)
    routes = [weakened_route(None), StaticRoute(patterns=("y.test",), directions=mandatory)]
    reports = RoutingTable(DEFAULT, routes).for_reports()
    assert reports.find("x.test").weakened is None
    found = reports.find("y.test").directions
    assert (found.name, found.next_hops, found.login) == ("y.test", (hop,), login)
    assert found.judgement == Judgement(enforcement=Enforcement.OFF, dane=DaneMode.OFF, demand=demand, for_reports=True)
    assert reports.find("z.test").directions.judgement.for_reports


def test_directions_are_told_apart_though_they_say_the_same() -> None:
    assert Directions(name="x") != Directions(name="x")


def test_a_password_is_not_shown() -> None:
    assert "secret" not in repr(Login(user="relay", password="secret"))


@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING])
def test_a_route_demands_tls_or_nothing(level: Level) -> None:
    with pytest.raises(ValueError, match="demands no"):
        RouteDemand(level=level)


@pytest.mark.parametrize(
    ("url", "expected", "written"),
    [
        ("smtp://mta.contoso.test:2525", NextHop(host="mta.contoso.test", port=2525), "smtp://mta.contoso.test:2525"),
        ("smtp://MTA.Contoso.test", NextHop(host="mta.contoso.test"), "smtp://mta.contoso.test:25"),
        ("smtp://10.0.0.1:26", NextHop(host=ip_address("10.0.0.1"), port=26), "smtp://10.0.0.1:26"),
        ("smtp://[2001:db8::1]", NextHop(host=ip_address("2001:db8::1")), "smtp://[2001:db8::1]:25"),
        ("smtps://mta.test", NextHop(host="mta.test", port=465, implicit_tls=True), "smtps://mta.test:465"),
        ("smtps://mta.test:10465", NextHop(host="mta.test", port=10465, implicit_tls=True), "smtps://mta.test:10465"),
        ("mx://Partner.test", NextHop(host="partner.test", by_mx=True), "mx://partner.test"),
    ],
)
def test_a_next_hop_is_read_from_its_url_and_written_back(url: str, expected: NextHop, written: str) -> None:
    assert NextHop.parse(url) == expected
    assert str(expected) == written
    assert NextHop.parse(written) == expected


@pytest.mark.parametrize(
    "url",
    [
        "",
        "mta",
        "http://mta",
        "smtp://",
        "smtp://a b",
        "smtp://mta:0",
        "smtp://mta:99999",
        "smtp://u@mta/x",
        "smtps://user:password@mta",
        "mx://",
        "mx://partner.test:25",
        "mx://10.0.0.1",
        "smtp://mta?x",
        "smtp://mta#x",
    ],
)
def test_a_bad_next_hop_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        NextHop.parse(url)


@given(st.sampled_from(["smtp", "smtps", "mx", ""]), st.text(max_size=40))
def test_no_text_breaks_the_reading_of_a_next_hop(scheme: str, text: str) -> None:
    with suppress(ValueError):
        hop = NextHop.parse(f"{scheme}://{text}")
        assert NextHop.parse(str(hop)) == hop
