"""Builds the notices that a settlement needs, with what they return fetched from the store (RFC 3464)."""

from collections.abc import Callable, Sequence
from datetime import datetime

from policy.names import InvalidNameError
from relay import events
from relay.queue.attempt import Attempt
from relay.queue.message import Job, NewMessage
from relay.queue.notice import NoticeRequest
from relay.reports.ndr import NoticeSettings, build_notice, wants_content
from relay.store.protocols import QueueStore


class NoticeWriter:
    """`new_id` gives queue ids for the notices."""

    def __init__(self, *, store: QueueStore, settings: NoticeSettings, new_id: Callable[[], str]) -> None:
        self._store = store
        self._settings = settings
        self._new_id = new_id

    async def write(
        self,
        requests: Sequence[NoticeRequest],
        job: Job,
        attempt: Attempt | None,
        now: datetime,
        *,
        readable: bool = True,
    ) -> tuple[tuple[NoticeRequest, NewMessage], ...]:
        """Return the notices, not yet committed. Raises StoreError if the original cannot be read.

        If it is not `readable`, nothing of it is returned.
        """
        written = [(request, await self._write(request, job, attempt, now, readable=readable)) for request in requests]
        return tuple((request, notice) for request, notice in written if notice is not None)

    async def _write(
        self, request: NoticeRequest, job: Job, attempt: Attempt | None, now: datetime, *, readable: bool
    ) -> NewMessage | None:
        returned = await self._original(request, job) if readable else b""
        try:
            return build_notice(request, job, attempt, returned, now, self._settings, queue_id=self._new_id())
        except InvalidNameError as error:
            events.notice_impossible(job, str(error))
            return None

    async def _original(self, request: NoticeRequest, job: Job) -> bytes:
        """What the notice returns: the content, or its header section."""
        queue_id = job.message.queue_id
        if wants_content(request, job, self._settings):
            return b"".join([piece async for piece in self._store.content(queue_id)])
        return await self._store.headers(queue_id)
