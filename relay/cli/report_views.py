"""How the report of enforcement is shown: JSON for programs, a table for people."""

from collections.abc import Sequence

from relay.app.enforcement_report import Counts, EnforcementReport, count
from relay.cli.output import print_table
from relay.queue.enforcement import Standing

_COLUMNS: dict[str, tuple[Standing, ...]] = {
    "proven": (Standing.PROVEN,),
    "no policy": (Standing.WITHOUT_POLICY,),
    "refused": (Standing.REFUSED, Standing.REFUSED_FIRST),
    "would be refused": (Standing.WOULD_REFUSE,),
    "testing": (Standing.TESTING,),
    "other": (Standing.OTHER,),
}
_TROUBLE = (Standing.REFUSED, Standing.REFUSED_FIRST, Standing.WOULD_REFUSE, Standing.TESTING)


def facts(report: EnforcementReport) -> dict[str, object]:
    return {
        "since": report.since,
        "total": _facts(report.total),
        "domains": [{"domain": domain} | _facts(report.domains[domain]) for domain in _in_order(report)],
    }


def print_report(report: EnforcementReport) -> None:
    rows = [_row(domain, report.domains[domain]) for domain in _in_order(report)]
    print_table(["domain", "messages", *_COLUMNS, "reasons"], [*rows, _row("total", report.total)])


def _in_order(report: EnforcementReport) -> Sequence[str]:
    """The domains with most trouble first."""
    return sorted(report.domains, key=lambda name: (-count(report.domains[name], *_TROUBLE), name))


def _facts(counts: Counts) -> dict[str, object]:
    reasons = [
        {"standing": standing, "reason": reason, "messages": messages}
        for (standing, reason), messages in counts.most_common()
        if reason
    ]
    by_standing: dict[str, object] = {one.value.replace("-", "_"): count(counts, one) for one in Standing}
    return {"messages": counts.total()} | by_standing | {"reasons": reasons}


def _row(domain: str, counts: Counts) -> tuple[object, ...]:
    reasons = ", ".join(
        f"{reason} {messages}" + (" (delivered later)" if standing is Standing.REFUSED_FIRST else "")
        for (standing, reason), messages in counts.most_common()
        if reason
    )
    return domain, counts.total(), *(count(counts, *standings) for standings in _COLUMNS.values()), reasons
