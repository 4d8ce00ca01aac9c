"""[[route]]: what is read, what cannot be, and the passwords that stand elsewhere."""

import json
from datetime import UTC, date, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.decide import DaneMode, Enforcement
from policy.requirement import Level, RouteDemand
from relay.app import plain
from relay.config import ConfigError, Problem, Settings, from_json, load, parse, render, to_json
from relay.config.models import RouteTable
from relay.config.secrets import Secret, SecretError
from relay.delivery.routing_table import NextHop, StaticRoute, Weakened
from relay.delivery.seam import Login

BASE = Path("/etc/mta-sts-relay")
FULL = """
[[route]]
domains = ["partner.example", "*.Partner.example"]
next_hop = ["smtps://in.partner.example", "smtp://10.0.0.1:2525", "mx://backup.example"]
user = "us"
password = "env:PARTNER"
tls = "verify-name"
tls_name = "Mail.Partner.example"
dane = "off"
reason = "their resolver is broken"
until = 2026-12-31

[[route]]
domains = ["*"]
"""


def route(text: str) -> Settings:
    return parse(f"[[route]]\n{text}", base=BASE)


def problems(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, base=BASE)
    return [str(problem) for problem in caught.value.problems]


def test_a_route_is_read() -> None:
    first, second = parse(FULL, base=BASE).route
    assert first.domains == ("partner.example", "*.partner.example")
    assert [str(hop) for hop in first.next_hop] == [
        "smtps://in.partner.example:465",
        "smtp://10.0.0.1:2525",
        "mx://backup.example",
    ]
    assert (first.user, first.password) == ("us", Secret(variable="PARTNER"))
    assert (first.tls, first.tls_name, first.until) == ("verify-name", "mail.partner.example", date(2026, 12, 31))
    assert (second.domains, second.next_hop) == (("*",), ())


def test_what_is_rendered_or_handed_on_reads_back_the_same_and_holds_no_password() -> None:
    settings = parse(FULL.replace("env:PARTNER", "file:secret"), base=BASE)
    assert parse(render(settings), base=BASE) == settings
    assert from_json(to_json(settings)) == settings
    assert 'password = "file:/etc/mta-sts-relay/secret"' in render(settings)


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("", "line 1: route[1].domains: are needed, such as"),
        ("domains = []", "line 2: route[1].domains: must not be empty"),
        ("domains = ['a b']", "line 2: route[1].domains[1]: must be a domain name"),
        ("domains = ['*x']", "route[1].domains[1]: must be a domain name"),
        ("domains = ['x.test', 'y..test']", "route[1].domains[2]: must be a domain name"),
        ("domains = ['x.test']\nnexthop = []", "line 3: route[1].nexthop: unknown key"),
        (
            "domains = ['x.test']\nnext_hop = ['http://x']",
            'line 3: route[1].next_hop[1]: must be written as "smtp://host:port", "smtps://host:port" or "mx://domain"',
        ),
        ("domains = ['x.test']\nnext_hop = ['mx://10.0.0.1']", "route[1].next_hop[1]: must be written as"),
        (f"domains = ['x.test']\nnext_hop = {['smtp://x'] * 11}", "route[1].next_hop: "),
        ("domains = ['x.test']\nuser = 'us'", "line 1: route[1].password: is needed with user"),
        ("domains = ['x.test']\npassword = 'env:X'", "line 1: route[1].user: is needed with password"),
        (
            "domains = ['x.test']\nnext_hop = ['smtps://x']\nuser = 'us'\npassword = 'env:X'",
            'route[1].tls: must be "verify" or "verify-name" with user: a password needs verified TLS',
        ),
        (
            "domains = ['x.test']\nuser = 'us'\npassword = 'env:X'\ntls = 'verify'",
            "route[1].next_hop: is needed with user",
        ),
        (
            "domains = ['x.test']\nnext_hop = ['mx://x']\nuser = 'us'\npassword = 'env:X'\ntls = 'verify'",
            'line 6: route[1].tls: must be "verify-name" with user and mx://',
        ),
        (
            "domains = ['x.test']\npassword = 'hunter2'",
            'route[1].password: must be written as "file:PATH" or "env:NAME"',
        ),
        ("domains = ['x.test']\ntls = 'maybe'", "must be 'opportunistic', 'encrypt', 'verify' or 'verify-name'"),
        ("domains = ['x.test']\ntls_name = 'y.test'", 'route[1].tls_name: has a use with tls = "verify-name" only'),
        ("domains = ['x.test']\ntls = 'verify-name'", 'route[1].tls_name: is needed with tls = "verify-name"'),
        ("domains = ['x.test']\nmta_sts = 'off'", 'line 3: route[1].mta_sts: "off" needs a reason'),
        ("domains = ['x.test']\ndane = 'off'\nreason = '  '", 'line 3: route[1].dane: "off" needs a reason'),
        ("domains = ['x.test']\nreason = \"a\\nb\"", "route[1].reason: must be one line of text"),
        ("domains = ['x.test']\nuntil = '2026-12-31'", "line 3: route[1].until: has no use without"),
        ("domains = ['x.test']\nuntil = 'soon'", 'line 3: route[1].until: must be a day such as "2026-12-31"'),
        ("domains = ['x.test']\nuntil = '2026-02-30'", "route[1].until: must be a day"),
        ("domains = ['x.test']\nuntil = '20261231'", "route[1].until: must be a day"),
        ("domains = ['x.test']\nuntil = 2026-12-31T12:00:00Z", "route[1].until: must be a day"),
        (
            "domains = ['x.test']\nnext_hop = ['smtp://10.0.0.1']\nmta_sts = 'mandatory'",
            'line 4: route[1].mta_sts: "mandatory" cannot be met by smtp://10.0.0.1:25: name the host',
        ),
        (
            "domains = ['x.test']\nnext_hop = ['smtp://10.0.0.1']\ndane = 'mandatory'",
            'route[1].dane: "mandatory" cannot be met by',
        ),
        (
            "domains = ['x.test']\n[[route]]\ndomains = ['x.test']",
            "route[2].domains: x.test is never reached: route[1]",
        ),
        ("domains = ['*']\n[[route]]\ndomains = ['x.test']", "line 4: route[2].domains: x.test is never reached"),
    ],
)
def test_what_cannot_be_is_told_with_its_line(text: str, told: str) -> None:
    said = "\n".join(problems(f"[[route]]\n{text}"))
    assert told in said
    assert "hunter2" not in said


