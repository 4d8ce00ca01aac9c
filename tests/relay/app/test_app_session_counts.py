"""Sessions counted in several files are reported as one."""

from dataclasses import replace
from pathlib import Path

import pytest
from counted_sessions import count_in
from tls_report_makers import DAY, EXPIRED, STS, result

from relay.app.session_counts import counts_in
from relay.reports.tlsrpt import fold


async def record(path: Path, *domains: str) -> Path:
    await count_in(path, [replace(result(STS, EXPIRED, sessions=2), recipient_domain=domain) for domain in domains])
    return path


@pytest.mark.rfc("8460-4.2-h")
async def test_two_files_make_one_report(tmp_path: Path) -> None:
    paths = [await record(tmp_path / "1.db", "a.test", "b.test"), await record(tmp_path / "2.db", "b.test")]
    async with counts_in(paths) as counts:
        (policy,) = fold("b.test", await counts.results(DAY, "b.test"))
        assert (policy.failed, policy.details) == (4, ((EXPIRED, 4),))
        assert len(await counts.results(DAY, "a.test")) == 1


@pytest.mark.parametrize("limit", [1, 2, 3, 10])
async def test_pages_miss_no_domain_and_name_none_twice(tmp_path: Path, limit: int) -> None:
    paths = [
        await record(tmp_path / "1.db", "a.test", "d.test", "e.test"),
        await record(tmp_path / "2.db", "b.test", "c.test", "d.test"),
    ]
    found: list[str] = []
    async with counts_in(paths) as counts:
        while page := await counts.domains(DAY, found[-1] if found else "", limit):
            assert len(page) <= limit
            found += page
    assert found == ["a.test", "b.test", "c.test", "d.test", "e.test"]


async def test_without_files_there_is_nothing() -> None:
    async with counts_in([]) as counts:
        assert await counts.domains(DAY, "", 10) == []
        assert await counts.results(DAY, "a.test") == []
