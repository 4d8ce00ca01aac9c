"""How a session comes about: what each level demands, what it falls back to, and what is said when it cannot be had."""

import asyncio
import contextlib
import ipaddress
import socket
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from client_world import DESTINATION, LONG, LOOPBACK, MX, SOON, World, codes, greet, parcel, say, until, world

from policy.requirement import Level, MxMatch, Requirement, ResultType
from policy.tls import opportunistic_context
from relay.delivery.link import Link, UnprotectedError
from relay.delivery.seam import HostError, SessionFacts, Target
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind
from relay.lab.mx_behaviour import (
    DROP,
    HANG,
    STANDARD_KEYWORDS,
    Handshake,
    MxBehaviour,
    Script,
    closing,
    endless,
    raw,
    slow,
)
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase, Security

QUICK = Timeouts(connect=SOON, greeting=SOON, ehlo=SOON, starttls=SOON, mail=SOON, rcpt=SOON, data=SOON)

BAD_CERTIFICATES = {
    CertificateKind.EXPIRED: (ResultType.CERTIFICATE_EXPIRED, "CertificateExpired"),
    CertificateKind.NOT_YET_VALID: (ResultType.CERTIFICATE_NOT_TRUSTED, "NotYetValid"),
    CertificateKind.WRONG_NAME: (ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch"),
    CertificateKind.SELF_SIGNED: (ResultType.CERTIFICATE_NOT_TRUSTED, "UntrustedRoot"),
    CertificateKind.UNKNOWN_CA: (ResultType.CERTIFICATE_NOT_TRUSTED, "UntrustedRoot"),
    CertificateKind.MISSING_INTERMEDIATE: (ResultType.CERTIFICATE_NOT_TRUSTED, "UntrustedRoot"),
    CertificateKind.CN_ONLY: (ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch"),
    CertificateKind.CN_ONLY_IP_SAN: (ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch"),
    CertificateKind.PARTIAL_WILDCARD: (ResultType.CERTIFICATE_HOST_MISMATCH, "SubjectMismatch"),
    CertificateKind.CLIENT_ONLY: (ResultType.CERTIFICATE_NOT_TRUSTED, "WrongKeyUsage"),
}

NO_STARTTLS = {
    "not offered": MxBehaviour(offers_starttls=False),
    "masked": MxBehaviour(offers_starttls=False, keywords=(*STANDARD_KEYWORDS, "XXXXXXXA")),
    "454": MxBehaviour(replies={Say.STARTTLS: "454 4.7.0 TLS not available"}),
    "500": MxBehaviour(replies={Say.STARTTLS: "500 5.5.1 What?"}),
    "554": MxBehaviour(replies={Say.STARTTLS: "554 5.7.0 No"}),
    "421": MxBehaviour(replies={Say.STARTTLS: closing("421 4.3.2 Going down")}),
    "250": MxBehaviour(replies={Say.STARTTLS: raw(b"250 ok\r\n", accepts=False)}),
}

NO_HANDSHAKE = {
    "closed": MxBehaviour(replies={Say.STARTTLS: DROP}),
    "hangs": MxBehaviour(replies={Say.STARTTLS: HANG}),
    "closed after 220": MxBehaviour(handshake=Handshake.CLOSE),
    "reset": MxBehaviour(handshake=Handshake.RESET),
    "alert": MxBehaviour(handshake=Handshake.ALERT),
    "garbage": MxBehaviour(handshake=Handshake.GARBAGE),
    "never answers": MxBehaviour(handshake=Handshake.HANG),
    "stays in plaintext": MxBehaviour(handshake=Handshake.PLAINTEXT),
    "TLS 1.1": MxBehaviour(oldest_tls=ssl.TLSVersion.TLSv1_1, newest_tls=ssl.TLSVersion.TLSv1_1),
    "injected with 220": MxBehaviour(replies={Say.STARTTLS: raw(b"220 go\r\n250-injected\r\n250 SIZE 1\r\n")}),
    "half a line with 220": MxBehaviour(replies={Say.STARTTLS: raw(b"220 go\r\n2")}),
    "malformed": MxBehaviour(replies={Say.STARTTLS: raw(b"220-go\r\n250 go\r\n", accepts=True)}),
}


def mail_commands(host: World) -> list[bool]:
    """Whether each MAIL that the host has seen came under TLS."""
    return [
        command.secured
        for session in host.host.sessions
        for command in session.commands
        if command.line.startswith("MAIL")
    ]


# Good hosts.


@pytest.mark.rfc("8461-5.1-c", "8461-7.1-b", "3207-4.2-b", "9325-3.7-a", "9325-3.1.1-b")
@pytest.mark.parametrize("level", [Level.VERIFIED, Level.TESTING])
async def test_a_good_host_is_given_mail_over_verified_tls(level: Level) -> None:
    async with world() as at:
        async with at.open(level) as session:
            assert codes(await session.send(parcel())) == {1: 250}
            facts = session.facts
        assert facts.security is Security.STS
        assert facts.tls is not None
        assert (facts.tls.version, facts.tls.verified, facts.tls.server_name) == ("TLSv1.3", True, MX)
        assert facts.tls.certificate is not None
        assert facts.tls.certificate.names == (MX,)
        assert facts.testing_failure is None
        (record,) = at.host.sessions
        assert record.sni == MX
        assert record.verbs()[:4] == ["EHLO", "STARTTLS", "EHLO", "MAIL"]
        assert mail_commands(at) == [True]
        assert at.host.violations == []


@pytest.mark.rfc("8461-4.2-e")
async def test_a_wildcard_for_the_whole_label_will_do() -> None:
    async with world(MxBehaviour(certificate=CertificateKind.WILDCARD)) as at:
        assert codes(await at.send(level=Level.VERIFIED)) == {1: 250}


@pytest.mark.rfc("9325-x-a", "9325-3.7-b", "9325-7.1-a", "8461-7.1-c")
@pytest.mark.parametrize("kind", [CertificateKind.GOOD, *BAD_CERTIFICATES])
async def test_without_a_policy_any_certificate_will_do(kind: CertificateKind) -> None:
    async with world(MxBehaviour(certificate=kind)) as at:
        async with at.open() as session:
            await session.send(parcel())
            assert session.facts.security is Security.OPPORTUNISTIC
            assert session.facts.tls is not None
            assert not session.facts.tls.verified
        assert mail_commands(at) == [True]


async def test_without_a_policy_a_host_without_starttls_gets_plaintext() -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at:
        async with at.open() as session:
            assert codes(await session.send(parcel())) == {1: 250}
            assert session.facts == SessionFacts(security=Security.PLAINTEXT)
        assert len(at.host.sessions) == 1


@pytest.mark.rfc("5321-4.1.4-c", "6531-3.7.1-a")
async def test_the_relay_says_who_it_is() -> None:
    async with world() as at:
        await at.send()
        assert {command.line for session in at.host.sessions for command in session.commands[:1]} == {
            "EHLO relay.example.com"
        }


# Enforce.


@pytest.mark.rfc("8461-4.2-a", "8461-4.2-b", "8461-4.2-c", "8461-4.2-h", "8461-5-a", "8461-5-b", "3207-4.1-a")
@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
async def test_a6_l4_a_bad_certificate_gets_no_mail_and_no_second_try(kind: CertificateKind) -> None:
    async with world(MxBehaviour(certificate=kind)) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert (error.failure.kind, error.phase) == (FailureKind.CERTIFICATE, Phase.HANDSHAKE)
        assert error.failure.tls is not None
        assert (error.failure.tls.result_type, error.failure.tls.reason) == BAD_CERTIFICATES[kind]
        assert error.failure.tls.certificate is not None
        assert error.failure.kind.refusal
        assert mail_commands(at) == []
        assert len(at.host.sessions) == 1


@pytest.mark.rfc("8461-4.2-d")
async def test_a7_a_certificate_for_the_recipients_domain_is_not_one_for_the_host() -> None:
    async with world(MxBehaviour(certificate_names=("shop.test", "*.shop.test.evil.test"))) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert error.failure.tls is not None
        assert error.failure.tls.result_type is ResultType.CERTIFICATE_HOST_MISMATCH


@pytest.mark.rfc("8461-5-a", "3207-6-b")
@pytest.mark.parametrize("behaviour", NO_STARTTLS.values(), ids=NO_STARTTLS)
async def test_a1_l5_enforce_and_no_starttls(behaviour: MxBehaviour) -> None:
    async with world(behaviour) as at:
        error = await at.fail(level=Level.VERIFIED)
        missing = error.failure.kind is FailureKind.STARTTLS_MISSING
        assert missing or error.failure.kind is FailureKind.STARTTLS_REFUSED
        assert (error.failure.reply is None) is missing
        assert error.failure.tls is not None
        assert error.failure.tls.result_type is ResultType.STARTTLS_NOT_SUPPORTED
        assert mail_commands(at) == []
        assert len(at.host.sessions) == 1


@pytest.mark.rfc("8461-5-a", "8461-5-b", "9325-3.1.1-a", "9325-3.1.3-a", "3207-4-b", "3207-4.2-e")
@pytest.mark.parametrize("behaviour", NO_HANDSHAKE.values(), ids=NO_HANDSHAKE)
async def test_a2_a5_enforce_and_no_handshake(behaviour: MxBehaviour) -> None:
    async with world(behaviour, timeouts=QUICK) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert (error.failure.kind, error.phase) == (FailureKind.HANDSHAKE, Phase.HANDSHAKE)
        assert error.failure.tls is not None
        assert error.failure.tls.result_type is ResultType.VALIDATION_FAILURE
        assert error.failure.kind.refusal
        assert mail_commands(at) == []
        assert len(at.host.sessions) == 1


@pytest.mark.rfc("5321-3.2-a", "8461-5-a")
@pytest.mark.parametrize("reply", ["500 5.5.1 What?", "502 5.5.1 No", "554 5.7.1 No service"])
async def test_enforce_never_falls_back_to_helo(reply: str) -> None:
    async with world(MxBehaviour(replies={Say.EHLO: reply})) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert (error.failure.kind, error.phase) == (FailureKind.REPLY, Phase.EHLO)
        assert error.failure.reply is not None
        await at.host.ended.wait_for(1)
        assert at.host.sessions[0].verbs() == ["EHLO", "QUIT"]


# What opportunistic falls back to.


@pytest.mark.rfc("3207-6-b", "3207-6-c", "9325-5.2-a", "7672-2.2-d")
@pytest.mark.parametrize(
    "behaviour",
    [*list(NO_STARTTLS.values())[2:], *NO_HANDSHAKE.values()],
    ids=[*list(NO_STARTTLS)[2:], *NO_HANDSHAKE],
)
async def test_a5_without_a_policy_plaintext_comes_on_a_new_connection(behaviour: MxBehaviour) -> None:
    async with world(behaviour, timeouts=QUICK) as at:
        async with at.open() as session:
            assert codes(await session.send(parcel())) == {1: 250}
            assert session.facts.security is Security.PLAINTEXT
        *failed, last = at.host.sessions
        assert len(failed) == (2 if behaviour in NO_HANDSHAKE.values() else 1)
        for record in failed:
            assert "STARTTLS" in record.verbs()
            assert "MAIL" not in record.verbs()
        assert "STARTTLS" not in last.verbs()
        assert not [line for session in at.host.sessions for line in session.violations]


async def test_a_host_whose_tls_fails_is_met_in_plaintext_for_an_hour() -> None:
    async with world(MxBehaviour(handshake=Handshake.CLOSE), max_messages=1) as at:
        await at.send()
        assert len(at.host.sessions) == 3
        await at.send()
        assert len(at.host.sessions) == 4
        at.clock.move(timedelta(minutes=61))
        at.host.behaviour = MxBehaviour()
        await at.send()
        assert mail_commands(at) == [False, False, True]


async def test_what_is_remembered_of_a_host_never_weakens_a_policy() -> None:
    async with world(MxBehaviour(handshake=Handshake.CLOSE)) as at:
        await at.send()
        at.host.behaviour = MxBehaviour()
        async with at.open(Level.VERIFIED) as session:
            assert session.facts.security is Security.STS
        async with at.open(Level.TESTING) as session:
            assert session.facts.security is Security.STS


@pytest.mark.rfc("5321-3.2-a", "5321-2.2-a")
@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING])
async def test_helo_where_nothing_demands_tls(level: Level) -> None:
    async with world(MxBehaviour(replies={Say.EHLO: "502 5.5.1 Not implemented"})) as at:
        async with at.open(level) as session:
            assert codes(await session.send(parcel())) == {1: 250}
            assert session.facts.security is Security.PLAINTEXT
            assert (session.facts.testing_failure is not None) is (level is Level.TESTING)
        assert at.host.sessions[-1].verbs() == ["EHLO", "HELO", "MAIL", "RCPT", "DATA"]
        assert at.host.messages[0].mail_parameters == ()


# Testing.


@pytest.mark.rfc("8461-5-c", "8461-5-d")
@pytest.mark.parametrize("kind", BAD_CERTIFICATES)
async def test_testing_delivers_over_what_enforce_would_refuse(kind: CertificateKind) -> None:
    async with world(MxBehaviour(certificate=kind)) as at:
        async with at.open(Level.TESTING) as session:
            assert codes(await session.send(parcel())) == {1: 250}
            facts = session.facts
        assert facts.security is Security.OPPORTUNISTIC
        assert facts.testing_failure is not None
        assert (facts.testing_failure.result_type, facts.testing_failure.reason) == BAD_CERTIFICATES[kind]
        assert facts.testing_failure.certificate is not None
        assert len(at.host.sessions) == 2
        assert mail_commands(at) == [True]


@pytest.mark.rfc("8461-5-c", "8461-5-d")
@pytest.mark.parametrize(
    "behaviour",
    [*NO_STARTTLS.values(), *NO_HANDSHAKE.values()],
    ids=[*NO_STARTTLS, *NO_HANDSHAKE],
)
async def test_testing_is_never_worse_than_no_policy(behaviour: MxBehaviour) -> None:
    async with world(behaviour, timeouts=QUICK) as at, at.open(Level.TESTING) as session:
        assert codes(await session.send(parcel())) == {1: 250}
        assert session.facts.security is Security.PLAINTEXT
        assert session.facts.testing_failure is not None


@pytest.mark.rfc("8461-5-d")
@pytest.mark.parametrize("kind", [CertificateKind.GOOD, CertificateKind.EXPIRED])
async def test_testing_notes_a_host_that_the_policy_does_not_name(kind: CertificateKind) -> None:
    async with world(MxBehaviour(certificate=kind)) as at:
        target = at.target(Level.TESTING, mx_match=MxMatch.NOT_MATCHED)
        async with at.pool.open(target, destination=DESTINATION, size=LONG) as session:
            assert codes(await session.send(parcel())) == {1: 250}
            assert session.facts.security is Security.OPPORTUNISTIC
            assert session.facts.testing_failure is not None
            assert session.facts.testing_failure.result_type is ResultType.VALIDATION_FAILURE


async def test_testing_says_what_it_noted_also_when_the_delivery_fails() -> None:
    behaviour = MxBehaviour(certificate=CertificateKind.EXPIRED, replies={Say.MAIL: "451 4.3.0 Later"})
    async with world(behaviour) as at:
        error = await at.fail(level=Level.TESTING)
        assert error.failure.kind is FailureKind.REPLY
        assert error.testing_failure is not None
        assert error.testing_failure.result_type is ResultType.CERTIFICATE_EXPIRED
        assert error.tls is not None


async def test_testing_notes_the_certificate_also_when_the_second_connection_fails() -> None:
    banners = iter([None, "554 5.3.2 Not now"])
    behaviour = MxBehaviour(
        certificate=CertificateKind.EXPIRED, replies={Say.BANNER: lambda _moment: next(banners, None)}
    )
    async with world(behaviour) as at:
        error = await at.fail(level=Level.TESTING)
        assert error.failure.kind is FailureKind.REPLY
        assert error.testing_failure is not None
        assert error.testing_failure.result_type is ResultType.CERTIFICATE_EXPIRED


async def test_testing_meets_a_dead_host_as_no_policy_would() -> None:
    async with world() as at:
        await at.host.close()
        target = at.target(Level.TESTING, mx_match=MxMatch.NOT_MATCHED)
        with pytest.raises(HostError) as caught:
            async with at.pool.open(target, destination=DESTINATION, size=LONG):
                pass
        assert caught.value.failure.kind is FailureKind.CONNECTION_REFUSED
        assert caught.value.testing_failure is not None


# After the handshake.


@pytest.mark.rfc("3207-4.2-a", "3461-5.2.2-a", "9422-3.6-a")
async def test_a3_nothing_said_in_plaintext_is_believed_in_tls() -> None:
    plain = (*STANDARD_KEYWORDS, "LIMITS RCPTMAX=1", "SIZE 1")
    async with world(MxBehaviour(keywords=plain, keywords_in_tls=(), size=None)) as at:
        result = await at.send(parcel("a@shop.test", "b@shop.test"), Level.VERIFIED)
        assert codes(result) == {1: 250, 2: 250}
        assert not result.dsn
        (letter,) = at.host.messages
        assert letter.mail_parameters == ()
        assert len(letter.recipients) == 2
        assert at.host.violations == []


@pytest.mark.rfc("3207-4.2-c")
async def test_starttls_offered_inside_tls_is_not_taken() -> None:
    async with world(MxBehaviour(keywords=("STARTTLS",))) as at:
        await at.send(level=Level.VERIFIED)
        assert at.host.sessions[0].verbs().count("STARTTLS") == 1


@pytest.mark.parametrize("reply", ["554 5.7.1 Not you", "250-x\r\n251 mixed", "421 4.3.2 Bye"])
async def test_a_host_that_changes_its_mind_inside_tls(reply: str) -> None:
    script: Script = lambda moment: reply if moment.secured else None  # noqa: E731  a script is a function
    async with world(MxBehaviour(replies={Say.EHLO: script})) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert error.phase is Phase.EHLO
        assert error.failure.kind is (FailureKind.PROTOCOL if "mixed" in reply else FailureKind.REPLY)
        assert mail_commands(at) == []


@pytest.mark.rfc("8461-4.2-i")
async def test_a8_each_connection_is_verified_anew() -> None:
    async with world(max_messages=1) as at:
        await at.send(level=Level.VERIFIED)
        at.host.behaviour = MxBehaviour(certificate=CertificateKind.UNKNOWN_CA)
        error = await at.fail(level=Level.VERIFIED)
        assert error.failure.kind is FailureKind.CERTIFICATE


# Hosts that refuse, hang or are not there: told apart, and never about a recipient.


@pytest.mark.rfc("5321-5.1-n", "7504-3-a", "5321-3.8-c")
@pytest.mark.parametrize(
    ("replies", "kind", "phase"),
    [
        pytest.param({Say.BANNER: "554 5.7.1 No service"}, FailureKind.REPLY, Phase.GREETING, id="554 banner"),
        pytest.param({Say.BANNER: "521 No mail here"}, FailureKind.REPLY, Phase.GREETING, id="521 banner"),
        pytest.param({Say.BANNER: closing("421 4.3.2 Busy")}, FailureKind.REPLY, Phase.GREETING, id="421 banner"),
        pytest.param({Say.BANNER: "354 what"}, FailureKind.PROTOCOL, Phase.GREETING, id="354 banner"),
        pytest.param({Say.BANNER: raw(b"hello\r\n")}, FailureKind.PROTOCOL, Phase.GREETING, id="no banner"),
        pytest.param({Say.BANNER: raw(b"220 a\n")}, FailureKind.PROTOCOL, Phase.GREETING, id="bare LF"),
        pytest.param({Say.BANNER: raw(b"220 a\r\n220 b\r\n")}, FailureKind.PROTOCOL, Phase.GREETING, id="twice"),
        pytest.param({Say.BANNER: DROP}, FailureKind.BROKEN_OFF, Phase.GREETING, id="closed"),
        pytest.param({Say.BANNER: raw(b"220 a")}, FailureKind.TIMEOUT, Phase.GREETING, id="half a banner"),
        pytest.param({Say.BANNER: HANG}, FailureKind.TIMEOUT, Phase.GREETING, id="silence"),
        pytest.param({Say.BANNER: endless(b"220-x\r\n")}, FailureKind.PROTOCOL, Phase.GREETING, id="endless lines"),
        pytest.param({Say.BANNER: endless(b"220 " + b"x" * 90)}, FailureKind.PROTOCOL, Phase.GREETING, id="endless"),
        pytest.param({Say.EHLO: closing("421 4.3.2 Busy")}, FailureKind.REPLY, Phase.EHLO, id="421 EHLO"),
        pytest.param({Say.EHLO: "451 4.3.2 Busy"}, FailureKind.REPLY, Phase.EHLO, id="451 EHLO"),
        pytest.param({Say.EHLO: "354 go"}, FailureKind.PROTOCOL, Phase.EHLO, id="354 EHLO"),
        pytest.param({Say.EHLO: DROP}, FailureKind.BROKEN_OFF, Phase.EHLO, id="EHLO closed"),
        pytest.param({Say.EHLO: HANG}, FailureKind.TIMEOUT, Phase.EHLO, id="EHLO silence"),
        pytest.param({Say.EHLO: endless(b"250-x\r\n")}, FailureKind.PROTOCOL, Phase.EHLO, id="endless EHLO"),
        pytest.param(
            {Say.EHLO: raw(b"250-mx\r\n250 STARTTLS\r\n220 go\r\n")},
            FailureKind.PROTOCOL,
            Phase.EHLO,
            id="220 too early",
        ),
        pytest.param({Say.EHLO: closing("554 5.7.1 No")}, FailureKind.REPLY, Phase.EHLO, id="554 EHLO and gone"),
        pytest.param(
            {Say.EHLO: "554 5.7.1 No", Say.HELO: "550 5.7.1 Neither"}, FailureKind.REPLY, Phase.EHLO, id="554 HELO"
        ),
    ],
)
@pytest.mark.parametrize("level", [Level.VERIFIED, Level.OPPORTUNISTIC])
async def test_e1_e4_e6_e8_hosts_that_will_not(
    replies: dict[Say, Script], kind: FailureKind, phase: Phase, level: Level
) -> None:
    async with world(MxBehaviour(replies=replies), timeouts=QUICK) as at:
        error = await at.fail(level=level)
        assert (error.failure.kind, error.phase) == (kind, phase)
        assert (error.failure.reply is not None) is (kind is FailureKind.REPLY)
        if error.failure.reply is not None and phase is Phase.EHLO:
            assert "Neither" not in str(error.failure.reply)
        assert "MAIL" not in [verb for session in at.host.sessions for verb in session.verbs()]


async def test_a_host_that_is_not_there_refuses_the_connection() -> None:
    async with world() as at:
        await at.host.close()
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.CONNECTION_REFUSED, Phase.CONNECT)


