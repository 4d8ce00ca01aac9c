"""docs/conformance.md is what the marks say, and no clause of MTA-STS for a sender is left open."""

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))

import report


def test_every_mark_names_a_row() -> None:
    ids = {row.id for row in report.read_rows()}
    assert sorted(set(report.marks()) - ids) == []


def test_every_note_names_a_row() -> None:
    rows = report.read_rows()
    assert sorted(set(report.read_notes(rows)) - {row.id for row in rows}) == []


def test_the_page_is_current() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.render(), "run `make conformance`"


@pytest.mark.parametrize("section", "ABCDEFGH")
def test_no_row_of_mta_sts_is_open(section: str) -> None:
    rows = report.read_rows()
    answered = set(report.marks()) | set(report.read_notes(rows))
    open_rows = [
        row.id
        for row in rows
        if row.reference == "rfc8461-mta-sts" and row.section.startswith(section) and row.id not in answered
    ]
    assert open_rows == []
