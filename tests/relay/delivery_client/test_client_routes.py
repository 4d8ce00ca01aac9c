"""What a route demands of a session, TLS from the first octet, and AUTH at a next hop."""

import asyncio
import base64
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import timedelta

import pytest
from client_world import DESTINATION, LONG, MX, World, codes, greet, parcel, say, world

from policy.requirement import Level, MxMatch, Requirement, RouteDemand
from policy.tls import TlsContexts
from relay.delivery.link import Link, UnprotectedError
from relay.delivery.seam import HostError, Login, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind
from relay.lab.mx_behaviour import Handshake, MxBehaviour, Phase
from relay.queue.attempt import FailureKind, Security
from relay.queue.attempt import Phase as Reached

ENCRYPTED = RouteDemand(level=Level.ENCRYPTED)
VERIFIED = RouteDemand(level=Level.VERIFIED)
OTHER = "smtp.partner.test"
NAMED = RouteDemand(level=Level.VERIFIED, tls_name=OTHER)
LOGIN = Login(user="relay", password="hunter2")
TAKES_LOGINS = {"relay": "hunter2"}
QUICK = Timeouts(starttls=timedelta(seconds=0.2))


def target(at: World, route: RouteDemand | None, level: Level = Level.OPPORTUNISTIC, **fields: object) -> Target:
    requirement = Requirement(level=level, mx_host=MX, route=route)
    return replace(replace(at.target(), requirement=requirement), **fields)  # type: ignore[arg-type]


async def deliver(at: World, to: Target) -> SessionFacts:
    async with at.pool.open(to, destination=DESTINATION, size=LONG) as session:
        assert codes(await session.send(parcel())) == {1: 250}
        return session.facts


async def refusal(at: World, to: Target) -> HostError:
    with pytest.raises(HostError) as caught:
        await deliver(at, to)
    assert not at.host.messages
    return caught.value


# -- demands -------------------------------------------------------------------------------------------------------


@pytest.mark.rfc("3207-6-a")
async def test_encrypt_takes_any_certificate() -> None:
    async with world(MxBehaviour(certificate=CertificateKind.SELF_SIGNED)) as at:
        facts = await deliver(at, target(at, ENCRYPTED))
        assert (facts.security, facts.tls is not None) == (Security.OPPORTUNISTIC, True)


@pytest.mark.rfc("3207-6-a")
@pytest.mark.parametrize("demand", [ENCRYPTED, VERIFIED, NAMED])
@pytest.mark.parametrize(
    "behaviour",
    [
        MxBehaviour(offers_starttls=False),
        MxBehaviour(replies={Phase.STARTTLS: "454 4.7.0 Not now"}),
        MxBehaviour(handshake=Handshake.ALERT),
    ],
    ids=["no STARTTLS", "STARTTLS refused", "no handshake"],
)
async def test_where_tls_is_demanded_there_is_no_plaintext(behaviour: MxBehaviour, demand: RouteDemand) -> None:
    async with world(behaviour) as at:
        error = await refusal(at, target(at, demand))
        assert error.failure.kind is FailureKind.ROUTE_TLS
        assert error.failure.tls is not None
        assert "MAIL" not in at.host.sessions[0].verbs()
        assert len(at.host.sessions) == 1


async def test_verify_wants_a_certificate_for_the_host() -> None:
    async with world() as at:
        facts = await deliver(at, target(at, VERIFIED))
        assert facts.security is Security.ROUTE
        assert facts.tls is not None
        assert (facts.tls.verified, facts.tls.server_name) == (True, MX)


@pytest.mark.parametrize(
    "kind",
    [
        CertificateKind.SELF_SIGNED,
        CertificateKind.EXPIRED,
        CertificateKind.WRONG_NAME,
        CertificateKind.UNKNOWN_CA,
        CertificateKind.CN_ONLY,
    ],
)
async def test_verify_takes_no_other(kind: CertificateKind) -> None:
    async with world(MxBehaviour(certificate=kind)) as at:
        error = await refusal(at, target(at, VERIFIED))
        assert (error.failure.kind, error.phase) == (FailureKind.ROUTE_CERTIFICATE, Reached.HANDSHAKE)


@pytest.mark.parametrize("names", [(OTHER,), ("elsewhere.test", OTHER), ("*.partner.test",)])
async def test_verify_name_wants_the_name_that_the_operator_gave_and_asks_for_it(names: tuple[str, ...]) -> None:
    async with world(MxBehaviour(certificate_names=names)) as at:
        facts = await deliver(at, target(at, NAMED))
        assert facts.security is Security.ROUTE
        assert at.host.sessions[0].sni == OTHER


