"""The address table, against what `ipaddress` thinks of the same addresses."""

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policy.address_guard import is_public

NOT_PUBLIC = [
    "0.0.0.0", "0.1.2.3", "10.0.0.1", "100.64.0.1", "127.0.0.1", "127.255.255.254", "169.254.169.254", "172.16.0.1",
    "172.31.255.255", "192.0.0.1", "192.0.2.1", "192.88.99.1", "192.168.1.1", "198.18.0.1", "198.19.255.255",
    "198.51.100.1", "203.0.113.1", "224.0.0.1", "239.255.255.255", "240.0.0.1", "255.255.255.255",
    "::", "::1", "::7f00:1", "::8.8.8.8", "::ffff:127.0.0.1", "::ffff:10.0.0.1", "::ffff:100.64.0.1",
    "64:ff9b::7f00:1", "64:ff9b::a00:1", "64:ff9b:1::808:808", "100::1", "2001::1", "2001:2::1", "2001:10::1",
    "2001:20::1", "2001:db8::1", "2002:7f00:1::", "2002:a00:1::1", "3fff::1", "5f00::1", "fc00::1", "fd00::1",
    "fe80::1", "fe80::1%eth0", "fec0::1", "ff02::1", "ff0e::1", "4000::1", "2600::1%eth0",
    "2600::5efe:127.0.0.1", "2600::200:5efe:10.0.0.1", "fe80::5efe:8.8.8.8",
    "2001:0:a00:1:0:0:f7f7:f7f7",  # Teredo with a private server
    "2001:0:808:808:0:0:80ff:fffe",  # Teredo with the client 127.0.0.1
]  # fmt: skip
PUBLIC = [
    "1.1.1.1", "8.8.8.8", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255",
    "172.15.255.255", "172.32.0.0", "192.0.1.0", "192.167.255.255", "198.17.255.255", "198.20.0.0", "223.255.255.255",
    "2600::1", "2a00:1450:4001::1", "::ffff:8.8.8.8", "64:ff9b::808:808", "2002:808:808::1", "2600::5efe:8.8.8.8",
    "2001:0:808:808:0:0:f7f7:f7f7",  # Teredo, server and client 8.8.8.8
    "2001:200::1", "2001:4860:4860::8888",
]  # fmt: skip


@pytest.mark.rfc("8461-3.3-w")
@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_l10_not_public(text: str) -> None:
    assert not is_public(ip_address(text))


@pytest.mark.parametrize("text", PUBLIC)
def test_public(text: str) -> None:
    assert is_public(ip_address(text))


@pytest.mark.stock
@pytest.mark.parametrize("text", ["64:ff9b::7f00:1", "2002:7f00:1::", "::7f00:1", "fec0::1", "224.0.0.1"])
def test_stock_l10_is_global_lets_these_pass(text: str) -> None:
    assert ip_address(text).is_global


@given(st.ip_addresses())
def test_nothing_that_the_standard_library_calls_private_is_public(address: object) -> None:
    text = str(address)
    if is_public(ip_address(text)) and ":" in text:
        assert not ip_address(text).is_link_local
        assert not ip_address(text).is_loopback
    elif is_public(ip_address(text)):
        assert ip_address(text).is_global
