"""A fast MX host for many names that throws mail away and counts it, as a process of its own.

    python tests/bench/sink.py SETTINGS

SETTINGS is a JSON file: `control` (path of the socket on which sink_client.py asks), `hosts` (MX name -> [address,
PEM file, or null for a host that offers no TLS]), `mx_of` (domain -> MX name), `port`. Certificates are shown by SNI; a
client that sends none is shown the one of the first host.

One thread and one epoll, and TLS straight on the socket: what the sink costs is taken from those that are measured.
Replies can be held back as those of a distant host are: each batch by the same time, whatever else is on its way.
"""

import contextlib
import dataclasses
import gc
import json
import os
import select
import signal
import socket
import ssl
import sys
import time
from collections import deque
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sink_session import SinkSession
from sink_tally import Tally

_READ = 1 << 18
_BACKLOG = 4096


class Sink:
    """All that the loop looks after. `delay` is how long each batch of replies is held back, in seconds."""

    def __init__(self, settings: dict[str, Any]) -> None:
        self.tally = Tally({domain.encode(): host for domain, host in settings["mx_of"].items()})
        self.delay = 0.0
        self.stopped = False
        self._poll = select.epoll()
        self._ready: dict[int, Callable[[int], None]] = {}
        self._held: deque[tuple[float, Connection, bytes]] = deque()
        self._contexts: dict[str, ssl.SSLContext] = {}
        self._shaking: dict[int, Connection] = {}
        self._sockets: list[socket.socket] = []
        for name, (address, pem_file) in settings["hosts"].items():
            if pem_file is not None:
                self._contexts[name] = _context(Path(pem_file), self._choose)
            self._listen(address, settings["port"], name if pem_file is None else None)
        self.context = next(iter(self._contexts.values()))
        self._control(settings["control"])

    def run(self) -> None:
        gc.freeze()
        gc.set_threshold(50_000, 20, 20)
        while not self.stopped:
            timeout = max(self._held[0][0] - time.monotonic(), 0.0) if self._held else 1.0
            for descriptor, events in self._poll.poll(timeout):
                ready = self._ready.get(descriptor)
                if ready is not None:
                    ready(events)
            self._send_due()

    def watch(self, descriptor: int, ready: Callable[[int], None]) -> None:
        self._ready[descriptor] = ready
        self._poll.register(descriptor, select.EPOLLIN)

    def watch_for(self, descriptor: int, events: int) -> None:
        self._poll.modify(descriptor, events)

    def forget(self, descriptor: int) -> None:
        if self._ready.pop(descriptor, None) is not None:
            self._poll.unregister(descriptor)

    def reply(self, connection: "Connection", replies: bytes) -> None:
        if self.delay:
            self._held.append((time.monotonic() + self.delay, connection, replies))
        else:
            connection.send(replies)

    def command(self, asked: dict[str, Any]) -> object:
        """Answer the bench: `reset` (with `delay`), `count`, `report`, `times`."""
        match asked["do"]:
            case "reset":
                self.tally.reset()
                self.delay = float(asked.get("delay", 0.0))
                return None
            case "count":
                return len(self.tally.times)
            case "times":
                return {delivery.decode(): when for delivery, when in self.tally.times.items()}
            case _:
                report = {
                    one.name: getattr(self.tally, one.name)
                    for one in dataclasses.fields(self.tally)
                    if one.name not in {"mx_of", "times", "hosts"}
                }
                hosts = {name: dataclasses.asdict(host) for name, host in self.tally.hosts.items()}
                return report | {"deliveries": len(self.tally.times), "hosts": hosts}

    def _send_due(self) -> None:
        while self._held and self._held[0][0] <= time.monotonic():
            _, connection, replies = self._held.popleft()
            connection.send(replies)

    def _listen(self, address: str, port: int, plain_host: str | None) -> None:
        listener = socket.create_server((address, port), backlog=_BACKLOG)
        listener.setblocking(False)
        self._sockets.append(listener)

        def accept(_events: int) -> None:
            with contextlib.suppress(BlockingIOError):
                client, _ = listener.accept()
                client.setblocking(False)
                client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                Connection(self, client, plain_host)

        self.watch(listener.fileno(), accept)

    def _control(self, path: str) -> None:
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(path)
        listener.listen()
        self._sockets.append(listener)

        def accept(_events: int) -> None:
            client, _ = listener.accept()

            def ready(_events: int) -> None:
                asked = client.recv(_READ)
                if asked:
                    client.sendall(json.dumps(self.command(json.loads(asked))).encode() + b"\n")
                else:
                    self.forget(client.fileno())
                    client.close()

            self.watch(client.fileno(), ready)

        self.watch(listener.fileno(), accept)

    def secure(self, connection: "Connection", client: socket.socket) -> ssl.SSLSocket:
        """Put TLS on this connection's socket; the handshake is still to come."""
        tls = self.context.wrap_socket(client, server_side=True, do_handshake_on_connect=False)
        self._shaking[tls.fileno()] = connection
        return tls

    def _choose(self, under_way: ssl.SSLSocket, name: str | None, _context: ssl.SSLContext) -> None:
        self._shaking.pop(under_way.fileno()).host = name or ""
        if name in self._contexts:
            under_way.context = self._contexts[name]


