"""What the client notes of each try to have TLS, over real sockets, for the reports of RFC 8460."""

from dataclasses import replace
from datetime import UTC, date, datetime, timedelta

import pytest
from client_world import DESTINATION, LONG, MX, SOON, World, parcel, world

from policy.answers import TlsaRecord
from policy.requirement import DaneDemand, Level, MxMatch, ResultType
from relay.delivery.negotiation import UNTOLD, Countable, Ends, Negotiation
from relay.delivery.seam import HostError, Target
from relay.delivery.timeouts import Timeouts
from relay.lab.ca import CertificateKind
from relay.lab.mx_behaviour import DROP, Answer, Handshake, Moment, MxBehaviour, closing
from relay.lab.mx_behaviour import Phase as Say
from relay.queue.attempt import FailureKind

ENDS = Ends("127.0.0.1", "127.0.0.1", MX)
NO_TLS = MxBehaviour(offers_starttls=False)
EXPIRED = MxBehaviour(certificate=CertificateKind.EXPIRED)
ALERT = MxBehaviour(handshake=Handshake.ALERT)
ZEROS = TlsaRecord(usage=3, selector=1, matching_type=1, data=bytes(32))
LEVELS = [Level.OPPORTUNISTIC, Level.TESTING, Level.VERIFIED]


async def noted(at: World, to: Target, destination: str = DESTINATION) -> Countable | None:
    """Deliver, or fail to, and return what is to be counted of it."""
    try:
        async with at.pool.open(to, destination=destination, size=LONG) as session:
            await session.send(parcel())
            return session.facts.countable
    except HostError as error:
        return error.countable


async def negotiation(at: World, to: Target) -> Negotiation:
    countable = await noted(at, to)
    assert countable is not None
    assert countable.negotiation.day == at.clock.now().date()
    return countable.negotiation


def target(at: World, level: Level, mx_match: MxMatch = MxMatch.MATCHED) -> Target:
    return at.target(level, mx_match=MxMatch.NO_POLICY if level is Level.OPPORTUNISTIC else mx_match)


def with_dane(to: Target, *records: TlsaRecord) -> Target:
    demand = DaneDemand(base_domain=MX, reference_names=(MX,), records=records)
    return replace(to, requirement=replace(to.requirement, dane=demand))


@pytest.mark.rfc("8460-4.2-a")
@pytest.mark.parametrize("level", LEVELS)
async def test_a_good_session_has_nothing_to_tell(level: Level) -> None:
    async with world(counts_sessions=True) as at:
        found = await negotiation(at, target(at, level))
        assert (found.failure, found.waived, found.ends) == (None, None, UNTOLD)


@pytest.mark.rfc("8460-4.4-o", "8460-4.4-q", "8460-4.4-r", "8460-4.3.1-a")
@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize(
    ("behaviour", "result_type"),
    [
        (NO_TLS, ResultType.STARTTLS_NOT_SUPPORTED),
        (MxBehaviour(replies={Say.STARTTLS: "454 4.7.0 not now"}), ResultType.STARTTLS_NOT_SUPPORTED),
        (ALERT, ResultType.VALIDATION_FAILURE),
    ],
    ids=["not-offered", "refused", "alert"],
)
async def test_no_tls_is_told_at_each_level(level: Level, behaviour: MxBehaviour, result_type: ResultType) -> None:
    async with world(behaviour, counts_sessions=True) as at:
        found = await negotiation(at, target(at, level))
        told = found.waived if level is not Level.VERIFIED else found.failure and found.failure.tls
        assert told
        assert told.result_type is result_type
        assert (found.failure is None) is (level is not Level.VERIFIED)
        assert found.ends == ENDS


