"""One SMTP session with a client: RFC 5321 §4 and the extensions that `Listener` offers.

Each command is a method that gives exactly one reply (RFC 5321 §4.2). Refusals are replies; what must end the
session raises GoodbyeError; anything unexpected is logged and answered with 451, never with its text.
"""

import asyncio
import hashlib
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import ClassVar

from aiosmtpd.proxy_protocol import get_proxy

from policy.names import IPAddress
from relay import events
from relay.ingress import auth
from relay.ingress.access import Identity, client_key
from relay.ingress.connection import Connection, GoodbyeError, LineError
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
from relay.ingress.shared import ConnectionResult, MessageResult
from relay.ingress.trace import Protocol, received
from relay.queue.message import Client, Envelope, NewMessage, NewRecipient
from relay.store.protocols import StoreError

_MAX_COMMAND = 2048
_MAX_ERRORS = 50
_MAX_IDLE_COMMANDS = 200
_MAX_AUTH_TRIES = 3

_FROM = re.compile(rb"(?i)FROM: *")
_TO = re.compile(rb"(?i)TO: *")
_BDAT = re.compile(rb"(?i)([0-9]{1,20})( +LAST)?")
_HELO_NAME = re.compile(rb"[\x21-\x7e]{1,255}")
_BEFORE_TLS = frozenset({b"NOOP", b"EHLO", b"STARTTLS", b"QUIT"})
# A browser that was made to talk to us says one of these first (cross-protocol attack).
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
    intake: Intake | None = None
    failed: bool = False


