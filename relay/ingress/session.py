"""One SMTP session with a client: RFC 5321 §4 and the extensions that `Listener` offers.

Each command is a method that gives exactly one reply (RFC 5321 §4.2). Refusals are replies; what must end the
session raises GoodbyeError; anything unexpected is logged and answered with 451, never with its text.
"""

import asyncio
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

from relay import events
from relay.ingress.client import IdentifiedConnection
from relay.ingress.connection import GoodbyeError, LineError
from relay.ingress.framing import EndOfData
from relay.ingress.intake import STORE_FAILED, STORE_FULL, TOO_LARGE, Intake, store_refusal
from relay.ingress.parameters import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    MailParameters,
    ParameterError,
    RcptParameters,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from relay.ingress.paths import Path, PathError, parse_forward_path, parse_reverse_path, split_path
from relay.ingress.reader import READ_AHEAD, ClientGoneError
from relay.ingress.shared import MessageResult
from relay.ingress.trace import Protocol, received
from relay.queue.message import Envelope, NewMessage, NewRecipient
from relay.store.protocols import StoreError

_MAX_COMMAND = 2048
_MAX_MISTAKES = 50
_MAX_IDLE_COMMANDS = 200

_FROM = re.compile(rb"(?i)FROM: *")
_TO = re.compile(rb"(?i)TO: *")
_BDAT = re.compile(rb"(?i)([0-9]{1,20})( +LAST)?")
_BEFORE_TLS = frozenset({b"NOOP", b"EHLO", b"STARTTLS", b"QUIT"})
# A browser that was made to talk to us says one of these first (cross-protocol attack).
_RESULTS = {"2": MessageResult.ACCEPTED, "4": MessageResult.DEFERRED, "5": MessageResult.REFUSED}
_HTTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"PRI"})


@dataclass(slots=True)
class Transaction:
    """A mail transaction (RFC 5321 §3.3): from MAIL to the end of its content, RSET or EHLO.

    `intake` is there from the first BDAT on. `failed`: a chunk was refused, and only RSET helps (RFC 3030 §2).
    """

    reverse_path: Path
    parameters: MailParameters
    queue_id: str = ""
    recipients: list[NewRecipient] = field(default_factory=list)
    refused: int = 0
    intake: Intake | None = None
    failed: bool = False