async def test_e2_a_host_that_cannot_be_reached_times_out() -> None:
    # A listener whose backlog is full: the SYN stays without an answer.
    async with world(timeouts=QUICK) as at:
        with _full_listener() as port:
            at.port = port
            error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.TIMEOUT, Phase.CONNECT)


@contextlib.contextmanager
def _full_listener() -> Iterator[int]:
    """A socket that listens and whose queue of connections is full."""
    with contextlib.ExitStack() as sockets:
        listener = sockets.enter_context(socket.create_server(("127.0.0.1", 0), backlog=0))
        address = listener.getsockname()
        for _ in range(4):
            client = sockets.enter_context(socket.socket())
            client.setblocking(False)
            client.connect_ex(address)
        yield int(address[1])


@pytest.mark.rfc("5321-4.3.1-a", "5321-4.5.3.2-a", "5321-4.5.3.2-b")
async def test_a_slow_banner_is_waited_for() -> None:
    async with world(MxBehaviour(replies={Say.BANNER: slow(0.2)})) as at:
        assert codes(await at.send()) == {1: 250}
        assert at.host.violations == []


@pytest.mark.parametrize("mx_host", ["a..b", "x" * 64 + ".test", "", "nul\x00.test", "[192.0.2.1]", "ü.test"])
@pytest.mark.parametrize("level", Level)
async def test_l6_a_bad_name_is_a_failure_of_the_host_and_no_crash(mx_host: str, level: Level) -> None:
    async with world() as at:
        kinds = set()
        try:
            async with at.pool.open(at.target(level, mx_host=mx_host), destination=DESTINATION, size=LONG) as session:
                await session.send(parcel())
        except HostError as error:
            kinds.add(error.failure.kind)
        # Without a policy the host may get the mail in plaintext; no name is ever taken for verified.
        assert kinds <= {FailureKind.HANDSHAKE, FailureKind.CERTIFICATE}
        assert kinds or level is not Level.VERIFIED
        assert not kinds or mail_commands(at) == []


