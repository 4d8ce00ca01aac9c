"""The policy file against the ABNF of RFC 8461 §3.2, and MX matching (§4.1)."""

import itertools
from datetime import timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.mta_sts import MAX_MAX_AGE, InvalidPolicyError, Mode, Policy, matches, parse_policy, render_policy

LINES = ["version: STSv1", "mode: enforce", "mx: mx.x.test", "mx: *.y.test", "max_age: 86400"]
WHOLE = "\n".join(LINES)


def meaning(policy: Policy) -> tuple[Mode, tuple[str, ...], int]:
    return policy.mode, policy.mx, int(policy.max_age.total_seconds())


EXPECTED = (Mode.ENFORCE, ("mx.x.test", "*.y.test"), 86400)


@pytest.mark.rfc("8461-3.2-e", "8461-3.2-h")
@pytest.mark.parametrize(
    "text",
    [
        "\n".join(LINES),
        "\n".join(LINES) + "\n",
        "\r\n".join(LINES),
        "\r\n".join(LINES) + "\r\n",
        "version: STSv1\r\nmode: enforce\nmx: mx.x.test\r\nmx: *.y.test\nmax_age: 86400",
        "version: STSv1\nmode: enforce\r\nmx: mx.x.test\nmx: *.y.test\r\nmax_age: 86400\n",
        "\n".join(LINES) + "\n\n\r\n \t\n",
    ],
)
def test_lines_end_with_lf_or_crlf_and_the_last_may_or_not(text: str) -> None:
    policy = parse_policy(text.encode())
    assert meaning(policy) == EXPECTED
    assert policy.text == text


@pytest.mark.rfc("8461-3.2-x")
def test_the_order_of_fields_is_free() -> None:
    for lines in itertools.permutations(["version: STSv1", "mode: enforce", "mx: mx.x.test", "max_age: 1"]):
        assert meaning(parse_policy("\n".join(lines).encode())) == (Mode.ENFORCE, ("mx.x.test",), 1)


def with_line(name: str, line: str) -> str:
    """The whole policy with the line of that name replaced; all lines of mx count as one."""
    kept = [old for old in LINES if not old.startswith(f"{name}:")]
    return "\n".join([*kept, line])


@pytest.mark.rfc("8461-3.2-g", "8461-3.2-i", "8461-3.2-l", "8461-3.2-m", "8461-3.2-o", "8461-3.2-v", "8461-3.2-w")
@pytest.mark.parametrize(
    ("name", "line", "expected"),
    [
        ("mode", "mode: enforce  \t", (Mode.ENFORCE, EXPECTED[1], 86400)),
        ("mode", "mode:enforce", (Mode.ENFORCE, EXPECTED[1], 86400)),
        ("mode", "mode:\t enforce", (Mode.ENFORCE, EXPECTED[1], 86400)),
        ("mode", "mode: testing", (Mode.TESTING, EXPECTED[1], 86400)),
        ("mode", "mode: none", (Mode.NONE, EXPECTED[1], 86400)),
        ("mode", "mode: enforce\nmode: none", (Mode.ENFORCE, EXPECTED[1], 86400)),
        ("mode", "mode: testing\nmode: bogus", (Mode.TESTING, EXPECTED[1], 86400)),
        ("version", "version: STSv1\nversion: STSv2", EXPECTED),
        ("max_age", "max_age: 0", (Mode.ENFORCE, EXPECTED[1], 0)),
        ("max_age", "max_age: 0000000060", (Mode.ENFORCE, EXPECTED[1], 60)),
        ("max_age", "max_age: 31557600", (Mode.ENFORCE, EXPECTED[1], 31557600)),
        ("max_age", "max_age: 60\nmax_age: 0", (Mode.ENFORCE, EXPECTED[1], 60)),
        ("max_age", "max_age: 60\nmax_age: never", (Mode.ENFORCE, EXPECTED[1], 60)),
        ("mx", "mx: MX.X.Test", (Mode.ENFORCE, ("mx.x.test",), 86400)),
        ("mx", "mx: 192.0.2.1", (Mode.ENFORCE, ("192.0.2.1",), 86400)),
    ],
)
def test_what_fields_may_be(name: str, line: str, expected: tuple[Mode, tuple[str, ...], int]) -> None:
    assert meaning(parse_policy(with_line(name, line).encode())) == expected


@pytest.mark.rfc("8461-3.2-n")
@pytest.mark.parametrize("digits", ["31557601", "999999999", "9999999999"])
def test_a_max_age_above_the_maximum_is_cut_to_it(digits: str) -> None:
    assert parse_policy(with_line("max_age", f"max_age: {digits}").encode()).max_age == MAX_MAX_AGE
    assert timedelta(seconds=31557600) == MAX_MAX_AGE