async def test_verify_name_does_not_take_the_name_of_the_host_for_it() -> None:
    async with world() as at:
        error = await refusal(at, target(at, NAMED))
        assert error.failure.kind is FailureKind.ROUTE_CERTIFICATE
        assert error.failure.tls is not None
        assert error.failure.tls.reason == "SubjectMismatch"


@pytest.mark.rfc("8461-4.2-a")
@pytest.mark.parametrize(
    ("names", "kind"),
    [
        ((MX, OTHER), None),
        ((MX, "*.partner.test"), None),
        ((MX,), FailureKind.ROUTE_CERTIFICATE),
        ((OTHER,), FailureKind.CERTIFICATE),
    ],
)
async def test_policy_and_route_each_want_their_name(names: tuple[str, ...], kind: FailureKind | None) -> None:
    async with world(MxBehaviour(certificate_names=names)) as at:
        to = target(at, NAMED, Level.VERIFIED)
        if kind is None:
            assert (await deliver(at, to)).security is Security.STS
        else:
            assert (await refusal(at, to)).failure.kind is kind
            await at.host.ended.wait_for(1)
        assert at.host.sessions[0].sni == MX


@pytest.mark.rfc("8461-5-c", "8461-5-d")
async def test_what_a_route_demands_stays_where_testing_lets_go() -> None:
    async with world(MxBehaviour(certificate=CertificateKind.SELF_SIGNED)) as at:
        facts = await deliver(at, target(at, ENCRYPTED, Level.TESTING))
        assert facts.security is Security.OPPORTUNISTIC
        assert facts.testing_failure is not None
    async with world(MxBehaviour(offers_starttls=False)) as at:
        error = await refusal(at, target(at, ENCRYPTED, Level.TESTING))
        assert error.failure.kind is FailureKind.ROUTE_TLS
        assert error.testing_failure is not None
    async with world(MxBehaviour(certificate_names=(OTHER,))) as at:
        facts = await deliver(at, target(at, NAMED, Level.TESTING))
        assert (facts.security, facts.testing_failure is not None) == (Security.ROUTE, True)


async def test_a_name_that_only_the_route_wants_is_no_failure_of_the_policy() -> None:
    async with world() as at:
        error = await refusal(at, target(at, NAMED, Level.TESTING))
        assert (error.failure.kind, error.testing_failure) == (FailureKind.ROUTE_CERTIFICATE, None)


async def test_a_policy_in_testing_that_does_not_name_the_host_is_told_beside_a_route() -> None:
    async with world() as at:
        to = target(at, VERIFIED, Level.TESTING)
        to = replace(to, requirement=replace(to.requirement, mx_match=MxMatch.NOT_MATCHED))
        facts = await deliver(at, to)
        assert facts.security is Security.ROUTE
        assert facts.testing_failure is not None
        assert facts.testing_failure.reason == "MxNotInPolicy"


# -- TLS from the first octet ----------------------------------------------------------------------------------------


async def test_tls_begins_with_the_first_octet() -> None:
    async with world(MxBehaviour(implicit_tls=True)) as at:
        facts = await deliver(at, target(at, VERIFIED, implicit_tls=True))
        assert facts.security is Security.ROUTE
        (session,) = at.host.sessions
        assert (session.sni, session.verbs()[:2]) == (MX, ["EHLO", "MAIL"])
        assert all(command.secured for command in session.commands)


async def test_the_connection_is_kept_and_used_again() -> None:
    async with world(MxBehaviour(implicit_tls=True)) as at:
        for _ in range(3):
            await deliver(at, target(at, VERIFIED, implicit_tls=True))
        assert len(at.host.sessions) == 1


@pytest.mark.parametrize(
    ("demand", "names", "kind"),
    [
        (ENCRYPTED, ("elsewhere.test",), None),
        (VERIFIED, ("elsewhere.test",), FailureKind.ROUTE_CERTIFICATE),
        (NAMED, (MX,), FailureKind.ROUTE_CERTIFICATE),
        (NAMED, (OTHER,), None),
    ],
)
async def test_the_demands_are_the_same(demand: RouteDemand, names: tuple[str, ...], kind: FailureKind | None) -> None:
    async with world(MxBehaviour(implicit_tls=True, certificate_names=names)) as at:
        to = target(at, demand, implicit_tls=True)
        if kind is None:
            await deliver(at, to)
        else:
            error = await refusal(at, to)
            assert (error.failure.kind, error.phase) == (kind, Reached.HANDSHAKE)
            assert not at.host.sessions[0].commands


