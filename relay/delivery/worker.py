"""One attempt at one job: route, hosts in turn, outcomes, settlement.

Once a host has answered, writing that down survives cancellation. A fault of ours never bounces mail: the exception
leaves, the job stays with its lease, and the lease lapses.
"""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from typing import Any, TypeVar

from relay import events
from relay.clock import Clock
from relay.delivery.attempt_sessions import AttemptSessions
from relay.delivery.hosts import Host, Route
from relay.delivery.notices import NoticeWriter
from relay.delivery.plan import DeliveryPlan, verdicts
from relay.delivery.policy_record import policy_id
from relay.delivery.route import Router
from relay.delivery.seam import BLOCK, HostError, Parcel, Session, Target, Transport
from relay.delivery.session_results import reported_domain
from relay.delivery.slots import Slots
from relay.delivery.tally import Tally
from relay.queue.attempt import Attempt, FailureKind, HostFailure
from relay.queue.message import HoldReason, Job, Message, NewMessage
from relay.queue.notice import NoticeRequest
from relay.queue.schedule import ScheduleSettings, retry_after
from relay.queue.settle import Decision, settle, uncharged
from relay.queue.tls_results import TlsResult
from relay.store.protocols import LeaseLostError, QueueStore, Settlement, StoreError
from relay.value import value

T = TypeVar("T")

_SETTLE_PAUSES_SECONDS = (0.1, 0.5, 2.0, 5.0)
_NOWHERE = Route()


@value
class Ended:
    """How an attempt ended. `unreachable`: no host of the destination could be used, whatever the message, and no other
    attempt was under way that may come to another end.

    `retry_at` is set where the schedule does not say when to try again: the policy is unknown until then.
    """

    attempt: Attempt
    unreachable: bool
    retry_at: datetime | None = None


class _Run:
    """An attempt under way."""

    plan: DeliveryPlan | None = None
    route: Route = _NOWHERE
    record_checked: bool = False
    session: Session | None = None
    sessions: AttemptSessions | None = None
    settling: bool = False
    broken_off: bool = False

    def __init__(self, job: Job, started_at: datetime) -> None:
        self.job = job
        self.started_at = started_at


