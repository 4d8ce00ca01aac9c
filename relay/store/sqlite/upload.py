"""Big content on its way in, in transactions so short that nobody waits for them."""

from collections.abc import Callable
from functools import partial

from relay.queue.message import StoredContent
from relay.store.sqlite import intake
from relay.store.sqlite.intake import CHUNK_SIZE
from relay.store.sqlite.writer import Writer


class SqliteUpload:
    """Implements relay.store.protocols.Upload. After an error the upload is of no use but to be discarded."""

    def __init__(self, writer: Writer, content_id: int, incarnation: str, now: Callable[[], int]) -> None:
        self._writer = writer
        self._content_id = content_id
        self._incarnation = incarnation
        self._now = now
        self._waiting = bytearray()
        self._pieces = 0
        self._size = 0

    async def append(self, data: bytes) -> None:
        self._waiting += data
        while len(self._waiting) >= CHUNK_SIZE:
            await self._write(CHUNK_SIZE)

    async def finish(self) -> StoredContent:
        if self._waiting:
            await self._write(len(self._waiting))
        return StoredContent(content_id=self._content_id, size=self._size)

    async def discard(self) -> None:
        self._waiting.clear()
        await self._writer.run(
            partial(intake.discard_upload, content_id=self._content_id, incarnation=self._incarnation)
        )

    async def _write(self, length: int) -> None:
        piece = bytes(memoryview(self._waiting)[:length])
        append = partial(
            intake.append_upload,
            content_id=self._content_id,
            incarnation=self._incarnation,
            piece=piece,
            number=self._pieces,
            now=self._now(),
        )
        await self._writer.run(append, size=length)
        self._pieces += 1
        self._size += length
        del self._waiting[:length]
