"""What a message with REQUIRETLS demands of a session, over real connections to the lab's MX (RFC 8689 §4.2.1)."""

import ssl
from dataclasses import replace

import pytest
from client_world import DESTINATION, LONG, MX, World, codes, message, parcel, until, world

from policy.answers import TlsaRecord
from policy.dane import DANE_EE, usable
from policy.requirement import DaneDemand, Level, MxMatch, RouteDemand
from relay.delivery.link import Link, UnprotectedError
from relay.delivery.seam import HostError, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.mx_behaviour import WITH_REQUIRETLS, Handshake, MxBehaviour
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase, Security
from relay.queue.message import Envelope

LETTER = message(require_tls=True)
GOOD = MxBehaviour(keywords_in_tls=WITH_REQUIRETLS)
BEFORE_TLS_ONLY = MxBehaviour(keywords=WITH_REQUIRETLS, keywords_in_tls=("PIPELINING", "8BITMIME", "DSN"))
UNUSABLE = TlsaRecord(usage=1, selector=1, matching_type=1, data=bytes(32))


def target(
    at: World,
    level: Level = Level.OPPORTUNISTIC,
    *records: TlsaRecord,
    mx_match: MxMatch = MxMatch.NO_POLICY,
    route: RouteDemand | None = None,
) -> Target:
    found = at.target(level, mx_match=mx_match)
    dane = DaneDemand(base_domain=MX, reference_names=(MX,), records=usable(records)) if records else None
    return replace(found, requirement=replace(found.requirement, requiretls=True, dane=dane, route=route))


def shown(at: World) -> TlsaRecord:
    """The DANE-EE record of the certificate that the host shows."""
    data = tlsa_record(DANE_EE, 1, 1, at.ca.identity(at.host.behaviour.certificate, MX).certificate)
    return TlsaRecord(usage=DANE_EE, selector=1, matching_type=1, data=bytes.fromhex(data.rpartition(" ")[2]))


async def deliver(at: World, to: Target) -> SessionFacts:
    async with at.pool.open(to, destination=DESTINATION, size=LONG) as session:
        assert codes(await session.send(parcel(letter=LETTER))) == {1: 250}
        return session.facts


async def refusal(at: World, to: Target) -> HostError:
    """The error that a delivery ends in, of which the host has seen no envelope."""
    try:
        facts = await deliver(at, to)
    except HostError as error:
        await at.host.ended.wait_for(len(at.host.sessions))
        assert [line for session in at.host.sessions for line in session.verbs() if line == "MAIL"] == []
        return error
    raise AssertionError(f"no HostError, but {facts}")


@pytest.mark.rfc("8689-4.2.1-o", "8689-4.2.1-g", "8689-2-j", "8689-2-i")
async def test_a_host_that_keeps_to_it_gets_the_parameter() -> None:
    async with world(GOOD) as at:
        facts = await deliver(at, target(at))
        assert facts.security is Security.REQUIRETLS
        assert facts.tls is not None
        assert (facts.tls.verified, facts.tls.server_name) == (True, MX)
        (received,) = at.host.messages
        assert received.mail_parameters[-1] == "REQUIRETLS"
        assert at.host.sessions[0].verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert at.host.violations == []


@pytest.mark.parametrize(("level", "security"), [(Level.VERIFIED, Security.STS), (Level.TESTING, Security.STS)])
async def test_what_a_policy_verifies_is_told_as_that(level: Level, security: Security) -> None:
    async with world(GOOD) as at:
        assert (await deliver(at, target(at, level, mx_match=MxMatch.MATCHED))).security is security


@pytest.mark.rfc("8689-4.2.1-e")
async def test_a_certificate_that_dane_authenticates_will_do() -> None:
    async with world(replace(GOOD, certificate=CertificateKind.SELF_SIGNED)) as at:
        facts = await deliver(at, target(at, Level.OPPORTUNISTIC, shown(at)))
        assert facts.security is Security.DANE
        assert (await deliver(at, target(at, Level.TESTING, shown(at)))).security is Security.DANE


@pytest.mark.rfc("8689-4.2.1-i", "8689-2-j", "8689-2-f", "8461-x-b")
@pytest.mark.parametrize("behaviour", [MxBehaviour(), BEFORE_TLS_ONLY])
@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING, Level.VERIFIED])
async def test_a_host_that_does_not_offer_it_within_tls_gets_quit(behaviour: MxBehaviour, level: Level) -> None:
    async with world(behaviour) as at:
        error = await refusal(at, target(at, level))
        assert (error.failure.kind, error.phase) == (FailureKind.REQUIRETLS_MISSING, Phase.EHLO)
        assert [session.verbs() for session in at.host.sessions] == [["EHLO", "STARTTLS", "EHLO", "QUIT"]]


@pytest.mark.rfc("8689-4.2.1-e", "8689-8.2-a", "8689-2-i")
@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING])
@pytest.mark.parametrize(
    "kind", [CertificateKind.EXPIRED, CertificateKind.SELF_SIGNED, CertificateKind.WRONG_NAME, CertificateKind.CN_ONLY]
)
async def test_a_certificate_that_proves_nothing_gets_no_mail_whatever_the_policy(
    kind: CertificateKind, level: Level
) -> None:
    async with world(replace(GOOD, certificate=kind)) as at:
        error = await refusal(at, target(at, level))
        assert (error.failure.kind, error.phase) == (FailureKind.REQUIRETLS_CERTIFICATE, Phase.HANDSHAKE)
        assert error.failure.tls is not None