class Session(Connection):
    """The commands. State: who the client is, what it said with EHLO, and the transaction under way."""

    helo: str = ""
    extended: bool = False
    user: str | None = None
    transaction: Transaction | None = None
    _identity: Identity
    _client: Client | None = None
    _errors: int = 0
    _idle_commands: int = 0
    _auth_tries: int = 0

    async def serve(self) -> None:
        hostname = self.shared.settings.hostname
        self.identify(await self._client_address())
        if self.listener.implicit:
            await self.start_tls(lambda: None)
        self._know_client()
        self.reply(f"220 {hostname} ESMTP")
        while True:
            try:
                await self._execute(await self.next_line())
            except LineError as error:
                self._complain(str(error))
            if self._errors > _MAX_ERRORS or self._idle_commands > _MAX_IDLE_COMMANDS:
                raise GoodbyeError(f"421 4.7.0 {hostname} Too many errors or idle commands, closing connection")
            if self.stopping:
                raise self.farewell()

    async def clean_up(self) -> None:
        await self._end_transaction()

    async def _execute(self, line: bytes) -> None:
        verb, _, argument = line.partition(b" ")
        verb = verb.upper()
        command = self._COMMANDS.get(verb)
        if command is None:
            if verb in _HTTP or verb.endswith(b":"):
                events.connection_refused(str(self.address), "speaks HTTP")
                raise GoodbyeError(None)
            self._complain("500 5.5.1 Command not recognized")
        elif self.listener.requires_tls and not self.in_tls and verb not in _BEFORE_TLS:
            self._complain("530 5.7.0 Must issue a STARTTLS command first")
        elif len(line) > _MAX_COMMAND and verb != b"AUTH":
            self._complain("500 5.5.2 Line too long")
        else:
            try:
                await command(self, argument.strip(b" "))
            except (GoodbyeError, ClientGoneError, ConnectionError):
                raise
            except Exception as error:
                if self.in_content:  # what follows could be taken for commands
                    raise
                # The last place where anything can be caught and the session still go on.
                events.session_failed(str(self.address), error)
                await self._end_transaction()
                self.reply(STORE_FAILED)

    def _complain(self, reply: str) -> None:
        """Reply to a client's mistake; only so many are borne."""
        self._errors += 1
        self.reply(reply)

    # -- who the client is

    async def _client_address(self) -> IPAddress:
        """The peer's address, or what a trusted proxy says (HAProxy's PROXY protocol v1 and v2)."""
        if not self.listener.settings.proxy_protocol:
            return self.address
        if not self.shared.access.is_proxy(self.address):
            self.shared.connection_results[ConnectionResult.NOT_A_PROXY].inc()
            events.connection_refused(str(self.address), "not a trusted proxy")
            raise GoodbyeError(None)
        try:
            async with asyncio.timeout(self.shared.settings.handshake_timeout.total_seconds()):
                header = await get_proxy(self.input)
        except (TimeoutError, asyncio.IncompleteReadError):
            raise GoodbyeError(None) from None
        if not header.valid:
            events.connection_refused(str(self.address), "malformed PROXY header")
            raise GoodbyeError(None)
        source = header.src_addr
        # LOCAL and UNKNOWN: the proxy speaks for itself, e.g. to see whether we are alive.
        return source if isinstance(source, IPAddress) and header.command != 0 else self.address

    def _know_client(self) -> None:
        """Take note of what TLS says; forget all that was said before it (RFC 3207 §4.2)."""
        self.helo, self.extended, self.user, self._client = "", False, None, None
        fingerprint, names = None, frozenset[str]()
        if self.in_tls and self.listener.settings.client_ca is not None and self.transport is not None:
            tls = self.transport.get_extra_info("ssl_object")
            certificate = tls.getpeercert(binary_form=True)
            if certificate:
                fingerprint = hashlib.sha256(certificate).hexdigest()
                alternatives = tls.getpeercert().get("subjectAltName", ())
                names = frozenset(name.lower() for kind, name in alternatives if kind == "DNS")
        self._identity = Identity(address=self.address, fingerprint=fingerprint, dns_names=names)

    def _client_facts(self) -> Client:
        if self._client is None:
            tls = self.transport.get_extra_info("ssl_object") if self.in_tls and self.transport else None
            cipher = tls.cipher() if tls else None
            self._client = Client(
                address=str(self.address),
                helo=self.helo,
                tls_version=tls.version() if tls else None,
                tls_cipher=cipher[0] if cipher else None,
                user=self.user,
            )
        return self._client

    # -- EHLO and the simple commands

    async def _ehlo(self, argument: bytes) -> None:
        if await self._greeted(argument):
            self.extended = True
            self.reply(self.listener.ehlo_in_tls if self.in_tls else self.listener.ehlo)

    async def _helo(self, argument: bytes) -> None:
        if await self._greeted(argument):
            self.extended = False
            self.reply(f"250 {self.shared.settings.hostname}")

    async def _greeted(self, argument: bytes) -> bool:
        self._idle_commands += 1
        if not _HELO_NAME.fullmatch(argument):
            self._complain("501 5.5.4 A host name or address literal is needed")
            return False
        await self._end_transaction()
        self.helo = argument.decode("ascii")
        self._client = None
        return True

    async def _noop(self, _argument: bytes) -> None:
        self._idle_commands += 1
        self.reply("250 2.0.0 Ok")

    async def _rset(self, argument: bytes) -> None:
        if argument:
            self._complain("501 5.5.4 Syntax: RSET")
            return
        self._idle_commands += 1
        await self._end_transaction()
        self.reply("250 2.0.0 Ok")

    async def _vrfy(self, argument: bytes) -> None:
        self._idle_commands += 1
        if not argument:
            self._complain("501 5.5.4 Syntax: VRFY <address>")
            return
        self.reply("252 2.0.0 Cannot verify the address, but will take a message for it and try to deliver")

    async def _expn(self, _argument: bytes) -> None:
        self._complain("502 5.5.1 EXPN is not implemented")

    async def _help(self, _argument: bytes) -> None:
        self._idle_commands += 1
        self.reply("214 2.0.0 " + " ".join(verb.decode("ascii") for verb in self._COMMANDS))

    async def _quit(self, argument: bytes) -> None:
        if argument:
            self._complain("501 5.5.4 Syntax: QUIT")
            return
        raise GoodbyeError("221 2.0.0 Bye")

    # -- STARTTLS and AUTH

    async def _starttls(self, argument: bytes) -> None:
        if argument:
            self._complain("501 5.5.4 Syntax: STARTTLS")
        elif self.in_tls:
            self._complain("503 5.5.1 TLS is active already")
        elif not self.listener.starttls:
            self._complain("502 5.5.1 STARTTLS is not offered")
        elif self.input.pending:
            # Sent in the clear by whoever sits between: it must not reach the session inside TLS.
            raise GoodbyeError(None)
        else:
            await self._end_transaction()
            await self.start_tls(lambda: self.reply("220 2.0.0 Ready to start TLS"))
            self._know_client()

    @property
    def _auth_expected(self) -> bool:
        """Whether the client could authenticate: now, or after STARTTLS."""
        return self.shared.users is not None and (self.in_tls or self.listener.starttls)

    async def _auth(self, argument: bytes) -> None:
        refusal = self._auth_refusal(argument)
        if refusal is not None:
            self._complain(refusal)
            return
        mechanism, _, initial = argument.partition(b" ")
        try:
            credentials = await self._exchange(mechanism.upper(), initial.strip(b" ") or None)
        except auth.AuthError as error:
            self._complain(str(error))
            return
        await self._check(credentials)

    def _auth_refusal(self, argument: bytes) -> str | None:
        if not self._auth_expected:
            return "502 5.5.1 AUTH is not offered"
        if not self.in_tls:
            return "538 5.7.11 Encryption required for authentication"
        if not self.extended:
            return "503 5.5.1 Send EHLO first"
        if self.user is not None:
            return "503 5.5.1 Already authenticated"
        if self.transaction is not None:
            return "503 5.5.1 AUTH is not permitted during a mail transaction"
        if argument.partition(b" ")[0].upper() not in (b"PLAIN", b"LOGIN"):
            return "504 5.5.4 Unrecognized authentication mechanism"
        return None

    async def _exchange(self, mechanism: bytes, initial: bytes | None) -> auth.Credentials:
        if mechanism == b"PLAIN":
            response = auth.decode_response(initial) if initial is not None else await self._challenge("")
            return auth.plain_credentials(response)
        name = auth.decode_response(initial) if initial is not None else await self._challenge("VXNlcm5hbWU6")
        return auth.login_credentials(name, await self._challenge("UGFzc3dvcmQ6"))

    async def _challenge(self, challenge: str) -> bytes:
        self.reply(f"334 {challenge}")
        try:
            line = await self.next_line()
        except LineError:
            raise auth.AuthError("500 5.5.6 Authentication exchange line is too long or malformed") from None
        return auth.decode_response(line)

    async def _check(self, credentials: auth.Credentials) -> None:
        assert self.shared.users is not None
        client = client_key(self.address)
        if self.shared.back_off.blocked(client, self.shared.clock.now()):
            self._complain("454 4.7.0 Too many failed tries, please wait")
            return
        if await self.shared.users.verify(credentials.name, credentials.password):
            self.shared.back_off.succeeded(client)
            self.user, self._client = credentials.name, None
            self._identity = Identity(
                address=self.address,
                user=self.user,
                fingerprint=self._identity.fingerprint,
                dns_names=self._identity.dns_names,
            )
            self.reply("235 2.7.0 Authentication successful")
            return
        self.shared.back_off.failed(client, self.shared.clock.now())
        events.authentication_failed(str(self.address))
        self._auth_tries += 1
        self._complain("535 5.7.8 Authentication credentials invalid")
        if self._auth_tries >= _MAX_AUTH_TRIES:
            raise GoodbyeError(f"421 4.7.0 {self.shared.settings.hostname} Too many failed tries, closing connection")

    # -- MAIL and RCPT

    async def _mail(self, argument: bytes) -> None:
        if not self.helo:
            self._complain("503 5.5.1 Send EHLO first")
        elif self.transaction is not None:
            self._complain("503 5.5.1 A mail transaction is under way")
        elif not self.shared.access.admits(self._identity):
            self._deny()
        else:
            await self._begin(argument)

    def _deny(self) -> None:
        self.shared.message_results[MessageResult.DENIED].inc()
        if self._auth_expected:
            self._complain("530 5.7.0 Authentication required")
        else:
            events.client_denied(str(self.address), self.helo)
            self._complain("550 5.7.64 TenantAttribution; Relay Access Denied")

    async def _begin(self, argument: bytes) -> None:
        keyword = _FROM.match(argument)
        if keyword is None:
            self._complain("501 5.5.4 Syntax: MAIL FROM:<address> [parameters]")
            return
        try:
            octets, rest = split_path(argument[keyword.end() :])
            parameters = self._mail_parameters(rest)
            reverse_path = parse_reverse_path(octets, smtputf8=parameters.smtputf8)
        except PathError as error:
            code = "550 5.6.7" if error.needs_smtputf8 else "501 5.1.7"
            self._complain(f"{code} Bad sender address: {error}")
            return
        except ParameterError as error:
            self._complain(f"{error.code} 5.5.4 {error}")
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
            self._complain("503 5.5.1 Send MAIL first")
        elif transaction.failed or transaction.intake is not None:
            self._complain("503 5.5.1 The message content has begun")
        elif keyword is None:
            self._complain("501 5.5.4 Syntax: RCPT TO:<address> [parameters]")
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
            self._complain(f"{code} Bad recipient address: {error}")
            return
        except ParameterError as error:
            self._complain(f"{error.code} 5.5.4 {error}")
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
            self._complain("501 5.5.4 Syntax: DATA")
        elif transaction is None:
            self._complain("503 5.5.1 Send MAIL first")
        elif transaction.intake is not None or transaction.failed:
            self._complain("503 5.5.1 DATA after BDAT is not permitted")
        elif not transaction.recipients:
            self._complain("554 5.5.1 No valid recipients")
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
            self._complain(refusal or STORE_FAILED)
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
        client = self._client_facts()
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
            await self._end_transaction()
        accepted = reply.startswith("250")
        result = (
            MessageResult.ACCEPTED
            if accepted
            else MessageResult.DEFERRED
            if reply.startswith("4")
            else MessageResult.REFUSED
        )
        self.shared.message_results[result].inc()
        if accepted:
            self._errors = self._idle_commands = 0
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
            client=self._client_facts(),
        )
        try:
            # A commit under way is not undone by the end of this session, and its jobs find their way to delivery.
            await asyncio.shield(self._enqueue(message))
        except StoreError as error:
            return store_refusal(error)
        await intake.close(stored=True)
        return f"250 2.0.0 Ok: queued as {message.queue_id}"

    async def _enqueue(self, message: NewMessage) -> None:
        destinations = frozenset(recipient.destination for recipient in message.recipients)
        jobs = await self.shared.store.enqueue(message, self.shared.lease_for(destinations))
        self.shared.metrics.received_bytes.inc(message.size)
        events.message_accepted(message)
        if jobs:
            self.shared.dispatch(jobs)

    async def _end_transaction(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None and transaction.intake is not None:
            await transaction.intake.close()

    _COMMANDS: ClassVar[dict[bytes, Callable[["Session", bytes], Awaitable[None]]]] = {
        b"EHLO": _ehlo,
        b"HELO": _helo,
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
        b"STARTTLS": _starttls,
        b"AUTH": _auth,
    }
