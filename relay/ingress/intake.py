"""Content on its way into the store: in memory as long as it is small, else in an upload. Bounded in either case."""

import contextlib

from relay import events
from relay.ingress.content import Content, ContentFacts, ContentProblem
from relay.ingress.limits import MemoryBudget
from relay.ingress.settings import IngressSettings
from relay.queue.message import StoredContent
from relay.store.protocols import QueueStore, StoreError, StoreFullError, Upload

TOO_LARGE = "552 5.3.4 Message size exceeds fixed maximum message size"
STORE_FULL = "452 4.3.1 Insufficient system storage"
STORE_FAILED = "451 4.3.0 Temporary failure, please try again later"

_PROBLEMS = {
    ContentProblem.NUL: "550 5.6.0 Message contains NUL characters",
    ContentProblem.BARE_NEWLINE: "550 5.6.11 Message contains a bare CR or LF; lines must end with CRLF",
    ContentProblem.LONG_LINE: "550 5.6.0 Message contains a line longer than 100000 octets",
    ContentProblem.LOOP: "554 5.4.6 Routing loop detected: too many Received fields",
}
_UPLOAD_PIECE = 256 * 1024


class Intake:
    """One message's content. Once there is a `refusal`, a whole reply line, the rest is dropped as it comes.

    `head` goes before the content and does not count towards its size. Limits: at most `upload_above` octets, and
    then one piece of 256 KiB, are held; all sessions together hold what `budget` allows.
    """

    def __init__(self, *, head: bytes, settings: IngressSettings, store: QueueStore, budget: MemoryBudget) -> None:
        self.refusal: str | None = None
        self.received = 0
        self.handed_over = False
        self._content = Content(bare_newlines=settings.bare_newlines, max_hops=settings.max_hops)
        self._most = settings.max_message_size
        self._upload_above = settings.upload_above
        self._store = store
        self._budget = budget
        self._parts = [head]
        self._held = 0
        self._kept = 0
        self._upload: Upload | None = None

    @property
    def facts(self) -> ContentFacts:
        return self._content.facts

    @property
    def hopeless(self) -> bool:
        """Whether so much more than the maximum has come that reading on to be polite makes no sense."""
        return self.received > 2 * self._most

    async def write(self, data: bytes) -> None:
        """Take in un-stuffed octets, cut anyhow."""
        self.received += len(data)
        if self.refusal is None:
            await self._keep(self._content.feed(data))

    async def finish(self) -> bytes | StoredContent | None:
        """Return the whole content, or None if there is a refusal. What was held stays reserved until `close`."""
        if self.refusal is None:
            await self._keep(self._content.finish())
        if self.refusal is not None:
            return None
        if self._upload is None:
            content = b"".join(self._parts)
            self._parts.clear()
            return content
        try:
            await self._append(self._upload)
            return await self._upload.finish()
        except StoreError as error:
            await self._refuse(store_refusal(error))
            return None

    async def close(self) -> None:
        """Let go of everything; an upload is removed, unless it was `handed_over` to a message."""
        self._drop_parts()
        upload, self._upload = self._upload, None
        if upload is not None and not self.handed_over:
            with contextlib.suppress(StoreError):  # the store sweeps what nobody names
                await upload.discard()

    async def _keep(self, data: bytes) -> None:
        self._kept += len(data)
        if self._content.problem is not None:
            await self._refuse(_PROBLEMS[self._content.problem])
        elif self._kept > self._most:
            await self._refuse(TOO_LARGE)
        elif not self._budget.take(len(data)):
            await self._refuse(STORE_FULL)
        else:
            self._held += len(data)
            self._parts.append(data)
            if self._held > (self._upload_above if self._upload is None else _UPLOAD_PIECE):
                await self._move_to_store()

    async def _move_to_store(self) -> None:
        try:
            # MAIL asked for the room that SIZE said; that need not be all, and others write at the same time.
            if not await self._store.room_for(self._held):
                await self._refuse(STORE_FULL)
                return
            if self._upload is None:
                self._upload = await self._store.begin_upload()
            await self._append(self._upload)
        except StoreError as error:
            await self._refuse(store_refusal(error))

    async def _append(self, upload: Upload) -> None:
        piece = b"".join(self._parts)
        self._parts.clear()
        if piece:
            await upload.append(piece)
        self._drop_parts()  # not before: it takes memory until it is written

    async def _refuse(self, reply: str) -> None:
        self.refusal = reply
        await self.close()

    def _drop_parts(self) -> None:
        self._parts.clear()
        self._budget.give_back(self._held)
        self._held = 0


def store_refusal(error: StoreError) -> str:
    """The reply when the store cannot. The error's text goes to the log, never to a client."""
    events.ingress_store_failed(str(error))
    return STORE_FULL if isinstance(error, StoreFullError) else STORE_FAILED
