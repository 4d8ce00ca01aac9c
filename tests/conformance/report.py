"""Write docs/conformance.md from the `@pytest.mark.rfc(...)` marks in the tests.

`python tests/conformance/report.py` writes the page; test_conformance.py fails when it is out of date.
rows.tsv holds the clauses, notes.toml what is knowingly different.
"""

import ast
import csv
import sys
import tomllib
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).parent
TESTS = HERE.parent
PAGE = TESTS.parent / "docs" / "conformance.md"

TITLES = {
    "rfc8461-mta-sts": "MTA-STS (RFC 8461)",
    "rfc5321-relay": "SMTP and its extensions (RFC 5321 and others)",
    "dsn-ndr": "Delivery status notifications (RFC 3461, 3464, 6522, 6533)",
    "rfc7672-dane-smtp": "DANE for SMTP (RFC 7672)",
    "rfc8460-tlsrpt": "TLS reporting (RFC 8460)",
    "rfc8689-requiretls": "REQUIRETLS (RFC 8689)",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One clause. `level` is the RFC's keyword; `info` rows state grammar or procedure and bind all the same."""

    reference: str
    section: str
    id: str
    level: str
    duty: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Note:
    """Why a row is not simply met: `deviates`, `setting` or `not applicable`."""

    verdict: str
    reason: str


def read_rows() -> list[Row]:
    with (HERE / "rows.tsv").open(encoding="utf-8", newline="") as file:
        return [Row(**record) for record in csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE)]


def read_notes() -> dict[str, Note]:
    """Return the note of each row that has one."""
    data = tomllib.loads((HERE / "notes.toml").read_text(encoding="utf-8"))
    return {
        id_: Note(verdict=verdict.replace("-", " "), reason=reason)
        for verdict in ("deviates", "setting", "not-applicable")
        for id_, reason in data[verdict].items()
    }


def marks() -> dict[str, list[str]]:
    """Return the tests that show each row, as `file::name`, in order."""
    found: dict[str, list[str]] = defaultdict(list)
    for path in sorted(TESTS.rglob("*.py")):
        module = ast.parse(path.read_text(encoding="utf-8"), filename=str(path))
        for name, id_ in _marks_below(module, ""):
            test = f"{path.relative_to(TESTS.parent)}{name}"
            if test not in found[id_]:
                found[id_].append(test)
    return dict(found)


def _marks_below(node: ast.AST, name: str) -> Iterator[tuple[str, str]]:
    for child in ast.iter_child_nodes(node):
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            yield from _marks_below(child, f"{name}::{child.name}")
            continue
        if isinstance(child, ast.Call) and isinstance(child.func, ast.Attribute) and child.func.attr == "rfc":
            yield from ((name, str(arg.value)) for arg in child.args if isinstance(arg, ast.Constant))
        yield from _marks_below(child, name)


def render() -> str:
    rows = read_rows()
    notes, shown = read_notes(), marks()
    lines = [
        "# Conformance",
        "",
        "Written by `make conformance` from the marks in the tests; do not edit. Each row is one clause of an RFC",
        "as it binds a sending relay. **met**: the tests named show it. **deviates**, **setting**: on purpose.",
        "**not applicable**: binds somebody else. A clause with neither test nor reason fails the tests.",
        "",
        "| reference | met | setting | deviates | not applicable | rows |",
        "|---|---|---|---|---|---|",
    ]
    verdicts = ("met", "setting", "deviates", "not applicable")
    for reference, title in TITLES.items():
        own = [row for row in rows if row.reference == reference]
        counts = [sum(_verdict(row, notes) == verdict for row in own) for verdict in verdicts]
        lines.append(f"| {title} | {' | '.join(map(str, counts))} | {len(own)} |")
    section = reference = ""
    for row in rows:
        if row.reference != reference:
            reference = row.reference
            lines += ["", f"## {TITLES[reference]}"]
        if row.section != section:
            section = row.section
            lines += ["", f"### {section}", "", "| row | level | duty | verdict |", "|---|---|---|---|"]
        lines.append(f"| {row.id} | {row.level} | {row.duty} | {_cell(row, notes, shown)} |")
    return "\n".join(lines) + "\n"


def _verdict(row: Row, notes: dict[str, Note]) -> str:
    return notes[row.id].verdict if row.id in notes else "met"


def _cell(row: Row, notes: dict[str, Note], shown: dict[str, list[str]]) -> str:
    parts = [f"**{_verdict(row, notes)}**"]
    if row.id in notes:
        parts.append(notes[row.id].reason)
    parts += [f"`{test.removeprefix('tests/')}`" for test in shown.get(row.id, [])[:3]]
    return "<br>".join(parts)


if __name__ == "__main__":
    PAGE.parent.mkdir(exist_ok=True)
    PAGE.write_text(render(), encoding="utf-8")
    sys.stdout.write(f"{PAGE}\n")
