"""The rules of DANE: what can be used, what counts, what matches, which names (RFC 7672, 7671, 6698)."""

from datetime import timedelta
from ipaddress import ip_address
from itertools import product

import pytest
from certs import CertificateAuthority
from hypothesis import given
from hypothesis import strategies as st
from policy_fakes import HOUR, NODATA, NXDOMAIN, SERVFAIL

from policy.answers import Absence, Absent, Answer, Found, MxRecord, TlsaRecord
from policy.dane import (
    MAX_RECORDS,
    base_domains,
    is_alias_of_insecure,
    is_mx_secure,
    is_usable,
    matches,
    names_one,
    reference_names,
    tlsa_name,
    usable,
)
from policy.der import public_key_of
from policy.names import IPAddress
from relay.lab.ca import tlsa_record

ISSUED = CertificateAuthority("Test").issue(["mx.x.test"])
OTHER = CertificateAuthority("Other").issue(["mx.x.test"])
KEY = public_key_of(ISSUED.der) or b""
MX = "mx.p.test"


def record(text: str) -> TlsaRecord:
    usage, selector, matching_type, data = text.split(" ")
    return TlsaRecord(
        usage=int(usage), selector=int(selector), matching_type=int(matching_type), data=bytes.fromhex(data)
    )


def tlsa(usage: int, selector: int, matching_type: int) -> TlsaRecord:
    return record(tlsa_record(usage, selector, matching_type, ISSUED.certificate))


def digest(usage: int, selector: int, matching_type: int, octet: int = 0) -> TlsaRecord:
    return record(f"{usage} {selector} {matching_type} {bytes([octet] * (32 * max(matching_type, 1))).hex()}")


@pytest.mark.rfc("6698-2-a", "6698-6-a", "7672-3.1.1-a")
@pytest.mark.parametrize(("usage", "selector", "matching_type"), list(product((2, 3), (0, 1), (0, 1, 2))))
def test_what_a_record_stands_for(usage: int, selector: int, matching_type: int) -> None:
    one = tlsa(usage, selector, matching_type)
    assert is_usable(one)
    assert matches(one, ISSUED.der)
    assert not matches(one, OTHER.der)
    assert not matches(one, b"junk")


@pytest.mark.rfc("6698-4.1-c", "7672-3.1.3-a", "6698-4.1-d")
@pytest.mark.parametrize(
    "unusable",
    [
        tlsa(0, 0, 1),
        tlsa(1, 1, 1),
        digest(4, 1, 1),
        digest(255, 1, 1),
        digest(3, 2, 1),
        digest(3, 255, 1),
        TlsaRecord(usage=3, selector=1, matching_type=3, data=bytes(48)),
        TlsaRecord(usage=3, selector=1, matching_type=255, data=bytes(32)),
        TlsaRecord(usage=3, selector=1, matching_type=1, data=b""),
        TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(31)),
        TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(33)),
        TlsaRecord(usage=3, selector=1, matching_type=2, data=bytes(32)),
        TlsaRecord(usage=3, selector=0, matching_type=0, data=b""),
        TlsaRecord(usage=3, selector=0, matching_type=0, data=b"junk"),
        TlsaRecord(usage=3, selector=0, matching_type=0, data=KEY),
        TlsaRecord(usage=3, selector=1, matching_type=0, data=ISSUED.der),
        TlsaRecord(usage=2, selector=1, matching_type=0, data=KEY + b"\0"),
        TlsaRecord(usage=2, selector=0, matching_type=0, data=ISSUED.der + b"\0"),
    ],
)
def test_what_is_unknown_or_malformed_is_unusable(unusable: TlsaRecord) -> None:
    good = digest(3, 1, 1)
    assert usable([unusable]) == ()
    assert usable([unusable, good]) == (good,)


FULL_KEY, SHA256, SHA512 = tlsa(3, 1, 0), digest(3, 1, 1), digest(3, 1, 2)


