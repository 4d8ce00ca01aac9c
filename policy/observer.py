"""What the policy services tell to whoever watches: logs and metrics. Labels are enums, never names."""

from enum import Enum
from typing import Protocol

from policy.findings import CachedPolicy, FetchFailure, FetchProblem, LookupResult
from policy.journal import JournalEntry
from policy.mta_sts import Mode
from policy.requirement import ResultType


class RecordType(Enum):
    """The DNS record types that are asked for."""

    A = "A"
    AAAA = "AAAA"
    CNAME = "CNAME"
    MX = "MX"
    SOA = "SOA"
    TLSA = "TLSA"
    TXT = "TXT"


class DnsResult(Enum):
    """How a DNS question was answered: found, one of `Absence`, one of `UnknownReason`."""

    FOUND = "found"
    NXDOMAIN = "nxdomain"
    NODATA = "nodata"
    TIMEOUT = "timeout"
    SERVFAIL = "servfail"
    BOGUS = "bogus"
    REFUSED = "refused"
    MALFORMED = "malformed"


class DnsObserver(Protocol):
    """Hears of DNS questions that were really asked. Must not raise or block."""

    def dns_asked(self, record_type: RecordType, result: DnsResult) -> None: ...


class PolicyObserver(Protocol):
    """Hears of what happens to policies. Must not raise or block."""

    def lookup(self, result: LookupResult, mode: Mode | None) -> None:
        """A domain was looked up; `mode` is that of the policy in force, None without one."""
        ...

    def fetch_finished(self, duration_seconds: float, result_type: ResultType | None) -> None:
        """A policy was fetched over HTTPS, or (with a result type) could not be."""
        ...

    def policy_changed(self, entry: JournalEntry) -> None:
        """Something changed about a domain's policy, and stands in its journal."""
        ...

    def refresh_failed(self, cached: CachedPolicy, failure: FetchFailure) -> None:
        """A live policy could not be fetched anew: an alert, so never for mode none (RFC 8461 §3.3, §10.2)."""
        ...

    def discovery_failed(self, policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None) -> None:
        """There should be a policy, and it could not be had anew: for reports, once a try (RFC 8461 §6).

        `cached` is the live one that stays in force, None if there is none.
        """
        ...

    def unknown_given_up(self, policy_domain: str) -> None:
        """The grace for a domain whose `_mta-sts` gets no answer is over: mail goes as without policy."""
        ...


class NullObserver:
    """Hears everything and tells no one; both protocols."""

    def dns_asked(self, record_type: RecordType, result: DnsResult) -> None: ...

    def lookup(self, result: LookupResult, mode: Mode | None) -> None: ...

    def fetch_finished(self, duration_seconds: float, result_type: ResultType | None) -> None: ...

    def policy_changed(self, entry: JournalEntry) -> None: ...

    def refresh_failed(self, cached: CachedPolicy, failure: FetchFailure) -> None: ...

    def discovery_failed(self, policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None) -> None: ...

    def unknown_given_up(self, policy_domain: str) -> None: ...
