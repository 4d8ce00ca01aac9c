"""What every store of reports keeps to (relay.store.protocols.ReportStore)."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from tls_report_makers import DAY

from policy.tlsrpt import HttpsEndpoint, MailEndpoint
from relay.store.protocols import DeliveryState, PlannedReport, ReportStore, StoreError

NOW = datetime(2026, 11, 22, 1, tzinfo=UTC)
MAIL = MailEndpoint("t@y.test", "y.test")
HTTPS = HttpsEndpoint("https://r.test/v1")
PLANNED = PlannedReport(
    day=DAY,
    domain="x.test",
    unique_id="U1",
    deliveries=((MAIL, "Q1"), (HTTPS, "Q2")),
    first_attempt_at=NOW,
    give_up_at=NOW + timedelta(days=1),
)


class ReportStoreContract:
    async def test_a_report_is_planned_once(self, store: ReportStore) -> None:
        assert not await store.is_planned(DAY, "x.test")
        assert await store.plan(PLANNED)
        assert not await store.plan(replace(PLANNED, unique_id="U2", deliveries=((MAIL, "Q3"),)))
        assert await store.is_planned(DAY, "x.test")
        assert not await store.is_planned(DAY + timedelta(days=1), "x.test")
        found = await store.due(NOW, 10)
        assert [(one.unique_id, one.number, one.endpoint, one.queue_id) for one in found] == [
            ("U1", 0, MAIL, "Q1"),
            ("U1", 1, HTTPS, "Q2"),
        ]
        assert {(one.day, one.domain, one.state, one.attempts, one.give_up_at) for one in found} == {
            (DAY, "x.test", DeliveryState.WAITING, 0, NOW + timedelta(days=1))
        }

    async def test_nothing_is_due_before_its_time(self, store: ReportStore) -> None:
        await store.plan(PLANNED)
        assert await store.due(NOW - timedelta(seconds=1), 10) == []
        assert len(await store.due(NOW, 1)) == 1

    async def test_a_delivery_is_started_once(self, store: ReportStore) -> None:
        await store.plan(PLANNED)
        mail, https = await store.due(NOW, 10)
        await store.start(mail)
        with pytest.raises(StoreError):
            await store.start(mail)
        assert await store.due(NOW, 10) == [https]
        assert [(one.number, one.state, one.attempts) for one in await store.in_flight(10)] == [
            (0, DeliveryState.IN_FLIGHT, 1)
        ]

    async def test_a_delivery_that_failed_comes_back_later(self, store: ReportStore) -> None:
        await store.plan(PLANNED)
        mail, _ = await store.due(NOW, 10)
        await store.start(mail)
        await store.retry(mail, NOW + timedelta(hours=1))
        assert [one.number for one in await store.due(NOW, 10)] == [1]
        (again,) = [one for one in await store.due(NOW + timedelta(hours=1), 10) if one.number == 0]
        assert (again.attempts, again.unique_id, again.queue_id) == (1, "U1", "Q1")

    @pytest.mark.parametrize("accepted", [True, False])
    async def test_what_is_final_stays_so(self, store: ReportStore, accepted: bool) -> None:
        await store.plan(PLANNED)
        mail, _ = await store.due(NOW, 10)
        with pytest.raises(StoreError):
            await store.finish(mail, accepted=accepted)
        await store.start(mail)
        await store.finish(mail, accepted=accepted)
        for move in (store.start(mail), store.retry(mail, NOW), store.finish(mail, accepted=True)):
            with pytest.raises(StoreError):
                await move
        assert [one.number for one in await store.due(NOW, 10)] == [1]
        assert await store.in_flight(10) == []

    async def test_a_domain_without_endpoints_is_planned_too(self, store: ReportStore) -> None:
        assert await store.plan(replace(PLANNED, deliveries=()))
        assert await store.is_planned(DAY, "x.test")
        assert await store.due(NOW, 10) == []

    async def test_old_days_are_forgotten(self, store: ReportStore) -> None:
        await store.plan(PLANNED)
        await store.forget(DAY)
        assert await store.is_planned(DAY, "x.test")
        await store.forget(DAY + timedelta(days=1))
        assert not await store.is_planned(DAY, "x.test")
        assert await store.due(NOW, 10) == []
