"""What does this domain demand? The record, the cache and the fetch put together (RFC 8461 §3, §5, §5.1)."""

import asyncio
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import assert_never

from policy.answers import Answer, Resolver, Unknown
from policy.clock import Clock
from policy.findings import CachedPolicy, FetchFailure, FetchProblem, Findings, LookupResult, PolicyState
from policy.freshness import (
    Defer,
    Discovery,
    Fetch,
    FreshnessSettings,
    NoPolicy,
    UseCached,
    decide_freshness,
    discovered,
    expires_at,
    from_the_future,
    live_policy,
    unknown_run_start,
)
from policy.journal import JournalEntry
from policy.mta_sts import InvalidPolicyError, Mode, NoRecord, Policy, Record, parse_policy
from policy.observer import NullObserver, PolicyObserver
from policy.requirement import ResultType
from policy.single_flight import SingleFlight
from policy.store import FetchFailedError, PolicyFetcher, PolicyStore


@dataclass(frozen=True, slots=True, kw_only=True)
class _Fetched:
    """How a fetch ended: with a policy, with a failure, or it was no longer needed (`policy` is then the cached)."""

    policy: CachedPolicy | None
    failure: FetchFailure | None = None
    result: LookupResult


class PolicyService:
    """Finds out what MTA-STS says about a domain. Knows the seams only; errors of the store come through.

    A fetch runs once at a time for each domain, and all who ask meanwhile wait for it: the first message to a
    domain is not sent before its policy is known (decision 4). Bounded by the limits of resolver and fetcher.
    """

    def __init__(
        self,
        *,
        resolver: Resolver,
        fetcher: PolicyFetcher,
        store: PolicyStore,
        clock: Clock,
        settings: FreshnessSettings | None = None,
        observer: PolicyObserver | None = None,
    ) -> None:
        self._resolver = resolver
        self._fetcher = fetcher
        self._store = store
        self._clock = clock
        self._settings = settings or FreshnessSettings()
        self._observer = observer or NullObserver()
        self._fetches: SingleFlight[str, _Fetched] = SingleFlight()

    async def findings(self, policy_domain: str, *, recheck: bool = False) -> Findings:
        """Return what is known now; with `recheck`, after asking for `_mta-sts` past our own caches (RFC 8461 §5).

        `policy_domain` is canonical (policy.names) and no address literal. `record_checked` says that the question
        was put, not that it was answered: a dead DNS must still let mail expire.
        """
        answer = await self._record(policy_domain, fresh=recheck)
        discovery = discovered(answer)
        state = await self._state(policy_domain, discovery)
        now = self._clock.now()
        decision = decide_freshness(state, discovery, now, self._settings)
        if isinstance(decision, Fetch):
            fetched = await self._fetch_once(policy_domain, decision.record_id)
            found = _from_fetch(policy_domain, fetched)
        else:
            found = _without_fetch(state, discovery, decision)
        return self._told(replace(found, record_checked=recheck, lasts=_lasts(answer, found.cached, now)))

    async def ask_record(self, policy_domain: str) -> None:
        """Ask for `_mta-sts` already, so that `findings` need not wait for the answer."""
        await self._record(policy_domain, fresh=False)

    async def refresh(self, policy_domain: str) -> Findings:
        """Fetch the policy of a domain again, whatever its record says (RFC 8461 §10.2), if there is one to refresh.

        The id that is kept with it is the record's of now, or else the one known. Without record and live policy
        this is `findings(recheck=True)`.
        """
        discovery = discovered(await self._record(policy_domain, fresh=True))
        state = await self._state(policy_domain, discovery)
        cached = live_policy(state, self._clock.now())
        match discovery:
            case Record(record_id=record_id):
                pass
            case _ if cached is not None:
                record_id = cached.record_id
                if isinstance(discovery, NoRecord) and (problem := _standing_problem(state, discovery, cached)):
                    self._observer.discovery_failed(policy_domain, problem, cached)
            case _:
                return await self.findings(policy_domain, recheck=True)
        fetched = await self._fetch_once(policy_domain, record_id, anyway=True)
        return self._told(replace(_from_fetch(policy_domain, fetched), record_checked=True))

    async def prune(self) -> None:
        """Let the store go of what has expired."""
        for entry in await self._store.prune(self._clock.now()):
            self._tell(entry)

    async def _record(self, policy_domain: str, *, fresh: bool) -> Answer[bytes]:
        # RFC 8461 §3.4, §8.2: always the domain itself, never a parent nor the target of a CNAME.
        return await self._resolver.txt(f"_mta-sts.{policy_domain}", fresh=fresh)

    async def _state(self, policy_domain: str, discovery: Discovery) -> PolicyState:
        """Return what is stored, once the run of unknown answers is begun or ended in it."""
        state = await self._store.get(policy_domain) or PolicyState(policy_domain=policy_domain)
        since = unknown_run_start(state, self._clock.now()) if isinstance(discovery, Unknown) else None
        if since == state.unknown_since:
            return state
        if state.unknown_since is not None:
            await self._store.note_unknown(policy_domain, None)
        if since is not None:
            await self._store.note_unknown(policy_domain, since)
        return replace(state, unknown_since=since)

    async def _fetch_once(self, policy_domain: str, record_id: str, *, anyway: bool = False) -> _Fetched:
        return await self._fetches.run(policy_domain, lambda: self._fetch(policy_domain, record_id, anyway=anyway))

    async def _fetch(self, policy_domain: str, record_id: str, *, anyway: bool) -> _Fetched:
        state = await self._store.get(policy_domain) or PolicyState(policy_domain=policy_domain)
        now = self._clock.now()
        if not anyway:
            # Another flight may have landed between the decision and the start of this one.
            match decide_freshness(state, Record(record_id=record_id), now, self._settings):
                case UseCached(cached=cached):
                    return _Fetched(policy=cached, failure=state.failure, result=LookupResult.CACHED)
                case NoPolicy(failure=failure):
                    return _Fetched(policy=None, failure=failure, result=LookupResult.FAILED)
                case _:
                    pass
        outcome = await self._get(policy_domain)
        if isinstance(outcome, Policy):
            return await self._fetch_succeeded(state, record_id, outcome, now)
        return await self._fetch_failed(state, record_id, outcome)

    async def _get(self, policy_domain: str) -> Policy | FetchProblem:
        timer = asyncio.get_running_loop().time
        started = timer()
        outcome: Policy | FetchProblem
        try:
            outcome = parse_policy(await self._fetcher.fetch(policy_domain))
        except FetchFailedError as error:
            outcome = FetchProblem(result_type=error.result_type, detail=error.detail)
        except InvalidPolicyError as error:
            outcome = FetchProblem(result_type=ResultType.STS_POLICY_INVALID, detail=error.reason)
        result_type = outcome.result_type if isinstance(outcome, FetchProblem) else None
        self._observer.fetch_finished(timer() - started, result_type)
        return outcome

    async def _fetch_succeeded(
        self, state: PolicyState, record_id: str, policy: Policy, fetched_at: datetime
    ) -> _Fetched:
        # The store keeps the newest fetch: one stamped by a wrong clock has to go, a small skew is stepped over.
        if state.cached is not None and from_the_future(state.cached, fetched_at):
            await self._store.forget(state.policy_domain)
        elif state.cached is not None:
            fetched_at = max(fetched_at, state.cached.fetched_at + timedelta(microseconds=1))
        cached = CachedPolicy(
            policy_domain=state.policy_domain, record_id=record_id, policy=policy, fetched_at=fetched_at
        )
        self._tell(await self._store.put(cached))
        return _Fetched(policy=cached, result=LookupResult.FETCHED)

    async def _fetch_failed(self, state: PolicyState, record_id: str, problem: FetchProblem) -> _Fetched:
        now = self._clock.now()
        failure = FetchFailure(
            record_id=record_id,
            result_type=problem.result_type,
            detail=problem.detail,
            failed_at=now,
            failing_since=state.failure.failing_since if state.failure else now,
        )
        self._tell(await self._store.note_failure(state.policy_domain, failure))
        cached = live_policy(state, now)
        # RFC 8461 §6: a domain whose policy says none need not hear of it, unless its record announces another one.
        if cached is None or cached.policy.mode is not Mode.NONE or cached.record_id != record_id:
            self._observer.discovery_failed(state.policy_domain, problem, cached)
        if cached is None:
            return _Fetched(policy=None, failure=failure, result=LookupResult.FAILED)
        if cached.policy.mode is not Mode.NONE:
            self._observer.refresh_failed(cached, failure)
        return _Fetched(policy=cached, failure=failure, result=LookupResult.CACHED)

    def _tell(self, entry: JournalEntry | None) -> None:
        if entry is not None:
            self._observer.policy_changed(entry)

    def _told(self, found: Findings) -> Findings:
        self._observer.lookup(found.result, found.cached.policy.mode if found.cached else None)
        if found.result is LookupResult.UNKNOWN and found.defer_until is None:
            self._observer.unknown_given_up(found.policy_domain)
        return found