def test_a_password_in_a_url_is_not_repeated() -> None:
    assert "hunter2" not in "\n".join(problems("[[route]]\ndomains = ['*']\nnext_hop = ['smtps://me:hunter2@x']"))


def test_all_that_is_wrong_is_told_at_once() -> None:
    told = problems(
        """[[route]]
domains = ["x.test", "a b"]
next_hop = ["ftp://x"]
tls_name = "y.test"

[[route]]
domains = ["y.test"]
mta_sts = "off"
until = "never"
"""
    )
    assert told == [
        "line 2: route[1].domains[2]: must be a domain name ('a b' has the label 'a b', which no host name may have)",
        'line 3: route[1].next_hop[1]: must be written as "smtp://host:port", "smtps://host:port" or "mx://domain"',
        'line 4: route[1].tls_name: has a use with tls = "verify-name" only',
        'line 8: route[2].mta_sts: "off" needs a reason',
        'line 9: route[2].until: must be a day such as "2026-12-31"',
    ]


_TEXTS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs", "Cc"]), max_size=12),
    st.sampled_from(
        ["*", "x.test", "*.x.test", "smtp://x", "smtps://[::1]", "mx://x.test", "off", "env:X", "2026-12-31"]
    ),
)
_VALUES = st.one_of(
    _TEXTS, st.integers(-1, 3), st.booleans(), st.lists(st.one_of(_TEXTS, st.integers(0, 1)), max_size=3)
)


@given(st.lists(st.dictionaries(st.sampled_from(sorted(RouteTable.model_fields)), _VALUES), min_size=1, max_size=3))
def test_whatever_a_route_says_is_read_or_told(routes: list[dict[str, object]]) -> None:
    text = ""
    for one in routes:
        lines = [f"{key} = {json.dumps(value, ensure_ascii=False)}" for key, value in one.items()]
        text += "\n".join(["[[route]]", *lines, ""])
    settings, told = None, tuple[Problem, ...]()
    try:
        settings = parse(text, base=BASE)
    except ConfigError as error:
        told = error.problems
    assert all(problem.path[0] == "route" and problem.line for problem in told)
    assert settings is None or parse(render(settings), base=BASE) == settings


