"""Sends yesterday's TLS reports: planned once, spread over four hours, tried for a day (RFC 8460 §4.1, §5.5)."""

import asyncio
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, date, datetime, time, timedelta
from enum import Enum
from typing import Protocol

from policy.answers import Absent, Answer, Found, Resolver, Unknown
from policy.report_post import Posted
from policy.tlsrpt import Endpoint, HttpsEndpoint, MailEndpoint, NoReporting, ReportingRecord, parse_record
from relay import report_events
from relay.clock import Clock
from relay.metrics import Metrics
from relay.queue.message import Envelope, NewMessage, NewRecipient, Notify, Origin
from relay.queue.schedule import REPORT_LIFETIME
from relay.queue.tls_results import REPORTED_AFTER, TlsResult
from relay.reports.tlsrpt import Reporter, TlsReport, compressed, fold
from relay.reports.tlsrpt_mail import SIGNED_FIELDS, build_mail, message_id
from relay.store.protocols import PlannedReport, QueueStore, ReportDelivery, ReportStore, StoreDeadError, StoreError

_SPREAD = timedelta(seconds=14_400)
_KEEP = timedelta(days=3)
_FIRST_PAUSE = timedelta(minutes=5)
_LONGEST_PAUSE = timedelta(hours=4)
_LOOK_SECONDS = 60.0
_PLAN_EVERY = timedelta(minutes=15)
_DOMAINS_AT_ONCE = 500
_LOOKUPS_AT_ONCE = 50
"""Records asked for side by side, so that domains without a name server that answers do not keep the others waiting."""
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


class ReportResult(Enum):
    """What became of a report at one endpoint; the metric's label."""

    QUEUED = "queued"
    """It is mail in our queue."""
    POSTED = "posted"
    DEFERRED = "deferred"
    DROPPED = "dropped"


@dataclass(frozen=True, slots=True, kw_only=True)
class Means:
    """What the settings say of reporting: in whose name, how, and to which domains (`*.x`: all below x) not."""

    reporter: Reporter
    signer: Signer
    resolver: Resolver
    poster: ReportPoster
    no_reports_to: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Randomness:
    """`spread` gives a number from 0 up to 1; `new_id` ids that nobody has used, of letters and digits."""

    spread: Callable[[], float]
    new_id: Callable[[], str]


