"""What a host's TLSA records demand of a session, over real handshakes with the lab's MX (RFC 7672 §2.2, §3)."""

from dataclasses import replace

import pytest
from client_world import DESTINATION, LONG, MX, World, codes, parcel, world
from cryptography import x509

from policy.answers import TlsaRecord
from policy.dane import DANE_EE, DANE_TA, usable
from policy.requirement import DaneDemand, Level, MxMatch
from relay.delivery.link import Link, UnprotectedError
from relay.delivery.seam import HostError, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind, tlsa_record
from relay.lab.mx_behaviour import Handshake, MxBehaviour
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase, Security

ZEROS = TlsaRecord(usage=DANE_EE, selector=1, matching_type=1, data=bytes(32))
UNUSABLE = TlsaRecord(usage=1, selector=1, matching_type=1, data=bytes(32))
SELF_SIGNED = MxBehaviour(certificate=CertificateKind.SELF_SIGNED)


def record(usage: int, selector: int, matching_type: int, certificate: x509.Certificate) -> TlsaRecord:
    data = tlsa_record(usage, selector, matching_type, certificate).rpartition(" ")[2]
    return TlsaRecord(usage=usage, selector=selector, matching_type=matching_type, data=bytes.fromhex(data))


def shown(at: World, selector: int = 1, matching_type: int = 1) -> TlsaRecord:
    """The DANE-EE record of the certificate that the host shows."""
    certificate = at.ca.identity(at.host.behaviour.certificate, MX).certificate
    return record(DANE_EE, selector, matching_type, certificate)


def issuer(at: World) -> TlsaRecord:
    return record(DANE_TA, 0, 1, at.ca.intermediate.certificate)


def target(
    at: World, *records: TlsaRecord, level: Level = Level.OPPORTUNISTIC, mx_match: MxMatch = MxMatch.NO_POLICY
) -> Target:
    demand = DaneDemand(base_domain=MX, reference_names=(MX,), records=usable(records))
    found = at.target(level, mx_match=mx_match)
    return replace(found, requirement=replace(found.requirement, dane=demand))


async def deliver(at: World, to: Target) -> SessionFacts:
    async with at.pool.open(to, destination=DESTINATION, size=LONG) as session:
        assert codes(await session.send(parcel())) == {1: 250}
        return session.facts


async def refusal(at: World, to: Target) -> HostError:
    """The error that a delivery ends in, of which the host has seen no envelope."""
    try:
        facts = await deliver(at, to)
    except HostError as error:
        assert [line for session in at.host.sessions for line in session.verbs() if line == "MAIL"] == []
        return error
    raise AssertionError(f"no HostError, but {facts}")


@pytest.mark.rfc("7672-2.2-a", "7672-3.1.1-a")
@pytest.mark.parametrize("selector", [0, 1])
@pytest.mark.parametrize("matching_type", [0, 1, 2])
async def test_a_certificate_that_a_record_stands_for_needs_no_authority(selector: int, matching_type: int) -> None:
    async with world(SELF_SIGNED) as at:
        facts = await deliver(at, target(at, ZEROS, shown(at, selector, matching_type)))
        assert facts.security is Security.DANE
        (session,) = at.host.sessions
        assert session.verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert session.sni == MX


async def test_a_trust_anchor_that_the_host_sends() -> None:
    async with world() as at:
        assert (await deliver(at, target(at, issuer(at)))).security is Security.DANE


