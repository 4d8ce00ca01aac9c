"""What is known and what was found out: of a domain's MTA-STS policy, and of a host's TLSA records. **Pure.**

RFC 8461 §3.3 (fetch and back-off), §5.1 (use of a cached policy); RFC 7672 §2.2 (what to make of TLSA records).
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from policy.answers import TlsaRecord, Unknown
from policy.mta_sts import Policy
from policy.requirement import ResultType


@dataclass(frozen=True, slots=True, kw_only=True)
class CachedPolicy:
    """A policy as it was fetched. `record_id` is the id of the TXT record that was seen with it."""

    policy_domain: str
    record_id: str
    policy: Policy
    fetched_at: datetime

    @property
    def expires_at(self) -> datetime:
        return self.fetched_at + self.policy.max_age


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchFailure:
    """The last fetch of a domain's policy that failed, with the id that it was made for (back-off key)."""

    record_id: str
    result_type: ResultType
    detail: str
    failed_at: datetime
    failing_since: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyState:
    """All that is known of one policy domain between look-ups.

    `unknown_since` is when the current unbroken run of unanswered `_mta-sts` queries began (decision 1).
    """

    policy_domain: str
    cached: CachedPolicy | None = None
    failure: FetchFailure | None = None
    unknown_since: datetime | None = None


class LookupResult(Enum):
    """How the answer came about; also the metric's label."""

    CACHED = "cached"
    FETCHED = "fetched"
    NONE = "none"
    UNKNOWN = "unknown"
    FAILED = "failed"


@dataclass(frozen=True, slots=True, kw_only=True)
class FetchProblem:
    """Why a fetch or refresh of the policy failed, for log, NDR and report."""

    result_type: ResultType
    detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What MTA-STS says about one domain at one moment.

    `cached` is the policy in force, or None. `problem` is set when a fetch failed, whether or not a live policy
    stands in for it. With `defer_until` the look-up is unknown and the mail has to wait (decision 1); `unknown`
    then says why. `record_checked` is True when `_mta-sts` was asked past all caches of ours (RFC 8461 §5).
    `lasts` is for how long this holds without asking again: what is left of the record's TTL and of the policy's life.
    """

    policy_domain: str
    result: LookupResult
    cached: CachedPolicy | None = None
    problem: FetchProblem | None = None
    unknown: Unknown | None = None
    defer_until: datetime | None = None
    record_checked: bool = False
    lasts: timedelta = timedelta(0)


@dataclass(frozen=True, slots=True, kw_only=True)
class NoTlsa:
    """DANE does not apply to this host: it has no TLSA records, or none that DNSSEC secures. `detail` says which.

    `ttl` is for how long this holds, beside the TTL of the host's addresses.
    """

    detail: str
    ttl: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsaUnknown:
    """A question on the way to the host's TLSA records got no answer: the host cannot be used now (RFC 7672 §2.1.2)."""

    name: str
    unknown: Unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class SecureTlsa:
    """The host's TLSA records, secured by DNSSEC, as they were published: usable or not.

    `mx_secure` is whether DNSSEC also secures the way from the mail domain to this host's name (RFC 7672 §2.2.1).
    """

    base_domain: str
    reference_names: tuple[str, ...]
    records: tuple[TlsaRecord, ...]
    mx_secure: bool
    ttl: timedelta


TlsaFindings = NoTlsa | TlsaUnknown | SecureTlsa
