"""A small DNS server on loopback, UDP and TCP, whose answers a test chooses question by question."""

import asyncio
import contextlib
import struct
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field

import dns.edns
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset

from policy.nameservers import NameServer

Reply = Callable[[dns.message.Message], bytes | None]
SOA = "ns.test. admin.test. 1 3600 600 86400 {minimum}"


@dataclass
class Zone:
    """Records by (name, type) as text. `rules` come first: they may answer with any octets, or None for silence.

    With `authentic` answers carry AD, but for those that have to do with a name in `insecure`. `asked` and `edns_flags`
    have an entry for each question.
    """

    records: dict[tuple[str, str], list[str]] = field(default_factory=dict)
    rules: dict[tuple[str, str], Reply] = field(default_factory=dict)
    asked: list[tuple[str, str, str]] = field(default_factory=list)
    ttl: int = 300
    negative_ttl: int = 60
    with_soa: bool = True
    edns_flags: list[int] = field(default_factory=list)
    authentic: bool = False
    insecure: set[str] = field(default_factory=set)
    truncate_udp: bool = False
    chase: bool = True

    def add(self, name: str, rdtype: str, *values: str) -> None:
        self.records.setdefault((name, rdtype), []).extend(values)

    def count(self, name: str, rdtype: str) -> int:
        return sum((name, rdtype) == (asked_name, asked_type) for asked_name, asked_type, _ in self.asked)

    def answer(self, wire: bytes, transport: str) -> bytes | None:
        query = dns.message.from_wire(wire)
        question = query.question[0]
        name = question.name.to_text(omit_final_dot=True)
        rdtype = dns.rdatatype.to_text(question.rdtype)
        self.asked.append((name, rdtype, transport))
        self.edns_flags.append(query.ednsflags)
        rule = self.rules.get((name, rdtype))
        if rule is not None:
            return rule(query)
        response = dns.message.make_response(query)
        response.flags |= dns.flags.RA
        if self.truncate_udp and transport == "udp":
            response.flags |= dns.flags.TC
            return response.to_wire()
        names = self._fill(response, name, rdtype)
        if self.authentic and self.insecure.isdisjoint(names):
            response.flags |= dns.flags.AD
        return response.to_wire(max_size=65535)

    def _fill(self, response: dns.message.Message, name: str, rdtype: str) -> list[str]:
        """Follow aliases to the records; return the names on the way."""
        names = []
        for _ in range(30):
            names.append(name)
            values = self.records.get((name, rdtype))
            if values is not None:
                response.answer.append(dns.rrset.from_text_list(f"{name}.", self.ttl, "IN", rdtype, values))
                return names
            target = self.records.get((name, "CNAME"))
            if target is None:
                break
            response.answer.append(dns.rrset.from_text_list(f"{name}.", self.ttl, "IN", "CNAME", target))
            if not self.chase:
                return names
            name = target[0].removesuffix(".")
        if not any(known == name for known, _ in self.records):
            response.set_rcode(dns.rcode.NXDOMAIN)
        if self.with_soa:
            soa = SOA.format(minimum=self.negative_ttl)
            response.authority.append(dns.rrset.from_text("test.", 3600, "IN", "SOA", soa))
        return names


def failing(rcode: dns.rcode.Rcode, extended_error: int | None = None, text: str | None = None) -> Reply:
    """Answer with an error, and with an RFC 8914 option if one is given."""

    def reply(query: dns.message.Message) -> bytes:
        response = dns.message.make_response(query)
        response.set_rcode(rcode)
        if extended_error is not None:
            option = dns.edns.EDEOption(dns.edns.EDECode.make(extended_error), text)
            response.use_edns(0, 0, 1232, options=[option])
        return response.to_wire()

    return reply


def silent(query: dns.message.Message) -> bytes | None:
    return None


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, zone: Zone) -> None:
        self._zone = zone

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._zone.answer(data, "udp")
        if answer is not None:
            self._transport.sendto(answer, addr)


@contextlib.asynccontextmanager
async def serving(zone: Zone, *, with_tcp: bool = True) -> AsyncIterator[NameServer]:
    """Serve the zone on a free port of 127.0.0.1."""

    writers: list[asyncio.StreamWriter] = []

    async def tcp(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writers.append(writer)
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError):
            while True:
                (length,) = struct.unpack("!H", await reader.readexactly(2))
                answer = zone.answer(await reader.readexactly(length), "tcp")
                if answer is not None:
                    writer.write(struct.pack("!H", len(answer)) + answer)
                    await writer.drain()
        writer.close()

    loop = asyncio.get_running_loop()
    for _ in range(20):
        server = await asyncio.start_server(tcp, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        try:
            transport, _ = await loop.create_datagram_endpoint(lambda: _Udp(zone), local_addr=("127.0.0.1", port))
        except OSError:  # the port is free for TCP alone
            server.close()
            continue
        break
    else:
        raise OSError("no port is free for both UDP and TCP")
    if not with_tcp:
        server.close()
    try:
        yield NameServer(address="127.0.0.1", port=port)
    finally:
        transport.close()
        server.close()
        await server.wait_closed()
        for writer in writers:
            writer.close()
        await asyncio.gather(*(writer.wait_closed() for writer in writers), return_exceptions=True)