async def test_l6_an_address_that_nobody_can_connect_to_is_told() -> None:
    async with world() as at:
        requirement = Requirement(level=Level.OPPORTUNISTIC, mx_host=MX)
        target = Target(mx_host=MX, address=ipaddress.ip_address("255.255.255.255"), port=25, requirement=requirement)
        with pytest.raises(HostError) as caught:
            async with at.pool.open(target, destination=DESTINATION, size=LONG):
                pass
        assert (caught.value.failure.kind, caught.value.phase) == (FailureKind.CONNECTION_REFUSED, Phase.CONNECT)
        assert caught.value.failure.detail == "no connection: Network is unreachable"


# The source address.


async def test_a_host_is_always_met_from_the_same_source_address() -> None:
    seen: list[str] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(writer.get_extra_info("peername")[0])
        await say(writer, "554 no\r\n")
        await reader.read()

    sources = tuple(ipaddress.ip_address(text) for text in ("::1", "127.0.0.7", "127.0.0.8", "127.0.0.9"))
    async with world(server=serve, source_addresses=sources) as at:
        for _ in range(3):
            await at.fail()
    assert len(set(seen)) == 1
    assert seen[0] in ("127.0.0.7", "127.0.0.8", "127.0.0.9")


async def test_a_source_address_that_is_not_ours_is_our_own_fault() -> None:
    async with world(source_addresses=(ipaddress.ip_address("192.0.2.77"),)) as at:
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.INTERNAL, Phase.CONNECT)