@pytest.mark.rfc("8461-3.2-q", "8461-8.3-a")
def test_only_mode_none_needs_no_mx() -> None:
    policy = parse_policy(b"version: STSv1\nmode: none\nmax_age: 60\n")
    assert meaning(policy) == (Mode.NONE, (), 60)
    for mode in ("enforce", "testing"):
        with pytest.raises(InvalidPolicyError, match=f"mode {mode} needs a valid mx"):
            parse_policy(f"version: STSv1\nmode: {mode}\nmax_age: 60\n".encode())


@pytest.mark.rfc("8461-3.2-f", "8461-3.2-g", "8461-3.2-h", "8461-3.2-i", "8461-3.2-u", "8461-3.2-y")
@pytest.mark.parametrize(
    ("line", "shown"),
    [
        (" mode: enforce", "line 6 is not a field: ' mode: enforce'"),
        ("\tfolded", r"line 6 is not a field: '\tfolded'"),
        ("mode : enforce", "line 6 is not a field: 'mode : enforce'"),
        ("hello", "line 6 is not a field: 'hello'"),
        ("foo:", "line 6 is not a field: 'foo:'"),
        ("foo: ", "line 6 is not a field: 'foo: '"),
        (": bar", "line 6 is not a field: ': bar'"),
        ("_foo: bar", "line 6 is not a field: '_foo: bar'"),
        ("n" * 33 + ": bar", "line 6 is not a field: "),
        ("foo: a\x01b", r"line 6 is not a field: 'foo: a\x01b'"),
        ("foo: a\tb", r"line 6 is not a field: 'foo: a\tb'"),
        ("foo: a\x7f", r"line 6 is not a field: 'foo: a\x7f'"),
        ("foo: a\x00", r"line 6 is not a field: 'foo: a\x00'"),
        ("foo: a\rmode: none", r"line 6 is not a field: 'foo: a\rmode: none'"),
        ("foo: a\r\r", r"line 6 is not a field: 'foo: a\r'"),
        ("# comment", "line 6 is not a field: '# comment'"),
        ("\nfoo: bar", "line 6 is not a field: ''"),
    ],
)
def test_a_line_that_is_no_field_makes_the_policy_invalid(line: str, shown: str) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        parse_policy(f"{WHOLE}\n{line}\nlast: line\n".encode())
    assert caught.value.reason.startswith(shown)


@pytest.mark.rfc("8461-3.2-f", "8461-3.2-h", "8461-3.2-aa", "8461-3.2-z")
@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"\n",
        b"\n" + WHOLE.encode(),
        WHOLE.replace("\n", "\r").encode(),
        WHOLE.encode() + b"\r",
        b"\xef\xbb\xbf" + WHOLE.encode(),
        WHOLE.encode("utf-16"),
        WHOLE.encode() + b"\nfoo: \xff",
        WHOLE.encode() + b"\nfoo: \xed\xa0\x80",
        WHOLE.encode() + b"\nfoo: \xc0\x80",
        b"<html><body>Not found</body></html>",
    ],
)
def test_bodies_that_are_no_policy(body: bytes) -> None:
    with pytest.raises(InvalidPolicyError):
        parse_policy(body)


@pytest.mark.rfc("8461-3.2-e", "8461-3.2-u")
@pytest.mark.parametrize("terminator", ["\x85", "\u2028", "\u2029"])
def test_unicode_line_ends_end_no_line(terminator: str) -> None:
    policy = parse_policy(f"{WHOLE}\nfoo: a{terminator}mode: none".encode())
    assert policy.mode is Mode.ENFORCE
    with pytest.raises(InvalidPolicyError, match="mode is not"):
        parse_policy(with_line("mode", f"mode: testing{terminator}mode: enforce").encode())


@pytest.mark.rfc("8461-3.2-f")
@pytest.mark.parametrize("terminator", ["\x0b", "\x0c", "\x1c", "\x1d", "\x1e", "\r"])
def test_control_characters_end_no_line_and_are_refused(terminator: str) -> None:
    with pytest.raises(InvalidPolicyError):
        parse_policy(WHOLE.replace("\n", terminator).encode())


@pytest.mark.stock
def test_stock_l11_splitlines_lets_a_policy_grow_lines() -> None:
    assert len("foo: a\x1cmode: none\x85x\u2028y".splitlines()) == 4


