"""The report of RFC 8460 §4, against its appendix B with erratum 6241, and read by parsedmarc."""

import gzip
import json
import re
from datetime import datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from parsedmarc import parse_smtp_tls_report_json
from tls_report_makers import EXPIRED, FETCH, NO_STARTTLS, NONE, REPORTER, STS, TLSA, report, result

from policy.requirement import PolicyType, ResultType
from relay.queue.tls_results import ReportedPolicy, SessionFailure, TlsResult
from relay.reports.tlsrpt import MAX_FAILURES, MAX_POLICIES, Reporter, TlsReport, as_json, compressed, fold


def read(tls_report: TlsReport) -> dict[str, Any]:
    def no_repeats(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({name for name, _ in pairs}) == len(pairs)
        return dict(pairs)

    octets = gzip.decompress(compressed(tls_report))
    found = json.loads(octets.decode("ascii"), object_pairs_hook=no_repeats)
    assert isinstance(found, dict)
    return found


@pytest.mark.rfc(
    "8460-4-a", "8460-4-b", "8460-4.4-a", "8460-4.4-b", "8460-4.4-c", "8460-4.4-d", "8460-4.4-e", "8460-4.4-f",
    "8460-4.4-g", "8460-4.4-h", "8460-4.4-i", "8460-4.4-j", "8460-4.4-l", "8460-4.4-m", "8460-4.4-n", "8460-4.4-p",
    "8460-4.4-r", "8460-4.4-s", "8460-4.5-b",
)  # fmt: skip
def test_it_has_the_shape_of_appendix_b() -> None:
    counted = (
        result(sessions=5326),
        result(STS, EXPIRED, sessions=100),
        result(STS, NO_STARTTLS, sessions=200),
        result(STS, FETCH, sessions=3),
    )
    assert read(report(*counted)) == {
        "organization-name": "Company-X",
        "date-range": {"start-datetime": "2026-11-21T00:00:00Z", "end-datetime": "2026-11-21T23:59:59Z"},
        "contact-info": "tls-reports@company-x.example",
        "report-id": "01J9ZK3V@company-x.example",
        "policies": [
            {
                "policy": {
                    "policy-type": "sts",
                    "policy-string": [
                        "version: STSv1",
                        "mode: testing",
                        "mx: *.mail.company-y.example",
                        "max_age: 86400",
                    ],
                    "policy-domain": "company-y.example",
                    "mx-host": ["*.mail.company-y.example"],
                },
                "summary": {"total-successful-session-count": 5326, "total-failure-session-count": 303},
                "failure-details": [
                    {
                        "result-type": "starttls-not-supported",
                        "sending-mta-ip": "2001:db8:abcd:13::1",
                        "receiving-mx-hostname": "mx2.mail.company-y.example",
                        "receiving-ip": "203.0.113.56",
                        "failed-session-count": 200,
                    },
                    {
                        "result-type": "certificate-expired",
                        "sending-mta-ip": "2001:db8:abcd:12::1",
                        "receiving-mx-hostname": "mx1.mail.company-y.example",
                        "receiving-ip": "203.0.113.58",
                        "failed-session-count": 100,
                    },
                    {
                        "result-type": "sts-policy-fetch-error",
                        "failed-session-count": 3,
                        "failure-reason-code": "HTTP status 404",
                    },
                ],
            }
        ],
    }


@pytest.mark.rfc("8460-4.4-v")
def test_parsedmarc_reads_it() -> None:
    counted = (result(sessions=7), result(TLSA), result(NONE, NO_STARTTLS, sessions=2), result(STS, FETCH, EXPIRED))
    octets = gzip.decompress(compressed(report(*counted)))
    found = parse_smtp_tls_report_json(octets)
    assert found["report_id"] == "01J9ZK3V@company-x.example"
    sts, none, tlsa = found["policies"]
    assert (sts["policy_type"], sts["successful_session_count"], sts["failed_session_count"]) == ("sts", 7, 1)
    assert [detail["result_type"] for detail in sts["failure_details"]] == [
        "sts-policy-fetch-error",
        "certificate-expired",
    ]
    assert (none["policy_type"], none["failed_session_count"]) == ("no-policy-found", 2)
    assert tlsa["policy_strings"] == list(TLSA.policy_string)


@pytest.mark.rfc("8460-4.5-a", "8460-4.5-c", "8460-4.4-k", "8460-4-d", "8460-3-c", "8460-3-d")
def test_several_policies_are_several_entries() -> None:
    sts, none, tlsa = read(report(result(sessions=3), result(TLSA), result(NONE, sessions=2)))["policies"]
    assert sts["policy"]["policy-type"] == "sts"
    assert tlsa["policy"] == {
        "policy-type": "tlsa",
        "policy-string": ["3 1 1 " + "AB" * 32, "3 1 1 " + "CD" * 32],
        "policy-domain": "mx1.mail.company-y.example",
    }
    assert none["policy"] == {
        "policy-type": "no-policy-found",
        "policy-string": [],
        "policy-domain": "company-y.example",
    }
    assert none["failure-details"] == []


@pytest.mark.rfc("8460-4.2-g")
def test_a_policy_that_changed_in_the_day_is_two_entries() -> None:
    other = ReportedPolicy(
        policy_type=PolicyType.STS, policy_domain=STS.policy_domain, policy_string=("version: STSv1", "mode: enforce")
    )
    assert len(read(report(result(), result(other)))["policies"]) == 2


@pytest.mark.rfc("8460-4-c")
def test_a_session_with_two_failures_is_one_failed_session() -> None:
    (policy,) = fold("company-y.example", [result(STS, EXPIRED, NO_STARTTLS, sessions=4), result(STS, EXPIRED)])
    assert (policy.successful, policy.failed) == (0, 5)
    assert dict(policy.details) == {EXPIRED: 5, NO_STARTTLS: 4}


@pytest.mark.rfc("8460-4.2-a", "8460-4.2-h")
def test_what_several_processes_counted_is_summed_up() -> None:
    (policy,) = fold("company-y.example", [result(sessions=4), result(sessions=6)])
    assert (policy.successful, policy.failed, policy.details) == (10, 0, ())


@pytest.mark.rfc("8460-5.2-b")
def test_very_many_failures_and_policies_stay_bounded_and_the_sums_right() -> None:
    failures = [
        SessionFailure(result_type=ResultType.VALIDATION_FAILURE, receiving_mx_hostname=f"mx{n}.x.test")
        for n in range(10_000)
    ]
    (policy,) = fold("x.test", [result(STS, failure) for failure in failures])
    assert policy.failed == sum(number for _, number in policy.details) == 10_000
    assert len(policy.details) <= MAX_FAILURES + len(ResultType)
    policies = [
        ReportedPolicy(policy_type=PolicyType.TLSA, policy_domain=f"mx{n}.x.test") for n in range(10 * MAX_POLICIES)
    ]
    found = fold("x.test", [result(one, sessions=n + 1) for n, one in enumerate(policies)])
    assert len(found) == MAX_POLICIES + 1
    assert sum(one.successful for one in found) == sum(range(1, 10 * MAX_POLICIES + 1))
    assert len(compressed(report(*(result(STS, failure) for failure in failures)))) < 50_000


@pytest.mark.rfc("8460-4.4-w", "8460-4.4-u")
def test_what_a_peer_says_cannot_reach_beyond_its_place() -> None:
    evil = SessionFailure(
        result_type=ResultType.VALIDATION_FAILURE,
        receiving_mx_helo='mx"\r\n\x1b[31m\ud800' + "x" * 5000,
        failure_reason_code="a\nb\u202ec",
    )
    policy = ReportedPolicy(
        policy_type=PolicyType.STS, policy_domain="x.test", policy_string=("mx: \ud800" + "y" * 5000,) * 1000
    )
    (found,) = read(report(result(policy, evil)))["policies"]
    (detail,) = found["failure-details"]
    assert detail["receiving-mx-helo"].isprintable()
    assert len(detail["receiving-mx-helo"]) <= 255
    assert detail["failure-reason-code"] == "a?b?c"
    assert len(json.dumps(found)) < 100_000


@pytest.mark.rfc("8460-4.4-q")
def test_the_name_in_the_greeting_is_told_where_it_is_known() -> None:
    known = SessionFailure(result_type=ResultType.VALIDATION_FAILURE, receiving_mx_helo="mx.x.test")
    details = [read(report(result(STS, one)))["policies"][0]["failure-details"][0] for one in (known, EXPIRED)]
    assert [one.get("receiving-mx-helo") for one in details] == ["mx.x.test", None]


@pytest.mark.rfc("8460-4.4-t")
def test_there_is_no_additional_information() -> None:
    assert b"additional" not in gzip.decompress(compressed(report()))


def test_counts_stay_integers_that_json_can_hold() -> None:
    (policy,) = read(report(result(sessions=2**60)))["policies"]
    assert policy["summary"]["total-successful-session-count"] == 2**53 - 1


@pytest.mark.rfc("8460-5.1-a", "8460-5.1-b", "8460-5.1-c", "8460-5.2-a")
def test_the_file_name() -> None:
    idn = report(domain="xn--bcher-kva.test")
    assert idn.filename == "company-x.example!xn--bcher-kva.test!1795219200!1795305599!01J9ZK3V.json.gz"
    assert compressed(idn).startswith(b"\x1f\x8b")


@pytest.mark.rfc("8460-4.4-b", "8460-4.1-a")
def test_the_range_is_one_whole_utc_day() -> None:
    found = as_json(report())["date-range"]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\dZ", moment) for moment in found.values())
    begins, ends = (datetime.fromisoformat(found[name]) for name in ("start-datetime", "end-datetime"))
    assert ends - begins == timedelta(days=1, seconds=-1)


@pytest.mark.rfc("8460-6.6-a")
def test_the_result_types_are_those_of_the_registry() -> None:
    assert {one.value for one in ResultType} == {
        "starttls-not-supported", "certificate-host-mismatch", "certificate-expired", "tlsa-invalid", "dnssec-invalid",
        "dane-required", "certificate-not-trusted", "sts-policy-invalid", "sts-webpki-invalid", "validation-failure",
        "sts-policy-fetch-error",
    }  # fmt: skip
    assert {one.value for one in PolicyType} == {"tlsa", "sts", "no-policy-found"}


_POLICIES = st.sampled_from([STS, TLSA, NONE])
_FAILURES = st.lists(st.sampled_from([EXPIRED, NO_STARTTLS, FETCH]), max_size=3, unique=True).map(tuple)
_RESULTS = st.lists(
    st.builds(
        lambda policy, failures, sessions: result(policy, *failures, sessions=sessions),
        _POLICIES,
        _FAILURES,
        st.integers(1, 1000),
    ),
    max_size=20,
)


@given(_RESULTS, st.randoms(use_true_random=False))
def test_folding_keeps_every_session_whatever_the_order(results: list[TlsResult], random: Any) -> None:
    found = fold("company-y.example", results)
    assert sum(one.successful + one.failed for one in found) == sum(one.sessions for one in results)
    for one in found:
        assert all(number <= one.failed for _, number in one.details)
    shuffled = random.sample(results, len(results))
    assert [one.policy for one in fold("company-y.example", shuffled)] == [one.policy for one in found]


@pytest.mark.rfc("8460-5.3-f", "8460-5.3-j")
def test_the_submitter_is_the_domain_of_the_contact() -> None:
    reporter = Reporter(organization_name="X", contact='"a@b"@x.test')
    assert reporter.submitter == "x.test"
    assert report(reporter=reporter).report_id == "01J9ZK3V@x.test"
    assert REPORTER.submitter == "company-x.example"
