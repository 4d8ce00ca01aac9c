"""One SMTP connection to one host, from connecting to QUIT (RFC 5321 §3, RFC 3207).

aiosmtplib connects, says EHLO and does STARTTLS; commands of a transaction are ours. Its errors, those of asyncio and
of ssl end here: all that leaves is LinkError, with the foreign error as its cause.
"""

import asyncio
import ssl
from dataclasses import replace
from datetime import timedelta
from typing import cast

from aiosmtplib import SMTPException, SMTPHeloError, SMTPResponseException
from aiosmtplib.response import SMTPResponse

from policy.dane_check import dane_failure
from policy.name_check import name_failure
from policy.names import IPAddress
from policy.requirement import Requirement, ResultType
from policy.tls import describe_session
from relay.delivery.extensions import Extensions, parse_extensions, peer_name
from relay.delivery.foreign_errors import translated
from relay.delivery.negotiation import Ends
from relay.delivery.protocol import Answers, LinkError, ReplyProtocol, SmtpClient, as_reply, broken_off, unless_closing
from relay.delivery.seam import BLOCK, LinkObserver, Login, NullLinkObserver
from relay.delivery.timeouts import Timeouts
from relay.queue.attempt import FailureKind, Phase
from relay.status import Reply

QUIT_LIMIT = timedelta(seconds=5)

_UNWANTED_CHUNK = b"BDAT 3 LAST\r\nX\r\n"


_DANE_KINDS = {
    ResultType.CERTIFICATE_EXPIRED: FailureKind.DANE_EXPIRED,
    ResultType.CERTIFICATE_HOST_MISMATCH: FailureKind.DANE_NAME,
}


_NOBODY = NullLinkObserver()


class UnprotectedError(Exception):
    """A bug of ours: mail was about to go out with less protection than its requirement demands. Nothing was sent."""


