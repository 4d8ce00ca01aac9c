"""What counts as a change of a policy, and which change weakens it."""

from datetime import UTC, datetime, timedelta

import pytest

from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.journal import Change, expired, failed, fetched
from policy.mta_sts import Mode, Policy
from policy.requirement import ResultType

NOW = datetime(2026, 1, 1, tzinfo=UTC)
DAY = timedelta(days=1)
FAILURE = FetchFailure(
    record_id="1",
    result_type=ResultType.STS_WEBPKI_INVALID,
    detail="certificate has expired",
    failed_at=NOW + DAY,
    failing_since=NOW,
)


def cached(
    record_id: str = "1", mode: Mode = Mode.ENFORCE, mx: tuple[str, ...] = ("a.test", "b.test"), days: int = 7
) -> CachedPolicy:
    policy = Policy(mode=mode, mx=mx, max_age=days * DAY, text="")
    return CachedPolicy(policy_domain="x.test", record_id=record_id, policy=policy, fetched_at=NOW)


def state(known: CachedPolicy | None = None, failure: FetchFailure | None = None) -> PolicyState:
    return PolicyState(policy_domain="x.test", cached=known, failure=failure)


@pytest.mark.parametrize(
    ("old", "new", "changes", "weakens"),
    [
        (None, cached(), [Change.NEW], False),
        (None, cached(mode=Mode.NONE), [Change.NEW], False),
        (cached(), cached(record_id="2"), [Change.ID_CHANGED], False),
        (cached(record_id="a"), cached(record_id="A"), [Change.ID_CHANGED], False),
        (cached(), cached(mode=Mode.TESTING), [Change.MODE_WEAKENED], True),
        (cached(), cached(mode=Mode.NONE), [Change.MODE_WEAKENED], True),
        (cached(mode=Mode.TESTING), cached(mode=Mode.NONE), [Change.MODE_WEAKENED], True),
        (cached(mode=Mode.NONE), cached(mode=Mode.TESTING), [Change.MODE_STRENGTHENED], False),
        (cached(mode=Mode.TESTING), cached(), [Change.MODE_STRENGTHENED], False),
        (cached(), cached(mx=("a.test",)), [Change.MX_CHANGED], False),
        (cached(), cached(days=1), [Change.MAX_AGE_CHANGED], False),
        (
            cached(),
            cached("2", Mode.NONE, (), 1),
            [Change.ID_CHANGED, Change.MODE_WEAKENED, Change.MX_CHANGED, Change.MAX_AGE_CHANGED],
            True,
        ),
    ],
)
def test_what_a_fetch_changes(
    old: CachedPolicy | None, new: CachedPolicy, changes: list[Change], weakens: bool
) -> None:
    entry = fetched(state(old), new)
    assert entry is not None
    assert (list(entry.changes), entry.weakens) == (changes, weakens)
    assert (entry.policy_domain, entry.at) == ("x.test", new.fetched_at)
    assert (entry.before.record_id if entry.before else None) == (old.record_id if old else None)
    assert entry.after is not None
    assert (entry.after.mode, entry.after.mx, entry.after.max_age) == (
        new.policy.mode,
        new.policy.mx,
        new.policy.max_age,
    )


@pytest.mark.parametrize("new", [cached(), cached(mx=("b.test", "a.test")), cached(mx=("a.test", "b.test", "a.test"))])
def test_the_same_again_is_no_change(new: CachedPolicy) -> None:
    assert fetched(state(cached()), new) is None


def test_a_fetch_after_failures_says_since_when_they_were() -> None:
    entry = fetched(state(cached(), FAILURE), cached())
    assert entry is not None
    assert (entry.changes, entry.failing_since, entry.weakens) == ((Change.FETCH_RECOVERED,), NOW, False)
    assert entry.problem is not None
    assert entry.problem.result_type is ResultType.STS_WEBPKI_INVALID
    entry = fetched(state(None, FAILURE), cached())
    assert entry is not None
    assert entry.changes == (Change.NEW, Change.FETCH_RECOVERED)


def test_only_the_first_failure_of_a_run_is_a_change_and_it_weakens_nothing() -> None:
    entry = failed(state(cached()), FAILURE)
    assert entry is not None
    assert (entry.changes, entry.at, entry.weakens) == ((Change.FETCH_FAILING,), NOW + DAY, False)
    assert entry.before == entry.after
    assert failed(state(cached(), FAILURE), FAILURE) is None


@pytest.mark.parametrize(("mode", "weakens"), [(Mode.ENFORCE, True), (Mode.TESTING, True), (Mode.NONE, False)])
def test_expiry_weakens_what_was_stronger_than_none(mode: Mode, weakens: bool) -> None:
    entry = expired(state(cached(mode=mode), FAILURE), NOW + 7 * DAY)
    assert entry is not None
    assert (entry.changes, entry.after, entry.weakens) == ((Change.EXPIRED,), None, weakens)
    assert entry.failing_since == NOW
    assert expired(state(None, FAILURE), NOW) is None


def test_hostile_sizes_are_cut() -> None:
    many = tuple(f"mx{number}.test" for number in range(5000))
    entry = fetched(state(), cached(mx=many))
    assert entry is not None
    assert entry.after is not None
    assert (len(entry.after.mx), entry.after.mx_count) == (50, 5000)
    long = FetchFailure(
        record_id="1", result_type=FAILURE.result_type, detail="x" * 5000, failed_at=NOW, failing_since=NOW
    )
    entry = failed(state(), long)
    assert entry is not None
    assert entry.problem is not None
    assert len(entry.problem.detail) == 500
