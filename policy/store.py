"""The seam to where policies are kept (a persistent cache, RFC 8461 §10.2)."""

from datetime import datetime
from typing import Protocol

from policy.findings import CachedPolicy, FetchFailure, PolicyState
from policy.journal import MAX_ENTRIES, JournalEntry
from policy.requirement import ResultType


class PolicyStore(Protocol):
    """Keeps policies across restarts; shared by all processes of a node or cluster.

    Each call is atomic and durable before it returns. A row that cannot be read back as a valid policy counts as
    absent and is logged, never raised. Nothing is evicted while it is unexpired (RFC 8461 §10.2).

    What changes about a policy goes into the domain's journal with the change itself, and is returned to the one
    whose call made it: of several processes that fetch the same policy, only the first hears of it.
    """

    async def get(self, policy_domain: str) -> PolicyState | None: ...

    async def put(self, cached: CachedPolicy) -> JournalEntry | None:
        """Store a freshly fetched policy; clears the failure. Of two writers the newest `fetched_at` stays."""
        ...

    async def note_failure(self, policy_domain: str, failure: FetchFailure) -> JournalEntry | None:
        """Remember a failed fetch. The cached policy, if any, stays untouched (RFC 8461 §3.3)."""
        ...

    async def note_unknown(self, policy_domain: str, since: datetime | None) -> None:
        """Set or (with None) end the run of unanswered `_mta-sts` queries. An existing start is kept."""
        ...

    async def due_for_refresh(self, fetched_before: datetime, now: datetime, limit: int) -> list[PolicyState]:
        """Unexpired policies last fetched before the given time, the oldest first."""
        ...

    async def forget(self, policy_domain: str) -> bool:
        """Remove all that is known of a domain but its journal; True if there was something."""
        ...

    async def states(self, limit: int = 10_000) -> list[PolicyState]:
        """All domains, by name; for `policy list` and the gauges."""
        ...

    async def prune(self, now: datetime) -> list[JournalEntry]:
        """Remove expired policies, old failures and old entries of the journal; returns what expired."""
        ...

    async def history(self, policy_domain: str, limit: int = MAX_ENTRIES) -> list[JournalEntry]:
        """The domain's journal, the newest entry first: what MAX_ENTRIES and LIFE leave of it."""
        ...


class PolicyFetcher(Protocol):
    """Fetches a policy file over HTTPS (RFC 8461 §3.3), within one deadline for the whole request."""

    async def fetch(self, policy_domain: str) -> bytes:
        """Return the body of https://mta-sts.<domain>/.well-known/mta-sts.txt.

        Raises FetchFailedError with the RFC 8460 result type and the exact reason; never anything else.
        """
        ...


class FetchFailedError(Exception):
    """The policy could not be fetched. `detail` is one line, fit for a log and an NDR."""

    def __init__(self, result_type: ResultType, detail: str) -> None:
        super().__init__(detail)
        self.result_type = result_type
        self.detail = detail
