"""Policies that could not be had, counted for TLS reports without a message (RFC 8460 §4.3.2). Nobody waits for it.

A process that dies takes with it what it has gathered for a second.
"""

import asyncio
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from typing import Protocol

from policy.findings import CachedPolicy, FetchProblem
from relay import report_events
from relay.clock import Clock
from relay.delivery.session_results import discovery_result
from relay.queue.tls_results import TlsResult
from relay.store.protocols import StoreDeadError, StoreError

MAX_WAITING = 1000
"""Results that differ; of those that come while a store does not take them, the others are left out."""
_GATHER_SECONDS = 1.0
_STORE_PAUSE_SECONDS = 60.0


class Records(Protocol):
    """Takes results of sessions that no settlement tells of."""

    async def record(self, results: Sequence[TlsResult]) -> None:
        """Count them, durably. Raises StoreError, and then none is counted."""
        ...


class DiscoveryFailures:
    """Gathers what look-ups tell for a moment, and writes it down in one transaction."""

    def __init__(self, *, records: Records, clock: Clock) -> None:
        self._records = records
        self._clock = clock
        self._waiting: Counter[TlsResult] = Counter()
        self._come = asyncio.Event()

    def note(self, policy_domain: str, problem: FetchProblem, cached: CachedPolicy | None) -> None:
        result = discovery_result(policy_domain, problem, cached, self._clock.now().date())
        if result in self._waiting or len(self._waiting) < MAX_WAITING:
            self._waiting[result] += 1
            self._come.set()

    async def run(self) -> None:
        """Write until cancelled, and once more then."""
        try:
            while True:
                await self._come.wait()
                await self._clock.sleep(_GATHER_SECONDS)
                await self._try_to_write()
        except asyncio.CancelledError:
            try:
                await self.write()
            except StoreError as error:
                report_events.reporting_failed("failed policy fetches", error)
            raise

    async def _try_to_write(self) -> None:
        try:
            await self.write()
        except StoreDeadError:
            raise
        except StoreError as error:
            report_events.reporting_failed("failed policy fetches", error)
            await self._clock.sleep(_STORE_PAUSE_SECONDS)

    async def write(self) -> None:
        """Write what waits. Raises StoreError, and then it goes on waiting."""
        if not self._waiting:
            return
        taken, self._waiting = self._waiting, Counter()
        self._come.clear()
        try:
            now = self._clock.now()
            await self._records.record([replace(one, sessions=many).written_at(now) for one, many in taken.items()])
        except StoreError:
            self._waiting.update(taken)
            self._come.set()
            raise
