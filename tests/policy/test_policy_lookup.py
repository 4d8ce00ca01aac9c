"""PolicyService: record, cache and fetch together (RFC 8461 §3.3, §5, §5.1)."""

import asyncio
import contextlib
from datetime import timedelta

import pytest
from policy_fakes import (
    NODATA,
    NXDOMAIN,
    SERVFAIL,
    START,
    TIMEOUT,
    FakeFetcher,
    FakeResolver,
    ManualClock,
    MemoryPolicyStore,
    found_txt,
    sts_record,
)

from policy.answers import Answer
from policy.cache import CachedPolicyStore
from policy.findings import CachedPolicy, FetchFailure, FetchProblem, LookupResult
from policy.freshness import FOREVER_RETRY, FreshnessSettings
from policy.journal import Change, JournalEntry
from policy.lookup import PolicyService
from policy.mta_sts import Mode
from policy.observer import NullObserver
from policy.requirement import ResultType
from policy.store import FetchFailedError, PolicyStore

MINUTE = timedelta(minutes=1)
DAY = timedelta(days=1)
FETCH_ERROR = ResultType.STS_POLICY_FETCH_ERROR
REFUSED = FetchFailedError(FETCH_ERROR, "mta-sts.x.test answered with HTTP status 404, not 200")
UNUSABLE = [
    NXDOMAIN,
    NODATA,
    found_txt(b"junk"),
    found_txt(b"v=STSv1; foo"),
    found_txt(b"v=STSv1; id=1;", b"v=STSv1; id=2;"),
]


def body(mode: str = "enforce", max_age: int = 604800, mx: str = "mx.x.test") -> bytes:
    return f"version: STSv1\nmode: {mode}\nmx: {mx}\nmax_age: {max_age}\n".encode()


class Watcher(NullObserver):
    def __init__(self) -> None:
        self.lookups: list[tuple[LookupResult, Mode | None]] = []
        self.fetches: list[ResultType | None] = []
        self.changes: list[tuple[Change, ...]] = []
        self.alerts: list[FetchFailure] = []
        self.given_up: list[str] = []

    def lookup(self, result: LookupResult, mode: Mode | None) -> None:
        self.lookups.append((result, mode))

    def fetch_finished(self, duration_seconds: float, result_type: ResultType | None) -> None:
        assert duration_seconds >= 0
        self.fetches.append(result_type)

    def policy_changed(self, entry: JournalEntry) -> None:
        self.changes.append(entry.changes)

    def refresh_failed(self, cached: CachedPolicy, failure: FetchFailure) -> None:
        self.alerts.append(failure)

    def unknown_given_up(self, policy_domain: str) -> None:
        self.given_up.append(policy_domain)


class Bench:
    """A service between fakes. x.test publishes id 1 and an enforced policy until a test says otherwise."""

    def __init__(self, settings: FreshnessSettings | None = None) -> None:
        self.clock = ManualClock()
        self.resolver = FakeResolver()
        self.fetcher = FakeFetcher()
        self.store: PolicyStore = CachedPolicyStore(MemoryPolicyStore(), timer=self.clock.seconds)
        self.watcher = Watcher()
        self.resolver.publish("x.test", sts_record("1"))
        self.fetcher.bodies["x.test"] = body()
        self.service = self.restarted(settings)

    def restarted(self, settings: FreshnessSettings | None = None) -> PolicyService:
        """Return a service that knows only what the store kept."""
        return PolicyService(
            resolver=self.resolver,
            fetcher=self.fetcher,
            store=self.store,
            clock=self.clock,
            settings=settings,
            observer=self.watcher,
        )

    async def mode(self, *, recheck: bool = False) -> Mode | None:
        """Return the mode in force for x.test."""
        findings = await self.service.findings("x.test", recheck=recheck)
        return findings.cached.policy.mode if findings.cached else None

    @property
    def fetches(self) -> int:
        return len(self.fetcher.fetched)


@pytest.fixture
def bench() -> Bench:
    return Bench()


