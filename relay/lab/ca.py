"""The lab's certificate authority: good certificates, and every kind of bad one (RFC 8461 §3.3, §4.2; RFC 5280),
and the TLSA records that stand for them (RFC 6698).

Dates are constants, so that nothing here depends on the clock: what is good is good for a century.
"""

import hashlib
import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

PAST = datetime(2020, 1, 1, tzinfo=UTC)
EXPIRY = datetime(2021, 1, 1, tzinfo=UTC)
FUTURE = datetime(2100, 1, 1, tzinfo=UTC)
FAR_FUTURE = datetime(2120, 1, 1, tzinfo=UTC)


class CertificateKind(Enum):
    """What a host shows in its handshake, and what is wrong with it."""

    GOOD = "names the host, issued through an intermediate that is sent along"
    WILDCARD = "names *.<parent of the host>"
    EXPIRED = "ended in 2021"
    NOT_YET_VALID = "begins in 2100"
    WRONG_NAME = "names another host"
    SELF_SIGNED = "signed by its own key"
    UNKNOWN_CA = "issued by a CA that nobody trusts"
    MISSING_INTERMEDIATE = "the intermediate is not sent"
    CN_ONLY = "the host's name is only in the subject, there is no subjectAltName"
    CN_ONLY_IP_SAN = "the host's name is only in the subject, beside a subjectAltName with an address"
    PARTIAL_WILDCARD = "names m*.<parent of the host>"
    CLIENT_ONLY = "for clients: extended key usage lacks serverAuth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """A certificate with its key. `chain` is what the host sends after it.

    `pem_file` holds key and chain, as `ssl.SSLContext.load_cert_chain` reads them.
    """

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    pem_file: Path


@dataclass(frozen=True, slots=True, kw_only=True)
class Authority:
    """A certificate that signs others. `chain` is what a host issued by it must send besides its own certificate."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    root: x509.Certificate


class LabCA:
    """Issues into `directory`. Who trusts `ca_file` trusts `root` and through it `intermediate`, but not `stranger`."""

    def __init__(self, directory: Path) -> None:
        directory.mkdir(parents=True, exist_ok=True)
        self._directory = directory
        self._made: dict[tuple[CertificateKind, tuple[str, ...]], Identity] = {}
        self._issued = 0
        self.root = new_authority("Lab Root")
        self.intermediate = new_authority("Lab Intermediate", issuer=self.root)
        self.stranger = new_authority("Unknown Root")
        self.ca_file = directory / "ca.pem"
        self.ca_file.write_bytes(_pem(self.root.certificate))

    def identity(self, kind: CertificateKind, *names: str) -> Identity:
        """Return the certificate of that kind for these names (the first is the host's), the same one each time."""
        made = self._made.get((kind, names))
        if made is None:
            made = self._made[kind, names] = self._make(kind, names)
        return made

    def issue(
        self,
        names: Sequence[str],
        *,
        common_name: str = "",
        ip_sans: Sequence[str] = (),
        not_before: datetime = PAST,
        not_after: datetime = FAR_FUTURE,
        eku: Sequence[x509.ObjectIdentifier] = (ExtendedKeyUsageOID.SERVER_AUTH,),
        issuer: Authority | None = None,
        send_chain: bool = True,
        send_root: bool = False,
        self_signed: bool = False,
    ) -> Identity:
        """Issue one certificate for `names` (DNS-IDs) and `ip_sans`; without `issuer` the intermediate signs.

        The subject is `common_name`, by default the first name: with `names=()` and a `common_name` there is no DNS-ID.
        With `send_root` the chain ends with the root, as it must where a TLSA record names it (RFC 7672 §3.1.2).
        """
        issuer = issuer or self.intermediate
        key = ec.generate_private_key(ec.SECP256R1())
        subject = _name(common_name or names[0])
        builder = (
            _builder(subject, key, not_before, not_after)
            .issuer_name(subject if self_signed else issuer.certificate.subject)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(_authority_key(key if self_signed else issuer.key), critical=False)
            .add_extension(x509.ExtendedKeyUsage(list(eku)), critical=False)
        )
        general_names: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        general_names += [x509.IPAddress(ipaddress.ip_address(address)) for address in ip_sans]
        if general_names:
            builder = builder.add_extension(x509.SubjectAlternativeName(general_names), critical=False)
        certificate = builder.sign(key if self_signed else issuer.key, hashes.SHA256())
        chain = issuer.chain if send_chain and not self_signed else ()
        return self._write(certificate, key, (*chain, issuer.root) if send_root else chain)

    def _make(self, kind: CertificateKind, names: tuple[str, ...]) -> Identity:
        host = names[0]
        parent = host.partition(".")[2]
        match kind:
            case CertificateKind.GOOD:
                return self.issue(names)
            case CertificateKind.WILDCARD:
                return self.issue([f"*.{parent}"])
            case CertificateKind.EXPIRED:
                return self.issue(names, not_after=EXPIRY)
            case CertificateKind.NOT_YET_VALID:
                return self.issue(names, not_before=FUTURE)
            case CertificateKind.WRONG_NAME:
                return self.issue(["somewhere-else.test"])
            case CertificateKind.SELF_SIGNED:
                return self.issue(names, self_signed=True)
            case CertificateKind.UNKNOWN_CA:
                return self.issue(names, issuer=self.stranger)
            case CertificateKind.MISSING_INTERMEDIATE:
                return self.issue(names, send_chain=False)
            case CertificateKind.CN_ONLY:
                return self.issue([], common_name=host)
            case CertificateKind.CN_ONLY_IP_SAN:
                return self.issue([], common_name=host, ip_sans=["127.0.0.1"])
            case CertificateKind.PARTIAL_WILDCARD:
                return self.issue([f"{host[0]}*.{parent}"])
            case CertificateKind.CLIENT_ONLY:
                return self.issue(names, eku=[ExtendedKeyUsageOID.CLIENT_AUTH])

    def _write(
        self, certificate: x509.Certificate, key: ec.EllipticCurvePrivateKey, chain: tuple[x509.Certificate, ...]
    ) -> Identity:
        self._issued += 1
        pem_file = self._directory / f"{self._issued}.pem"
        key_pem = key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pem_file.write_bytes(key_pem + b"".join(_pem(one) for one in (certificate, *chain)))
        return Identity(certificate=certificate, key=key, chain=chain, pem_file=pem_file)


