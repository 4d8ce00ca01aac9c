"""The content of a message and its commit: DATA (RFC 5321 §4.1.1.4) and BDAT (RFC 3030 §2)."""

import re
from collections.abc import Callable
from functools import partial

from relay import events
from relay.ingress.connection import GoodbyeError, Take
from relay.ingress.envelope import EnvelopeConnection, Transaction
from relay.ingress.framing import EndOfData
from relay.ingress.intake import STORE_FAILED, TOO_LARGE, Intake, store_refusal
from relay.ingress.settings import TlsRequiredNo
from relay.ingress.shared import MessageResult, TlsRequiredResult
from relay.ingress.trace import Protocol, received
from relay.queue.message import Envelope, NewMessage
from relay.store.protocols import StoreError

_BDAT = re.compile(rb"(?i)([0-9]{1,20})( +LAST)?")
_RESULTS = {"2": MessageResult.ACCEPTED, "4": MessageResult.DEFERRED, "5": MessageResult.REFUSED}


class TransferConnection(EnvelopeConnection):
    """A connection that takes messages: their content as it comes, and the reply that makes them ours."""

    _chunk_left: int = 0

    # -- DATA

    def data(self, argument: bytes) -> None:
        transaction = self.transaction
        if argument:
            self.complain("501 5.5.4 Syntax: DATA")
        elif transaction is None:
            self.complain("503 5.5.1 Send MAIL first")
        elif transaction.intake is not None or transaction.failed:
            self.complain("503 5.5.1 DATA after BDAT is not permitted")
        elif not transaction.recipients:
            self.complain("554 5.5.1 No valid recipients")
        else:
            intake = self._open_intake(transaction)
            self.reply("354 End data with <CR><LF>.<CR><LF>")
            self.at_command = False
            self.take = partial(self._take_data, transaction, intake, EndOfData())

    def _take_data(self, transaction: Transaction, intake: Intake, framing: EndOfData) -> bool:
        if intake.full:
            self.wait_for(intake.move_to_store())
        elif self.input:
            content, rest = framing.feed(self.input.take())
            intake.write(content)
            if rest is not None:
                if rest:
                    self.input.put_back(rest)
                self._await_command()
                self._message_ended(transaction, intake)
            elif intake.hopeless:
                raise self._too_large(transaction)
        else:
            return False
        return True

    # -- BDAT

    def bdat(self, argument: bytes) -> None:
        self.at_command = False  # the chunk is on its way, whatever we make of it
        match = _BDAT.fullmatch(argument)
        if match is None:
            # It has no known end, and its lines must not be taken for commands.
            raise GoodbyeError("501 5.5.4 Syntax: BDAT <size> [LAST]; closing connection")
        size, transaction = int(match[1]), self.transaction
        if size > 2 * self.shared.settings.max_message_size:
            raise self._too_large(transaction)
        self._chunk_left = size
        self.take = take = self._chunk_taker(transaction, size, last=match[2] is not None)
        if not size:  # nothing comes for which it would be asked
            take()

    def _chunk_taker(self, transaction: Transaction | None, size: int, *, last: bool) -> Take:
        if transaction is None:
            return partial(self._drop_chunk, "503 5.5.1 Send MAIL first")
        if transaction.failed:
            return partial(self._drop_chunk, "503 5.5.1 A chunk has failed, send RSET")
        if not transaction.recipients:
            return partial(self._drop_chunk, "554 5.5.1 No valid recipients")
        intake = transaction.intake or self._open_intake(transaction)
        ended = self._message_ended if last else partial(self._chunk_ended, size)
        return partial(self._take_chunk, transaction, intake, ended)

    def _take_chunk(self, transaction: Transaction, intake: Intake, ended: "_Ended") -> bool:
        if intake.full:
            self.wait_for(intake.move_to_store())
            return True
        piece = self.input.take(self._chunk_left)
        self._chunk_left -= len(piece)
        intake.write(piece)
        if self._chunk_left:
            return bool(piece)
        self._await_command()
        ended(transaction, intake)
        return True

    def _chunk_ended(self, size: int, transaction: Transaction, intake: Intake) -> None:
        if intake.refusal is not None:
            transaction.failed = True
            self._count(transaction, intake.refusal)
            self.reply(intake.refusal)
        else:
            self.reply(f"250 2.0.0 {size} octets received")

    def _drop_chunk(self, refusal: str) -> bool:
        dropped = len(self.input.take(self._chunk_left))
        self._chunk_left -= dropped
        if self._chunk_left:
            return dropped > 0
        self._await_command()
        self.complain(refusal)
        return True

    # -- either

    def _await_command(self) -> None:
        self.at_command = True
        self.take = self.take_command

    def _too_large(self, transaction: Transaction | None) -> GoodbyeError:
        """The end of a session whose client sends so much that reading on would be a waste."""
        if transaction is not None and not transaction.failed:
            self._count(transaction, TOO_LARGE)
        return GoodbyeError(TOO_LARGE)

    def _open_intake(self, transaction: Transaction) -> Intake:
        shared = self.shared
        client = self.client_facts
        transaction.queue_id = shared.new_id()
        only = transaction.recipients[0].forward_path if len(transaction.recipients) == 1 else None
        head = received(
            helo=self.helo,
            address=client.address,
            hostname=shared.settings.hostname,
            protocol=Protocol(
                extended=self.extended,
                tls_cipher=client.tls_cipher,
                authenticated=self.user is not None,
                smtputf8=transaction.parameters.smtputf8,
            ),
            queue_id=transaction.queue_id,
            forward_path=only,
            now=shared.clock.now(),
        )
        transaction.intake = Intake(head=head, settings=shared.settings, store=shared.store, budget=shared.budget)
        return transaction.intake

    # -- the commit

    def _message_ended(self, transaction: Transaction, intake: Intake) -> None:
        self.wait_for(self._finish(transaction, intake))

    async def _finish(self, transaction: Transaction, intake: Intake) -> None:
        """Commit, and only then say 250 (RFC 5321 §6.1)."""
        try:
            reply = await self._commit(transaction, intake)
        finally:
            self.end_transaction()
        if self._count(transaction, reply) is MessageResult.ACCEPTED:
            self.mistakes = self.idle_commands = 0
        self.reply(reply)

    def _count(self, transaction: Transaction, reply: str) -> MessageResult:
        """Take note of what a message came to, once for each."""
        result = _RESULTS[reply[0]]
        self.shared.message_results[result].inc()
        if result is not MessageResult.ACCEPTED:
            events.message_refused(transaction.queue_id, str(self.address), transaction.reverse_path.mailbox, reply)
        return result

    async def _commit(self, transaction: Transaction, intake: Intake) -> str:
        content = await intake.finish()
        if content is None:
            return intake.refusal or STORE_FAILED
        parameters, facts = transaction.parameters, intake.facts
        message = NewMessage(
            queue_id=transaction.queue_id,
            envelope=Envelope(
                reverse_path=transaction.reverse_path.mailbox,
                ret=parameters.ret,
                envid=parameters.envid,
                smtputf8=parameters.smtputf8,
            ),
            recipients=tuple(transaction.recipients),
            content=content,
            message_id=facts.message_id,
            eight_bit=facts.eight_bit,
            utf8_header=facts.utf8_header,
            require_tls=parameters.requiretls,
            tls_optional=facts.tls_required_no and self._may_do_without_tls(transaction),
            client=self.client_facts,
        )
        intake.handed_over = True
        try:
            await self._enqueue(message)
        except StoreError as error:
            intake.handed_over = False
            return store_refusal(error)
        return f"250 2.0.0 Ok: queued as {message.queue_id}"

    def _may_do_without_tls(self, transaction: Transaction) -> bool:
        """Decide about TLS-Required: No, and take note of it (RFC 8689 §4.1).

        Deviates: RFC 8689 §4.1, by default: what an administrator enforces is not for a sender to switch off.
        """
        if transaction.parameters.requiretls:
            result = TlsRequiredResult.OVERRULED
        elif self.shared.settings.tls_required_no is TlsRequiredNo.HONOUR:
            result = TlsRequiredResult.HONOURED
        else:
            result = TlsRequiredResult.IGNORED
        self.shared.metrics.tls_required_no.labels(result=result.value).inc()
        events.tls_required_no(transaction.queue_id, transaction.reverse_path.mailbox, result.value)
        return result is TlsRequiredResult.HONOURED

    async def _enqueue(self, message: NewMessage) -> None:
        """Commit, whatever becomes of the client meanwhile, and hand jobs that are ours already to delivery."""
        destinations = frozenset(recipient.destination for recipient in message.recipients)
        jobs = await self.shared.store.enqueue(message, self.shared.lease_for(destinations))
        self.shared.metrics.received_bytes.inc(message.size)
        if message.require_tls:
            self.shared.metrics.requiretls_messages.inc()
        events.message_accepted(message)
        if jobs:
            try:
                self.shared.dispatch(jobs)
            except Exception as error:  # noqa: BLE001  the top of its task: the message is committed, its leases lapse
                events.session_failed(str(self.address), error)


_Ended = Callable[[Transaction, Intake], None]
