"""An SMTP client that takes the time of each message."""

import socket
import ssl
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_LIMIT = 120.0
_LINE = b"X" * 78 + b"\r\n"


@dataclass(frozen=True, slots=True, kw_only=True)
class Sent:
    """When content began to go out, when its last octet had gone, and when its 250 came, on the monotonic clock."""

    delivery: str
    began: float
    ended: float
    replied: float

    @property
    def commit_seconds(self) -> float:
        return self.replied - self.ended


class Client:
    """One session. Raises RuntimeError for any reply that is not the one hoped for."""

    def __init__(self, address: str, port: int) -> None:
        self._socket: socket.socket = socket.create_connection((address, port), timeout=_LIMIT)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.expect(b"220")
        self.command(b"EHLO client.bench.test", b"250")

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._socket.close()

    def start_tls(self, context: ssl.SSLContext, name: str) -> None:
        self.command(b"STARTTLS", b"220")
        self._socket = context.wrap_socket(self._socket, server_hostname=name)

    def write(self, octets: bytes) -> None:
        self._socket.sendall(octets)

    def command(self, line: bytes, hoped: bytes) -> None:
        self.write(line + b"\r\n")
        self.expect(hoped)

    def expect(self, hoped: bytes, replies: int = 1) -> None:
        """Read so many replies; the last of them begins with the code hoped for."""
        received, ended = b"", 0
        while ended < replies:
            data = self._socket.recv(1 << 16)
            if not data:
                raise RuntimeError(f"the server hung up after {received!r}")
            received += data
            whole = received[: received.rfind(b"\n") + 1].splitlines()
            ended = sum(line[3:4] != b"-" for line in whole)
        if not whole[-1].startswith(hoped):
            raise RuntimeError(f"the server says {received!r}")

    def send(self, message_id: str, recipient: str, size: int) -> Sent:
        self.command(b"MAIL FROM:<sender@bench.test>", b"250")
        self.command(b"RCPT TO:<" + recipient.encode() + b">", b"250")
        self.command(b"DATA", b"354")
        octets = content(message_id, size) + b".\r\n"
        began = time.monotonic()
        self.write(octets)
        ended = time.monotonic()
        self.expect(b"250")
        return Sent(delivery=f"{message_id} {recipient}", began=began, ended=ended, replied=time.monotonic())


def content(message_id: str, size: int) -> bytes:
    header = f"From: <sender@bench.test>\r\nMessage-Id: <{message_id}>\r\n\r\n".encode()
    return header + _LINE * (size // len(_LINE))