def new_authority(
    common_name: str,
    *,
    issuer: Authority | None = None,
    not_after: datetime = FAR_FUTURE,
    path_length: int | None = None,
    permitted: Sequence[str] = (),
) -> Authority:
    """Return a root, or with `issuer` an intermediate; `permitted` are the domains that it may issue for."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = _name(common_name)
    builder = (
        _builder(subject, key, PAST, not_after)
        .issuer_name(issuer.certificate.subject if issuer else subject)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_authority_key(issuer.key if issuer else key), critical=False)
        .add_extension(_KEY_USAGE_OF_AN_AUTHORITY, critical=True)
    )
    if permitted:
        subtrees = [x509.DNSName(domain) for domain in permitted]
        builder = builder.add_extension(x509.NameConstraints(subtrees, None), critical=True)
    certificate = builder.sign(issuer.key if issuer else key, hashes.SHA256())
    # A root is not sent if it need not be: who trusts it has it.
    return Authority(
        certificate=certificate,
        key=key,
        chain=(certificate, *issuer.chain) if issuer else (),
        root=issuer.root if issuer else certificate,
    )


def tlsa_record(usage: int, selector: int, matching_type: int, certificate: x509.Certificate) -> str:
    """Return the TLSA record that stands for a certificate or its key, in zone-file form (RFC 6698 §2.2)."""
    if selector == 0:
        selected = certificate.public_bytes(serialization.Encoding.DER)
    else:
        selected = certificate.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
    digests = {1: hashlib.sha256, 2: hashlib.sha512}
    data = digests[matching_type](selected).digest() if matching_type else selected
    return f"{usage} {selector} {matching_type} {data.hex()}"


_KEY_USAGE_OF_AN_AUTHORITY = x509.KeyUsage(
    digital_signature=True,
    key_cert_sign=True,
    crl_sign=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    encipher_only=False,
    decipher_only=False,
)


def _builder(
    subject: x509.Name, key: ec.EllipticCurvePrivateKey, not_before: datetime, not_after: datetime
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder()
        .subject_name(subject)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(not_before)
        .not_valid_after(not_after)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(key.public_key()), critical=False)
    )


def _authority_key(key: ec.EllipticCurvePrivateKey) -> x509.AuthorityKeyIdentifier:
    return x509.AuthorityKeyIdentifier.from_issuer_public_key(key.public_key())


def _name(common_name: str) -> x509.Name:
    # RFC 5280 Appendix A.1: a common name has at most 64 characters; longer host names stand in the SAN alone.
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name[:64])])


def _pem(certificate: x509.Certificate) -> bytes:
    return certificate.public_bytes(serialization.Encoding.PEM)
