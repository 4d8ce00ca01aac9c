"""A day's sessions with one domain, folded into the report of RFC 8460 §4. **Pure.**

Everything about a report is made of the same values, so that subject, file name and JSON never disagree (§5.6).
"""

import gzip
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, time
from typing import Any

from policy.one_line import one_line
from policy.requirement import PolicyType
from relay.queue.tls_results import ReportedPolicy, SessionFailure, TlsResult

MAX_POLICIES = 20
MAX_FAILURES = 200
"""Distinct policies, and distinct failures of one policy, that are told apart; the rest is counted together."""
_MAX_LINES = 100
_MAX_LINE = 500
_MAX_COUNT = 2**53 - 1
"""What an integer of I-JSON may be (RFC 7493 §2.2)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reporter:
    """Who reports. `contact` is an addr-spec, and its domain the submitter (RFC 8460 §5.3)."""

    organization_name: str
    contact: str

    @property
    def submitter(self) -> str:
        return self.contact.rpartition("@")[2]


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyCounts:
    """Sessions under one policy. A session with two failures is in both of `details`, and once in `failed`."""

    policy: ReportedPolicy
    successful: int
    failed: int
    details: tuple[tuple[SessionFailure, int], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsReport:
    """One report: a UTC day and a recipient domain. `unique_id` is letters and digits, the same over all retries."""

    unique_id: str
    day: date
    domain: str
    policies: tuple[PolicyCounts, ...]
    reporter: Reporter

    @property
    def report_id(self) -> str:
        """The id in JSON and subject, of the form that a msg-id has (RFC 8460 §5.3)."""
        return f"{self.unique_id}@{self.reporter.submitter}"

    @property
    def begins(self) -> datetime:
        return datetime.combine(self.day, time(), UTC)

    @property
    def ends(self) -> datetime:
        """The last second of the day, as the example of RFC 8460 appendix B has it."""
        return datetime.combine(self.day, time(23, 59, 59), UTC)

    @property
    def filename(self) -> str:
        """RFC 8460 §5.1."""
        span = f"{int(self.begins.timestamp())}!{int(self.ends.timestamp())}"
        return f"{self.reporter.submitter}!{self.domain}!{span}!{self.unique_id}.json.gz"


def fold(domain: str, results: Iterable[TlsResult]) -> tuple[PolicyCounts, ...]:
    """Sum up the results of one domain and day, whichever process counted them, those of most sessions first."""
    sessions: Counter[tuple[ReportedPolicy, tuple[SessionFailure, ...]]] = Counter()
    for result in results:
        sessions[result.policy, result.failures] += result.sessions
    names = _told_apart(domain, sessions)
    policies = dict.fromkeys(names[policy] for policy, _ in sessions)
    counts = [_counts(policy, {k: n for k, n in sessions.items() if names[k[0]] == policy}) for policy in policies]
    return tuple(sorted(counts, key=lambda found: (-found.successful - found.failed, _order(found.policy))))


def _order(policy: ReportedPolicy) -> tuple[str, ...]:
    return (policy.policy_type.value, policy.policy_domain, *policy.policy_string)


def _told_apart(
    domain: str, sessions: Mapping[tuple[ReportedPolicy, tuple[SessionFailure, ...]], int]
) -> dict[ReportedPolicy, ReportedPolicy]:
    """Name each policy by itself, and those beyond MAX_POLICIES by their type alone: a peer may invent any number."""
    totals: Counter[ReportedPolicy] = Counter()
    for (policy, _), number in sessions.items():
        totals[policy] += number
    ranked = [policy for policy, _ in totals.most_common()]
    rest = {p: ReportedPolicy(policy_type=p.policy_type, policy_domain=domain) for p in ranked[MAX_POLICIES:]}
    return {policy: rest.get(policy, policy) for policy in ranked}


def _counts(
    policy: ReportedPolicy, sessions: Mapping[tuple[ReportedPolicy, tuple[SessionFailure, ...]], int]
) -> PolicyCounts:
    details: Counter[SessionFailure] = Counter()
    for (_, failures), number in sessions.items():
        for failure in dict.fromkeys(failures):
            details[failure] += number
    ranked = details.most_common()
    kept = Counter(dict(ranked[:MAX_FAILURES]))
    for failure, number in ranked[MAX_FAILURES:]:
        kept[SessionFailure(result_type=failure.result_type)] += number
    return PolicyCounts(
        policy=policy,
        successful=sum(number for (_, failures), number in sessions.items() if not failures),
        failed=sum(number for (_, failures), number in sessions.items() if failures),
        details=tuple(kept.most_common()),
    )


def as_json(report: TlsReport) -> dict[str, Any]:
    """Return the report with the member names of RFC 8460 §4.4 (with erratum 6241: mx-host is an array)."""
    return {
        "organization-name": one_line(report.reporter.organization_name),
        "date-range": {"start-datetime": _rfc3339(report.begins), "end-datetime": _rfc3339(report.ends)},
        "contact-info": report.reporter.contact,
        "report-id": report.report_id,
        "policies": [_policy(counts) for counts in report.policies],
    }


def compressed(report: TlsReport) -> bytes:
    """Return the report as the file that is sent: JSON, gzip. The same report gives the same octets."""
    return gzip.compress(json.dumps(as_json(report), separators=(",", ":")).encode("ascii"), mtime=0)


def _rfc3339(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def _policy(counts: PolicyCounts) -> dict[str, Any]:
    policy = counts.policy
    described: dict[str, Any] = {
        "policy-type": policy.policy_type.value,
        "policy-string": [_published(line) for line in policy.policy_string[:_MAX_LINES]],
        "policy-domain": policy.policy_domain,
    }
    if policy.policy_type is PolicyType.STS:
        described["mx-host"] = [_published(pattern) for pattern in policy.mx_host[:_MAX_LINES]]
    return {
        "policy": described,
        "summary": {
            "total-successful-session-count": min(counts.successful, _MAX_COUNT),
            "total-failure-session-count": min(counts.failed, _MAX_COUNT),
        },
        "failure-details": [_failure(failure, number) for failure, number in counts.details],
    }


def _published(line: str) -> str:
    """A line of a policy as it was served, but no half of a surrogate pair, which I-JSON forbids (RFC 7493 §2.1)."""
    return line[:_MAX_LINE].encode("utf-8", "replace").decode("utf-8")


def _failure(failure: SessionFailure, number: int) -> dict[str, Any]:
    """What is not known is left out: an empty string is no address and no host name."""
    known = {
        "sending-mta-ip": failure.sending_mta_ip,
        "receiving-mx-hostname": failure.receiving_mx_hostname,
        "receiving-mx-helo": failure.receiving_mx_helo,
        "receiving-ip": failure.receiving_ip,
    }
    said: dict[str, Any] = {"result-type": failure.result_type.value}
    said |= {name: one_line(value, 255) for name, value in known.items() if value}
    said["failed-session-count"] = min(number, _MAX_COUNT)
    if failure.failure_reason_code:
        said["failure-reason-code"] = one_line(failure.failure_reason_code)
    return said
