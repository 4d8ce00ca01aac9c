"""Cached policy, record, last failure and time to a decision; the fail-closed table."""

from datetime import datetime, timedelta

import pytest
from policy_fakes import NODATA, NXDOMAIN, SERVFAIL, START, TIMEOUT, found_txt

from policy.answers import Answer, Unknown
from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.freshness import (
    FOREVER_RETRY,
    Decision,
    Defer,
    Discovery,
    Fetch,
    FreshnessSettings,
    NoPolicy,
    UseCached,
    decide_freshness,
    discovered,
    expires_at,
    live_policy,
    refresh_due,
)
from policy.mta_sts import Mode, NoRecord, Policy, Record
from policy.requirement import ResultType

MINUTE = timedelta(minutes=1)
HOUR = timedelta(hours=1)
DAY = timedelta(days=1)
NOW = START
SETTINGS = FreshnessSettings()
FOREVER = FreshnessSettings(unknown_grace=None)
NO_RECORD = NoRecord(reason="")


def cached(
    *, age: timedelta = HOUR, max_age: timedelta = 7 * DAY, record_id: str = "1", mode: Mode = Mode.ENFORCE
) -> CachedPolicy:
    policy = Policy(mode=mode, mx=("mx.x.test",), max_age=max_age, text="")
    return CachedPolicy(policy_domain="x.test", record_id=record_id, policy=policy, fetched_at=NOW - age)


def failed(*, ago: timedelta, record_id: str = "1") -> FetchFailure:
    return FetchFailure(
        record_id=record_id,
        result_type=ResultType.STS_POLICY_FETCH_ERROR,
        detail="",
        failed_at=NOW - ago,
        failing_since=NOW - ago,
    )


def state(
    *, cached: CachedPolicy | None = None, failure: FetchFailure | None = None, unknown_since: datetime | None = None
) -> PolicyState:
    return PolicyState(policy_domain="x.test", cached=cached, failure=failure, unknown_since=unknown_since)


LIVE = cached()
EXPIRED = cached(age=8 * DAY)


@pytest.mark.rfc("8461-3.1-u", "8461-3.1-z", "8461-3.3-q", "8461-3.3-r", "8461-2-d")
@pytest.mark.parametrize(
    ("answer", "with_live", "with_expired", "with_nothing"),
    [
        # The rows of the fail-closed table, as far as the look-up goes.
        (NXDOMAIN, UseCached(cached=LIVE), NoPolicy(), NoPolicy()),
        (NODATA, UseCached(cached=LIVE), NoPolicy(), NoPolicy()),
        (found_txt(b"junk"), UseCached(cached=LIVE), NoPolicy(), NoPolicy()),
        (found_txt(b"v=STSv1; foo"), UseCached(cached=LIVE), NoPolicy(), NoPolicy()),
        (found_txt(b"v=STSv1; id=1;", b"v=STSv1; id=2;"), UseCached(cached=LIVE), NoPolicy(), NoPolicy()),
        (SERVFAIL, UseCached(cached=LIVE), Defer(until=NOW + 30 * MINUTE), Defer(until=NOW + 30 * MINUTE)),
        (TIMEOUT, UseCached(cached=LIVE), Defer(until=NOW + 30 * MINUTE), Defer(until=NOW + 30 * MINUTE)),
        (found_txt(b"v=STSv1; id=1;"), UseCached(cached=LIVE), Fetch(record_id="1"), Fetch(record_id="1")),
        (found_txt(b"v=STSv1; id=2;"), Fetch(record_id="2"), Fetch(record_id="2"), Fetch(record_id="2")),
    ],
)
def test_the_fail_closed_table(
    answer: Answer[bytes], with_live: Decision, with_expired: Decision, with_nothing: Decision
) -> None:
    discovery = discovered(answer)
    assert decide_freshness(state(cached=LIVE), discovery, NOW, SETTINGS) == with_live
    assert decide_freshness(state(cached=EXPIRED), discovery, NOW, SETTINGS) == with_expired
    assert decide_freshness(state(), discovery, NOW, SETTINGS) == with_nothing


@pytest.mark.parametrize("mode", list(Mode))
@pytest.mark.parametrize("discovery", [NO_RECORD, SERVFAIL, Record(record_id="1")])
@pytest.mark.rfc("8461-3.1-u", "8461-3.3-r", "8461-5-e", "8461-8.3-b")
def test_a_live_policy_of_any_mode_is_kept(mode: Mode, discovery: Discovery) -> None:
    policy = cached(mode=mode)
    failure = failed(ago=MINUTE)
    assert decide_freshness(state(cached=policy, failure=failure), discovery, NOW, SETTINGS) == UseCached(cached=policy)


@pytest.mark.rfc("8461-3.1-f")
@pytest.mark.parametrize(("old", "new"), [("9", "1"), ("1", "9"), ("abc", "ABC"), ("01", "1")])
def test_ids_are_compared_for_equality_only(old: str, new: str) -> None:
    policy = cached(record_id=old)
    assert decide_freshness(state(cached=policy), Record(record_id=new), NOW, SETTINGS) == Fetch(record_id=new)


