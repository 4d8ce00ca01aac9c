"""One SMTP session with a client: RFC 5321 §4 and the extensions that `Listener` offers.

Each command is a method that gives exactly one reply (RFC 5321 §4.2). Refusals are replies; what must end the
session raises GoodbyeError; anything unexpected is logged and answered with 451, never with its text.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from typing import ClassVar

from relay import events
from relay.ingress.connection import GoodbyeError, LineError
from relay.ingress.envelope import EnvelopeConnection, Transaction
from relay.ingress.framing import EndOfData
from relay.ingress.intake import STORE_FAILED, TOO_LARGE, Intake, store_refusal
from relay.ingress.reader import READ_AHEAD, ClientGoneError
from relay.ingress.shared import MessageResult
from relay.ingress.trace import Protocol, received
from relay.queue.message import Envelope, NewMessage
from relay.store.protocols import StoreError

_MAX_COMMAND = 2048
_MAX_MISTAKES = 50
_MAX_IDLE_COMMANDS = 200

_BDAT = re.compile(rb"(?i)([0-9]{1,20})( +LAST)?")
_BEFORE_TLS = frozenset({b"NOOP", b"EHLO", b"STARTTLS", b"QUIT"})
_RESULTS = {"2": MessageResult.ACCEPTED, "4": MessageResult.DEFERRED, "5": MessageResult.REFUSED}
# A browser that was made to talk to us says one of these first (cross-protocol attack).
_HTTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"PRI"})


class Session(EnvelopeConnection):
    """The command loop, the content of messages, and their commit."""

    async def serve(self) -> None:
        self.identify(await self.find_address())
        if self.listener.implicit:
            await self.start_tls(None)
        self.know_client()
        self.reply(f"220 {self.shared.settings.hostname} ESMTP")
        while True:
            if self.stopping:
                raise self.farewell()
            try:
                await self._execute(await self.next_line())
            except LineError as error:
                self.complain(str(error))
            if self.mistakes > _MAX_MISTAKES or self.idle_commands > _MAX_IDLE_COMMANDS:
                raise self.goodbye("421 4.7.0", "Too many errors or idle commands")

    async def clean_up(self) -> None:
        await self.end_transaction()

    async def _execute(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        command = self._COMMANDS.get(verb)
        if command is None:
            if verb in _HTTP or verb.endswith(b":"):
                events.connection_refused(str(self.address), "speaks HTTP")
                raise GoodbyeError(None)
            self.complain("500 5.5.1 Command not recognized")
        elif self.listener.requires_tls and self.tls is None and verb not in _BEFORE_TLS:
            self.complain("530 5.7.0 Must issue a STARTTLS command first")
        elif len(line) > _MAX_COMMAND and verb != b"AUTH":
            self.complain("500 5.5.2 Line too long")
        else:
            await self._run(command, argument.strip(b" "))

    async def _run(self, command: "_Command", argument: bytes) -> None:
        try:
            await command(self, argument)
        except (GoodbyeError, ClientGoneError):
            raise
        except Exception as error:
            if self.in_content:  # what follows could be taken for commands
                raise
            events.session_failed(str(self.address), error)
            await self.end_transaction()
            self.reply(STORE_FAILED)

    # -- commands that change nothing

    async def _noop(self, _argument: bytes) -> None:
        self.idle_commands += 1
        self.reply("250 2.0.0 Ok")

    async def _rset(self, argument: bytes) -> None:
        if argument:
            self.complain("501 5.5.4 Syntax: RSET")
            return
        self.idle_commands += 1
        await self.end_transaction()
        self.reply("250 2.0.0 Ok")

    async def _vrfy(self, argument: bytes) -> None:
        self.idle_commands += 1
        if argument:
            self.reply("252 2.0.0 Cannot verify the address, but will take a message for it and try to deliver")
        else:
            self.complain("501 5.5.4 Syntax: VRFY <address>")

    async def _expn(self, _argument: bytes) -> None:
        self.complain("502 5.5.1 EXPN is not implemented")

    async def _help(self, _argument: bytes) -> None:
        self.idle_commands += 1
        self.reply("214 2.0.0 Commands: " + " ".join(verb.decode("ascii") for verb in self._COMMANDS))

    async def _quit(self, argument: bytes) -> None:
        if not argument:
            raise GoodbyeError("221 2.0.0 Bye")
        self.complain("501 5.5.4 Syntax: QUIT")

    # -- content

    async def _data(self, argument: bytes) -> None:
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
            self.reply("354 End data with <CR><LF>.<CR><LF>")
            intake = transaction.intake = self._open_intake(transaction)
            self.in_content = True
            await self._read_data(intake)
            self.in_content = False
            await self._finish(transaction, intake)

    async def _read_data(self, intake: Intake) -> None:
        framing = EndOfData()
        rest: bytes | None = None
        while rest is None:
            content, rest = framing.feed(await self.read(READ_AHEAD))
            await intake.write(content)
            if intake.hopeless:
                raise self._too_large()
        self.input.put_back(rest)

    async def _bdat(self, argument: bytes) -> None:
        match = _BDAT.fullmatch(argument)
        if match is None:
            # The chunk that follows has no known end, and its lines must not be taken for commands.
            raise GoodbyeError("501 5.5.4 Syntax: BDAT <size> [LAST]; closing connection")
        size = int(match[1])
        if size > 2 * self.shared.settings.max_message_size:
            raise self._too_large()
        transaction = self.transaction
        refusal = self._bdat_refusal(transaction)
        self.in_content = True
        if refusal is not None or transaction is None:
            await self._drop_chunk(size)
            self.in_content = False
            self.complain(refusal or STORE_FAILED)
            return
        intake = transaction.intake = transaction.intake or self._open_intake(transaction)
        await self._read_chunk(intake, size)
        self.in_content = False
        if match[2]:
            await self._finish(transaction, intake)
        elif intake.refusal is not None:
            transaction.failed = True
            self._count(transaction, intake.refusal)
            self.reply(intake.refusal)
        else:
            self.reply(f"250 2.0.0 {size} octets received")

    def _too_large(self) -> GoodbyeError:
        """The end of a session whose client sends so much that reading on would be a waste."""
        if self.transaction is not None and not self.transaction.failed:
            self._count(self.transaction, TOO_LARGE)
        return GoodbyeError(TOO_LARGE)

    def _bdat_refusal(self, transaction: Transaction | None) -> str | None:
        if transaction is None:
            return "503 5.5.1 Send MAIL first"
        if transaction.failed:
            return "503 5.5.1 A chunk has failed, send RSET"
        if not transaction.recipients:
            return "554 5.5.1 No valid recipients"
        return None

    async def _read_chunk(self, intake: Intake, size: int) -> None:
        while size:
            piece = await self.read(min(size, READ_AHEAD))
            size -= len(piece)
            await intake.write(piece)

    async def _drop_chunk(self, size: int) -> None:
        while size:
            size -= len(await self.read(min(size, READ_AHEAD)))

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
        return Intake(head=head, settings=shared.settings, store=shared.store, budget=shared.budget)

    async def _finish(self, transaction: Transaction, intake: Intake) -> None:
        """Commit, and only then say 250 (RFC 5321 §6.1)."""
        try:
            reply = await self._commit(transaction, intake)
        finally:
            await self.end_transaction()
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
            client=self.client_facts,
        )
        intake.handed_over = True
        try:
            # A commit under way is not undone by the end of this session, and its jobs find their way to delivery.
            await asyncio.shield(self._enqueue(message))
        except StoreError as error:
            intake.handed_over = False
            return store_refusal(error)
        return f"250 2.0.0 Ok: queued as {message.queue_id}"

    async def _enqueue(self, message: NewMessage) -> None:
        destinations = frozenset(recipient.destination for recipient in message.recipients)
        jobs = await self.shared.store.enqueue(message, self.shared.lease_for(destinations))
        self.shared.metrics.received_bytes.inc(message.size)
        events.message_accepted(message)
        if jobs:
            try:
                self.shared.dispatch(jobs)
            except Exception as error:  # noqa: BLE001  the top of its task: the message is committed, its leases lapse
                events.session_failed(str(self.address), error)

    _COMMANDS: ClassVar[dict[bytes, "_Command"]] = {
        b"EHLO": EnvelopeConnection.ehlo,
        b"HELO": EnvelopeConnection.helo_,
        b"MAIL": EnvelopeConnection.mail,
        b"RCPT": EnvelopeConnection.rcpt,
        b"DATA": _data,
        b"BDAT": _bdat,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"EXPN": _expn,
        b"HELP": _help,
        b"QUIT": _quit,
        b"STARTTLS": EnvelopeConnection.starttls,
        b"AUTH": EnvelopeConnection.auth,
    }


_Command = Callable[[Session, bytes], Awaitable[None]]