async def test_both_names_are_looked_for_from_the_first_octet_as_well() -> None:
    async with world(MxBehaviour(implicit_tls=True)) as at:
        error = await refusal(at, target(at, NAMED, Level.VERIFIED, implicit_tls=True))
        assert error.failure.kind is FailureKind.ROUTE_CERTIFICATE
        assert not at.host.sessions[0].commands


async def test_a_host_that_speaks_first_in_plaintext_is_not_believed() -> None:
    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "PIPELINING")

    async with world(server=plain) as at:
        error = await refusal(at, target(at, ENCRYPTED, implicit_tls=True))
        assert (error.failure.kind, error.phase) == (FailureKind.ROUTE_TLS, Reached.HANDSHAKE)
        assert error.failure.tls is not None
        assert error.failure.tls.reason == "NotTls"


async def test_a_host_that_never_shakes_hands_is_left_in_time() -> None:
    async def silent(reader: asyncio.StreamReader, _writer: asyncio.StreamWriter) -> None:
        await reader.read()

    async with world(server=silent, timeouts=QUICK) as at:
        error = await refusal(at, target(at, ENCRYPTED, implicit_tls=True))
        assert (error.failure.kind, error.phase) == (FailureKind.ROUTE_TLS, Reached.HANDSHAKE)
        assert error.failure.tls is not None
        assert error.failure.tls.reason == "HandshakeTimeout"


async def test_a_connection_that_is_refused_is_no_matter_of_tls() -> None:
    async with world(MxBehaviour(implicit_tls=True)) as at:
        await at.host.close()
        error = await refusal(at, target(at, ENCRYPTED, implicit_tls=True))
        assert (error.failure.kind, error.phase) == (FailureKind.CONNECTION_REFUSED, Reached.CONNECT)


async def test_implicit_tls_that_nothing_demands_is_a_fault_of_ours() -> None:
    async with world(MxBehaviour(implicit_tls=True)) as at:
        with pytest.raises(AssertionError):
            await at.connector.connect(target(at, None, implicit_tls=True))


# -- AUTH ------------------------------------------------------------------------------------------------------------


@pytest.mark.rfc("4954-4-c", "4954-4-d", "4954-5-b")
@pytest.mark.parametrize("mechanisms", ["PLAIN LOGIN", "LOGIN PLAIN", "CRAM-MD5 LOGIN", "plain"])
@pytest.mark.parametrize("implicit", [False, True])
async def test_the_relay_logs_in_and_vouches_for_nobody(mechanisms: str, implicit: bool) -> None:
    behaviour = MxBehaviour(logins=TAKES_LOGINS, mechanisms=mechanisms, implicit_tls=implicit)
    async with world(behaviour) as at:
        await deliver(at, target(at, VERIFIED, login=LOGIN, implicit_tls=implicit))
        (session,) = at.host.sessions
        assert session.user == "relay"
        assert session.violations == []
        assert [message.mail_parameters[-1] for message in at.host.messages] == ["AUTH=<>"]
        assert [command.secured for command in session.commands if command.line.startswith("AUTH")] == [True]


async def test_a_login_lasts_as_long_as_the_connection() -> None:
    async with world(MxBehaviour(logins=TAKES_LOGINS)) as at:
        for _ in range(3):
            await deliver(at, target(at, VERIFIED, login=LOGIN))
        (session,) = at.host.sessions
        assert (session.verbs().count("AUTH"), session.messages) == (1, 3)


async def test_octets_beyond_ascii_go_as_utf_8() -> None:
    async with world(MxBehaviour(logins={"rélais": "pässword"})) as at:
        await deliver(at, target(at, VERIFIED, login=Login(user="rélais", password="pässword")))


@pytest.mark.rfc("4954-6-a")
@pytest.mark.parametrize("mechanisms", ["PLAIN", "LOGIN"])
async def test_a_wrong_password_is_the_hosts_affair_and_not_repeated(mechanisms: str) -> None:
    async with world(MxBehaviour(logins={"relay": "other"}, mechanisms=mechanisms)) as at:
        error = await refusal(at, target(at, VERIFIED, login=LOGIN))
        assert error.failure.kind is FailureKind.LOGIN
        assert error.failure.reply is not None
        assert error.failure.reply.code == 535
        assert at.host.sessions[0].verbs().count("AUTH") == 1
        for shown in (str(error), repr(error.failure), repr(error.__cause__), repr(error.__context__)):
            assert "hunter2" not in shown
            assert base64.b64encode(b"hunter2").decode() not in shown


