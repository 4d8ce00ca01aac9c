"""What a TLS session is counted as, under each policy that it was held to (RFC 8460 §4.2 to §4.4)."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from ipaddress import ip_address
from itertools import product

import pytest

from policy.answers import TlsaRecord, Unknown, UnknownReason
from policy.decide import DaneMode, Enforcement
from policy.findings import CachedPolicy, Findings, LookupResult, NoTlsa, SecureTlsa, TlsaFindings, TlsaUnknown
from policy.mta_sts import parse_policy
from policy.requirement import PolicyType, Refusal, Requirement, ResultType
from policy.tls_facts import TlsFailure
from relay.delivery.attempt_sessions import AttemptSessions
from relay.delivery.hosts import Host, Route, judged, opportunistic
from relay.delivery.negotiation import Countable, Ends, Negotiation
from relay.delivery.routing_table import Judgement, NextHop
from relay.delivery.session_results import MAX_LINES, refusal_results, reported_domain, session_results
from relay.queue.attempt import FailureKind, HostFailure
from relay.queue.tls_results import ReportedPolicy, SessionFailure, TlsResult

DAY = date(2026, 11, 21)
NOW = datetime(2026, 11, 21, 12, tzinfo=UTC)
TTL = timedelta(hours=1)
MX = "mx1.shop.test"
ENDS = Ends("2001:db8::25", "203.0.113.58", "mail.shop.test")
STS, TLSA, NONE = PolicyType.STS, PolicyType.TLSA, PolicyType.NO_POLICY_FOUND
MISSING = "starttls-not-supported"

EE = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(range(32)))
PKIX_ONLY = replace(EE, usage=1)


def findings(mode: str = "enforce", *mx: str) -> Findings:
    patterns = "".join(f"mx: {one}\r\n" for one in mx or ("*.shop.test",))
    body = f"version: STSv1\r\nmode: {mode}\r\n{patterns}max_age: 86400\r\n\r\n"
    policy = parse_policy(body.encode())
    fetched_at = datetime(2026, 11, 20, tzinfo=UTC)
    cached = CachedPolicy(policy_domain="shop.test", record_id="1", policy=policy, fetched_at=fetched_at)
    return Findings(policy_domain="shop.test", result=LookupResult.CACHED, cached=cached)


def secure(*records: TlsaRecord) -> SecureTlsa:
    return SecureTlsa(
        base_domain="real.shop.test", reference_names=("real.shop.test",), records=records or (EE,), mx_secure=True,
        ttl=TTL,
    )  # fmt: skip


def host(found: Findings | None, tlsa: TlsaFindings | None = None, judgement: Judgement | None = None) -> Host:
    """A host as the router judges it."""
    before = Host(name=MX, port=25, where=(ip_address(ENDS.receiving_ip),), verdict=opportunistic(MX), tlsa=tlsa)
    return judged([before], found, judgement or Judgement())[0]


def negotiation(failure: HostFailure | None = None, waived: TlsFailure | None = None) -> Negotiation:
    return Negotiation(day=DAY, failure=failure, waived=waived, ends=ENDS)


def tls(result_type: ResultType, reason: str) -> TlsFailure:
    return TlsFailure(result_type=result_type, reason=reason, detail="for people")


EXPIRED = tls(ResultType.CERTIFICATE_EXPIRED, "CertificateExpired")
NAME = tls(ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch")
NO_STARTTLS = tls(ResultType.STARTTLS_NOT_SUPPORTED, "StartTlsNotSupported")
NOT_IN_POLICY = tls(ResultType.VALIDATION_FAILURE, "MxNotInPolicy")


def told(result_type: str, code: str) -> SessionFailure:
    return SessionFailure(
        result_type=ResultType(result_type),
        sending_mta_ip="2001:db8::25",
        receiving_mx_hostname=MX,
        receiving_mx_helo="mail.shop.test",
        receiving_ip="203.0.113.58",
        failure_reason_code=code,
    )


def by_type(results: tuple[TlsResult, ...]) -> dict[PolicyType, tuple[SessionFailure, ...]]:
    assert len({result.policy.policy_type for result in results}) == len(results)
    assert {(result.day, result.recipient_domain, result.sessions) for result in results} <= {(DAY, "shop.test", 1)}
    return {result.policy.policy_type: result.failures for result in results}


def counted(
    found: Findings | None, tlsa: TlsaFindings | None, what: Negotiation, judgement: Judgement | None = None
) -> dict[PolicyType, tuple[SessionFailure, ...]]:
    return by_type(session_results("shop.test", host(found, tlsa, judgement), found, what))


# -- what was applied ----------------------------------------------------------------------------------------


@pytest.mark.rfc("8460-4.2-a", "8460-4-d", "8460-4.2-f", "8460-4.2-e", "8461-2-c")
@pytest.mark.parametrize(
    ("mode", "tlsa", "expected"),
    [
        (None, None, {NONE}),
        ("none", None, {NONE}),
        ("none", NoTlsa(detail="no", ttl=TTL), {NONE}),
        ("testing", None, {STS}),
        ("enforce", None, {STS}),
        (None, secure(), {TLSA}),
        ("none", secure(), {TLSA}),
        ("testing", secure(), {STS, TLSA}),
        ("enforce", secure(), {STS, TLSA}),
    ],
)
def test_a_good_session_is_a_success_of_each_policy(
    mode: str | None, tlsa: TlsaFindings | None, expected: set[PolicyType]
) -> None:
    found = findings(mode) if mode else None
    assert counted(found, tlsa, negotiation()) == dict.fromkeys(expected, ())


@pytest.mark.rfc("8460-4.2-f")
def test_a_policy_that_the_operator_does_not_look_at_is_none() -> None:
    off = Judgement(enforcement=Enforcement.OFF, dane=DaneMode.OFF)
    assert counted(findings(), secure(), negotiation(), off) == {NONE: ()}


@pytest.mark.rfc("8460-4.4-i", "8460-4.5-b", "8460-4.4-j", "8460-4.5-a", "8460-3-c", "8460-4.4-g", "8461-3.2-ab")
def test_the_policies_are_told_as_they_were_published() -> None:
    found = findings("enforce", "mx1.shop.test", "*.shop.test")
    both = host(found, secure(EE, PKIX_ONLY))
    sts, tlsa = (result.policy for result in session_results("shop.test", both, found, negotiation()))
    assert sts == ReportedPolicy(
        policy_type=STS,
        policy_domain="shop.test",
        policy_string=("version: STSv1", "mode: enforce", "mx: mx1.shop.test", "mx: *.shop.test", "max_age: 86400"),
        mx_host=("mx1.shop.test", "*.shop.test"),
    )
    assert tlsa == ReportedPolicy(
        policy_type=TLSA,
        policy_domain="real.shop.test",
        policy_string=(f"3 1 1 {bytes(range(32)).hex().upper()}", f"1 1 1 {bytes(range(32)).hex().upper()}"),
    )
    (none,) = session_results("shop.test", host(None), None, negotiation())
    assert none.policy == ReportedPolicy(policy_type=NONE, policy_domain="shop.test")


def test_a_policy_of_any_length_is_told_in_bounds() -> None:
    found = findings("enforce", *(f"mx{n}.shop.test" for n in range(1, 2000)))
    records = [replace(EE, data=bytes([n // 256, n % 256]) * 4000) for n in range(200)]
    results = session_results("shop.test", host(found, secure(*records, EE)), found, negotiation())
    for result in results:
        assert len(result.policy.policy_string) <= MAX_LINES
        assert len(result.policy.mx_host) <= MAX_LINES
        assert all(len(line) <= 500 for line in result.policy.policy_string)


# -- what failed ---------------------------------------------------------------------------------------------

TLS_KINDS = {
    FailureKind.STARTTLS_MISSING: (NO_STARTTLS, told(MISSING, "start-tls-not-supported")),
    FailureKind.STARTTLS_REFUSED: (NO_STARTTLS, told(MISSING, "start-tls-not-supported")),
    FailureKind.HANDSHAKE: (
        tls(ResultType.VALIDATION_FAILURE, "ProtocolMismatch"),
        told("validation-failure", "protocol-mismatch"),
    ),
}
CERTIFICATE_REASONS = [
    (EXPIRED, told("certificate-expired", "certificate-expired")),
    (NAME, told("certificate-host-mismatch", "subject-mismatch")),
    (tls(ResultType.CERTIFICATE_NOT_TRUSTED, "UntrustedRoot"), told("certificate-not-trusted", "untrusted-root")),
]  # fmt: skip
ROUTE_KINDS = {
    FailureKind.ROUTE_TLS: (NO_STARTTLS, told(MISSING, "start-tls-not-supported")),
    FailureKind.ROUTE_CERTIFICATE: CERTIFICATE_REASONS[1],
    FailureKind.REQUIRETLS_TLS: (NO_STARTTLS, told(MISSING, "start-tls-not-supported")),
    FailureKind.REQUIRETLS_CERTIFICATE: CERTIFICATE_REASONS[1],
}
DANE_KINDS = {
    FailureKind.DANE_CERTIFICATE: (
        tls(ResultType.VALIDATION_FAILURE, "TlsaMismatch"),
        told("validation-failure", "tlsa-mismatch"),
    ),
    FailureKind.DANE_EXPIRED: CERTIFICATE_REASONS[0],
    FailureKind.DANE_NAME: CERTIFICATE_REASONS[1],
}


def failed(kind: FailureKind, failure: TlsFailure | None) -> Negotiation:
    return negotiation(HostFailure(kind=kind, detail="for people", tls=failure))


@pytest.mark.rfc("8460-4.3.1-a", "8460-4.3.1-e", "8460-4.2-b", "8460-4.4-o", "8460-4.4-p", "8460-4.4-q", "8460-4.4-r")
@pytest.mark.parametrize("kind", TLS_KINDS, ids=str)
@pytest.mark.parametrize(
    ("found", "tlsa", "types"),
    [(findings(), None, {STS}), (None, secure(), {TLSA}), (findings(), secure(), {STS, TLSA})],
    ids=["sts", "dane", "both"],
)
def test_where_there_is_no_tls_each_policy_has_failed(
    kind: FailureKind, found: Findings | None, tlsa: TlsaFindings | None, types: set[PolicyType]
) -> None:
    failure, expected = TLS_KINDS[kind]
    assert counted(found, tlsa, failed(kind, failure)) == dict.fromkeys(types, (expected,))


@pytest.mark.rfc("8460-4.3.1-b", "8460-4.3.1-c", "8460-4.3.1-d", "8460-4.2-b", "8460-4.4-u", "8461-6-c")
@pytest.mark.parametrize("failure, expected", CERTIFICATE_REASONS, ids=["expired", "name", "untrusted"])  # noqa: PT006  as elsewhere a table
def test_a_certificate_that_the_web_pki_refuses_says_nothing_of_dane(
    failure: TlsFailure, expected: SessionFailure
) -> None:
    what = failed(FailureKind.CERTIFICATE, failure)
    assert counted(findings(), None, what) == {STS: (expected,)}
    assert counted(findings(), secure(), what) == {STS: (expected,)}


@pytest.mark.rfc("8460-4.3.2.1-b", "8460-4.3.1-b", "8460-4.3.1-c", "8460-4-d", "7672-h-c")
@pytest.mark.parametrize("kind", DANE_KINDS, ids=str)
def test_what_fails_dane_has_passed_the_web_pki(kind: FailureKind) -> None:
    failure, expected = DANE_KINDS[kind]
    assert counted(findings(), secure(), failed(kind, failure)) == {STS: (), TLSA: (expected,)}
    assert counted(None, secure(), failed(kind, failure)) == {TLSA: (expected,)}


@pytest.mark.rfc("8460-4.2-b", "8460-4.2-e")
@pytest.mark.parametrize("kind", ROUTE_KINDS, ids=str)
def test_what_fails_a_route_or_a_message_has_failed_without_a_policy(kind: FailureKind) -> None:
    failure, expected = ROUTE_KINDS[kind]
    assert counted(None, None, failed(kind, failure)) == {NONE: (expected,)}


@pytest.mark.rfc("8460-4.3.2.1-b")
def test_a_certificate_that_a_route_refuses_says_nothing_of_dane() -> None:
    assert counted(None, secure(), failed(FailureKind.ROUTE_CERTIFICATE, NAME)) == {}


@pytest.mark.rfc("8460-4.3.4-a", "8460-4.2-c")
@pytest.mark.parametrize("kind", [kind for kind in FailureKind if kind not in {*TLS_KINDS, *DANE_KINDS}])
def test_what_is_not_about_tls_is_no_result(kind: FailureKind) -> None:
    for found, tlsa in product([None, findings()], [None, secure()]):
        assert counted(found, tlsa, failed(kind, None)) == {}


@pytest.mark.rfc("8460-4.3.2.1-a", "8460-4-c")
def test_records_of_which_none_can_be_used_are_a_failure_beside_any_other() -> None:
    unusable = told("tlsa-invalid", "tlsa-unusable")
    assert counted(None, secure(PKIX_ONLY), negotiation()) == {TLSA: (unusable,)}
    failure, missing = TLS_KINDS[FailureKind.STARTTLS_MISSING]
    what = failed(FailureKind.STARTTLS_MISSING, failure)
    assert counted(None, secure(PKIX_ONLY), what) == {TLSA: (unusable, missing)}
    assert counted(findings(), secure(PKIX_ONLY), failed(FailureKind.CERTIFICATE, EXPIRED))[TLSA] == (unusable,)


# -- what is not refused, and told all the same --------------------------------------------------------------


@pytest.mark.rfc("8460-4.2-d", "8460-4.3.1-f")
@pytest.mark.parametrize(
    ("mode", "enforcement"), [("testing", Enforcement.ENFORCE), ("enforce", Enforcement.REPORT_ONLY)]
)
@pytest.mark.parametrize(
    ("waived", "expected"),
    [
        *CERTIFICATE_REASONS,
        (NO_STARTTLS, told(MISSING, "start-tls-not-supported")),
        (NOT_IN_POLICY, told("validation-failure", "mx-not-in-policy")),
    ],
    ids=["expired", "name", "untrusted", "no-starttls", "mx"],
)
def test_testing_and_report_only_tell_what_enforcing_would_have_refused(
    mode: str, enforcement: Enforcement, waived: TlsFailure, expected: SessionFailure
) -> None:
    judgement = Judgement(enforcement=enforcement)
    assert counted(findings(mode), None, negotiation(waived=waived), judgement) == {STS: (expected,)}
    assert counted(findings(mode), secure(), negotiation(waived=waived), judgement) == {STS: (expected,), TLSA: ()}


@pytest.mark.rfc("8460-4.2-d", "8460-4.3.4-a")
def test_a_second_try_that_fails_for_other_reasons_says_nothing_of_dane() -> None:
    timeout = HostFailure(kind=FailureKind.TIMEOUT, detail="")
    what = negotiation(timeout, EXPIRED)
    assert counted(findings("testing"), secure(), what) == {STS: (CERTIFICATE_REASONS[0][1],)}


@pytest.mark.rfc("8460-4.2-e", "8460-4.3.1-a")
def test_plaintext_without_a_policy_is_a_failure_of_no_policy() -> None:
    missing = told(MISSING, "start-tls-not-supported")
    assert counted(None, None, negotiation(waived=NO_STARTTLS)) == {NONE: (missing,)}
    assert counted(findings("none"), None, negotiation(waived=NO_STARTTLS)) == {NONE: (missing,)}


# -- hosts that are never contacted --------------------------------------------------------------------------


ELSEWHERE = findings("enforce", "other.test")


def unknown(reason: UnknownReason) -> TlsaUnknown:
    return TlsaUnknown(name=f"_25._tcp.{MX}", unknown=Unknown(reason=reason, detail=""))


@pytest.mark.rfc(
    "8460-4.3.1-f", "8460-4.3.2.1-a", "8460-4.3.2.1-c", "8460-4.3.2.1-d", "8460-4.4-v", "8460-4.3.4-a", "8460-3-c"
)
@pytest.mark.parametrize(
    ("found", "tlsa", "mode", "expected"),
    [
        (ELSEWHERE, None, "opportunistic", (STS, "shop.test", "validation-failure", "mx-not-in-policy")),
        (None, unknown(UnknownReason.BOGUS), "opportunistic", (TLSA, MX, "dnssec-invalid", "dnssec-bogus")),
        (findings(), unknown(UnknownReason.BOGUS), "opportunistic", (TLSA, MX, "dnssec-invalid", "dnssec-bogus")),
        (None, unknown(UnknownReason.SERVFAIL), "opportunistic", (TLSA, MX, "dnssec-invalid", "tlsa-unknown")),
        (None, unknown(UnknownReason.TIMEOUT), "opportunistic", None),
        (None, unknown(UnknownReason.REFUSED), "opportunistic", None),
        (None, NoTlsa(detail="insecure", ttl=TTL), "mandatory", (TLSA, MX, "dane-required", "dane-required")),
        (None, secure(PKIX_ONLY), "mandatory", (TLSA, "real.shop.test", "tlsa-invalid", "tlsa-unusable")),
    ],
    ids=["mx", "bogus", "bogus-with-policy", "servfail", "timeout", "refused", "dane-required", "unusable"],
)  # fmt: skip
def test_a_host_that_is_refused_unseen(
    found: Findings | None,
    tlsa: TlsaFindings | None,
    mode: str,
    expected: tuple[PolicyType, str, str, str] | None,
) -> None:
    refused = host(found, tlsa, Judgement(dane=DaneMode(mode)))
    assert isinstance(refused.verdict, Refusal)
    results = refusal_results("shop.test", refused, found, DAY)
    if expected is None:
        assert results == ()
        return
    (result,) = results
    policy_type, policy_domain, result_type, code = expected
    assert (result.day, result.recipient_domain) == (DAY, "shop.test")
    assert (result.policy.policy_type, result.policy.policy_domain) == (policy_type, policy_domain)
    assert result.failures == (
        SessionFailure(
            result_type=ResultType(result_type), receiving_mx_hostname=MX, failure_reason_code=code
        ),
    )  # fmt: skip


def test_a_route_that_needs_a_policy_where_there_is_none() -> None:
    refused = host(None, None, Judgement(enforcement=Enforcement.MANDATORY))
    (result,) = refusal_results("shop.test", refused, None, DAY)
    assert result.policy == ReportedPolicy(policy_type=NONE, policy_domain="shop.test")
    assert [failure.failure_reason_code for failure in result.failures] == ["policy-required"]


def test_what_a_message_demands_is_no_matter_of_the_domain() -> None:
    refused = host(None, None, Judgement(requiretls=True))
    assert isinstance(refused.verdict, Refusal)
    assert refusal_results("shop.test", refused, None, DAY) == ()


def test_a_host_left_out_for_its_address_is_no_result() -> None:
    unreachable = replace(host(findings()), where=HostFailure(kind=FailureKind.NO_ADDRESS, detail="none"))
    assert isinstance(unreachable.verdict, Requirement)
    assert refusal_results("shop.test", unreachable, findings(), DAY) == ()


@pytest.mark.rfc("8460-4.3.2.1-c", "8460-4.4-i", "8460-4.4-v")
@pytest.mark.parametrize("found", [None, findings()], ids=["alone", "with-policy"])
def test_a_host_whose_addresses_fail_dnssec_fails_dane(found: Findings | None) -> None:
    unreachable = replace(host(found), where=HostFailure(kind=FailureKind.DNS_UNKNOWN, detail="bogus"), bogus=True)
    (result,) = refusal_results("shop.test", unreachable, found, DAY)
    assert (result.day, result.recipient_domain) == (DAY, "shop.test")
    assert result.policy == ReportedPolicy(policy_type=TLSA, policy_domain=MX)
    assert result.failures == (
        SessionFailure(
            result_type=ResultType.DNSSEC_INVALID, receiving_mx_hostname=MX, failure_reason_code="address-dnssec-bogus"
        ),
    )  # fmt: skip


def test_a_host_that_is_refused_is_told_of_once_though_its_addresses_fail_dnssec_too() -> None:
    refused = replace(host(ELSEWHERE), bogus=True)
    (result,) = refusal_results("shop.test", refused, ELSEWHERE, DAY)
    assert result.policy.policy_type is STS


@pytest.mark.rfc("8460-4.3.2.1-c", "8460-4.4-i", "8460-4.4-v")
def test_mx_records_that_fail_dnssec_fail_dane_for_the_domain_itself() -> None:
    attempt = at("shop.test")
    attempt.note_uncontacted([], None, mx_bogus=True)
    attempt.enter("")
    attempt.note_uncontacted([], None, mx_bogus=True)
    (result,) = attempt.results(NOW)
    assert (result.day, result.recipient_domain) == (DAY, "shop.test")
    assert result.policy == ReportedPolicy(policy_type=TLSA, policy_domain="shop.test")
    assert result.failures == (
        SessionFailure(result_type=ResultType.DNSSEC_INVALID, failure_reason_code="mx-dnssec-bogus"),
    )


def test_each_result_type_of_a_session_comes_from_somewhere() -> None:
    """Those of the policy fetch are for the look-up to tell (RFC 8460 §4.3.2.2)."""
    from_sessions = {expected.result_type for _, expected in [*TLS_KINDS.values(), *DANE_KINDS.values()]}
    from_sessions |= {expected.result_type for _, expected in CERTIFICATE_REASONS}
    unseen = {ResultType.TLSA_INVALID, ResultType.DNSSEC_INVALID, ResultType.DANE_REQUIRED}
    fetch = {ResultType.STS_POLICY_FETCH_ERROR, ResultType.STS_POLICY_INVALID, ResultType.STS_WEBPKI_INVALID}
    assert from_sessions | unseen | fetch == set(ResultType)


# -- each once -----------------------------------------------------------------------------------------------


def at(domain: str) -> AttemptSessions:
    attempt = AttemptSessions(DAY)
    attempt.enter(domain)
    return attempt


@pytest.mark.rfc("8460-4.2-c")
def test_a_session_counts_once_for_each_domain() -> None:
    countable, where = Countable(negotiation()), host(None)
    attempts = [at(domain) for domain in ("a.test", "a.test", "b.test")]
    for attempt in attempts:
        attempt.note(where, None, countable)
        attempt.note(where, None, countable)
    counts = [[result.recipient_domain for result in attempt.results(NOW)] for attempt in attempts]
    assert counts == [["a.test"], [], ["b.test"]]


@pytest.mark.rfc("8460-3-b")
@pytest.mark.parametrize(
    ("route", "domain"),
    [
        (Route(findings=findings()), "shop.test"),
        (Route(), "example.test"),
        (Route(next_hop=NextHop(host="hop.test")), "hop.test"),
        (Route(next_hop=NextHop(host=ip_address("192.0.2.1"))), ""),
    ],
    ids=["policy-domain", "no-mta-sts", "next-hop", "address"],
)
def test_whose_record_says_who_is_told(route: Route, domain: str) -> None:
    assert reported_domain("example.test", route) == domain


def test_an_address_literal_has_no_record() -> None:
    assert reported_domain("[192.0.2.1]", Route()) == ""


@pytest.mark.rfc("8460-3-b")
def test_an_attempt_tells_each_next_hop_of_its_own_sessions() -> None:
    refused = host(ELSEWHERE)
    attempt = at("a.test")
    attempt.note(host(None), None, Countable(negotiation()))
    attempt.note_uncontacted([refused], ELSEWHERE)
    attempt.enter("")
    attempt.note(host(None), None, Countable(negotiation()))
    attempt.note_uncontacted([refused], ELSEWHERE)
    attempt.enter("b.test")
    attempt.note(host(None), None, Countable(negotiation()))
    assert [(result.recipient_domain, bool(result.failures)) for result in attempt.results(NOW)] == [
        ("a.test", False),
        ("b.test", False),
        ("a.test", True),
    ]


def test_a_settlement_that_comes_to_nothing_leaves_the_count_to_the_next() -> None:
    countable, where = Countable(negotiation()), host(None)
    first, second, third = (at("a.test") for _ in range(3))
    first.note(where, None, countable)
    first.give_back()
    second.note(where, None, countable)
    assert len(second.results(NOW)) == 1
    second.settled()
    second.give_back()
    third.note(where, None, countable)
    assert third.results(NOW) == ()


def test_what_is_not_counted_is_not_noted() -> None:
    attempt = at("a.test")
    attempt.note(host(None), None, None)
    assert attempt.results(NOW) == ()