def test_the_same_domain_twice_in_one_route_does_no_harm() -> None:
    assert route("domains = ['x.test', 'x.test']").route[0].domains == ("x.test", "x.test")


# -- passwords ---------------------------------------------------------------------------------------------------------


def test_a_secret_is_read_from_a_file_or_a_variable(tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("pass word\n", encoding="utf-8")
    assert Secret.parse("file:secret", tmp_path).read({}) == "pass word"
    assert Secret.parse("env:NAME", tmp_path).read({"NAME": "pässword"}) == "pässword"


@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read: No such file"),
        (b"", "it is empty"),
        (b"\n", "it is empty"),
        (b"hunter2\nhunter3\n", "more than one line"),
        (b"hunter2\x00", "control characters"),
        (b"hunter2\xff", "is not UTF-8"),
        (b"hunter2" * 1000, "larger than 4096 octets"),
    ],
)
def test_a_secret_that_cannot_be_used_is_told_and_not_shown(tmp_path: Path, content: bytes | None, told: str) -> None:
    if content is not None:
        (tmp_path / "secret").write_bytes(content)
    with pytest.raises(SecretError, match=told) as caught:
        Secret.parse("file:secret", tmp_path).read({})
    assert "hunter2" not in str(caught.value)


def test_a_password_that_is_not_there_is_an_error_at_start(tmp_path: Path) -> None:
    text = FULL.replace("env:PARTNER", "env:MTA_STS_RELAY_NO_SUCH_VARIABLE")
    (tmp_path / "config.toml").write_text(text, encoding="utf-8")
    with pytest.raises(ConfigError, match=r"line 6: route\[1\]\.password: .*there is no such variable"):
        load(tmp_path / "config.toml")


# -- what becomes of it ---


def static_route(text: str, **environ: str) -> StaticRoute:
    return plain.route_settings(route(text), environ).routes[0]


def test_a_route_as_the_router_has_it() -> None:
    settings = parse(FULL, base=BASE)
    first, second = plain.route_settings(settings, {"PARTNER": "secret"}).routes
    assert first.patterns == ("partner.example", "*.partner.example")
    lasting, weakened = first.directions, first.weakened
    assert lasting.next_hops[0] == NextHop(host="in.partner.example", port=465, implicit_tls=True)
    assert lasting.login == Login(user="us", password="secret")
    assert lasting.judgement.demand == RouteDemand(level=Level.VERIFIED, tls_name="mail.partner.example")
    assert lasting.judgement.dane is DaneMode.OPPORTUNISTIC
    assert weakened is not None
    assert weakened.judgement.dane is DaneMode.OFF
    assert weakened.judgement.demand == lasting.judgement.demand
    assert weakened.weakening is not None
    assert weakened.weakening.turns_off == (Weakened.DANE,)
    assert weakened.weakening.ends_at == datetime(2027, 1, 1, tzinfo=UTC), "the day named is the last one"
    assert second.weakened is None
    assert second.directions.judgement.demand is None


@pytest.mark.parametrize(
    ("tls", "demand"),
    [
        ("tls = 'opportunistic'", None),
        ("tls = 'encrypt'", RouteDemand(level=Level.ENCRYPTED)),
        ("tls = 'verify'", RouteDemand(level=Level.VERIFIED)),
        ("tls = 'verify-name'\ntls_name = 'm.test'", RouteDemand(level=Level.VERIFIED, tls_name="m.test")),
    ],
)
def test_the_levels_of_tls(tls: str, demand: RouteDemand | None) -> None:
    assert static_route(f"domains = ['*']\n{tls}").directions.judgement.demand == demand


@pytest.mark.parametrize("globally", ["enforce", "report-only", "off"])
def test_a_route_is_as_strict_as_it_says_whatever_holds_for_others(globally: str) -> None:
    text = f"[mta_sts]\nmode = '{globally}'\n[dane]\nmode = 'off'\n[[route]]\ndomains = ['x.test']\n"
    strict = plain.route_settings(parse(f"{text}mta_sts = 'mandatory'\ndane = 'mandatory'", base=BASE), {}).routes[0]
    assert strict.directions.judgement.enforcement is Enforcement.MANDATORY
    assert strict.directions.judgement.dane is DaneMode.MANDATORY
    plainly = plain.route_settings(parse(text, base=BASE), {}).routes[0]
    assert plainly.directions.judgement.enforcement is Enforcement(globally)
    assert plainly.directions.judgement.dane is DaneMode.OFF
