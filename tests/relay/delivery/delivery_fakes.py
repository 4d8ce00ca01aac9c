"""A Transport made of hosts that do as they are told, and a small world around the worker."""

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from datetime import timedelta
from ipaddress import ip_address

from policy_fakes import HOUR, FakeFetcher, FakeResolver, ManualClock, MemoryPolicyStore, sts_record
from prometheus_client import CollectorRegistry, generate_latest
from queue_fakes import MemoryQueueStore

from policy.answers import Answer, Found, MxRecord
from policy.decide import Enforcement
from policy.lookup import PolicyService
from policy.names import IPAddress
from policy.requirement import Level, MxMatch, ResultType
from policy.tls_facts import TlsFailure, TlsSession
from relay.delivery.dispatcher import Dispatcher, DispatchSettings
from relay.delivery.negotiation import Countable
from relay.delivery.notices import NoticeWriter
from relay.delivery.route import Policies, Router, RouteSettings
from relay.delivery.routing_table import Judgement, NextHop, StaticRoute
from relay.delivery.seam import HostError, Parcel, SendResult, SessionFacts, Target
from relay.delivery.slot_table import SlotSettings
from relay.delivery.slots import GaveWayError, Slot, Slots
from relay.delivery.tally import Tally
from relay.delivery.worker import DeliveryWorker
from relay.metrics import Metrics
from relay.queue.attempt import FailureKind, HostFailure, Phase, Security
from relay.queue.message import Envelope, Job, NewMessage, NewRecipient, Notify, Origin, Ret
from relay.queue.schedule import ScheduleSettings
from relay.reports.ndr import NoticeSettings
from relay.status import Reply
from relay.store.protocols import QueueEntry, Settlement, StoreError

OK = Reply(250, ("2.0.0 queued",))
SESSION = TlsSession(version="TLSv1.3", cipher="TLS_AES_256_GCM_SHA384", server_name="", verified=False)

_TLS_KINDS = {
    FailureKind.STARTTLS_MISSING: (ResultType.STARTTLS_NOT_SUPPORTED, Phase.EHLO),
    FailureKind.STARTTLS_REFUSED: (ResultType.STARTTLS_NOT_SUPPORTED, Phase.STARTTLS),
    FailureKind.HANDSHAKE: (ResultType.VALIDATION_FAILURE, Phase.HANDSHAKE),
    FailureKind.CERTIFICATE: (ResultType.CERTIFICATE_EXPIRED, Phase.HANDSHAKE),
}


@dataclass
class FakeHost:
    """A mail host. `tls` is what is wrong with its TLS, `down` why it cannot be used at all.

    `replies` are its answers by forward-path, else OK; `per_transaction` is how many recipients it takes at once.
    `gate` holds every transaction until it is set, `connect_gate` every connection. A transaction lasts for `turns` of
    the loop. Of more than `most` connections at once, the others get 421, which `turned_away` counts. With `countable`
    it has one connection, for ever.
    """

    tls: FailureKind | None = None
    down: HostFailure | None = None
    down_at: Phase = Phase.CONNECT
    replies: dict[str, Reply] = field(default_factory=dict)
    results: list[SendResult | Exception] = field(default_factory=list)
    per_transaction: int = 100
    gate: asyncio.Event | None = None
    connect_gate: asyncio.Event | None = None
    committing: bool = False
    dsn: bool = False
    turns: int = 0
    most: int | None = None
    open_now: int = 0
    turned_away: int = 0
    countable: Countable | None = None


class FakeSession:
    def __init__(self, transport: "FakeTransport", target: Target, host: FakeHost, facts: SessionFacts) -> None:
        self._transport = transport
        self._target = target
        self._host = host
        self.facts = facts
        self.committing = False

    async def send(self, parcel: Parcel) -> SendResult:
        self._transport.sent.append((self._target, parcel))
        for _ in range(self._host.turns):
            await asyncio.sleep(0)
        if callable(parcel.content):
            async for _ in parcel.content():
                pass
        if self._host.gate is not None:
            self.committing = self._host.committing
            self._transport.started.set()
            await self._host.gate.wait()
            self.committing = False
        if self._host.results:
            result = self._host.results.pop(0)
            if isinstance(result, Exception):
                raise result
            return result
        now, later = parcel.recipients[: self._host.per_transaction], parcel.recipients[self._host.per_transaction :]
        return SendResult(
            replies={one.id: self._host.replies.get(one.forward_path, OK) for one in now},
            phase=Phase.END_OF_DATA,
            postponed=tuple(one.id for one in later),
            dsn=self._host.dsn,
        )


