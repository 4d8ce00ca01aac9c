"""TLS reports as they would be sent, from the files of a relay that may be running (RFC 8460)."""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from policy.answers import Resolver, Unknown
from policy.tlsrpt import Endpoint
from relay.app.reporting import SessionCounts, endpoints_in, is_left_out, record_name
from relay.reports.tlsrpt import Reporter, TlsReport, fold

MAX_DOMAINS = 1000
_LOOKUPS_AT_ONCE = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Preview:
    """A report and where it would go now; `problem` is why that is not known, or ""."""

    report: TlsReport
    endpoints: Sequence[Endpoint]
    problem: str = ""


async def previews(
    counts: SessionCounts,
    resolver: Resolver,
    reporter: Reporter,
    day: date,
    domains: Sequence[str],
    *,
    no_reports_to: Sequence[str] = (),
) -> Sequence[Preview]:
    """Return the reports on those of the domains that had sessions on that day. Raises StoreError."""
    found: list[Preview] = []
    for start in range(0, len(domains), _LOOKUPS_AT_ONCE):
        some = [one for one in domains[start : start + _LOOKUPS_AT_ONCE] if not is_left_out(one, no_reports_to)]
        reports = [await _report(counts, reporter, day, domain) for domain in some]
        found += await asyncio.gather(*(_preview(report, resolver) for report in reports if report.policies))
    return found


async def _report(counts: SessionCounts, reporter: Reporter, day: date, domain: str) -> TlsReport:
    policies = fold(domain, await counts.results(day, domain))
    return TlsReport(unique_id="PREVIEW", day=day, domain=domain, policies=policies, reporter=reporter)


async def _preview(report: TlsReport, resolver: Resolver) -> Preview:
    answer = await resolver.txt(record_name(report.domain))
    if isinstance(answer, Unknown):
        return Preview(report=report, endpoints=(), problem=f"{answer.reason.value}: {answer.detail}")
    return Preview(report=report, endpoints=endpoints_in(answer))
