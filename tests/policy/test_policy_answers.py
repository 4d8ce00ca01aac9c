"""Found, Absent and Unknown are three things."""

from datetime import timedelta

import pytest

from policy.answers import Found


def test_found_without_records_is_refused() -> None:
    with pytest.raises(ValueError, match="Absent, not Found"):
        Found(records=(), canonical_name="x.test", ttl=timedelta(0))


def test_found_keeps_its_records() -> None:
    assert Found(records=(b"a",), canonical_name="x.test", ttl=timedelta(0)).records == (b"a",)
