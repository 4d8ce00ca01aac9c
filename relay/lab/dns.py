"""The lab's name server: authoritative-looking answers over UDP and TCP, and the ways in which DNS goes wrong."""

import asyncio
import struct
from collections import Counter
from collections.abc import Callable
from enum import Enum

import dns.edns
import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import dns.rrset
from dns.rdatatype import RdataType

from relay.lab.journal import Journal
from relay.lab.loopback import NAME_SERVER
from relay.lab.wire import Connection, Listener

CHAIN_LIMIT = 16
QUERY_LIMIT = 4096
PLAIN_UDP_SIZE = 512
EDNS_PAYLOAD = 1232


class DnsFault(Enum):
    """What a question gets instead of its answer."""

    SERVFAIL = "SERVFAIL"
    BOGUS = "SERVFAIL because the answer does not validate (RFC 8914 §4.7)"
    REFUSED = "REFUSED"
    NXDOMAIN = "NXDOMAIN although the name exists"
    NODATA = "an empty answer with SOA although there are records"
    TIMEOUT = "no answer at all"
    TRUNCATED = "TC over UDP, the answer over TCP"
    GARBAGE = "bytes that are not a DNS message"


Override = DnsFault | Callable[[dns.message.Message], bytes | None]
"""A fault, or a function that writes the answer's bytes itself (None: no answer)."""


