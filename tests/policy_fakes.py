"""Hand-written stand-ins for the seams of `policy`: they keep the contracts, and nothing else."""

import asyncio
from collections import defaultdict
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from policy import journal
from policy.answers import Absence, Absent, Answer, Found, MxRecord, TlsaRecord, Unknown, UnknownReason
from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.journal import LIFE, MAX_ENTRIES, JournalEntry
from policy.names import IPAddress
from policy.requirement import ResultType
from policy.store import FetchFailedError

START = datetime(2026, 1, 1, tzinfo=UTC)
HOUR = timedelta(hours=1)
NXDOMAIN = Absent(absence=Absence.NXDOMAIN, ttl=HOUR)
NODATA = Absent(absence=Absence.NODATA, ttl=HOUR)
SERVFAIL = Unknown(reason=UnknownReason.SERVFAIL, detail="127.0.0.1: SERVFAIL")
TIMEOUT = Unknown(reason=UnknownReason.TIMEOUT, detail="no answer in 5 s")


class ManualClock:
    """Time moves when a test says so; those who sleep wake up when it has moved far enough."""

    def __init__(self, now: datetime = START) -> None:
        self._now = now
        self._sleepers: list[tuple[datetime, asyncio.Event]] = []

    def now(self) -> datetime:
        return self._now

    def seconds(self) -> float:
        """The same time as a timer that never goes back would show it."""
        return (self._now - START).total_seconds()

    async def sleep(self, seconds: float) -> None:
        woken = asyncio.Event()
        self._sleepers.append((self._now + timedelta(seconds=seconds), woken))
        await woken.wait()

    def set(self, now: datetime) -> None:
        """Jump, also backwards."""
        self._now = now
        for until, woken in self._sleepers:
            if until <= now:
                woken.set()
        self._sleepers = [(until, woken) for until, woken in self._sleepers if not woken.is_set()]

    def move(self, step: timedelta) -> None:
        self.set(self._now + step)

    @property
    def sleepers(self) -> int:
        return len(self._sleepers)

    @property
    def next_wake(self) -> datetime | None:
        return min((until for until, _ in self._sleepers), default=None)


def found_txt(*records: bytes, ttl: timedelta = HOUR) -> Found[bytes]:
    return Found(records=records, canonical_name="", ttl=ttl)


def sts_record(record_id: str) -> Found[bytes]:
    """The answer for `_mta-sts` of a domain that publishes this id."""
    return found_txt(f"v=STSv1; id={record_id};".encode())


class FakeResolver:
    """Answers from five dictionaries; what is not in them does not exist. Records every question."""

    def __init__(self) -> None:
        self.mx_answers: dict[str, Answer[MxRecord]] = {}
        self.txt_answers: dict[str, Answer[bytes]] = {}
        self.address_answers: dict[str, Answer[IPAddress]] = {}
        self.tlsa_answers: dict[str, Answer[TlsaRecord]] = {}
        self.cname_answers: dict[str, Answer[str]] = {}
        self.asked: list[tuple[str, str]] = []
        self.asked_fresh: list[str] = []

    async def mx(self, domain: str) -> Answer[MxRecord]:
        self.asked.append(("MX", domain))
        return self.mx_answers.get(domain, NXDOMAIN)

    async def txt(self, name: str, *, fresh: bool = False) -> Answer[bytes]:
        self.asked.append(("TXT", name))
        if fresh:
            self.asked_fresh.append(name)
        return self.txt_answers.get(name, NXDOMAIN)

    async def addresses(self, host: str) -> Answer[IPAddress]:
        self.asked.append(("ADDRESS", host))
        return self.address_answers.get(host, NXDOMAIN)

    async def tlsa(self, name: str) -> Answer[TlsaRecord]:
        self.asked.append(("TLSA", name))
        return self.tlsa_answers.get(name, NXDOMAIN)

    async def cname(self, name: str) -> Answer[str]:
        self.asked.append(("CNAME", name))
        return self.cname_answers.get(name, NODATA)

    def publish(self, domain: str, answer: Answer[bytes]) -> None:
        """Set what `_mta-sts` of the domain says."""
        self.txt_answers[f"_mta-sts.{domain}"] = answer