@pytest.mark.rfc("8460-4.3.1-c", "8460-4.2-d", "8460-4.2-e")
async def test_a_bad_certificate_is_told_where_somebody_looks_at_it() -> None:
    async with world(EXPIRED, counts_sessions=True) as at:
        refused = await negotiation(at, target(at, Level.VERIFIED))
        assert refused.failure
        assert refused.failure.kind is FailureKind.CERTIFICATE
        assert refused.ends == ENDS
        testing = await negotiation(at, target(at, Level.TESTING))
        assert testing.failure is None
        assert testing.waived
        assert testing.waived.result_type is ResultType.CERTIFICATE_EXPIRED
        assert testing.ends == ENDS
        anything = await negotiation(at, target(at, Level.OPPORTUNISTIC))
        assert (anything.failure, anything.waived) == (None, None)


@pytest.mark.rfc("8460-4.3.1-f", "8460-4.2-d")
async def test_a_host_that_a_policy_in_testing_does_not_name_is_told() -> None:
    async with world(counts_sessions=True) as at:
        found = await negotiation(at, target(at, Level.TESTING, MxMatch.NOT_MATCHED))
        assert found.waived
        assert found.waived.reason == "MxNotInPolicy"
        assert found.ends == ENDS


@pytest.mark.rfc("8460-4.3.2.1-b", "8460-4.3.2.1-a")
async def test_what_dane_says_is_told_apart_from_the_web_pki() -> None:
    async with world(EXPIRED, counts_sessions=True) as at:
        found = await negotiation(at, with_dane(target(at, Level.TESTING), ZEROS))
        assert found.failure
        assert found.failure.kind is FailureKind.DANE_CERTIFICATE
        assert found.waived
        assert found.waived.result_type is ResultType.CERTIFICATE_EXPIRED
        unusable = await negotiation(at, with_dane(target(at, Level.OPPORTUNISTIC)))
        assert (unusable.failure, unusable.waived, unusable.ends) == (None, None, ENDS)


@pytest.mark.rfc("8460-4.3.4-a")
@pytest.mark.parametrize(
    "behaviour",
    [
        MxBehaviour(replies={Say.BANNER: closing("421 4.3.2 too busy")}),
        MxBehaviour(replies={Say.BANNER: DROP}),
        MxBehaviour(replies={Say.EHLO: closing("421 4.3.2 too busy")}),
    ],
    ids=["greeting", "broken-off", "ehlo"],
)
@pytest.mark.parametrize("level", LEVELS)
async def test_what_has_nothing_to_do_with_tls_is_not_counted(behaviour: MxBehaviour, level: Level) -> None:
    async with world(behaviour, counts_sessions=True) as at:
        assert await noted(at, target(at, level)) is None


async def test_a_host_that_refuses_ehlo_offers_no_starttls() -> None:
    async with world(MxBehaviour(replies={Say.EHLO: "502 5.5.1 what?"}), counts_sessions=True) as at:
        for level in LEVELS:
            found = await negotiation(at, target(at, level))
            told = found.waived or (found.failure and found.failure.tls)
            assert told
            assert told.result_type is ResultType.STARTTLS_NOT_SUPPORTED


@pytest.mark.rfc("8460-4.2-a")
@pytest.mark.parametrize("reply", ["502 5.5.1 what?", "421 4.3.2 too busy", "554 5.7.1 not you"])
@pytest.mark.parametrize("level", LEVELS)
async def test_what_a_host_refuses_within_tls_says_nothing_against_tls(level: Level, reply: str) -> None:
    def within_tls(moment: Moment) -> str | None:
        return reply if moment.secured else None

    behaviour = MxBehaviour(replies={Say.EHLO: within_tls, Say.HELO: within_tls})
    async with world(behaviour, counts_sessions=True) as at:
        found = await negotiation(at, target(at, level))
        assert (found.failure, found.waived) == (None, None)
        with pytest.raises(HostError) as caught:
            await at.pool.open(target(at, level), destination=DESTINATION, size=LONG).__aenter__()
        assert caught.value.tls is not None
        assert caught.value.tls.version == "TLSv1.3"
        assert caught.value.testing_failure is None


