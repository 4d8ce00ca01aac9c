"""Dispatcher, worker, pool, policies and the SQLite queue together, against hosts on loopback."""

import asyncio
import random
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from policy_fakes import MemoryPolicyStore
from prometheus_client import CollectorRegistry

from policy.fetch import HttpsPolicyFetcher
from policy.lookup import PolicyService
from policy.nameservers import NameServer
from policy.resolver import DnsResolver
from policy.tls import TlsContexts
from relay.delivery.client import Connector
from relay.delivery.dispatcher import Dispatcher, DispatchSettings
from relay.delivery.notices import NoticeWriter
from relay.delivery.pool import ConnectionPool
from relay.delivery.route import Router, RouteSettings
from relay.delivery.routing_table import NextHop
from relay.delivery.slot_table import SlotSettings
from relay.delivery.slots import Slots
from relay.delivery.tally import Tally
from relay.delivery.timeouts import Timeouts
from relay.delivery.worker import DeliveryWorker
from relay.lab.ca import CertificateKind
from relay.lab.gate import Gate
from relay.lab.internet import Lab
from relay.lab.mx_behaviour import HANG, Answer, MxBehaviour, greylist, limit_recipients
from relay.lab.mx_behaviour import Phase as MxPhase
from relay.lab.policy_host import PolicySite
from relay.metrics import Metrics
from relay.queue.message import Envelope, Message, NewMessage, NewRecipient, State
from relay.queue.schedule import ScheduleSettings
from relay.reports.ndr import NoticeSettings
from relay.store.protocols import QueueEntry
from relay.store.sqlite.queue import SqliteQueueStore

SHORT = timedelta(seconds=0.2)
BOUNDS = DispatchSettings()


class WallClock:
    def now(self) -> datetime:
        return datetime.now(UTC)

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@dataclass
class Rig:
    lab: Lab
    store: SqliteQueueStore
    router: Router
    dispatcher: Dispatcher
    slots: Slots
    ids: int = 0

    async def send(self, *paths: str, content: bytes = b"Subject: hi\r\n\r\nhi\r\n", handed_over: bool = True) -> str:
        """Do with a message what ingress does; return its queue id."""
        self.ids += 1
        recipients = tuple(NewRecipient(forward_path=path, destination=path.rpartition("@")[2]) for path in paths)
        lease = self.dispatcher.lease_for({one.destination for one in recipients}) if handed_over else frozenset()
        message = NewMessage(
            queue_id=f"q{self.ids}",
            envelope=Envelope(reverse_path="alice@contoso.test"),
            recipients=recipients,
            content=content,
        )
        self.dispatcher.accept(await self.store.enqueue(message, lease))
        return f"q{self.ids}"

    async def entry(self, queue_id: str) -> QueueEntry:
        return (await self.store.show(queue_id))[0]

    async def until(self, queue_id: str, condition: Callable[[QueueEntry], bool], seconds: float = 10) -> QueueEntry:
        """Wait until the queue says so of a message."""
        async with asyncio.timeout(seconds):
            while not condition(entry := await self.entry(queue_id)):  # noqa: ASYNC110  the file is what is asked
                await asyncio.sleep(0.01)
        return entry


