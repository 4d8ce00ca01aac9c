"""Replies that are counted and read strictly, under aiosmtplib's client (RFC 5321 §4.2, RFC 2920).

aiosmtplib keeps what a server says too much and takes it for the reply to a later command. So reading is ours: each
command owes one reply, and a byte beyond the replies still owed ends the connection.

Limits: a reply that arrives after a command was written, but before the host has read it, looks like its own.
"""

import asyncio
import socket
import ssl
from collections import deque
from collections.abc import Callable
from datetime import timedelta
from typing import cast

from aiosmtplib import SMTP
from aiosmtplib.protocol import SMTPProtocol
from aiosmtplib.response import SMTPResponse

from policy.sockets import connected
from policy.tls_facts import TlsFailure
from relay.delivery.deadline import Deadline
from relay.delivery.replies import ReplyError, ReplyParser, clean
from relay.queue.attempt import FailureKind
from relay.status import Reply


class LinkError(Exception):
    """The connection failed us. `reply` is set if it was a reply that ended it; `__cause__` has the foreign error.

    `tls` says what of a session was not as demanded, where a handshake came to its end.
    """

    def __init__(
        self, kind: FailureKind, detail: str, reply: Reply | None = None, tls: TlsFailure | None = None
    ) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
        self.reply = reply
        self.tls = tls


TLS_OVERHEAD = 512
"""Octets that TLS may add to a group of commands."""


class Answers:
    """The replies that one transaction is owed, or the session around them. Nobody else's can come between.

    `fault` is why they cannot be believed; it outranks those not yet taken. `content_end`: how much will have been
    written once the content is out; what is said to it before is no reply.
    """

    __slots__ = ("_protocol", "_replies", "_waiter", "content_end", "fault", "limit", "owed")

    def __init__(self, protocol: "ReplyProtocol") -> None:
        self.owed = 0
        self.fault: LinkError | None = None
        self.limit: timedelta | None = None
        self.content_end: int | None = None
        self._protocol = protocol
        self._replies: deque[Reply] = deque()
        self._waiter: asyncio.Future[None] | None = None

    @property
    def reached(self) -> bool:
        """Whether all that was owed to others before has come."""
        return not self.owed or self._protocol.line[0] is self

    async def next(self, limit: timedelta) -> Reply:
        """Return the next reply. Its time begins when it is the next to come. Raises LinkError."""
        while self.fault is not None or not self._replies:
            if self.fault is not None:
                raise self.fault
            if (end := self._protocol.end) is not None:
                raise end
            self._waiter = waiter = asyncio.get_running_loop().create_future()
            self.limit = limit
            if self.reached:
                self._protocol.deadline.set(limit)
            try:
                await waiter
            finally:
                self._waiter = self.limit = None
        return self._replies.popleft()

    # What the protocol calls.

    def give(self, reply: Reply) -> None:
        self.owed -= 1
        self._replies.append(reply)
        if self._waiter is not None:
            self.wake()

    def wake(self) -> None:
        waiter, self._waiter = self._waiter, None
        if waiter is not None and not waiter.done():
            waiter.set_result(None)


