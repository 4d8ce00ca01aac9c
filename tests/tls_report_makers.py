"""Results and reports for the tests of RFC 8460."""

from datetime import UTC, date, datetime

from policy.requirement import PolicyType, ResultType
from relay.queue.tls_results import ReportedPolicy, SessionFailure, TlsResult
from relay.reports.tlsrpt import Reporter, TlsReport, fold

DAY = date(2026, 11, 21)
NOW = datetime(2026, 11, 22, 0, 30, tzinfo=UTC)
REPORTER = Reporter(organization_name="Company-X", contact="tls-reports@company-x.example")
STS = ReportedPolicy(
    policy_type=PolicyType.STS,
    policy_domain="company-y.example",
    policy_string=("version: STSv1", "mode: testing", "mx: *.mail.company-y.example", "max_age: 86400"),
    mx_host=("*.mail.company-y.example",),
)
TLSA = ReportedPolicy(
    policy_type=PolicyType.TLSA,
    policy_domain="mx1.mail.company-y.example",
    policy_string=("3 1 1 " + "AB" * 32, "3 1 1 " + "CD" * 32),
)
NONE = ReportedPolicy(policy_type=PolicyType.NO_POLICY_FOUND, policy_domain="company-y.example")
EXPIRED = SessionFailure(
    result_type=ResultType.CERTIFICATE_EXPIRED,
    sending_mta_ip="2001:db8:abcd:12::1",
    receiving_mx_hostname="mx1.mail.company-y.example",
    receiving_ip="203.0.113.58",
)
NO_STARTTLS = SessionFailure(
    result_type=ResultType.STARTTLS_NOT_SUPPORTED,
    sending_mta_ip="2001:db8:abcd:13::1",
    receiving_mx_hostname="mx2.mail.company-y.example",
    receiving_ip="203.0.113.56",
)
FETCH = SessionFailure(result_type=ResultType.STS_POLICY_FETCH_ERROR, failure_reason_code="HTTP status 404")


def result(policy: ReportedPolicy = STS, *failures: SessionFailure, sessions: int = 1) -> TlsResult:
    return TlsResult(day=DAY, recipient_domain="company-y.example", policy=policy, failures=failures, sessions=sessions)


def report(*results: TlsResult, domain: str = "company-y.example", reporter: Reporter = REPORTER) -> TlsReport:
    policies = fold(domain, results or (result(sessions=5326), result(STS, EXPIRED, sessions=100)))
    return TlsReport(unique_id="01J9ZK3V", day=DAY, domain=domain, policies=policies, reporter=reporter)