class Connection:
    """One client. `host` is the MX name that it asked for in the handshake."""

    def __init__(self, sink: Sink, client: socket.socket, plain_host: str | None) -> None:
        self.host = plain_host or ""
        self._sink = sink
        self._socket = client
        self._tls: ssl.SSLSocket | None = None
        self._shaking = False
        self._unsent = b""
        self._batches = 0
        self._session = SinkSession(sink.tally, time.monotonic, offers_tls=plain_host is None)
        sink.tally.connections += 1
        if plain_host is not None:
            self._session.plain(plain_host)
            sink.tally.host(plain_host).sessions += 1
        sink.watch(client.fileno(), self.ready)
        self._reply(self._session.greeting)

    def ready(self, events: int) -> None:
        try:
            if events & select.EPOLLOUT and self._unsent:
                self._flush()
            if self._shaking:
                self._shake()
            elif events & ~select.EPOLLOUT:
                self._read()
        except (BlockingIOError, ssl.SSLWantReadError, ssl.SSLWantWriteError):
            pass
        except OSError:
            self.close()

    def send(self, replies: bytes) -> None:
        if self._socket.fileno() < 0:
            return
        self._unsent += replies
        self._batches -= 1
        try:
            self._flush()
        except OSError:
            self.close()

    def close(self) -> None:
        if self._shaking:
            self._sink.tally.failed_handshakes += 1
            self._sink.tally.host(self.host).sessions += 1
            self._shaking = False
        self._sink.forget(self._socket.fileno())
        self._socket.close()

    def _read(self) -> None:
        replies = b""
        while True:
            data = self._socket.recv(_READ)
            if not data:
                self.close()
                return
            replies += self._session.receive(data)
            if self._tls is None or not self._tls.pending():
                break
        if replies:
            self._reply(replies)

    def _reply(self, replies: bytes) -> None:
        self._batches += 1
        self._sink.reply(self, replies)

    def _flush(self) -> None:
        try:
            sent = self._socket.send(self._unsent)
        except (BlockingIOError, ssl.SSLWantWriteError):
            sent = 0
        left, self._unsent = bool(self._unsent[sent:]), self._unsent[sent:]
        if left:
            self._sink.watch_for(self._socket.fileno(), select.EPOLLIN | select.EPOLLOUT)
        elif self._batches:
            pass  # what ends or changes the connection stands behind the last reply
        elif self._session.ended:
            self.close()
        elif self._session.wants_tls and not self._shaking:
            self._start_tls()

    def _start_tls(self) -> None:
        self._sink.forget(self._socket.fileno())
        self._tls = self._socket = self._sink.secure(self, self._socket)
        self._shaking = True
        self._sink.tally.handshakes += 1
        self._sink.watch(self._tls.fileno(), self.ready)

    def _shake(self) -> None:
        assert self._tls is not None, "shaking hands"
        self._tls.do_handshake()
        self._shaking = False
        self._sink.tally.resumed += bool(self._tls.session_reused)
        self._sink.tally.host(self.host).sessions += 1
        self._session.secured(self.host)


def _context(pem_file: Path, choose: Callable[..., None]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(pem_file)
    context.sni_callback = choose
    return context


def main() -> None:
    sink = Sink(json.loads(Path(sys.argv[1]).read_text(encoding="utf-8")))

    def stop(*_: object) -> None:
        sink.stopped = True

    signal.signal(signal.SIGTERM, stop)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    os.write(1, b"ready\n")
    sink.run()


if __name__ == "__main__":
    main()