@pytest.mark.rfc("8461-5.1-a", "8461-5.1-b", "8461-1.1-b", "8461-3.1-a")
async def test_the_first_contact_waits_for_the_policy(bench: Bench) -> None:
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.FETCHED
    assert findings.cached is not None
    assert findings.cached.policy.text == body().decode()
    assert findings.cached.record_id == "1"
    assert findings.cached.fetched_at == START
    assert findings.problem is None
    assert not findings.record_checked
    assert bench.resolver.asked == [("TXT", "_mta-sts.x.test")]
    assert bench.fetcher.fetched == ["x.test"]
    assert bench.watcher.changes == [(Change.NEW,)]
    assert bench.watcher.fetches == [None]


@pytest.mark.rfc("8461-3.1-w")
async def test_the_same_id_costs_no_fetch(bench: Bench) -> None:
    await bench.mode()
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.CACHED
    assert bench.fetches == 1
    assert bench.watcher.lookups == [(LookupResult.FETCHED, Mode.ENFORCE), (LookupResult.CACHED, Mode.ENFORCE)]


@pytest.mark.rfc("8461-3.1-w", "8461-3.2-p")
async def test_an_expired_policy_is_fetched_though_the_id_is_the_same(bench: Bench) -> None:
    await bench.mode()
    bench.clock.move(7 * DAY)
    assert await bench.mode() is Mode.ENFORCE
    assert bench.fetches == 2
    bench.clock.move(6 * DAY)
    await bench.mode()
    assert bench.fetches == 2


async def test_a_policy_expired_and_fetched_the_same_again_is_no_change(bench: Bench) -> None:
    await bench.mode()
    bench.clock.move(7 * DAY)
    await bench.mode()
    assert bench.watcher.changes == [(Change.NEW,)]


async def test_failing_is_told_when_it_begins_and_when_it_ends(bench: Bench) -> None:
    good = bench.fetcher.bodies["x.test"]
    await bench.mode()
    bench.fetcher.bodies["x.test"] = REFUSED
    for _ in range(3):
        bench.clock.move(DAY)
        await bench.service.refresh("x.test")
    bench.fetcher.bodies["x.test"] = good
    await bench.service.refresh("x.test")
    assert bench.watcher.changes == [(Change.NEW,), (Change.FETCH_FAILING,), (Change.FETCH_RECOVERED,)]
    assert [entry.changes for entry in await bench.store.history("x.test")] == bench.watcher.changes[::-1]


async def test_what_pruning_lets_go_is_told(bench: Bench) -> None:
    await bench.mode()
    await bench.service.prune()
    bench.clock.move(7 * DAY)
    await bench.service.prune()
    assert bench.watcher.changes == [(Change.NEW,), (Change.EXPIRED,)]


