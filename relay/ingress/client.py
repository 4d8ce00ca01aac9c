"""Who the client is: its address, perhaps told by a proxy, EHLO, TLS and its certificate, AUTH.

RFC 5321 §4.1.1.1, RFC 3207, RFC 4954. A command is a method that gives exactly one reply.
"""

import asyncio
import hashlib
import re
import ssl
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

from aiosmtpd.proxy_protocol import get_proxy

from policy.names import IPAddress
from relay import events
from relay.ingress.access import Identity, client_address, client_key
from relay.ingress.auth import AuthError, Credentials, decode_response, login_credentials, plain_credentials
from relay.ingress.connection import Connection, GoodbyeError
from relay.ingress.input import LineError
from relay.ingress.shared import ConnectionResult
from relay.ingress.users import Users
from relay.queue.message import Client

_MAX_AUTH_TRIES = 3
_HELO_NAME = re.compile(rb"[\x21-\x7e]{1,255}")
_PROXY_LOCAL = 0

Answer = Callable[[bytes], None]
"""What goes on with a client's response to a challenge. Raises AuthError."""


class IdentifiedConnection(Connection):
    """A connection whose client has told who it is, as far as it has.

    `helo` is empty before EHLO and HELO, `extended` says that it was EHLO; `user` is who has authenticated;
    `admitted` says whether it may relay.
    """

    helo: str = ""
    extended: bool = False
    user: str | None = None
    identity: Identity
    admitted: bool = False
    mistakes: int = 0
    idle_commands: int = 0
    _client: Client | None = None
    _auth_tries: int = 0

    def complain(self, reply: str) -> None:
        """Reply to a client's mistake; only so many are borne."""
        self.mistakes += 1
        self.reply(reply)

    def take_command(self) -> bool:
        """Take a command line and carry it out; False if there is no whole line."""
        raise NotImplementedError

    @property
    def in_transaction(self) -> bool:
        raise NotImplementedError

    def begin(self) -> None:
        self.take = self.take_command
        if self.listener.settings.proxy_protocol:
            header = asyncio.StreamReader(loop=self.loop)
            self.wait_for(self._meet_through_proxy(header))
            self.take = partial(self._take_proxy_header, header)
        elif self.listener.implicit:
            self.identify(self.address)
            self.wait_for(self._meet_in_tls())
        else:
            self.identify(self.address)
            self._greet()

    def _greet(self) -> None:
        self.know_client()
        self.at_command = True
        self.reply(f"220 {self.shared.settings.hostname} ESMTP")

    async def _meet_in_tls(self) -> None:
        await self.start_tls(None)
        self._greet()

    async def _meet_through_proxy(self, header: asyncio.StreamReader) -> None:
        self.identify(await self._proxied_address(header))
        self._greet()
        header.feed_eof()  # what follows the header is a command
        self.input.feed(await header.read())

    def _take_proxy_header(self, header: asyncio.StreamReader) -> bool:
        if self.input:
            header.feed_data(self.input.take())
        if self.eof:
            header.feed_eof()
        return False

    async def _proxied_address(self, header: asyncio.StreamReader) -> IPAddress:
        """The peer's address, or what a trusted proxy says (HAProxy's PROXY protocol v1 and v2)."""
        if not self.shared.access.is_proxy(self.address):
            self.shared.connection_results[ConnectionResult.NOT_A_PROXY].inc()
            events.connection_refused(str(self.address), "not a trusted proxy")
            raise GoodbyeError(None)
        try:
            async with asyncio.timeout(self.shared.settings.handshake_timeout.total_seconds()):
                told = await get_proxy(header)
        except (OSError, EOFError):  # TimeoutError and IncompleteReadError
            raise GoodbyeError(None) from None
        if not told.valid:
            events.connection_refused(str(self.address), "malformed PROXY header")
            raise GoodbyeError(None)
        source = told.src_addr
        if told.command == _PROXY_LOCAL or not isinstance(source, IPAddress):
            return self.address  # the proxy speaks for itself, e.g. to see whether we are alive
        return client_address(str(source))

    def know_client(self) -> None:
        """Take note of what TLS says, and forget all that was said before it (RFC 3207 §4.2)."""
        self.helo, self.extended, self.user, self._client = "", False, None, None
        fingerprint, names = None, frozenset[str]()
        tls = self.tls
        certificate = tls.getpeercert(binary_form=True) if tls is not None else None
        if tls is not None and certificate:  # the context has verified it, or there is none
            fingerprint = hashlib.sha256(certificate).hexdigest()
            names = _dns_names(tls)
        self._identify(Identity(address=self.address, fingerprint=fingerprint, dns_names=names))

    def _identify(self, identity: Identity) -> None:
        self.identity = identity
        self.admitted = self.shared.access.admits(identity)

    @property
    def client_facts(self) -> Client:
        """The client as it is kept with its messages."""
        if self._client is None:
            tls = self.tls
            cipher = tls.cipher() if tls is not None else None
            self._client = Client(
                address=str(self.address),
                helo=self.helo,
                tls_version=tls.version() if tls is not None else None,
                tls_cipher=cipher[0] if cipher else None,
                user=self.user,
            )
        return self._client

    # -- EHLO, HELO, STARTTLS

    def ehlo(self, argument: bytes) -> None:
        if self._greeted(argument, extended=True):
            self.reply(self.listener.ehlo if self.tls is None else self.listener.ehlo_in_tls)

    def helo_(self, argument: bytes) -> None:
        if self._greeted(argument, extended=False):
            self.reply(f"250 {self.shared.settings.hostname}")

    def _greeted(self, argument: bytes, *, extended: bool) -> bool:
        """Take note of the name; like RSET it ends a transaction (RFC 5321 §4.1.4). It need not match anything."""
        self.idle_commands += 1
        if not _HELO_NAME.fullmatch(argument):
            self.complain("501 5.5.4 A host name or address literal is needed")
            return False
        self.end_transaction()
        self.helo, self.extended, self._client = argument.decode("ascii"), extended, None
        return True

    def starttls(self, argument: bytes) -> None:
        if argument:
            self.complain("501 5.5.4 Syntax: STARTTLS")
        elif self.tls is not None:
            self.complain("503 5.5.1 TLS is active already")
        elif not self.listener.starttls:
            self.complain("502 5.5.1 STARTTLS is not offered")
        else:
            self.end_transaction()
            self.wait_for(self._upgrade())

    async def _upgrade(self) -> None:
        await self.start_tls("220 2.0.0 Ready to start TLS")
        self.know_client()

    # -- AUTH

    @property
    def auth_expected(self) -> bool:
        """Whether the client could authenticate: now, or after STARTTLS."""
        return self.shared.users is not None and (self.tls is not None or self.listener.starttls)

    def auth(self, argument: bytes) -> None:
        refusal = self._auth_refusal(argument)
        if refusal is not None:
            self.complain(refusal)
            return
        mechanism, _, initial = argument.partition(b" ")
        plain, initial = mechanism.upper() == b"PLAIN", initial.strip(b" ")
        answer = self._plain if plain else self._login_name
        if initial:
            self._answered(answer, initial)
        else:
            self._challenge("" if plain else "VXNlcm5hbWU6", answer)

    def _auth_refusal(self, argument: bytes) -> str | None:
        if not self.auth_expected:
            return "502 5.5.1 AUTH is not offered"
        if self.tls is None:
            return "538 5.7.11 Encryption required for authentication"
        if not self.extended:
            return "503 5.5.1 Send EHLO first"
        if self.user is not None:
            return "503 5.5.1 Already authenticated"
        if self.in_transaction:
            return "503 5.5.1 AUTH is not permitted during a mail transaction"
        if argument.partition(b" ")[0].upper() not in (b"PLAIN", b"LOGIN"):
            return "504 5.5.4 Unrecognized authentication mechanism"
        return None

    def _challenge(self, challenge: str, answer: Answer) -> None:
        self.reply(f"334 {challenge}")
        self.take = partial(self._take_response, answer)

    def _take_response(self, answer: Answer) -> bool:
        try:
            line = self.take_line()
        except LineError:
            self.take = self.take_command
            self.complain("500 5.5.6 Authentication exchange line is too long or malformed")
            return True
        if line is None:
            return False
        self.take = self.take_command
        self._answered(answer, line)
        return True

    def _answered(self, answer: Answer, line: bytes) -> None:
        try:
            answer(decode_response(line))
        except AuthError as error:
            self.complain(str(error))

    def _plain(self, response: bytes) -> None:
        self.wait_for(self._log_in(plain_credentials(response)))

    def _login_name(self, name: bytes) -> None:
        self._challenge("UGFzc3dvcmQ6", partial(self._login_password, name))

    def _login_password(self, name: bytes, password: bytes) -> None:
        self.wait_for(self._log_in(login_credentials(name, password)))

    async def _log_in(self, credentials: Credentials) -> None:
        assert self.shared.users is not None
        async with self.shared.users.turns:  # those who wait for it may have to wait longer when it comes
            await self._try_credentials(self.shared.users, credentials)
        if self._auth_tries >= _MAX_AUTH_TRIES:
            raise self.goodbye("421 4.7.0", "Too many failed tries")

    async def _try_credentials(self, users: Users, credentials: Credentials) -> None:
        back_off, clock, client = self.shared.back_off, self.shared.clock, client_key(self.address)
        if back_off.blocked(client, clock.now()):
            self.complain("454 4.7.0 Too many failed tries, please wait")
        elif await users.verify(credentials.name, credentials.password):
            back_off.succeeded(client)
            self.user, self._client = credentials.name, None
            self._identify(replace(self.identity, user=self.user))
            self.reply("235 2.7.0 Authentication successful")
        else:
            back_off.failed(client, clock.now())
            events.authentication_failed(str(self.address))
            self._auth_tries += 1
            self.complain("535 5.7.8 Authentication credentials invalid")


def _dns_names(tls: ssl.SSLObject) -> frozenset[str]:
    names: Any = (tls.getpeercert() or {}).get("subjectAltName", ())
    return frozenset(name.lower() for kind, name in names if kind == "DNS")
