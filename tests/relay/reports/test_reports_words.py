"""Each status has its own explanation, and the recipient's postmaster gets words to act on (design §6)."""

from dataclasses import replace
from datetime import timedelta

import pytest
from report_makers import (
    BAD_CERTIFICATE,
    EXPIRED,
    NO_STARTTLS,
    POLICY,
    STRANGER,
    TLSA_MISMATCH,
    make_attempt,
    make_host,
    make_job,
)

from policy.requirement import Level, ResultType
from policy.tls_facts import CertificateFacts, TlsFailure
from relay.queue.attempt import FailureKind, HostAttempt, HostFailure, Phase
from relay.queue.final_status import host_verdict
from relay.queue.notice import ADMINISTRATOR_DROPPED
from relay.reports.remedy import listed, remedies
from relay.reports.words import OWN, RELAYED, REMOTE, Words, own_words, remote_words
from relay.status import Status


def every_verdict() -> list[Status]:
    """Every status that the relay itself can give."""
    found = {ADMINISTRATOR_DROPPED, Status(5, 4, 300)}
    for kind in FailureKind:
        host = replace(make_host(phase=Phase.EHLO), level=Level.VERIFIED, failure=HostFailure(kind=kind, detail=""))
        for utf8_path in (True, False):
            if kind is not FailureKind.REPLY:
                found.add(host_verdict([host], None, domain="d.test", utf8_path=utf8_path).status)
    return sorted(found)


@pytest.mark.parametrize("status", every_verdict())
def test_every_verdict_of_our_own_has_words_of_its_own(status: Status) -> None:
    assert (status.subject, status.detail) in OWN


def test_no_words_are_there_for_a_verdict_that_cannot_be() -> None:
    assert set(OWN) == {(status.subject, status.detail) for status in every_verdict()}


@pytest.mark.parametrize("words", [*OWN.values(), *REMOTE.values(), RELAYED])
def test_words_can_be_filled_in_and_are_plain(words: Words) -> None:
    for text in (words.happened, words.advice, words.admin, words.fixer.value if words.fixer else "-"):
        filled = text.format(domain="example.test", postmaster="postmaster@contoso.test")
        assert filled
        assert filled.isascii()
        assert "{" not in filled


def test_a_verdict_without_words_still_gets_some() -> None:
    assert "could not be handed" in own_words(Status(5, 9, 9)).happened


@pytest.mark.rfc("3463-2-c")
@pytest.mark.parametrize(
    ("status", "told"),
    [
        (Status(5, 1, 1), "does not exist"),
        (Status(5, 1, 99), "does not accept the address"),
        (Status(5, 2, 2), "mailbox is full"),
        (Status(4, 2, 2), "mailbox is full"),
        (Status(5, 2, 99), "does not take the message"),
        (Status(5, 3, 4), "larger than the mail server"),
        (Status(5, 6, 0), "content of your message"),
        (Status(5, 7, 1), "has refused your message"),
        (Status(5, 7, 26), "really comes from your organisation"),
        (Status(5, 7, 999), "security or policy"),
        (Status(4, 7, 1), "try again later"),
        (Status(4, 0, 0), "try again later"),
        (Status(5, 0, 0), "does not take the message"),
    ],
)
def test_a_remote_status_with_an_unknown_detail_counts_as_its_subject(status: Status, told: str) -> None:
    assert told in remote_words(status).happened


# -- ready words for the recipient's postmaster ----------------------------------------------------------------


def remedies_of(*hosts: HostAttempt) -> list[str]:
    attempt = make_attempt(make_job(), EXPIRED.not_after + timedelta(days=1), hosts=hosts, policy=POLICY)
    return remedies("example.test", attempt)


def bad_certificate(result_type: ResultType, certificate: CertificateFacts | None = EXPIRED) -> HostAttempt:
    tls = TlsFailure(result_type=result_type, reason="R", detail="why not", certificate=certificate)
    failure = HostFailure(kind=FailureKind.CERTIFICATE, detail="why not", tls=tls)
    return make_host(phase=Phase.HANDSHAKE, failure=failure)


