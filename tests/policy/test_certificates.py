"""Certificates in an operator's words; hostile ones too."""

import pytest
from certs import CertificateAuthority
from cryptography.hazmat.primitives import hashes
from hypothesis import given
from hypothesis import strategies as st

from policy.certificates import MAX_NAMES, describe_certificate
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
