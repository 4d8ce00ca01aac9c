"""From the MX answer to the hosts in order (RFC 5321 §5.1, RFC 7505), and what a next hop's URL may be."""

import random
from collections import Counter
from ipaddress import ip_address

import pytest
from delivery_fakes import found_addresses, found_mx
from policy_fakes import HOUR, NODATA, NXDOMAIN, SERVFAIL

from policy.answers import Answer, Found, MxRecord
from policy.names import IPAddress
from relay.delivery.mx_list import (
    MAX_ADDRESSES_OF_HOST,
    MAX_HOSTS,
    LocatedHost,
    MxHost,
    addresses,
    below_ourselves,
    mx_hosts,
)
from relay.queue.attempt import FailureKind, HostFailure

OURS = frozenset({"relay.example.com"})


def hosts(answer: Answer[MxRecord], draw: float = 0.0) -> list[str] | FailureKind:
    found = mx_hosts("example.test", answer, own_names=OURS, draw=lambda: draw)
    return found.kind if isinstance(found, HostFailure) else [mx.name for mx in found]


def records(*given: MxRecord) -> Found[MxRecord]:
    return Found(records=given, canonical_name="", ttl=HOUR)


@pytest.mark.rfc("5321-5.1-i", "5321-5.1-e", "7505-3-b", "5321-5.1-h", "5321-5.1-k")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (found_mx((20, "b.test"), (10, "a.test"), (30, "c.test")), ["a.test", "b.test", "c.test"]),
        (found_mx((20, "a.test"), (10, "a.test")), ["a.test"]),
        (NODATA, ["example.test"]),
        (NXDOMAIN, FailureKind.DOMAIN_ABSENT),
        (SERVFAIL, FailureKind.DNS_UNKNOWN),
        (found_mx((0, "")), FailureKind.NULL_MX),
        (found_mx((0, ""), (10, "a.test")), ["a.test"]),
        (found_mx((10, "a.test"), (20, "relay.example.com"), (20, "b.test"), (30, "c.test")), ["a.test"]),
        (found_mx((10, "relay.example.com"), (20, "b.test")), FailureKind.LOOP),
        (records(MxRecord(preference=0, host="", invalid="192.0.2.1")), FailureKind.NO_ADDRESS),
        (records(MxRecord(preference=0, host="", invalid="a b"), MxRecord(preference=1, host="a.test")), ["a.test"]),
        (records(MxRecord(preference=0, host="", invalid="a b"), MxRecord(preference=1, host="")), FailureKind.NULL_MX),
    ],
)
def test_rfc5321_s5_1_which_hosts_in_which_order(answer: Answer[MxRecord], expected: list[str] | FailureKind) -> None:
    assert hosts(answer) == expected


def test_a_domain_that_is_our_own_name_is_a_loop() -> None:
    found = mx_hosts("relay.example.com", NODATA, own_names=OURS, draw=lambda: 0.0)
    assert isinstance(found, HostFailure)
    assert found.kind is FailureKind.LOOP


def test_an_endless_list_is_cut() -> None:
    found = hosts(found_mx(*((n, f"mx{n}.test") for n in range(300))))
    assert found == [f"mx{n}.test" for n in range(MAX_HOSTS)]


@pytest.mark.rfc("5321-5.1-j")
def test_hosts_of_equal_preference_come_in_random_order() -> None:
    chance = random.Random(7)
    firsts: Counter[str] = Counter()
    for _ in range(400):
        found = mx_hosts(
            "example.test", found_mx((10, "a.test"), (10, "b.test"), (20, "c.test")), own_names=OURS, draw=chance.random
        )
        assert not isinstance(found, HostFailure)
        firsts[found[0].name] += 1
    assert firsts.keys() == {"a.test", "b.test"}
    assert min(firsts.values()) > 150


@pytest.mark.rfc("5321-5.1-h")
def test_an_address_of_ours_cuts_its_level_and_all_after_it() -> None:
    located = [
        LocatedHost(MxHost(10, "a.test"), found_addresses("198.41.0.1")),
        LocatedHost(MxHost(20, "b.test"), found_addresses("198.41.0.2")),
        LocatedHost(MxHost(20, "us.test"), found_addresses("198.41.0.3", "198.41.0.4")),
        LocatedHost(MxHost(30, "c.test"), SERVFAIL),
    ]
    assert [host.mx.name for host in below_ourselves(located, {ip_address("198.41.0.4")})] == ["a.test"]
    assert below_ourselves(located, set()) == tuple(located)


@pytest.mark.rfc("5321-5.1-p", "5321-5.1-m")
@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (found_addresses("10.0.0.1", "198.41.0.1"), ["198.41.0.1"]),
        (found_addresses("10.0.0.1"), FailureKind.ADDRESS_REFUSED),
        (found_addresses("2001:4860::1", "198.41.0.1"), ["2001:4860::1", "198.41.0.1"]),
        (found_addresses(*(f"198.41.0.{n}" for n in range(1, 200))), [f"198.41.0.{n}" for n in (1, 2, 3)]),
        (NODATA, FailureKind.NO_ADDRESS),
        (NXDOMAIN, FailureKind.NO_ADDRESS),
        (SERVFAIL, FailureKind.DNS_UNKNOWN),
    ],
)
def test_which_addresses_may_be_contacted(answer: Answer[IPAddress], expected: list[str] | FailureKind) -> None:
    found = addresses("a.test", answer, allowed=lambda address: not address.is_private)
    if isinstance(found, HostFailure):
        assert found.kind is expected
    else:
        assert [str(address) for address in found] == expected
        assert len(found) <= MAX_ADDRESSES_OF_HOST