def test_an_mx_that_the_policy_lacks_is_to_be_added_if_it_is_theirs() -> None:
    other = replace(STRANGER, mx_host="mx8.hoster.test")
    (one,) = remedies_of(STRANGER)
    assert "lists mx1.example.test and *.mail.example.test; your MX is mx9.hoster.test" in one
    assert 'add "mx: mx9.hoster.test" to the policy and then change the id in the TXT record' in one
    assert "If not, remove it from your MX records" in one
    (two,) = remedies_of(STRANGER, other, STRANGER)
    assert 'If those hosts are yours, add "mx: mx9.hoster.test" and "mx: mx8.hoster.test"' in two


@pytest.mark.parametrize(
    ("host", "told"),
    [
        (BAD_CERTIFICATE, "expired on 2026-11-18. Renew it"),
        (bad_certificate(ResultType.CERTIFICATE_EXPIRED, None), "mx1.example.test expired. Renew it"),
        (
            bad_certificate(ResultType.CERTIFICATE_HOST_MISMATCH),
            "made out to mx1.example.test and www.example.test, not to mx1.example.test",
        ),
        (bad_certificate(ResultType.CERTIFICATE_HOST_MISMATCH, None), "made out to no DNS name"),
        (bad_certificate(ResultType.CERTIFICATE_NOT_TRUSTED), "(issued by CN=R11,O=Let's Encrypt,C=US) does not chain"),
        (bad_certificate(ResultType.CERTIFICATE_NOT_TRUSTED, None), "mx1.example.test does not chain"),
        (bad_certificate(ResultType.VALIDATION_FAILURE), "does not verify: why not."),
        (NO_STARTTLS, "Turn STARTTLS on"),
        (
            make_host(phase=Phase.HANDSHAKE, failure=HostFailure(kind=FailureKind.HANDSHAKE, detail="no cipher")),
            "TLS handshake with your mail host mx1.example.test fails (no cipher)",
        ),
    ],
)
def test_each_fault_of_a_host_has_its_remedy(host: HostAttempt, told: str) -> None:
    (remedy,) = remedies_of(host)
    assert told in remedy


@pytest.mark.parametrize("kind", [FailureKind.TIMEOUT, FailureKind.CERTIFICATE])
def test_what_no_policy_refused_needs_no_remedy(kind: FailureKind) -> None:
    assert remedies_of(make_host(failure=HostFailure(kind=kind, detail="d"))) == []


def test_the_same_fault_is_told_once() -> None:
    assert len(remedies_of(NO_STARTTLS, replace(NO_STARTTLS, address="192.0.2.11"))) == 1


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ((), "nothing"),
        (("a",), "a"),
        (("a", "b"), "a and b"),
        (("a", "b", "c"), "a, b and c"),
        (tuple("abcdefghijkl"), "a, b, c, d, e, f, g, h, i, j and 2 more"),
    ],
)
def test_names_are_listed_in_a_sentence(names: tuple[str, ...], text: str) -> None:
    assert listed(names) == text


@pytest.mark.parametrize(
    ("kind", "detail", "told"),
    [
        (FailureKind.DANE_CERTIFICATE, "no TLSA record matches", "its TLSA records: no TLSA record matches"),
        (FailureKind.DANE_EXPIRED, "certificate has expired", "expired. Renew it"),
        (FailureKind.DANE_NAME, "the certificate does not name mx1", "does not name it: the certificate does"),
        (FailureKind.DNSSEC_BOGUS, "_25._tcp.mx1: bogus", "DNSSEC fails for the TLSA records"),
        (FailureKind.STARTTLS_MISSING, "", "which your TLSA records (DANE) demand"),
    ],
)  # fmt: skip
def test_what_dane_refuses_has_ready_words(kind: FailureKind, detail: str, told: str) -> None:
    host = replace(TLSA_MISMATCH, failure=HostFailure(kind=kind, detail=detail))
    (paragraph,) = remedies_of(host)
    assert told in paragraph


def test_what_a_route_of_ours_demands_is_nothing_for_their_postmaster() -> None:
    assert remedies_of(replace(TLSA_MISMATCH, failure=HostFailure(kind=FailureKind.DANE_REQUIRED, detail=""))) == []


@pytest.mark.rfc("8689-4.2.1-m")
def test_a_host_without_requiretls_has_ready_words() -> None:
    failure = HostFailure(kind=FailureKind.REQUIRETLS_MISSING, detail="the host does not offer it")
    (paragraph,) = remedies_of(make_host(phase=Phase.EHLO, failure=failure))
    assert "REQUIRETLS (RFC 8689), which your mail host" in paragraph
