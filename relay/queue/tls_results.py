"""What TLS sessions were, as they are counted for the reports of RFC 8460 (§4). **Pure.**

Peers choose much of what stands here, so every text is cleaned and capped as it comes in, and none is a free text
that could differ from session to session without end.
"""

from dataclasses import dataclass, replace
from datetime import date, datetime, timedelta

from policy.requirement import PolicyType, ResultType

REPORTED_AFTER = timedelta(minutes=10)
"""When after midnight UTC the first reports on the day before may be sent."""
_COUNTED_UNTIL = timedelta(minutes=5)
"""When sessions cease to be counted for the day before: what is being written then has the rest of that time."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportedPolicy:
    """The policy that a session was held to (RFC 8460 §4.4).

    `policy_domain` is the MTA-STS policy domain, the TLSA base domain, or without a policy the recipient domain.
    `policy_string` is the policy as published, line by line or record by record; `mx_host` the patterns of an
    MTA-STS policy.
    """

    policy_type: PolicyType
    policy_domain: str
    policy_string: tuple[str, ...] = ()
    mx_host: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionFailure:
    """One thing that was wrong (RFC 8460 §4.4); "" is not known, as all is that comes after what failed."""

    result_type: ResultType
    sending_mta_ip: str = ""
    receiving_mx_hostname: str = ""
    receiving_mx_helo: str = ""
    receiving_ip: str = ""
    failure_reason_code: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsResult:
    """`sessions` sessions that went alike. Without `failures` they succeeded; with several, each had all of them.

    `day` is the UTC day on which they began, or a later one (see `written_at`); `recipient_domain` the domain whose
    record says who gets the report.
    """

    day: date
    recipient_domain: str
    policy: ReportedPolicy
    failures: tuple[SessionFailure, ...] = ()
    sessions: int = 1

    def written_at(self, now: datetime) -> "TlsResult":
        """The same sessions, on a day whose report is still to come: one that has been sent tells of nothing more.

        RFC 8460 §4.1 has reports on whole days: a session of the day before that is written down after 00:05 UTC
        counts for today rather than not at all.
        """
        earliest = (now - _COUNTED_UNTIL).date()
        return self if self.day >= earliest else replace(self, day=earliest)

    @property
    def in_short(self) -> "TlsResult":
        """The same sessions without anything that peers could vary."""
        return replace(
            self,
            policy=ReportedPolicy(policy_type=self.policy.policy_type, policy_domain=self.recipient_domain),
            failures=tuple(SessionFailure(result_type=failure.result_type) for failure in self.failures),
        )
