"""Names in canonical form, and address literals."""

from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.names import InvalidNameError, parse_address_literal, to_domain, to_host


@pytest.mark.rfc("8461-3.4-h", "8461-3.1-a")
@pytest.mark.parametrize(
    ("text", "domain"),
    [
        ("x.test", "x.test"),
        ("X.Test", "x.test"),
        ("x.test.", "x.test"),
        ("bücher.test", "xn--bcher-kva.test"),
        ("BÜCHER.test", "xn--bcher-kva.test"),
        ("faß.test", "xn--fa-hia.test"),
        ("x。test", "x.test"),
        ("ｘ.test", "x.test"),
        ("xn--bcher-kva.test", "xn--bcher-kva.test"),
        ("test", "test"),
        ("a" * 63 + ".test", "a" * 63 + ".test"),
        ("1.2.3.x4", "1.2.3.x4"),
    ],
)
def test_one_domain_has_one_form(text: str, domain: str) -> None:
    assert to_domain(text) == domain


@pytest.mark.parametrize(
    "text",
    [
        "", ".", "x..test", ".x.test", "x.test..", "-x.test", "x-.test", "a" * 64 + ".test", "x_y.test", "x y.test",
        "x\x00.test", "x.test\n", "[192.0.2.1]", "192.0.2.1", "x.123", "*.x.test", "℀.test", "a@b.test", "x/y.test",
        "\u202ex.test", "xn--é.test", "\ud800.test", ".".join(["a" * 60] * 5), "ü" * 64 + ".test",
    ],
)  # fmt: skip
def test_what_is_no_domain_is_refused(text: str) -> None:
    with pytest.raises(InvalidNameError):
        to_domain(text)


def test_a_host_may_carry_underscores_and_a_domain_may_not() -> None:
    assert to_host("MX_1.x.test.") == "mx_1.x.test"
    with pytest.raises(InvalidNameError):
        to_domain("mx_1.x.test")


@pytest.mark.stock
def test_stock_l13_idna_codec_is_another_mapping() -> None:
    assert "faß.test".encode("idna") == b"fass.test"
    assert "℀.test".encode("idna") == b"a/c.test"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("[192.0.2.1]", IPv4Address("192.0.2.1")),
        ("[IPv6:2001:db8::1]", IPv6Address("2001:db8::1")),
        ("[ipv6:2001:db8::1]", IPv6Address("2001:db8::1")),
        ("[IPv6:fe80::1%eth0]", None),
        ("[2001:db8::1]", None),
        ("[192.0.2.256]", None),
        ("[x.test]", None),
        ("[]", None),
        ("192.0.2.1", None),
        ("[192.0.2.1", None),
        ("192.0.2.1]", None),
    ],
)
@pytest.mark.rfc("8461-3.4-c")
def test_address_literals(text: str, address: IPv4Address | IPv6Address | None) -> None:
    assert parse_address_literal(text) == address


@given(st.text(max_size=80))
def test_names_raise_nothing_else_and_are_their_own_canonical_form(text: str) -> None:
    try:
        domain = to_domain(text)
    except InvalidNameError:
        return
    assert to_domain(domain) == domain == to_host(domain)
    assert domain.isascii()