@pytest.mark.rfc("7672-5-a", "7671-9-a")
@pytest.mark.parametrize(
    ("published", "counting"),
    [
        ([SHA256], {SHA256}),
        ([SHA256, SHA512], {SHA512}),
        ([SHA256, SHA512, FULL_KEY], {SHA512, FULL_KEY}),
        ([SHA256, FULL_KEY], {SHA256, FULL_KEY}),
        ([SHA512, digest(3, 0, 1)], {SHA512, digest(3, 0, 1)}),
        ([SHA512, digest(2, 1, 1)], {SHA512, digest(2, 1, 1)}),
        # A digest that is not usable does not push out a weaker one.
        ([SHA256, TlsaRecord(usage=3, selector=1, matching_type=2, data=b"short")], {SHA256}),
        ([SHA256, digest(3, 1, 1, 1), digest(3, 1, 1, 1)], {SHA256, digest(3, 1, 1, 1)}),
        ([], set()),
    ],
)
def test_digest_agility(published: list[TlsaRecord], counting: set[TlsaRecord]) -> None:
    assert set(usable(published)) == counting
    assert len(usable(published)) == len(counting)


RECORDS = st.builds(
    TlsaRecord,
    usage=st.integers(0, 255) | st.sampled_from([2, 3]),
    selector=st.integers(0, 255) | st.sampled_from([0, 1]),
    matching_type=st.integers(0, 255) | st.sampled_from([0, 1, 2]),
    data=st.binary(max_size=80) | st.sampled_from([bytes(32), bytes(64), ISSUED.der, KEY]),
)


@given(st.lists(RECORDS, max_size=60))
def test_any_records_in_any_order_give_the_same_few(published: list[TlsaRecord]) -> None:
    counting = usable(published)
    assert usable(list(reversed(published))) == counting
    assert set(counting) <= set(published)
    assert len(counting) <= MAX_RECORDS
    assert bool(counting) is any(is_usable(one) for one in published)
    for one in counting:
        assert matches(one, ISSUED.der) in {True, False}


def test_of_an_endless_list_only_some_count_and_none_that_is_unusable() -> None:
    published = [digest(0, 0, 1, n) for n in range(200)] + [digest(3, 1, 1, n) for n in range(200)]
    assert usable(published) == tuple(digest(3, 1, 1, n) for n in range(MAX_RECORDS))


@pytest.mark.rfc("7672-2.2.3-a", "7672-2.2.3-b", "6698-3-a")
@pytest.mark.parametrize(
    ("base", "port", "name"),
    [
        (MX, 25, "_25._tcp.mx.p.test"),
        ("relay.test", 2525, "_2525._tcp.relay.test"),
        ("xn--bcher-kva.test", 25, "_25._tcp.xn--bcher-kva.test"),
    ],
)
def test_the_name_of_the_records(base: str, port: int, name: str) -> None:
    assert tlsa_name(base, port) == name


def addresses(canonical_name: str, *, authentic: bool) -> Found[IPAddress]:
    return Found(records=(ip_address("192.0.2.1"),), canonical_name=canonical_name, ttl=HOUR, authentic=authentic)


def cname(*, authentic: bool) -> Found[str]:
    return Found(records=("b.test",), canonical_name="a.test", ttl=HOUR, authentic=authentic)


