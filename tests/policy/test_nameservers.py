"""Which name servers to ask, and whose AD bit counts."""

import pytest

from policy.nameservers import NameServer, TrustAd, believes_ad, parse_nameserver


@pytest.mark.parametrize(
    ("text", "address", "port"),
    [
        ("192.0.2.1", "192.0.2.1", 53),
        ("127.0.0.1:5353", "127.0.0.1", 5353),
        ("2001:db8::1", "2001:db8::1", 53),
        ("::1", "::1", 53),
        ("[::1]", "::1", 53),
        ("[2001:DB8::1]:5353", "2001:db8::1", 5353),
        ("::ffff:192.0.2.1", "::ffff:c000:201", 53),
    ],
)
def test_name_servers_are_written_as_addresses(text: str, address: str, port: int) -> None:
    assert parse_nameserver(text) == NameServer(address=address, port=port)


@pytest.mark.parametrize(
    "text",
    ["", "x.test", "192.0.2.1:", "192.0.2.1:0", "192.0.2.1:65536", "192.0.2", "[::1", "::1]:53", "[192.0.2.1]:+5",
     "192.0.2.1 ", "[::1]:\u0665", "1:2:3"],
)  # fmt: skip
def test_anything_else_is_refused(text: str) -> None:
    with pytest.raises(ValueError):
        parse_nameserver(text)


@pytest.mark.parametrize(
    ("trust_ad", "addresses", "believed"),
    [
        (TrustAd.AUTO, ["127.0.0.1"], True),
        (TrustAd.AUTO, ["127.0.0.53", "::1"], True),
        (TrustAd.AUTO, ["192.0.2.1"], False),
        (TrustAd.AUTO, ["127.0.0.1", "192.0.2.1"], False),
        (TrustAd.YES, ["192.0.2.1"], True),
        (TrustAd.NO, ["127.0.0.1"], False),
    ],
)
def test_ad_counts_from_loopback_or_when_told_so(trust_ad: TrustAd, addresses: list[str], believed: bool) -> None:
    assert believes_ad(trust_ad, [NameServer(address=address) for address in addresses]) is believed
