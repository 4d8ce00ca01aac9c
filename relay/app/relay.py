"""The running relay: everything built, started in order, reloaded, and stopped in order."""

import asyncio
import random
import secrets
import time
from collections.abc import AsyncIterator, Coroutine, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from datetime import timedelta
from typing import Any

from policy.refresh import PolicyRefresher
from relay import events, process_events
from relay.admin.endpoints import always, endpoints
from relay.admin.server import AdminServer
from relay.app import plain
from relay.app.clock import SystemClock
from relay.app.dane_probe import watch_dnssec
from relay.app.discovery_failures import DiscoveryFailures
from relay.app.health import Health
from relay.app.ndr_route import bad_ndr_routes
from relay.app.operating import new_incarnation
from relay.app.outbound import Outbound, build_outbound
from relay.app.part import Part
from relay.app.reload import need_restart
from relay.app.report_means import open_report_store, report_means
from relay.app.reporting import Randomness, ReportSender
from relay.app.session_counts import SessionCountsOnDisk
from relay.app.state_dir import NODE, POLICY_FILE, REPORT_FILE, StateDirError, queue_file, queue_files
from relay.app.version import tell_build
from relay.app.weakenings import watch_weakenings
from relay.clock import Clock
from relay.config import Settings
from relay.delivery.dispatcher import Dispatcher
from relay.delivery.notices import NoticeWriter
from relay.delivery.slot_table import Demand, SlotSettings
from relay.delivery.slots import Slots
from relay.delivery.tally import Tally
from relay.delivery.worker import DeliveryWorker
from relay.ingress.listener import Listeners
from relay.ingress.settings import IngressSettings
from relay.ingress.tls import CertificateError
from relay.ingress.users import UsersFileError
from relay.metrics import Metrics, process_registry
from relay.queue.ids import QueueIds
from relay.store.protocols import StoreDeadError, StoreError
from relay.store.sqlite.policies import SqlitePolicyStore
from relay.store.sqlite.queue import SqliteQueueStore
from relay.store.sqlite.reports import SqliteReportStore

CANNOT_START = (StateDirError, StoreError, CertificateError, UsersFileError, OSError, ValueError)
"""What a relay that cannot start raises."""
_RETIRED_FOR_SECONDS = 1800.0
"""How long the way out of former settings stays open for attempts that began under them."""
_STORE_PAUSE_SECONDS = 60.0
_CANCEL_SECONDS = 1.0
_STOP_RESERVE = timedelta(seconds=6)
"""What of `stop_timeout` is kept for hanging up on those who did not end by themselves, and for closing files."""


