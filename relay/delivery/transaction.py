"""One mail transaction: MAIL, RCPT and DATA in one flight, the content, and a reply for each recipient.

RFC 5321 §3.3, RFC 2920 (pipelining), RFC 9422 (LIMITS). Replies are told apart by counting alone; each has the limit
of its phase, from the reply before it.

A small content goes in the same flight, as the one chunk of a BDAT (RFC 3030), where the host has shown that it skips
what it does not want. At most two messages are then on their way over a connection: one whose reply is the next to
come, and one behind it, with RSET between them, because what becomes of the first is not known yet.
"""

from collections.abc import AsyncIterator, Callable, Sequence
from datetime import timedelta

from relay.delivery.commands import mail_command, needs_smtputf8, rcpt_command, unmet_need
from relay.delivery.dot_stuffing import DotStuffer, chunk
from relay.delivery.link import Link
from relay.delivery.protocol import LinkError, unless_closing
from relay.delivery.seam import BLOCK, HostError, Parcel, SendResult
from relay.delivery.timeouts import Timeouts
from relay.queue.attempt import FailureKind, HostFailure, Phase
from relay.queue.message import Recipient
from relay.status import Reply

_SIZE_OR_QUOTA = frozenset({(2, 2), (2, 3), (3, 4)})
"""Subject and detail of a 452 or 552 that is about this message or mailbox (RFC 3463 §3.3, §3.4)."""


class LapsedError(Exception):
    """A connection that carried mail before ended before the reply to MAIL. Nothing was charged: try a fresh one."""