class DeliveryWorker:
    """Attempts jobs, any number at once. `spread` gives numbers in [0, 1) that set retries apart.

    `counts_sessions`: settlements count TLS sessions, for reports (RFC 8460).
    """

    def __init__(
        self,
        *,
        store: QueueStore,
        router: Router,
        transport: Transport,
        slots: Slots,
        notices: NoticeWriter,
        clock: Clock,
        tally: Tally,
        schedule: ScheduleSettings,
        spread: Callable[[], float],
        counts_sessions: bool = False,
    ) -> None:
        self._store = store
        self._router = router
        self._transport = transport
        self._slots = slots
        self._notices = notices
        self._clock = clock
        self._tally = tally
        self._schedule = schedule
        self._spread = spread
        self._counts_sessions = counts_sessions
        self._runs: dict[int, _Run] = {}
        self._draining = False

    def use(
        self,
        *,
        router: Router,
        transport: Transport,
        notices: NoticeWriter,
        schedule: ScheduleSettings,
        counts_sessions: bool = False,
    ) -> None:
        """Go on under new settings; an attempt under way may see some of the old ones and some of the new."""
        self._router = router
        self._transport = transport
        self._notices = notices
        self._schedule = schedule
        self._counts_sessions = counts_sessions

    def drain(self) -> None:
        """Begin no further transaction: attempts under way end after the one they are in."""
        self._draining = True

    def must_finish(self, job: Job) -> bool:
        """Whether the host may have the message already, so that the attempt is to be awaited, not broken off."""
        run = self._runs.get(job.id)
        return run is not None and (run.settling or (run.session is not None and run.session.committing))

    async def attempt(self, job: Job, *, alone: Callable[[], bool] = lambda: True) -> Ended | None:
        """Try to deliver a leased job and settle it; None if the attempt was broken off by `drain`.

        `alone` says, at the end, whether no other attempt at the destination is under way: only then a failure to
        reach it cools it down as a whole. Cancelling breaks the attempt off: it is settled, uncharged as far as no
        host has answered, before CancelledError leaves.
        """
        run = _Run(job, self._clock.now())
        if self._counts_sessions:
            run.sessions = AttemptSessions(run.started_at.date())
        self._runs[job.id] = run
        try:
            try:
                await self._walk(run)
            except asyncio.CancelledError:
                run.broken_off = True
                await _finish(job, self._conclude(run, alone))
                raise
            return await _finish(job, self._conclude(run, alone))
        finally:
            del self._runs[job.id]
            if run.sessions is not None:
                run.sessions.give_back()

    async def share(self, job: Job, ended: Ended) -> None:
        """Settle another job for the same destination with what was just found out, without asking there again."""
        now = self._clock.now()
        found = ended.attempt
        attempt = replace(
            found,
            number=job.attempts,
            started_at=now,
            finished_at=now,
            outcomes=verdicts(job, found.hosts, found.failure),
        )
        await _finish(job, self._settle(job, attempt, retry_at=ended.retry_at, cools=False))

    def shares_route(self, job: Job, other: Job) -> bool:
        """Whether two jobs for the same destination go the same way, under the same demands."""
        one, other_one = job.message, other.message
        same_demands = (one.require_tls, one.tls_optional) == (other_one.require_tls, other_one.tls_optional)
        return same_demands and self._router.way(one) is self._router.way(other_one)

    # The walk.

    async def _walk(self, run: _Run) -> None:
        try:
            route = await self._router.route(run.job.message, run.job.destination)
            run.plan = plan = DeliveryPlan(run.job, route.hosts, route.failure)
            if (weakening := route.directions.weakening) is not None:
                events.route_weakened(run.job, route.directions.name, weakening)
                self._tally.weakened(weakening)
            await self._go(run, plan, route)
            for other in route.others:
                if run.broken_off or not plan.waiting:
                    break
                plan.go_on(other.hosts, other.failure)
                await self._go(run, plan, other)
        except StoreError as error:
            events.queue_failed("attempt", error)
            run.plan = run.plan or DeliveryPlan(run.job, ())
            run.plan.give_up(HostFailure(kind=FailureKind.INTERNAL, detail="the store did not answer"))

    async def _go(self, run: _Run, plan: DeliveryPlan, route: Route) -> None:
        run.route = route
        if run.sessions is not None:
            run.sessions.enter(reported_domain(run.job.destination, route))
        await self._visit_hosts(run, plan)
        if plan.waiting and plan.refused and not run.broken_off:
            await self._recheck(run, plan, route)
        if run.sessions is not None and not run.broken_off:
            run.sessions.note_uncontacted(plan.uncontacted, run.route.findings, mx_bogus=route.bogus)

    async def _visit_hosts(self, run: _Run, plan: DeliveryPlan) -> None:
        while (target := plan.next_target()) is not None:
            if self._draining:
                run.broken_off = True
                return
            try:
                await self._visit(run, plan, target)
            except HostError as error:
                plan.host_failed(error)
                if run.sessions is not None:
                    run.sessions.note(plan.host, run.route.findings, error.countable)
            except asyncio.CancelledError:
                if run.sessions is not None and run.session is not None:
                    run.sessions.note(plan.host, run.route.findings, run.session.facts.countable)
                raise
            finally:
                run.session = None

    async def _visit(self, run: _Run, plan: DeliveryPlan, target: Target) -> None:
        message, destination = run.job.message, run.job.destination
        async with self._transport.open(target, destination=destination, size=message.size) as session:
            run.session = session
            content = run.job.content if run.job.content is not None else await self._stored_content(message)
            while offer := plan.offer:
                parcel = Parcel(message=message, recipients=offer, content=content)
                result = await session.send(parcel)
                taken = plan.host_replied(result, session.facts)
                if run.sessions is not None:
                    run.sessions.note(plan.host, run.route.findings, session.facts.countable)
                # A report goes where mail may not: that it arrives says nothing of mail.
                if taken and not target.requirement.for_reports:
                    self._slots.succeeded(destination, target.mx_host)
                if self._draining and plan.offer:
                    run.broken_off = True
                    return

    async def _stored_content(self, message: Message) -> bytes | Callable[[], AsyncIterator[bytes]]:
        """The content as the store has it: all of it where that is little, else to be read once the host wants it."""
        if message.size > BLOCK:
            return lambda: self._store.content(message.queue_id)
        return b"".join([piece async for piece in self._store.content(message.queue_id)])

    async def _recheck(self, run: _Run, plan: DeliveryPlan, route: Route) -> None:
        """A policy refuses: look it up past our caches, and try at once what another one allows (RFC 8461 §5)."""
        now = await self._router.recheck(route)
        run.record_checked = now.findings is not None and now.findings.record_checked
        allowed = _judged_anew(plan.refused, now)
        if allowed:
            old_id, new_id = policy_id(run.route.findings), policy_id(now.findings)
            events.policy_changed_in_attempt(run.job, run.route.directions.name, old_id, new_id)
            run.route = now
            plan.offer_again(allowed)
            await self._visit_hosts(run, plan)

    # The end.

    async def _conclude(self, run: _Run, alone: Callable[[], bool]) -> Ended | None:
        run.settling = True
        plan = run.plan
        results = run.sessions.results(self._clock.now()) if run.sessions is not None else ()
        if run.broken_off and (plan is None or not plan.answered):
            events.attempt_broken_off(run.job, run.route.directions.name)
            self._tally.broken_off()
            if await self._write(uncharged(run.job, results)) and run.sessions is not None:
                run.sessions.settled()
            return None
        assert plan is not None, "a walk that was not broken off has a plan"
        if run.broken_off:
            plan.give_up(HostFailure(kind=FailureKind.INTERNAL, detail="the relay was stopped"))
        attempt = self._attempt(run, plan)
        unreachable = plan.unreachable and not run.broken_off
        if unreachable:
            self._slots.failed(run.job.destination)
            unreachable = alone()
        waits_for_policy = plan.failure is not None and plan.failure.kind is FailureKind.POLICY_UNKNOWN
        findings = run.route.findings
        retry_at = findings.defer_until if findings and waits_for_policy else None
        settled = await self._settle(run.job, attempt, retry_at=retry_at, cools=unreachable, tls_results=results)
        if settled and run.sessions is not None:
            run.sessions.settled()
        return Ended(attempt=attempt, unreachable=unreachable, retry_at=retry_at)

    def _attempt(self, run: _Run, plan: DeliveryPlan) -> Attempt:
        return Attempt(
            number=run.job.attempts,
            started_at=run.started_at,
            finished_at=self._clock.now(),
            hosts=plan.hosts,
            outcomes=plan.outcomes(),
            policy=run.route.policy,
            policy_problem=run.route.policy_problem,
            record_checked=run.record_checked,
            failure=plan.failure,
            route=run.route.directions.name,
        )

    async def _settle(
        self,
        job: Job,
        attempt: Attempt,
        *,
        retry_at: datetime | None,
        cools: bool,
        tls_results: tuple[TlsResult, ...] = (),
    ) -> bool:
        """Write down what came of an attempt. False if that could not be."""
        now = attempt.finished_at
        decision = settle(job, attempt, now, self._schedule, spread=self._spread())
        if decision.retry_in is not None and retry_at is not None:
            # The look-up is to be tried when its grace is over: not before, and not a whole step later.
            decision = decision._replace(retry_in=max(retry_at - now, timedelta(seconds=1)))
        cool = self._cool_down(job, decision.retry_in, retry_at) if cools and decision.retry_in is not None else None
        notices = await self._write_notices(decision, now) if decision.notices else ()
        built = [notice for _, notice in notices]
        if not await self._write(decision.settlement(built, cool_destination=cool, tls_results=tls_results)):
            return False
        if cool is not None:
            events.destination_cooled(job.destination, cool, decision.recipients[0].diagnostic)
        self._tell(decision)
        for request, notice in notices:
            self._tally.notice(request.kind)
            events.notice_queued(job, notice, request.kind, len(request.recipients))
        return True

    def _cool_down(self, job: Job, retry_in: timedelta, retry_at: datetime | None) -> timedelta:
        """For how long the whole destination is let alone: as the schedule says, whichever job it is that asks."""
        step = retry_after(self._slots.cooled(job.destination), self._schedule, 0.0)
        return step if retry_at is None else min(step, retry_in)

    async def _write_notices(self, decision: Decision, now: datetime) -> Sequence[tuple[NoticeRequest, NewMessage]]:
        """Write the notices, without the original if it cannot be read: unsettled, all would be delivered again."""
        job, attempt, requests = decision.job, decision.attempt, decision.notices
        try:
            return await self._patiently(job, lambda: self._notices.write(requests, job, attempt, now))
        except StoreError:
            return await self._notices.write(requests, job, attempt, now, readable=False)

    async def _write(self, settlement: Settlement) -> bool:
        """Write a settlement down. False if it could not be."""
        try:
            await self._patiently(settlement.job, lambda: self._store.settle(settlement))
        except LeaseLostError:
            events.lease_lost(settlement.job)
            return False
        except StoreError:
            return False
        return True

    async def _patiently(self, job: Job, work: Callable[[], Awaitable[T]]) -> T:
        """Do what needs the store, with patience for one that fails for a while, and a word on each failure.

        Raises StoreError if it fails to the end, LeaseLostError at once.
        """
        pauses = list(_SETTLE_PAUSES_SECONDS)
        while True:
            try:
                return await work()
            except LeaseLostError:
                raise
            except StoreError as error:
                events.settle_failed(job, error, len(pauses))
                if not pauses:
                    raise
            await self._clock.sleep(pauses.pop(0))

    def _tell(self, decision: Decision) -> None:
        self._tally.attempt(decision)
        events.recipients_settled(decision.job, decision.recipients, decision.attempt, decision.retry_in)
        if decision.hold is HoldReason.DOUBLE_BOUNCE:
            events.double_bounce_held(decision.job)


async def _finish(job: Job, work: Coroutine[Any, Any, T]) -> T:
    """Run to the end even if the caller is cancelled meanwhile, who then learns of it.

    What asyncio.shield does, without what makes that fit for any awaitable: each attempt ends here.
    """
    loop = asyncio.get_running_loop()
    task, ended = loop.create_task(work), loop.create_future()

    def wake(_task: asyncio.Task[T]) -> None:
        if not ended.done():
            ended.set_result(None)

    task.add_done_callback(wake)
    try:
        await ended
        return task.result()
    except asyncio.CancelledError:
        await asyncio.wait({task})
        if not task.cancelled() and isinstance(error := task.exception(), Exception):
            events.attempt_crashed(job, error)
        raise


def _judged_anew(refused: tuple[Host, ...], route: Route) -> tuple[Host, ...]:
    """Return those of the refused hosts that now have another verdict, in the route's order."""
    before = {host.name: host.verdict for host in refused}
    return tuple(host for host in route.hosts if host.name in before and host.verdict != before[host.name])
