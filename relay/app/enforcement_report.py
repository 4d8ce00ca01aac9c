"""What enforcement meant over some days, by domain and reason, out of all queue files."""

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from relay.queue.attempt import Attempt
from relay.queue.enforcement import Standing, standing
from relay.store.sqlite.trace import attempts_since

OTHER_DOMAINS = "(other domains)"
"""What domains beyond the most that are told apart are counted under."""
MAX_DOMAINS = 100_000

Counts = Counter[tuple[Standing, str]]
"""Messages by standing and reason."""


@dataclass(slots=True, kw_only=True)
class EnforcementReport:
    """What came of messages, by domain. A message counts once for each of its recipient domains."""

    since: datetime
    domains: dict[str, Counts] = field(default_factory=dict)

    def add(self, domain: str, attempts: tuple[Attempt, ...]) -> None:
        if domain not in self.domains and len(self.domains) >= MAX_DOMAINS:
            domain = OTHER_DOMAINS
        self.domains.setdefault(domain, Counter())[standing(attempts)] += 1

    @property
    def total(self) -> Counts:
        total: Counts = Counter()
        for counts in self.domains.values():
            total.update(counts)
        return total


def count(counts: Counts, *wanted: Standing) -> int:
    """Return how many messages have one of these standings."""
    return sum(messages for (one, _), messages in counts.items() if one in wanted)


def report_of(files: Iterable[Path], since: datetime) -> EnforcementReport:
    """Read the files, also beside a running relay; memory is bounded by the number of domains. Raises StoreError."""
    report = EnforcementReport(since=since)
    for file in files:
        for domain, attempts in attempts_since(file, since):
            report.add(domain, attempts)
    return report
