"""What to do about a domain's policy: use it, fetch it, do without, or wait. **Pure.**

RFC 8461 §3.3 (a live policy outlasts every failure; five minutes between fetches for one id), §5.1 and §10.2.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import assert_never

from policy.answers import Absence, Absent, Answer, Found, Unknown
from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.mta_sts import NoRecord, Record, parse_record

Discovery = Record | NoRecord | Unknown
"""What the query for `_mta-sts` came to."""

CLOCK_SKEW = timedelta(minutes=5)
"""How far two nodes' clocks may differ before a stored time is taken for one of a wrong clock."""

FOREVER_RETRY = timedelta(minutes=30)
"""When mail that waits for the DNS without limit is to be tried again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FreshnessSettings:
    """`unknown_grace` is how long an unknown look-up defers mail, None for ever (decision 1 of the design).

    `fetch_backoff` is the pause after a failed fetch for the same id; RFC 8461 §3.3 asks for five minutes.
    """

    unknown_grace: timedelta | None = timedelta(minutes=30)
    fetch_backoff: timedelta = timedelta(minutes=5)


@dataclass(frozen=True, slots=True, kw_only=True)
class UseCached:
    """The cached policy is in force; no fetch is needed, or none is allowed yet."""

    cached: CachedPolicy


@dataclass(frozen=True, slots=True, kw_only=True)
class Fetch:
    """Fetch the policy for this id. If that fails, a live policy stays in force, or there is no policy."""

    record_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoPolicy:
    """Deliver as if the domain had no MTA-STS. `failure` is set while a failed fetch is the cause."""

    failure: FetchFailure | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Defer:
    """The DNS does not answer and nothing is cached: hold the mail until then."""

    until: datetime


Decision = UseCached | Fetch | NoPolicy | Defer


def discovered(answer: Answer[bytes]) -> Discovery:
    """Read the answer to the TXT query for `_mta-sts.<domain>`."""
    match answer:
        case Found():
            return parse_record(answer.records)
        case Absent(absence=Absence.NXDOMAIN):
            return NoRecord(reason="the name does not exist")
        case Absent():
            return NoRecord(reason="there is no TXT record")
        case Unknown():
            return answer
        case _:
            assert_never(answer)


def decide_freshness(state: PolicyState, discovery: Discovery, now: datetime, settings: FreshnessSettings) -> Decision:
    """Return what is to be done for one look-up.

    `state` holds what was known before it; a run of unknown answers that begins with it needs not be in there yet.
    """
    cached = live_policy(state, now)
    match discovery:
        case Record():
            return _with_record(discovery.record_id, cached, state.failure, now, settings)
        case NoRecord():
            # RFC 8461 §3.1: no record means no discovery, and nothing for a policy that is live.
            return UseCached(cached=cached) if cached else NoPolicy()
        case Unknown():
            if cached:
                return UseCached(cached=cached)
            return _without_answer(unknown_run_start(state, now), now, settings)
        case _:
            assert_never(discovery)


def _with_record(
    record_id: str,
    cached: CachedPolicy | None,
    failure: FetchFailure | None,
    now: datetime,
    settings: FreshnessSettings,
) -> Decision:
    if cached and cached.record_id == record_id and not from_the_future(cached, now):
        return UseCached(cached=cached)
    if backing_off(failure, record_id, now, settings):
        return UseCached(cached=cached) if cached else NoPolicy(failure=failure)
    return Fetch(record_id=record_id)


def _without_answer(since: datetime, now: datetime, settings: FreshnessSettings) -> Decision:
    if settings.unknown_grace is None:
        return Defer(until=now + FOREVER_RETRY)
    end = since + settings.unknown_grace
    return Defer(until=end) if now < end else NoPolicy()


def expires_at(cached: CachedPolicy, now: datetime) -> datetime:
    """Return the end of the policy's life, which a clock that was ahead cannot move beyond max_age from now."""
    return min(cached.expires_at, now + cached.policy.max_age)


def live_policy(state: PolicyState, now: datetime) -> CachedPolicy | None:
    """Return the cached policy while its time since the last fetch is below max_age (RFC 8461 §5.1)."""
    cached = state.cached
    return cached if cached is not None and now < expires_at(cached, now) else None


def from_the_future(cached: CachedPolicy, now: datetime) -> bool:
    """Whether the policy was stored by a clock far ahead: it stays in force, but its time has to be set anew."""
    return cached.fetched_at - now > CLOCK_SKEW


def backing_off(failure: FetchFailure | None, record_id: str, now: datetime, settings: FreshnessSettings) -> bool:
    """Whether the last fetch for this very id failed too recently to try again (RFC 8461 §3.3)."""
    # The distance, not the difference: after a clock was set back the pause is still no longer than it should be.
    return (
        failure is not None and failure.record_id == record_id and abs(now - failure.failed_at) < settings.fetch_backoff
    )


def unknown_run_start(state: PolicyState, now: datetime) -> datetime:
    """Return when the present run of unknown answers began; now, if this is the first or the clock went back."""
    return min(state.unknown_since, now) if state.unknown_since else now


def refresh_due(cached: CachedPolicy, now: datetime, *, interval: timedelta, step: timedelta, draw: float) -> bool:
    """Whether to refresh this policy in the present pass of the background refresh (RFC 8461 §10.2).

    Passes come every `step`; `draw` is uniform in [0, 1). The refresh falls with equal chance into any pass of the
    second half of `interval`, or of max_age if that is shorter, so that policies fetched together drift apart.
    """
    life = min(interval, cached.policy.max_age)
    age = now - cached.fetched_at
    if age < life / 2:
        return False
    passes_left = (life - age) // step
    return passes_left < 1 or draw < 1 / passes_left
