"""When reports are planned and sent, how often they are tried, and that nothing is sent twice (RFC 8460 §4.1, §5.5)."""

import asyncio
import gzip
import itertools
import json
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from counted_sessions import count_in
from policy_fakes import SERVFAIL, FakeResolver, ManualClock, found_txt
from prometheus_client import CollectorRegistry
from queue_fakes import MemoryQueueStore
from tls_report_makers import DAY, EXPIRED, REPORTER, STS, result

from policy.answers import Answer
from policy.report_post import Posted
from relay.app.reporting import Means, Randomness, ReportSender
from relay.metrics import Metrics
from relay.queue.message import Notify
from relay.queue.tls_results import TlsResult
from relay.store.protocols import QueueFilter, ReportDelivery, StoreDeadError, StoreError
from relay.store.sqlite.reports import SqliteReportStore
from relay.store.sqlite.tls_results import TlsResultFile

MIDNIGHT = datetime(2026, 11, 22, tzinfo=UTC)
HOUR = timedelta(hours=1)
ALL = QueueFilter(all=True)


@dataclass
class FakePoster:
    """Answers as the test says, and remembers what it got."""

    answers: list[Posted] = field(default_factory=list)
    got: list[tuple[str, bytes]] = field(default_factory=list)
    called: asyncio.Event = field(default_factory=asyncio.Event)

    async def post(self, url: str, body: bytes) -> tuple[Posted, str]:
        self.got.append((url, body))
        self.called.set()
        return (self.answers.pop(0) if self.answers else Posted.ACCEPTED), "as the test says"


class FakeSigner:
    def sign(self, message: bytes, fields: Sequence[str]) -> bytes:
        return b"DKIM-Signature: v=1\r\n" + message