class Relay:
    """One relay, or with `part` the part of it that a worker process is. Made, started and stopped by `running`."""

    def __init__(
        self,
        settings: Settings,
        *,
        store: SqliteQueueStore,
        policies: SqlitePolicyStore,
        reports: SqliteReportStore | None,
        clock: Clock,
        part: Part | None = None,
    ) -> None:
        """`reports` is there where it is to report. Raises CertificateError, UsersFileError or ValueError."""
        self.settings = settings
        self._part = part
        self._bounds = part.slots if part is not None else None
        self.registry = process_registry()
        self.metrics = Metrics(self.registry)
        self.phase = "starting"
        self._store = store
        self._policies = policies
        self._tasks: dict[str, asyncio.Task[None]] = {}
        self._clock = clock
        self._new_id = QueueIds(part.number if part is not None else 0, self._clock.now, secrets.token_bytes)
        self._slots = Slots(settings=self._bounds or plain.slot_settings(settings), timer=time.monotonic)
        self._failures = DiscoveryFailures(records=store, clock=clock)
        self._outbound = self._build_outbound(settings)
        self._retired: list[Outbound] = []
        self._tally = Tally(self.metrics)
        self._worker = self._build_worker()
        self._dispatcher = Dispatcher(
            store=store,
            worker=self._worker,
            slots=self._slots,
            clock=self._clock,
            metrics=self.metrics,
            tally=self._tally,
            settings=plain.dispatch_settings(settings),
        )
        self._listeners = Listeners(
            settings=self._ingress_settings(settings),
            store=store,
            dispatch=self._dispatcher.accept,
            lease_for=self._dispatcher.lease_for,
            new_id=self._new_id,
            clock=self._clock,
            metrics=self.metrics,
        )
        self._health = Health(
            store=store, policies=policies, metrics=self.metrics, clock=self._clock, impediments=self._impediments
        )
        self._reports = self._build_report_sender(reports) if reports is not None else None
        self._admin: AdminServer | None = None
        self._group: asyncio.TaskGroup | None = None

    @property
    def listeners(self) -> tuple[tuple[str, int], ...]:
        """Host and port of each listener, as bound."""
        return self._listeners.addresses

    @property
    def http(self) -> tuple[str, int]:
        """Host and port of the HTTP server, as bound."""
        assert self._admin is not None, "opened, and no part of another"
        return self._admin.address

    @property
    def turning(self) -> bool:
        """Whether our loop goes round: it has, when this is asked."""
        return True

    @property
    def _leads(self) -> bool:
        return self._part is None or self._part.leads

    def _ingress_settings(self, settings: Settings) -> IngressSettings:
        given = plain.ingress_settings(settings)
        return replace(given, listeners=()) if self._part is not None and self._part.drains else given

    def _build_outbound(self, settings: Settings) -> Outbound:
        return build_outbound(
            settings,
            policy_store=self._policies,
            slots=self._slots,
            clock=self._clock,
            metrics=self.metrics,
            failures=self._failures,
        )

    def _build_worker(self) -> DeliveryWorker:
        return DeliveryWorker(
            store=self._store,
            router=self._outbound.router,
            transport=self._outbound.pool,
            slots=self._slots,
            notices=self._notices(),
            clock=self._clock,
            tally=self._tally,
            schedule=plain.schedule_settings(self.settings),
            spread=random.random,
            counts_sessions=plain.counts_sessions(self.settings),
        )

    def _notices(self) -> NoticeWriter:
        return NoticeWriter(store=self._store, settings=plain.notice_settings(self.settings), new_id=self._new_id)

    def _build_report_sender(self, store: SqliteReportStore) -> ReportSender:
        state_dir = self.settings.relay.state_dir
        return ReportSender(
            store=store,
            counts=SessionCountsOnDisk(lambda: queue_files(state_dir).values()),
            queue=self._store,
            clock=self._clock,
            metrics=self.metrics,
            randomness=Randomness(spread=random.random, new_id=self._new_id),
            means=report_means(self.settings, self._outbound),
        )

    def _build_admin(self) -> AdminServer:
        app = endpoints(
            collect=always(self.registry),
            readiness=self._health.reasons_not_ready,
            names=[self.settings.relay.hostname, *self.settings.http.hosts],
        )
        return AdminServer(app, *self.settings.http.address)

    def _impediments(self) -> Sequence[str]:
        reasons = [f"the relay is {self.phase}"] if self.phase != "running" else []
        return reasons if self._listeners.open else [*reasons, "a listener is not open"]

    # Starting and stopping.

    async def open(self) -> None:
        """Bind all addresses. Raises OSError, and then none is bound."""
        if self._part is not None:
            await self._listeners.start(self._part.sockets)
            return
        await self._listeners.start()
        try:
            self._admin = self._build_admin()
        except OSError:
            await self._listeners.stop(timedelta(0))
            raise

    def begin(self, group: asyncio.TaskGroup) -> None:
        """Begin all tasks, each of which takes the group down when it dies. To be called right after `open`."""
        tell_build(self.metrics, self._clock.now())
        self._group = group
        self._run("delivery", self._dispatcher.run())
        self._run("failed policy fetches", self._failures.run())
        if self._admin is not None:
            self.metrics.workers.set(1)
            self._run("http", self._admin.run())
        if self._leads:
            self._run("policy gauges", self._health.measure())
        if self._reports is not None:
            self._run("tls reports", self._reports.run())
        self._run_leading()
        self.phase = "running"

    async def stop(self) -> None:
        """Let nobody in, end what can be ended within `stop_timeout`, then end all tasks."""
        self.phase = "stopping"
        limit = self.settings.relay.stop_timeout
        grace = max(limit - _STOP_RESERVE, limit / 2)
        await asyncio.gather(self._listeners.stop(grace), self._dispatcher.stop(grace))
        if self._admin is not None:
            self._admin.stop()
        await _cancel({task for name, task in self._tasks.items() if name not in ("delivery", "http")})
        await asyncio.wait(self._tasks.values())
        await asyncio.gather(*(outbound.close() for outbound in (self._outbound, *self._retired)))

    def _run(self, name: str, work: Coroutine[Any, Any, None]) -> None:
        """Run a task in place of the one of that name."""
        if (before := self._tasks.get(name)) is not None:
            before.cancel()
        assert self._group is not None, "begun"
        self._tasks[name] = self._group.create_task(work, name=name)

    def _run_leading(self) -> None:
        """Run what the settings say anew, and what one process does for all."""
        if self._leads:
            self._run_refresher()
            self._run_ndr_route_check()
            self._run("dane probe", self._watch_dnssec())
            self._run("route weakenings", watch_weakenings(self._outbound.router.routes, self._clock))

    async def _watch_dnssec(self) -> None:
        if self.settings.dane.mode == "off" and not any(one.dane == "mandatory" for one in self.settings.route):
            self.metrics.dane_active.set(0)
            return
        await watch_dnssec(self._outbound.resolver, self._clock, self.metrics)

    def _run_refresher(self) -> None:
        refresher = PolicyRefresher(
            service=self._outbound.policies,
            store=self._outbound.policy_store,
            clock=self._clock,
            spread=random.random,
            interval=self.settings.mta_sts.refresh_interval,
            settings=plain.freshness_settings(self.settings),
        )
        self._run("policy refresh", self._refresh(refresher))

    async def _refresh(self, refresher: PolicyRefresher) -> None:
        """Refresh until cancelled; a store that fails (a full disk) is no reason to end."""
        while True:
            try:
                await refresher.run()
            except StoreDeadError:
                raise
            except StoreError as error:
                events.queue_failed("policy refresh", error)
            await self._clock.sleep(_STORE_PAUSE_SECONDS)

    def _run_ndr_route_check(self) -> None:
        self._run("ndr route check", self._check_ndr_routes())

    async def _check_ndr_routes(self) -> None:
        bad = 0
        try:
            async for domain, reason in bad_ndr_routes(self.settings, self._outbound.router, self._clock.now()):
                bad += 1
                process_events.ndr_route_bad(domain, reason)
        except StoreError as error:
            events.queue_failed("ndr route check", error)
        self.metrics.ndr_route_warnings.set(bad)

    # Reloading.

    async def reload(self, new: Settings) -> tuple[str, ...] | None:
        """Take over new settings; return the names of those that need a restart, or None if a file is not usable.

        Raises ValueError if the CA file or the DKIM key is not; then, too, all stays as it was. Attempts and sessions
        under way may end under the settings that they began with.
        """
        outbound = self._build_outbound(new)  # first, so that what cannot be built changes nothing
        try:
            means = report_means(new, outbound) if self._reports is not None else None
        except ValueError:
            await outbound.close()
            raise
        if not await self._listeners.reload(self._ingress_settings(new)):
            await outbound.close()
            return None
        waiting = tuple(need_restart(self.settings, new))
        self.settings = new
        self._retire(self._outbound)
        self._outbound = outbound
        self._slots.use(self._bounds or plain.slot_settings(new))
        self._dispatcher.use(plain.dispatch_settings(new))
        self._store.retain(new.queue.retain_finished)
        self._worker.use(
            router=self._outbound.router,
            transport=self._outbound.pool,
            notices=self._notices(),
            schedule=plain.schedule_settings(new),
            counts_sessions=plain.counts_sessions(new),
        )
        if self._reports is not None:
            self._reports.use(means)
        self._run_leading()
        return waiting

    # What a part is asked and told by the parent.

    def bound(self, slots: SlotSettings) -> "list[asyncio.Future[None]]":
        """Keep to these bounds of connections from now on; return what is done once they are kept to."""
        self._bounds = slots
        if not self._slots.use(slots):
            return []
        # No slot counts an idle connection, and so none may be left under a bound that is lower than before.
        return [closed for outbound in (self._outbound, *self._retired) for closed in outbound.pool.leave_idle()]

    def demand(self) -> tuple[Demand, dict[str, Demand]]:
        """Return which bounds of connections are short."""
        return self._slots.demand()

    async def reasons_not_ready(self) -> Sequence[str]:
        return await self._health.reasons_not_ready()

    async def drained(self) -> bool:
        """Whether nothing waits in the queue, held or not."""
        return not any((await self._store.stats()).by_state.values())

    def _retire(self, outbound: Outbound) -> None:
        self._retired.append(outbound)

        async def close_later() -> None:
            await self._clock.sleep(_RETIRED_FOR_SECONDS)
            self._retired.remove(outbound)
            await outbound.close()

        self._run(f"retired {id(outbound)}", close_later())