class Session(IdentifiedConnection):
    """The commands, and the transaction under way."""

    transaction: Transaction | None = None

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

    async def end_transaction(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None and transaction.intake is not None:
            await transaction.intake.close()

    @property
    def in_transaction(self) -> bool:
        return self.transaction is not None

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

    # -- MAIL and RCPT

    async def _mail(self, argument: bytes) -> None:
        if not self.helo:
            self.complain("503 5.5.1 Send EHLO first")
        elif self.transaction is not None:
            self.complain("503 5.5.1 A mail transaction is under way")
        elif not self.admitted:
            self._deny()
        else:
            await self._begin(argument)

    def _deny(self) -> None:
        self.shared.message_results[MessageResult.DENIED].inc()
        if self.auth_expected:
            first = "Authentication required" if self.tls is not None else "Must issue a STARTTLS command first"
            self.complain(f"530 5.7.0 {first}")
        else:
            events.client_denied(str(self.address), self.helo)
            self.complain("550 5.7.64 TenantAttribution; Relay Access Denied")

    async def _begin(self, argument: bytes) -> None:
        keyword = _FROM.match(argument)
        if keyword is None:
            self.complain("501 5.5.4 Syntax: MAIL FROM:<address> [parameters]")
            return
        try:
            octets, rest = split_path(argument[keyword.end() :])
            parameters = self._mail_parameters(rest)
            reverse_path = parse_reverse_path(octets, smtputf8=parameters.smtputf8)
        except PathError as error:
            code = "550 5.6.7" if error.needs_smtputf8 else "501 5.1.7"
            self.complain(f"{code} Bad sender address: {error}")
            return
        except ParameterError as error:
            self.complain(f"{error.code} 5.5.4 {error}")
            return
        refusal = await self._sender_refusal(reverse_path, parameters.size or 0)
        if refusal is not None:
            self.reply(refusal)
            return
        self.transaction = Transaction(reverse_path, parameters)
        self.reply("250 2.1.0 Ok")

    def _mail_parameters(self, text: bytes) -> MailParameters:
        if not text:
            return NO_MAIL_PARAMETERS
        if not self.extended:
            raise ParameterError(555, "parameters need EHLO")
        return parse_mail_parameters(text)

    async def _sender_refusal(self, reverse_path: Path, size: int) -> str | None:
        shared = self.shared
        if not shared.access.allows_sender(reverse_path):
            shared.message_results[MessageResult.DENIED].inc()
            events.sender_denied(str(self.address), reverse_path.mailbox)
            return "550 5.7.64 TenantAttribution; Relay Access Denied for this sender domain"
        if size > shared.settings.max_message_size:
            shared.message_results[MessageResult.REFUSED].inc()
            return TOO_LARGE
        if not await shared.store.room_for(size):
            shared.message_results[MessageResult.DEFERRED].inc()
            return STORE_FULL
        if not shared.rate.admit(self.client or "", shared.clock.now()):
            shared.message_results[MessageResult.DEFERRED].inc()
            return "451 4.7.0 Too many messages this minute, please try again later"
        return None

    async def _rcpt(self, argument: bytes) -> None:
        transaction = self.transaction
        keyword = _TO.match(argument)
        if transaction is None:
            self.complain("503 5.5.1 Send MAIL first")
        elif transaction.failed or transaction.intake is not None:
            self.complain("503 5.5.1 The message content has begun")
        elif keyword is None:
            self.complain("501 5.5.4 Syntax: RCPT TO:<address> [parameters]")
        elif len(transaction.recipients) >= self.shared.settings.max_recipients:
            self.reply("452 4.5.3 Too many recipients")
        else:
            self._add_recipient(transaction, argument[keyword.end() :])

    def _add_recipient(self, transaction: Transaction, argument: bytes) -> None:
        smtputf8 = transaction.parameters.smtputf8
        try:
            octets, rest = split_path(argument)
            parameters = self._rcpt_parameters(rest, smtputf8=smtputf8)
            path = parse_forward_path(octets, smtputf8=smtputf8)
        except PathError as error:
            code = "553 5.6.7" if error.needs_smtputf8 else "501 5.1.3"
            self._refuse_recipient(transaction, f"{code} Bad recipient address: {error}")
            return
        except ParameterError as error:
            self._refuse_recipient(transaction, f"{error.code} 5.5.4 {error}")
            return
        if not path.destination:
            path = self.shared.postmaster
        transaction.recipients.append(
            NewRecipient(
                forward_path=path.mailbox,
                destination=path.destination,
                notify=parameters.notify,
                orcpt=parameters.orcpt,
            )
        )
        self.reply("250 2.1.5 Ok")

    def _refuse_recipient(self, transaction: Transaction, reply: str) -> None:
        """A list may have as many bad addresses as good ones before they count as mistakes of the session."""
        transaction.refused += 1
        if transaction.refused > self.shared.settings.max_recipients:
            self.mistakes += 1
        self.reply(reply)

    def _rcpt_parameters(self, text: bytes, *, smtputf8: bool) -> RcptParameters:
        if not text:
            return NO_RCPT_PARAMETERS
        if not self.extended:
            raise ParameterError(555, "parameters need EHLO")
        return parse_rcpt_parameters(text, smtputf8=smtputf8)

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
                raise GoodbyeError(TOO_LARGE)
        self.input.put_back(rest)

    async def _bdat(self, argument: bytes) -> None:
        match = _BDAT.fullmatch(argument)
        if match is None:
            # The chunk that follows has no known end, and its lines must not be taken for commands.
            raise GoodbyeError("501 5.5.4 Syntax: BDAT <size> [LAST]; closing connection")
        size = int(match[1])
        if size > 2 * self.shared.settings.max_message_size:
            raise GoodbyeError(TOO_LARGE)
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
            self.reply(intake.refusal)
        else:
            self.reply(f"250 2.0.0 {size} octets received")

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
        result = _RESULTS[reply[0]]
        self.shared.message_results[result].inc()
        if result is MessageResult.ACCEPTED:
            self.mistakes = self.idle_commands = 0
        else:
            events.message_refused(transaction.queue_id, str(self.address), transaction.reverse_path.mailbox, reply)
        self.reply(reply)

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
        b"EHLO": IdentifiedConnection.ehlo,
        b"HELO": IdentifiedConnection.helo_,
        b"MAIL": _mail,
        b"RCPT": _rcpt,
        b"DATA": _data,
        b"BDAT": _bdat,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"EXPN": _expn,
        b"HELP": _help,
        b"QUIT": _quit,
        b"STARTTLS": IdentifiedConnection.starttls,
        b"AUTH": IdentifiedConnection.auth,
    }


_Command = Callable[[Session, bytes], Awaitable[None]]
