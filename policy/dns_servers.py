"""Puts a question to name servers, one after the other, until one answers (RFC 1035 §4.2, RFC 7766, RFC 5452).

RFC 5452 §9: each datagram leaves from a socket of its own, and so from a port of the kernel's choice, with an id of its
own. The socket takes datagrams from that name server alone; what does not fit the question is as if it had not come.
"""

import asyncio
import socket
from collections.abc import Sequence
from dataclasses import dataclass

import dns.edns
import dns.entropy
import dns.rcode

from policy.dns_wire import ContradictionError, MalformedError, Question, Response, read_response
from policy.nameservers import NameServer
from policy.sockets import SocketAddress, connected

_MAX_MESSAGE = 65535
_FIRST_PAUSE_SECONDS = 0.1
_LONGEST_PAUSE_SECONDS = 2.0
_ANSWERS = frozenset({dns.rcode.NOERROR, dns.rcode.NXDOMAIN})


@dataclass(frozen=True, slots=True)
class Complaint:
    """What was wrong with one name server. `rcode` is what it said, or None; `unreachable`: nothing came back."""

    server: str
    words: str
    rcode: int | None = None
    unreachable: bool = False
    options: tuple[dns.edns.Option, ...] = ()


class NoAnswerError(Exception):
    """No name server gave an answer. `timed_out`: not in time; else none is left to ask."""

    def __init__(self, complaints: Sequence[Complaint], *, timed_out: bool) -> None:
        super().__init__("no name server answered")
        self.complaints = tuple(complaints)
        self.timed_out = timed_out


@dataclass(frozen=True, slots=True)
class _Server:
    family: socket.AddressFamily
    address: SocketAddress

    def __str__(self) -> str:
        return f"{self.address[0]}@{self.address[1]}"


class NameServers:
    """Asks in the order given. `patience_seconds` is for one server and one datagram."""

    def __init__(self, nameservers: Sequence[NameServer], *, patience_seconds: float) -> None:
        self._servers = tuple(_server(nameserver) for nameserver in nameservers)
        self._patience = patience_seconds

    async def ask(self, question: Question, deadline: float) -> Response:
        """Return the first answer, positive or negative, that comes before `deadline` (loop time).

        Who does not answer is asked again; who refuses, errs or contradicts itself is not. Raises NoAnswerError.
        """
        loop = asyncio.get_running_loop()
        servers, pause = self._servers, _FIRST_PAUSE_SECONDS
        complaints: list[Complaint] = []
        while True:
            silent: list[_Server] = []
            for server in servers:
                limit = min(deadline, loop.time() + self._patience)
                answer = await _answer(server, question, limit)
                if isinstance(answer, Response):
                    return answer
                if answer is None:
                    silent.append(server)
                    answer = Complaint(str(server), "no answer in time", unreachable=True)
                complaints.append(answer)
                if loop.time() >= deadline:
                    raise NoAnswerError(complaints, timed_out=True)
            if not silent:
                raise NoAnswerError(complaints, timed_out=False)
            servers = tuple(silent)
            await asyncio.sleep(min(pause, deadline - loop.time()))
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)


def _server(nameserver: NameServer) -> _Server:
    """Raises OSError if it is no address."""
    found = socket.getaddrinfo(nameserver.address, nameserver.port, type=socket.SOCK_DGRAM, flags=socket.AI_NUMERICHOST)
    family, _, _, _, address = found[0]
    return _Server(family, address)


async def _answer(server: _Server, question: Question, limit: float) -> Response | Complaint | None:
    """Ask one server; None if it said nothing until `limit`."""
    try:
        response = await _ask_by_datagram(server, question, limit)
        if response.truncated:
            response = await _ask_by_stream(server, question, limit)
    except TimeoutError:
        return None
    except OSError as error:
        return Complaint(str(server), error.strerror or str(error), unreachable=True)
    except (MalformedError, ContradictionError, EOFError) as error:
        return Complaint(str(server), str(error) or type(error).__name__)
    if response.truncated:
        return Complaint(str(server), "cut off, though it came by TCP")
    if response.rcode not in _ANSWERS:
        words = dns.rcode.to_text(dns.rcode.Rcode.make(response.rcode))
        return Complaint(str(server), words, rcode=response.rcode, options=response.options)
    return response


async def _ask_by_datagram(server: _Server, question: Question, limit: float) -> Response:
    """Raises OSError, TimeoutError with it, and ContradictionError."""
    loop = asyncio.get_running_loop()
    with socket.socket(server.family, socket.SOCK_DGRAM) as sock:
        sock.setblocking(False)
        sock.connect(server.address)
        message_id = dns.entropy.random_16()
        sock.send(question.message(message_id))
        answered: asyncio.Future[Response] = loop.create_future()

        def read() -> None:
            if answered.done():
                return
            try:
                answered.set_result(read_response(sock.recv(_MAX_MESSAGE), question, message_id))
            except (BlockingIOError, InterruptedError, MalformedError):
                pass  # as if it had not come: it may be forged
            except (OSError, ContradictionError) as error:
                answered.set_exception(error)

        def give_up() -> None:
            if not answered.done():
                answered.set_exception(TimeoutError())

        timer = loop.call_at(limit, give_up)
        loop.add_reader(sock, read)
        try:
            return await answered
        finally:
            loop.remove_reader(sock)
            timer.cancel()


async def _ask_by_stream(server: _Server, question: Question, limit: float) -> Response:
    """Raises OSError, TimeoutError with it, EOFError, MalformedError and ContradictionError."""
    async with asyncio.timeout_at(limit):
        reader, writer = await asyncio.open_connection(sock=await connected(server.family, server.address))
        try:
            message_id = dns.entropy.random_16()
            message = question.message(message_id)
            writer.write(len(message).to_bytes(2, "big") + message)
            length = int.from_bytes(await reader.readexactly(2), "big")
            return read_response(await reader.readexactly(length), question, message_id)
        finally:
            writer.close()