class FakeTransport:
    """Keeps to requirement and slots as the real one does: `contacted` and `sent` tell what went where."""

    def __init__(self, slots: Slots) -> None:
        self._slots = slots
        self.hosts: dict[str, FakeHost] = defaultdict(FakeHost)
        self.contacted: list[Target] = []
        self.sent: list[tuple[Target, Parcel]] = []
        self.started = asyncio.Event()
        self.open_now = 0
        self.most_open = 0

    @asynccontextmanager
    async def open(self, target: Target, *, destination: str, size: int) -> AsyncIterator[FakeSession]:
        assert size >= 0
        slot, session = await self._enter(target, destination)
        try:
            yield session
        finally:
            self._count(target, -1)
            self._slots.give_back(slot)

    async def _enter(self, target: Target, destination: str) -> tuple[Slot, FakeSession]:
        while True:
            slot = await self._slots.acquire(destination, target.mx_host)
            self._count(target, 1)
            try:
                return slot, await self._connect(target, slot)
            except BaseException as error:
                host_error = error if isinstance(error, HostError) else None
                if host_error is not None:
                    host_error.countable = self.hosts[target.mx_host].countable
                enough = host_error and self._slots.refused(slot, target.address, host_error.failure, host_error.phase)
                self._count(target, -1)
                self._slots.give_back(slot)
                if not enough:
                    raise

    async def _connect(self, target: Target, slot: Slot) -> FakeSession:
        self.contacted.append(target)
        host = self.hosts[target.mx_host]
        if host.most is not None and host.open_now > host.most:
            host.turned_away += 1
            reply = Reply(421, ("4.7.0 too many connections",))
            raise HostError(down(FailureKind.REPLY, str(reply), reply), Phase.GREETING)
        try:
            async with self._slots.in_good_time(slot):
                if host.connect_gate is not None:
                    self.started.set()
                    await host.connect_gate.wait()
                if host.down is not None:
                    raise HostError(host.down, host.down_at)
                facts = replace(_facts(target, host), countable=host.countable)
                session = FakeSession(self, target, host, facts)
                self._slots.opened(slot, target.address)
        except GaveWayError as error:
            raise HostError(down(FailureKind.TIMEOUT, str(error)), Phase.CONNECT) from error
        return session

    def _count(self, target: Target, count: int) -> None:
        self.open_now += count
        self.most_open = max(self.most_open, self.open_now)
        self.hosts[target.mx_host].open_now += count


def _facts(target: Target, host: FakeHost) -> SessionFacts:
    failure = _tls_failure(host.tls) if host.tls else None
    match target.requirement.level:
        case Level.VERIFIED:
            if host.tls is not None:
                detail = f"TLS: {host.tls.value}"
                raise HostError(HostFailure(kind=host.tls, detail=detail, tls=failure), _TLS_KINDS[host.tls][1])
            return SessionFacts(security=Security.STS, tls=SESSION)
        case Level.TESTING:
            if target.requirement.mx_match is MxMatch.NOT_MATCHED:
                failure = _tls_failure(FailureKind.HANDSHAKE)  # RFC 8461 App. B: the name is looked at first
            return SessionFacts(security=Security.OPPORTUNISTIC, tls=SESSION, testing_failure=failure)
        case _ if target.requirement.route is not None:
            if host.tls is not None:
                kind = FailureKind.ROUTE_CERTIFICATE if host.tls is FailureKind.CERTIFICATE else FailureKind.ROUTE_TLS
                raise HostError(HostFailure(kind=kind, detail="TLS", tls=failure), _TLS_KINDS[host.tls][1])
            security = Security.ROUTE if target.requirement.names else Security.OPPORTUNISTIC
            return SessionFacts(security=security, tls=SESSION)
        case _:
            plain = host.tls in (FailureKind.STARTTLS_MISSING, FailureKind.STARTTLS_REFUSED, FailureKind.HANDSHAKE)
            return SessionFacts(
                security=Security.PLAINTEXT if plain else Security.OPPORTUNISTIC, tls=None if plain else SESSION
            )


def _tls_failure(kind: FailureKind) -> TlsFailure:
    return TlsFailure(result_type=_TLS_KINDS[kind][0], reason="CertificateExpired", detail=kind.value)


def down(kind: FailureKind, detail: str = "down", reply: Reply | None = None) -> HostFailure:
    return HostFailure(kind=kind, detail=detail, reply=reply)