class FakeFetcher:
    """Serves bodies or raises the failure given; `begun` is set by each fetch, which then waits for `gate`."""

    def __init__(self) -> None:
        self.bodies: dict[str, bytes | FetchFailedError] = {}
        self.fetched: list[str] = []
        self.begun = asyncio.Event()
        self.gate = asyncio.Event()
        self.gate.set()

    async def fetch(self, policy_domain: str) -> bytes:
        self.fetched.append(policy_domain)
        self.begun.set()
        await self.gate.wait()
        body = self.bodies.get(policy_domain)
        if body is None:
            raise FetchFailedError(ResultType.STS_POLICY_FETCH_ERROR, "the policy host has no address")
        if isinstance(body, FetchFailedError):
            raise FetchFailedError(body.result_type, body.detail)
        return body


class MemoryPolicyStore:
    """Keeps policies in a dictionary. `reads` counts what a cache in front of it is to save."""

    def __init__(self) -> None:
        self._states: dict[str, PolicyState] = {}
        self.reads: defaultdict[str, int] = defaultdict(int)
        self._journal: defaultdict[str, list[JournalEntry]] = defaultdict(list)

    async def get(self, policy_domain: str) -> PolicyState | None:
        self.reads[policy_domain] += 1
        return self._states.get(policy_domain)

    async def put(self, cached: CachedPolicy) -> JournalEntry | None:
        state = self._state(cached.policy_domain)
        if state.cached is not None and state.cached.fetched_at > cached.fetched_at:
            return None
        self._states[cached.policy_domain] = replace(state, cached=cached, failure=None)
        return self._noted(journal.fetched(state, cached))

    async def note_failure(self, policy_domain: str, failure: FetchFailure) -> JournalEntry | None:
        state = self._state(policy_domain)
        self._states[policy_domain] = replace(state, failure=failure)
        return self._noted(journal.failed(state, failure))

    async def note_unknown(self, policy_domain: str, since: datetime | None) -> None:
        state = self._state(policy_domain)
        if since is None or state.unknown_since is None:
            self._states[policy_domain] = replace(state, unknown_since=since)
        self._drop_if_empty(policy_domain)

    async def due_for_refresh(self, fetched_before: datetime, now: datetime, limit: int) -> list[PolicyState]:
        due = [
            (state.cached.fetched_at, name)
            for name, state in self._states.items()
            if state.cached and state.cached.fetched_at < fetched_before and now < state.cached.expires_at
        ]
        return [self._states[name] for _, name in sorted(due)[:limit]]

    async def forget(self, policy_domain: str) -> bool:
        return self._states.pop(policy_domain, None) is not None

    async def states(self, limit: int = 10_000) -> list[PolicyState]:
        return [self._states[name] for name in sorted(self._states)[:limit]]

    async def prune(self, now: datetime) -> list[JournalEntry]:
        expired = []
        for name, state in list(self._states.items()):
            cached = state.cached if state.cached and now < state.cached.expires_at else None
            failure = state.failure if state.failure and now - state.failure.failed_at < timedelta(days=1) else None
            if cached != state.cached:
                expired.append(self._noted(journal.expired(state, now)))
            if (cached, failure) != (state.cached, state.failure):
                self._states[name] = replace(state, cached=cached, failure=failure)
                self._drop_if_empty(name)
        for name, entries in self._journal.items():
            self._journal[name] = [entry for entry in entries if now - entry.at < LIFE]
        return [entry for entry in expired if entry is not None]

    async def history(self, policy_domain: str, limit: int = MAX_ENTRIES) -> list[JournalEntry]:
        return self._journal[policy_domain][::-1][:limit]

    def _noted(self, entry: JournalEntry | None) -> JournalEntry | None:
        if entry is not None:
            self._journal[entry.policy_domain] = [*self._journal[entry.policy_domain], entry][-MAX_ENTRIES:]
        return entry

    def _state(self, policy_domain: str) -> PolicyState:
        return self._states.get(policy_domain, PolicyState(policy_domain=policy_domain))

    def _drop_if_empty(self, policy_domain: str) -> None:
        if self._states[policy_domain] == PolicyState(policy_domain=policy_domain):
            del self._states[policy_domain]
