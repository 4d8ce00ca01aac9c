"""What a host is conceded where nothing is demanded of it: a smaller ClientHello, then plaintext; for an hour."""

import logging
import ssl
from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest
from client_world import DESTINATION, LONG, MX, SOON, World, codes, parcel, world

from policy.answers import TlsaRecord
from policy.requirement import DaneDemand, Level, Requirement
from relay.delivery.seam import HostError
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind
from relay.lab.mx_behaviour import DROP, Answer, Handshake, Moment, MxBehaviour, Script
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind, Phase, Security

SMALL = MxBehaviour(handshake=Handshake.SMALL)
QUICK = Timeouts(starttls=SOON)


def tries(at: World) -> list[str]:
    """What each connection was good for: the version of its TLS, "-" for a handshake that failed, or plaintext."""
    return [
        session.tls_version or ("-" if "STARTTLS" in session.verbs() else "plaintext") for session in at.host.sessions
    ]


async def send(at: World) -> Security:
    async with at.open() as session:
        assert codes(await session.send(parcel())) == {1: 250}
        return session.facts.security


def dropping(sessions: Iterator[bool]) -> Script:
    """Hang up on EHLO within TLS, in those sessions for which it is True."""

    def script(moment: Moment) -> Answer | None:
        return DROP if moment.secured and next(sessions) else None

    return script


@pytest.mark.rfc("9325-5.2-a")
async def test_a_host_that_chokes_on_the_client_hello_gets_a_smaller_one() -> None:
    async with world(SMALL) as at:
        assert await send(at) is Security.OPPORTUNISTIC
        assert tries(at) == ["-", "TLSv1.2"]
        assert [session.sni for session in at.host.sessions] == [None, None]
        assert not at.host.violations


async def test_what_a_host_needs_is_known_for_an_hour() -> None:
    async with world(SMALL, max_messages=1) as at:
        await send(at)
        await send(at)
        assert tries(at) == ["-", "TLSv1.2", "TLSv1.2"]
        at.clock.move(timedelta(minutes=59))
        await send(at)  # which does not make the hour longer
        at.clock.move(timedelta(minutes=2))
        at.host.behaviour = MxBehaviour()
        await send(at)
        assert tries(at)[3:] == ["TLSv1.2", "TLSv1.3"]