# The choke point.


async def _reach(at: World, requirement: Requirement) -> Link:
    link = Link(requirement=requirement, hostname="relay.example.com", timeouts=Timeouts())
    await link.connect(LOOPBACK, at.port)
    await link.ehlo()
    return link


@pytest.mark.rfc("8461-5-a", "5321-4.1.1.3-b")
async def test_l5_no_command_gets_past_the_choke_point_in_plaintext() -> None:
    async with world() as at:
        link = await _reach(at, Requirement(level=Level.VERIFIED, mx_host=MX))
        with pytest.raises(UnprotectedError):
            link.pipeline(b"MAIL FROM:<a@b.test>\r\n", link.answers(), 1)
        link.abort()
        await at.host.ended.wait_for(1)
        assert at.host.sessions[0].verbs() == ["EHLO"]


async def test_l5_nor_over_tls_that_nobody_verified() -> None:
    async with world() as at:
        link = await _reach(at, Requirement(level=Level.VERIFIED, mx_host=MX))
        await link.start_tls(opportunistic_context(), MX)
        with pytest.raises(UnprotectedError):
            link.pipeline(b"MAIL FROM:<a@b.test>\r\n", link.answers(), 1)
        link.abort()
        await until(link.closed.done)
        assert mail_commands(at) == []


