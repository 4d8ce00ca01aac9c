"""What `queue drop` does: takes messages out of the queue, and tells their senders unless it is to be silent."""

from dataclasses import replace
from datetime import timedelta

from relay import events
from relay.clock import Clock
from relay.delivery.notices import NoticeWriter
from relay.queue.attempt import Attempt
from relay.queue.message import Job
from relay.queue.notice import drop_notice
from relay.store.protocols import QueueFilter, QueueStore

_AT_ONCE = 100


async def drop(which: QueueFilter, *, store: QueueStore, notices: NoticeWriter, clock: Clock, silent: bool) -> int:
    """Drop the queued and held jobs that are meant, each with its NDR in one transaction; return how many.

    Jobs that are being attempted just now are not touched, nor what comes in meanwhile: the NDRs of this very drop
    would else be among what `--all` means. Raises StoreError; what was dropped before stays so.
    """
    if which == QueueFilter():
        return 0
    began, dropped = clock.now(), 0
    while jobs := await store.claim_for_drop(_accepted_by(which, clock.now() - began), _AT_ONCE):
        for job in jobs:
            request = None if silent else drop_notice(job)
            written = (
                await notices.write([request], job, await _last_attempt(store, job), clock.now()) if request else ()
            )
            await store.drop(job, tuple(notice for _, notice in written))
            events.job_dropped(job, silent=silent)
            dropped += 1
    return dropped


def _accepted_by(which: QueueFilter, ago: timedelta) -> QueueFilter:
    return replace(which, older_than=max(which.older_than or timedelta(0), ago))


async def _last_attempt(store: QueueStore, job: Job) -> Attempt | None:
    entries = await store.show(job.message.queue_id)
    made = next((entry.attempts_made for entry in entries if entry.job_id == job.id), ())
    return made[-1] if made else None
