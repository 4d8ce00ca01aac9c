"""Who may relay, and how much."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest

from relay.ingress.access import AccessRule, Identity, client_address, client_key
from relay.ingress.limits import AuthBackOff, ConnectionCount, KnownRoom, MemoryBudget, MessageRate
from relay.ingress.paths import NULL_PATH, Path
from relay.ingress.settings import AccessSettings, ListenerSettings, TlsMode

NOW = datetime(2026, 1, 1, tzinfo=UTC)
FINGERPRINT = "ab" * 32
COLONS = ":".join(["AB"] * 32)


def who(address: str = "192.0.2.1", **known: object) -> Identity:
    return Identity(address=ipaddress.ip_address(address), **known)  # type: ignore[arg-type]


@pytest.mark.rfc("5321-7.9-a")
@pytest.mark.parametrize(
    ("settings", "client", "admitted"),
    [
        (AccessSettings(), who("127.0.0.1"), True),
        (AccessSettings(), who("127.255.0.9"), True),
        (AccessSettings(), who("::1"), True),
        (AccessSettings(), who("192.0.2.1"), False),
        (AccessSettings(), who("10.0.0.1"), False),
        (AccessSettings(), who("192.168.1.1"), False),
        (AccessSettings(), who("fe80::1"), False),
        (AccessSettings(networks=()), who("127.0.0.1"), False),
        (AccessSettings(networks=(ipaddress.ip_network("192.0.2.0/24"),)), who("192.0.2.255"), True),
        (AccessSettings(networks=(ipaddress.ip_network("192.0.2.0/24"),)), who("192.0.3.0"), False),
        (AccessSettings(), who(user="alice"), True),
        (AccessSettings(certificates=(FINGERPRINT,)), who(fingerprint=FINGERPRINT), True),
        (AccessSettings(certificates=(COLONS,)), who(fingerprint=FINGERPRINT), True),
        (AccessSettings(certificates=(FINGERPRINT,)), who(fingerprint="cd" * 32), False),
        (AccessSettings(certificates=("MX.Example.com",)), who(dns_names=frozenset({"mx.example.com"})), True),
        (AccessSettings(certificates=("example.com",)), who(dns_names=frozenset({"mx.example.com"})), False),
        (AccessSettings(), who(fingerprint=FINGERPRINT, dns_names=frozenset({"mx.example.com"})), False),
    ],
)
def test_who_is_admitted(settings: AccessSettings, client: Identity, admitted: bool) -> None:
    assert AccessRule(settings).admits(client) is admitted


@pytest.mark.parametrize(
    ("domains", "path", "allowed"),
    [
        ((), Path("a@any.test", "any.test"), True),
        (("a.test",), Path("a@a.test", "a.test"), True),
        (("a.test",), Path("a@b.test", "b.test"), False),
        (("a.test",), Path("a@x.a.test", "x.a.test"), False),
        (("*.a.test",), Path("a@x.y.a.test", "x.y.a.test"), True),
        (("*.a.test",), Path("a@a.test", "a.test"), False),
        (("*.a.test",), Path("a@xa.test", "xa.test"), False),
        (("a.test",), Path("a@[192.0.2.1]", "[192.0.2.1]"), False),
        (("a.test",), NULL_PATH, True),
    ],
)
def test_sender_domains_leave_the_null_path_alone(domains: tuple[str, ...], path: Path, allowed: bool) -> None:
    assert AccessRule(AccessSettings(sender_domains=domains)).allows_sender(path) is allowed


def test_addresses_are_what_they_mean() -> None:
    assert client_address("::ffff:192.0.2.1") == ipaddress.ip_address("192.0.2.1")
    assert client_address("fe80::1%eth0") == ipaddress.ip_address("fe80::1")
    assert client_key(client_address("192.0.2.1")) == "192.0.2.1"
    assert client_key(client_address("2001:db8::1")) == client_key(client_address("2001:db8::ffff"))
    assert client_key(client_address("2001:db8::1")) != client_key(client_address("2001:db8:0:1::1"))


def test_connections_are_counted_in_all_and_per_client() -> None:
    count = ConnectionCount(most=3, most_per_client=2)
    assert [count.enter() and count.enter_client("a") for _ in range(2)] == [True, True]
    assert count.enter()
    assert not count.enter_client("a")
    assert not count.enter(), "the refused one is counted until it is gone"
    count.leave(None)
    assert count.enter()
    assert count.enter_client("b")
    count.leave("a")
    count.leave("b")
    count.leave("a")
    assert count.open == 0
    assert count.enter()
    assert count.enter_client("a")


def test_messages_are_counted_by_the_minute() -> None:
    rate = MessageRate(2)
    assert [rate.admit("a", NOW) for _ in range(3)] == [True, True, False]
    assert rate.admit("b", NOW)
    assert rate.admit("a", NOW + timedelta(minutes=1))
    assert all(MessageRate(0).admit("a", NOW) for _ in range(100))


def test_memory_budget() -> None:
    budget = MemoryBudget(10)
    assert budget.take(10)
    assert not budget.take(1)
    budget.give_back(4)
    assert budget.take(4)
    assert budget.used == 10


def test_known_room_lasts_a_second_for_what_is_no_larger() -> None:
    room = KnownRoom()
    assert not room.covers(0, NOW)
    room.found(10, NOW)
    assert room.covers(0, NOW)
    assert room.covers(10, NOW + timedelta(seconds=0.9))
    assert not room.covers(11, NOW)
    assert not room.covers(10, NOW + timedelta(seconds=1))
    assert not room.covers(10, NOW - timedelta(seconds=1)), "the clock may be set back"


def test_each_failed_try_doubles_the_wait() -> None:
    back_off = AuthBackOff()
    for _ in range(3):
        assert not back_off.blocked("a", NOW)
        back_off.failed("a", NOW)
    assert back_off.blocked("a", NOW)
    assert not back_off.blocked("b", NOW)
    assert not back_off.blocked("a", NOW + timedelta(seconds=1))
    back_off.failed("a", NOW)
    assert back_off.blocked("a", NOW + timedelta(seconds=1))
    for _ in range(50):
        back_off.failed("a", NOW)
    assert back_off.blocked("a", NOW + timedelta(minutes=14))
    assert not back_off.blocked("a", NOW + timedelta(minutes=15))
    back_off.succeeded("a")
    assert not back_off.blocked("a", NOW)


def test_back_off_forgets_after_an_hour_and_is_bounded() -> None:
    back_off = AuthBackOff()
    for _ in range(3):
        back_off.failed("a", NOW)
    back_off.failed("a", NOW + timedelta(hours=2))
    assert not back_off.blocked("a", NOW + timedelta(hours=2))
    for number in range(10_100):
        back_off.failed(str(number), NOW)
    assert len(back_off._failures) == 10_000


@pytest.mark.parametrize(
    ("address", "host_port"),
    [("127.0.0.1:25", ("127.0.0.1", 25)), ("[::1]:2525", ("::1", 2525)), ("localhost:0", ("localhost", 0))],
)
def test_listener_address(address: str, host_port: tuple[str, int]) -> None:
    assert ListenerSettings(address=address).host_port == host_port


@pytest.mark.parametrize("address", ["", "25", "127.0.0.1", "::1:25", "127.0.0.1:65536", "127.0.0.1:+25", "[::1]"])
def test_bad_listener_address(address: str) -> None:
    with pytest.raises(ValueError, match="host:port"):
        ListenerSettings(address=address)


def test_impossible_listeners_are_refused() -> None:
    with pytest.raises(ValueError, match="needs a certificate"):
        ListenerSettings(address="127.0.0.1:25", tls=TlsMode.STARTTLS)
