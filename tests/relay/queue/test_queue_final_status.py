"""One status for recipients whom no host took (design §6; exchange-online.md §3)."""

from dataclasses import replace
from datetime import UTC, datetime

import pytest

from policy.requirement import Level, MxMatch, ResultType
from policy.tls_facts import TlsFailure
from relay.queue.attempt import DaneScope, FailureKind, HostAttempt, HostFailure, Phase
from relay.queue.final_status import HostVerdict, host_verdict
from relay.status import Reply, Status

NOW = datetime(2026, 11, 20, tzinfo=UTC)
EXPIRED = TlsFailure(result_type=ResultType.CERTIFICATE_EXPIRED, reason="CertificateExpired", detail="ended in May")
MX1 = "[LastAttemptedServerName=mx1.example.test] [LastAttemptedIP=192.0.2.1:25]"

NO_TLS = "starttls-not-supported: Destination mail server must support TLS to receive mail."


def host(
    kind: FailureKind,
    phase: Phase = Phase.CONNECT,
    *,
    name: str = "mx1.example.test",
    address: str | None = "192.0.2.1",
    level: Level = Level.VERIFIED,
    detail: str = "",
    reply: Reply | None = None,
    tls: TlsFailure | None = None,
    dane: DaneScope | None = None,
) -> HostAttempt:
    return HostAttempt(
        mx_host=name,
        address=address,
        port=25,
        phase=phase,
        level=level,
        mx_match=MxMatch.NO_POLICY,
        failure=HostFailure(kind=kind, detail=detail, reply=reply, tls=tls),
        dane=dane,
    )


def verdict(*hosts: HostAttempt, failure: HostFailure | None = None) -> HostVerdict:
    return host_verdict(hosts, failure, domain="example.test")


TABLE = [
    (host(FailureKind.CERTIFICATE, Phase.HANDSHAKE, tls=EXPIRED), "4.7.5",
     f"Remote certificate failed MTA-STS validation. Reason: CertificateExpired {MX1}", True),
    (host(FailureKind.STARTTLS_MISSING, Phase.EHLO), "4.7.321",
     f"{NO_TLS} {MX1}", True),
    (host(FailureKind.STARTTLS_REFUSED, Phase.STARTTLS, reply=Reply(554, ("5.7.0 no",))), "4.7.321",
     f"{NO_TLS} [Message=554 5.7.0 no] {MX1}", True),
    (host(FailureKind.HANDSHAKE, Phase.HANDSHAKE, detail="no shared cipher"), "4.7.321",
     f"{NO_TLS} [Message=no shared cipher] {MX1}", True),
    (host(FailureKind.TIMEOUT), "4.4.315", f"Connection timed out {MX1}", False),
    (host(FailureKind.CONNECTION_REFUSED), "4.4.316", f"Connection refused {MX1}", False),
    (host(FailureKind.BROKEN_OFF), "4.4.318", f"Connection was closed abruptly {MX1}", False),
    (host(FailureKind.PROTOCOL, detail="mixed codes"), "4.5.0", f"Protocol error [Message=mixed codes] {MX1}", False),
    (host(FailureKind.LOOP), "5.4.6", f"Routing loop detected {MX1}", False),
    (host(FailureKind.EIGHT_BIT), "5.6.3",
     f"Conversion required but not supported: no 8BITMIME at example.test {MX1}", False),
    (host(FailureKind.SMTPUTF8), "5.6.7",
     f"Internationalized address not supported: no SMTPUTF8 at example.test {MX1}", False),
    (host(FailureKind.TOO_LARGE, detail="SIZE 10"), "5.3.4",
     f"Message too big for system [Message=SIZE 10] {MX1}", False),
    (host(FailureKind.ADDRESS_REFUSED, address=None), "4.4.4",
     "Unable to route: the address of the mail host is not public", False),
    (host(FailureKind.NO_ADDRESS, address=None), "5.4.4",
     "Unable to route: the mail hosts of example.test have no address", False),
    (host(FailureKind.INTERNAL), "4.3.0", f"Internal error of the relay {MX1}", False),
]  # fmt: skip


@pytest.mark.rfc("code-d", "code-f", "code-h", "code-i", "code-j", "code-k", "3463-3.5-a")
@pytest.mark.parametrize(("tried", "status", "text", "refused"), TABLE)
def test_one_host_that_failed(tried: HostAttempt, status: str, text: str, refused: bool) -> None:
    found = verdict(tried)
    assert (str(found.status), found.diagnostic, found.refused) == (status, text, refused)
    assert found.reply is None
    assert found.remote_mta == ("mx1.example.test" if tried.address else None)