class World:
    """A sender over a real store of reports, with everything else a fake."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.queue_path = path.with_name("queue-0.db")
        self.clock = ManualClock(MIDNIGHT - 12 * HOUR)
        self.resolver = FakeResolver()
        self.queue = MemoryQueueStore(self.clock, lease_duration=HOUR, retain_finished=100 * HOUR)
        self.poster = FakePoster()
        self.ids = (f"ID{number}" for number in itertools.count())
        self.spread = 0.0
        self.signer = FakeSigner()

    @property
    def means(self) -> Means:
        return Means(reporter=REPORTER, signer=self.signer, resolver=self.resolver, poster=self.poster)

    async def open(self, kind: type[SqliteReportStore] = SqliteReportStore) -> None:
        self.registry = CollectorRegistry()
        self.store = await kind.open(self.path)
        await count_in(self.queue_path, [])
        self.counts = await TlsResultFile.open(self.queue_path)
        self.sender = ReportSender(
            store=self.store,
            counts=self.counts,
            queue=self.queue,
            clock=self.clock,
            metrics=Metrics(self.registry),
            randomness=Randomness(spread=lambda: self.spread, new_id=lambda: next(self.ids)),
            means=self.means,
        )

    async def close(self) -> None:
        await self.counts.close()
        await self.store.close()

    def publish(self, domain: str, rua: str) -> None:
        self.resolver.txt_answers[f"_smtp._tls.{domain}"] = found_txt(f"v=TLSRPTv1;rua={rua}".encode())

    async def count(self, domain: str = "x.test", day: date = DAY) -> None:
        results = [replace(one, recipient_domain=domain, day=day) for one in (result(), _FAILED)]
        await count_in(self.queue_path, results)

    async def look(self, at: datetime) -> None:
        self.clock.set(at)
        await self.sender.plan_yesterday(self.means)
        await self.sender.send_due(self.means)

    def metric(self, result: str) -> float:
        return self.registry.get_sample_value("mta_sts_relay_tls_reports_total", {"result": result}) or 0.0

    async def mails(self) -> list[str]:
        return [entry.recipients[0].forward_path for entry in await self.queue.list(ALL, 100)]


_FAILED: TlsResult = result(STS, EXPIRED)


@pytest.fixture
async def world(tmp_path: Path) -> AsyncIterator[World]:
    world = World(tmp_path / "reports.db")
    await world.open()
    yield world
    await world.close()


@pytest.mark.rfc("8460-4.1-b", "8460-4.1-a", "8460-3-am", "8460-3-a", "8460-3-s")
async def test_a_day_is_reported_after_midnight_and_its_spread_to_every_endpoint(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test,https://r.test/v1")
    world.spread = 0.5
    await world.count()
    for at in (MIDNIGHT - HOUR, MIDNIGHT + timedelta(minutes=5), MIDNIGHT + HOUR, MIDNIGHT + 1.99 * HOUR):
        await world.look(at)
        assert (await world.mails(), world.poster.got) == ([], [])
    await world.look(MIDNIGHT + 2 * HOUR)
    assert await world.mails() == ["t@y.test"]
    ((url, body),) = world.poster.got
    assert url == "https://r.test/v1"
    report = json.loads(gzip.decompress(body))
    assert report["date-range"]["start-datetime"] == "2026-11-21T00:00:00Z"
    assert report["policies"][0]["summary"] == {
        "total-successful-session-count": 1,
        "total-failure-session-count": 1,
    }
    assert ("TXT", "_smtp._tls.x.test") in world.resolver.asked
    await world.look(MIDNIGHT + 3 * HOUR)
    assert (await world.mails(), len(world.poster.got)) == (["t@y.test"], 1)
    assert (world.metric("queued"), world.metric("posted")) == (1, 1)


async def test_sessions_that_are_settled_just_after_midnight_are_waited_for(world: World) -> None:
    world.publish("x.test", "https://r.test/")
    await world.count()
    await world.look(MIDNIGHT + timedelta(minutes=5))
    assert not await world.store.is_planned(DAY, "x.test")
    await world.look(MIDNIGHT + timedelta(minutes=10))
    assert len(world.poster.got) == 1


@pytest.mark.rfc("8460-4.1-a", "8460-4.1-d")
async def test_a_session_that_is_settled_after_its_report_was_sent_is_in_the_next_one_and_only_there(
    world: World,
) -> None:
    world.publish("x.test", "https://r.test/")
    await world.count()
    await world.look(MIDNIGHT + timedelta(minutes=10))
    late = replace(result(sessions=7), recipient_domain="x.test").written_at(world.clock.now())
    await count_in(world.queue_path, [late])
    for hours in (1, 23, 24.5, 26):
        await world.look(MIDNIGHT + hours * HOUR)
    reports = [json.loads(gzip.decompress(body)) for _, body in world.poster.got]
    assert [
        (one["date-range"]["start-datetime"], one["policies"][0]["summary"]["total-successful-session-count"])
        for one in reports
    ] == [("2026-11-21T00:00:00Z", 1), ("2026-11-22T00:00:00Z", 7)]


@pytest.mark.rfc("8460-5.5-b", "8460-5.5-c", "8460-3-ae")
async def test_the_mail_is_signed_and_nobody_is_told_of_its_fate(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test")
    await world.count()
    await world.look(MIDNIGHT + HOUR)
    (entry,) = await world.queue.list(ALL, 10)
    assert entry.message.envelope.reverse_path == REPORTER.contact
    assert entry.recipients[0].notify == frozenset({Notify.NEVER})
    assert entry.destination == "y.test"
    content = b"".join([piece async for piece in world.queue.content(entry.message.queue_id)])
    assert content.startswith(b"DKIM-Signature:")
    assert b"TLS-Report-Domain: x.test\r\n" in content


@pytest.mark.rfc("8460-4.1-e", "8460-3-s", "8460-3-l")
async def test_without_sessions_or_without_a_record_there_is_no_report(world: World) -> None:
    world.publish("idle.test", "mailto:t@y.test")
    world.resolver.txt_answers["_smtp._tls.bad.test"] = found_txt(b"v=TLSRPTv1;rua=http://r.test/")
    for domain in ("bare.test", "bad.test"):
        await world.count(domain)
    await world.look(MIDNIGHT + HOUR)
    assert await world.mails() == []
    world.publish("bare.test", "mailto:late@y.test")
    await world.look(MIDNIGHT + 2 * HOUR)
    assert await world.mails() == []


async def test_a_record_that_cannot_be_asked_for_is_asked_for_again(world: World) -> None:
    world.resolver.txt_answers["_smtp._tls.x.test"] = SERVFAIL
    await world.count()
    await world.look(MIDNIGHT + HOUR)
    world.publish("x.test", "mailto:t@y.test")
    await world.look(MIDNIGHT + 2 * HOUR)
    assert await world.mails() == ["t@y.test"]


@pytest.mark.rfc("8460-4.1-c")
async def test_a_relay_that_was_down_at_midnight_reports_when_it_is_back_and_no_older_day(world: World) -> None:
    world.publish("x.test", "https://r.test/")
    await world.count(day=DAY - timedelta(days=1))
    await world.count()
    await world.look(MIDNIGHT + 20 * HOUR)
    assert [json.loads(gzip.decompress(body))["date-range"]["start-datetime"] for _, body in world.poster.got] == [
        "2026-11-21T00:00:00Z"
    ]


@pytest.mark.rfc("8460-5.5-a")
async def test_a_relay_that_was_down_for_longer_sends_nothing_that_is_stale(world: World) -> None:
    world.publish("x.test", "https://r.test/,mailto:t@y.test")
    await world.count()
    world.clock.set(MIDNIGHT + HOUR)
    await world.sender.plan_yesterday(world.means)
    (mail,) = [one for one in await world.store.due(world.clock.now(), 10) if one.number]
    await world.store.start(mail)
    world.clock.set(MIDNIGHT + 25 * HOUR)
    await look_once(world)
    assert (await world.mails(), world.poster.got, world.metric("dropped")) == ([], [], 2)


@pytest.mark.rfc("8460-5.5-a", "8460-5.4-c", "8460-5.3-i")
async def test_a_failing_endpoint_is_tried_at_growing_gaps_for_a_day_with_one_report_id(world: World) -> None:
    world.publish("x.test", "https://r.test/")
    world.poster.answers = [Posted.FAILED] * 100
    await world.count()
    times: list[datetime] = []
    for minutes in range(60, 30 * 60, 5):
        before = len(world.poster.got)
        await world.look(MIDNIGHT + timedelta(minutes=minutes))
        times += [world.clock.now()] * (len(world.poster.got) - before)
    gaps = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert gaps == sorted(gaps)
    assert gaps[0] < HOUR
    assert (world.metric("deferred"), world.metric("dropped")) == (len(times) - 1, 1)
    assert 5 < len(times) < 15
    assert times[-1] - times[0] < 24 * HOUR
    ids = {json.loads(gzip.decompress(body))["report-id"] for _, body in world.poster.got}
    assert len(ids) == 1


@pytest.mark.rfc("8460-5.4-c", "8460-3-an")
async def test_an_endpoint_that_refuses_is_not_asked_again_and_the_other_gets_it(world: World) -> None:
    world.publish("x.test", "https://a.test/,https://b.test/")
    world.poster.answers = [Posted.REFUSED, Posted.FAILED, Posted.ACCEPTED]
    await world.count()
    for hours in range(1, 12):
        await world.look(MIDNIGHT + hours * HOUR)
    assert [url for url, _ in world.poster.got] == ["https://a.test/", "https://b.test/", "https://b.test/"]


class DyingStore(SqliteReportStore):
    """Its process dies just before it can write down what became of a delivery."""

    async def finish(self, delivery: ReportDelivery, *, accepted: bool) -> None:
        raise StoreDeadError("the process is gone")


async def die_while_sending(world: World) -> None:
    await world.close()
    await world.open(DyingStore)
    with pytest.raises(StoreDeadError):
        await world.look(MIDNIGHT + HOUR)
    await world.close()
    await world.open()


async def test_a_crash_between_queueing_and_marking_makes_no_second_mail(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test")
    await world.count()
    await die_while_sending(world)
    (before,) = await world.queue.list(ALL, 10)
    await world.sender.resume(world.means)
    (after,) = await world.queue.list(ALL, 10)
    assert after.message.queue_id == before.message.queue_id
    assert await world.store.in_flight(10) == []
    assert await world.store.due(MIDNIGHT + 48 * HOUR, 10) == []


async def test_a_crash_before_queueing_loses_no_mail(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test")
    await world.count()
    world.clock.set(MIDNIGHT + HOUR)
    await world.sender.plan_yesterday(world.means)
    (delivery,) = await world.store.due(world.clock.now(), 10)
    await world.store.start(delivery)
    await world.close()
    await world.open()
    await world.sender.resume(world.means)
    assert await world.mails() == ["t@y.test"]


async def test_a_post_that_may_have_been_made_is_not_made_again(world: World, caplog: pytest.LogCaptureFixture) -> None:
    world.publish("x.test", "https://r.test/")
    await world.count()
    await die_while_sending(world)
    assert len(world.poster.got) == 1
    await world.sender.resume(world.means)
    await world.look(MIDNIGHT + 5 * HOUR)
    assert len(world.poster.got) == 1
    assert "report.dropped" in [record.message for record in caplog.records]


async def test_what_could_not_be_written_down_is_taken_up_at_the_next_look(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test,https://r.test/")
    await world.count()
    world.clock.set(MIDNIGHT + HOUR)
    await world.sender.plan_yesterday(world.means)
    for delivery in await world.store.due(world.clock.now(), 10):
        await world.store.start(delivery)
    await look_once(world)
    assert (await world.mails(), world.poster.got) == (["t@y.test"], [])
    assert await world.store.in_flight(10) == []


async def look_once(world: World) -> None:
    """Let `run` do one round."""
    before = world.clock.sleepers
    running = asyncio.create_task(world.sender.run())
    async with asyncio.timeout(10):
        while world.clock.sleepers == before:  # noqa: ASYNC110  the fake clock announces nothing
            await asyncio.sleep(0)
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)


class Hanging(FakePoster):
    """One endpoint never answers; the others do."""

    async def post(self, url: str, body: bytes) -> tuple[Posted, str]:
        if "hangs" in url:
            await asyncio.Event().wait()
        return await super().post(url, body)


async def test_an_endpoint_that_hangs_keeps_no_other_report_waiting(world: World) -> None:
    world.poster = Hanging()
    for name in ("a-hangs", "b", "c"):
        world.publish(f"{name}.test", f"https://{name}.test/")
        await world.count(f"{name}.test")
    looking = asyncio.create_task(world.look(MIDNIGHT + HOUR))
    async with asyncio.timeout(10):
        while len(world.poster.got) < 2:  # noqa: ASYNC110
            await asyncio.sleep(0)
    looking.cancel()
    await asyncio.gather(looking, return_exceptions=True)
    assert sorted(url for url, _ in world.poster.got) == ["https://b.test/", "https://c.test/"]


class BrokenSigner(FakeSigner):
    def sign(self, message: bytes, fields: Sequence[str]) -> bytes:
        if b"TLS-Report-Domain: bad.test" in message:
            raise ZeroDivisionError("a bug")
        return super().sign(message, fields)


async def test_a_fault_in_one_report_keeps_back_no_other_and_takes_nothing_down(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    world.signer = BrokenSigner()
    world.sender.use(world.means)
    for domain in ("bad.test", "good.test"):
        world.publish(domain, f"mailto:t@{domain}")
        await world.count(domain)
    world.clock.set(MIDNIGHT + HOUR)
    await look_once(world)
    assert await world.mails() == ["t@good.test"]
    assert world.metric("dropped") == 1
    assert {"report.crashed", "report.dropped"} <= set(caplog.messages)


class BrokenResolver(FakeResolver):
    async def txt(self, name: str, *, fresh: bool = False) -> Answer[bytes]:
        raise ZeroDivisionError("a bug")


async def test_a_fault_in_planning_takes_nothing_down(world: World, caplog: pytest.LogCaptureFixture) -> None:
    await world.count()
    world.resolver = BrokenResolver()
    world.sender.use(world.means)
    world.clock.set(MIDNIGHT + HOUR)
    await look_once(world)
    assert "report.crashed" in caplog.messages


@pytest.mark.rfc("8460-8-a")
async def test_without_means_nothing_is_planned_until_there_are_some(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test")
    await world.count()
    world.clock.set(MIDNIGHT + HOUR)
    world.sender.use(None)
    await look_once(world)
    assert not await world.store.is_planned(DAY, "x.test")
    world.sender.use(world.means)
    await look_once(world)
    assert await world.mails() == ["t@y.test"]


@pytest.mark.rfc("8460-8-a")
@pytest.mark.parametrize(
    ("patterns", "domain", "told"),
    [
        (("x.test",), "x.test", False),
        (("*.test",), "x.test", False),
        (("*.x.test",), "x.test", True),
        (("x.test",), "a.x.test", True),
        (("x.test",), "yx.test", True),
    ],
)
async def test_domains_that_the_operator_leaves_out_get_no_report(
    world: World, patterns: tuple[str, ...], domain: str, told: bool
) -> None:
    world.publish(domain, "mailto:t@y.test")
    await world.count(domain)
    world.sender.use(replace(world.means, no_reports_to=patterns))
    world.clock.set(MIDNIGHT + HOUR)
    await look_once(world)
    assert await world.mails() == (["t@y.test"] if told else [])


@pytest.mark.rfc("8460-4.2-h")
async def test_of_two_senders_one_sends(world: World) -> None:
    other = World(world.path)
    other.queue, other.resolver, other.poster = world.queue, world.resolver, world.poster
    await other.open()
    world.publish("x.test", "https://r.test/")
    await world.count()
    for one in (world, other):
        await one.look(MIDNIGHT + HOUR)
    assert len(world.poster.got) == 1
    await other.close()


@pytest.mark.rfc("8460-7-a")
async def test_a_thousand_domains_that_name_one_endpoint_make_no_flood(world: World) -> None:
    for number in range(100):
        world.publish(f"d{number}.test", "https://victim.test/")
        await world.count(f"d{number}.test")
    await world.look(MIDNIGHT + HOUR)
    assert len(world.poster.got) == 20


async def test_a_queue_that_fails_is_tried_again(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test")
    await world.count()
    await world.queue.close()
    await world.look(MIDNIGHT + HOUR)
    assert await world.store.in_flight(10) == []
    assert len(await world.store.due(MIDNIGHT + 2 * HOUR, 10)) == 1


class BrokenCounts:
    """The files can be listed, but not read."""

    async def domains(self, day: date, after: str, limit: int) -> Sequence[str]:
        return ["x.test"] if not after else []

    async def results(self, day: date, domain: str) -> Sequence[TlsResult]:
        raise StoreError("the file is damaged")


async def test_counts_that_cannot_be_read_lose_no_report(world: World) -> None:
    world.publish("x.test", "mailto:t@y.test,https://r.test/")
    await world.count()
    good, world.sender._counts = world.sender._counts, BrokenCounts()
    await world.look(MIDNIGHT + HOUR)
    assert (await world.store.in_flight(10), world.metric("deferred")) == ([], 2)
    world.sender._counts = good
    await world.look(MIDNIGHT + 2 * HOUR)
    assert (await world.mails(), len(world.poster.got)) == (["t@y.test"], 1)


async def test_running_looks_once_a_minute_until_cancelled(world: World) -> None:
    world.publish("x.test", "https://r.test/")
    await world.count()
    world.clock.set(MIDNIGHT + HOUR)
    running = asyncio.create_task(world.sender.run())
    async with asyncio.timeout(10):
        await world.poster.called.wait()
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
