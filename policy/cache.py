"""A bounded memory in front of a PolicyStore, so that a hot domain costs no read.

RFC 8461 §10.2 forbids losing a live policy under pressure: what falls out here is still in the store.
Limits: a change by another process is seen after `MAX_AGE` at the latest.
"""

from collections.abc import Callable
from contextlib import suppress
from datetime import datetime, timedelta

from cachetools import TTLCache

from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.journal import MAX_ENTRIES, JournalEntry
from policy.store import PolicyStore

MAX_AGE = timedelta(seconds=3)


class CachedPolicyStore:
    """Implements PolicyStore over another one. Writes go through; a read that a write overtook is not kept.

    `timer` gives seconds that never go back.
    """

    def __init__(self, store: PolicyStore, *, timer: Callable[[], float], max_domains: int = 20_000) -> None:
        self._store = store
        self._states: TTLCache[str, PolicyState | None] = TTLCache(max_domains, MAX_AGE.total_seconds(), timer)
        self._writes = 0

    async def get(self, policy_domain: str) -> PolicyState | None:
        with suppress(KeyError):
            return self._states[policy_domain]
        writes = self._writes
        state = await self._store.get(policy_domain)
        if writes == self._writes:
            self._states[policy_domain] = state
        return state

    async def put(self, cached: CachedPolicy) -> JournalEntry | None:
        try:
            return await self._store.put(cached)
        finally:
            self._written(cached.policy_domain)

    async def note_failure(self, policy_domain: str, failure: FetchFailure) -> JournalEntry | None:
        try:
            return await self._store.note_failure(policy_domain, failure)
        finally:
            self._written(policy_domain)

    async def note_unknown(self, policy_domain: str, since: datetime | None) -> None:
        try:
            await self._store.note_unknown(policy_domain, since)
        finally:
            self._written(policy_domain)

    async def forget(self, policy_domain: str) -> bool:
        try:
            return await self._store.forget(policy_domain)
        finally:
            self._written(policy_domain)

    async def prune(self, now: datetime) -> list[JournalEntry]:
        try:
            return await self._store.prune(now)
        finally:
            self._writes += 1
            self._states.clear()

    async def due_for_refresh(self, fetched_before: datetime, now: datetime, limit: int) -> list[PolicyState]:
        return await self._store.due_for_refresh(fetched_before, now, limit)

    async def states(self, limit: int = 10_000) -> list[PolicyState]:
        return await self._store.states(limit)

    async def history(self, policy_domain: str, limit: int = MAX_ENTRIES) -> list[JournalEntry]:
        return await self._store.history(policy_domain, limit)

    def _written(self, policy_domain: str) -> None:
        """Forget what was read before, and let no read that began before the end of the write be kept."""
        self._writes += 1
        self._states.pop(policy_domain, None)
