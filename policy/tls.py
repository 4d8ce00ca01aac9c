"""TLS towards MX and policy hosts: contexts, and what a session or its failure amounts to.

RFC 8461 §4.2 (certificate checks), RFC 9525 (names), RFC 8460 §4.3 (result types), RFC 9325 (versions).
Limits: revocation is not checked; Python's ssl offers no OCSP.
"""

import ssl
from collections.abc import Iterator

from policy.certificates import describe_certificate
from policy.one_line import one_line
from policy.requirement import Requirement, ResultType
from policy.tls_facts import CertificateFacts, TlsFailure, TlsSession

_VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}
# CPython's own default, spelt out: a distribution may build it with OpenSSL's, where static RSA and SHA-1 are left in
# (Debian does). RFC 9325 §4.1.
_VERIFIED_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
_OPPORTUNISTIC_CIPHERS = "DEFAULT:@SECLEVEL=0"
_CERTIFICATE_MESSAGE = 11  # RFC 8446 §4: HandshakeType certificate
_MAX_CAUSES = 10


class PeerSSLObject(ssl.SSLObject):
    """Remembers the certificate that the peer showed, also when it is then refused.

    OpenSSL forgets a certificate that does not verify, yet it is what the operator needs to see. The error that the
    handshake raises carries it as `peer_certificate` (DER).
    """

    shown: bytes | None = None

    def do_handshake(self) -> None:
        try:
            super().do_handshake()
        except ssl.SSLCertVerificationError as error:
            error.peer_certificate = self.shown  # type: ignore[attr-defined]
            raise


def _keep_certificate(
    peer: object, direction: str, version: int, _content_type: int, message_type: int, data: bytes
) -> None:
    """Called by OpenSSL for each protocol message; what it raised would break the session."""
    if message_type == _CERTIFICATE_MESSAGE and direction == "read" and isinstance(peer, PeerSSLObject):
        peer.shown = peer.shown or _leaf(data, tls13=version == ssl.TLSVersion.TLSv1_3)


def _leaf(message: bytes, *, tls13: bool) -> bytes | None:
    """Return the first certificate of a handshake message (RFC 8446 §4.4.2, RFC 5246 §7.4.2), or None."""
    at = 4  # type and length of the message
    if tls13:
        at += 1 + int.from_bytes(message[at : at + 1], "big")  # the request's context
    at += 3  # length of the list
    length = int.from_bytes(message[at : at + 3], "big")
    leaf = message[at + 3 : at + 3 + length]
    return leaf if leaf and len(leaf) == length else None


def verified_context(ca_file: str, minimum_version: str = "1.2") -> ssl.SSLContext:
    """Return a context that refuses every certificate not valid for the host (PKIX, SAN DNS-ID only).

    An empty `ca_file` means the system's store. Raises ValueError when the file or version is not usable.
    """
    context = _client_context(minimum_version, _VERIFIED_CIPHERS)
    context.check_hostname = True
    context.verify_mode = ssl.CERT_REQUIRED
    # RFC 8461 §4.2: only a SAN dNSName counts. OpenSSL would fall back to the subject's common name.
    context.hostname_checks_common_name = False
    # Spelt out, because Python 3.13 changes the default.
    context.verify_flags = ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    try:
        if ca_file:
            context.load_verify_locations(cafile=ca_file)
        else:
            context.load_default_certs(ssl.Purpose.SERVER_AUTH)
    except (OSError, ssl.SSLError) as error:
        raise ValueError(f"no certificates can be read from {ca_file}: {error}") from error
    return context


def unverified_context(minimum_version: str = "1.2") -> ssl.SSLContext:
    """Return a context as strong as the verified one that leaves the certificate to `policy.dane_check`."""
    context = _client_context(minimum_version, _VERIFIED_CIPHERS)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def opportunistic_context(minimum_version: str = "1.2") -> ssl.SSLContext:
    """Return a context that takes any certificate: better than plaintext, and no more (RFC 7435)."""
    context = _client_context(minimum_version, _OPPORTUNISTIC_CIPHERS)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