@pytest.mark.rfc("8461-3.2-j", "8461-3.2-k", "8461-3.2-l", "8461-3.2-m", "8461-3.2-ae")
@pytest.mark.parametrize(
    ("name", "line", "reason"),
    [
        ("version", "", "there is no version"),
        ("version", "Version: STSv1", "there is no version"),
        ("version", "version: STSv2", "the version is not STSv1: 'STSv2'"),
        ("version", "version: stsv1", "the version is not STSv1: 'stsv1'"),
        ("version", "version: STSv2\nversion: STSv1", "the version is not STSv1: 'STSv2'"),
        ("mode", "", "there is no mode"),
        ("mode", "Mode: enforce", "there is no mode"),
        ("mode", "mode: Enforce", "the mode is not enforce, testing or none: 'Enforce'"),
        ("mode", "mode: report", "the mode is not enforce, testing or none: 'report'"),
        ("mode", "mode: bogus\nmode: enforce", "the mode is not enforce, testing or none: 'bogus'"),
        ("max_age", "", "there is no max_age"),
        ("max_age", "Max_Age: 1", "there is no max_age"),
        ("max_age", "max_age: -1", "the max_age is not 1 to 10 digits: '-1'"),
        ("max_age", "max_age: +1", "the max_age is not 1 to 10 digits: '+1'"),
        ("max_age", "max_age: 1.5", "the max_age is not 1 to 10 digits: '1.5'"),
        ("max_age", "max_age: 1d", "the max_age is not 1 to 10 digits: '1d'"),
        ("max_age", "max_age: 1e9", "the max_age is not 1 to 10 digits: '1e9'"),
        ("max_age", "max_age: 1_0", "the max_age is not 1 to 10 digits: '1_0'"),
        ("max_age", "max_age: 1 0", "the max_age is not 1 to 10 digits: '1 0'"),
        ("max_age", "max_age: 12345678901", "the max_age is not 1 to 10 digits: '12345678901'"),
        ("max_age", "max_age: \u0661", r"the max_age is not 1 to 10 digits: '\xd9\xa1'"),
        ("max_age", "max_age: bad\nmax_age: 60", "the max_age is not 1 to 10 digits: 'bad'"),
        ("mx", "MX: mx.x.test", "mode enforce needs a valid mx"),
    ],
)
def test_required_fields(name: str, line: str, reason: str) -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        parse_policy(with_line(name, line).encode())
    assert caught.value.reason == reason


@pytest.mark.stock
@pytest.mark.parametrize("text", ["+25", " 25", "2_5", "\u0662\u0665"])
def test_stock_l12_int_takes_what_is_not_digits(text: str) -> None:
    assert int(text) == 25


BAD_PATTERNS = [
    "*", "*.", ".", "*.*.x.test", "mail.*.test", "m*.test", "*x.test", "**.x.test", ".x.test", "mx.test.", "mx..test",
    "[192.0.2.1]", "2001:db8::1", "mx_1.test", "-mx.test", "mx-.test", "a" * 64 + ".test", "a.test, b.test",
    "a.test b.test", "https://mx.test/", "user@mx.test", "b\u00fccher.test", "mx.test:25", "\u212aelvin.test",
    ".".join(["a" * 60] * 5),
]  # fmt: skip


@pytest.mark.rfc("8461-3.2-r", "8461-3.2-s", "8461-3.2-t", "8461-3.2-ae")
@pytest.mark.parametrize("pattern", BAD_PATTERNS)
def test_a_bad_pattern_never_matches_and_alone_is_invalid(pattern: str) -> None:
    with pytest.raises(InvalidPolicyError, match="mode enforce needs a valid mx: "):
        parse_policy(with_line("mx", f"mx: {pattern}").encode())
    beside = parse_policy(f"{WHOLE}\nmx: {pattern}\n".encode())
    assert meaning(beside) == EXPECTED


def test_a_policy_of_a_thousand_patterns_is_read() -> None:
    lines = "\n".join(f"mx: mx{number}.x.test" for number in range(1000))
    assert len(parse_policy(f"{WHOLE}\n{lines}".encode()).mx) == 1002


def test_the_text_is_kept_as_it_was_served() -> None:
    text = "mode: enforce \r\nversion: STSv1\nmx: MX.x.test\nmx: a b\nfoo: b\u00e4r baz\nmax_age: 60\nmode: none\n\n"
    policy = parse_policy(text.encode())
    assert policy.text == text
    assert policy.mx == ("mx.x.test",)