async def test_l5_nor_over_tls_verified_for_another_name() -> None:
    async with world(MxBehaviour(certificate_names=(MX, "mx2.shop.test"))) as at:
        link = await _reach(at, Requirement(level=Level.VERIFIED, mx_host=MX))
        await link.start_tls(at.connector._contexts.verified, "mx2.shop.test")
        with pytest.raises(UnprotectedError):
            link.pipeline(b"MAIL FROM:<a@b.test>\r\n", link.answers(), 1)
        link.abort()
        await until(link.closed.done)
        assert mail_commands(at) == []


@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING])
async def test_the_choke_point_is_open_where_nothing_demands_tls(level: Level) -> None:
    async with world() as at:
        link = await _reach(at, Requirement(level=level, mx_host=MX))
        answers = link.answers()
        link.pipeline(b"MAIL FROM:<a@b.test>\r\n", answers, 1)
        assert (await answers.next(timedelta(seconds=5))).code == 250
        link.abort()
        await until(link.closed.done)


# Being broken off.


@pytest.mark.parametrize("behaviour", [MxBehaviour(replies={Say.BANNER: HANG}), MxBehaviour(handshake=Handshake.HANG)])
async def test_a_cancelled_connect_leaves_nothing_open(behaviour: MxBehaviour) -> None:
    async with world(behaviour) as at:
        waiting = asyncio.ensure_future(at.send())
        await at.host.sessions.wait_for(1)
        await until(lambda: behaviour.handshake is Handshake.COMPLETE or len(at.host.sessions[0].commands) == 2)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        await at.host.ended.wait_for(1)


