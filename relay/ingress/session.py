"""One SMTP session with a client: RFC 5321 §4 and the extensions that `Listener` offers.

Each command is a method that gives exactly one reply (RFC 5321 §4.2), at once or when what it waits for is done.
Refusals are replies; what must end the session raises GoodbyeError; anything unexpected is logged and answered with
451, never with its text.
"""

from collections.abc import Callable
from typing import ClassVar

from relay import events
from relay.ingress.connection import GoodbyeError
from relay.ingress.input import LineError
from relay.ingress.intake import STORE_FAILED
from relay.ingress.transfer import TransferConnection

_MAX_COMMAND = 2048
_MAX_MISTAKES = 50
_MAX_IDLE_COMMANDS = 200

_BEFORE_TLS = frozenset({b"NOOP", b"EHLO", b"STARTTLS", b"QUIT"})
# A browser that was made to talk to us says one of these first (cross-protocol attack).
_HTTP = frozenset({b"GET", b"POST", b"PUT", b"HEAD", b"DELETE", b"OPTIONS", b"CONNECT", b"TRACE", b"PATCH", b"PRI"})


class Session(TransferConnection):
    """The command loop, and the commands that move no mail."""

    def take_command(self) -> bool:
        try:
            line = self.take_line()
        except LineError as error:
            self.complain(str(error))
        else:
            if line is None:
                return False
            self._execute(line)
        if self.mistakes > _MAX_MISTAKES or self.idle_commands > _MAX_IDLE_COMMANDS:
            raise self.goodbye("421 4.7.0", "Too many errors or idle commands")
        return True

    def apologize(self) -> None:
        self.reply(STORE_FAILED)

    def _execute(self, line: bytes) -> None:
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
            command(self, argument.strip(b" "))

    # -- commands that change nothing

    def _noop(self, _argument: bytes) -> None:
        self.idle_commands += 1
        self.reply("250 2.0.0 Ok")

    def _rset(self, argument: bytes) -> None:
        if argument:
            self.complain("501 5.5.4 Syntax: RSET")
            return
        self.idle_commands += 1
        self.end_transaction()
        self.reply("250 2.0.0 Ok")

    def _vrfy(self, argument: bytes) -> None:
        self.idle_commands += 1
        if argument:
            self.reply("252 2.0.0 Cannot verify the address, but will take a message for it and try to deliver")
        else:
            self.complain("501 5.5.4 Syntax: VRFY <address>")

    def _expn(self, _argument: bytes) -> None:
        self.complain("502 5.5.1 EXPN is not implemented")

    def _help(self, _argument: bytes) -> None:
        self.idle_commands += 1
        self.reply("214 2.0.0 Commands: " + " ".join(verb.decode("ascii") for verb in self._COMMANDS))

    def _quit(self, argument: bytes) -> None:
        if not argument:
            raise GoodbyeError("221 2.0.0 Bye")
        self.complain("501 5.5.4 Syntax: QUIT")

    _COMMANDS: ClassVar[dict[bytes, "_Command"]] = {
        b"EHLO": TransferConnection.ehlo,
        b"HELO": TransferConnection.helo_,
        b"MAIL": TransferConnection.mail,
        b"RCPT": TransferConnection.rcpt,
        b"DATA": TransferConnection.data,
        b"BDAT": TransferConnection.bdat,
        b"RSET": _rset,
        b"NOOP": _noop,
        b"VRFY": _vrfy,
        b"EXPN": _expn,
        b"HELP": _help,
        b"QUIT": _quit,
        b"STARTTLS": TransferConnection.starttls,
        b"AUTH": TransferConnection.auth,
    }


_Command = Callable[[Session, bytes], None]
