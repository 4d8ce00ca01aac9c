"""TLS contexts, sessions and failures against real handshakes on loopback (RFC 8461 §4.2)."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest
from certs import CertificateAuthority, Issued
from cryptography.hazmat.primitives import hashes
from cryptography.x509.oid import ExtendedKeyUsageOID

from policy.requirement import DaneDemand, Level, Requirement, ResultType
from policy.tls import (
    TlsContexts,
    classify,
    describe_session,
    opportunistic_context,
    unverified_context,
    verified_context,
)
from policy.tls_facts import TlsFailure, TlsSession

MX = "mx.x.test"
DANE = DaneDemand(base_domain="mail.y.test", reference_names=(), records=())
MISMATCH = ResultType.CERTIFICATE_HOST_MISMATCH
EXPIRED = ResultType.CERTIFICATE_EXPIRED
NOT_TRUSTED = ResultType.CERTIFICATE_NOT_TRUSTED
VALIDATION = ResultType.VALIDATION_FAILURE
VERSIONS = [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3]


@pytest.fixture(scope="module")
def ca() -> CertificateAuthority:
    return CertificateAuthority()


@pytest.fixture(scope="module")
def contexts(ca: CertificateAuthority, tmp_path_factory: pytest.TempPathFactory) -> TlsContexts:
    return TlsContexts(ca_file=str(ca.write(tmp_path_factory.mktemp("ca") / "ca.pem")))


@contextlib.asynccontextmanager
async def tls_server(context: ssl.SSLContext | None, greeting: bytes = b"", *, stay: bool = True) -> AsyncIterator[int]:
    """Serve on loopback, and end only when every connection is closed."""
    serving: set[asyncio.Task[None]] = set()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(greeting)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await reader.read(-1 if stay else 0)
        writer.close()
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            await writer.wait_closed()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        serving.add(asyncio.create_task(serve(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0, ssl=context)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        await server.wait_closed()
        await asyncio.gather(*serving)


async def handshake(port: int, context: ssl.SSLContext, name: str = MX) -> TlsSession | TlsFailure:
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=name)
    except (OSError, EOFError) as error:
        return classify(error)
    session = describe_session(writer.get_extra_info("ssl_object"))
    writer.close()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        await writer.wait_closed()
    return session


CERTIFICATES: dict[str, tuple[Callable[[CertificateAuthority], Issued], ResultType, str]] = {
    "expired": (lambda ca: ca.expired([MX]), EXPIRED, "CertificateExpired"),
    "not yet valid": (lambda ca: ca.not_yet_valid([MX]), NOT_TRUSTED, "NotYetValid"),
    "self-signed": (lambda ca: ca.issue([MX], self_signed=True), NOT_TRUSTED, "UntrustedRoot"),
    "unknown CA": (lambda _: CertificateAuthority("Evil").issue([MX]), NOT_TRUSTED, "UntrustedRoot"),
    "no intermediate": (
        lambda ca: CertificateAuthority("Inter", parent=ca).issue([MX], with_chain=False),
        NOT_TRUSTED,
        "UntrustedRoot",
    ),
    "another name": (lambda ca: ca.issue(["mx.y.test"]), MISMATCH, "SubjectMismatch"),
    "the recipient domain": (lambda ca: ca.issue(["x.test"]), MISMATCH, "SubjectMismatch"),
    "another host of the policy": (lambda ca: ca.issue(["mx2.x.test"]), MISMATCH, "SubjectMismatch"),
    "common name only": (lambda ca: ca.issue([], common_name=MX), MISMATCH, "SubjectMismatch"),
    "common name, SAN address": (
        lambda ca: ca.issue([], common_name=MX, ips=["127.0.0.1"]),
        MISMATCH,
        "SubjectMismatch",
    ),
    "partial wildcard": (lambda ca: ca.issue(["m*.x.test"]), MISMATCH, "SubjectMismatch"),
    "two wildcards": (lambda ca: ca.issue(["*.*.test"]), MISMATCH, "SubjectMismatch"),
    "inner wildcard": (lambda ca: ca.issue(["mx.*.test"]), MISMATCH, "SubjectMismatch"),
    "wildcard over two labels": (lambda ca: ca.issue(["*.test"]), MISMATCH, "SubjectMismatch"),
    "bare wildcard": (lambda ca: ca.issue(["*"]), MISMATCH, "SubjectMismatch"),
    "client certificate": (
        lambda ca: ca.issue([MX], usage=ExtendedKeyUsageOID.CLIENT_AUTH),
        NOT_TRUSTED,
        "WrongKeyUsage",
    ),
}


@pytest.mark.rfc(
    "8461-4.2-a", "8461-4.2-b", "8461-4.2-c", "8461-4.2-d", "8461-4.2-e", "8461-4.2-g", "8461-4.2-h", "9525-6.6-a",
)  # fmt: skip
@pytest.mark.parametrize("name", list(CERTIFICATES))
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_bad_certificate_is_refused_classified_and_shown(
    ca: CertificateAuthority, contexts: TlsContexts, tmp_path: Path, name: str, version: ssl.TLSVersion
) -> None:
    issue, result_type, reason = CERTIFICATES[name]
    issued = issue(ca)
    server = issued.server_context(tmp_path / "server.pem")
    server.minimum_version = server.maximum_version = version
    async with tls_server(server) as port:
        failure = await handshake(port, contexts.verified)
        session = await handshake(port, contexts.opportunistic)
    assert isinstance(failure, TlsFailure)
    assert (failure.result_type, failure.reason) == (result_type, reason)
    assert failure.certificate is not None
    assert failure.certificate.sha256 == issued.certificate.fingerprint(hashes.SHA256()).hex()
    assert "issued by CN=" in failure.detail
    assert isinstance(session, TlsSession)
    assert not session.verified
    assert session.certificate == failure.certificate


@pytest.mark.rfc("8461-4.2-e", "8461-7.1-c", "9525-6.3-a", "9525-6.3-b", "8461-7.2-a")
@pytest.mark.parametrize("names", [[MX], [MX.upper()], ["*.x.test"], ["m*.x.test", MX], ["a.test", "*.x.test"]])
@pytest.mark.parametrize("version", VERSIONS)
async def test_a_good_certificate_is_taken_and_described(
    ca: CertificateAuthority, contexts: TlsContexts, tmp_path: Path, names: list[str], version: ssl.TLSVersion
) -> None:
    issued = ca.issue(names)
    server = issued.server_context(tmp_path / "server.pem")
    server.minimum_version = server.maximum_version = version
    async with tls_server(server) as port:
        session = await handshake(port, contexts.verified)
    assert isinstance(session, TlsSession)
    assert session.verified
    assert session.server_name == MX
    assert session.version == version.name.replace("_", ".")
    assert session.cipher
    assert session.certificate is not None
    assert session.certificate.names == tuple(names)
    assert session.certificate.issuer == "CN=Test Root"
    assert session.certificate.not_after == issued.certificate.not_valid_after_utc


@pytest.mark.rfc("8461-7.1-b")
async def test_the_mx_name_is_sent_as_sni(contexts: TlsContexts, ca: CertificateAuthority, tmp_path: Path) -> None:
    seen: list[str | None] = []
    server = ca.issue([MX]).server_context(tmp_path / "server.pem")

    def note(_: ssl.SSLObject, name: str | None, __: ssl.SSLContext) -> None:
        seen.append(name)

    server.sni_callback = note
    async with tls_server(server) as port:
        await handshake(port, contexts.verified)
        await handshake(port, contexts.opportunistic)
    assert seen == [MX, MX]


@pytest.mark.rfc("8461-4.2-i", "7672-3-b")
@pytest.mark.parametrize("kind", ["verified", "unverified"])
async def test_no_session_is_resumed(
    contexts: TlsContexts, ca: CertificateAuthority, tmp_path: Path, kind: str
) -> None:
    context: ssl.SSLContext = getattr(contexts, kind)
    reused: list[bool] = []
    server = ca.issue([MX]).server_context(tmp_path / "server.pem")
    for version in VERSIONS:
        server.minimum_version = server.maximum_version = version
        async with tls_server(server) as port:
            for _ in range(2):
                _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=context, server_hostname=MX)
                reused.append(writer.get_extra_info("ssl_object").session_reused)
                writer.close()
                with contextlib.suppress(ConnectionError, ssl.SSLError):
                    await writer.wait_closed()
    assert reused == [False] * 4


@pytest.mark.rfc("8461-7.2-b")
def test_what_the_contexts_demand(contexts: TlsContexts) -> None:
    verified, unverified, opportunistic = contexts.verified, contexts.unverified, contexts.opportunistic
    assert verified.verify_mode is ssl.CERT_REQUIRED
    assert verified.check_hostname
    assert not verified.hostname_checks_common_name
    assert verified.minimum_version is ssl.TLSVersion.TLSv1_2
    assert verified.verify_flags == ssl.VerifyFlags.VERIFY_X509_TRUSTED_FIRST
    assert opportunistic.verify_mode is ssl.CERT_NONE
    assert not opportunistic.check_hostname
    assert unverified.verify_mode is ssl.CERT_NONE
    assert unverified.get_ciphers() == verified.get_ciphers()
    for context in (verified, unverified, opportunistic):
        assert context.options & ssl.OP_NO_TICKET
        assert context.options & ssl.OP_NO_COMPRESSION


@pytest.mark.parametrize(
    ("level", "dane", "context"),
    [
        (Level.VERIFIED, None, "verified"),
        (Level.TESTING, None, "verified"),
        (Level.OPPORTUNISTIC, None, "opportunistic"),
        (Level.VERIFIED, DANE, "verified"),
        (Level.TESTING, DANE, "verified"),
        (Level.OPPORTUNISTIC, DANE, "unverified"),
    ],
)
def test_the_context_to_try_first(contexts: TlsContexts, level: Level, dane: DaneDemand | None, context: str) -> None:
    requirement = Requirement(level=level, mx_host=MX, dane=dane)
    assert contexts.for_requirement(requirement) is getattr(contexts, context)
    assert requirement.demands_tls is (level is Level.VERIFIED or dane is not None)


def test_versions_are_settings() -> None:
    assert verified_context("", "1.3").minimum_version is ssl.TLSVersion.TLSv1_3
    assert unverified_context("1.3").minimum_version is ssl.TLSVersion.TLSv1_3
    assert opportunistic_context("1.3").minimum_version is ssl.TLSVersion.TLSv1_3
    with pytest.raises(ValueError, match="is not one of"):
        verified_context("", "1.1")
    with pytest.raises(ValueError, match="is not one of"):
        opportunistic_context("3")


def test_a_ca_file_that_is_none_is_told(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"missing\.pem"):
        verified_context(str(tmp_path / "missing.pem"))


# Some releases of Python warn here, and go on.
@pytest.mark.filterwarnings("ignore:check_hostname requires server_hostname:DeprecationWarning")
async def test_a_session_without_a_name_to_check_is_not_called_verified(
    contexts: TlsContexts, ca: CertificateAuthority, tmp_path: Path
) -> None:
    async with tls_server(ca.issue([MX]).server_context(tmp_path / "server.pem")) as port:
        session = await handshake(port, contexts.verified, name="")
    assert isinstance(session, TlsSession)
    assert not session.verified


@pytest.mark.stock
async def test_stock_l4_context_takes_a_common_name(ca: CertificateAuthority, tmp_path: Path) -> None:
    stock = ssl.create_default_context(cafile=str(ca.write(tmp_path / "ca.pem")))
    async with tls_server(ca.issue([], common_name=MX).server_context(tmp_path / "server.pem")) as port:
        assert isinstance(await handshake(port, stock), TlsSession)


@pytest.mark.stock
async def test_stock_ssl_forgets_a_refused_certificate(ca: CertificateAuthority, tmp_path: Path) -> None:
    stock = ssl.create_default_context(cafile=str(ca.write(tmp_path / "ca.pem")))
    async with tls_server(ca.expired([MX]).server_context(tmp_path / "server.pem")) as port:
        failure = await handshake(port, stock)
    assert isinstance(failure, TlsFailure)
    assert failure.reason == "CertificateExpired"
    assert failure.certificate is None


async def test_a_server_that_speaks_no_tls(contexts: TlsContexts) -> None:
    async with tls_server(None, b"220 mx.x.test ESMTP\r\n") as port:
        failure = await handshake(port, contexts.verified)
    assert failure == TlsFailure(
        result_type=VALIDATION, reason="NotTls", detail="TLS handshake failed: WRONG_VERSION_NUMBER"
    )


async def test_a_server_that_hangs_up(contexts: TlsContexts) -> None:
    async with tls_server(None, stay=False) as port:
        failure = await handshake(port, contexts.verified)
    assert isinstance(failure, TlsFailure)
    assert (failure.result_type, failure.reason) == (VALIDATION, "ConnectionClosed")


def verification_error(code: int) -> ssl.SSLCertVerificationError:
    error = ssl.SSLCertVerificationError(1, "certificate verify failed")
    error.verify_code = code
    error.verify_message = "message\r\nof OpenSSL"
    return error


def wrapped(error: BaseException, depth: int) -> BaseException:
    for _ in range(depth):
        outer = RuntimeError("a library's")
        outer.__cause__ = error
        error = outer
    return error


@pytest.mark.parametrize(
    ("code", "result_type", "reason"),
    [
        (62, MISMATCH, "SubjectMismatch"),
        (63, MISMATCH, "SubjectMismatch"),
        (64, MISMATCH, "SubjectMismatch"),
        (10, EXPIRED, "CertificateExpired"),
        (9, NOT_TRUSTED, "NotYetValid"),
        (18, NOT_TRUSTED, "UntrustedRoot"),
        (19, NOT_TRUSTED, "UntrustedRoot"),
        (20, NOT_TRUSTED, "UntrustedRoot"),
        (23, NOT_TRUSTED, "CertificateRevoked"),
        (26, NOT_TRUSTED, "WrongKeyUsage"),
        (79, NOT_TRUSTED, "BasicConstraintsError"),
        (9999, NOT_TRUSTED, "CertificateNotTrusted"),
    ],
)
@pytest.mark.parametrize("depth", [0, 1, 5])
def test_verify_codes(code: int, result_type: ResultType, reason: str, depth: int) -> None:
    failure = classify(wrapped(verification_error(code), depth))
    assert failure == TlsFailure(result_type=result_type, reason=reason, detail="message??of OpenSSL")


@pytest.mark.parametrize(
    ("error", "reason", "detail"),
    [
        (TimeoutError(), "HandshakeTimeout", "the host did not finish it in time"),
        (
            ConnectionResetError(104, "Connection reset by peer"),
            "ConnectionClosed",
            "[Errno 104] Connection reset by peer",
        ),
        (ConnectionResetError(), "ConnectionClosed", "the host closed the connection"),
        (EOFError(), "ConnectionClosed", "the host closed the connection"),
        (asyncio.IncompleteReadError(b"", 1), "ConnectionClosed", "0 bytes read on a total of 1 expected bytes"),
        (ssl.SSLError("odd"), "HandshakeFailed", "('odd',)"),
        (RuntimeError("what?\x1b"), "HandshakeFailed", "what??"),
        (RuntimeError(), "HandshakeFailed", "RuntimeError"),
    ],
)
def test_other_errors_are_validation_failures(error: BaseException, reason: str, detail: str) -> None:
    failure = classify(error)
    assert failure == TlsFailure(result_type=VALIDATION, reason=reason, detail=f"TLS handshake failed: {detail}")


def test_a_verification_error_that_is_not_of_openssl() -> None:
    failure = classify(ssl.SSLCertVerificationError("hostname doesn't match"))
    assert (failure.result_type, failure.reason) == (NOT_TRUSTED, "CertificateNotTrusted")


def test_a_circle_of_causes_ends() -> None:
    one, two = RuntimeError("one"), RuntimeError("two")
    one.__context__, two.__context__ = two, one
    assert classify(one).reason == "HandshakeFailed"
