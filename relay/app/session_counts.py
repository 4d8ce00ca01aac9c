"""The TLS sessions that all processes of a node have counted, each in its own file, as one (RFC 8460 §4.2)."""

from collections.abc import AsyncIterator, Callable, Iterable, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from relay.queue.tls_results import TlsResult
from relay.store.sqlite.tls_results import TlsResultFile


class AllSessionCounts:
    """Implements relay.app.reporting.SessionCounts over several files. Made by `counts_in`."""

    def __init__(self, files: Sequence[TlsResultFile]) -> None:
        self._files = files

    async def domains(self, day: date, after: str, limit: int) -> Sequence[str]:
        """Return domains behind `after` in order, each once whichever files have it. Raises StoreError."""
        found = {domain for file in self._files for domain in await file.domains(day, after, limit)}
        return sorted(found)[:limit]

    async def results(self, day: date, domain: str) -> Sequence[TlsResult]:
        """Return what was counted, file by file: equal results may come more than once. Raises StoreError."""
        return [result for file in self._files for result in await file.results(day, domain)]


async def to_be_reported(path: Path, now: datetime) -> bool:
    """Whether a file has sessions of today or yesterday, on which there are reports to come. Raises StoreError."""
    file = await TlsResultFile.open(path)
    try:
        return await file.any_since(now.astimezone(UTC).date() - timedelta(days=1))
    finally:
        await file.close()


class SessionCountsOnDisk:
    """Implements relay.app.reporting.SessionCounts over the files that there are at each question.

    Files of other processes come and go; that which is asked once a minute needs none of them open meanwhile.
    """

    def __init__(self, paths: Callable[[], Iterable[Path]]) -> None:
        self._paths = paths

    async def domains(self, day: date, after: str, limit: int) -> Sequence[str]:
        async with counts_in(self._paths()) as counts:
            return await counts.domains(day, after, limit)

    async def results(self, day: date, domain: str) -> Sequence[TlsResult]:
        async with counts_in(self._paths()) as counts:
            return await counts.results(day, domain)


@asynccontextmanager
async def counts_in(paths: Iterable[Path]) -> AsyncIterator[AllSessionCounts]:
    """Open files for reading, beside whoever writes them. Raises StoreError."""
    async with AsyncExitStack() as exits:
        files: list[TlsResultFile] = []
        for path in paths:
            file = await TlsResultFile.open(path)
            exits.push_async_callback(file.close)
            files.append(file)
        yield AllSessionCounts(files)
