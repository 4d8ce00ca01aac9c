"""What a TLS session was, or why there is none, in the words of log, NDR and report. **Pure.**

RFC 8460 §4.3 (result types), RFC 8461 §4.2 (certificate checks).
"""

from dataclasses import dataclass
from datetime import datetime

from policy.requirement import ResultType


@dataclass(frozen=True, slots=True, kw_only=True)
class CertificateFacts:
    """A certificate as an operator wants to read it. `names` are its SAN DNS-IDs; texts are cleaned and capped."""

    names: tuple[str, ...]
    subject: str
    issuer: str
    not_before: datetime
    not_after: datetime
    sha256: str


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsSession:
    """An established session. `version` and `cipher` are the names of OpenSSL ("TLSv1.3", IANA suite for 1.3).

    `verified` is True only if the certificate was checked for `server_name` and passed.
    """

    version: str
    cipher: str
    server_name: str
    verified: bool
    certificate: CertificateFacts | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFailure:
    """Why there is no session as demanded.

    `reason` is Exchange's word for it (CertificateExpired, SubjectMismatch, UntrustedRoot, ...); `detail` one line
    that an admin can act on. `certificate` is what the host showed, where it could be learnt.
    """

    result_type: ResultType
    reason: str
    detail: str
    certificate: CertificateFacts | None = None
