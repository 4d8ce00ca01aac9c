"""docs/conformance.md is what the marks say, and no clause is left open."""

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
    assert sorted(set(report.read_notes()) - {row.id for row in rows}) == []


def test_the_page_is_current() -> None:
    assert report.PAGE.read_text(encoding="utf-8") == report.render(), "run `make conformance`"


@pytest.mark.parametrize("reference", report.TITLES)
def test_no_row_is_open(reference: str) -> None:
    """Each clause is met, or it is written down why it is not."""
    rows = report.read_rows()
    answered = set(report.marks()) | set(report.read_notes())
    assert [row.id for row in rows if row.reference == reference and row.id not in answered] == []


def test_the_page_carries_every_row() -> None:
    page = report.PAGE.read_text(encoding="utf-8")
    assert [row.id for row in report.read_rows() if f"| {row.id} |" not in page] == []
    assert len(report.read_rows()) == 830
