"""A certificate in an operator's words. Takes any octets, and never raises (RFC 5280)."""

import hashlib
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from typing import TypeVar

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm

from policy.one_line import one_line
from policy.tls_facts import CertificateFacts

MAX_NAMES = 100
_MAX_DER = 64 * 1024
_UNKNOWN_TIME = datetime(1, 1, 1, tzinfo=UTC)
_ODDITIES = (
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
    if len(der) > _MAX_DER:
        return None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # cryptography warns of odd serial numbers and the like
        certificate = _read(lambda: x509.load_der_x509_certificate(der), None)
        if certificate is None:
            return None
        return CertificateFacts(
            names=_read(lambda: _dns_names(certificate), ()),
            subject=_read(lambda: one_line(certificate.subject.rfc4514_string()), ""),
            issuer=_read(lambda: one_line(certificate.issuer.rfc4514_string()), ""),
            not_before=_read(lambda: certificate.not_valid_before_utc, _UNKNOWN_TIME),
            not_after=_read(lambda: certificate.not_valid_after_utc, _UNKNOWN_TIME),
            sha256=hashlib.sha256(der).hexdigest(),
        )


def _dns_names(certificate: x509.Certificate) -> tuple[str, ...]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    names = extension.value.get_values_for_type(x509.DNSName)
    return tuple(one_line(name, 253) for name in names[:MAX_NAMES])


def _read(field: Callable[[], T], otherwise: T) -> T:
    try:
        return field()
    except _ODDITIES:
        return otherwise
