"""What `check` gives to paste into a mail: theirs to mend, and nothing where nothing is."""

import ipaddress
from datetime import UTC, datetime, timedelta

import pytest

from policy.findings import CachedPolicy, FetchProblem, Findings, LookupResult
from policy.mta_sts import Mode, Policy
from policy.requirement import Level, MxMatch, Refusal, RefusalReason, Requirement, ResultType
from policy.tls_facts import TlsFailure
from relay.app.looking import AddressLook, HostLook, Look
from relay.app.postmaster import words
from relay.delivery.hosts import Host
from relay.delivery.seam import SessionFacts
from relay.queue.attempt import FailureKind, HostFailure, Phase, Security

NOW = datetime(2026, 1, 1, tzinfo=UTC)
ADDRESS = ipaddress.ip_address("192.0.2.1")
EXPIRED = TlsFailure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="CertificateExpired", detail="ended in 2021")
NO_STARTTLS = TlsFailure(result_type=ResultType.STARTTLS_NOT_SUPPORTED, reason="", detail="not offered")


def findings(problem: FetchProblem | None = None) -> Findings:
    policy = Policy(mode=Mode.ENFORCE, mx=("mx.x.test",), max_age=timedelta(days=7), text="")
    cached = CachedPolicy(policy_domain="x.test", record_id="7", policy=policy, fetched_at=NOW)
    return Findings(policy_domain="x.test", result=LookupResult.CACHED, cached=cached, problem=problem)


def found(verdict: Requirement | Refusal, *connections: AddressLook, problem: FetchProblem | None = None) -> Look:
    host = Host(name=verdict.mx_host, port=25, where=(ADDRESS,), verdict=verdict)
    hosts = (HostLook(host=host, connections=connections),)
    return Look(destination="x.test", findings=findings(problem), failure=None, hosts=hosts)


def verified(level: Level = Level.VERIFIED, mx_match: MxMatch = MxMatch.MATCHED) -> Requirement:
    return Requirement(level=level, mx_host="mx.x.test", mx_match=mx_match)


def refused(kind: FailureKind, tls: TlsFailure | None = None) -> AddressLook:
    failure = HostFailure(kind=kind, detail="as it was", tls=tls)
    return AddressLook(address="192.0.2.1", phase=Phase.HANDSHAKE, failure=failure)


def tolerated(tls: TlsFailure | None) -> AddressLook:
    facts = SessionFacts(security=Security.OPPORTUNISTIC, testing_failure=tls)
    return AddressLook(address="192.0.2.1", facts=facts)


OTHER = TlsFailure(result_type=ResultType.VALIDATION_FAILURE, reason="MxNotInPolicy", detail="not named")


@pytest.mark.parametrize(
    ("look", "says"),
    [
        (found(verified(), refused(FailureKind.CERTIFICATE, EXPIRED)), ["mx.x.test", "expired"]),
        (found(verified(), refused(FailureKind.STARTTLS_MISSING)), ["mx.x.test", "STARTTLS"]),
        (found(verified(Level.TESTING), tolerated(EXPIRED)), ["mx.x.test", "expired"]),
        (found(verified(Level.TESTING), tolerated(NO_STARTTLS)), ["STARTTLS", "MTA-STS policy demands"]),
        (found(verified(Level.TESTING, MxMatch.NOT_MATCHED), tolerated(OTHER)), ['"mx: mx.x.test"', "id 7"]),
        (
            found(Refusal(mx_host="mx.y.test", reason=RefusalReason.MX_NOT_IN_POLICY, detail="not named")),
            ['"mx: mx.y.test"', "_mta-sts.x.test"],
        ),
        (
            found(
                verified(),
                tolerated(None),
                problem=FetchProblem(result_type=ResultType.STS_WEBPKI_INVALID, detail="a\r\nb"),
            ),
            ["https://mta-sts.x.test/.well-known/mta-sts.txt", "sts-webpki-invalid"],
        ),
    ],
)
def test_each_fault_of_theirs_has_its_words(look: Look, says: list[str]) -> None:
    (paragraph,) = words(look, NOW)
    for text in says:
        assert text in paragraph
    assert paragraph.isprintable()


@pytest.mark.parametrize(
    "look",
    [
        found(verified()),
        found(verified(), tolerated(None)),
        found(verified(), refused(FailureKind.TIMEOUT)),
        Look(destination="x.test", findings=None, failure=None, hosts=()),
    ],
)
def test_where_nothing_is_theirs_to_mend_there_are_no_words(look: Look) -> None:
    assert words(look, NOW) == []


def test_two_addresses_with_the_same_fault_get_one_paragraph() -> None:
    both = found(verified(), *[refused(FailureKind.CERTIFICATE, EXPIRED)] * 2)
    assert len(words(both, NOW)) == 1
