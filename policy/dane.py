"""DANE: which TLSA records to ask for, which of them count, and what they match. **Pure.**

RFC 7672 (SMTP), RFC 7671 (usages 2 and 3), RFC 6698 (the record). The records are a stranger's, whatever DNSSEC says.
Limits: usages 0 and 1 are unusable, as RFC 7672 §3.1.3 allows.
"""

from collections.abc import Iterable, Sequence
from hashlib import sha256, sha512
from typing import assert_never

from policy.answers import Absent, Answer, Found, MxRecord, TlsaRecord, Unknown
from policy.der import is_public_key, public_key_of
from policy.mta_sts import matches as names_host
from policy.names import IPAddress

DANE_TA, DANE_EE = 2, 3
CERTIFICATE, PUBLIC_KEY = 0, 1
FULL, SHA_256, SHA_512 = 0, 1, 2

MAX_RECORDS = 32
"""How many usable records of a host count; more are an attack or a mistake."""

_DIGESTS = {SHA_256: sha256, SHA_512: sha512}


def tlsa_name(base_domain: str, port: int) -> str:
    return f"_{port}._tcp.{base_domain}"


def base_domains(host: str, addresses: Found[IPAddress], alias: Answer[str] | None) -> tuple[str, ...]:
    """Return the names at which to look for the host's TLSA records, in order (RFC 7672 §2.2.2, §2.2.3).

    `alias` is the answer for the host's own CNAME record, asked for only if `is_alias_of_insecure` says so. Of a
    chain of aliases only its two ends count, never a name in between.
    """
    if addresses.authentic:
        return tuple(dict.fromkeys((addresses.canonical_name, host)))
    if isinstance(alias, Found) and alias.authentic:
        return (host,)
    return ()


def is_alias_of_insecure(host: str, addresses: Found[IPAddress]) -> bool:
    """Whether it takes the host's own CNAME record to know if its zone is signed (RFC 7672 §2.1.3)."""
    return not addresses.authentic and addresses.canonical_name != host


def is_mx_secure(mx: Answer[MxRecord] | None) -> bool:
    """Whether DNSSEC secures which hosts take a domain's mail; None: the operator has named the host."""
    return mx is None or (not isinstance(mx, Unknown) and mx.authentic)


def reference_names(base_domain: str, host: str, domain: str, mx: Answer[MxRecord] | None) -> tuple[str, ...]:
    """Return the names of which a certificate below a DANE-TA has to carry one (RFC 7672 §3.2.2).

    `host` takes mail for `domain`, as `mx` says; without MX records, or with None, it is itself the next hop.
    """
    names: tuple[str, ...]
    match mx:
        case Found(authentic=True):
            names = (base_domain, domain, mx.canonical_name)
        case Found() | Unknown():
            names = (base_domain,)
        case Absent() | None:
            names = (base_domain, host)
        case _:
            assert_never(mx)
    return tuple(dict.fromkeys(names))


def usable(records: Iterable[TlsaRecord]) -> tuple[TlsaRecord, ...]:
    """Return the records that count: usable ones, of digests only the strongest, sorted, at most MAX_RECORDS."""
    good = {record for record in records if is_usable(record)}
    strongest: dict[tuple[int, int], int] = {}
    for record in good:
        strongest[_kind(record)] = max(record.matching_type, strongest.get(_kind(record), FULL))
    # RFC 7671 §9, digest agility: a higher number is a stronger digest. For each usage and selector by itself.
    counting = (record for record in good if record.matching_type in {FULL, strongest[_kind(record)]})
    return tuple(sorted(counting)[:MAX_RECORDS])


def is_usable(record: TlsaRecord) -> bool:
    """Whether the record can be used at all (RFC 6698 §4.1, RFC 7672 §3.1.3)."""
    if record.usage not in {DANE_TA, DANE_EE}:
        return False
    match record.selector, record.matching_type:
        case ((0 | 1), (1 | 2)):
            return len(record.data) == _DIGESTS[record.matching_type]().digest_size
        case 0, 0:
            return public_key_of(record.data) is not None
        case 1, 0:
            return is_public_key(record.data)
        case _:
            return False


def _kind(record: TlsaRecord) -> tuple[int, int]:
    return record.usage, record.selector


def matches(record: TlsaRecord, certificate: bytes) -> bool:
    """Whether a usable record stands for this certificate (DER), whatever else is to be said of it."""
    selected = certificate if record.selector == CERTIFICATE else public_key_of(certificate)
    if selected is None:
        return False
    digest = _DIGESTS.get(record.matching_type)
    return record.data == (selected if digest is None else digest(selected).digest())


def names_one(dns_ids: Sequence[str], common_name: str, reference_names: Sequence[str]) -> bool:
    """Whether a certificate's names include one of those wanted (RFC 7672 §3.2.3).

    An asterisk stands for one whole label. Unlike for MTA-STS, the common name counts where there is no DNS-ID.
    """
    presented = dns_ids or [common_name]
    return any(names_host(name, presented) for name in reference_names)