async def _cancel(tasks: set[asyncio.Task[None]]) -> None:
    """End tasks for good. One may miss it: asyncio.wait_for (3.11) loses what comes just as its work is done."""
    while tasks:
        for task in tasks:
            task.cancel()
        _, tasks = await asyncio.wait(tasks, timeout=_CANCEL_SECONDS)


@asynccontextmanager
async def running(settings: Settings, part: Part | None = None, *, clock: Clock | None = None) -> AsyncIterator[Relay]:
    """Run a relay while inside. If a task of it dies, the body is cancelled, and an ExceptionGroup says why.

    It goes by the system's clock unless it is given another.
    The state directory has to be locked; for a part the parent has done that.
    Raises StoreError, OSError, CertificateError, UsersFileError or ValueError if it cannot start.
    Leaving, however it comes to it, stops the relay in order; the files are closed last.
    """
    state_dir, clock = settings.relay.state_dir, clock or SystemClock()
    async with AsyncExitStack() as exits:
        policies = await SqlitePolicyStore.open(state_dir / POLICY_FILE)
        exits.push_async_callback(policies.close)
        store = await SqliteQueueStore.open(
            queue_file(state_dir, part.number if part is not None else 0),
            clock=clock,
            incarnation=new_incarnation(),
            node=NODE,
            retain_finished=settings.queue.retain_finished,
            min_free_disk=settings.store.min_free_disk,
        )
        exits.push_async_callback(store.close)
        leads = part is None or part.leads
        if (reports := await open_report_store(state_dir / REPORT_FILE) if leads else None) is not None:
            exits.push_async_callback(reports.close)
        relay = Relay(settings, store=store, policies=policies, reports=reports, clock=clock, part=part)
        await relay.open()
        async with asyncio.TaskGroup() as group:
            relay.begin(group)
            try:
                yield relay
            finally:
                await relay.stop()