@pytest.mark.rfc("code-b")
@pytest.mark.parametrize(
    ("kind", "status", "text"),
    [
        (FailureKind.DNS_UNKNOWN, "4.4.312", "DNS query failed [Message=SERVFAIL]"),
        (FailureKind.POLICY_UNKNOWN, "4.4.312",
         "DNS query failed for the MTA-STS record of example.test [Message=SERVFAIL]"),
        (FailureKind.DOMAIN_ABSENT, "5.4.310", "DNS domain example.test does not exist [Message=SERVFAIL]"),
        (FailureKind.NULL_MX, "5.1.10",
         "Recipient address has null MX: example.test accepts no mail [Message=SERVFAIL]"),
        (FailureKind.LOOP, "5.4.6", "Routing loop detected [Message=SERVFAIL]"),
    ],
)  # fmt: skip
def test_no_host_to_try(kind: FailureKind, status: str, text: str) -> None:
    found = verdict(failure=HostFailure(kind=kind, detail="SERVFAIL"))
    assert (str(found.status), found.diagnostic) == (status, text)
    assert (found.remote_mta, found.remote_address, found.reply) == (None, None, None)


def test_mx_not_in_policy_names_the_domain_and_no_host() -> None:
    found = verdict(host(FailureKind.MX_NOT_IN_POLICY, Phase.ROUTE, address=None))
    assert found == HostVerdict(
        Status(4, 4, 8), "MX hosts of example.test failed MTA-STS validation", True, False, None, None, None
    )


@pytest.mark.parametrize(
    ("reply", "status"),
    [
        (Reply(554, ("5.7.1 listed",)), "4.7.1"),
        (Reply(554, ("no service",)), "4.0.0"),
        (Reply(421, ("4.3.2 shutting down",)), "4.3.2"),
    ],
)
def test_what_a_host_says_of_itself_is_temporary(reply: Reply, status: str) -> None:
    found = verdict(host(FailureKind.REPLY, Phase.GREETING, reply=reply))
    assert (str(found.status), found.diagnostic, found.reply) == (status, str(reply), reply)


def test_a_refusal_outranks_a_host_that_came_further() -> None:
    found = verdict(
        host(FailureKind.TIMEOUT, Phase.END_OF_DATA, name="mx2.example.test"),
        host(FailureKind.MX_NOT_IN_POLICY, Phase.ROUTE, address=None),
    )
    assert found.status == Status(4, 4, 8)


def test_of_two_refusals_the_host_that_came_further_decides() -> None:
    found = verdict(
        host(FailureKind.MX_NOT_IN_POLICY, Phase.ROUTE, address=None),
        host(FailureKind.CERTIFICATE, Phase.HANDSHAKE, tls=EXPIRED, name="mx2.example.test"),
    )
    assert (found.status, found.remote_mta) == (Status(4, 7, 5), "mx2.example.test")


def test_without_a_refusal_the_host_that_came_furthest_decides_and_the_first_of_equals() -> None:
    found = verdict(
        host(FailureKind.CONNECTION_REFUSED, Phase.CONNECT),
        host(FailureKind.TIMEOUT, Phase.GREETING, name="mx2.example.test"),
        host(FailureKind.BROKEN_OFF, Phase.GREETING, name="mx3.example.test"),
    )
    assert (found.status, found.remote_mta) == (Status(4, 4, 315), "mx2.example.test")


def test_a_host_that_may_recover_keeps_the_message_queued() -> None:
    found = verdict(
        host(FailureKind.EIGHT_BIT, Phase.MAIL),
        host(FailureKind.TIMEOUT, Phase.CONNECT, name="mx2.example.test"),
    )
    assert found.status == Status(4, 4, 315)


@pytest.mark.parametrize("kind", [FailureKind.STARTTLS_MISSING, FailureKind.HANDSHAKE, FailureKind.CERTIFICATE])
def test_without_a_policy_a_tls_failure_refuses_nothing(kind: FailureKind) -> None:
    found = verdict(host(kind, Phase.HANDSHAKE, level=Level.OPPORTUNISTIC))
    assert (found.status, found.refused) == (Status(4, 4, 318), False)


