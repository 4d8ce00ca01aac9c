"""Verifies a chain of certificates up to anchors that are given, as OpenSSL does within a handshake (RFC 5280 §6).

Python's ssl can do so only within a handshake, before it is known which certificate of the chain is the anchor.
Limits: revocation is not checked.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from OpenSSL import crypto


@dataclass(frozen=True, slots=True, kw_only=True)
class ChainError:
    """Why a chain does not verify. `code` is OpenSSL's X509_V_ERR number, `message` its text."""

    code: int
    message: str


_UNREADABLE = ChainError(code=1, message="the certificate cannot be read")


def verified_chain(leaf: bytes, sent: Sequence[bytes], anchors: Iterable[bytes]) -> tuple[bytes, ...] | ChainError:
    """Return the chain from the leaf to an anchor, all DER and the anchor included, or why there is none.

    Signatures, dates, CA flags, path lengths and name constraints are checked, also those of the anchor, which need
    not be a root. Names and uses are not. What cannot be read among `sent` and `anchors` is passed over.
    """
    certificate = _load(leaf)
    if certificate is None:
        return _UNREADABLE
    store = crypto.X509Store()
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    for anchor in _readable(anchors):
        store.add_cert(anchor)
    try:
        chain = crypto.X509StoreContext(store, certificate, _readable(sent)).get_verified_chain()
    except crypto.X509StoreContextError as error:
        code, _, message = error.errors
        return ChainError(code=code, message=message)
    return tuple(crypto.dump_certificate(crypto.FILETYPE_ASN1, link) for link in chain)


def _readable(ders: Iterable[bytes]) -> list[crypto.X509]:
    certificates = (_load(der) for der in ders)
    return [certificate for certificate in certificates if certificate is not None]


def _load(der: bytes) -> crypto.X509 | None:
    try:
        return crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    except (crypto.Error, ValueError):
        return None