@pytest.mark.parametrize(
    "behaviour",
    [MxBehaviour(), MxBehaviour(logins=TAKES_LOGINS, mechanisms="CRAM-MD5 XOAUTH2")],
    ids=["no AUTH", "other mechanisms"],
)
async def test_without_a_mechanism_nothing_is_sent(behaviour: MxBehaviour) -> None:
    async with world(behaviour) as at:
        error = await refusal(at, target(at, VERIFIED, login=LOGIN))
        assert error.failure.kind is FailureKind.LOGIN
        assert "AUTH" not in at.host.sessions[0].verbs()


@pytest.mark.rfc("4954-14-a")
@pytest.mark.parametrize("demand", [VERIFIED, NAMED])
@pytest.mark.parametrize("kind", [CertificateKind.SELF_SIGNED, CertificateKind.WRONG_NAME, CertificateKind.EXPIRED])
async def test_no_password_goes_to_a_host_that_has_not_proven_who_it_is(
    kind: CertificateKind, demand: RouteDemand
) -> None:
    async with world(MxBehaviour(certificate=kind, logins=TAKES_LOGINS)) as at:
        error = await refusal(at, target(at, demand, login=LOGIN))
        assert error.failure.kind is FailureKind.ROUTE_CERTIFICATE
        assert all("AUTH" not in session.verbs() for session in at.host.sessions)


@pytest.mark.rfc("4954-14-a")
async def test_auth_that_is_offered_in_plaintext_is_not_used() -> None:
    heard: list[bytes] = []

    async def plain(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer, "AUTH PLAIN LOGIN")
        heard.append(await reader.read(1000))

    async with world(server=plain) as at:
        error = await refusal(at, target(at, VERIFIED, login=LOGIN))
        assert error.failure.kind is FailureKind.ROUTE_TLS
    assert not any(b"AUTH" in octets for octets in heard)


@asynccontextmanager
async def linked(at: World, requirement: Requirement) -> AsyncIterator[Link]:
    """A link under TLS, by whatever requirement."""
    link = Link(requirement=requirement, hostname="relay.example.com", timeouts=Timeouts())
    to = at.target()
    await link.connect(to.address, to.port)
    await link.ehlo()
    contexts = TlsContexts(ca_file=str(at.ca.ca_file))
    await link.start_tls(contexts.for_requirement(requirement), requirement.server_name)
    await link.ehlo()
    try:
        yield link
    finally:
        link.abort()


@pytest.mark.rfc("4954-14-a")
@pytest.mark.parametrize(
    "requirement",
    [
        Requirement(level=Level.OPPORTUNISTIC, mx_host=MX),
        Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, route=ENCRYPTED),
        Requirement(level=Level.VERIFIED, mx_host=MX),
    ],
    ids=["nothing", "encrypt", "a policy alone"],
)
async def test_the_link_itself_gives_no_password_away(requirement: Requirement) -> None:
    """By a policy alone the name is the DNS's, not the operator's."""
    async with world(MxBehaviour(logins=TAKES_LOGINS)) as at, linked(at, requirement) as link:
        with pytest.raises(UnprotectedError):
            await link.log_in(LOGIN)
        assert "AUTH" not in at.host.sessions[0].verbs()


@pytest.mark.parametrize("reply", ["421 4.3.2 Going down", "454 4.7.0 Temporary"])
async def test_a_host_that_cannot_say_now_is_asked_again_later(reply: str) -> None:
    async def lines(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await say(writer, f"{reply}\r\n")
        await reader.read(1000)

    async with world(server=lines) as at:
        error = await refusal(at, target(at, VERIFIED, login=LOGIN))
        assert error.failure.kind is FailureKind.REPLY


# -- the pool ----------------------------------------------------------------------------------------------------------


async def test_no_session_of_one_route_carries_the_mail_of_another() -> None:
    names = (MX, OTHER)
    async with world(MxBehaviour(certificate_names=names)) as at:
        for demand in (None, ENCRYPTED, VERIFIED, NAMED):
            await deliver(at, target(at, demand))
        assert len(at.host.sessions) == 4
    async with world(MxBehaviour(logins={"a": "1", "b": "2"})) as at:
        for user, password in (("a", "1"), ("b", "2"), ("a", "1")):
            await deliver(at, target(at, VERIFIED, login=Login(user=user, password=password)))
        assert [session.user for session in at.host.sessions] == ["a", "b"]