def test_hosts_without_a_failure_do_not_count_and_nothing_at_all_is_our_mistake() -> None:
    fine = HostAttempt(
        mx_host="mx1.example.test",
        address="192.0.2.1",
        port=25,
        phase=Phase.END_OF_DATA,
        level=Level.OPPORTUNISTIC,
        mx_match=MxMatch.NO_POLICY,
    )
    found = verdict(fine)
    assert (found.status, found.diagnostic) == (
        Status(4, 3, 0),
        "Internal error of the relay [Message=no host was tried]",
    )


@pytest.mark.rfc("code-k")
def test_a_header_alone_that_needs_smtputf8_is_5_6_9() -> None:
    found = host_verdict([host(FailureKind.SMTPUTF8)], None, domain="example.test", utf8_path=False)
    assert found.status == Status(5, 6, 9)


def test_every_kind_of_failure_has_a_verdict() -> None:
    for kind in FailureKind:
        found = verdict(host(kind))
        assert found.status.class_ in (4, 5)
        assert "{" not in found.diagnostic


BY_DANE = [
    (FailureKind.DANE_EXPIRED, "4.7.322", "certificate-expired: "),
    (FailureKind.DANE_CERTIFICATE, "4.7.323", "tlsa-invalid: "),
    (FailureKind.TLSA_UNUSABLE, "4.7.323", "tlsa-invalid: "),
    (FailureKind.DNSSEC_BOGUS, "4.7.324", "dnssec-invalid: "),
    (FailureKind.DANE_NAME, "4.7.325", "certificate-host-mismatch: "),
    (FailureKind.DANE_REQUIRED, "4.7.320", "dane-required: "),
    (FailureKind.STARTTLS_MISSING, "4.7.321", "starttls-not-supported: "),
    (FailureKind.HANDSHAKE, "4.7.321", "starttls-not-supported: "),
]


@pytest.mark.rfc("7672-1-b")
@pytest.mark.parametrize(("kind", "status", "begins"), BY_DANE)
def test_what_dane_refuses_is_temporary_and_no_policy_could_mend_it(
    kind: FailureKind, status: str, begins: str
) -> None:
    found = verdict(host(kind, level=Level.OPPORTUNISTIC, detail="why", dane=DaneScope.HOST))
    assert (str(found.status), found.diagnostic.startswith(begins)) == (status, True)
    assert "[Message=why]" in found.diagnostic
    assert (found.refused, found.refused_by_dane) == (True, True)


def test_where_a_policy_demands_tls_as_well_it_is_looked_up_anew() -> None:
    found = verdict(host(FailureKind.STARTTLS_MISSING, level=Level.VERIFIED, dane=DaneScope.DOMAIN))
    assert (found.refused, found.refused_by_dane) == (True, False)
    assert verdict(host(FailureKind.DANE_CERTIFICATE, level=Level.VERIFIED, dane=DaneScope.HOST)).refused_by_dane


REQUIRETLS_LACKING = host(FailureKind.REQUIRETLS_MISSING, Phase.EHLO)


@pytest.mark.rfc("8689-4.2.1-m", "8689-4.2.1-n", "8689-7-a", "code-o")
@pytest.mark.parametrize(
    ("hosts", "status", "refused"),
    [
        ((REQUIRETLS_LACKING,), "5.7.30", False),
        ((host(FailureKind.MX_NOT_VALIDATED, Phase.ROUTE), REQUIRETLS_LACKING), "5.7.30", False),
        ((host(FailureKind.MX_VALIDATION_UNKNOWN, Phase.ROUTE), REQUIRETLS_LACKING), "4.7.30", True),
        ((host(FailureKind.REQUIRETLS_TLS, Phase.STARTTLS), REQUIRETLS_LACKING), "4.7.10", True),
        ((host(FailureKind.REQUIRETLS_CERTIFICATE, Phase.HANDSHAKE, tls=EXPIRED), REQUIRETLS_LACKING), "4.7.30", True),
        ((host(FailureKind.TIMEOUT, Phase.CONNECT), REQUIRETLS_LACKING), "4.4.315", False),
        ((host(FailureKind.DNS_UNKNOWN, Phase.ROUTE), REQUIRETLS_LACKING), "4.4.312", False),
        ((host(FailureKind.NO_ADDRESS, Phase.ROUTE), REQUIRETLS_LACKING), "5.7.30", False),
    ],
)
def test_requiretls_is_final_only_where_waiting_cannot_help(
    hosts: tuple[HostAttempt, ...], status: str, *, refused: bool
) -> None:
    verdict = host_verdict([replace(one, level=Level.OPPORTUNISTIC) for one in hosts], None, domain="d.test")
    assert (str(verdict.status), verdict.refused, verdict.refused_by_dane) == (status, refused, refused)
