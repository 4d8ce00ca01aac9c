"""One SMTP session of a lab MX (RFC 5321, 3207, 2920, 3030, 1870, 6531): strict with clients, and as bad as it is told.

Replies are collected while there is input and written together; content is looked for in bulk.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from relay.lab.mx_behaviour import Moment, Phase
from relay.lab.mx_commands import (
    LAST_OF_A_GROUP,
    MAIL,
    RCPT,
    Parameters,
    declared_size,
    not_offered,
    parse_bdat,
    parse_path,
    text,
)
from relay.lab.mx_login import LoginExchange
from relay.lab.mx_records import Command, ReceivedMessage, ReceivedRecipient, SessionRecord
from relay.lab.mx_traps import TrappedConnection
from relay.lab.wire import Listener, ServerSide

if TYPE_CHECKING:
    from relay.lab.mx import LabMx

BUFFER_LIMIT = 256 * 1024 * 1024
COMMAND_LIMIT = 2048  # RFC 5321 §4.5.3.1.4, and what DSN and SMTPUTF8 add to it
KEPT = 10_000  # commands and violations of one session
END_OF_DATA = b"\r\n.\r\n"


@dataclass(slots=True, kw_only=True)
class _Transaction:
    reverse_path: str
    parameters: Parameters
    recipients: list[ReceivedRecipient] = field(default_factory=list)
    rcpt_commands: int = 0
    chunks: list[bytes] = field(default_factory=list)
    broken: bool = False  # RFC 3030 §2: after a refused chunk only RSET helps


class MxSession(TrappedConnection):
    """The protocol of one accepted connection. All that it learns goes into `record`."""

    def __init__(self, mx: "LabMx", listener: Listener) -> None:
        super().__init__(listener, mx)
        self.record = SessionRecord(mx=mx.name)
        self._mx = mx
        self._behaviour = mx.behaviour
        self._buffer = bytearray()
        self._read: Callable[[], bool] = self._read_command
        self._searched = 0
        self._chunk = (0, False)
        self._next: Callable[[], None] | None = None  # what follows once the replies are out
        self._greeted = False
        self._offered: frozenset[str] = frozenset()
        self._transaction: _Transaction | None = None
        self._login = LoginExchange(mx.behaviour.logins)
        self._commands: dict[bytes, Callable[[bytes], None]] = {
            b"MAIL": self._mail,
            b"RCPT": self._rcpt,
            b"DATA": self._data,
            b"BDAT": self._bdat,
            b"RSET": self._rset,
            b"EHLO": self._ehlo,
            b"HELO": self._helo,
            b"STARTTLS": self._starttls,
            b"AUTH": self._auth,
            b"NOOP": self._noop,
            b"VRFY": self._vrfy,
            b"QUIT": self._quit,
        }

    # The connection.

    def on_open(self) -> None:
        self.record.client = self.peer
        self._mx.sessions.record(self.record)
        if self._behaviour.implicit_tls:
            self.start_tls(self._mx.context)
        else:
            self._greet()

    def _greet(self) -> None:
        self.say(Phase.BANNER, f"220 {self._mx.name} ESMTP lab\r\n".encode())
        self.flush()

    def on_data(self, data: bytes) -> None:
        if self.deaf:
            return
        if self.trap is not None:
            self.spring(self.trap, data)
            return
        self._buffer += data
        if len(self._buffer) > BUFFER_LIMIT:
            self.reset()
        elif not self.blocked:
            self.advance()

    def on_secured(self, tls: ServerSide) -> None:
        cipher = tls.cipher()
        self.record.sni, self.record.tls_version = tls.sni, tls.version()
        self.record.cipher = cipher[0] if cipher else None
        self.record.tls_resumed = bool(tls.session_reused)
        # RFC 3207 §4.2: what was said before TLS is forgotten.
        self._greeted, self._offered, self._transaction = False, frozenset(), None
        if self._behaviour.implicit_tls:
            self._greet()

    def on_handshake_failed(self, reason: str, sni: str | None) -> None:
        self.record.sni, self.record.tls_failure = sni, reason

    def on_close(self) -> None:
        self.record.closed = True
        self._mx.ended.record(self.record)

    # Input.

    def advance(self) -> None:
        """Take what is in the buffer, as far as it goes, then write all replies at once."""
        while not self.blocked and not self.closing and self._next is None:
            if not self._read():
                break
        self.flush()
        if self._next is not None and not self.blocked:
            following, self._next = self._next, None
            following()

    def _read_command(self) -> bool:
        end = self._buffer.find(b"\r\n")
        if end < 0:
            if len(self._buffer) > COMMAND_LIMIT:
                self._violation("a command line without end")
                self.reset()
            return False
        line = bytes(self._buffer[:end])
        del self._buffer[: end + 2]
        verb = line.partition(b" ")[0].upper()
        if len(self.record.commands) < KEPT:
            self.record.commands.append(Command(text(line), self.secured))
        if self._buffer and verb != b"BDAT":
            self._check_pipelining(verb)
        if len(line) > COMMAND_LIMIT or b"\n" in line or b"\r" in line or b"\x00" in line:
            self._violation("a command line that is too long or holds CR, LF or NUL")
            self.put(b"500 5.5.2 Syntax error\r\n")
            return True
        command = self._commands.get(verb)
        if command is None:
            self._refuse(b"500 5.5.2 Unknown command\r\n", "an unknown command")
        else:
            command(line)
        return True

    def _check_pipelining(self, verb: bytes) -> None:
        if verb in LAST_OF_A_GROUP:
            self._violation(f"bytes after {text(verb)} before its reply")
        elif "PIPELINING" not in self._offered:
            self._violation("pipelining that was not offered")

    def _read_content(self) -> bool:
        """Look for CRLF.CRLF; the CRLF before an empty content is the one that ended DATA."""
        end = self._buffer.find(END_OF_DATA, self._searched)
        if end < 0:
            self._searched = max(0, len(self._buffer) - len(END_OF_DATA) + 1)
            return False
        stuffed = bytes(self._buffer[: end + 2])
        del self._buffer[: end + len(END_OF_DATA)]
        self._read = self._read_command
        # RFC 5321 §4.5.2: the first dot of a line goes.
        content = stuffed.replace(b"\r\n.", b"\r\n") if b"\r\n." in stuffed else stuffed
        self._end_of_message(content[2:], by_bdat=False)
        return True

    def _read_chunk(self) -> bool:
        size, last = self._chunk
        if len(self._buffer) < size:
            return False
        chunk = bytes(self._buffer[:size])
        del self._buffer[:size]
        self._read = self._read_command
        transaction = self._transaction
        if transaction is None or not transaction.recipients or transaction.broken:
            self.put(b"503 5.5.1 No transaction for BDAT\r\n")
            return True
        transaction.chunks.append(chunk)
        if last:
            self._end_of_message(b"".join(transaction.chunks), by_bdat=True)
        elif not self.say(Phase.CHUNK, b"250 2.0.0 %d octets\r\n" % size):
            transaction.broken = True
        return True

    # Commands.

    def _ehlo(self, line: bytes) -> None:
        self._hello(line)
        keywords = self._behaviour.keywords_now(secured=self.secured)
        *first, last = [self._mx.name, *keywords]
        ordinary = "".join(f"250-{one}\r\n" for one in first) + f"250 {last}\r\n"
        self._greeted = self.say(Phase.EHLO, ordinary.encode())
        if self._greeted:
            self._offered = frozenset(keyword.partition(" ")[0].upper() for keyword in keywords)

    def _helo(self, line: bytes) -> None:
        self._hello(line)
        self._greeted = self.say(Phase.HELO, f"250 {self._mx.name}\r\n".encode())

    def _hello(self, line: bytes) -> None:
        self.record.hello = text(line[5:])
        self._offered, self._transaction = frozenset(), None

    def _starttls(self, line: bytes) -> None:
        if "STARTTLS" not in self._offered and Phase.STARTTLS not in self._replies:
            self._refuse(b"503 5.5.1 STARTTLS is not offered\r\n", "STARTTLS that was not offered")
        elif line.upper() != b"STARTTLS":
            self._refuse(b"501 5.5.4 STARTTLS takes no parameters\r\n", "STARTTLS with parameters")
        elif self.say(Phase.STARTTLS, b"220 2.0.0 Go ahead\r\n"):
            self._next = self._begin_tls

    def _auth(self, line: bytes) -> None:
        if "AUTH" not in self._offered or self.record.user or self._transaction is not None:
            self._refuse(b"503 5.5.1 No AUTH now\r\n", "AUTH that was not offered, or out of order")
            return
        self._login = LoginExchange(self._behaviour.logins)
        self._log_in(self._login.begin(text(line)))

    def _log_in(self, reply: bytes) -> None:
        self.put(reply)
        self.record.user = self._login.user
        self._read = self._read_command if self._login.done else self._read_login

    def _read_login(self) -> bool:
        line, end, rest = self._buffer.partition(b"\r\n")
        if end:
            self._buffer = rest
            self._log_in(self._login.go_on(text(bytes(line))))
        return bool(end)

    def _mail(self, line: bytes) -> None:
        if self._behaviour.logins and not self.record.user:
            self.put(b"530 5.7.0 Authentication required\r\n")
            return
        if not self._greeted or self._transaction is not None:
            self._refuse(b"503 5.5.1 Out of order\r\n", "MAIL out of order")
            return
        parsed = self._parse(MAIL, line)
        if parsed is None:
            return
        path, parameters = parsed
        if self._behaviour.size is not None and declared_size(parameters) > self._behaviour.size:
            self.put(b"552 5.3.4 Too big\r\n")
            return
        self._check_path(path, parameters)
        if "REQUIRETLS" in parameters and not self.secured:
            self._violation("REQUIRETLS without TLS")  # RFC 8689 §2
        if self.say(Phase.MAIL, b"250 2.1.0 Sender OK\r\n", path):
            self._transaction = _Transaction(reverse_path=path, parameters=parameters)

    def _rcpt(self, line: bytes) -> None:
        transaction = self._transaction
        if transaction is None:
            # A client that pipelines gets this after a refused MAIL: no fault of its own.
            self.put(b"503 5.5.1 MAIL first\r\n")
            return
        parsed = self._parse(RCPT, line)
        if parsed is None:
            return
        path, parameters = parsed
        transaction.rcpt_commands += 1
        limit = self._behaviour.recipients_max
        if limit is not None and transaction.rcpt_commands > limit:  # RFC 9422 §4.2 counts refused ones too
            self._refuse(b"452 4.5.3 Too many recipients\r\n", "more recipients than RCPTMAX")
            return
        self._check_path(path, transaction.parameters)
        if self.say(Phase.RCPT, b"250 2.1.5 Recipient OK\r\n", path):
            transaction.recipients.append(ReceivedRecipient(forward_path=path, parameters=parameters))

    def _data(self, _line: bytes) -> None:
        transaction = self._transaction
        if transaction is None or transaction.chunks or transaction.broken:
            self.put(b"503 5.5.1 Out of order\r\n")
            return
        ordinary = b"354 End with <CRLF>.<CRLF>\r\n" if transaction.recipients else b"554 5.5.1 No recipients\r\n"
        if self.say(Phase.DATA, ordinary):
            self._buffer[:0] = b"\r\n"  # see _read_content
            self._searched = 0
            self._read = self._read_content

    def _bdat(self, line: bytes) -> None:
        chunk = parse_bdat(line)
        if chunk is None or "CHUNKING" not in self._offered:
            self._refuse(b"501 5.5.4 No such BDAT\r\n", "BDAT that was not offered or is malformed")
            return
        self._chunk = chunk
        self._read = self._read_chunk

    def _rset(self, _line: bytes) -> None:
        self._transaction = None
        self.say(Phase.RSET, b"250 2.0.0 Forgotten\r\n")

    def _noop(self, _line: bytes) -> None:
        self.say(Phase.NOOP, b"250 2.0.0 OK\r\n")

    def _vrfy(self, _line: bytes) -> None:
        self.put(b"252 2.5.0 Send some mail, and see\r\n")

    def _quit(self, _line: bytes) -> None:
        self.say(Phase.QUIT, b"221 2.0.0 Bye\r\n")
        self._next = self.close

    def _parse(self, pattern: re.Pattern[bytes], line: bytes) -> tuple[str, Parameters] | None:
        parsed = parse_path(pattern, line)
        if parsed is None:
            self._refuse(b"501 5.5.4 Syntax error\r\n", "a malformed path")
            return None
        keyword = not_offered(parsed[1], self._offered)
        if keyword is not None:
            self._refuse(b"555 5.5.4 Parameter not offered\r\n", f"parameter {keyword} that was not offered")
            return None
        return parsed

    def _check_path(self, path: str, mail_parameters: Parameters) -> None:
        if not path.isascii() and "SMTPUTF8" not in mail_parameters:
            self._violation("a non-ASCII path without SMTPUTF8")

    # The message.

    def _end_of_message(self, content: bytes, *, by_bdat: bool) -> None:
        transaction, size = self._transaction, self._behaviour.size
        self.record.overlapped += bool(self._buffer)
        taken = False
        if transaction is None or not transaction.recipients:
            self.put(b"554 5.5.1 No valid recipients\r\n")
        elif size is not None and len(content) > size:
            self.put(b"552 5.3.4 Too big\r\n")
        elif taken := self.say(Phase.END_OF_DATA, b"250 2.0.0 Taken\r\n"):
            self._take(transaction, content, by_bdat=by_bdat)
        if transaction is not None and by_bdat and not taken:
            transaction.broken = True  # RFC 3030 §2: until RSET
        else:
            self._transaction = None

    def _take(self, transaction: _Transaction, content: bytes, *, by_bdat: bool) -> None:
        lines = content.count(b"\r\n")
        bare = content.count(b"\n") != lines or content.count(b"\r") != lines
        if bare:
            self._violation("a bare CR or LF in content")  # RFC 5321 §2.3.8
        if not content.isascii() and "8BITMIME" not in self._offered:
            self._violation("8-bit content without 8BITMIME")  # RFC 6152 §3
        self.record.messages += 1
        message = ReceivedMessage(
            mx=self._mx.name,
            reverse_path=transaction.reverse_path,
            mail_parameters=transaction.parameters,
            recipients=tuple(transaction.recipients),
            content=content if self._mx.keep_content else b"",
            size=len(content),
            bare_newlines=bare,
            by_bdat=by_bdat,
            session=self.record,
        )
        self._mx.messages.record(message)

    # Replies.

    def moment(self, phase: Phase, path: str) -> Moment:
        transaction = self._transaction
        reverse_path = transaction.reverse_path if transaction is not None else path
        return Moment(
            phase=phase,
            reverse_path=reverse_path,
            path=path,
            recipients=len(transaction.recipients) if transaction is not None else 0,
            tries=self._mx.count_try(reverse_path, path) if phase is Phase.RCPT else 0,
            transactions=self.record.messages,
            secured=self.secured,
        )

    def _refuse(self, reply: bytes, violation: str) -> None:
        self.put(reply)
        self._violation(violation)

    def _violation(self, what: str) -> None:
        if len(self.record.violations) < KEPT:
            self.record.violations.append(what)

    # After 220 to STARTTLS.

    def _begin_tls(self) -> None:
        if self._buffer:
            self._violation("bytes between STARTTLS and the handshake")
            self._buffer.clear()  # RFC 3207 §4.2: never carried out
        self.begin_handshake(self._behaviour.handshake)
