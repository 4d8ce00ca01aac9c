"""Replies that are counted and read strictly, under aiosmtplib's client (RFC 5321 §4.2, RFC 2920).

aiosmtplib keeps what a server says too much and takes it for the reply to a later command. So reading is ours: each
command owes one reply, and a byte beyond the replies still owed ends the connection.

Limits: a reply that arrives after a command was written, but before the host has read it, looks like its own.
"""

import asyncio
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from aiosmtplib import SMTP
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from relay.delivery.deadline import Deadline
from relay.delivery.replies import ReplyError, ReplyParser, clean
from relay.queue.attempt import FailureKind
from relay.status import Reply


class LinkError(Exception):
    """The connection failed us. `reply` is set if it was a reply that ended it; `__cause__` has the foreign error."""

    def __init__(self, kind: FailureKind, detail: str, reply: Reply | None = None) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reply = reply


class ReplyProtocol(SMTPProtocol):
    """Counts replies. `fault` is why the host can no longer be believed; it outranks replies not yet taken.

    `owed`: replies that the host has still to give. `content_out`: the end of the data is written, but some of the
    content may still be here. `leaving`: QUIT is out, and the last reply closes the connection.
    """

    def __init__(self, on_lost: Callable[[SMTPProtocol], None]) -> None:
        super().__init__(asyncio.get_running_loop(), on_lost)
        self.owed = 1  # the greeting
        self.fault: LinkError | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.content_out = False
        self.leaving = False
        self._parser = ReplyParser()
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None
        self._ended = False
        self._late = False
        self._deadline = Deadline(self._too_late)

    @property
    def usable(self) -> bool:
        """Whether commands can still be given and replies come."""
        return not (self.fault or self._ended or self._late or self.leaving)

    async def reply(self, limit: timedelta) -> Reply:
        """Return the next reply owed. Raises LinkError: TIMEOUT, BROKEN_OFF or PROTOCOL."""
        while not self._replies or self.fault is not None:
            if self.fault is not None:
                raise self.fault
            if self._ended:
                raise broken_off()
            if self._late:
                detail = f"the host did not answer within {limit.total_seconds():g} s"
                raise LinkError(FailureKind.TIMEOUT, detail)
            self._waiter = self._loop.create_future()
            self._deadline.set(limit)
            try:
                await self._waiter
            finally:
                self._waiter = None
                self._deadline.clear()
        return self._replies.popleft()

    async def drain(self, limit: timedelta) -> None:
        """Wait until there is room for more. Raises LinkError if there is none in time, or never will be."""
        try:
            async with asyncio.timeout(limit.total_seconds()):
                await self._drain_helper()
        except TimeoutError:
            detail = f"the host took no more of the content for {limit.total_seconds():g} s"
            raise LinkError(FailureKind.TIMEOUT, detail) from None
        except OSError as error:
            raise self.fault or broken_off() from error
        if self.fault is not None:
            raise self.fault
        if self._ended:
            raise broken_off()

    def abort(self) -> None:
        """Close at once. During a handshake asyncio would not tell us that the connection is lost."""
        if not self.closed.done():
            if self.transport is not None:
                cast("asyncio.WriteTransport", self.transport).abort()
            self._loop.call_soon(self.connection_lost, None)

    # What aiosmtplib calls, in the same step as it writes a command.

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        assert timeout is not None, "every command has a limit"
        self.owed += 1
        return as_response(await self.reply(timedelta(seconds=timeout)))

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        if self.fault is not None or self._ended:
            return
        if self.owed == 0:
            self._give_up(f"the host said something unasked: {clean(data.strip())}")
            return
        try:
            replies = self._parser.feed(data)
        except ReplyError as error:
            self._give_up(f"the host sent {error}")
            return
        self.owed -= len(replies)
        if self.owed < 0 or (self.owed == 0 and self._parser.unfinished):
            self._give_up(f"the host said more than it was asked: {clean(data.strip())}")
        elif self.content_out and self._unwritten():
            self._give_up("the host answered before it had the whole content")
        elif self.leaving and self.owed == 0:
            self.abort()
        elif replies:
            self._replies.extend(replies)
            self._wake()

    def eof_received(self) -> bool:
        self._ended = True
        self._wake()
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed.done():
            return
        self._ended = True
        self._deadline.close()
        self.closed.set_result(None)
        super().connection_lost(exc)
        self._wake()

    def _give_up(self, why: str) -> None:
        self.fault = LinkError(FailureKind.PROTOCOL, why)
        self.abort()
        self._wake()

    def _too_late(self) -> None:
        self._late = True
        self._wake()

    def _unwritten(self) -> int:
        return cast("asyncio.WriteTransport", self.transport).get_write_buffer_size()

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)


class SmtpClient(SMTP):
    """aiosmtplib's client on our protocol. It never waits for a peer to close, which under TLS can take 30 s."""

    protocol: ReplyProtocol | None

    def __init__(
        self, *, local_hostname: str, greeting_limit: timedelta, on_connected: Callable[[ReplyProtocol], None]
    ) -> None:
        super().__init__(local_hostname=local_hostname, start_tls=False)
        self._greeting_limit = greeting_limit
        self._on_connected = on_connected

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:
        """Connect within `timeout`, then wait for the greeting within a limit of its own; return it, whatever it is."""
        assert self.hostname is not None
        assert self.port is not None
        loop = asyncio.get_running_loop()
        protocol = ReplyProtocol(self._on_connection_lost)
        async with asyncio.timeout(timeout):
            transport, _ = await loop.create_connection(
                lambda: protocol, host=self.hostname, port=self.port, local_addr=self.source_address
            )
        self.protocol, self.transport = protocol, transport
        self._on_connected(protocol)
        return as_response(await protocol.reply(self._greeting_limit))

    def close(self) -> None:
        if self.protocol is not None:
            self.protocol.abort()
        super().close()


def broken_off() -> LinkError:
    return LinkError(FailureKind.BROKEN_OFF, "the host closed the connection")


def as_response(reply: Reply) -> SMTPResponse:
    """Return the reply as aiosmtplib has it; cleaned lines hold no LF, so that `as_reply` loses nothing."""
    return SMTPResponse(reply.code, "\n".join(reply.lines))


def as_reply(code: int, message: str) -> Reply:
    return Reply(code, tuple(message.split("\n")))