@pytest.mark.rfc("7672-2.2-a", "7672-1-b")
@pytest.mark.parametrize(
    ("behaviour", "kind", "phase"),
    [
        (SELF_SIGNED, FailureKind.DANE_CERTIFICATE, Phase.HANDSHAKE),
        (MxBehaviour(certificate=CertificateKind.EXPIRED), FailureKind.DANE_EXPIRED, Phase.HANDSHAKE),
        (MxBehaviour(certificate=CertificateKind.WRONG_NAME), FailureKind.DANE_NAME, Phase.HANDSHAKE),
        (MxBehaviour(offers_starttls=False), FailureKind.STARTTLS_MISSING, Phase.EHLO),
        (MxBehaviour(replies={Say.STARTTLS: "454 4.7.0 Not now"}), FailureKind.STARTTLS_REFUSED, Phase.STARTTLS),
        (MxBehaviour(handshake=Handshake.ALERT), FailureKind.HANDSHAKE, Phase.HANDSHAKE),
    ],
)
async def test_what_the_records_do_not_stand_for_gets_no_envelope_and_no_second_try(
    behaviour: MxBehaviour, kind: FailureKind, phase: Phase
) -> None:
    async with world(behaviour) as at:
        error = await refusal(at, target(at, issuer(at)))
        assert (error.failure.kind, error.phase) == (kind, phase)
        assert error.failure.kind.refusal
        assert error.failure.tls is not None
        assert len(at.host.sessions) == 1
        assert at.host.sessions[0].verbs().count("EHLO") == 1, "nothing is said after the handshake"


@pytest.mark.rfc("7672-9.2-a")
async def test_a_host_with_records_is_never_met_in_plaintext_even_right_after_one_that_was() -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at:
        for _ in range(2):
            assert (await refusal(at, target(at, ZEROS))).failure.kind is FailureKind.STARTTLS_MISSING


@pytest.mark.rfc("7672-2.2-b", "7672-3.1.3-a")
async def test_records_none_of_which_can_be_used_demand_tls_alone() -> None:
    async with world(SELF_SIGNED) as at:
        assert (await deliver(at, target(at, UNUSABLE))).security is Security.OPPORTUNISTIC
    async with world(MxBehaviour(offers_starttls=False)) as at:
        assert (await refusal(at, target(at, UNUSABLE))).failure.kind is FailureKind.STARTTLS_MISSING


@pytest.mark.rfc("8461-2-a", "8461-2-b")
@pytest.mark.parametrize(
    ("behaviour", "right", "kind"),
    [
        (MxBehaviour(), True, None),
        (MxBehaviour(), False, FailureKind.DANE_CERTIFICATE),
        (SELF_SIGNED, True, FailureKind.CERTIFICATE),
    ],
    ids=["both pass", "only the policy", "only DANE"],
)
async def test_where_a_policy_demands_verified_tls_as_well_both_have_to_pass(
    behaviour: MxBehaviour, right: bool, kind: FailureKind | None
) -> None:
    async with world(behaviour) as at:
        to = target(at, shown(at) if right else ZEROS, level=Level.VERIFIED)
        if kind is None:
            assert (await deliver(at, to)).security is Security.DANE_STS
        else:
            assert (await refusal(at, to)).failure.kind is kind


@pytest.mark.rfc("8461-2-a", "8461-5-c")
async def test_a_policy_in_testing_is_reported_while_the_records_are_kept_to() -> None:
    async with world(SELF_SIGNED) as at:
        facts = await deliver(at, target(at, shown(at), level=Level.TESTING))
        assert facts.security is Security.DANE
        assert facts.testing_failure is not None
        assert facts.testing_failure.reason == "UntrustedRoot"
    async with world() as at:
        error = await refusal(at, target(at, ZEROS, level=Level.TESTING))
        assert error.failure.kind is FailureKind.DANE_CERTIFICATE
        assert error.testing_failure is None
        assert len(at.host.sessions) == 1
    async with world() as at:
        facts = await deliver(at, target(at, shown(at), level=Level.TESTING, mx_match=MxMatch.NOT_MATCHED))
        assert facts.security is Security.DANE
        assert facts.testing_failure is not None


@pytest.mark.parametrize("level", Level)
async def test_no_command_gets_past_the_choke_point_in_plaintext(level: Level) -> None:
    async with world() as at:
        to = target(at, shown(at), level=level)
        link = Link(requirement=to.requirement, hostname="relay.example.com", timeouts=Timeouts())
        await link.connect(to.address, to.port)
        await link.ehlo()
        with pytest.raises(UnprotectedError):
            link.pipeline(b"MAIL FROM:<>\r\n", link.answers(), 1)
        link.abort()
