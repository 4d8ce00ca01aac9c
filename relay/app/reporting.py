"""Sends yesterday's TLS reports: planned once, spread over four hours, tried for a day (RFC 8460 §4.1, §5.5)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from typing import Protocol, assert_never

from policy.answers import Absent, Found, Resolver, Unknown
from policy.report_post import Posted
from policy.tlsrpt import Endpoint, HttpsEndpoint, MailEndpoint, NoReporting, parse_record
from relay import report_events
from relay.clock import Clock
from relay.queue.message import Envelope, NewMessage, NewRecipient, Notify, Origin
from relay.queue.schedule import REPORT_LIFETIME
from relay.queue.tls_results import TlsResult
from relay.reports.tlsrpt import Reporter, TlsReport, compressed, fold
from relay.reports.tlsrpt_mail import SIGNED_FIELDS, build_mail, message_id
from relay.store.protocols import PlannedReport, QueueStore, ReportDelivery, ReportStore, StoreDeadError, StoreError

_SETTLED_AFTER = timedelta(minutes=10)
"""After midnight, sessions of the day before may still be settled for so long before reports are planned."""
_SPREAD = timedelta(seconds=14_400)
_KEEP = timedelta(days=3)
_FIRST_PAUSE = timedelta(minutes=5)
_LONGEST_PAUSE = timedelta(hours=4)
_LOOK_SECONDS = 60.0
_PLAN_EVERY = timedelta(minutes=15)
_DOMAINS_AT_ONCE = 500
_DELIVERIES_AT_ONCE = 20
"""Sent in one look, so that no number of domains that name one victim makes a flood (RFC 8460 §7)."""


class ReportPoster(Protocol):
    """HTTPS to an endpoint that a stranger chose: guarded, bounded in time and size. Never raises for what it does."""

    async def post(self, url: str, body: bytes) -> tuple[Posted, str]:
        """POST a compressed report; return what became of it, and one line of why."""
        ...


class SessionCounts(Protocol):
    """What all processes together have counted."""

    async def domains(self, day: date, after: str, limit: int) -> Sequence[str]: ...

    async def results(self, day: date, domain: str) -> Sequence[TlsResult]: ...


class Signer(Protocol):
    def sign(self, message: bytes, fields: Sequence[str]) -> bytes: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomness:
    """`spread` gives a number from 0 up to 1; `new_id` ids that nobody has used, of letters and digits."""

    spread: Callable[[], float]
    new_id: Callable[[], str]


class ReportSender:
    """Plans and sends. One process of a node does it; a second one would find everything planned or started."""

    def __init__(
        self,
        *,
        store: ReportStore,
        counts: SessionCounts,
        resolver: Resolver,
        queue: QueueStore,
        poster: ReportPoster,
        signer: Signer,
        reporter: Reporter,
        clock: Clock,
        randomness: Randomness,
    ) -> None:
        self._store = store
        self._counts = counts
        self._resolver = resolver
        self._queue = queue
        self._poster = poster
        self._signer = signer
        self._reporter = reporter
        self._clock = clock
        self._randomness = randomness
        self._plan_again_at = datetime.min.replace(tzinfo=UTC)

    async def run(self) -> None:
        """Work until cancelled. A store that fails is asked again."""
        resumed = False
        while True:
            try:
                if not resumed:
                    await self.resume()
                    resumed = True
                if self._clock.now() >= self._plan_again_at:
                    await self.plan_yesterday()
                    self._plan_again_at = self._clock.now() + _PLAN_EVERY
                await self.send_due()
            except StoreDeadError:
                raise
            except StoreError as error:
                report_events.reporting_failed("reports", error)
            await self._clock.sleep(_LOOK_SECONDS)

    async def resume(self) -> None:
        """Take up what a process that died was sending: mail again under its own queue id, a POST never."""
        while found := await self._store.in_flight(_DELIVERIES_AT_ONCE):
            for delivery in found:
                if isinstance(delivery.endpoint, MailEndpoint):
                    await self._deliver(delivery)
                else:
                    await self._store.finish(delivery, accepted=False)
                    report_events.report_dropped(delivery, "it may have been sent before the relay was stopped")

    async def plan_yesterday(self) -> None:
        """Fix which reports go where. Older days are not made up for: their 24 hours are over (RFC 8460 §5.5)."""
        now = self._clock.now()
        midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
        if now < midnight + _SETTLED_AFTER:
            return
        day, after = midnight.date() - timedelta(days=1), ""
        while domains := await self._counts.domains(day, after, _DOMAINS_AT_ONCE):
            for domain in domains:
                if not await self._store.is_planned(day, domain):
                    await self._plan(day, domain, max(now, midnight + self._randomness.spread() * _SPREAD))
            after = domains[-1]
        await self._store.forget(midnight.date() - _KEEP)

    async def _plan(self, day: date, domain: str, first_attempt_at: datetime) -> None:
        endpoints = await self._endpoints(domain)
        if endpoints is None:
            return
        report = PlannedReport(
            day=day,
            domain=domain,
            unique_id=self._randomness.new_id(),
            deliveries=tuple((endpoint, self._randomness.new_id()) for endpoint in endpoints),
            first_attempt_at=first_attempt_at,
            give_up_at=first_attempt_at + REPORT_LIFETIME,
        )
        if await self._store.plan(report) and endpoints:
            report_events.report_planned(day, domain, report.unique_id, len(endpoints), first_attempt_at)

    async def _endpoints(self, domain: str) -> Sequence[Endpoint] | None:
        """Where the domain wants its reports; None if it cannot be found out now."""
        answer = await self._resolver.txt(f"_smtp._tls.{domain}")
        match answer:
            case Found():
                record = parse_record(answer.records)
                return () if isinstance(record, NoReporting) else record.endpoints
            case Absent():
                return ()
            case Unknown():
                return None
            case _:
                assert_never(answer)

    async def send_due(self) -> None:
        for delivery in await self._store.due(self._clock.now(), _DELIVERIES_AT_ONCE):
            await self._store.start(delivery)
            await self._deliver(delivery)

    async def _deliver(self, delivery: ReportDelivery) -> None:
        """Send what is in flight, and write down what became of it."""
        policies = fold(delivery.domain, await self._counts.results(delivery.day, delivery.domain))
        report = TlsReport(
            unique_id=delivery.unique_id,
            day=delivery.day,
            domain=delivery.domain,
            policies=policies,
            reporter=self._reporter,
        )
        if not policies:
            posted, reason = Posted.REFUSED, "what was counted is gone"
        elif isinstance(delivery.endpoint, HttpsEndpoint):
            posted, reason = await self._poster.post(delivery.endpoint.url, compressed(report))
        else:
            posted, reason = await self._enqueue(report, delivery, delivery.endpoint)
        await self._note(delivery, posted, reason)

    async def _note(self, delivery: ReportDelivery, posted: Posted, reason: str) -> None:
        if posted is Posted.ACCEPTED:
            await self._store.finish(delivery, accepted=True)
            report_events.report_accepted(delivery)
            return
        retry_at = self._clock.now() + min(_FIRST_PAUSE * 2**delivery.attempts, _LONGEST_PAUSE)
        if posted is Posted.FAILED and retry_at < delivery.give_up_at:
            await self._store.retry(delivery, retry_at)
            report_events.report_deferred(delivery, reason, retry_at)
        else:
            await self._store.finish(delivery, accepted=False)
            report_events.report_dropped(delivery, reason)

    async def _enqueue(self, report: TlsReport, delivery: ReportDelivery, endpoint: MailEndpoint) -> tuple[Posted, str]:
        """Queue the mail, once: its queue id was fixed before, so that one who comes after a crash finds it."""
        try:
            if not await self._queue.show(delivery.queue_id):
                mail = build_mail(report, endpoint, delivery.number, self._clock.now())
                signed = await asyncio.to_thread(self._signer.sign, mail, SIGNED_FIELDS)
                await self._queue.enqueue(_message(report, delivery, endpoint, signed))
        except StoreDeadError:
            raise
        except StoreError as error:
            return Posted.FAILED, str(error)
        return Posted.ACCEPTED, ""


def _message(report: TlsReport, delivery: ReportDelivery, endpoint: MailEndpoint, content: bytes) -> NewMessage:
    """The mail for the queue. It has a reverse-path, as it is no notice, but nobody is told of its fate (§5.5)."""
    recipient = NewRecipient(
        forward_path=endpoint.address, destination=endpoint.domain, notify=frozenset({Notify.NEVER})
    )
    return NewMessage(
        queue_id=delivery.queue_id,
        envelope=Envelope(reverse_path=report.reporter.contact),
        recipients=(recipient,),
        content=content,
        origin=Origin.REPORT,
        message_id=message_id(report, delivery.number),
    )
