"""What a delivery to one MX host must keep to, and the names of what can go wrong (RFC 8460 §4.3). **Pure.**"""

from dataclasses import dataclass
from enum import Enum


class Level(Enum):
    """How a session to one host must be protected."""

    OPPORTUNISTIC = "opportunistic"
    """TLS where offered, any certificate; plaintext as the last resort (no policy, mode none)."""
    TESTING = "testing"
    """Verify first; on a failure deliver as OPPORTUNISTIC would, and report (RFC 8461 §5, mode testing)."""
    VERIFIED = "verified"
    """TLS with a certificate that verifies for the MX host, or no delivery (RFC 8461 §5, mode enforce)."""


class ResultType(Enum):
    """Failure types of RFC 8460 §4.3; the value is the name in reports, logs and metrics."""

    STARTTLS_NOT_SUPPORTED = "starttls-not-supported"
    CERTIFICATE_HOST_MISMATCH = "certificate-host-mismatch"
    CERTIFICATE_EXPIRED = "certificate-expired"
    CERTIFICATE_NOT_TRUSTED = "certificate-not-trusted"
    VALIDATION_FAILURE = "validation-failure"
    STS_POLICY_FETCH_ERROR = "sts-policy-fetch-error"
    STS_POLICY_INVALID = "sts-policy-invalid"
    STS_WEBPKI_INVALID = "sts-webpki-invalid"


class PolicyType(Enum):
    """Policy types of RFC 8460 §4.4."""

    STS = "sts"
    NO_POLICY_FOUND = "no-policy-found"


class MxMatch(Enum):
    """Whether the MX host is one that the domain's MTA-STS policy names (RFC 8461 §4.1)."""

    NO_POLICY = "no-policy"
    MATCHED = "matched"
    NOT_MATCHED = "not-matched"


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The conditions under which one host may be given mail. Part of the connection pool's key.

    `mx_host` is the name sent as SNI and, where the level verifies, the only reference identity of the
    certificate (RFC 8461 §4.2, RFC 9525). A failure of `mx_match` in testing mode is reported, not enforced.
    """

    level: Level
    mx_host: str
    mx_match: MxMatch = MxMatch.NO_POLICY


class RefusalReason(Enum):
    """Why a host is not contacted at all."""

    MX_NOT_IN_POLICY = "mx-not-in-policy"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """This host must not be contacted. Concerns the host only: the next one is tried, then the mail is deferred."""

    mx_host: str
    reason: RefusalReason
    detail: str