class Transaction:
    """To be run once.

    `by_chunk`: content may go before its recipients are accepted. `on_sent` is called right before the last of it is
    written, if nothing more is to be sent for this parcel: the next transaction may begin.

    `committing`: the host has all of the content, and what it makes of it is not known yet. `ahead`: it began before
    the one ahead was answered. `lapsed`: the connection ended before the reply to MAIL; `hung_up`: because the host
    closed it. `out_of_step`: the host seems not to bear with overlapping. `skipped`: it has skipped the content that it
    was tried with, and is in step still. `chunk_answered`, `chunk_lost`: what came of content that went ahead, unless
    others are to blame.
    """

    def __init__(
        self,
        link: Link,
        parcel: Parcel,
        *,
        timeouts: Timeouts,
        max_recipients: int,
        reused: bool,
        by_chunk: bool = False,
        on_sent: Callable[[], None] = lambda: None,
    ) -> None:
        self.committing = False
        self.ahead = not link.usable
        self.lapsed = False
        self.hung_up = False
        self.out_of_step = False
        self.skipped = False
        self.chunk_answered = False
        self.chunk_lost = False
        self.mail_answered = False
        self._link = link
        self._answers = link.answers()
        self._offered = link.offered
        self._parcel = parcel
        self._size = _size(parcel)
        self._timeouts = timeouts
        self._max_recipients = min(max_recipients, link.offered.rcpt_max or max_recipients)
        self._reused = reused
        self._on_trial = link.on_trial
        self._on_sent = on_sent
        self._phase = Phase.EHLO
        content = parcel.content
        self._chunk = content if by_chunk and isinstance(content, bytes) and len(content) <= BLOCK else None
        self._in_doubt = False
        self._accepted: list[int] = []
        self._postponed: list[int] = []
        self._replies: dict[int, Reply] = {}
        self._failure: HostFailure | None = None

    async def run(self) -> SendResult:
        """Return what came of it. Raises HostError or LapsedError. Where replies are missing the link is closed."""
        lacking = unmet_need(self._parcel.message, self._size, self._offered)
        if lacking is not None:
            raise HostError(lacking, self._phase)
        recipients = self._recipients_to_offer()
        try:
            await self._converse(recipients)
            self.skipped = self._on_trial
        except LinkError as error:
            self._link.abort()
            self._judge(error)
            if self.lapsed:
                raise LapsedError from error
            self._failure = self._broken_off(error)
            self._postponed.clear()  # they too are for the next host
        except BaseException:
            self._link.abandon(self._answers)
            raise
        finally:
            self.committing = False
        return self._result()

    def _judge(self, error: LinkError) -> None:
        """Say whose fault the end is. What the one ahead met with says nothing about this message.

        What is odd, but for an end that any connection may come to, is blamed on transactions that overlap. Who comes
        to such an end before the reply to MAIL counts as not having read on; of others nobody knows.
        """
        self.hung_up = _is_hanging_up(error)
        if self.hung_up and (error.reply is not None or not self.mail_answered):
            self._in_doubt = False
        if not self._in_doubt:
            in_vain = not self.mail_answered and (self.ahead or self.hung_up)
            self.lapsed = self._reused and (in_vain or self._on_trial)
        self.out_of_step = self.ahead and not (self._answers.reached and self.hung_up)
        self.chunk_lost = self._chunk is not None and self._answers.reached

    def _recipients_to_offer(self) -> Sequence[Recipient]:
        """Return the recipients of this transaction; note those that the host cannot have, and those for the next."""
        recipients = self._parcel.recipients
        if not self._offered.smtputf8:
            recipients = tuple([one for one in recipients if not needs_smtputf8(one.forward_path)])
        if len(recipients) < len(self._parcel.recipients):
            detail = "the recipient's address has characters beyond ASCII, and the host does not offer SMTPUTF8"
            self._failure = HostFailure(kind=FailureKind.SMTPUTF8, detail=detail)
            if not recipients:
                raise HostError(self._failure, self._phase)
        self._postponed = [one.id for one in recipients[self._max_recipients :]]
        return recipients[: self._max_recipients]

    # The conversation. It raises LinkError where the host breaks off or falls out of step.

    async def _converse(self, recipients: Sequence[Recipient]) -> None:
        mail, *rcpts = commands = self._commands(recipients)
        if self._link.reset_due is not None:
            self._link.say_reset()
        if self._chunk is not None:
            self._send_all(commands, chunk(self._chunk))
        elif self._offered.pipelining:
            # RFC 2920 §3.1: DATA is the last of its group. Replies are read while this is still being written.
            self._link.pipeline(b"".join(commands) + b"DATA\r\n", self._answers, len(commands) + 1)
        if not await self._link.was_reset():
            if self._in_doubt:
                raise LinkError(FailureKind.PROTOCOL, "the host refused RSET")
            raise LapsedError
        reply = await self._answer(mail, Phase.MAIL, self._timeouts.mail)
        self.mail_answered = True
        if self._chunk is not None and self.ahead:
            self._leave_to_next()
        if not _is_completion(reply):
            self._refused(reply)
            await self._read_out(len(rcpts))
            return
        for recipient, rcpt in zip(recipients, rcpts, strict=True):
            self._take(recipient.id, await self._answer(rcpt, Phase.RCPT, self._timeouts.rcpt))
        if not self._accepted:
            await self._end_empty()
        elif self._chunk is not None:
            await self._hear_verdict()
        else:
            await self._send_data()

    def _send_all(self, commands: Sequence[bytes], content: bytes) -> None:
        """Send envelope and content at once. Behind another message, who comes next waits until that is answered."""
        if not self.ahead:
            self._leave_to_next()
        flight = b"".join([*commands, b"BDAT %d LAST\r\n" % len(content), content])
        self._in_doubt = self.committing = self._link.pipeline(flight, self._answers, len(commands) + 1)
        self._link.reset_due = self._answers

    async def _send_data(self) -> None:
        reply = await self._answer(b"DATA\r\n", Phase.DATA, self._timeouts.data)
        if reply.code == 354:
            await self._send_content()
        else:
            self._decide(reply, taken=False)
            self._reset()

    def _commands(self, recipients: Sequence[Recipient]) -> list[bytes]:
        message, offered = self._parcel.message, self._offered
        # RFC 6531 §3.4: only where the envelope or the header needs it.
        smtputf8 = (
            message.utf8_header
            or needs_smtputf8(message.envelope.reverse_path)
            or any(needs_smtputf8(one.forward_path) for one in recipients)
        )
        mail = mail_command(message, self._size, offered, smtputf8=smtputf8)
        return [mail] + [rcpt_command(one, offered, smtputf8=smtputf8) for one in recipients]

    async def _answer(self, command: bytes, phase: Phase, limit: timedelta) -> Reply:
        """Return the reply to a command, which is written now unless the whole group is out already."""
        self._phase = phase
        if not self._offered.pipelining:
            self._link.pipeline(command, self._answers, 1)
        return unless_closing(await self._answers.next(limit))

    def _refused(self, reply: Reply) -> None:
        """MAIL was not accepted: 5yz is for every recipient, 4yz is about the host."""
        self._in_doubt = False
        if reply.permanent:
            self._postponed.clear()
            self._failure = None
            self._replies = {one.id: reply for one in self._parcel.recipients}
        elif reply.transient:
            self._failure = HostFailure(kind=FailureKind.REPLY, detail=f"the host said {reply}", reply=reply)
        else:
            raise _out_of_order(reply)

    def _take(self, recipient: int, reply: Reply) -> None:
        if _is_completion(reply):
            self._accepted.append(recipient)
        elif reply.positive:
            raise _out_of_order(reply)
        elif self._accepted and _is_too_many(reply):
            self._postponed.append(recipient)
        else:
            self._replies[recipient] = reply

    async def _send_content(self) -> None:
        self._phase = Phase.CONTENT
        content = self._parcel.content
        if isinstance(content, bytes) and len(content) <= BLOCK:
            stuffer = DotStuffer()
            last = stuffer.feed(content) + stuffer.finish()
        else:
            last = await self._stream(content)
        await self._end_content(last)

    async def _stream(self, content: bytes | Callable[[], AsyncIterator[bytes]]) -> bytes:
        """Send all but the last of it, which is returned with the final dot."""
        stuffer = DotStuffer()
        waiting = b""
        async for piece in _pieces(content):
            await self._link.stream(waiting)
            waiting = stuffer.feed(piece)
        return waiting + stuffer.finish()

    async def _end_content(self, last: bytes) -> None:
        self._leave_to_next()
        self._link.end_content(last, self._answers)
        self._in_doubt = self.committing = True
        await self._hear_verdict()

    def _leave_to_next(self) -> None:
        """Whoever is next writes in the turn of the loop that begins now, and so in one group with this one."""
        if not self._postponed:
            self._on_sent()

    async def _hear_verdict(self) -> None:
        """Take in the reply to all of the content."""
        self._phase = Phase.END_OF_DATA
        reply = await self._answers.next(self._timeouts.data_end)
        self._decide(reply, taken=_is_completion(reply))
        self._in_doubt = False
        if reply.code == 421:
            self._link.retire()
        if self._chunk is not None:
            self._end_chunk(reply)

    def _decide(self, reply: Reply, *, taken: bool) -> None:
        """RFC 5321 §4.1.1.4: what is said to DATA and to its end holds for all accepted recipients alike."""
        if reply.positive and not taken:
            raise _out_of_order(reply)
        self._replies.update(dict.fromkeys(self._accepted, reply))

    def _end_chunk(self, reply: Reply) -> None:
        """RFC 3030 §2: a transaction whose chunk was refused stands until RSET, which the next one may have said."""
        self.chunk_answered = True
        if self._link.reset_due is self._answers:
            if _is_completion(reply):
                self._link.reset_due = None
            else:
                self._link.say_reset()

    # What is owed when there is nothing to send.

    async def _read_out(self, rcpts: int) -> None:
        """Read the rest of a flight whose MAIL was refused: its replies decide nothing, and can spoil nothing."""
        if not self._offered.pipelining:
            return
        try:
            for _ in range(rcpts):
                await self._answers.next(self._timeouts.rcpt)
            await self._end_empty()
        except LinkError as error:
            self._link.abort()
            self._judge(error)

    async def _end_empty(self) -> None:
        """No recipient was accepted. RFC 2920 §3.1: if the host wants content all the same, it gets a lone dot."""
        self._in_doubt = False
        if self._chunk is not None:
            reply = await self._answers.next(self._timeouts.data_end)
            if reply.positive:
                raise _out_of_order(reply)
            self._end_chunk(reply)
            return
        if self._offered.pipelining:
            reply = await self._answers.next(self._timeouts.data)
            if reply.code == 354:
                self._link.end_content(b".\r\n", self._answers)
                await self._answers.next(self._timeouts.data)
                return
        self._reset()

    def _reset(self) -> None:
        """Say RSET, and leave its reply to the next transaction: this one's results are known.

        Without PIPELINING nothing may follow before that reply, not even QUIT: RSET itself is left for then.
        """
        if self._offered.pipelining:
            self._link.say_reset()
        else:
            self._link.reset_due = self._answers

    # What came of it.

    def _broken_off(self, error: LinkError) -> HostFailure:
        unknown = ""
        if self._in_doubt:
            self._phase = Phase.END_OF_DATA
            unknown = "; it had the whole message, and whether it keeps it is not known"
        return HostFailure(kind=error.kind, detail=error.detail + unknown, reply=error.reply)

    def _result(self) -> SendResult:
        if self._failure is not None and not self._replies and not self._in_doubt:
            raise HostError(self._failure, self._phase)
        return SendResult(
            replies=self._replies,
            phase=self._phase,
            postponed=tuple(self._postponed),
            failure=self._failure if self._failure is not None and self._is_unfinished() else None,
            dsn=self._offered.dsn,
        )

    def _is_unfinished(self) -> bool:
        """Whether a recipient has neither a reply nor another transaction to come."""
        settled = self._replies.keys() | set(self._postponed)
        return any(one.id not in settled for one in self._parcel.recipients)


