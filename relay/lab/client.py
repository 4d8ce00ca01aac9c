"""A small SMTP client to submit mail with, for tests and the demo. Says what it is told, one command at a time."""

import asyncio
import contextlib
import ssl
from collections.abc import Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Self

REPLY_LIMIT = 1000  # lines
LINE_LIMIT = 64 * 1024


@dataclass(frozen=True, slots=True)
class ClientReply:
    """A reply of the server: its code, and its lines without code and CRLF."""

    code: int
    lines: tuple[str, ...]

    @property
    def text(self) -> str:
        return " ".join(self.lines)

    def __str__(self) -> str:
        return f"{self.code} {self.text}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Submission:
    """The replies that one message got. `data` is None where no recipient was accepted, or MAIL was refused."""

    ehlo: ClientReply
    mail: ClientReply
    recipients: tuple[ClientReply, ...]
    data: ClientReply | None

    @property
    def accepted(self) -> bool:
        return self.data is not None and self.data.code == 250


class SmtpClient:
    """One connection. `timeout` (seconds) bounds each reply. Raises TimeoutError, OSError, EOFError, ValueError."""

    def __init__(self, address: str, *, timeout: float = 10) -> None:
        self._host, _, port = address.rpartition(":")
        self._port = int(port)
        self._timeout = timeout
        self._streams: tuple[asyncio.StreamReader, asyncio.StreamWriter] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def connect(self, *, tls: ssl.SSLContext | None = None, name: str | None = None) -> ClientReply:
        """Connect, with implicit TLS where a context is given, and return the greeting."""
        async with asyncio.timeout(self._timeout):
            server_hostname = (name or self._host.strip("[]")) if tls else None
            self._streams = await asyncio.open_connection(
                self._host.strip("[]"), self._port, ssl=tls, server_hostname=server_hostname, limit=LINE_LIMIT
            )
        return await self.reply()

    async def command(self, line: str) -> ClientReply:
        """Send one line and return its reply."""
        await self.send(line.encode() + b"\r\n")
        return await self.reply()

    async def send(self, data: bytes) -> None:
        """Send bytes as they are."""
        _, writer = self._opened()
        async with asyncio.timeout(self._timeout):
            writer.write(data)
            await writer.drain()

    async def reply(self) -> ClientReply:
        """Read one reply. EOFError: the server closed; ValueError: it is not a reply."""
        reader, _ = self._opened()
        lines: list[str] = []
        async with asyncio.timeout(self._timeout):
            while len(lines) < REPLY_LIMIT:
                line = await reader.readline()
                if not line:
                    raise EOFError("the server closed the connection")
                lines.append(line[4:].decode("utf-8", "backslashreplace").rstrip("\r\n"))
                if line[3:4] != b"-":
                    return ClientReply(int(line[:3]), tuple(lines))
        raise ValueError("a reply without end")

    async def at_eof(self) -> bool:
        """Wait for what comes next; True where it is the end of the connection."""
        reader, _ = self._opened()
        async with asyncio.timeout(self._timeout):
            return await reader.read(1) == b""

    async def start_tls(self, tls: ssl.SSLContext, name: str | None = None) -> ClientReply:
        """Say STARTTLS and, after 220, shake hands. Raises ssl.SSLError."""
        reply = await self.command("STARTTLS")
        if reply.code == 220:
            (_, writer), streams, self._streams = self._opened(), self._streams, None
            # A handshake that fails closes the connection, but asyncio's streams then never report that it is closed:
            # they are taken back only once it has succeeded.
            async with asyncio.timeout(self._timeout):
                await writer.start_tls(tls, server_hostname=name or self._host.strip("[]"))
            self._streams = streams
        return reply

    @property
    def tls(self) -> ssl.SSLObject | None:
        """The TLS session, None in plain text."""
        found: ssl.SSLObject | None = self._opened()[1].get_extra_info("ssl_object")
        return found

    async def data(self, content: bytes) -> ClientReply:
        """Send content by DATA, stuffed, with its final dot, and return the reply to it (or the refusal of DATA)."""
        reply = await self.command("DATA")
        if reply.code != 354:
            return reply
        if not content.endswith(b"\r\n"):
            content += b"\r\n"
        stuffed = (b"\r\n" + content).replace(b"\r\n.", b"\r\n..")[2:]
        await self.send(stuffed + b".\r\n")
        return await self.reply()

    async def bdat(self, content: bytes, *, chunk_size: int = 64 * 1024) -> ClientReply:
        """Send content by BDAT and return the reply to the last chunk (or the first refusal)."""
        starts = range(0, max(len(content), 1), chunk_size)
        for start in starts:
            chunk = content[start : start + chunk_size]
            last = b" LAST" if start == starts[-1] else b""
            await self.send(b"BDAT %d%s\r\n" % (len(chunk), last) + chunk)
            reply = await self.reply()
            if reply.code != 250:
                break
        return reply

    async def quit(self) -> ClientReply:
        """Say QUIT and return the reply."""
        return await self.command("QUIT")

    async def close(self) -> None:
        """Close the connection without a word."""
        if self._streams is not None:
            (_, writer), self._streams = self._streams, None
            writer.transport.abort()
            with contextlib.suppress(OSError):  # how it ends does not matter here
                await writer.wait_closed()

    def _opened(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
        assert self._streams is not None, "connect first"
        return self._streams


async def submit(
    address: str,
    mail_from: str,
    rcpts: Sequence[str],
    content: bytes,
    *,
    mail_params: str = "",
    rcpt_params: Sequence[str] = (),
    bdat: bool = False,
    tls: ssl.SSLContext | None = None,
    tls_name: str | None = None,
    helo: str = "client.legacy.test",
    timeout: float = 10,
) -> Submission:
    """Submit one message to "host:port", by STARTTLS where a context is given, and return all replies.

    `tls_name` is the name that the server's certificate is to have, by default its host. `rcpt_params` stand beside
    `rcpts`, one each, and may be fewer.
    """
    async with SmtpClient(address, timeout=timeout) as client:
        await client.connect()
        ehlo = await client.command(f"EHLO {helo}")
        if tls is not None:
            await client.start_tls(tls, tls_name)
            ehlo = await client.command(f"EHLO {helo}")
        mail = await client.command(_with(f"MAIL FROM:<{mail_from}>", mail_params))
        recipients: list[ClientReply] = []
        if mail.code == 250:
            for index, rcpt in enumerate(rcpts):
                parameters = rcpt_params[index] if index < len(rcpt_params) else ""
                recipients.append(await client.command(_with(f"RCPT TO:<{rcpt}>", parameters)))
        data = None
        if any(reply.code in (250, 251) for reply in recipients):
            data = await (client.bdat(content) if bdat else client.data(content))
        with contextlib.suppress(OSError, EOFError):
            await client.quit()  # the message's fate is known already
        return Submission(ehlo=ehlo, mail=mail, recipients=tuple(recipients), data=data)


def _with(command: str, parameters: str) -> str:
    return f"{command} {parameters}" if parameters else command