@asynccontextmanager
async def rig_around(
    lab: Lab,
    directory: Path,
    *,
    ndr_route: tuple[NextHop, ...] = (),
    retry: timedelta = SHORT,
    dispatch: DispatchSettings = BOUNDS,
) -> AsyncIterator[Rig]:
    clock, metrics = WallClock(), Metrics(CollectorRegistry())
    timer = asyncio.get_running_loop().time
    address, _, port = lab.nameserver.rpartition(":")
    resolver = DnsResolver(nameservers=[NameServer(address=address, port=int(port))], timer=timer)
    fetcher = HttpsPolicyFetcher(
        resolver=resolver, ca_file=str(lab.ca_file), policy_port=lab.policy_port, allow_private_addresses=True
    )
    policies = PolicyService(resolver=resolver, fetcher=fetcher, store=MemoryPolicyStore(), clock=clock)
    route = RouteSettings(smtp_port=lab.smtp_port, allow_private_addresses=True, ndr_route=ndr_route)
    connector = Connector(
        hostname="relay.example.com",
        contexts=TlsContexts(ca_file=str(lab.ca_file)),
        timeouts=Timeouts(),
        clock=clock,
    )
    slots, tally = Slots(settings=SlotSettings(), timer=timer, line_seconds=2.0), Tally(metrics)
    pool = ConnectionPool(connector=connector, slots=slots, clock=clock, metrics=metrics, timeouts=Timeouts())
    store = await SqliteQueueStore.open(directory / "queue-0.db", clock=clock, incarnation="test", node="test")
    ids = iter(range(1_000_000))
    notices = NoticeWriter(
        store=store,
        settings=NoticeSettings(hostname="relay.example.com", postmaster="postmaster@example.com"),
        new_id=lambda: f"n{next(ids)}",
    )
    router = Router(
        resolver=resolver, policies=policies, settings=route, draw=random.random, timer=timer, now=clock.now
    )
    worker = DeliveryWorker(
        store=store,
        router=router,
        transport=pool,
        slots=slots,
        notices=notices,
        clock=clock,
        tally=tally,
        schedule=ScheduleSettings(retry=(retry,)),
        spread=lambda: 0.0,
    )
    dispatcher = Dispatcher(
        store=store,
        worker=worker,
        slots=slots,
        clock=clock,
        metrics=metrics,
        tally=tally,
        settings=dispatch,
    )
    task = asyncio.create_task(dispatcher.run())
    await asyncio.sleep(0)
    try:
        yield Rig(lab, store, router, dispatcher, slots)
    finally:
        await dispatcher.stop(timedelta(seconds=2))
        await task
        await pool.close()
        await fetcher.aclose()
        await store.close()


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    async with Lab() as running:
        yield running


@pytest.fixture
async def rig(lab: Lab, tmp_path: Path) -> AsyncIterator[Rig]:
    async with rig_around(lab, tmp_path) as running:
        yield running