def _lasts(answer: Answer[bytes], cached: CachedPolicy | None, now: datetime) -> timedelta:
    if isinstance(answer, Unknown):
        return timedelta(0)
    return min(answer.ttl, max(expires_at(cached, now) - now, timedelta(0))) if cached else answer.ttl


def _from_fetch(policy_domain: str, fetched: _Fetched) -> Findings:
    return Findings(
        policy_domain=policy_domain,
        result=fetched.result,
        cached=fetched.policy,
        problem=_problem(fetched.failure),
    )


def _without_fetch(state: PolicyState, discovery: Discovery, decision: UseCached | NoPolicy | Defer) -> Findings:
    unknown = discovery if isinstance(discovery, Unknown) else None
    none = LookupResult.UNKNOWN if unknown else LookupResult.NONE
    found = Findings(policy_domain=state.policy_domain, result=none, unknown=unknown)
    match decision:
        case UseCached(cached=cached):
            return replace(
                found, result=LookupResult.CACHED, cached=cached, problem=_standing_problem(state, discovery, cached)
            )
        case NoPolicy(failure=None):
            return found
        case NoPolicy(failure=failure):
            return replace(found, result=LookupResult.FAILED, problem=_problem(failure))
        case Defer(until=until):
            return replace(found, defer_until=until)
        case _:
            assert_never(decision)


def _problem(failure: FetchFailure | None) -> FetchProblem | None:
    return FetchProblem(result_type=failure.result_type, detail=failure.detail) if failure else None


def _standing_problem(state: PolicyState, discovery: Discovery, cached: CachedPolicy) -> FetchProblem | None:
    """RFC 8461 §6: while a policy is cached, failures of any kind count, a vanished record too; not for mode none."""
    if cached.policy.mode is Mode.NONE:
        return None
    if isinstance(discovery, NoRecord):
        detail = f"no usable _mta-sts record: {discovery.reason}"
        return FetchProblem(result_type=ResultType.STS_POLICY_FETCH_ERROR, detail=detail)
    return _problem(state.failure)
