"""A certificate authority for tests, and the odd certificates that it would never issue in earnest."""

import datetime as dt
import ssl
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

DAY = dt.timedelta(days=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate with its key, and the intermediates that a server sends with it."""

    certificate: x509.Certificate
    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...] = ()

    @property
    def der(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.DER)

    def write(self, path: Path) -> Path:
        """Write key, certificate and chain as one PEM file."""
        key = self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
        pems = [issued.public_bytes(serialization.Encoding.PEM) for issued in (self.certificate, *self.chain)]
        path.write_bytes(key + b"".join(pems))
        return path

    def server_context(self, path: Path) -> ssl.SSLContext:
        """Return a server's context with this certificate; `path` is where it may be written."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.write(path))
        return context


class CertificateAuthority:
    """A root, or with `parent` an intermediate."""

    def __init__(self, name: str = "Test Root", *, parent: "CertificateAuthority | None" = None) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._parent = parent
        subject = _name(name)
        signer = parent or self
        now = dt.datetime.now(dt.UTC)
        self.certificate: x509.Certificate = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(parent.certificate.subject if parent else subject)
            .public_key(self._key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(now - DAY)
            .not_valid_after(now + 365 * DAY)
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(_ca_usage(), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self._key.public_key()), critical=False)
            .sign(signer._key, hashes.SHA256())
        )

    @property
    def pem(self) -> bytes:
        return self.certificate.public_bytes(serialization.Encoding.PEM)

    def write(self, path: Path) -> Path:
        path.write_bytes(self.pem)
        return path

    def issue(
        self,
        names: Sequence[str],
        *,
        common_name: str | None = None,
        ips: Iterable[str] = (),
        not_before: dt.datetime | None = None,
        not_after: dt.datetime | None = None,
        usage: x509.ObjectIdentifier = ExtendedKeyUsageOID.SERVER_AUTH,
        self_signed: bool = False,
        with_chain: bool = True,
    ) -> Issued:
        """Return a certificate for these DNS names; without names and addresses it has no SAN at all."""
        key = ec.generate_private_key(ec.SECP256R1())
        now = dt.datetime.now(dt.UTC)
        subject = _name(common_name or "test server")
        builder = (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(subject if self_signed else self.certificate.subject)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(not_before or now - DAY)
            .not_valid_after(not_after or now + 30 * DAY)
            .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
            .add_extension(x509.ExtendedKeyUsage([usage]), critical=False)
        )
        sans: list[x509.GeneralName] = [x509.DNSName(name) for name in names]
        sans += [x509.IPAddress(ip_address(ip)) for ip in ips]
        if sans:
            builder = builder.add_extension(x509.SubjectAlternativeName(sans), critical=False)
        certificate = builder.sign(key if self_signed else self._key, hashes.SHA256())
        chain = (self.certificate,) if self._parent and with_chain else ()
        return Issued(certificate=certificate, key=key, chain=chain)

    def expired(self, names: Sequence[str]) -> Issued:
        now = dt.datetime.now(dt.UTC)
        return self.issue(names, not_before=now - 30 * DAY, not_after=now - DAY)

    def not_yet_valid(self, names: Sequence[str]) -> Issued:
        now = dt.datetime.now(dt.UTC)
        return self.issue(names, not_before=now + DAY, not_after=now + 30 * DAY)


def _name(common_name: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, common_name)])


def _ca_usage() -> x509.KeyUsage:
    return x509.KeyUsage(
        digital_signature=True,
        content_commitment=False,
        key_encipherment=False,
        data_encipherment=False,
        key_agreement=False,
        key_cert_sign=True,
        crl_sign=True,
        encipher_only=False,
        decipher_only=False,
    )
