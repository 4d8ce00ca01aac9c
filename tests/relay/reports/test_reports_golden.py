"""The notices as senders see them: each is a file that people have read and liked.

To change one, run `python tests/relay/reports/report_makers.py` from the project's root and read the difference.
"""

import pytest
from report_makers import GOLDEN, cases


@pytest.mark.rfc("8461-5-k")
@pytest.mark.parametrize("name", sorted(cases()))
def test_a_notice_is_what_the_golden_file_shows(name: str) -> None:
    built = cases()[name].build().content
    assert isinstance(built, bytes)
    assert built.decode() == (GOLDEN / f"{name}.eml").read_bytes().decode()


def test_every_golden_file_has_its_case() -> None:
    assert {path.stem for path in GOLDEN.glob("*.eml")} == set(cases())
