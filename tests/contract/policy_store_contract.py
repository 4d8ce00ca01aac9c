"""What every PolicyStore keeps to. Subclass it in a test file that has a `store` fixture."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest

from policy.findings import CachedPolicy, FetchFailure
from policy.journal import LIFE, MAX_ENTRIES, Change
from policy.mta_sts import Mode, Policy, parse_policy, render_policy
from policy.requirement import ResultType
from policy.store import PolicyStore

NOW = datetime(2026, 1, 1, 12, tzinfo=UTC)
DAY = timedelta(days=1)
TEXT = "version: STSv1\r\nmode: enforce\r\nmx: mx.x.test\r\nmx: *.x.test\r\nnote: \u00e4 b\r\nmax_age: 604800\r\n"


def cached(domain: str, *, fetched_at: datetime = NOW, record_id: str = "1", text: str = TEXT) -> CachedPolicy:
    policy = parse_policy(text.encode())
    return CachedPolicy(policy_domain=domain, record_id=record_id, policy=policy, fetched_at=fetched_at)


def failure(*, record_id: str = "1", failed_at: datetime = NOW) -> FetchFailure:
    return FetchFailure(
        record_id=record_id,
        result_type=ResultType.STS_POLICY_FETCH_ERROR,
        detail="HTTP status 404, not 200",
        failed_at=failed_at,
        failing_since=failed_at - DAY,
    )


class PolicyStoreContract:
    """The contract of policy.store.PolicyStore, one test a sentence."""

    @pytest.fixture
    def store(self) -> PolicyStore:
        raise NotImplementedError

    async def test_nothing_is_known_of_a_new_domain(self, store: PolicyStore) -> None:
        assert await store.get("x.test") is None

    async def test_a_policy_comes_back_as_it_was_put_text_and_all(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        state = await store.get("x.test")
        assert state is not None
        assert state.policy_domain == "x.test"
        assert state.cached == cached("x.test")
        assert state.cached.policy.text == TEXT
        assert state.failure is None
        assert state.unknown_since is None

    @pytest.mark.parametrize("mode", list(Mode))
    async def test_every_mode_is_kept(self, store: PolicyStore, mode: Mode) -> None:
        text = render_policy(Policy(mode=mode, mx=("mx.x.test",), max_age=DAY, text=""))
        await store.put(cached("x.test", text=text))
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test", text=text)

    async def test_a_time_keeps_its_microseconds_and_its_zone(self, store: PolicyStore) -> None:
        fetched_at = NOW + timedelta(microseconds=123456)
        await store.put(cached("x.test", fetched_at=fetched_at))
        state = await store.get("x.test")
        assert state is not None
        assert state.cached is not None
        assert state.cached.fetched_at == fetched_at
        assert state.cached.fetched_at.utcoffset() == timedelta(0)

    @pytest.mark.rfc("8461-3.2-ad", "8461-3.2-p")
    async def test_a_newer_fetch_replaces_the_policy_also_by_a_weaker_one(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        newer = cached("x.test", fetched_at=NOW + DAY, record_id="2", text="version: STSv1\nmode: none\nmax_age: 60\n")
        await store.put(newer)
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == newer

    @pytest.mark.rfc("8461-10.2-g")
    async def test_of_two_writers_the_newest_fetch_stays(self, store: PolicyStore) -> None:
        await store.put(cached("x.test", record_id="new"))
        await store.put(cached("x.test", record_id="old", fetched_at=NOW - DAY))
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test", record_id="new")

    @pytest.mark.rfc("8461-3.2-ac", "8461-3.3-r")
    async def test_a_failure_leaves_the_policy_untouched(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.note_failure("x.test", failure())
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test")
        assert state.failure == failure()

    async def test_a_failure_is_kept_without_a_policy_and_the_last_one_counts(self, store: PolicyStore) -> None:
        await store.note_failure("x.test", failure())
        await store.note_failure("x.test", failure(record_id="2", failed_at=NOW + DAY))
        state = await store.get("x.test")
        assert state is not None
        assert state.cached is None
        assert state.failure == failure(record_id="2", failed_at=NOW + DAY)

    async def test_a_fetched_policy_clears_the_failure(self, store: PolicyStore) -> None:
        await store.note_failure("x.test", failure())
        await store.put(cached("x.test"))
        state = await store.get("x.test")
        assert state is not None
        assert state.failure is None

    async def test_a_run_of_unknown_answers_keeps_its_start_until_it_ends(self, store: PolicyStore) -> None:
        await store.note_unknown("x.test", NOW)
        await store.note_unknown("x.test", NOW + DAY)
        state = await store.get("x.test")
        assert state is not None
        assert state.unknown_since == NOW
        await store.note_unknown("x.test", None)
        state = await store.get("x.test")
        assert state is None or state.unknown_since is None
        await store.note_unknown("x.test", NOW + 2 * DAY)
        state = await store.get("x.test")
        assert state is not None
        assert state.unknown_since == NOW + 2 * DAY

    async def test_a_run_of_unknown_answers_touches_neither_policy_nor_failure(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.note_failure("x.test", failure())
        await store.note_unknown("x.test", NOW)
        await store.note_unknown("x.test", None)
        state = await store.get("x.test")
        assert state is not None
        assert (state.cached, state.failure) == (cached("x.test"), failure())

    async def test_ending_a_run_that_never_was_is_no_error(self, store: PolicyStore) -> None:
        await store.note_unknown("x.test", None)

    async def test_domains_do_not_touch_each_other(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.note_failure("y.test", failure())
        await store.forget("y.test")
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test")
        assert await store.get("y.test") is None

    async def test_due_are_unexpired_policies_the_oldest_first_and_no_more_than_asked_for(
        self, store: PolicyStore
    ) -> None:
        await store.put(cached("fresh.test", fetched_at=NOW))
        await store.put(cached("old.test", fetched_at=NOW - 3 * DAY))
        await store.put(cached("older.test", fetched_at=NOW - 4 * DAY))
        await store.put(cached("oldest.test", fetched_at=NOW - 6 * DAY))
        await store.put(cached("expired.test", fetched_at=NOW - 8 * DAY))
        await store.note_failure("never.test", failure(failed_at=NOW - 5 * DAY))
        due = await store.due_for_refresh(NOW - DAY, NOW, 2)
        assert [state.policy_domain for state in due] == ["oldest.test", "older.test"]
        due = await store.due_for_refresh(NOW - DAY, NOW, 100)
        assert [state.policy_domain for state in due] == ["oldest.test", "older.test", "old.test"]
        assert due[0].cached == cached("oldest.test", fetched_at=NOW - 6 * DAY)

    @pytest.mark.rfc("8461-10.3-b")
    async def test_a_forgotten_domain_is_gone_whole(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.note_failure("x.test", failure())
        await store.note_unknown("x.test", NOW)
        assert await store.forget("x.test")
        assert await store.get("x.test") is None
        assert not await store.forget("x.test")

    async def test_a_forgotten_domain_may_be_put_again_with_an_older_fetch(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.forget("x.test")
        await store.put(cached("x.test", fetched_at=NOW - DAY))
        state = await store.get("x.test")
        assert state is not None
        assert state.cached == cached("x.test", fetched_at=NOW - DAY)

    async def test_states_come_by_name_and_bounded(self, store: PolicyStore) -> None:
        for name in ("c.test", "a.test", "b.test"):
            await store.put(cached(name))
        assert [state.policy_domain for state in await store.states()] == ["a.test", "b.test", "c.test"]
        assert [state.policy_domain for state in await store.states(limit=2)] == ["a.test", "b.test"]

    @pytest.mark.rfc("8461-10.2-e")
    async def test_pruning_takes_what_is_expired_and_nothing_that_lives(self, store: PolicyStore) -> None:
        await store.put(cached("live.test", fetched_at=NOW - 6 * DAY))
        await store.put(cached("expired.test", fetched_at=NOW - 8 * DAY))
        assert [entry.policy_domain for entry in await store.prune(NOW)] == ["expired.test"]
        assert await store.get("expired.test") is None
        state = await store.get("live.test")
        assert state is not None
        assert state.cached == cached("live.test", fetched_at=NOW - 6 * DAY)

    async def test_pruning_keeps_a_failure_that_still_counts(self, store: PolicyStore) -> None:
        recent = replace(failure(), failed_at=NOW - timedelta(minutes=4))
        await store.note_failure("x.test", recent)
        await store.prune(NOW)
        state = await store.get("x.test")
        assert state is not None
        assert state.failure == recent

    async def test_nothing_has_changed_of_a_new_domain(self, store: PolicyStore) -> None:
        assert await store.history("x.test") == []

    async def test_changes_are_told_to_who_made_them_and_listed_the_newest_first(self, store: PolicyStore) -> None:
        new = await store.put(cached("x.test"))
        weaker = cached("x.test", fetched_at=NOW + DAY, record_id="2", text="version: STSv1\nmode: none\nmax_age: 60\n")
        weakened = await store.put(weaker)
        assert new is not None
        assert weakened is not None
        assert new.changes == (Change.NEW,)
        assert set(weakened.changes) == {
            Change.ID_CHANGED, Change.MODE_WEAKENED, Change.MX_CHANGED, Change.MAX_AGE_CHANGED
        }  # fmt: skip
        assert (weakened.at, weakened.before) == (NOW + DAY, new.after)
        assert await store.history("x.test") == [weakened, new]
        assert await store.history("x.test", limit=1) == [weakened]
        assert await store.history("y.test") == []

    async def test_the_same_policy_again_is_no_change(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        assert await store.put(cached("x.test", fetched_at=NOW + DAY)) is None
        assert len(await store.history("x.test")) == 1

    async def test_what_a_newer_fetch_holds_off_changes_nothing(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        assert await store.put(cached("x.test", fetched_at=NOW - DAY, record_id="old")) is None
        assert len(await store.history("x.test")) == 1

    async def test_failing_begins_once_and_ends_with_the_next_policy(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        failing = await store.note_failure("x.test", failure())
        assert await store.note_failure("x.test", failure(failed_at=NOW + DAY)) is None
        recovered = await store.put(cached("x.test", fetched_at=NOW + 2 * DAY))
        assert failing is not None
        assert recovered is not None
        assert (failing.changes, recovered.changes) == ((Change.FETCH_FAILING,), (Change.FETCH_RECOVERED,))
        assert failing.problem is not None
        assert failing.problem.detail == failure().detail
        assert recovered.failing_since == failure().failing_since + DAY
        assert (await store.history("x.test"))[:2] == [recovered, failing]

    async def test_what_expires_is_told_by_pruning_and_only_once(self, store: PolicyStore) -> None:
        await store.put(cached("x.test", fetched_at=NOW - 8 * DAY))
        [expired] = await store.prune(NOW)
        assert (expired.policy_domain, expired.changes, expired.at) == ("x.test", (Change.EXPIRED,), NOW)
        assert (expired.before is not None, expired.after) == (True, None)
        assert await store.prune(NOW) == []
        assert (await store.history("x.test"))[0] == expired

    async def test_the_journal_outlives_what_is_forgotten(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.forget("x.test")
        await store.put(cached("x.test"))
        assert [entry.changes for entry in await store.history("x.test")] == [(Change.NEW,), (Change.NEW,)]

    async def test_the_journal_of_a_domain_is_bounded(self, store: PolicyStore) -> None:
        for number in range(MAX_ENTRIES + 10):
            await store.put(cached("x.test", record_id=str(number), fetched_at=NOW + timedelta(minutes=number)))
        await store.put(cached("y.test"))
        ids = [entry.after.record_id for entry in await store.history("x.test", limit=1000) if entry.after]
        assert ids == [str(number) for number in range(MAX_ENTRIES + 9, 9, -1)]
        assert len(await store.history("y.test")) == 1

    async def test_pruning_lets_old_entries_go(self, store: PolicyStore) -> None:
        await store.put(cached("x.test"))
        await store.prune(NOW + LIFE - timedelta(seconds=1))
        assert [entry.changes for entry in await store.history("x.test")] == [(Change.EXPIRED,), (Change.NEW,)]
        await store.prune(NOW + LIFE)
        assert [entry.changes for entry in await store.history("x.test")] == [(Change.EXPIRED,)]