async def test_quit_is_said_to_a_host_that_is_not_good_enough() -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at:
        await at.fail(level=Level.VERIFIED)
        await at.host.ended.wait_for(1)
        assert at.host.sessions[0].verbs() == ["EHLO", "QUIT"]


@pytest.mark.rfc("5321-4.5.3.2-i")
def test_the_default_limits_are_those_of_rfc5321() -> None:
    limits = Timeouts()
    minutes = {name: getattr(limits, name) / timedelta(minutes=1) for name in Timeouts.__slots__}
    assert minutes == {
        "connect": 0.5,
        "greeting": 5,
        "ehlo": 5,
        "starttls": 2,
        "mail": 5,
        "rcpt": 5,
        "data": 2,
        "data_block": 3,
        "data_end": 10,
    }
    assert replace(limits, mail=SOON).mail == SOON


async def test_a_whole_session_by_hand() -> None:
    """What is on the wire, octet for octet, without any extension."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await greet(reader, writer)
        for reply in ("250 ok", "250 ok", "354 go"):
            heard.append(await reader.readuntil(b"\r\n"))
            await say(writer, reply + "\r\n")
        heard.append(await reader.readuntil(b"\r\n.\r\n"))
        await say(writer, "250 taken\r\n")
        heard.append(await reader.readuntil(b"\r\n"))
        await say(writer, "221 bye\r\n")

    async with world(server=serve) as at:
        assert codes(await at.send(parcel(content=b"A: b\r\n\r\n.dot\r\n"))) == {1: 250}
        await at.pool.close()
    assert heard == [
        b"MAIL FROM:<sender@example.com>\r\n",
        b"RCPT TO:<someone@shop.test>\r\n",
        b"DATA\r\n",
        b"A: b\r\n\r\n..dot\r\n.\r\n",
        b"QUIT\r\n",
    ]
