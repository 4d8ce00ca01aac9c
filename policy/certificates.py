"""What a certificate says: in an operator's words, and where DANE asks. Takes any octets, never raises (RFC 5280)."""

import hashlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed448, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import load_der_public_key
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from policy.one_line import one_line
from policy.tls_facts import CertificateFacts

MAX_NAMES = 100
_MAX_DER = 64 * 1024
_MIN_RSA_BITS = 2048
_WEAK_HASHES = (hashes.MD5, hashes.SHA1)
_SERVER_USAGES = frozenset({ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE})
_UNKNOWN_TIME = datetime(1, 1, 1, tzinfo=UTC)
_ODDITIES = (
    InvalidSignature,
    ValueError,
    TypeError,
    OverflowError,
    UnsupportedAlgorithm,
    x509.DuplicateExtension,
    x509.ExtensionNotFound,
    x509.InvalidVersion,
    x509.UnsupportedGeneralNameType,
)
"""What cryptography raises for a certificate that is not as RFC 5280 wants it."""

T = TypeVar("T")


def describe_certificate(der: bytes) -> CertificateFacts | None:
    """Return what can be read of the certificate, or None if it is none at all.

    A field that cannot be read is empty, or the year 1 for a time; the rest still counts.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography warns of odd serial numbers and the like
        certificate = _load(der)
        if certificate is None:
            return None
        return CertificateFacts(
            names=_read(lambda: tuple(one_line(name, 253) for name in _dns_ids(certificate)[:MAX_NAMES]), ()),
            subject=_read(lambda: one_line(certificate.subject.rfc4514_string()), ""),
            issuer=_read(lambda: one_line(certificate.issuer.rfc4514_string()), ""),
            not_before=_read(lambda: certificate.not_valid_before_utc, _UNKNOWN_TIME),
            not_after=_read(lambda: certificate.not_valid_after_utc, _UNKNOWN_TIME),
            sha256=hashlib.sha256(der).hexdigest(),
        )


def presented_names(der: bytes) -> tuple[tuple[str, ...], str]:
    """Return the SAN DNS-IDs and the common name (the last one, "" without), as they stand there.

    What cannot be read names nobody: then both are empty.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificate = _load(der)
        if certificate is None:
            return (), ""
        try:
            dns_ids = _dns_ids(certificate)
        except x509.ExtensionNotFound:
            dns_ids = ()
        except _ODDITIES:
            return (), ""
        return dns_ids, _read(lambda: _common_name(certificate), "")


def fault_in_chain(der: bytes) -> str | None:
    """Return why the certificate may not stand in a server's chain, in Exchange's words, or None.

    This is what OpenSSL leaves out when it verifies a chain beside a session: what keys and signatures have to be
    (as at its security level 2), and what the certificate is for.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificate = _load(der)
        if certificate is None or not _read(lambda: _may_serve(certificate), False):
            return "WrongKeyUsage"
        if not _read(lambda: _has_strong_key(certificate), False):
            return "WeakKey"
        return None if _read(lambda: _has_strong_signature(certificate), False) else "WeakSignature"


def is_signed_by(der: bytes, public_key: bytes) -> bool:
    """Whether the certificate's signature is that of a bare key (SubjectPublicKeyInfo)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        certificate = _load(der)
        return certificate is not None and _read(lambda: _verifies(certificate, public_key), False)


def _load(der: bytes) -> x509.Certificate | None:
    return None if len(der) > _MAX_DER else _read(lambda: x509.load_der_x509_certificate(der), None)


def _dns_ids(certificate: x509.Certificate) -> tuple[str, ...]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return tuple(extension.value.get_values_for_type(x509.DNSName))


def _common_name(certificate: x509.Certificate) -> str:
    names = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    return str(names[-1].value) if names else ""


def _may_serve(certificate: x509.Certificate) -> bool:
    try:
        usages = certificate.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return True
    return not _SERVER_USAGES.isdisjoint(usages)


def _has_strong_key(certificate: x509.Certificate) -> bool:
    key = certificate.public_key()
    return not isinstance(key, rsa.RSAPublicKey) or key.key_size >= _MIN_RSA_BITS


def _has_strong_signature(certificate: x509.Certificate) -> bool:
    # What a root says of itself proves nothing, however strong.
    return certificate.issuer == certificate.subject or not isinstance(
        certificate.signature_hash_algorithm, _WEAK_HASHES
    )


def _verifies(certificate: x509.Certificate, public_key: bytes) -> bool:
    key, hashed = load_der_public_key(public_key), certificate.signature_hash_algorithm
    parameters, signature = certificate.signature_algorithm_parameters, certificate.signature
    signed = certificate.tbs_certificate_bytes
    match key:
        case rsa.RSAPublicKey() if hashed and isinstance(parameters, padding.PKCS1v15 | padding.PSS):
            key.verify(signature, signed, parameters, hashed)
        case ec.EllipticCurvePublicKey() if isinstance(parameters, ec.ECDSA):
            key.verify(signature, signed, parameters)
        case ed25519.Ed25519PublicKey() | ed448.Ed448PublicKey():
            key.verify(signature, signed)
        case _:
            return False
    return True


def _read(field: Callable[[], T], otherwise: T) -> T:
    try:
        return field()
    except _ODDITIES:
        return otherwise
