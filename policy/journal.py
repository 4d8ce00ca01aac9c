"""What changed about a domain's policy, in the words of an operator who wants to know (RFC 8461 §3.3, §10.3). **Pure.**

Nothing here decides about mail: a properly fetched policy is acted on also where it is weaker than the one before.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import Enum

from policy.findings import CachedPolicy, FetchFailure, FetchProblem, PolicyState
from policy.mta_sts import Mode

MAX_ENTRIES = 50
"""Entries kept of one domain; the oldest go first."""
LIFE = timedelta(days=400)
"""How long an entry is kept."""
_MAX_MX = 50
_MAX_DETAIL = 500


class Change(Enum):
    """A kind of change; also the metric's label."""

    NEW = "new"
    ID_CHANGED = "id-changed"
    MODE_WEAKENED = "mode-weakened"
    MODE_STRENGTHENED = "mode-strengthened"
    MX_CHANGED = "mx-changed"
    MAX_AGE_CHANGED = "max-age-changed"
    EXPIRED = "expired"
    FETCH_FAILING = "fetch-failing"
    FETCH_RECOVERED = "fetch-recovered"


@dataclass(frozen=True, slots=True, kw_only=True)
class PolicyVersion:
    """What a policy said. `mx` are its first patterns, and `mx_count` says how many it has."""

    record_id: str
    mode: Mode
    mx: tuple[str, ...]
    mx_count: int
    max_age: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class JournalEntry:
    """What changed at one moment. `before` and `after` are the policy kept until then and from then on.

    `problem` is why the fetches fail, or failed, since `failing_since`.
    """

    policy_domain: str
    at: datetime
    changes: tuple[Change, ...]
    before: PolicyVersion | None
    after: PolicyVersion | None
    problem: FetchProblem | None = None
    failing_since: datetime | None = None

    @property
    def weakens(self) -> bool:
        """Whether mail to the domain is protected less than before."""
        expired = Change.EXPIRED in self.changes and self.before is not None and self.before.mode is not Mode.NONE
        return expired or Change.MODE_WEAKENED in self.changes


def fetched(state: PolicyState, cached: CachedPolicy) -> JournalEntry | None:
    """Return what changes when this policy takes the place of what was known; None if it is the same again.

    One whose life was just over counts as known: mail has waited for the fetch, and was never without policy.
    """
    changes = [Change.NEW] if state.cached is None else _differences(state.cached, cached)
    if state.failure is not None:
        changes.append(Change.FETCH_RECOVERED)
    return _entry(state, cached.fetched_at, changes, after=cached, failure=state.failure) if changes else None


def failed(state: PolicyState, failure: FetchFailure) -> JournalEntry | None:
    """Return what changes when a fetch fails: something with the first failure of a run only."""
    if state.failure is not None:
        return None
    return _entry(state, failure.failed_at, [Change.FETCH_FAILING], after=state.cached, failure=failure)


def expired(state: PolicyState, at: datetime) -> JournalEntry | None:
    """Return what changes when the policy's life is over."""
    if state.cached is None:
        return None
    return _entry(state, at, [Change.EXPIRED], after=None, failure=state.failure)


_STRENGTH = {Mode.NONE: 0, Mode.TESTING: 1, Mode.ENFORCE: 2}


def _differences(old: CachedPolicy, new: CachedPolicy) -> list[Change]:
    stronger = _STRENGTH[new.policy.mode] - _STRENGTH[old.policy.mode]
    differences = {
        Change.ID_CHANGED: new.record_id != old.record_id,
        Change.MODE_WEAKENED: stronger < 0,
        Change.MODE_STRENGTHENED: stronger > 0,
        Change.MX_CHANGED: set(new.policy.mx) != set(old.policy.mx),
        Change.MAX_AGE_CHANGED: new.policy.max_age != old.policy.max_age,
    }
    return [change for change, made in differences.items() if made]


def _entry(
    state: PolicyState,
    at: datetime,
    changes: list[Change],
    *,
    after: CachedPolicy | None,
    failure: FetchFailure | None,
) -> JournalEntry:
    problem = FetchProblem(result_type=failure.result_type, detail=failure.detail[:_MAX_DETAIL]) if failure else None
    return JournalEntry(
        policy_domain=state.policy_domain,
        at=at,
        changes=tuple(changes),
        before=_version(state.cached),
        after=_version(after),
        problem=problem,
        failing_since=failure.failing_since if failure else None,
    )


def _version(cached: CachedPolicy | None) -> PolicyVersion | None:
    if cached is None:
        return None
    policy = cached.policy
    return PolicyVersion(
        record_id=cached.record_id,
        mode=policy.mode,
        mx=policy.mx[:_MAX_MX],
        mx_count=len(policy.mx),
        max_age=policy.max_age,
    )