class LabDns:
    """One name server for every name of the lab. Names are text without final dot, in any case.

    `queries` holds (name, type) of every question; `tcp_queries` those that came over TCP. Records are changed at
    any time. Types are given by name: "MX", "TXT", "A", "AAAA", "CNAME", "TLSA".
    """

    def __init__(self, *, ttl: int = 0) -> None:
        self.ttl = ttl
        self.queries: Journal[tuple[str, str]] = Journal()
        self.tcp_queries: Journal[tuple[str, str]] = Journal()
        self.address = ""
        self._records: dict[dns.name.Name, dict[RdataType, dns.rrset.RRset]] = {}
        self._existing: Counter[dns.name.Name] = Counter()  # owners and all names above them, RFC 8020
        self._overrides: dict[tuple[dns.name.Name, RdataType | None], Override] = {}
        self._authentic: set[dns.name.Name] = set()
        self._tcp = Listener()
        self._udp: asyncio.DatagramTransport | None = None

    async def start(self) -> None:
        """Listen at 127.0.0.1, UDP and TCP at one port."""
        loop = asyncio.get_running_loop()
        for _try in range(20):
            port = await self._tcp.start(lambda: _TcpConnection(self, self._tcp), NAME_SERVER, 0)
            try:
                self._udp, _ = await loop.create_datagram_endpoint(lambda: _Udp(self), (NAME_SERVER, port))
            except OSError:  # the port is free for TCP alone
                await self._tcp.close()
                continue
            self.address = f"{NAME_SERVER}:{port}"
            return
        raise OSError("no port is free for both UDP and TCP")

    async def close(self) -> None:
        if self._udp is not None:
            self._udp.close()
        await self._tcp.close()

    # Records.

    def set(self, name: str, rdtype: str, *values: str, ttl: int | None = None) -> None:
        """Put these records in place of all that the name has of this type. Values are in zone-file form."""
        owner, kind = _name(name), dns.rdatatype.from_text(rdtype)
        rrset = dns.rrset.from_text(owner, self.ttl if ttl is None else ttl, "IN", rdtype, *values)
        if owner not in self._records:
            self._records[owner] = {}
            self._existing.update(_with_ancestors(owner))
        self._records[owner][kind] = rrset

    def remove(self, name: str, rdtype: str | None = None) -> None:
        """Forget the records of this type, or all records of the name. Nothing happens where there are none."""
        owner = _name(name)
        here = self._records.get(owner)
        if here is None:
            return
        if rdtype is None:
            here.clear()
        else:
            here.pop(dns.rdatatype.from_text(rdtype), None)
        if not here:
            del self._records[owner]
            self._existing.subtract(_with_ancestors(owner))

    def records(self, name: str, rdtype: str) -> tuple[str, ...]:
        """Return the values that the name has of this type, in zone-file form."""
        rrset = self._records.get(_name(name), {}).get(dns.rdatatype.from_text(rdtype), ())
        return tuple(record.to_text() for record in rrset)

    def mx(self, name: str, *hosts: tuple[int, str], ttl: int | None = None) -> None:
        self.set(name, "MX", *(f"{preference} {host}." for preference, host in hosts), ttl=ttl)

    def null_mx(self, name: str) -> None:
        """RFC 7505: this domain takes no mail."""
        self.set(name, "MX", "0 .")

    def a(self, name: str, *addresses: str, ttl: int | None = None) -> None:
        self.set(name, "A", *addresses, ttl=ttl)

    def aaaa(self, name: str, *addresses: str, ttl: int | None = None) -> None:
        self.set(name, "AAAA", *addresses, ttl=ttl)

    def cname(self, name: str, target: str, ttl: int | None = None) -> None:
        self.set(name, "CNAME", f"{target}.", ttl=ttl)

    def txt(self, name: str, *texts: str | tuple[str, ...], ttl: int | None = None) -> None:
        """One record per text; a tuple is one record of several character-strings."""
        records = [(text,) if isinstance(text, str) else text for text in texts]
        self.set(name, "TXT", *(" ".join(_quoted(string) for string in strings) for strings in records), ttl=ttl)

    def tlsa(self, host: str, *records: str, port: int = 25, ttl: int | None = None) -> None:
        self.set(f"_{port}._tcp.{host}", "TLSA", *records, ttl=ttl)

    # Faults.

    def override(self, name: str, rdtype: str | None, how: Override | None) -> None:
        """Answer questions for this name (and type, or all types) in that way; None ends it."""
        key = (_name(name), dns.rdatatype.from_text(rdtype) if rdtype else None)
        if how is None:
            self._overrides.pop(key, None)
        else:
            self._overrides[key] = how

    def sign(self, domain: str) -> None:
        """Set AD on answers about this domain and all below it, where the client asks for it (RFC 6840 §5.7).

        An alias counts as signed only if all that it leads to is signed too (RFC 4035 §3.2.3). The root always is.
        """
        self._authentic.add(_name(domain))

    # Answers.

    def answer(self, wire: bytes, *, tcp: bool) -> bytes | None:
        """Return the answer's bytes, or None for silence."""
        try:
            query = dns.message.from_wire(wire)
        except dns.exception.DNSException:
            return None
        if not query.question:
            return None
        question = query.question[0]
        asked = (question.name.to_text(omit_final_dot=True).lower(), dns.rdatatype.to_text(question.rdtype))
        self.queries.record(asked)
        if tcp:
            self.tcp_queries.record(asked)
        override = self._override_of(question.name, question.rdtype)
        if override is not None and not isinstance(override, DnsFault):
            return override(query)
        response = self._respond(query, override, tcp=tcp)
        return response if isinstance(response, bytes | None) else _to_wire(response, query, tcp=tcp)

    def _override_of(self, name: dns.name.Name, rdtype: RdataType) -> Override | None:
        return self._overrides.get((name, rdtype)) or self._overrides.get((name, None))

    def _respond(
        self, query: dns.message.Message, fault: DnsFault | None, *, tcp: bool
    ) -> dns.message.Message | bytes | None:
        question = query.question[0]
        response = dns.message.make_response(query, recursion_available=True)
        match fault:
            case DnsFault.TIMEOUT:
                return None
            case DnsFault.GARBAGE:
                return b"\x00" * 5
            case DnsFault.SERVFAIL:
                response.set_rcode(dns.rcode.SERVFAIL)
            case DnsFault.BOGUS:
                response.set_rcode(dns.rcode.SERVFAIL)
                option = dns.edns.EDEOption(dns.edns.EDECode.DNSSEC_BOGUS, "the signature does not match")
                response.use_edns(0, 0, EDNS_PAYLOAD, options=[option])
            case DnsFault.REFUSED:
                response.set_rcode(dns.rcode.REFUSED)
            case DnsFault.NXDOMAIN:
                response.set_rcode(dns.rcode.NXDOMAIN)
                self._add_soa(response, question.name)
            case DnsFault.NODATA:
                self._add_soa(response, question.name)
            case DnsFault.TRUNCATED if not tcp:
                response.flags |= dns.flags.TC
            case _:
                self._look_up(response, question.name, question.rdtype)
                if self._may_set_ad(query, response):
                    response.flags |= dns.flags.AD
        return response

    def _look_up(self, response: dns.message.Message, name: dns.name.Name, rdtype: RdataType) -> None:
        """Follow aliases to the records, as a recursive resolver does for its clients (RFC 1034 §3.6.2)."""
        for _link in range(CHAIN_LIMIT):
            records = self._records.get(name, {})
            if rdtype in records:
                response.answer.append(records[rdtype])
                return
            if RdataType.CNAME not in records:
                break
            response.answer.append(records[RdataType.CNAME])
            name = records[RdataType.CNAME][0].target
        else:
            response.set_rcode(dns.rcode.SERVFAIL)
            return
        if not self._existing[name]:
            response.set_rcode(dns.rcode.NXDOMAIN)
        self._add_soa(response, name)

    def _add_soa(self, response: dns.message.Message, name: dns.name.Name) -> None:
        zone = name if len(name.labels) < 3 else dns.name.Name(name.labels[-3:])
        text = f"ns.lab.test. hostmaster.lab.test. 1 3600 600 86400 {self.ttl}"
        response.authority.append(dns.rrset.from_text(zone, self.ttl, "IN", "SOA", text))

    def _may_set_ad(self, query: dns.message.Message, response: dns.message.Message) -> bool:
        asks = bool(query.flags & dns.flags.AD) or bool(query.ednsflags & dns.flags.DO)
        aliases = [rrset for rrset in response.answer if rrset.rdtype == RdataType.CNAME]
        names = [query.question[0].name, *(rrset[0].target for rrset in aliases)]
        return asks and all(
            name == dns.name.root or any(name.is_subdomain(domain) for domain in self._authentic) for name in names
        )