async def test_what_is_conceded_is_counted_and_once_an_hour_logged(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    async with world(SMALL, max_messages=1) as at:
        await send(at)
        await send(at)
        assert at.metric("tls_concessions_total", concession="small-hello") == 2
        (told,) = [one for one in caplog.records if one.message == "tls.conceded"]
        assert (told.levelname, vars(told)["remote_mta"], vars(told)["concession"]) == ("INFO", MX, "small-hello")
        assert vars(told)["detail"].startswith("TLS handshake failed: ")
        at.host.behaviour = MxBehaviour(handshake=Handshake.ALERT)
        await send(at)
        assert at.metric("tls_concessions_total", concession="plaintext") == 1
        _, last = [one for one in caplog.records if one.message == "tls.conceded"]
        assert (last.levelname, vars(last)["concession"]) == ("WARNING", "plaintext")


async def test_a_host_without_starttls_is_conceded_nothing(caplog: pytest.LogCaptureFixture) -> None:
    async with world(MxBehaviour(offers_starttls=False)) as at:
        assert await send(at) is Security.PLAINTEXT
        assert at.metric("tls_concessions_total", concession="plaintext") == 0
        assert not caplog.records


async def test_a_host_that_gets_worse_is_conceded_more() -> None:
    async with world(SMALL, max_messages=1) as at:
        await send(at)
        at.host.behaviour = MxBehaviour(handshake=Handshake.ALERT)
        assert await send(at) is Security.PLAINTEXT
        assert await send(at) is Security.PLAINTEXT
        assert tries(at) == ["-", "TLSv1.2", "-", "plaintext", "plaintext"]


@pytest.mark.rfc("3207-6-b", "9325-5.2-a")
@pytest.mark.parametrize(
    "handshake",
    [one for one in Handshake if one not in (Handshake.COMPLETE, Handshake.SMALL)],
    ids=lambda one: one.name,
)
async def test_plaintext_is_the_last_resort(handshake: Handshake) -> None:
    async with world(MxBehaviour(handshake=handshake), timeouts=QUICK) as at:
        assert await send(at) is Security.PLAINTEXT
        assert tries(at) == ["-", "-", "plaintext"]


async def test_a_host_that_refuses_starttls_is_not_asked_for_it_twice() -> None:
    async with world(MxBehaviour(replies={Say.STARTTLS: "454 4.7.0 TLS not available"})) as at:
        assert await send(at) is Security.PLAINTEXT
        assert tries(at) == ["-", "plaintext"]


async def test_nothing_is_remembered_of_a_host_that_took_no_connection_in_the_end() -> None:
    banners = iter([None, None, "421 4.3.2 Busy"])
    behaviour = MxBehaviour(handshake=Handshake.CLOSE, replies={Say.BANNER: lambda _moment: next(banners, None)})
    async with world(behaviour) as at:
        assert (await at.fail()).failure.kind is FailureKind.REPLY
        at.host.behaviour = MxBehaviour()
        assert await send(at) is Security.OPPORTUNISTIC


# Right after the handshake.


@pytest.mark.parametrize(
    ("drops", "expected"),
    [
        ([True, False], ["TLSv1.3", "TLSv1.2"]),
        ([True, True], ["TLSv1.3", "TLSv1.2", "plaintext"]),
    ],
    ids=["a smaller one helps", "nothing helps"],
)
async def test_a_session_that_dies_right_after_the_handshake(drops: list[bool], expected: list[str]) -> None:
    async with world(MxBehaviour(replies={Say.EHLO: dropping(iter(drops))})) as at:
        assert await send(at) is (Security.PLAINTEXT if all(drops) else Security.OPPORTUNISTIC)
        assert tries(at) == expected


@pytest.mark.rfc("8461-5-c", "8461-5-a")
async def test_under_a_policy_it_is_the_handshake_that_has_failed() -> None:
    async with world(MxBehaviour(replies={Say.EHLO: dropping(iter([True, True, False]))})) as at:
        error = await at.fail(level=Level.VERIFIED)
        assert (error.failure.kind, error.phase) == (FailureKind.HANDSHAKE, Phase.EHLO)
        async with at.open(Level.TESTING) as session:
            assert session.facts.testing_failure is not None
        assert tries(at) == ["TLSv1.3", "TLSv1.3", "TLSv1.3"]


async def test_a_host_that_answers_in_tls_is_taken_at_its_word() -> None:
    script: Script = lambda moment: "421 4.3.2 Busy" if moment.secured else None  # noqa: E731  a script is a function
    async with world(MxBehaviour(replies={Say.EHLO: script})) as at:
        error = await at.fail()
        assert (error.failure.kind, error.phase) == (FailureKind.REPLY, Phase.EHLO)
        assert tries(at) == ["TLSv1.3"]


# The oldest version.

OLD = MxBehaviour(newest_tls=ssl.TLSVersion.TLSv1_2)


@pytest.mark.rfc("8461-7.2-b", "9325-5.2-a")
async def test_what_a_policy_asks_for_may_be_newer_than_what_all_others_get() -> None:
    async with world(OLD, max_messages=1, tls_versions=("1.3", "1.2")) as at:
        assert await send(at) is Security.OPPORTUNISTIC
        error = await at.fail(level=Level.VERIFIED)
        assert error.failure.tls is not None
        assert error.failure.tls.reason == "ProtocolMismatch"
        async with at.open(Level.TESTING) as session:
            assert session.facts.testing_failure is not None
        assert tries(at) == ["TLSv1.2", "-", "-", "TLSv1.2"]


async def test_no_concession_goes_below_the_oldest_version_of_all() -> None:
    async with world(OLD, tls_versions=("1.3", "1.3")) as at:
        assert await send(at) is Security.PLAINTEXT
        assert tries(at) == ["-", "-", "plaintext"]


# Never under a demand.

DANE = DaneDemand(
    base_domain=MX,
    reference_names=(MX,),
    records=(TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32)),),
)
DEMANDS = {
    "MTA-STS": Requirement(level=Level.VERIFIED, mx_host=MX),
    "DANE": Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, dane=DANE),
    "TLS by DANE": Requirement(level=Level.OPPORTUNISTIC, mx_host=MX, dane=replace(DANE, records=())),
    "both": Requirement(level=Level.VERIFIED, mx_host=MX, dane=DANE),
    "DANE, and MTA-STS testing": Requirement(level=Level.TESTING, mx_host=MX, dane=DANE),
}


@pytest.mark.rfc("8461-5-a", "7672-2.2-d", "9325-5.2-a")
@pytest.mark.parametrize("remembered", [False, True], ids=["at first", "remembered"])
@pytest.mark.parametrize("behaviour", [SMALL, MxBehaviour(handshake=Handshake.ALERT)], ids=["small", "alert"])
@pytest.mark.parametrize("requirement", DEMANDS.values(), ids=DEMANDS)
async def test_nothing_is_conceded_where_something_is_demanded(
    requirement: Requirement, behaviour: MxBehaviour, *, remembered: bool
) -> None:
    async with world(behaviour, max_messages=1) as at:
        if remembered:
            await send(at)
        before = len(at.host.sessions)
        target = replace(at.target(), requirement=requirement)
        with pytest.raises(HostError) as caught:
            async with at.pool.open(target, destination=DESTINATION, size=LONG):
                pass
        assert caught.value.failure.kind is FailureKind.HANDSHAKE
        assert set(tries(at)[before:]) == {"-"}


async def test_testing_verifies_with_all_that_we_have_before_it_concedes_anything() -> None:
    async with world(SMALL) as at, at.open(Level.TESTING) as session:
        assert session.facts.security is Security.OPPORTUNISTIC
        assert session.facts.testing_failure is not None
        assert tries(at) == ["-", "-", "TLSv1.2"]


async def test_what_is_conceded_is_no_verified_session() -> None:
    behaviour = replace(SMALL, certificate=CertificateKind.GOOD)
    async with world(behaviour) as at, at.open() as session:
        assert session.facts.tls is not None
        assert not session.facts.tls.verified