@pytest.mark.rfc("7672-2.2.2-c", "7672-2.2.2-e", "7672-2.2.2-f", "7672-2.2.2-g", "7672-2.1.3-d", "7672-2.2.3-c")
@pytest.mark.parametrize(
    ("canonical_name", "authentic", "alias", "asks_for_alias", "bases"),
    [
        ("a.test", True, None, False, ("a.test",)),
        ("a.test", False, None, False, ()),
        ("c.test", True, None, False, ("c.test", "a.test")),
        ("c.test", False, cname(authentic=True), True, ("a.test",)),
        ("c.test", False, cname(authentic=False), True, ()),
        ("c.test", False, NODATA, True, ()),
        ("c.test", False, Absent(absence=Absence.NODATA, ttl=HOUR, authentic=True), True, ()),
    ],
)
def test_where_to_look(
    canonical_name: str, authentic: bool, alias: Answer[str] | None, asks_for_alias: bool, bases: tuple[str, ...]
) -> None:
    found = addresses(canonical_name, authentic=authentic)
    assert is_alias_of_insecure("a.test", found) is asks_for_alias
    assert base_domains("a.test", found, alias) == bases


def mx(*, authentic: bool, canonical_name: str = "x.test") -> Found[MxRecord]:
    records = (MxRecord(preference=10, host=MX),)
    return Found(records=records, canonical_name=canonical_name, ttl=HOUR, authentic=authentic)


SIGNED_NODATA = Absent(absence=Absence.NODATA, ttl=timedelta(0), authentic=True)


@pytest.mark.rfc(
    "7672-3.2.2-a", "7672-3.2.2-b", "7672-3.2.2-c", "7672-3.2.2-d", "7672-3.2.2-e", "7671-7-a", "7672-2.2.1-d",
    "7672-2.2.1-k", "7672-2.2.3-e",
)  # fmt: skip
@pytest.mark.parametrize(
    ("base", "host", "answer", "secure", "names"),
    [
        (MX, MX, mx(authentic=True), True, (MX, "x.test")),
        ("real.p.test", MX, mx(authentic=True), True, ("real.p.test", "x.test")),
        (MX, MX, mx(authentic=True, canonical_name="y.test"), True, (MX, "x.test", "y.test")),
        (MX, MX, mx(authentic=False, canonical_name="y.test"), False, (MX,)),
        ("x.test", "x.test", SIGNED_NODATA, True, ("x.test",)),
        ("y.test", "x.test", SIGNED_NODATA, True, ("y.test", "x.test")),
        ("x.test", "x.test", NODATA, False, ("x.test",)),
        (MX, MX, SERVFAIL, False, (MX,)),
        ("relay.test", "relay.test", None, True, ("relay.test",)),
        ("b.test", "relay.test", None, True, ("b.test", "relay.test")),
    ],
)
def test_reference_names(
    base: str, host: str, answer: Answer[MxRecord] | None, secure: bool, names: tuple[str, ...]
) -> None:
    assert reference_names(base, host, "x.test", answer) == names
    assert is_mx_secure(answer) is secure


@pytest.mark.rfc("7672-3.2.3-a", "7672-3.2.3-b", "7672-3.2.3-c")
@pytest.mark.parametrize(
    ("dns_ids", "common_name", "named"),
    [
        ([MX], "", True),
        ([MX.upper()], "", True),
        (["other.test", MX], "", True),
        (["x.test"], "", True),
        (["*.p.test"], "", True),
        (["*.test"], "", True),
        (["*.x.test"], "", False),
        (["*.a.p.test"], "", False),
        (["m*.p.test"], "", False),
        (["*x.p.test"], "", False),
        (["mx.*.test"], "", False),
        (["*"], "", False),
        (["mx.p.test.evil.test"], "", False),
        ([f"{MX}\0.evil.test"], "", False),
        ([], MX, True),
        ([], "*.p.test", True),
        ([], "", False),
        ([], "other.test", False),
        (["other.test"], MX, False),
    ],
)
def test_names(dns_ids: list[str], common_name: str, named: bool) -> None:
    assert names_one(dns_ids, common_name, (MX, "x.test")) is named


def test_a_wildcard_is_one_label() -> None:
    assert not names_one(["*.x.test"], "", ("a.b.x.test",))


def test_a_missing_answer_is_not_taken_for_an_alias() -> None:
    assert base_domains("a.test", addresses("c.test", authentic=False), NXDOMAIN) == ()
