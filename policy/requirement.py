"""What a delivery to one MX host must keep to, and the names of what can go wrong (RFC 8460 §4.3). **Pure.**"""

from dataclasses import dataclass
from enum import Enum

from policy.answers import TlsaRecord


class Level(Enum):
    """How a session to one host must be protected by certificates of the web PKI; what DANE demands comes on top."""

    OPPORTUNISTIC = "opportunistic"
    """TLS where offered, any certificate; plaintext as the last resort (no policy, mode none)."""
    TESTING = "testing"
    """Verify first; on a failure deliver as OPPORTUNISTIC would, and report (RFC 8461 §5, mode testing)."""
    ENCRYPTED = "encrypted"
    """TLS with any certificate, or no delivery. No policy asks for that, only a route of the operator's."""
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
    TLSA_INVALID = "tlsa-invalid"
    DNSSEC_INVALID = "dnssec-invalid"
    DANE_REQUIRED = "dane-required"


class PolicyType(Enum):
    """Policy types of RFC 8460 §4.4."""

    STS = "sts"
    TLSA = "tlsa"
    NO_POLICY_FOUND = "no-policy-found"


class MxMatch(Enum):
    """Whether the MX host is one that the domain's MTA-STS policy names (RFC 8461 §4.1)."""

    NO_POLICY = "no-policy"
    MATCHED = "matched"
    NOT_MATCHED = "not-matched"


@dataclass(frozen=True, slots=True, kw_only=True)
class DaneDemand:
    """What DANE demands of a session to one host: TLS, and a certificate that fits one of `records` (RFC 7672 §2.2).

    `records` are the usable ones only, sorted; if there are none, any certificate will do. `base_domain` is where the
    records were found, and the first of `reference_names`, one of which a certificate below a DANE-TA has to carry.
    """

    base_domain: str
    reference_names: tuple[str, ...]
    records: tuple[TlsaRecord, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RouteDemand:
    """What a route of the operator's demands of a session: ENCRYPTED, or VERIFIED for `tls_name`, "" the MX host."""

    level: Level
    tls_name: str = ""

    def __post_init__(self) -> None:
        if self.level not in (Level.ENCRYPTED, Level.VERIFIED):
            raise ValueError(f"a route demands no {self.level}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Requirement:
    """The conditions under which one host may be given mail. Part of the connection pool's key.

    `level` is what the policy asks for. Where it verifies, the certificate has to name `mx_host` (RFC 8461 §4.2).
    A failure of `mx_match` in testing mode is reported, not enforced. `dane` and `route` come on top: all have to be
    met, and with either there is no plaintext at any level. So does what the message demands by `requiretls`: a
    certificate that verifies or that DANE authenticates, and REQUIRETLS in the reply to the EHLO after it (RFC 8689
    §4.2.1). `for_reports` demands nothing: it keeps TLS reports in sessions of their own, which no report counts (RFC
    8460 §3).
    """

    level: Level
    mx_host: str
    mx_match: MxMatch = MxMatch.NO_POLICY
    dane: DaneDemand | None = None
    route: RouteDemand | None = None
    for_reports: bool = False
    requiretls: bool = False

    @property
    def demands_tls(self) -> bool:
        return self.level is Level.VERIFIED or self.dane is not None or self.route is not None or self.requiretls

    @property
    def verifies(self) -> bool:
        """Whether there is no session at all but with a certificate that verifies for `names`."""
        return self.level is Level.VERIFIED or self.by_route or (self.requiretls and not self.by_dane)

    @property
    def names(self) -> tuple[str, ...]:
        """The reference identities (RFC 9525), all of which a certificate of the web PKI has to carry.

        None of them if there need not be such a certificate.
        """
        by_message = self.requiretls and not (self.by_dane or self.by_route)
        names = [self.mx_host] if by_message or self.level is not Level.OPPORTUNISTIC else []
        if self.route is not None and self.by_route:
            names.append(self.route.tls_name or self.mx_host)
        return tuple(dict.fromkeys(names))

    @property
    def by_route(self) -> bool:
        """Whether the route demands a certificate that verifies."""
        return self.route is not None and self.route.level is Level.VERIFIED

    @property
    def by_dane(self) -> bool:
        """Whether DANE authenticates the host; a demand without records asks for TLS alone."""
        return self.dane is not None and bool(self.dane.records)

    @property
    def server_name(self) -> str:
        """The name to send as SNI."""
        if self.names:
            # Deviates: RFC 7672 §8.1 where an MX host is an alias, which RFC 5321 §5.1 forbids: RFC 8461 §7.1 asks for
            # the name in the MX record, and the certificate is verified for the name that is sent.
            return self.names[0]
        return self.dane.base_domain if self.dane is not None else self.mx_host


class RefusalReason(Enum):
    """Why a host is not contacted at all."""

    MX_NOT_IN_POLICY = "mx-not-in-policy"
    DNSSEC_BOGUS = "dnssec-bogus"
    """The question for its TLSA records got an answer that does not validate."""
    TLSA_UNKNOWN = "tlsa-unknown"
    """The question for its TLSA records got no answer (RFC 7672 §2.1.2)."""
    DANE_REQUIRED = "dane-required"
    """The operator demands DANE for this destination, and there is none."""
    TLSA_UNUSABLE = "tlsa-unusable"
    """The operator demands DANE for this destination, and no record can be used (RFC 7671 §14)."""
    POLICY_REQUIRED = "policy-required"
    """The operator demands MTA-STS for this destination, and there is no policy, or one of mode none."""
    MX_NOT_VALIDATED = "mx-not-validated"
    """The message demands REQUIRETLS, and nothing proves that this host takes the domain's mail (RFC 8689 §2)."""
    MX_VALIDATION_UNKNOWN = "mx-validation-unknown"
    """The same, but there may be a policy that would prove it, and it could not be had."""

    @property
    def result_type(self) -> ResultType:
        """RFC 8460 §4.3."""
        return _RESULT_TYPES[self]


_RESULT_TYPES = {
    RefusalReason.MX_NOT_IN_POLICY: ResultType.VALIDATION_FAILURE,
    RefusalReason.DNSSEC_BOGUS: ResultType.DNSSEC_INVALID,
    RefusalReason.TLSA_UNKNOWN: ResultType.DNSSEC_INVALID,
    RefusalReason.DANE_REQUIRED: ResultType.DANE_REQUIRED,
    RefusalReason.TLSA_UNUSABLE: ResultType.TLSA_INVALID,
    RefusalReason.POLICY_REQUIRED: ResultType.VALIDATION_FAILURE,
    RefusalReason.MX_NOT_VALIDATED: ResultType.VALIDATION_FAILURE,
    RefusalReason.MX_VALIDATION_UNKNOWN: ResultType.VALIDATION_FAILURE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """This host must not be contacted. Concerns the host only: the next one is tried, then the mail is deferred."""

    mx_host: str
    reason: RefusalReason
    detail: str