class ReplyProtocol(SMTPProtocol):
    """Deals out replies in the order in which they are owed, and puts together what is written in one turn.

    `line`: to whom the host still owes replies, in this order. `fault` is why the host can no longer be believed,
    `end` why no more can come. `leaving`: QUIT is out, and the last reply closes the connection. `on_reply` hears of
    replies outside any transaction.
    """

    def __init__(self, on_lost: Callable[[SMTPProtocol], None]) -> None:
        super().__init__(asyncio.get_running_loop(), on_lost)
        self.line: deque[Answers] = deque()
        self.end: LinkError | None = None
        self.fault: LinkError | None = None
        self.closed: asyncio.Future[None] = self._loop.create_future()
        self.leaving = False
        self.written = 0
        self.deadline = Deadline(self._too_late)
        self.on_reply: Callable[[Reply], None] = lambda _reply: None
        self._parser = ReplyParser()
        self._latest: Answers | None = None
        self._unwanted: Answers | None = None
        self._waiting: list[bytes] = []
        self._session = Answers(self)
        self.expect(self._session, 1)  # the greeting

    @property
    def usable(self) -> bool:
        """Whether commands can still be given and replies come."""
        if self.end is not None or self.leaving or self._unwanted is not None:
            return False
        return self.transport is not None and not self.transport.is_closing()

    def expect(self, answers: Answers, replies: int) -> None:
        """Note that so many replies are owed to `answers`, after all that are owed already."""
        if not answers.owed:
            self.line.append(answers)
        answers.owed += replies

    async def reply(self, limit: timedelta) -> Reply:
        """Return the next reply that is owed outside any transaction. Raises LinkError."""
        reply = await self._session.next(limit)
        self.on_reply(reply)
        return reply

    def write(self, octets: bytes) -> None:
        """Write at the end of this turn of the loop, together with whatever else is written in it."""
        if not self._waiting:
            self._loop.call_soon(self.flush)
        self._waiting.append(octets)
        self.written += len(octets)

    def write_now(self, octets: bytes | memoryview) -> None:
        self.flush()
        self.written += len(octets)
        self._out.write(octets)

    def flush(self) -> None:
        if self._waiting:
            octets, self._waiting = b"".join(self._waiting), []
            if self.end is None:
                self._out.write(octets)

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
        if ended := self.fault or self.end:
            raise ended

    def abandon(self, answers: Answers) -> None:
        """Close without a word, but not before others have had their replies. Nothing is written any more."""
        if answers.reached:
            self.abort()
        else:
            self._unwanted = answers

    def abort(self) -> None:
        """Close at once. During a handshake asyncio would not tell us that the connection is lost."""
        if not self.closed.done():
            self.end = self.end or broken_off()
            if self.transport is not None:
                self._out.abort()
            self._loop.call_soon(self.connection_lost, None)

    # What aiosmtplib calls, in the same step as it writes a command.

    async def read_response(self, timeout: float | None = None) -> SMTPResponse:
        assert timeout is not None, "every command has a limit"
        self.expect(self._session, 1)
        return as_response(await self.reply(timedelta(seconds=timeout)))

    # What asyncio calls.

    def data_received(self, data: bytes) -> None:
        if self.end is not None:
            return
        if not self.line:
            self._give_up(f"the host said something unasked: {clean(data.strip())}")
            return
        try:
            for reply in self._parser.feed(data):
                if not self._deal(reply):
                    return
        except ReplyError as error:
            self._give_up(f"the host sent {error}")
            return
        if not self.line:
            if self._parser.unfinished:
                self._give_up(f"the host said more than it was asked: {clean(data.strip())}")
            elif self.leaving:
                self.abort()
        self._time_next()

    def eof_received(self) -> bool:
        self._finish(broken_off())
        self.abort()
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        if self.closed.done():
            return
        self.deadline.close()
        self.closed.set_result(None)
        super().connection_lost(exc)
        self._finish(broken_off())

    def _deal(self, reply: Reply) -> bool:
        """Give a reply to whose turn it is; False if nothing more is to be looked at."""
        line = self.line
        if not line:
            self._give_up(f"the host said more than it was asked: {reply}")
            return False
        answers = self._latest = line[0]
        if answers.content_end is not None and answers.owed == 1 and self._is_within(answers.content_end):
            self._give_up("the host answered before it had the whole content")
            return False
        answers.give(reply)
        if not answers.owed:
            line.popleft()
            if self._unwanted is not None and line[0] is self._unwanted:
                self.abort()
                return False
        return True

    def _time_next(self) -> None:
        """Begin the time of the reply that is the next to come, if somebody waits for it already."""
        limit = self.line[0].limit if self.line else None
        if limit is None:
            self.deadline.clear()
        else:
            self.deadline.set(limit)

    def _give_up(self, why: str) -> None:
        """Believe the host no more, nor what it has just said to whose turn it is; what it said to others stands.

        Where nothing is owed any more, it is still the turn of the latest.
        """
        self.fault = LinkError(FailureKind.PROTOCOL, why)
        for answers in self.line or (self._latest or self._session,):
            answers.fault = self.fault
        self._finish(self.fault)
        self.abort()

    def _too_late(self) -> None:
        limit = self.line[0].limit if self.line else None
        waited = f" within {limit.total_seconds():g} s" if limit is not None else ""
        self._finish(LinkError(FailureKind.TIMEOUT, f"the host did not answer{waited}"))

    def _finish(self, why: LinkError) -> None:
        self.end = self.end or why
        for answers in self.line:
            answers.wake()

    def _is_within(self, content_end: int) -> bool:
        """Whether some of the content is still here. What is behind it may take a little more room under TLS."""
        behind = self.written - content_end
        unwritten = self._out.get_write_buffer_size() + sum(map(len, self._waiting))
        return unwritten > behind + (TLS_OVERHEAD if behind else 0)

    @property
    def _out(self) -> asyncio.WriteTransport:
        return cast("asyncio.WriteTransport", self.transport)