def _to_wire(response: dns.message.Message, query: dns.message.Message, *, tcp: bool) -> bytes:
    if tcp:
        return response.to_wire()
    room = max(query.payload, PLAIN_UDP_SIZE) if query.edns >= 0 else PLAIN_UDP_SIZE
    try:
        return response.to_wire(max_size=room)
    except dns.exception.TooBig:
        short = dns.message.make_response(query, recursion_available=True)
        short.flags |= dns.flags.TC
        return short.to_wire()


def _with_ancestors(name: dns.name.Name) -> list[dns.name.Name]:
    return [dns.name.Name(name.labels[start:]) for start in range(len(name.labels))]


def _name(name: str) -> dns.name.Name:
    return dns.name.from_text(name.lower())


def _quoted(string: str) -> str:
    escaped = "".join(_escaped(octet) for octet in string.encode())
    return f'"{escaped}"'


def _escaped(octet: int) -> str:
    return chr(octet) if 0x20 <= octet < 0x7F and chr(octet) not in '"\\' else f"\\{octet:03d}"


class _Udp(asyncio.DatagramProtocol):
    def __init__(self, server: LabDns) -> None:
        self._server = server
        self._transport: asyncio.DatagramTransport | None = None

    def connection_made(self, transport: asyncio.DatagramTransport) -> None:  # type: ignore[override]
        self._transport = transport

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        answer = self._server.answer(data, tcp=False)
        if answer is not None and self._transport is not None:
            self._transport.sendto(answer, addr)


class _TcpConnection(Connection):
    def __init__(self, server: LabDns, listener: Listener) -> None:
        super().__init__(listener)
        self._server = server
        self._buffer = b""

    def on_data(self, data: bytes) -> None:
        self._buffer += data
        while len(self._buffer) >= 2:
            (length,) = struct.unpack("!H", self._buffer[:2])
            if length > QUERY_LIMIT:
                self.reset()
                return
            if len(self._buffer) < 2 + length:
                return
            query, self._buffer = self._buffer[2 : 2 + length], self._buffer[2 + length :]
            answer = self._server.answer(query, tcp=True)
            if answer is not None:
                self.send(struct.pack("!H", len(answer)) + answer)