def _size(parcel: Parcel) -> int:
    """Return the octets to be sent, without stuffed dots and final dot (RFC 1870 §5)."""
    content = parcel.content
    if isinstance(content, bytes):
        return len(content) + (0 if content.endswith(b"\r\n") or not content else 2)
    return parcel.message.size


async def _pieces(content: bytes | Callable[[], AsyncIterator[bytes]]) -> AsyncIterator[bytes]:
    if isinstance(content, bytes):
        for start in range(0, len(content), BLOCK):
            yield content[start : start + BLOCK]
        return
    async for piece in content():
        for start in range(0, len(piece), BLOCK):
            yield piece[start : start + BLOCK]


def _is_completion(reply: Reply) -> bool:
    """RFC 5321 §4.2.1: unknown codes count by their first digit."""
    return 200 <= reply.code < 300


def _is_too_many(reply: Reply) -> bool:
    """RFC 5321 §4.5.3.1.10: 452, or 552 from old hosts, says that this transaction is full."""
    status = reply.status
    return reply.code in (452, 552) and (status.subject, status.detail) not in _SIZE_OR_QUOTA


def _is_hanging_up(error: LinkError) -> bool:
    return error.kind is FailureKind.BROKEN_OFF or (error.reply is not None and error.reply.code == 421)


def _out_of_order(reply: Reply) -> LinkError:
    return LinkError(FailureKind.PROTOCOL, f"the host answered out of order: {reply}")