class ReportSender:
    """Plans and sends, while there are `means`. One process of a node does it; a second one would find all begun."""

    def __init__(
        self,
        *,
        store: ReportStore,
        counts: SessionCounts,
        queue: QueueStore,
        clock: Clock,
        metrics: Metrics,
        randomness: Randomness,
        means: Means | None,
    ) -> None:
        self._store = store
        self._counts = counts
        self._queue = queue
        self._clock = clock
        self._metrics = metrics
        self._randomness = randomness
        self._means = means
        self._folding = asyncio.Lock()
        self._plan_again_at = datetime.min.replace(tzinfo=UTC)

    def use(self, means: Means | None) -> None:
        """Report by other means from the next look on, or not at all."""
        self._means = means

    async def run(self) -> None:
        """Look for work once a minute until cancelled. A store that fails is asked again."""
        while True:
            if (means := self._means) is not None:
                await self._look(means)
            await self._clock.sleep(_LOOK_SECONDS)

    async def _look(self, means: Means) -> None:
        try:
            await self.resume(means)
            if (now := self._clock.now()) >= self._plan_again_at:
                await self.plan_yesterday(means)
                self._plan_again_at = now + _PLAN_EVERY
            await self.send_due(means)
        except StoreDeadError:
            raise
        except StoreError as error:
            report_events.reporting_failed("reports", error)
        except Exception as error:  # noqa: BLE001  a fault in reporting must not stop the mail
            report_events.reporting_crashed(error)

    async def resume(self, means: Means) -> None:
        """Take up what was begun and not written down, by a process that died or a store that failed.

        Mail is queued again, under its own queue id; a POST is not made again, as it may have been heard.
        """
        while found := await self._store.in_flight(_DELIVERIES_AT_ONCE):
            for delivery in found:
                if isinstance(delivery.endpoint, MailEndpoint):
                    await self._deliver(delivery, means)
                else:
                    await self._drop(delivery, "it may have been sent before the relay was stopped")

    async def plan_yesterday(self, means: Means) -> None:
        """Fix which reports go where. Older days are not made up for: their 24 hours are over (RFC 8460 §5.5)."""
        now = self._clock.now()
        midnight = datetime.combine(now.astimezone(UTC).date(), time(), UTC)
        if now < midnight + REPORTED_AFTER:
            return
        day, after = midnight.date() - timedelta(days=1), ""
        while domains := await self._counts.domains(day, after, _DOMAINS_AT_ONCE):
            wanted = [domain for domain in domains if not is_left_out(domain, means.no_reports_to)]
            unplanned = [domain for domain in wanted if not await self._store.is_planned(day, domain)]
            for start in range(0, len(unplanned), _LOOKUPS_AT_ONCE):
                some = unplanned[start : start + _LOOKUPS_AT_ONCE]
                answers = await asyncio.gather(*(means.resolver.txt(record_name(domain)) for domain in some))
                for domain, answer in zip(some, answers, strict=True):
                    await self._plan(day, domain, answer, max(now, midnight + self._randomness.spread() * _SPREAD))
            after = domains[-1]
        await self._store.forget(midnight.date() - _KEEP)

    async def _plan(self, day: date, domain: str, answer: Answer[bytes], first_attempt_at: datetime) -> None:
        if isinstance(answer, Unknown):
            return  # to be asked again
        endpoints = endpoints_in(answer)
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

    async def send_due(self, means: Means) -> None:
        """Send side by side, so that an endpoint that hangs keeps only its own report waiting."""
        due = await self._store.due(self._clock.now(), _DELIVERIES_AT_ONCE)
        ended = await asyncio.gather(*(self._start(delivery, means) for delivery in due), return_exceptions=True)
        for error in ended:
            if error is not None:
                raise error

    async def _start(self, delivery: ReportDelivery, means: Means) -> None:
        await self._store.start(delivery)
        await self._deliver(replace(delivery, attempts=delivery.attempts + 1), means)

    async def _deliver(self, delivery: ReportDelivery, means: Means) -> None:
        """Send what is in flight, and write down what became of it."""
        try:
            posted, reason = await self._send(delivery, means)
        except StoreDeadError:
            raise
        except StoreError as error:
            posted, reason = Posted.FAILED, str(error)
        except Exception as error:  # noqa: BLE001  the top of a task: a report that cannot be made keeps back no other
            report_events.reporting_crashed(error)
            posted, reason = Posted.REFUSED, "a fault of the relay"
        await self._note(delivery, posted, reason)

    async def _send(self, delivery: ReportDelivery, means: Means) -> tuple[Posted, str]:
        report = await self._report(delivery, means)
        if not report.policies:
            return Posted.REFUSED, "what was counted is gone"
        if self._clock.now() >= delivery.give_up_at:
            return Posted.REFUSED, "its 24 hours are over"
        if isinstance(delivery.endpoint, HttpsEndpoint):
            return await means.poster.post(delivery.endpoint.url, compressed(report))
        await self._enqueue(report, delivery, delivery.endpoint, means.signer)
        return Posted.ACCEPTED, "queued"

    async def _report(self, delivery: ReportDelivery, means: Means) -> TlsReport:
        async with self._folding:  # one after the other: what was counted may be a lot, before it is folded
            policies = fold(delivery.domain, await self._counts.results(delivery.day, delivery.domain))
        return TlsReport(
            unique_id=delivery.unique_id,
            day=delivery.day,
            domain=delivery.domain,
            policies=policies,
            reporter=means.reporter,
        )

    async def _note(self, delivery: ReportDelivery, posted: Posted, reason: str) -> None:
        if posted is Posted.ACCEPTED:
            await self._store.finish(delivery, accepted=True)
            by_mail = isinstance(delivery.endpoint, MailEndpoint)
            self._tell(ReportResult.QUEUED if by_mail else ReportResult.POSTED)
            report_events.report_accepted(delivery)
            return
        retry_at = self._clock.now() + min(_FIRST_PAUSE * 2 ** (delivery.attempts - 1), _LONGEST_PAUSE)
        if posted is Posted.FAILED and retry_at < delivery.give_up_at:
            await self._store.retry(delivery, retry_at)
            self._tell(ReportResult.DEFERRED)
            report_events.report_deferred(delivery, reason, retry_at)
        else:
            await self._drop(delivery, reason)

    async def _drop(self, delivery: ReportDelivery, reason: str) -> None:
        await self._store.finish(delivery, accepted=False)
        self._tell(ReportResult.DROPPED)
        report_events.report_dropped(delivery, reason)

    def _tell(self, result: ReportResult) -> None:
        self._metrics.tls_reports.labels(result.value).inc()

    async def _enqueue(
        self, report: TlsReport, delivery: ReportDelivery, endpoint: MailEndpoint, signer: Signer
    ) -> None:
        """Queue the mail, once: its queue id was fixed before, so that one who comes after a crash finds it."""
        if await self._queue.show(delivery.queue_id):
            return
        mail = build_mail(report, endpoint, delivery.number, self._clock.now())
        signed = await asyncio.to_thread(signer.sign, mail, SIGNED_FIELDS)
        await self._queue.enqueue(_message(report, delivery, endpoint, signed))


def is_left_out(domain: str, patterns: Sequence[str]) -> bool:
    """Whether one of the patterns (`*.x`: all below x) fits. What reports tell of us is ours to keep (RFC 8460 §8)."""
    return any(domain.endswith(one[1:]) if one.startswith("*.") else domain == one for one in patterns)


def record_name(domain: str) -> str:
    """Where a domain says what becomes of reports on it (RFC 8460 §3)."""
    return f"_smtp._tls.{domain}"


def endpoints_in(answer: Found[bytes] | Absent) -> Sequence[Endpoint]:
    """Where a domain wants its reports, by the answer for `record_name`."""
    record = parse_record(answer.records) if isinstance(answer, Found) else NoReporting(reason="there is no record")
    return record.endpoints if isinstance(record, ReportingRecord) else ()


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
