"""The few steps of DER that TLSA needs, against a real parser and against hostile octets."""

import warnings

import pytest
from certs import CertificateAuthority
from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from policy.der import is_public_key, public_key_of

ISSUED = CertificateAuthority("Test").issue(["mx.x.test"])
KEY = ISSUED.certificate.public_key().public_bytes(
    serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
)


def test_the_key_is_cut_out_as_it_stands() -> None:
    assert public_key_of(ISSUED.der) == KEY


@pytest.mark.parametrize(
    "key",
    [
        ec.generate_private_key(ec.SECP384R1()),
        ed25519.Ed25519PrivateKey.generate(),
        rsa.generate_private_key(65537, 2048),
    ],
    ids=["ecdsa", "ed25519", "rsa"],
)
def test_keys_of_all_kinds_are_keys(
    key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey,
) -> None:
    der = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert is_public_key(der)
    assert not is_public_key(der[:-1])
    assert not is_public_key(der + b"\0")


NOTHING = [
    b"",
    b"\x30",
    b"\x30\x00",
    b"\x30\x80\x00\x00",
    b"\x30\x84\xff\xff\xff\xff",
    b"\x30\x82\x00",
    b"junk",
    bytes(70_000),
]


NO_CERTIFICATES = [*NOTHING, KEY, ISSUED.der[:-1], ISSUED.der + b"\0", ISSUED.der * 2]
NO_KEYS = [*NOTHING, ISSUED.der, KEY[:-1], KEY + b"\0"]


# By number: their octets are others in each process that collects these tests.
@pytest.mark.parametrize("der", NO_CERTIFICATES, ids=map(str, range(len(NO_CERTIFICATES))))
def test_what_is_no_certificate_has_no_key(der: bytes) -> None:
    assert public_key_of(der) is None


@pytest.mark.parametrize("der", NO_KEYS, ids=map(str, range(len(NO_KEYS))))
def test_what_is_no_key_is_none(der: bytes) -> None:
    assert not is_public_key(der)


def sequence(*elements: bytes) -> bytes:
    content = b"".join(elements)
    return b"\x30\x82" + len(content).to_bytes(2, "big") + content


EMPTY, NUMBER, BITS = sequence(), b"\x02\x01\x01", b"\x03\x01\x00"


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ([NUMBER, *[EMPTY] * 4, KEY], True),  # version 1 says no version
        ([b"\xa0\x03" + NUMBER, NUMBER, *[EMPTY] * 4, KEY], True),
        ([b"\xa0\x03" + NUMBER, NUMBER, *[EMPTY] * 4, KEY, b"\xa3\x00"], True),
        ([NUMBER, *[EMPTY] * 5], False),
        ([NUMBER, *[EMPTY] * 4], False),
        ([EMPTY, *[EMPTY] * 4, KEY], False),
        ([], False),
    ],
)
def test_the_sixth_field_is_the_key(fields: list[bytes], found: bool) -> None:
    certificate = sequence(sequence(*fields), EMPTY, BITS)
    assert public_key_of(certificate) == (KEY if found else None)


@given(st.binary(max_size=300))
def test_any_octets_raise_nothing(octets: bytes) -> None:
    assert public_key_of(octets) is None
    is_public_key(octets)


@given(st.lists(st.tuples(st.integers(0, len(ISSUED.der) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_where_a_mangled_certificate_can_still_be_read_its_key_is_found(changes: list[tuple[int, int]]) -> None:
    der = bytearray(ISSUED.der)
    for at, octet in changes:
        der[at] = octet
    key = public_key_of(bytes(der))
    assert key is None or key in der
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            x509.load_der_x509_certificate(bytes(der)).public_key()
        except (ValueError, TypeError, UnsupportedAlgorithm, x509.InvalidVersion):
            return
    assert key is not None