@pytest.mark.rfc("8461-3.1-w", "8461-3.2-p", "8461-5.1-a")
@pytest.mark.parametrize(
    ("age", "max_age", "live"),
    [
        (timedelta(0), DAY, True),
        (DAY - timedelta(seconds=1), DAY, True),
        (DAY, DAY, False),
        (2 * DAY, DAY, False),
        (timedelta(0), timedelta(0), False),
        (timedelta(seconds=-1), timedelta(0), False),
        (-MINUTE, DAY, True),
    ],
)
def test_a_policy_lives_for_max_age_since_its_last_fetch(age: timedelta, max_age: timedelta, live: bool) -> None:
    policy = cached(age=age, max_age=max_age)
    decision = decide_freshness(state(cached=policy), Record(record_id="1"), NOW, SETTINGS)
    assert decision == (UseCached(cached=policy) if live else Fetch(record_id="1"))


@pytest.mark.rfc("8461-3.3-m", "8461-3.3-n")
@pytest.mark.parametrize(
    ("failure", "asked", "fetches"),
    [
        (failed(ago=timedelta(0)), "1", False),
        (failed(ago=MINUTE), "1", False),
        (failed(ago=5 * MINUTE - timedelta(seconds=1)), "1", False),
        (failed(ago=5 * MINUTE), "1", True),
        (failed(ago=MINUTE), "2", True),
        (failed(ago=MINUTE, record_id="a"), "A", True),
        (failed(ago=-MINUTE), "1", False),
        (failed(ago=-DAY), "1", True),
        (None, "1", True),
    ],
)
def test_five_minutes_between_fetches_for_one_id(failure: FetchFailure | None, asked: str, fetches: bool) -> None:
    decision = decide_freshness(state(failure=failure), Record(record_id=asked), NOW, SETTINGS)
    assert decision == (Fetch(record_id=asked) if fetches else NoPolicy(failure=failure))
    other = cached(record_id="other")
    decision = decide_freshness(state(cached=other, failure=failure), Record(record_id=asked), NOW, SETTINGS)
    assert decision == (Fetch(record_id=asked) if fetches else UseCached(cached=other))


@pytest.mark.rfc("8461-3.1-z")
@pytest.mark.parametrize(
    ("since", "settings", "decision"),
    [
        (None, SETTINGS, Defer(until=NOW + 30 * MINUTE)),
        (NOW, SETTINGS, Defer(until=NOW + 30 * MINUTE)),
        (NOW - 29 * MINUTE, SETTINGS, Defer(until=NOW + MINUTE)),
        (NOW - 30 * MINUTE, SETTINGS, NoPolicy()),
        (NOW - 30 * DAY, SETTINGS, NoPolicy()),
        (NOW + DAY, SETTINGS, Defer(until=NOW + 30 * MINUTE)),
        (None, FreshnessSettings(unknown_grace=timedelta(0)), NoPolicy()),
        (NOW - 30 * DAY, FOREVER, Defer(until=NOW + FOREVER_RETRY)),
    ],
)
@pytest.mark.parametrize("unknown", [SERVFAIL, TIMEOUT])
def test_an_unknown_record_defers_for_the_grace_of_its_run(
    since: datetime | None, settings: FreshnessSettings, decision: Decision, unknown: Unknown
) -> None:
    assert decide_freshness(state(unknown_since=since), unknown, NOW, settings) == decision


@pytest.mark.rfc("8461-10.2-f")
def test_a_clock_that_went_back_keeps_the_policy_for_max_age_at_most_and_has_it_fetched_anew() -> None:
    policy = cached(age=-365 * DAY, max_age=DAY)
    assert expires_at(policy, NOW) == NOW + DAY
    assert live_policy(state(cached=policy), NOW) == policy
    assert decide_freshness(state(cached=policy), NO_RECORD, NOW, SETTINGS) == UseCached(cached=policy)
    assert decide_freshness(state(cached=policy), Record(record_id="1"), NOW, SETTINGS) == Fetch(record_id="1")
    failing = state(cached=policy, failure=failed(ago=MINUTE))
    assert decide_freshness(failing, Record(record_id="1"), NOW, SETTINGS) == UseCached(cached=policy)


@pytest.mark.rfc("8461-10.2-f")
def test_a_clock_that_went_forward_expires_the_policy() -> None:
    policy = cached(max_age=DAY)
    assert decide_freshness(state(cached=policy), NO_RECORD, NOW + 365 * DAY, SETTINGS) == NoPolicy()


@pytest.mark.rfc("8461-10.2-a", "8461-10.2-d", "8461-3.3-s")
@pytest.mark.parametrize(
    ("age", "max_age", "draw", "due"),
    [
        (11 * HOUR, 7 * DAY, 0.0, False),
        (12 * HOUR, 7 * DAY, 0.0, True),
        (12 * HOUR, 7 * DAY, 0.08, True),
        (12 * HOUR, 7 * DAY, 0.09, False),
        (22 * HOUR, 7 * DAY, 0.49, True),
        (22 * HOUR, 7 * DAY, 0.51, False),
        (23 * HOUR, 7 * DAY, 0.99, True),
        (30 * HOUR, 7 * DAY, 0.99, True),
        (23 * HOUR, DAY, 0.99, True),
        (5 * HOUR, 12 * HOUR, 0.0, False),
        (11 * HOUR, 12 * HOUR, 0.99, True),
        (-DAY, 7 * DAY, 0.0, False),
    ],
)
def test_a_refresh_falls_into_the_second_half_of_the_day(
    age: timedelta, max_age: timedelta, draw: float, due: bool
) -> None:
    policy = cached(age=age, max_age=max_age)
    assert refresh_due(policy, NOW, interval=DAY, step=HOUR, draw=draw) is due