class Link:
    """A connection. `phase` is how far it came, `offered` what the latest EHLO reply said.

    `reset`: RSET is out, and its reply is looked at by the next transaction. `reset_due`: to whom the replies are owed
    of a transaction that the host may yet hold open, so that RSET has to go before the next. `on_trial`: a chunk that
    the host is to skip went before RSET.
    """

    def __init__(
        self,
        *,
        requirement: Requirement,
        hostname: str,
        timeouts: Timeouts,
        observer: LinkObserver = _NOBODY,
    ) -> None:
        self.phase = Phase.CONNECT
        self.offered = Extensions()
        self.reset: Answers | None = None
        self.reset_due: Answers | None = None
        self.on_trial = False
        self.retired = False
        self._within_content = False
        self._requirement = requirement
        self._demands_tls = requirement.demands_tls
        self._verifies = requirement.verifies
        self._requiretls = requirement.requiretls
        self._checked: ssl.SSLObject | None = None
        self._verified: ssl.SSLObject | None = None
        self._timeouts = timeouts
        self._observer = observer
        self._client = SmtpClient(
            local_hostname=hostname,
            greeting_limit=timeouts.greeting,
            handshake_limit=timeouts.starttls,
            on_connected=self._on_connected,
        )
        self._protocol: ReplyProtocol | None = None
        self._sockname: tuple[str, ...] = ("",)
        self._hello: Reply | None = None

    async def connect(
        self,
        address: IPAddress,
        port: int,
        source: IPAddress | None = None,
        tls: tuple[ssl.SSLContext, str] | None = None,
    ) -> Reply:
        """Return the greeting, good or bad. With `tls`, context and server name, TLS begins with the first octet.

        Raises LinkError, of the same kinds as `start_tls`.
        """
        if tls is not None:
            self._client.tls_from_start = _named(*tls)
        self._enter(Phase.CONNECT)
        with translated():
            greeting = await self._client.connect(
                hostname=str(address),
                port=port,
                source_address=None if source is None else (str(source), 0),
                timeout=self._timeouts.connect.total_seconds(),
            )
        if tls is not None:
            self._secured()
        self._hello = as_reply(*greeting)
        return self._hello

    def _on_connected(self, protocol: ReplyProtocol | None) -> None:
        if protocol is None:  # a handshake comes first
            self._enter(Phase.HANDSHAKE)
            return
        self._enter(Phase.GREETING)
        self._protocol = protocol
        protocol.on_reply = self._on_reply
        assert protocol.transport is not None
        self._sockname = protocol.transport.get_extra_info("sockname") or self._sockname

    def _on_reply(self, reply: Reply) -> None:
        self._observer.replied(reply)
        if self.phase is Phase.STARTTLS and reply.code == 220:
            self._enter(Phase.HANDSHAKE)

    def _enter(self, phase: Phase) -> None:
        self.phase = phase
        self._observer.entered(phase)

    def ends(self, address: IPAddress) -> Ends:
        """Say between whom the connection to `address` is, or was."""
        return Ends(self._sockname[0].partition("%")[0], str(address), peer_name(self._hello) if self._hello else "")

    async def ehlo(self) -> Reply:
        """Return the reply to EHLO; if it is positive, `offered` is what it says. Raises LinkError."""
        self._enter(Phase.EHLO)
        self.offered = Extensions()
        with translated():
            try:
                response = await self._client.ehlo(timeout=self._timeouts.ehlo.total_seconds())
            except SMTPHeloError as error:
                response = SMTPResponse(error.code, error.message)
        reply = as_reply(*response)
        if 200 <= reply.code < 300:
            self.offered = parse_extensions(reply, in_tls=self.tls is not None)
            self._hello = reply
        return reply

    async def helo(self) -> Reply:
        """Return the reply to HELO, which offers nothing. Raises LinkError."""
        self.offered = Extensions()
        with translated():
            try:
                return as_reply(*await self._client.helo(timeout=self._timeouts.ehlo.total_seconds()))
            except SMTPHeloError as error:
                return as_reply(error.code, error.message)

    async def start_tls(self, context: ssl.SSLContext, server_name: str) -> None:
        """Secure the connection, and compare it with the host's TLSA records if those are to be kept to.

        Raises LinkError: with a `reply` if the host refused, of kind HANDSHAKE, or of a kind of DANE's.
        Octets between the reply and the handshake fail it (RFC 3207 §4.2: they may be an attacker's); all that was
        offered is forgotten.
        """
        self._enter(Phase.STARTTLS)
        self.offered = Extensions()
        limit = self._timeouts.starttls.total_seconds()
        _named(context, server_name)
        try:
            await self._client.starttls(tls_context=context, server_hostname=server_name, timeout=limit)
        except SMTPResponseException as error:
            reply = as_reply(error.code, error.message)
            raise LinkError(FailureKind.STARTTLS_REFUSED, f"the host answered STARTTLS with {reply}", reply) from error
        except (LinkError, SMTPException, OSError, ValueError, TypeError) as error:
            self.phase = Phase.HANDSHAKE
            fault = self._protocol.fault if self._protocol is not None else None
            raise LinkError(FailureKind.HANDSHAKE, str(fault or error)) from (fault or error)
        self._secured()

    def _secured(self) -> None:
        """Look at what a handshake has not looked at."""
        cast("asyncio.WriteTransport", self._client.transport).set_write_buffer_limits(high=BLOCK)
        tls = self.tls
        if tls is None:
            return
        if self._requirement.by_dane and (failure := dane_failure(self._requirement, tls)) is not None:
            self.phase = Phase.HANDSHAKE
            kind = _DANE_KINDS.get(failure.result_type, FailureKind.DANE_CERTIFICATE)
            raise LinkError(kind, failure.detail, tls=failure)
        if (failure := name_failure(self._requirement, tls)) is not None:
            self.phase = Phase.HANDSHAKE
            raise LinkError(FailureKind.ROUTE_CERTIFICATE, failure.detail, tls=failure)
        self._checked = tls
        self._observer.secured(lambda: describe_session(tls))

    async def log_in(self, login: Login) -> None:
        """Say who we are (RFC 4954). Raises LinkError, and UnprotectedError where the other side is not proven."""
        self._demand_protection()
        # RFC 4954 §14: only where TLS is up, and the certificate was verified for a name that the operator chose.
        if self._requirement.route is None or not self._verifies or self.tls is None:
            raise UnprotectedError("a password was about to go to a host that has not proven who it is")
        limit = self._timeouts.ehlo.total_seconds()
        user, password = login.user.encode(), login.password.encode()
        try:
            if "PLAIN" in self.offered.auth:
                await self._client.auth_plain(user, password, timeout=limit)
            elif "LOGIN" in self.offered.auth:
                await self._client.auth_login(user, password, timeout=limit)
            else:
                raise LinkError(FailureKind.LOGIN, "the host offers neither AUTH PLAIN nor AUTH LOGIN")
        except SMTPResponseException as error:
            reply = as_reply(error.code, error.message)
            raise LinkError(FailureKind.LOGIN, f"the host answered AUTH with {reply}", reply) from None
        except (SMTPException, OSError) as error:
            raise broken_off() from error
        self.offered = replace(self.offered, logged_in=True)

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, None in plaintext."""
        transport = self._client.transport
        return None if transport is None else cast("ssl.SSLObject | None", transport.get_extra_info("ssl_object"))

    @property
    def established(self) -> ssl.SSLObject | None:
        """The TLS session that was as its requirement demands, also when the connection is closed."""
        return self._checked

    @property
    def ready(self) -> bool:
        """Whether the commands of a transaction may be written, if need be before the one before it is answered."""
        protocol = self._protocol
        return protocol is not None and protocol.usable and not (self._within_content or self.retired)

    @property
    def usable(self) -> bool:
        """Whether another transaction may begin and nothing is under way: in step, nothing read ahead, not closed."""
        if not self.ready:
            return False
        line = self._connected().line
        return not line or (len(line) == 1 and line[0] is self.reset)

    @property
    def closed(self) -> "asyncio.Future[None]":
        """Done once the connection is closed, whoever closed it."""
        return self._connected().closed

    # A transaction.

    def answers(self) -> Answers:
        """Return where the replies to one transaction are to come."""
        return Answers(self._connected())

    def pipeline(self, commands: bytes, answers: Answers, replies: int) -> bool:
        """Write commands, a chunk with its BDAT included, that owe so many replies; return whether that was done.

        The one door for mail: raises UnprotectedError. On a connection that is lost nothing is written; waiting for a
        reply tells why.
        """
        protocol = self._connected()
        if not protocol.usable:
            return False
        self._demand_protection()
        protocol.expect(answers, replies)
        protocol.write(commands)
        return True

    async def stream(self, content: bytes) -> None:
        """Write content, already dot-stuffed, as fast as the host takes it. Raises LinkError."""
        protocol = self._connected()
        self._within_content = True
        view = memoryview(content)
        for start in range(0, len(view), BLOCK):
            if protocol.usable:
                protocol.write_now(view[start : start + BLOCK])
            # A host that takes all at once would let nobody else have a turn, nor us hear that it has hung up.
            await asyncio.sleep(0)
            await protocol.drain(self._timeouts.data_block)

    def end_content(self, content: bytes, answers: Answers) -> None:
        """Write the last of the content with its end. Raises LinkError if the connection is lost already."""
        protocol = self._connected()
        if not protocol.usable:
            raise protocol.end or broken_off()
        protocol.expect(answers, 1)
        protocol.write(content)
        answers.content_end = protocol.written
        self._within_content = False

    def say_reset(self) -> None:
        """Say RSET. Its reply is left to the next transaction."""
        self.reset, self.reset_due = self.answers(), None
        self.pipeline(b"RSET\r\n", self.reset, 1)

    def try_skipping(self) -> None:
        """Send a chunk outside any transaction, which a host has to refuse and to skip (RFC 3030 §2), then RSET.

        One that skips it says so, and 250 to RSET. One that reads it says besides what it makes of a strange command.
        """
        self.reset, self.reset_due, self.on_trial = self.answers(), None, True
        self.pipeline(_UNWANTED_CHUNK + b"RSET\r\n", self.reset, 2)

    async def was_reset(self) -> bool:
        """Whether the host has answered RSET, if that was said, and what went before it, as it should.

        Raises LinkError.
        """
        if self.reset is None:
            return True
        answers, self.reset = self.reset, None
        if self.on_trial:
            self.on_trial = False
            if (await self._reply(answers)).code < 400:
                return False
        return 200 <= (await self._reply(answers)).code < 300

    async def _reply(self, answers: Answers) -> Reply:
        return unless_closing(await answers.next(self._timeouts.mail))

    # The end.

    def leave(self) -> None:
        """Say QUIT and let the reply, or QUIT_LIMIT, close the connection in the background.

        Where QUIT has no place (within content, out of step) the connection is closed at once.
        """
        protocol = self._protocol
        if protocol is None or not self.usable:
            self.abort()
            return
        protocol.expect(self.answers(), 1)
        protocol.write(b"QUIT\r\n")
        protocol.leaving = True
        timer = asyncio.get_running_loop().call_later(QUIT_LIMIT.total_seconds(), protocol.abort)
        protocol.closed.add_done_callback(lambda _closed: timer.cancel())

    def abort(self) -> None:
        """Close at once, without a word."""
        if self._protocol is not None:
            self._protocol.abort()
        self._client.close()

    def retire(self) -> None:
        """Begin no transaction any more; one that has begun may still come to its end."""
        self.retired = True

    def abandon(self, answers: Answers) -> None:
        """Close without a word, once those whose replies come before have them."""
        self._connected().abandon(answers)

    def _connected(self) -> ReplyProtocol:
        assert self._protocol is not None, "connect comes first"
        return self._protocol

    def _demand_protection(self) -> None:
        """Look at the transport itself, not at what was noted of it (RFC 8461 §5, RFC 7672 §2.2)."""
        if not self._demands_tls:
            return
        tls = self.tls
        if tls is None:
            raise UnprotectedError("TLS is demanded, and there is none")
        if tls is not self._checked:
            raise UnprotectedError("nobody compared the certificate with TLSA records and what a route demands")
        if self._requiretls and not self.offered.requiretls:
            raise UnprotectedError("REQUIRETLS is demanded, and the host does not offer it")
        if self._verifies and tls is not self._verified:  # what a session was made with does not change
            self._demand_verification(tls)
            self._verified = tls

    def _demand_verification(self, tls: ssl.SSLObject) -> None:
        if tls.context.verify_mode is not ssl.CERT_REQUIRED or not tls.context.check_hostname:
            raise UnprotectedError("verified TLS is demanded, and nobody looked at the certificate")
        if tls.server_hostname != self._requirement.server_name:
            raise UnprotectedError(f"the certificate was checked for {tls.server_hostname}, not for the MX host")


def _named(context: ssl.SSLContext, server_name: str) -> tuple[ssl.SSLContext, str]:
    """Let nobody go into a handshake without a name. Raises LinkError."""
    if not server_name:
        # asyncio takes "" for None, and OpenSSL then checks no name, whatever the context says.
        raise LinkError(FailureKind.HANDSHAKE, "there is no name to check the certificate for")
    return context, server_name
