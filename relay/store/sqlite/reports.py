"""Reports and how far their sending is, in an SQLite file of its own (RFC 8460 §4.1, §5.5)."""

import asyncio
import sqlite3
from collections.abc import Sequence
from datetime import date, datetime
from functools import partial
from pathlib import Path
from typing import Self

from policy.tlsrpt import Endpoint, HttpsEndpoint, MailEndpoint
from relay.store.protocols import DeliveryState, PlannedReport, ReportDelivery, StoreError
from relay.store.sqlite.database import load_schema, open_database, open_for_reading
from relay.store.sqlite.reader import Reader
from relay.store.sqlite.rows import Row, from_us, to_us
from relay.store.sqlite.tls_results import day_number, day_of
from relay.store.sqlite.writer import Writer

APPLICATION_ID = 0x4D535254

_PLAN = "INSERT INTO reports (day, domain, unique_id) VALUES (?, ?, ?) ON CONFLICT (day, domain) DO NOTHING"
_PLAN_DELIVERY = (
    "INSERT INTO report_deliveries (day, domain, number, scheme, target, queue_id, state, next_attempt_at, give_up_at) "
    "VALUES (?, ?, ?, ?, ?, ?, 'waiting', ?, ?)"
)
_SELECT = (
    "SELECT day, domain, unique_id, number, scheme, target, queue_id, state, attempts, next_attempt_at, give_up_at "
    "FROM report_deliveries JOIN reports USING (day, domain)"
)
_DUE = f"{_SELECT} WHERE state = 'waiting' AND next_attempt_at <= ? ORDER BY next_attempt_at LIMIT ?"
_IN_FLIGHT = f"{_SELECT} WHERE state = 'in-flight' ORDER BY day, domain, number LIMIT ?"
_MOVE = (
    "UPDATE report_deliveries SET state = ?, attempts = attempts + ?, next_attempt_at = ifnull(?, next_attempt_at) "
    "WHERE day = ? AND domain = ? AND number = ? AND state = ?"
)


class SqliteReportStore:
    """Implements relay.store.protocols.ReportStore. Made by `open`; belongs to the event loop that opened it."""

    def __init__(self, writing: sqlite3.Connection, reading: sqlite3.Connection) -> None:
        self._writer = Writer(writing, name="report-writer")
        self._reader = Reader(reading, name="report-reader")

    @classmethod
    async def open(cls, path: Path) -> Self:
        """Open or create the file. Raises StoreError."""
        return cls(*await asyncio.to_thread(_connect, path))

    async def plan(self, report: PlannedReport) -> bool:
        return await self._writer.run(partial(_plan, report=report))

    async def is_planned(self, day: date, domain: str) -> bool:
        query = "SELECT 1 FROM reports WHERE day = ? AND domain = ?"
        return await self._reader.run(lambda c: c.execute(query, (day_number(day), domain)).fetchone() is not None)

    async def due(self, now: datetime, limit: int) -> Sequence[ReportDelivery]:
        return await self._select(_DUE, to_us(now), limit)

    async def in_flight(self, limit: int) -> Sequence[ReportDelivery]:
        return await self._select(_IN_FLIGHT, limit)

    async def start(self, delivery: ReportDelivery) -> None:
        await self._move(delivery, DeliveryState.WAITING, DeliveryState.IN_FLIGHT, attempts=1)

    async def retry(self, delivery: ReportDelivery, at: datetime) -> None:
        await self._move(delivery, DeliveryState.IN_FLIGHT, DeliveryState.WAITING, at=at)

    async def finish(self, delivery: ReportDelivery, *, accepted: bool) -> None:
        state = DeliveryState.ACCEPTED if accepted else DeliveryState.DROPPED
        await self._move(delivery, DeliveryState.IN_FLIGHT, state)

    async def forget(self, before: date) -> None:
        await self._writer.run(partial(_forget, before=before))

    async def close(self) -> None:
        await self._reader.close()
        await self._writer.close()

    async def _select(self, query: str, *values: object) -> list[ReportDelivery]:
        rows = await self._reader.run(lambda connection: connection.execute(query, values).fetchall())
        return [_delivery(row) for row in rows]

    async def _move(
        self,
        delivery: ReportDelivery,
        before: DeliveryState,
        after: DeliveryState,
        *,
        attempts: int = 0,
        at: datetime | None = None,
    ) -> None:
        key = (day_number(delivery.day), delivery.domain, delivery.number)
        values = (after.value, attempts, None if at is None else to_us(at), *key, before.value)
        if await self._writer.run(lambda connection: connection.execute(_MOVE, values).rowcount) != 1:
            raise StoreError(f"the report on {delivery.domain} is not {before.value}")


def _connect(path: Path) -> tuple[sqlite3.Connection, sqlite3.Connection]:
    writing = open_database(path, load_schema("reports", APPLICATION_ID))
    return writing, open_for_reading(path)


def _plan(connection: sqlite3.Connection, report: PlannedReport) -> bool:
    key = (day_number(report.day), report.domain)
    if connection.execute(_PLAN, (*key, report.unique_id)).rowcount == 0:
        return False
    times = (to_us(report.first_attempt_at), to_us(report.give_up_at))
    for number, (endpoint, queue_id) in enumerate(report.deliveries):
        connection.execute(_PLAN_DELIVERY, (*key, number, *_columns(endpoint), queue_id, *times))
    return True


def _columns(endpoint: Endpoint) -> tuple[str, str]:
    return ("mailto", endpoint.address) if isinstance(endpoint, MailEndpoint) else ("https", endpoint.url)


def _endpoint(scheme: str, target: str) -> Endpoint:
    return MailEndpoint(target, target.rpartition("@")[2]) if scheme == "mailto" else HttpsEndpoint(target)


def _forget(connection: sqlite3.Connection, before: date) -> None:
    values = (day_number(before),)
    connection.execute("DELETE FROM report_deliveries WHERE day < ?", values)
    connection.execute("DELETE FROM reports WHERE day < ?", values)


def _delivery(row: Row) -> ReportDelivery:
    day, domain, unique_id, number, scheme, target, queue_id, state, attempts, next_attempt_at, give_up_at = row
    return ReportDelivery(
        day=day_of(day),
        domain=domain,
        unique_id=unique_id,
        number=number,
        endpoint=_endpoint(scheme, target),
        queue_id=queue_id,
        state=DeliveryState(state),
        attempts=attempts,
        next_attempt_at=from_us(next_attempt_at),
        give_up_at=from_us(give_up_at),
    )