def small_context(minimum_version: str = "1.2") -> ssl.SSLContext:
    """Return the opportunistic context for a second try: its ClientHello is all that a host of long ago knew.

    What chokes on the usual one does so at TLS 1.3 itself, or at key shares that no longer fit into one packet. This
    one asks for TLS 1.2 with a single group, in fewer than 256 octets; or, where that is too old a version, for 1.3
    with the group that everybody must know (RFC 8446 §9.1).
    """
    context = opportunistic_context(minimum_version)
    if minimum_version == "1.2":
        context.maximum_version = ssl.TLSVersion.TLSv1_2
    context.set_ecdh_curve("prime256v1")
    return context


def _client_context(minimum_version: str, ciphers: str) -> ssl.SSLContext:
    if minimum_version not in _VERSIONS:
        raise ValueError(f"TLS {minimum_version} is not one of {', '.join(_VERSIONS)}")
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = _VERSIONS[minimum_version]
    context.set_ciphers(ciphers)
    # A resumed session would not be verified again: no tickets (RFC 8461 leaves resumption to us; A8, 4.2-i).
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION
    context.sslobject_class = PeerSSLObject
    # The public class wraps this hook in enum look-ups for every record; the C class under it costs next to nothing.
    hook = getattr(super(ssl.SSLContext, ssl.SSLContext), "_msg_callback", None)
    if hook is not None:
        hook.__set__(context, _keep_certificate)
    return context


class TlsContexts:
    """The contexts for SMTP, built once (each costs tens of milliseconds). Never to be used for HTTPS as well:
    an HTTP library sets its own ALPN protocols on a context.
    """

    def __init__(
        self, *, ca_file: str = "", minimum_version: str = "1.2", opportunistic_minimum_version: str = "1.2"
    ) -> None:
        self.verified = verified_context(ca_file, minimum_version)
        self.unverified = unverified_context(minimum_version)
        self.opportunistic = opportunistic_context(opportunistic_minimum_version)
        self.small = small_context(opportunistic_minimum_version)

    def for_requirement(self, requirement: Requirement) -> ssl.SSLContext:
        """Return the context to try first; after a failure, TESTING goes on with that of OPPORTUNISTIC."""
        if requirement.names:
            return self.verified
        return self.unverified if requirement.demands_tls else self.opportunistic


def describe_session(ssl_object: ssl.SSLObject | ssl.SSLSocket) -> TlsSession:
    """Return the facts of a session whose handshake is done."""
    cipher = ssl_object.cipher()
    der = ssl_object.getpeercert(binary_form=True)
    context = ssl_object.context
    server_name = str(ssl_object.server_hostname or "")
    return TlsSession(
        version=ssl_object.version() or "",
        cipher=cipher[0] if cipher else "",
        server_name=server_name,
        # Without a name OpenSSL checks none, whatever the context says.
        verified=bool(server_name) and context.verify_mode is ssl.CERT_REQUIRED and context.check_hostname,
        certificate=describe_certificate(der) if der else None,
    )