async def until(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something holds in the lab."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  any condition, not only one that somebody announces
            await asyncio.sleep(0.01)


def is_final(entry: QueueEntry) -> bool:
    return entry.state in (State.DELIVERED, State.FAILED)


@pytest.mark.rfc("8461-5.1-c", "8461-4-a")
async def test_enforced_mail_goes_to_the_host_that_verifies(rig: Rig) -> None:
    await rig.lab.domain(
        "shop.test",
        mx=[("mx1.shop.test", 10, MxBehaviour(certificate=CertificateKind.EXPIRED)), ("mx2.shop.test", 20, None)],
        policy=PolicySite(mode="enforce", mx=["*.shop.test"], id="7"),
    )
    entry = await rig.until(await rig.send("bob@shop.test"), is_final)
    (message,) = await rig.lab.hosts["mx2.shop.test"].wait_for_messages(1)
    assert message.session.tls_version is not None
    assert rig.lab.hosts["mx1.shop.test"].messages == []
    attempt = entry.attempts_made[0]
    assert attempt.policy is not None
    assert (attempt.policy.mode, attempt.policy.record_id) == ("enforce", "7")
    assert attempt.outcomes[0].security is not None
    assert attempt.outcomes[0].security.value == "sts"
    assert [host.failure.kind.value if host.failure else "" for host in attempt.hosts] == ["certificate", ""]


@pytest.mark.rfc("8461-5-h", "8461-5-i", "8461-10.3-a")
async def test_refused_mail_waits_until_the_policy_changes(rig: Rig) -> None:
    shop = await rig.lab.domain(
        "shop.test",
        mx=[("mx.shop.test", 10, None)],
        policy=PolicySite(mode="enforce", mx=["other.test"], id="1"),
    )
    queue_id = await rig.send("bob@shop.test")
    entry = await rig.until(queue_id, lambda entry: len(entry.attempts_made) >= 2)
    assert entry.recipients[0].status == "4.4.8"
    assert all(attempt.record_checked for attempt in entry.attempts_made)
    assert rig.lab.hosts["mx.shop.test"].most_connections == 0
    shop.publish(PolicySite(mode="enforce", mx=["mx.shop.test"], id="2"))
    assert (await rig.until(queue_id, is_final)).state is State.DELIVERED


async def test_greylisted_mail_is_delivered_on_retry(rig: Rig) -> None:
    await rig.lab.domain("grey.test", mx=[("mx.grey.test", 10, MxBehaviour(replies={MxPhase.RCPT: greylist()}))])
    entry = await rig.until(await rig.send("bob@grey.test"), is_final)
    assert (entry.state, entry.attempts) == (State.DELIVERED, 2)


@pytest.mark.rfc("5321-4.5.3.1.10-a")
async def test_many_recipients_go_in_several_transactions_of_one_session(rig: Rig) -> None:
    behaviour = MxBehaviour(replies={MxPhase.RCPT: limit_recipients(10)})
    await rig.lab.domain("many.test", mx=[("mx.many.test", 10, behaviour)])
    entry = await rig.until(await rig.send(*(f"r{n}@many.test" for n in range(25))), is_final)
    assert (entry.state, entry.attempts) == (State.DELIVERED, 1)
    messages = await rig.lab.hosts["mx.many.test"].wait_for_messages(3)
    assert [len(message.recipients) for message in messages] == [10, 10, 5]
    assert len({id(message.session) for message in messages}) == 1


async def test_messages_to_one_domain_share_connections(rig: Rig) -> None:
    await rig.lab.domain("busy.test", mx=[("mx.busy.test", 10, None)])
    for n in range(60):
        await rig.send(f"r{n}@busy.test", handed_over=n % 2 == 0)
    messages = await rig.lab.hosts["mx.busy.test"].wait_for_messages(60)
    assert len({id(message.session) for message in messages}) <= 20
    assert len({message.recipients[0].forward_path for message in messages}) == 60


async def test_large_content_is_streamed_from_the_store(rig: Rig) -> None:
    await rig.lab.domain("big.test", mx=[("mx.big.test", 10, None)])
    content = b"Subject: big\r\n\r\n" + b"".join(b".%d\r\n" % n for n in range(150_000))
    await rig.send("bob@big.test", content=content, handed_over=False)
    (message,) = await rig.lab.hosts["mx.big.test"].wait_for_messages(1)
    assert message.content == content


async def test_a_550_comes_back_as_an_ndr_by_the_fixed_route(lab: Lab, tmp_path: Path) -> None:
    await lab.domain(
        "shop.test", mx=[("mx.shop.test", 10, MxBehaviour(replies={MxPhase.RCPT: "550 5.1.1 No such user"}))]
    )
    legacy = await lab.host("legacy.contoso.test")
    route = (NextHop(host="legacy.contoso.test", port=lab.smtp_port),)
    async with rig_around(lab, tmp_path, ndr_route=route) as rig:
        entry = await rig.until(await rig.send("bob@shop.test"), is_final)
        assert entry.state is State.FAILED
        (ndr,) = await legacy.wait_for_messages(1)
    assert ndr.reverse_path == ""
    assert b"550 5.1.1 No such user" in ndr.content


async def test_stop_waits_for_the_reply_to_the_final_dot(lab: Lab, tmp_path: Path) -> None:
    gate = Gate()
    await lab.domain(
        "slow.test", mx=[("mx.slow.test", 10, MxBehaviour(replies={MxPhase.END_OF_DATA: Answer(gate=gate)}))]
    )
    await lab.domain("early.test", mx=[("mx.early.test", 10, MxBehaviour(replies={MxPhase.RCPT: HANG}))])
    async with rig_around(lab, tmp_path) as rig:
        late, early = await rig.send("bob@slow.test"), await rig.send("bob@early.test")
        await gate.arrivals.wait_for(1)
        early_host = lab.hosts["mx.early.test"]
        await until(lambda: any("RCPT" in session.verbs() for session in early_host.sessions))
        stopping = asyncio.create_task(rig.dispatcher.stop(timedelta(seconds=10)))
        await rig.until(early, lambda entry: entry.state is State.QUEUED)
        assert not stopping.done()
        gate.open()
        await stopping
        assert (await rig.entry(late)).state is State.DELIVERED
        assert (await rig.entry(early)).attempts == 0


async def test_five_hundred_tarpits_do_not_hold_up_ten_good_domains(tmp_path: Path) -> None:
    assert await seconds_beside_tarpits(tmp_path, 500, known=True) < 5


async def test_domains_never_seen_pass_the_tarpits_in_turn(tmp_path: Path) -> None:
    """A host has two seconds, and in each turn of the line who came last is served beside who came first."""
    assert await seconds_beside_tarpits(tmp_path, 300, known=False) < 8


async def seconds_beside_tarpits(directory: Path, tarpits: int, *, known: bool) -> float:
    """Send to hosts that never greet, then to ten that are good; return how long these took to get their mail."""
    good = [f"good{n}.test" for n in range(10)]
    async with Lab(ttl=3600) as lab:
        tarpit = await lab.host("tarpit.test", MxBehaviour(replies={MxPhase.BANNER: HANG}))
        for n in range(tarpits):
            lab.dns.a(f"mx.hang{n}.test", tarpit.address)
            lab.dns.mx(f"hang{n}.test", (10, f"mx.hang{n}.test"))
        for name in good:
            await lab.domain(name, mx=[(f"mx.{name}", 10, None)], policy=PolicySite(mx=[f"mx.{name}"]))
        async with rig_around(lab, directory, retry=timedelta(minutes=5)) as rig:
            # The lab's name server is slower than all the rest; what is shown here is that slots are shared fairly.
            message = Message(queue_id="", accepted_at=WallClock().now(), envelope=Envelope(reverse_path=""), size=0)
            await asyncio.gather(*(rig.router.route(message, f"hang{n}.test") for n in range(tarpits)))
            if known:
                for name in good:
                    await rig.until(await rig.send(f"before@{name}"), is_final)
            await asyncio.gather(*(rig.send(f"bob@hang{n}.test") for n in range(tarpits)))
            await until(lambda: tarpit.connections >= 40, seconds=60)
            started = asyncio.get_running_loop().time()
            await asyncio.gather(*(rig.send(f"bob@{name}") for name in good))
            for name in good:
                await lab.hosts[f"mx.{name}"].wait_for_messages(2 if known else 1, timeout=30)
            assert tarpit.most_connections < 120, "a quarter of 200, and those that are just being closed"
            return asyncio.get_running_loop().time() - started


_LARGE = 100_000


def _large(number: int) -> bytes:
    return b"Subject: %d\r\n\r\n" % number + (b"%070d\r\n" % number) * (_LARGE // 72 + 1)


def _contents_in_memory() -> int:
    """How many of the messages that `_large` made are still there."""
    traces = tracemalloc.take_snapshot().traces
    return sum(trace.size >= _LARGE and trace.traceback[0].filename == __file__ for trace in traces)


async def test_content_beyond_the_memory_budget_comes_back_from_the_disk_and_none_is_kept(
    lab: Lab, tmp_path: Path
) -> None:
    gate = Gate()
    slow = MxBehaviour(replies={MxPhase.MAIL: Answer(gate=gate)})
    await lab.domain("shop.test", mx=[("mx.shop.test", 10, slow)])
    async with rig_around(lab, tmp_path, dispatch=DispatchSettings(memory_budget=3 * _LARGE)) as rig:
        tracemalloc.start()
        try:
            sent = [await rig.send("bob@shop.test", content=_large(number)) for number in range(8)]
            await gate.arrivals.wait_for(1)
            assert _contents_in_memory() == 3
            gate.open()
            for queue_id in sent:
                await rig.until(queue_id, is_final)
            assert _contents_in_memory() == 0
        finally:
            tracemalloc.stop()
        messages = await lab.hosts["mx.shop.test"].wait_for_messages(8)
        assert {message.content for message in messages} == {_large(number) for number in range(8)}