async def test_plaintext_because_tls_failed_a_while_ago_is_no_negotiation() -> None:
    timeouts = Timeouts(starttls=SOON)
    async with world(ALERT, counts_sessions=True, max_messages=1, timeouts=timeouts) as at:
        first = await negotiation(at, at.target())
        assert first.waived
        assert first.waived.result_type is ResultType.VALIDATION_FAILURE
        assert await noted(at, at.target()) is None


@pytest.mark.rfc("8460-4.2-a", "8460-4.2-e")
async def test_tls_at_the_second_try_is_tls() -> None:
    async with world(MxBehaviour(handshake=Handshake.SMALL), counts_sessions=True) as at:
        found = await negotiation(at, at.target())
        assert len(at.host.sessions) == 2
        assert (found.failure, found.waived) == (None, None)


@pytest.mark.rfc("8460-4.2-b", "8460-4.3.4-a")
@pytest.mark.parametrize("failing", [1, 2], ids=["at-the-small-hello", "in-plaintext"])
@pytest.mark.parametrize(
    "banner", [closing("421 4.3.2 too busy"), "554 5.3.2 not you", DROP], ids=["busy", "refused", "broken-off"]
)
@pytest.mark.parametrize("level", [Level.OPPORTUNISTIC, Level.TESTING])
async def test_tls_has_failed_though_what_comes_after_it_fails_for_another_reason(
    level: Level, banner: Answer | str, failing: int
) -> None:
    strict = level is Level.TESTING
    banners = iter([None] * (failing + strict))
    behaviour = MxBehaviour(handshake=Handshake.ALERT, replies={Say.BANNER: lambda _moment: next(banners, banner)})
    async with world(behaviour, counts_sessions=True) as at:
        found = await negotiation(at, target(at, level))
        assert len(at.host.sessions) == failing + strict + 1
        assert found.failure
        assert (found.failure.tls, found.ends) == (None, ENDS)
        assert found.waived
        assert found.waived.result_type is ResultType.VALIDATION_FAILURE


@pytest.mark.rfc("8460-4.2-c")
async def test_a_session_that_is_used_again_is_the_same_to_count() -> None:
    async with world(counts_sessions=True) as at:
        first, second = await noted(at, at.target()), await noted(at, at.target(), "other.test")
        assert len(at.host.sessions) == 1
        assert first is second
        assert first is not None


@pytest.mark.rfc("8460-4.1-d")
async def test_a_session_belongs_to_the_day_on_which_it_began() -> None:
    async with world(counts_sessions=True) as at:
        at.clock.set(datetime(2026, 11, 21, 23, 59, 59, tzinfo=UTC))
        first = await noted(at, at.target())
        at.clock.move(timedelta(seconds=1))
        again, new = await noted(at, at.target()), await noted(at, target(at, Level.VERIFIED))
        assert first is not None and again is first and new is not None  # noqa: PT018  one thing
        assert (first.negotiation.day, new.negotiation.day) == (date(2026, 11, 21), date(2026, 11, 22))


async def test_a_host_that_refuses_mail_has_had_its_session_all_the_same() -> None:
    async with world(MxBehaviour(replies={Say.MAIL: closing("421 4.3.2 later")}), counts_sessions=True) as at:
        error = await at.fail()
        assert error.countable is not None
        assert error.countable.negotiation.failure is None


@pytest.mark.rfc("8460-3-ac", "8460-8-a")
async def test_neither_reports_nor_anything_else_is_counted_where_nobody_reports() -> None:
    async with world(NO_TLS, counts_sessions=True) as at:
        assert await noted(at, at.target(for_reports=True)) is None
    async with world(NO_TLS) as at:
        assert await noted(at, at.target()) is None
        error = await at.fail(level=Level.VERIFIED)
        assert (error.countable, error.ends) == (None, UNTOLD)


async def test_a_name_that_is_none_is_not_told() -> None:
    replies = {Say.BANNER: "220 <script> ready", Say.EHLO: "250 [127.0.0.1] hello"}
    async with world(MxBehaviour(offers_starttls=False, replies=replies), counts_sessions=True) as at:
        assert (await negotiation(at, at.target())).ends == Ends("127.0.0.1", "127.0.0.1", "")