@pytest.mark.rfc("8461-3.2-o")
async def test_max_age_zero_serves_this_message_and_is_fetched_for_the_next(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = body(max_age=0)
    assert await bench.mode() is Mode.ENFORCE
    assert await bench.mode() is Mode.ENFORCE
    assert bench.fetches == 2
    bench.fetcher.bodies["x.test"] = REFUSED
    assert await bench.mode() is None


@pytest.mark.rfc("8461-3.1-f", "8461-3.2-ad", "8461-10.3-a", "8461-8.3-a")
@pytest.mark.parametrize("mode", ["testing", "none"])
async def test_a_new_id_brings_the_new_policy_also_a_weaker_one(bench: Bench, mode: str) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", sts_record("0"))
    bench.fetcher.bodies["x.test"] = body(mode, max_age=60)
    assert await bench.mode() is Mode(mode)
    assert bench.watcher.changes[1:] == [(Change.ID_CHANGED, Change.MODE_WEAKENED, Change.MAX_AGE_CHANGED)]
    assert await bench.mode() is Mode(mode)
    assert bench.fetches == 2


async def test_a_new_id_with_the_same_policy_is_a_change_of_the_id(bench: Bench) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", sts_record("2"))
    bench.clock.move(MINUTE)
    findings = await bench.service.findings("x.test")
    assert findings.cached is not None
    assert findings.cached.record_id == "2"
    assert findings.cached.fetched_at == START + MINUTE
    assert bench.watcher.changes[1:] == [(Change.ID_CHANGED,)]


@pytest.mark.rfc("8461-8.1-a")
async def test_a_new_body_under_the_old_id_is_not_looked_for(bench: Bench) -> None:
    await bench.mode()
    bench.fetcher.bodies["x.test"] = body("none")
    assert await bench.mode() is Mode.ENFORCE
    assert bench.fetches == 1


@pytest.mark.rfc("8461-3.1-u", "8461-3.1-l", "8461-8.3-b")
@pytest.mark.parametrize("answer", UNUSABLE)
async def test_a_vanished_record_leaves_the_live_policy_in_force_and_is_told(
    bench: Bench, answer: Answer[bytes]
) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", answer)
    findings = await bench.service.findings("x.test")
    assert findings.cached is not None
    assert findings.cached.policy.mode is Mode.ENFORCE
    assert findings.result is LookupResult.CACHED
    assert findings.problem is not None
    assert findings.problem.detail.startswith("no usable _mta-sts record: ")
    bench.clock.move(7 * DAY)
    assert await bench.mode() is None
    assert bench.fetches == 1


@pytest.mark.rfc("8461-8.3-a", "8461-5-e")
async def test_a_vanished_record_is_no_problem_under_mode_none(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = body("none")
    await bench.mode()
    bench.resolver.publish("x.test", NXDOMAIN)
    findings = await bench.service.findings("x.test")
    assert findings.cached is not None
    assert findings.problem is None


@pytest.mark.rfc("8461-3.1-l", "8461-3.1-m")
@pytest.mark.parametrize("answer", UNUSABLE)
async def test_without_a_usable_record_nothing_is_fetched(bench: Bench, answer: Answer[bytes]) -> None:
    bench.resolver.publish("x.test", answer)
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.NONE
    assert findings.cached is None
    assert findings.problem is None
    assert bench.fetches == 0
    assert await bench.store.get("x.test") is None


@pytest.mark.rfc("8461-3.3-q")
async def test_a_failed_fetch_without_a_cached_policy_is_no_policy(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = REFUSED
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.FAILED
    assert findings.cached is None
    assert findings.defer_until is None
    assert findings.problem == FetchProblem(result_type=FETCH_ERROR, detail=REFUSED.detail)
    assert bench.watcher.alerts == []
    assert bench.watcher.fetches == [FETCH_ERROR]


@pytest.mark.rfc("8461-3.3-r", "8461-3.2-ac", "8461-5-h", "8461-3.3-t")
@pytest.mark.parametrize(
    ("served", "result_type"),
    [
        (REFUSED, FETCH_ERROR),
        (FetchFailedError(ResultType.STS_WEBPKI_INVALID, "expired"), ResultType.STS_WEBPKI_INVALID),
        (b"", ResultType.STS_POLICY_INVALID),
        (b"version: STSv1\nmode: bogus\nmx: a.test\nmax_age: 1\n", ResultType.STS_POLICY_INVALID),
        (b"<html>", ResultType.STS_POLICY_INVALID),
    ],
)
async def test_a_new_id_whose_policy_cannot_be_had_leaves_the_old_policy_in_force(
    bench: Bench, served: bytes | FetchFailedError, result_type: ResultType
) -> None:
    await bench.mode()
    before = await bench.store.get("x.test")
    assert before is not None
    bench.resolver.publish("x.test", sts_record("2"))
    bench.fetcher.bodies["x.test"] = served
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.CACHED
    assert findings.cached == before.cached
    assert findings.problem is not None
    assert findings.problem.result_type is result_type
    after = await bench.store.get("x.test")
    assert after is not None
    assert after.cached == before.cached
    assert [alert.result_type for alert in bench.watcher.alerts] == [result_type]


@pytest.mark.rfc("8461-3.3-t", "8461-10.2-b", "8461-8.3-a")
async def test_no_alert_for_mode_none(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = body("none")
    await bench.mode()
    bench.resolver.publish("x.test", sts_record("2"))
    bench.fetcher.bodies["x.test"] = REFUSED
    assert await bench.mode() is Mode.NONE
    assert bench.watcher.alerts == []


@pytest.mark.rfc("8461-3.3-m", "8461-3.3-n")
async def test_five_minutes_pass_before_another_fetch_for_the_same_id(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = REFUSED
    await bench.mode()
    bench.clock.move(MINUTE)
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.FAILED
    assert findings.problem == FetchProblem(result_type=FETCH_ERROR, detail=REFUSED.detail)
    assert bench.fetches == 1
    bench.service = bench.restarted()
    await bench.mode()
    assert bench.fetches == 1
    bench.resolver.publish("x.test", sts_record("2"))
    await bench.mode()
    assert bench.fetches == 2
    bench.clock.move(5 * MINUTE)
    bench.fetcher.bodies["x.test"] = body()
    assert await bench.mode() is Mode.ENFORCE
    assert bench.fetches == 3
    state = await bench.store.get("x.test")
    assert state is not None
    assert state.failure is None


@pytest.mark.rfc("8461-10.2-b")
async def test_a_row_of_failures_keeps_its_beginning(bench: Bench) -> None:
    bench.fetcher.bodies["x.test"] = REFUSED
    for _ in range(3):
        await bench.mode()
        bench.clock.move(DAY)
    state = await bench.store.get("x.test")
    assert state is not None
    assert state.failure is not None
    assert (state.failure.failing_since, state.failure.failed_at) == (START, START + 2 * DAY)


@pytest.mark.rfc("8461-3.3-l")
async def test_a_hundred_messages_at_once_cost_one_fetch(bench: Bench) -> None:
    bench.fetcher.gate.clear()
    asking = [asyncio.create_task(bench.service.findings("x.test")) for _ in range(100)]
    await bench.fetcher.begun.wait()
    bench.fetcher.gate.set()
    findings = await asyncio.gather(*asking)
    assert {found.result for found in findings} == {LookupResult.FETCHED}
    assert bench.fetches == 1


@pytest.mark.rfc("8461-3.3-l", "8461-3.3-m")
async def test_a_hundred_messages_at_once_cost_one_failing_fetch(bench: Bench) -> None:
    bench.fetcher.gate.clear()
    bench.fetcher.bodies["x.test"] = REFUSED
    asking = [asyncio.create_task(bench.service.findings("x.test")) for _ in range(100)]
    await bench.fetcher.begun.wait()
    bench.fetcher.gate.set()
    assert {found.result for found in await asyncio.gather(*asking)} == {LookupResult.FAILED}
    assert bench.fetches == 1


async def test_one_hanging_domain_holds_up_no_other(bench: Bench) -> None:
    bench.resolver.publish("y.test", sts_record("1"))
    bench.fetcher.bodies["y.test"] = body()
    bench.fetcher.gate.clear()
    hanging = asyncio.create_task(bench.service.findings("x.test"))
    await bench.fetcher.begun.wait()
    bench.fetcher.gate.set()
    found = await bench.service.findings("y.test")
    assert found.result is LookupResult.FETCHED
    await hanging


class Racing(MemoryPolicyStore):
    """Another node stores the policy between the decision to fetch and the fetch."""

    def __init__(self) -> None:
        super().__init__()
        self.other: CachedPolicy | FetchFailure | None = None

    async def get(self, policy_domain: str):  # type: ignore[no-untyped-def]
        state = await super().get(policy_domain)
        other, self.other = self.other, None
        if isinstance(other, CachedPolicy):
            await self.put(other)
        elif other is not None:
            await self.note_failure(policy_domain, other)
        return state


@pytest.mark.rfc("8461-3.3-l", "8461-10.2-g")
async def test_what_another_has_fetched_meanwhile_is_not_fetched_again(bench: Bench) -> None:
    await bench.mode()
    state = await bench.store.get("x.test")
    assert state is not None
    racing = Racing()
    bench.store = racing
    service = bench.restarted()
    racing.other = state.cached
    assert (await service.findings("x.test")).result is LookupResult.CACHED
    assert bench.fetches == 1


@pytest.mark.rfc("8461-3.3-m")
async def test_what_another_has_failed_to_fetch_meanwhile_is_not_tried_again(bench: Bench) -> None:
    racing = Racing()
    bench.store = racing
    service = bench.restarted()
    racing.other = FetchFailure(record_id="1", result_type=FETCH_ERROR, detail="", failed_at=START, failing_since=START)
    assert (await service.findings("x.test")).result is LookupResult.FAILED
    assert bench.fetches == 0


@pytest.mark.rfc("8461-3.1-z")
@pytest.mark.parametrize("unknown", [SERVFAIL, TIMEOUT])
async def test_an_unknown_record_defers_for_half_an_hour_and_then_mail_goes(
    bench: Bench, unknown: Answer[bytes]
) -> None:
    bench.resolver.publish("x.test", unknown)
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.UNKNOWN
    assert findings.unknown == unknown
    assert findings.defer_until == START + 30 * MINUTE
    bench.clock.move(29 * MINUTE)
    bench.service = bench.restarted()
    assert (await bench.service.findings("x.test")).defer_until == START + 30 * MINUTE
    assert bench.watcher.given_up == []
    bench.clock.move(MINUTE)
    findings = await bench.service.findings("x.test")
    assert (findings.result, findings.cached, findings.defer_until) == (LookupResult.UNKNOWN, None, None)
    assert bench.watcher.given_up == ["x.test"]
    bench.clock.move(DAY)
    assert (await bench.service.findings("x.test")).defer_until is None


@pytest.mark.rfc("8461-3.1-z")
@pytest.mark.parametrize("answer", [NXDOMAIN, NODATA, found_txt(b"junk"), sts_record("1")])
async def test_the_first_answer_ends_the_run_and_the_next_run_has_its_own_grace(
    bench: Bench, answer: Answer[bytes]
) -> None:
    bench.fetcher.bodies["x.test"] = body(max_age=60)
    bench.resolver.publish("x.test", SERVFAIL)
    await bench.service.findings("x.test")
    bench.clock.move(40 * MINUTE)
    bench.resolver.publish("x.test", answer)
    assert (await bench.service.findings("x.test")).defer_until is None
    bench.clock.move(40 * MINUTE)
    bench.resolver.publish("x.test", SERVFAIL)
    assert (await bench.service.findings("x.test")).defer_until == START + 110 * MINUTE


async def test_forever_never_gives_in() -> None:
    bench = Bench(FreshnessSettings(unknown_grace=None))
    bench.resolver.publish("x.test", SERVFAIL)
    await bench.service.findings("x.test")
    bench.clock.move(365 * DAY)
    assert (await bench.service.findings("x.test")).defer_until == bench.clock.now() + FOREVER_RETRY


@pytest.mark.rfc("8461-3.1-z", "8461-3.3-r")
async def test_an_unknown_record_and_a_live_policy_is_the_policy(bench: Bench) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", SERVFAIL)
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.CACHED
    assert findings.unknown == SERVFAIL
    assert findings.defer_until is None
    assert findings.cached is not None


async def test_a_run_that_a_fast_clock_began_is_counted_from_now(bench: Bench) -> None:
    await bench.store.note_unknown("x.test", START + 365 * DAY)
    bench.resolver.publish("x.test", SERVFAIL)
    assert (await bench.service.findings("x.test")).defer_until == START + 30 * MINUTE
    bench.clock.move(30 * MINUTE)
    assert (await bench.service.findings("x.test")).defer_until is None


@pytest.mark.rfc("8461-5-f", "8461-5-h", "8461-5-i", "8461-5.1-d")
async def test_a_recheck_asks_past_the_caches_and_takes_up_a_new_policy(bench: Bench) -> None:
    await bench.mode()
    assert bench.resolver.asked_fresh == []
    bench.resolver.publish("x.test", sts_record("2"))
    bench.fetcher.bodies["x.test"] = body("none")
    findings = await bench.service.findings("x.test", recheck=True)
    assert bench.resolver.asked_fresh == ["_mta-sts.x.test"]
    assert findings.record_checked
    assert findings.cached is not None
    assert findings.cached.policy.mode is Mode.NONE


@pytest.mark.rfc("8461-5-f", "8461-5.1-d")
@pytest.mark.parametrize("answer", [SERVFAIL, TIMEOUT, NXDOMAIN, sts_record("1"), sts_record("2")])
async def test_a_recheck_counts_though_the_dns_is_dead_or_the_fetch_fails(bench: Bench, answer: Answer[bytes]) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", answer)
    bench.fetcher.bodies["x.test"] = REFUSED
    findings = await bench.service.findings("x.test", recheck=True)
    assert findings.record_checked
    assert findings.cached is not None
    assert findings.cached.policy.mode is Mode.ENFORCE


@pytest.mark.rfc("8461-10.2-c")
async def test_a_restart_keeps_the_policy(bench: Bench) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", SERVFAIL)
    bench.fetcher.bodies["x.test"] = REFUSED
    bench.service = bench.restarted()
    assert await bench.mode() is Mode.ENFORCE


@pytest.mark.rfc("8461-10.3-b")
async def test_a_forgotten_policy_is_fetched_for_the_next_message(bench: Bench) -> None:
    await bench.mode()
    await bench.store.forget("x.test")
    assert await bench.mode() is Mode.ENFORCE
    assert bench.fetches == 2


@pytest.mark.rfc("8461-3.4-d", "8461-3.4-f", "8461-8.2-b")
async def test_only_the_domain_itself_is_asked_for(bench: Bench) -> None:
    findings = await bench.service.findings("mail.x.test")
    assert findings.result is LookupResult.NONE
    assert bench.resolver.asked == [("TXT", "_mta-sts.mail.x.test")]
    bench.resolver.publish("user.test", found_txt(b"v=STSv1; id=1;"))
    bench.fetcher.bodies["user.test"] = body()
    await bench.service.findings("user.test")
    assert bench.fetcher.fetched == ["user.test"]


@pytest.mark.rfc("8461-10.2-f")
async def test_a_policy_that_a_fast_clock_stored_is_stored_anew(bench: Bench) -> None:
    bench.clock.set(START + 365 * DAY)
    await bench.mode()
    bench.clock.set(START)
    findings = await bench.service.findings("x.test")
    assert findings.result is LookupResult.FETCHED
    state = await bench.store.get("x.test")
    assert state is not None
    assert state.cached is not None
    assert state.cached.fetched_at == START
    assert (await bench.service.findings("x.test")).result is LookupResult.CACHED


async def test_a_node_whose_clock_is_a_little_slow_still_replaces_the_policy(bench: Bench) -> None:
    bench.clock.set(START + MINUTE)
    await bench.mode()
    bench.clock.set(START)
    bench.resolver.publish("x.test", sts_record("2"))
    bench.fetcher.bodies["x.test"] = body("none")
    assert await bench.mode() is Mode.NONE
    assert await bench.mode() is Mode.NONE
    assert bench.fetches == 2


@pytest.mark.rfc("8461-10.2-a", "8461-3.3-s")
@pytest.mark.parametrize("answer", [*UNUSABLE, SERVFAIL])
async def test_a_refresh_fetches_whatever_became_of_the_record(bench: Bench, answer: Answer[bytes]) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", answer)
    bench.clock.move(DAY)
    findings = await bench.service.refresh("x.test")
    assert findings.result is LookupResult.FETCHED
    assert findings.record_checked
    assert findings.cached is not None
    assert findings.cached.fetched_at == START + DAY
    assert findings.cached.record_id == "1"


async def test_a_refresh_takes_up_the_id_of_now(bench: Bench) -> None:
    await bench.mode()
    bench.resolver.publish("x.test", sts_record("2"))
    await bench.service.refresh("x.test")
    assert (await bench.service.findings("x.test")).result is LookupResult.CACHED
    assert bench.fetches == 2


async def test_a_refresh_without_a_policy_is_a_look_up(bench: Bench) -> None:
    bench.resolver.publish("x.test", NXDOMAIN)
    findings = await bench.service.refresh("x.test")
    assert findings.result is LookupResult.NONE
    assert findings.record_checked
    assert bench.fetches == 0


async def test_a_cancelled_fetch_is_taken_over_by_who_waits(bench: Bench) -> None:
    bench.fetcher.gate.clear()
    first = asyncio.create_task(bench.service.findings("x.test"))
    second = asyncio.create_task(bench.service.findings("x.test"))
    await bench.fetcher.begun.wait()
    first.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await first
    bench.fetcher.gate.set()
    assert (await second).result is LookupResult.FETCHED


class BrokenStore(MemoryPolicyStore):
    async def put(self, cached: CachedPolicy) -> None:
        raise OSError("disk full")


async def test_an_error_of_the_store_comes_through(bench: Bench) -> None:
    bench.store = BrokenStore()
    with pytest.raises(OSError, match="disk full"):
        await bench.restarted().findings("x.test")
