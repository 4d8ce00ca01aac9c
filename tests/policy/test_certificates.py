"""Certificates in an operator's words; hostile ones too."""

from datetime import datetime, timedelta

import pytest
from certs import CertificateAuthority
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from policy.certificates import MAX_NAMES, describe_certificate, fault_in_chain, is_signed_by, presented_names
from policy.der import public_key_of
from policy.tls import _leaf

CA = CertificateAuthority("Test, Inc.")
ISSUED = CA.issue(["mx.x.test", "*.y.test"], common_name="mx")


def test_the_facts_of_a_certificate() -> None:
    facts = describe_certificate(ISSUED.der)
    assert facts is not None
    assert facts.names == ("mx.x.test", "*.y.test")
    assert facts.subject == "CN=mx"
    assert facts.issuer == r"CN=Test\, Inc."
    assert facts.not_before == ISSUED.certificate.not_valid_before_utc
    assert facts.not_after == ISSUED.certificate.not_valid_after_utc
    assert facts.sha256 == ISSUED.certificate.fingerprint(hashes.SHA256()).hex()


def test_a_certificate_without_names() -> None:
    facts = describe_certificate(CA.issue([], common_name="only").der)
    assert facts is not None
    assert facts.names == ()


def test_texts_are_cleaned_and_bounded() -> None:
    hostile = CA.issue([f"a{n}.test" for n in range(1000)] + ["x"], common_name="a\r\nInjected: \x1b[31m\u202e")
    facts = describe_certificate(hostile.der)
    assert facts is not None
    assert len(facts.names) == MAX_NAMES
    assert facts.subject.isascii()
    assert facts.subject.isprintable()


@pytest.mark.parametrize("der", [b"", b"\x30", b"junk", b"\x30\x80" * 100, bytes(70_000), ISSUED.der[:-1]])
def test_what_is_no_certificate_is_none(der: bytes) -> None:
    assert describe_certificate(der) is None


@given(st.lists(st.tuples(st.integers(0, len(ISSUED.der) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_a_mangled_certificate_raises_nothing(changes: list[tuple[int, int]]) -> None:
    der = bytearray(ISSUED.der)
    for at, octet in changes:
        der[at] = octet
    facts = describe_certificate(bytes(der))
    if facts is not None:
        assert all(text.isprintable() for text in (*facts.names, facts.subject, facts.issuer))


@given(st.binary(max_size=200), st.booleans())
def test_a_mangled_handshake_message_raises_nothing(message: bytes, tls13: bool) -> None:
    leaf = _leaf(message, tls13=tls13)
    assert leaf is None or leaf in message


# What DANE asks of certificates.


def signed(
    key: CertificateIssuerPrivateKeyTypes,
    *,
    by: CertificateIssuerPrivateKeyTypes | None = None,
    hashed: hashes.SHA256 | None = None,
    subject: str = "leaf",
    issuer: str = "issuer",
    pss: bool = False,
) -> bytes:
    """A certificate of odd keys and signatures, which an authority would not issue."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, subject)])
    issuer_name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, issuer)])
    now = datetime(2026, 1, 1)  # noqa: DTZ001  as the library wants it
    builder = x509.CertificateBuilder(issuer_name, name, key.public_key(), 1, now, now + timedelta(days=9000))
    padded = padding.PSS(padding.MGF1(hashes.SHA256()), 32) if pss else None
    certificate = builder.sign(by or key, hashed, rsa_padding=padded)
    return certificate.public_bytes(serialization.Encoding.DER)


def with_sha1(der: bytes) -> bytes:
    """The same certificate, but it says that it is signed with SHA-1 (sha1WithRSAEncryption)."""
    rsa_with = bytes.fromhex("2a864886f70d0101")
    return der.replace(rsa_with + b"\x0b", rsa_with + b"\x05")


EC = ec.generate_private_key(ec.SECP256R1())
RSA, SMALL_RSA = rsa.generate_private_key(65537, 2048), rsa.generate_private_key(65537, 1024)
ED25519, ED448 = ed25519.Ed25519PrivateKey.generate(), ed448.Ed448PrivateKey.generate()
SHA256 = hashes.SHA256()


@pytest.mark.parametrize(
    ("key", "hashed", "pss"),
    [(EC, SHA256, False), (RSA, SHA256, False), (RSA, SHA256, True), (ED25519, None, False), (ED448, None, False)],
    ids=["ecdsa", "rsa", "rsa-pss", "ed25519", "ed448"],
)
@pytest.mark.rfc("7671-5.2.3-a")
def test_the_signature_of_a_bare_key(
    key: CertificateIssuerPrivateKeyTypes, hashed: hashes.SHA256 | None, pss: bool
) -> None:
    der = signed(EC, by=key, hashed=hashed, pss=pss)
    bare = key.public_key().public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert is_signed_by(der, bare)
    assert not is_signed_by(der[:-1] + bytes([der[-1] ^ 1]), bare)
    assert not is_signed_by(signed(EC, by=SMALL_RSA, hashed=SHA256), bare)
    assert not is_signed_by(b"junk", bare)
    assert not is_signed_by(der, b"junk")


def test_a_key_that_signs_nothing_has_signed_nothing() -> None:
    agreement = x25519.X25519PrivateKey.generate().public_key()
    bare = agreement.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)
    assert not is_signed_by(ISSUED.der, bare)


@pytest.mark.parametrize(
    ("der", "fault"),
    [
        (ISSUED.der, None),
        (CA.issue(["mx.x.test"], usage=ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE).der, None),
        (CA.issue(["mx.x.test"], usage=ExtendedKeyUsageOID.CLIENT_AUTH).der, "WrongKeyUsage"),
        (signed(EC, hashed=SHA256), None),
        (signed(ED25519), None),
        (signed(SMALL_RSA, by=EC, hashed=SHA256), "WeakKey"),
        (with_sha1(signed(EC, by=RSA, hashed=SHA256)), "WeakSignature"),
        (with_sha1(signed(RSA, hashed=SHA256, subject="root", issuer="root")), None),
        (b"junk", "WrongKeyUsage"),
    ],
)
def test_what_a_chain_may_not_hold(der: bytes, fault: str | None) -> None:
    assert fault_in_chain(der) == fault


@pytest.mark.parametrize(
    ("der", "names"),
    [
        (ISSUED.der, (("mx.x.test", "*.y.test"), "mx")),
        (CA.issue([], common_name="only.test").der, ((), "only.test")),
        (CA.issue([], common_name="only.test", ips=["192.0.2.1"]).der, ((), "only.test")),
        (b"junk", ((), "")),
    ],
)
def test_the_names_are_as_they_stand_there(der: bytes, names: tuple[tuple[str, ...], str]) -> None:
    assert presented_names(der) == names


@given(st.lists(st.tuples(st.integers(0, len(ISSUED.der) - 1), st.integers(0, 255)), min_size=1, max_size=4))
def test_of_a_mangled_certificate_nothing_raises(changes: list[tuple[int, int]]) -> None:
    der = bytearray(ISSUED.der)
    for at, octet in changes:
        der[at] = octet
    presented_names(bytes(der))
    fault_in_chain(bytes(der))
    key = public_key_of(CA.certificate.public_bytes(serialization.Encoding.DER)) or b""
    assert is_signed_by(bytes(der), key) is (bytes(der) == ISSUED.der)