@pytest.mark.rfc("8689-4.2.1-f")
async def test_where_the_policy_demands_a_certificate_it_is_the_policy_that_refuses() -> None:
    async with world(replace(GOOD, certificate=CertificateKind.CN_ONLY)) as at:
        error = await refusal(at, target(at, Level.VERIFIED, mx_match=MxMatch.MATCHED))
        assert error.failure.kind is FailureKind.CERTIFICATE


async def test_tlsa_records_none_of_which_can_be_used_do_not_spare_the_certificate() -> None:
    async with world(replace(GOOD, certificate=CertificateKind.SELF_SIGNED)) as at:
        error = await refusal(at, target(at, Level.OPPORTUNISTIC, UNUSABLE))
        assert error.failure.kind is FailureKind.REQUIRETLS_CERTIFICATE
    async with world(MxBehaviour(offers_starttls=False)) as at:
        error = await refusal(at, target(at, Level.OPPORTUNISTIC, UNUSABLE))
        assert error.failure.kind is FailureKind.STARTTLS_MISSING


@pytest.mark.rfc("8689-4.2.1-h", "8689-8.2-a", "8689-4.2.1-d", "3207-6-b")
@pytest.mark.parametrize(
    ("behaviour", "kind"),
    [
        (replace(GOOD, offers_starttls=False, keywords=WITH_REQUIRETLS), FailureKind.REQUIRETLS_TLS),
        (replace(GOOD, replies={Say.STARTTLS: "454 4.7.0 not now"}), FailureKind.REQUIRETLS_TLS),
        (replace(GOOD, handshake=Handshake.ALERT), FailureKind.REQUIRETLS_TLS),
        (
            replace(GOOD, oldest_tls=ssl.TLSVersion.TLSv1_1, newest_tls=ssl.TLSVersion.TLSv1_1),
            FailureKind.REQUIRETLS_TLS,
        ),
        (replace(GOOD, replies={Say.EHLO: "502 5.5.1 What?"}), FailureKind.REPLY),
    ],
)
async def test_without_tls_or_ehlo_there_is_no_mail(behaviour: MxBehaviour, kind: FailureKind) -> None:
    async with world(behaviour) as at:
        assert (await refusal(at, target(at))).failure.kind is kind
        assert "HELO" not in [verb for session in at.host.sessions for verb in session.verbs()]


@pytest.mark.parametrize(
    ("level", "kind"),
    [(Level.ENCRYPTED, FailureKind.REQUIRETLS_CERTIFICATE), (Level.VERIFIED, FailureKind.ROUTE_CERTIFICATE)],
)
async def test_beside_a_route_each_is_named_for_what_it_demands(level: Level, kind: FailureKind) -> None:
    async with world(replace(GOOD, certificate=CertificateKind.SELF_SIGNED)) as at:
        assert (await refusal(at, target(at, route=RouteDemand(level=level)))).failure.kind is kind


@pytest.mark.rfc("8689-g-b", "8689-4.2.1-p", "8689-4.2.1-j")
async def test_no_session_is_shared_with_mail_that_demands_less() -> None:
    async with world(GOOD) as at:
        await at.send()
        await deliver(at, target(at))
        await deliver(at, target(at))
        await at.send()
        assert len(at.host.sessions) == 2
        said = ["REQUIRETLS" in one.mail_parameters for one in at.host.messages]
        assert said == [False, True, True, False]


@pytest.mark.rfc("8689-5-d", "8689-5-f")
@pytest.mark.parametrize(
    ("behaviour", "passed_on"),
    [(GOOD, True), (MxBehaviour(), False), (BEFORE_TLS_ONLY, False), (MxBehaviour(offers_starttls=False), False)],
)
async def test_with_a_null_reverse_path_it_is_passed_on_where_it_can_be(
    behaviour: MxBehaviour, *, passed_on: bool
) -> None:
    async with world(behaviour) as at:
        notice = message(require_tls=True, envelope=Envelope(reverse_path=""))
        assert codes(await at.send(parcel(letter=notice))) == {1: 250}
        (received,) = at.host.messages
        assert ("REQUIRETLS" in received.mail_parameters) is passed_on
        assert at.host.violations == []


async def test_a_session_that_nobody_asked_for_it_does_not_carry_the_message() -> None:
    """A fault of ours would have to come before; it is the host that is found wanting, not the message lost."""
    async with world() as at:
        error = await at.fail(parcel(letter=LETTER))
        assert error.failure.kind is FailureKind.REQUIRETLS_MISSING
        assert at.host.messages == []


async def test_no_command_gets_past_the_choke_point_without_the_offer() -> None:
    async with world() as at:
        link = Link(requirement=target(at).requirement, hostname="relay.example.com", timeouts=Timeouts())
        await link.connect(target(at).address, at.port)
        await link.ehlo()
        await link.start_tls(at.connector._contexts.verified, MX)
        await link.ehlo()
        with pytest.raises(UnprotectedError, match="REQUIRETLS"):
            link.pipeline(b"MAIL FROM:<a@b.test>\r\n", link.answers(), 1)
        link.abort()
        await until(link.closed.done)
        assert at.host.messages == []
