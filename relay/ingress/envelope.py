"""The envelope of a mail transaction: MAIL and RCPT (RFC 5321 §3.3), with what each client may say in them."""

import re
from datetime import datetime

from relay import events
from relay.ingress.client import IdentifiedConnection
from relay.ingress.intake import STORE_FULL, TOO_LARGE, Intake, store_refusal
from relay.ingress.parameters import (
    NO_MAIL_PARAMETERS,
    NO_RCPT_PARAMETERS,
    MailParameters,
    ParameterError,
    RcptParameters,
    parse_mail_parameters,
    parse_rcpt_parameters,
)
from relay.ingress.paths import Path, PathError, ordinary_path, parse_forward_path, parse_reverse_path, split_path
from relay.ingress.shared import MessageResult
from relay.queue.message import NewRecipient
from relay.store.protocols import StoreError

_FROM = re.compile(rb"(?i)FROM: *")
_TO = re.compile(rb"(?i)TO: *")


class Transaction:
    """A mail transaction (RFC 5321 §3.3): from MAIL to the end of its content, RSET or EHLO.

    `intake` is there from the first BDAT on. `failed`: a chunk was refused, and only RSET helps (RFC 3030 §2).
    """

    queue_id: str = ""
    refused: int = 0
    intake: Intake | None = None
    failed: bool = False

    def __init__(self, reverse_path: Path, parameters: MailParameters) -> None:
        self.reverse_path = reverse_path
        self.parameters = parameters
        self.recipients: list[NewRecipient] = []


class EnvelopeConnection(IdentifiedConnection):
    """A connection that takes envelopes; `transaction` is the one under way."""

    transaction: Transaction | None = None

    def end_transaction(self) -> None:
        transaction, self.transaction = self.transaction, None
        if transaction is not None and transaction.intake is not None and transaction.intake.close():
            self.wait_for(transaction.intake.discard())

    @property
    def in_transaction(self) -> bool:
        return self.transaction is not None

    def mail(self, argument: bytes) -> None:
        if not self.helo:
            self.complain("503 5.5.1 Send EHLO first")
        elif self.transaction is not None:
            self.complain("503 5.5.1 A mail transaction is under way")
        elif not self.admitted:
            self._deny()
        else:
            self._mail_from(argument)

    def _deny(self) -> None:
        self.shared.message_results[MessageResult.DENIED].inc()
        if self.auth_expected:
            first = "Authentication required" if self.tls is not None else "Must issue a STARTTLS command first"
            self.complain(f"530 5.7.0 {first}")
        else:
            events.client_denied(str(self.address), self.helo)
            self.complain("550 5.7.64 TenantAttribution; Relay Access Denied")

    def _mail_from(self, argument: bytes) -> None:
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
        if parameters.requiretls and self.tls is None:
            self.complain("530 5.7.10 Encryption needed: REQUIRETLS is for sessions in TLS")
            return
        size, now = parameters.size or 0, self.shared.clock.now()
        refusal = self._sender_refusal(reverse_path, size)
        if refusal is not None:
            self.reply(refusal)
        elif self.shared.room.covers(size, now):
            self._begin(Transaction(reverse_path, parameters), now)
        else:
            self.wait_for(self._ask_for_room(size, Transaction(reverse_path, parameters), now))

    async def _ask_for_room(self, size: int, transaction: Transaction, now: datetime) -> None:
        try:
            has_room = await self.shared.store.room_for(size)
        except StoreError as error:
            self._defer(store_refusal(error))
            return
        if has_room:
            self.shared.room.found(size, now)
            self._begin(transaction, now)
        else:
            self._defer(STORE_FULL)

    def _begin(self, transaction: Transaction, now: datetime) -> None:
        if self.shared.rate.admit(self.client or "", now):
            self.transaction = transaction
            self.reply("250 2.1.0 Ok")
        else:
            self._defer("451 4.7.0 Too many messages this minute, please try again later")

    def _defer(self, reply: str) -> None:
        self.shared.message_results[MessageResult.DEFERRED].inc()
        self.reply(reply)

    def _mail_parameters(self, text: bytes) -> MailParameters:
        if not text:
            return NO_MAIL_PARAMETERS
        if not self.extended:
            raise ParameterError(555, "parameters need EHLO")
        parameters = parse_mail_parameters(text)
        if parameters.requiretls and not self.shared.settings.requiretls:
            raise ParameterError(555, "parameter REQUIRETLS is not known")
        return parameters

    def _sender_refusal(self, reverse_path: Path, size: int) -> str | None:
        shared = self.shared
        if not shared.access.allows_sender(reverse_path):
            shared.message_results[MessageResult.DENIED].inc()
            events.sender_denied(str(self.address), reverse_path.mailbox)
            return "550 5.7.64 TenantAttribution; Relay Access Denied for this sender domain"
        if size > shared.settings.max_message_size:
            shared.message_results[MessageResult.REFUSED].inc()
            return TOO_LARGE
        return None

    def rcpt(self, argument: bytes) -> None:
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
        smtputf8, parameters = transaction.parameters.smtputf8, NO_RCPT_PARAMETERS
        try:
            path = ordinary_path(argument)  # nothing behind it, as mostly
            if path is None:
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
