"""TLS of a listener (RFC 3207, RFC 8314, RFC 9325): contexts from PEM files, read again when these change."""

import asyncio
import ssl
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from cryptography import x509

from relay import events
from relay.ingress.settings import ListenerSettings

# CPython's own default, spelt out: a distribution may build it with OpenSSL's, where static RSA and SHA-1 are left in
# (Debian does). RFC 9325 §4.1.
CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:!aNULL:!eNULL:!aDSS:!SHA1:!AESCCM"
_Stamp = tuple[tuple[int, int, int], ...]


class CertificateError(Exception):
    """The certificate, key or CA file cannot be used; the text says which and why, never the key."""


class ServerTls:
    """The current context of one listener. A bad new file keeps the old context, and is said once.

    `on_loaded` is told when the certificate expires, each time one has been loaded. Constructing raises
    CertificateError.
    """

    def __init__(self, settings: ListenerSettings, on_loaded: Callable[[datetime], None] | None = None) -> None:
        self._settings = settings
        self._on_loaded = on_loaded
        self._files = [path for path in (settings.certificate, settings.key, settings.client_ca) if path is not None]
        self._loading = asyncio.Lock()
        self._stamp = self._stat()
        self.context, self.expires_at = _load(settings)
        self._tell_expiry()

    async def current(self) -> ssl.SSLContext:
        """Return the context for a new session; three file times are looked at first."""
        if self._stat() != self._stamp:
            await self.reload()
        return self.context

    async def reload(self) -> bool:
        """Read the files again; False if they cannot be used and the old context stays."""
        async with self._loading:
            self._stamp = self._stat()
            try:
                self.context, self.expires_at = await asyncio.to_thread(_load, self._settings)
            except CertificateError as error:
                events.listener_certificate_rejected(self._settings.address, str(error))
                return False
            events.listener_certificate_loaded(self._settings.address, self.expires_at)
            self._tell_expiry()
            return True

    def _tell_expiry(self) -> None:
        if self._on_loaded is not None:
            self._on_loaded(self.expires_at)

    def _stat(self) -> _Stamp:
        return tuple(_stat(path) for path in self._files)


def _stat(path: Path) -> tuple[int, int, int]:
    try:
        found = path.stat()
    except OSError:
        return (0, 0, 0)
    return (found.st_mtime_ns, found.st_size, found.st_ino)


def _load(settings: ListenerSettings) -> tuple[ssl.SSLContext, datetime]:
    assert settings.certificate is not None
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    context.set_ciphers(CIPHERS)
    # Microsoft's TLS client has broken off STARTTLS with servers that send session tickets.
    context.options |= ssl.OP_NO_TICKET | ssl.OP_NO_COMPRESSION | ssl.OP_NO_RENEGOTIATION
    context.num_tickets = 0
    try:
        context.load_cert_chain(settings.certificate, settings.key)
        certificate = x509.load_pem_x509_certificate(settings.certificate.read_bytes())
        if settings.client_ca is not None:
            context.load_verify_locations(settings.client_ca)
            context.verify_mode = ssl.CERT_OPTIONAL
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        raise CertificateError(f"{settings.certificate}: {error}") from error
    return context, certificate.not_valid_after_utc