class SmtpClient(SMTP):
    """aiosmtplib's client on our protocol. It never waits for a peer to close, which under TLS can take 30 s."""

    protocol: ReplyProtocol | None

    def __init__(
        self,
        *,
        local_hostname: str,
        greeting_limit: timedelta,
        handshake_limit: timedelta,
        on_connected: Callable[[ReplyProtocol | None], None],
    ) -> None:
        super().__init__(local_hostname=local_hostname, start_tls=False)
        self.tls_from_start: tuple[ssl.SSLContext, str] | None = None
        self._greeting_limit = greeting_limit
        self._handshake_limit = handshake_limit
        self._on_connected = on_connected

    async def _create_connection(self, timeout: float | None) -> SMTPResponse:
        """Connect within `timeout`, then wait for the greeting within a limit of its own; return it, whatever it is."""
        assert self.hostname is not None
        assert self.port is not None
        loop = asyncio.get_running_loop()
        protocol = ReplyProtocol(self._on_connection_lost)
        async with asyncio.timeout(timeout):
            if self.tls_from_start is not None:
                family = socket.AF_INET6 if ":" in self.hostname else socket.AF_INET
                sock = await connected(family, (self.hostname, self.port), self.source_address)
            else:
                transport, _ = await loop.create_connection(
                    lambda: protocol, host=self.hostname, port=self.port, local_addr=self.source_address
                )
        if self.tls_from_start is not None:
            transport = await self._shake_hands(sock, protocol, *self.tls_from_start)
        self.protocol, self.transport = protocol, transport
        self._on_connected(protocol)
        return as_response(await protocol.reply(self._greeting_limit))

    async def _shake_hands(
        self, sock: socket.socket, protocol: ReplyProtocol, context: ssl.SSLContext, server_name: str
    ) -> asyncio.Transport:
        """Nothing is read but by TLS: what a host says in plaintext before it is no greeting."""
        self._on_connected(None)
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._handshake_limit.total_seconds()):
                transport, _ = await loop.create_connection(
                    lambda: protocol, sock=sock, ssl=context, server_hostname=server_name
                )
        except (OSError, ValueError) as error:  # a TimeoutError is an OSError
            raise LinkError(FailureKind.HANDSHAKE, str(error)) from error
        return transport

    def close(self) -> None:
        if self.protocol is not None:
            self.protocol.abort()
        super().close()


def unless_closing(reply: Reply) -> Reply:
    """Return the reply. Raises LinkError if it is 421: the host says that it closes the connection."""
    if reply.code == 421:
        raise LinkError(FailureKind.REPLY, f"the host said {reply}", reply)
    return reply


def broken_off() -> LinkError:
    return LinkError(FailureKind.BROKEN_OFF, "the host closed the connection")


def as_response(reply: Reply) -> SMTPResponse:
    """Return the reply as aiosmtplib has it; cleaned lines hold no LF, so that `as_reply` loses nothing."""
    return SMTPResponse(reply.code, "\n".join(reply.lines))


def as_reply(code: int, message: str) -> Reply:
    return Reply(code, tuple(message.split("\n")))