def test_a_hostile_value_is_shown_short_and_escaped() -> None:
    with pytest.raises(InvalidPolicyError) as caught:
        parse_policy(with_line("mode", "mode: \u202e" + "x" * 1000).encode())
    assert len(caught.value.reason) < 150
    assert caught.value.reason.isascii()
    assert caught.value.reason.endswith("...")


@given(st.binary(max_size=300) | st.text(max_size=300).map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_no_body_raises_anything_but_its_own_error(body: bytes) -> None:
    try:
        policy = parse_policy(body)
    except InvalidPolicyError as error:
        assert error.reason.isprintable()  # noqa: PT017  most bodies raise, not all
    else:
        assert policy.text.encode() == body


FIELDS = st.sampled_from([*LINES, "mode: none", "mx: *", "max_age: 5", "foo: bar", "", " ", "version: STSv2", "x"])


@given(st.lists(FIELDS, max_size=8), st.sampled_from(["\n", "\r\n", "\r"]))
def test_almost_policies_raise_nothing_but_their_own_error(lines: list[str], end: str) -> None:
    body = end.join(lines).encode()
    try:
        policy = parse_policy(body)
    except InvalidPolicyError:
        return
    assert meaning(parse_policy(render_policy(policy).encode())) == meaning(policy)


LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
NAMES = st.lists(LABELS, min_size=1, max_size=4).map(".".join)
PATTERNS = st.builds(lambda wild, name: wild + name, st.sampled_from(["", "*."]), NAMES)


@given(
    st.sampled_from(Mode),
    st.lists(PATTERNS, min_size=1, max_size=5).map(tuple),
    st.integers(0, 31557600).map(lambda seconds: timedelta(seconds=seconds)),
)
def test_rendered_policies_read_back_the_same(mode: Mode, mx: tuple[str, ...], max_age: timedelta) -> None:
    policy = Policy(mode=mode, mx=mx, max_age=max_age, text="")
    text = render_policy(policy)
    assert parse_policy(text.encode()) == Policy(mode=mode, mx=mx, max_age=max_age, text=text)


@pytest.mark.rfc("8461-4.1-b", "8461-4.1-c", "8461-4.1-d", "8461-4.1-e", "8461-10.4-a", "9525-6.3-a")
@pytest.mark.parametrize(
    ("host", "patterns", "expected"),
    [
        ("mx.x.test", ["mx.x.test"], True),
        ("MX.X.Test", ["mx.x.test"], True),
        ("mx.x.test", ["MX.X.TEST"], True),
        ("mx.x.test.", ["mx.x.test"], True),
        ("mx.x.test..", ["mx.x.test"], False),
        ("mail.x.test", ["*.x.test"], True),
        ("mail.x.test.", ["*.x.test"], True),
        ("x.test", ["*.x.test"], False),
        ("a.b.x.test", ["*.x.test"], False),
        ("evilx.test", ["*.x.test"], False),
        (".x.test", ["*.x.test"], False),
        ("c.test", ["a.test", "b.test", "c.test"], True),
        ("c.test", ["c.test", "a.test"], True),
        ("d.test", ["a.test", "b.test"], False),
        ("x.test", ["x.test"], True),
        ("test", ["*.test"], False),
        ("x.test", ["*.test"], True),
        ("mx.x.test", [], False),
        ("", [""], False),
        ("", ["*."], False),
        ("mx", ["*."], False),
        ("*.x.test", ["*.x.test"], False),
        ("[192.0.2.1]", ["[192.0.2.1]"], False),
        ("mx.x.test", ["mx.x.*"], False),
        ("mx.x.test", ["m?.x.test"], False),
        ("mx.x.test", ["*"], False),
        ("mx.x.test", ["*.*.test"], False),
        ("\u212aelvin.test", ["kelvin.test"], False),
        ("kelvin.test", ["\u212aelvin.test"], False),
        ("mx\x00.x.test", ["mx.x.test"], False),
        ("xn--bcher-kva.test", ["xn--bcher-kva.test"], True),
        ("mx_1.x.test", ["*.x.test"], True),
    ],
)
def test_rfc8461_s4_1_matching(host: str, patterns: list[str], expected: bool) -> None:
    assert matches(host, patterns) is expected


@given(st.text(max_size=20), st.lists(st.text(max_size=20), max_size=3))
def test_matching_never_raises(host: str, patterns: list[str]) -> None:
    assert matches(host, patterns) in {True, False}


@given(NAMES, PATTERNS)
def test_a_wildcard_takes_exactly_one_label(name: str, pattern: str) -> None:
    first, _, rest = name.partition(".")
    expected = name == pattern or (bool(first and rest) and pattern == f"*.{rest}")
    assert matches(name, [pattern]) is expected