def found_mx(*hosts: tuple[int, str]) -> Found[MxRecord]:
    records = tuple(MxRecord(preference=preference, host=name) for preference, name in hosts)
    return Found(records=records, canonical_name="", ttl=HOUR)


def found_addresses(*addresses: str) -> Found[IPAddress]:
    return Found(records=tuple(ip_address(address) for address in addresses), canonical_name="", ttl=HOUR)


def policy_body(mode: str, *mx: str, max_age: int = 604800) -> bytes:
    lines = ["version: STSv1", f"mode: {mode}", *(f"mx: {one}" for one in mx), f"max_age: {max_age}"]
    return "".join(f"{line}\r\n" for line in lines).encode()


class DirectResolver(FakeResolver):
    """A host whose answer says nothing else is no alias."""

    async def addresses(self, host: str) -> Answer[IPAddress]:
        answer = await super().addresses(host)
        return replace(answer, canonical_name=answer.canonical_name or host) if isinstance(answer, Found) else answer


class RecordingStore(MemoryQueueStore):
    """Remembers settlements, and fails as many as it is told to."""

    def __init__(self, clock: ManualClock) -> None:
        super().__init__(clock)
        self.settlements: list[Settlement] = []
        self.fail_settles = 0
        self.fail_headers = 0
        self.settle_gate: asyncio.Event | None = None
        self.settling = asyncio.Event()
        self._lost: set[str] = set()

    def lose(self, queue_id: str) -> None:
        """Let the content be gone, as on a damaged disk."""
        self._lost.add(queue_id)

    async def content(self, queue_id: str) -> AsyncIterator[bytes]:
        if queue_id in self._lost:
            raise StoreError("the content is gone")
        async for piece in super().content(queue_id):
            yield piece

    async def headers(self, queue_id: str, max_bytes: int = 262_144) -> bytes:
        if self.fail_headers:
            self.fail_headers -= 1
            raise StoreError("disk on fire")
        return await super().headers(queue_id, max_bytes)

    async def settle(self, settlement: Settlement) -> None:
        self.settling.set()
        if self.settle_gate is not None:
            await self.settle_gate.wait()
        if self.fail_settles:
            self.fail_settles -= 1
            raise StoreError("disk on fire")
        await super().settle(settlement)
        self.settlements.append(settlement)


