"""How the journal of a policy is shown to people."""

from collections.abc import Sequence

from policy.journal import Change, JournalEntry, PolicyVersion
from relay.cli.output import ago, print_table, shown

_SHOWN_MX = 5


def print_history(entries: Sequence[JournalEntry]) -> None:
    rows = [(shown(entry.at), ", ".join(change.value for change in entry.changes), detail(entry)) for entry in entries]
    print_table(["time", "change", "what"], rows)


def detail(entry: JournalEntry) -> str:
    """Say what became of what, for each kind of change in its turn."""
    return "; ".join(text for change in entry.changes if (text := _detail(change, entry)))


def _detail(change: Change, entry: JournalEntry) -> str:
    old, new, problem = entry.before, entry.after, entry.problem
    match change:
        case Change.NEW:
            return _whole(new)
        case Change.ID_CHANGED if old and new:
            return f"id {old.record_id} -> {new.record_id}"
        case Change.MODE_WEAKENED | Change.MODE_STRENGTHENED if old and new:
            return f"mode {old.mode.value} -> {new.mode.value}"
        case Change.MX_CHANGED if old and new:
            return f"mx {_mx(old)} -> {_mx(new)}"
        case Change.MAX_AGE_CHANGED if old and new:
            return f"max_age {ago(old.max_age)} -> {ago(new.max_age)}"
        case Change.EXPIRED:
            return f"no longer in force: {_whole(old)}"
        case Change.FETCH_FAILING if problem:
            return f"{problem.result_type.value}: {problem.detail}"
        case Change.FETCH_RECOVERED:
            return f"had failed since {shown(entry.failing_since)}"
        case _:
            return ""


def _whole(version: PolicyVersion | None) -> str:
    if version is None:
        return ""
    return f"mode {version.mode.value}, id {version.record_id}, mx {_mx(version)}, max_age {ago(version.max_age)}"


def _mx(version: PolicyVersion) -> str:
    named = ", ".join(version.mx[:_SHOWN_MX]) or "(none)"
    more = version.mx_count - _SHOWN_MX
    return f"{named} and {more} more" if more > 0 else named
