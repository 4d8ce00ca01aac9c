"""Checks a session against the TLSA records of its host, on the very handshake that the mail will use.

RFC 7672 §3 (SMTP), RFC 7671 §5 (DANE-EE, DANE-TA). Python's ssl cannot do DANE, so its contexts let the handshake
pass, and nothing may be sent before this has been asked.
Limits: where a record holds only a key, what the anchor's certificate constrains is observed all the same.
"""

import _ssl
import ssl
from collections.abc import Sequence

from policy.answers import TlsaRecord
from policy.certificates import fault_in_chain, is_signed_by, presented_names
from policy.chains import ChainError, verified_chain
from policy.dane import CERTIFICATE, DANE_EE, DANE_TA, FULL, PUBLIC_KEY, matches, names_one
from policy.requirement import DaneDemand, Requirement
from policy.tls import certificate_failure, verify_word
from policy.tls_facts import TlsFailure

MAX_CHAIN = 20
"""How many certificates of a host are looked at: each is compared with each record."""

_SHOWN_RECORDS = 3


def dane_failure(requirement: Requirement, ssl_object: ssl.SSLObject) -> TlsFailure | None:
    """Return why the session may not carry mail, or None if DANE has nothing against it or asks for nothing."""
    demand = requirement.dane
    if demand is None or not demand.records:
        return None
    return chain_failure(demand, peer_chain(ssl_object))


def peer_chain(ssl_object: ssl.SSLObject) -> tuple[bytes, ...]:
    """Return the certificates that the peer sent, its own first (DER), at most MAX_CHAIN."""
    # Public only from Python 3.13 on, by the same name.
    sent = ssl_object._sslobj.get_unverified_chain()  # type: ignore[attr-defined]  # noqa: SLF001  see above
    return tuple(certificate.public_bytes(_ssl.ENCODING_DER) for certificate in (sent or ())[:MAX_CHAIN])


def chain_failure(demand: DaneDemand, chain: Sequence[bytes]) -> TlsFailure | None:
    """Return what is wrong with the chain a host has sent, or None if one of the records stands for it."""
    if not chain:
        return _mismatch(demand, None)
    leaf, *sent = chain
    # RFC 7672 §3.1.1: with DANE-EE neither names nor dates count, nor who issued the certificate.
    if any(record.usage == DANE_EE and matches(record, leaf) for record in demand.records):
        return None
    anchors = _anchors([record for record in demand.records if record.usage == DANE_TA], chain)
    if not anchors:
        return _mismatch(demand, leaf)
    verified = verified_chain(leaf, sent, anchors)
    if isinstance(verified, ChainError):
        return certificate_failure(verify_word(verified.code), verified.message, leaf)
    for certificate in verified:
        if (fault := fault_in_chain(certificate)) is not None:
            return certificate_failure(fault, "a certificate below the DANE trust anchor is not fit for a server", leaf)
    if not names_one(*presented_names(leaf), demand.reference_names):
        wanted = " or ".join(demand.reference_names)
        return certificate_failure("SubjectMismatch", f"the certificate does not name {wanted}", leaf)
    return None


def _anchors(records: Sequence[TlsaRecord], chain: Sequence[bytes]) -> list[bytes]:
    """Return the trust anchors that DANE-TA records make of a chain; the leaf is none of them (RFC 7672 §3.1.2)."""
    leaf, *sent = chain
    sent_anchors = [one for one in sent if any(matches(record, one) for record in records)]
    # RFC 7671 §5.2.2: a certificate that is whole in the DNS need not be sent,
    certificates = [record.data for record in records if (record.selector, record.matching_type) == (CERTIFICATE, FULL)]
    anchors = [one for one in (*sent_anchors, *certificates) if one != leaf]
    # §5.2.3: nor a key. What it has signed, the leaf or what was sent last, is then as good as the anchor itself.
    keys = [record.data for record in records if (record.selector, record.matching_type) == (PUBLIC_KEY, FULL)]
    return [*anchors, chain[-1]] if any(is_signed_by(chain[-1], key) for key in keys) else anchors


def _mismatch(demand: DaneDemand, leaf: bytes | None) -> TlsFailure:
    shown = "; ".join(str(record) for record in demand.records[:_SHOWN_RECORDS])
    more = len(demand.records) - _SHOWN_RECORDS
    detail = f"no TLSA record of {demand.base_domain} matches: {shown}" + (f" and {more} more" if more > 0 else "")
    return certificate_failure("TlsaMismatch", detail, leaf)
