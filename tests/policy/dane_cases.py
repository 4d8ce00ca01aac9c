"""What hosts send and what TLSA records say of it, with the outcome (RFC 7672 §3, RFC 7671 §5)."""

from collections.abc import Callable, Sequence

from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.x509.oid import ExtendedKeyUsageOID

from policy.answers import TlsaRecord
from policy.dane import usable
from policy.requirement import DaneDemand, ResultType
from policy.tls_facts import TlsFailure
from relay.lab.ca import EXPIRY, FUTURE, Identity, LabCA, new_authority, tlsa_record

MX, DOMAIN = "mx.p.test", "x.test"
EXPIRED = (ResultType.CERTIFICATE_EXPIRED, "CertificateExpired")
WRONG_NAME = (ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch")
NO_MATCH = (ResultType.VALIDATION_FAILURE, "TlsaMismatch")


def not_trusted(word: str) -> tuple[ResultType, str]:
    return ResultType.CERTIFICATE_NOT_TRUSTED, word


def record(usage: int, selector: int, matching_type: int, certificate: x509.Certificate) -> TlsaRecord:
    *_, data = tlsa_record(usage, selector, matching_type, certificate).split(" ")
    return TlsaRecord(usage=usage, selector=selector, matching_type=matching_type, data=bytes.fromhex(data))


def demand(*records: TlsaRecord) -> DaneDemand:
    counting = usable(records)
    assert counting
    return DaneDemand(base_domain=MX, reference_names=(MX, DOMAIN), records=counting)


def sent(identity: Identity) -> list[bytes]:
    return [one.public_bytes(serialization.Encoding.DER) for one in (identity.certificate, *identity.chain)]


def verdict(failure: TlsFailure | None) -> tuple[ResultType, str] | None:
    return (failure.result_type, failure.reason) if failure else None


Case = Callable[[LabCA], tuple[Identity, Sequence[TlsaRecord]]]


def below_expired(ca: LabCA) -> tuple[Identity, Sequence[TlsaRecord]]:
    old = new_authority("Old", issuer=ca.root, not_after=EXPIRY)
    return ca.issue([MX], issuer=old, send_root=True), [record(2, 0, 1, ca.root.certificate)]


def below_path_length(ca: LabCA) -> tuple[Identity, Sequence[TlsaRecord]]:
    short = new_authority("Short", path_length=0)
    below = new_authority("Below", issuer=short)
    return ca.issue([MX], issuer=below, send_root=True), [record(2, 0, 1, short.certificate)]


def below_constraints(ca: LabCA, permitted: str) -> tuple[Identity, Sequence[TlsaRecord]]:
    narrow = new_authority("Narrow", permitted=[permitted])
    return ca.issue([MX], issuer=narrow, send_root=True), [record(2, 0, 1, narrow.certificate)]


def forged(ca: LabCA) -> tuple[Identity, Sequence[TlsaRecord]]:
    """The anchor is sent, but has not signed what comes before it: another of the same name has."""
    other = new_authority("Lab Root")
    identity = ca.issue([MX], issuer=other)
    chain = (ca.root.certificate,)
    return Identity(certificate=identity.certificate, key=identity.key, chain=chain, pem_file=identity.pem_file), [
        record(2, 0, 1, ca.root.certificate)
    ]


def leaf_as_anchor(ca: LabCA) -> tuple[Identity, Sequence[TlsaRecord]]:
    one = ca.issue([MX], self_signed=True)
    return Identity(certificate=one.certificate, key=one.key, chain=(one.certificate,), pem_file=one.pem_file), [
        record(2, 0, 1, one.certificate)
    ]


PASSES: dict[str, Case] = {
    "EE: another name": lambda ca: ((i := ca.issue(["else.test"])), [record(3, 1, 1, i.certificate)]),
    "EE: expired": lambda ca: ((i := ca.issue([MX], not_after=EXPIRY)), [record(3, 1, 1, i.certificate)]),
    "EE: not yet valid": lambda ca: ((i := ca.issue([MX], not_before=FUTURE)), [record(3, 0, 1, i.certificate)]),
    "EE: self-signed": lambda ca: ((i := ca.issue([MX], self_signed=True)), [record(3, 1, 2, i.certificate)]),
    "EE: for clients": lambda ca: (
        (i := ca.issue([MX], eku=[ExtendedKeyUsageOID.CLIENT_AUTH])),
        [record(3, 1, 1, i.certificate)],
    ),
    "EE: the second of two": lambda ca: (
        (i := ca.issue([MX])),
        [record(3, 1, 1, ca.issue([MX]).certificate), record(3, 1, 1, i.certificate)],
    ),
    "EE matches, TA does not": lambda ca: (
        (i := ca.issue([MX])),
        [record(2, 0, 1, ca.stranger.certificate), record(3, 1, 1, i.certificate)],
    ),
    "TA: the root": lambda ca: (ca.issue([MX], send_root=True), [record(2, 0, 1, ca.root.certificate)]),
    "TA: the root's key": lambda ca: (ca.issue([MX], send_root=True), [record(2, 1, 2, ca.root.certificate)]),
    "TA: an intermediate": lambda ca: (ca.issue([MX]), [record(2, 0, 2, ca.intermediate.certificate)]),
    "TA: an intermediate's key": lambda ca: (ca.issue([MX]), [record(2, 1, 1, ca.intermediate.certificate)]),
    "TA: whole in the DNS, not sent": lambda ca: (ca.issue([MX]), [record(2, 0, 0, ca.root.certificate)]),
    "TA: intermediate whole in the DNS, nothing sent": lambda ca: (
        ca.issue([MX], send_chain=False),
        [record(2, 0, 0, ca.intermediate.certificate)],
    ),
    "TA: bare key of the root, not sent": lambda ca: (ca.issue([MX]), [record(2, 1, 0, ca.root.certificate)]),
    "TA: bare key, and only the leaf is sent": lambda ca: (
        ca.issue([MX], send_chain=False),
        [record(2, 1, 0, ca.intermediate.certificate)],
    ),
    "TA: bare key of one that is sent": lambda ca: (
        ca.issue([MX], send_root=True),
        [record(2, 1, 0, ca.root.certificate)],
    ),
    "TA: the mail domain's name": lambda ca: (ca.issue([DOMAIN]), [record(2, 1, 1, ca.intermediate.certificate)]),
    "TA: a wildcard": lambda ca: (ca.issue(["*.p.test"]), [record(2, 1, 1, ca.intermediate.certificate)]),
    "TA: common name alone": lambda ca: (
        ca.issue([], common_name=MX),
        [record(2, 1, 1, ca.intermediate.certificate)],
    ),
    "TA: roll-over": lambda ca: (
        ca.issue([MX], send_root=True),
        [record(2, 0, 1, ca.stranger.certificate), record(2, 0, 1, ca.root.certificate)],
    ),
    "TA: within its constraints": lambda ca: below_constraints(ca, "p.test"),
}


FAILS: dict[str, tuple[Case, tuple[ResultType, str]]] = {
    "EE: another certificate": (
        lambda ca: (ca.issue([MX]), [record(3, 1, 1, ca.issue([MX]).certificate)]),
        NO_MATCH,
    ),
    "EE: the certificate of an issuer": (
        lambda ca: (ca.issue([MX]), [record(3, 0, 1, ca.intermediate.certificate)]),
        NO_MATCH,
    ),
    "EE: a weaker digest matches, the stronger does not": (
        lambda ca: (
            (i := ca.issue([MX])),
            [record(3, 1, 1, i.certificate), record(3, 1, 2, ca.root.certificate)],
        ),
        NO_MATCH,
    ),
    "TA: another CA": (
        lambda ca: (ca.issue([MX], send_root=True), [record(2, 0, 1, ca.stranger.certificate)]),
        NO_MATCH,
    ),
    "TA: not sent, only its digest": (lambda ca: (ca.issue([MX]), [record(2, 0, 1, ca.root.certificate)]), NO_MATCH),
    "TA: not sent, only its key's digest": (
        lambda ca: (ca.issue([MX]), [record(2, 1, 1, ca.root.certificate)]),
        NO_MATCH,
    ),
    "TA: bare key of a stranger": (
        lambda ca: (ca.issue([MX]), [record(2, 1, 0, ca.stranger.certificate)]),
        NO_MATCH,
    ),
    "TA: the leaf": (lambda ca: ((i := ca.issue([MX])), [record(2, 0, 1, i.certificate)]), NO_MATCH),
    "TA: the leaf, sent twice": (leaf_as_anchor, NO_MATCH),
    "TA: whole in the DNS, of a stranger": (
        lambda ca: (ca.issue([MX]), [record(2, 0, 0, ca.stranger.certificate)]),
        not_trusted("UntrustedRoot"),
    ),
    "TA: sent, but it signed nothing": (forged, not_trusted("UntrustedRoot")),
    "TA: the intermediate is not sent": (
        lambda ca: (ca.issue([MX], send_chain=False), [record(2, 0, 0, ca.root.certificate)]),
        not_trusted("UntrustedRoot"),
    ),
    "TA: another name": (
        lambda ca: (ca.issue(["else.test"]), [record(2, 1, 1, ca.intermediate.certificate)]),
        WRONG_NAME,
    ),
    "TA: common name beside another DNS-ID": (
        lambda ca: (ca.issue(["else.test"], common_name=MX), [record(2, 1, 1, ca.intermediate.certificate)]),
        WRONG_NAME,
    ),
    "TA: a partial wildcard": (
        lambda ca: (ca.issue(["m*.p.test"]), [record(2, 1, 1, ca.intermediate.certificate)]),
        WRONG_NAME,
    ),
    "TA: expired": (
        lambda ca: (ca.issue([MX], not_after=EXPIRY), [record(2, 1, 1, ca.intermediate.certificate)]),
        EXPIRED,
    ),
    "TA: bare key, expired": (
        lambda ca: (
            ca.issue([MX], not_after=EXPIRY, send_chain=False),
            [record(2, 1, 0, ca.intermediate.certificate)],
        ),
        EXPIRED,
    ),
    "TA: not yet valid": (
        lambda ca: (ca.issue([MX], not_before=FUTURE), [record(2, 1, 1, ca.intermediate.certificate)]),
        not_trusted("NotYetValid"),
    ),
    "TA: an intermediate has expired": (below_expired, EXPIRED),
    "TA: for clients": (
        lambda ca: (
            ca.issue([MX], eku=[ExtendedKeyUsageOID.CLIENT_AUTH]),
            [record(2, 1, 1, ca.intermediate.certificate)],
        ),
        not_trusted("WrongKeyUsage"),
    ),
    "TA: its path is too long": (below_path_length, not_trusted("BasicConstraintsError")),
    "TA: outside its constraints": (
        lambda ca: below_constraints(ca, "y.test"),
        not_trusted("NameConstraintsError"),
    ),
}