@dataclass
class World:
    """Everything around the worker but the network, with one recipient domain that works: example.test."""

    enforcement: Enforcement = Enforcement.ENFORCE
    ndr_route: tuple[NextHop, ...] = ()
    routes: tuple[StaticRoute, ...] = ()
    own_names: frozenset[str] = frozenset({"relay.example.com"})
    own_addresses: frozenset[IPAddress] = frozenset()
    allow_private_addresses: bool = False
    slots_settings: SlotSettings = field(default_factory=SlotSettings)
    dispatch: DispatchSettings = field(default_factory=DispatchSettings)
    line_seconds: float = 1.0
    schedule: ScheduleSettings = field(default_factory=ScheduleSettings)
    draw: Callable[[], float] = lambda: 0.0
    wrapped: Callable[[PolicyService], Policies] = lambda policies: policies
    counts_sessions: bool = False
    clock: ManualClock = field(default_factory=ManualClock)

    def __post_init__(self) -> None:
        self.resolver = DirectResolver()
        self.fetcher = FakeFetcher()
        self.policies = PolicyService(
            resolver=self.resolver, fetcher=self.fetcher, store=MemoryPolicyStore(), clock=self.clock
        )
        self.store = RecordingStore(self.clock)
        self.registry = CollectorRegistry()
        self.metrics = Metrics(self.registry)
        self.tally = Tally(self.metrics)
        self.slots = Slots(settings=self.slots_settings, timer=self.clock.seconds, line_seconds=self.line_seconds)
        self.transport = FakeTransport(self.slots)
        self.router = Router(
            resolver=self.resolver,
            policies=self.wrapped(self.policies),
            settings=RouteSettings(
                judgement=Judgement(enforcement=self.enforcement),
                ndr_route=self.ndr_route,
                routes=self.routes,
                own_names=self.own_names,
                own_addresses=self.own_addresses,
                allow_private_addresses=self.allow_private_addresses,
            ),
            draw=self.draw,
            timer=self.clock.seconds,
            now=self.clock.now,
        )
        self._ids = 0
        self.notices = NoticeWriter(
            store=self.store,
            settings=NoticeSettings(hostname="relay.example.com", postmaster="postmaster@example.com"),
            new_id=self.new_id,
        )
        self.worker = DeliveryWorker(
            store=self.store,
            router=self.router,
            transport=self.transport,
            slots=self.slots,
            notices=self.notices,
            clock=self.clock,
            tally=self.tally,
            schedule=self.schedule,
            spread=lambda: 0.0,
            counts_sessions=self.counts_sessions,
        )
        self.dispatcher = Dispatcher(
            store=self.store,
            worker=self.worker,
            slots=self.slots,
            clock=self.clock,
            metrics=self.metrics,
            tally=self.tally,
            settings=self.dispatch,
        )
        self.domain("example.test", "mx.example.test")

    def new_id(self) -> str:
        self._ids += 1
        return f"q{self._ids}"

    def domain(self, name: str, *mx: str) -> None:
        """Publish MX hosts at 10, 20, …, each with one public address of its own."""
        self.resolver.mx_answers[name] = found_mx(*((10 * (n + 1), host) for n, host in enumerate(mx)))
        for host in mx:
            number = len(self.resolver.address_answers)
            self.addresses(host, found_addresses(f"198.41.{number // 200}.{number % 200 + 1}"))

    def addresses(self, host: str, answer: Answer[IPAddress]) -> None:
        self.resolver.address_answers[host] = answer

    def publish(self, domain: str, record_id: str, mode: str, *mx: str) -> None:
        """Publish a policy: record and file."""
        self.resolver.publish(domain, sts_record(record_id))
        self.fetcher.bodies[domain] = policy_body(mode, *mx)

    async def enqueue(
        self,
        *paths: str,
        reverse_path: str = "alice@contoso.test",
        origin: Origin = Origin.CLIENT,
        content: bytes = b"Subject: hello\r\n\r\nhello\r\n",
        notify: frozenset[Notify] | None = None,
        ret: Ret | None = None,
        lease: frozenset[str] = frozenset(),
    ) -> Sequence[Job]:
        return await self.store.enqueue(
            NewMessage(
                queue_id=self.new_id(),
                envelope=Envelope(reverse_path=reverse_path, ret=ret),
                recipients=tuple(
                    NewRecipient(forward_path=path, destination=path.rpartition("@")[2], notify=notify)
                    for path in paths or ("bob@example.test",)
                ),
                content=content,
                origin=origin,
            ),
            lease,
        )

    async def job(self, *paths: str, reverse_path: str = "alice@contoso.test", origin: Origin = Origin.CLIENT) -> Job:
        """Enqueue a message to one domain and claim its job."""
        paths = paths or ("bob@example.test",)
        await self.enqueue(*paths, reverse_path=reverse_path, origin=origin)
        return await self.claim(paths[0].rpartition("@")[2])

    async def claim(self, destination: str = "example.test") -> Job:
        (job,) = await self.store.claim(destination, 1)
        return job

    async def attempt(self, *paths: str, reverse_path: str = "alice@contoso.test") -> QueueEntry:
        """Enqueue, attempt once, and return what the queue says then."""
        job = await self.job(*paths, reverse_path=reverse_path)
        await self.worker.attempt(job)
        return await self.entry(job)

    async def again(self, destination: str = "example.test", after: timedelta = timedelta(days=6)) -> QueueEntry:
        """Let time pass, attempt the oldest job once more."""
        self.clock.move(after)
        job = await self.claim(destination)
        await self.worker.attempt(job)
        return await self.entry(job)

    async def entry(self, job: Job) -> QueueEntry:
        return next(entry for entry in await self.store.show(job.message.queue_id) if entry.job_id == job.id)

    async def notices_to(self, domain: str = "contoso.test") -> list[bytes]:
        """The notices that were queued for the senders at a domain."""
        jobs = await self.store.claim(domain, 100)
        return [b"".join([piece async for piece in self.store.content(job.message.queue_id)]) for job in jobs]

    def hosts_contacted(self) -> list[str]:
        return [target.mx_host for target in self.transport.contacted]

    def exposition(self) -> list[str]:
        return generate_latest(self.registry).decode().splitlines()

    def metric(self, name: str, **labels: str) -> float:
        return self.registry.get_sample_value(f"mta_sts_relay_{name}", labels) or 0.0


async def until(condition: Callable[[], bool], seconds: float = 5.0) -> None:
    """Wait until something holds; other tasks run meanwhile."""
    async with asyncio.timeout(seconds):
        while not condition():  # noqa: ASYNC110  any condition, not only one that somebody announces
            await asyncio.sleep(0)