# X509_V_ERR_* of OpenSSL's x509_vfy.h -> the words of Exchange's chain validity status.
_VERIFY_CODES = {
    2: "UntrustedRoot",  # issuer not to be found
    7: "SignatureFailure",
    9: "NotYetValid",
    10: "CertificateExpired",
    18: "UntrustedRoot",  # self-signed
    19: "UntrustedRoot",  # self-signed in the chain
    20: "UntrustedRoot",  # issuer not to be found locally, or an intermediate is missing
    21: "UntrustedRoot",  # the first certificate cannot be verified
    23: "CertificateRevoked",
    25: "BasicConstraintsError",  # too many certificates below one that limits them
    26: "WrongKeyUsage",
    47: "NameConstraintsError",
    48: "NameConstraintsError",
    62: "SubjectMismatch",
    63: "SubjectMismatch",
    64: "SubjectMismatch",
    66: "WeakKey",
    67: "WeakKey",
    68: "WeakSignature",
    79: "BasicConstraintsError",
}
_OTHER_VERIFY_CODE = "CertificateNotTrusted"
_RESULT_TYPES = {
    "SubjectMismatch": ResultType.CERTIFICATE_HOST_MISMATCH,
    "CertificateExpired": ResultType.CERTIFICATE_EXPIRED,
    "TlsaMismatch": ResultType.VALIDATION_FAILURE,
}
_HANDSHAKE_REASONS: dict[str | None, str] = {
    "UNSUPPORTED_PROTOCOL": "ProtocolMismatch",
    "TLSV1_ALERT_PROTOCOL_VERSION": "ProtocolMismatch",
    "WRONG_SSL_VERSION": "ProtocolMismatch",
    "WRONG_VERSION_NUMBER": "NotTls",
    "UNEXPECTED_EOF_WHILE_READING": "ConnectionClosed",
    "NO_SHARED_CIPHER": "NoCommonCipher",
    "SSLV3_ALERT_HANDSHAKE_FAILURE": "NoCommonCipher",
}


def classify(error: BaseException) -> TlsFailure:
    """Say what went wrong in a handshake, whatever other exceptions a library has wrapped it in."""
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLCertVerificationError):
            return _certificate_failure(cause)
    for cause in _causes(error):
        if isinstance(cause, ssl.SSLError):
            reason = getattr(cause, "reason", None)  # only OpenSSL's own errors have one
            return _handshake_failure(_HANDSHAKE_REASONS.get(reason, "HandshakeFailed"), reason or str(cause))
        if isinstance(cause, TimeoutError):
            return _handshake_failure("HandshakeTimeout", "the host did not finish it in time")
        if isinstance(cause, OSError | EOFError):
            return _handshake_failure("ConnectionClosed", str(cause) or "the host closed the connection")
    return _handshake_failure("HandshakeFailed", str(error) or type(error).__name__)


def _causes(error: BaseException) -> Iterator[BaseException]:
    cause: BaseException | None = error
    for _ in range(_MAX_CAUSES):
        if cause is None:
            return
        yield cause
        cause = cause.__cause__ or cause.__context__


def _certificate_failure(error: ssl.SSLCertVerificationError) -> TlsFailure:
    der: bytes | None = getattr(error, "peer_certificate", None)
    word = verify_word(getattr(error, "verify_code", 0))
    return certificate_failure(word, getattr(error, "verify_message", str(error)), der)


def verify_word(verify_code: int) -> str:
    """Return Exchange's word for an X509_V_ERR code of OpenSSL."""
    return _VERIFY_CODES.get(verify_code, _OTHER_VERIFY_CODE)


def certificate_failure(word: str, detail: str, der: bytes | None) -> TlsFailure:
    """Return the failure of a certificate (DER, where it is known) that does not verify; `word` is Exchange's."""
    facts = describe_certificate(der) if der else None
    return TlsFailure(
        result_type=_RESULT_TYPES.get(word, ResultType.CERTIFICATE_NOT_TRUSTED),
        reason=word,
        detail=one_line(detail) + (_shown(facts) if facts else ""),
        certificate=facts,
    )


def _handshake_failure(word: str, detail: str) -> TlsFailure:
    return TlsFailure(
        result_type=ResultType.VALIDATION_FAILURE, reason=word, detail=f"TLS handshake failed: {one_line(detail)}"
    )


def _shown(facts: CertificateFacts) -> str:
    names = ", ".join(facts.names[:5]) or "no DNS name"
    more = f" and {len(facts.names) - 5} more" if len(facts.names) > 5 else ""
    return f" (certificate for {names}{more}, issued by {facts.issuer}, valid until {facts.not_after:%Y-%m-%d})"
