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

    refusal: str | None = None
    received = 0
    handed_over = False
    _held = 0
    _kept = 0
    _upload: Upload | None = None

    def __init__(self, *, head: bytes, settings: IngressSettings, store: QueueStore, budget: MemoryBudget) -> None:
        self._content = Content(bare_newlines=settings.bare_newlines, max_hops=settings.max_hops)
        self._most = settings.max_message_size
        self._hold_at_most = settings.upload_above
        self._store = store
        self._budget = budget
        self._parts = [head]

    @property
    def facts(self) -> ContentFacts:
        return self._content.facts

    @property
    def hopeless(self) -> bool:
        """Whether so much more than the maximum has come that reading on to be polite makes no sense."""
        return self.received > 2 * self._most

    @property
    def full(self) -> bool:
        """Whether `move_to_store` must be called before the next `write`."""
        return self._held > self._hold_at_most

    def write(self, data: bytes) -> None:
        """Take in un-stuffed octets, cut anyhow."""
        self.received += len(data)
        if self.refusal is None:
            self._keep(self._content.feed(data))

    async def move_to_store(self) -> None:
        """Move what is held into an upload."""
        try:
            # MAIL asked for the room that SIZE said; that need not be all, and others write at the same time.
            if not await self._store.room_for(self._held):
                self._refuse(STORE_FULL)
                return
            if self._upload is None:
                self._upload = await self._store.begin_upload()
                self._hold_at_most = _UPLOAD_PIECE
            await self._append(self._upload)
        except StoreError as error:
            self._refuse(store_refusal(error))

    async def finish(self) -> bytes | StoredContent | None:
        """Return the whole content, or None if there is a refusal. What was held stays reserved until `close`."""
        last = self._content.finish() if self.refusal is None else b""
        if last or self._content.problem is not None:
            self._keep(last)
        if self.full:
            await self.move_to_store()
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
            self._refuse(store_refusal(error))
            return None

    def close(self) -> bool:
        """Let go of all that is held; True if there is an upload to `discard`, which no message has taken over."""
        self._drop_parts()
        return self._upload is not None and not self.handed_over

    async def discard(self) -> None:
        """Remove the upload."""
        assert self._upload is not None
        with contextlib.suppress(StoreError):  # the store sweeps what nobody names
            await self._upload.discard()

    def _keep(self, data: bytes) -> None:
        self._kept += len(data)
        if self._content.problem is not None:
            self._refuse(_PROBLEMS[self._content.problem])
        elif self._kept > self._most:
            self._refuse(TOO_LARGE)
        elif not self._budget.take(len(data)):
            self._refuse(STORE_FULL)
        else:
            self._held += len(data)
            self._parts.append(data)

    async def _append(self, upload: Upload) -> None:
        piece = b"".join(self._parts)
        self._parts.clear()
        if piece:
            await upload.append(piece)
        self._drop_parts()  # not before: it takes memory until it is written

    def _refuse(self, reply: str) -> None:
        self.refusal = reply
        self._drop_parts()

    def _drop_parts(self) -> None:
        self._parts.clear()
        self._budget.give_back(self._held)
        self._held = 0


def store_refusal(error: StoreError) -> str:
    """The reply when the store cannot. The error's text goes to the log, never to a client."""
    events.ingress_store_failed(str(error))
    return STORE_FULL if isinstance(error, StoreFullError) else STORE_FAILED
