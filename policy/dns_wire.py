"""What is asked of a name server and what it answers, octet by octet (RFC 1035 §4, RFC 6891). **Pure.**

dnspython reads names and records; of a message only what a question needs is read, which is a quarter of the work.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from struct import Struct
from typing import Any

import dns.edns
import dns.exception
import dns.flags
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

MAX_CHAIN = 16
"""CNAMEs in one answer."""

_Labels = tuple[bytes, ...]

_HEADER = Struct("!HHHHHH")
_RECORD = Struct("!HHIH")  # type, class, TTL and length of the data
_OPTIONS = Struct("!BHHIH")  # the same of OPT, behind the root's name
_POINTER_TO_QUESTION = b"\xc0\x0c"  # RFC 1035 §4.1.4: the name right behind the header
_MAX_TTL = 0x7FFFFFFF  # RFC 2181 §8: one beyond counts as 0
_LEAST_SOA = 22  # two names and five numbers
# RFC 1035 §4.1.1, RFC 4035 §3.2.3; plain numbers, because with enums each look at a bit costs a microsecond.
_QR, _OPCODE, _TC, _RD, _AD, _RCODE = 0x8000, 0x7800, 0x0200, 0x0100, 0x0020, 0x000F
_OPT, _CNAME, _SOA = int(dns.rdatatype.OPT), int(dns.rdatatype.CNAME), int(dns.rdatatype.SOA)
_ADDRESSES: dict[int, tuple[int, type[IPv4Address | IPv6Address]]] = {
    int(dns.rdatatype.A): (4, IPv4Address),
    int(dns.rdatatype.AAAA): (16, IPv6Address),
}
_IN = int(dns.rdataclass.IN)
# RFC 1035 §4.1.1: one who cannot read the question, or will not, may leave it out of the answer.
_WITHOUT_QUESTION = frozenset({dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED})


class MalformedError(Exception):
    """This is no DNS message, or none that answers the question."""


class ContradictionError(Exception):
    """An answer to the question that cannot be."""


class Question:
    """One question of class IN. `dnssec` asks for DNSSEC altogether (RFC 3225 §3), `payload` is what we take by UDP."""

    __slots__ = ("_octets", "_options", "_type", "labels", "name", "rdtype")

    def __init__(self, name: dns.name.Name, rdtype: dns.rdatatype.RdataType, *, dnssec: bool, payload: int) -> None:
        self.name = name
        self.rdtype = rdtype
        self.labels = _labels(name)
        self._octets = name.to_wire() or b""
        self._type = rdtype.to_bytes(2, "big") + _IN.to_bytes(2, "big")
        self._options = _OPTIONS.pack(0, _OPT, payload, dns.flags.DO if dnssec else 0, 0)

    def message(self, message_id: int) -> bytes:
        # RFC 6840 §5.7: AD in a question asks for AD in the answer.
        header = _HEADER.pack(message_id, _RD | _AD, 1, 0, 0, 1)
        return b"".join((header, self._octets, self._type, self._options))

    def end_of_echo(self, wire: bytes) -> int:
        """Return where the question ends that a message begins with. Raises MalformedError if it is not this one."""
        middle = _HEADER.size + len(self._octets)
        end = middle + len(self._type)
        # Lengths of labels are below the letters, so that lower case changes none of them.
        if wire[_HEADER.size : middle].lower() != self._octets.lower() or wire[middle:end] != self._type:
            raise MalformedError("an answer to another question")
        return end


@dataclass(slots=True)
class _Records:
    ttl: int
    rdatas: list[Any]


@dataclass(frozen=True, slots=True)
class Response:
    """An answer to the question. `options` are those of EDNS.

    `canonical_name`: where its CNAMEs led; `records`: of the type asked for, there: addresses, or what dnspython has.
    `ttl`: the smallest of all these, in seconds, and if there are no records also of the SOA record above the name;
    `denied` tells whether there is one, as a negative answer has (RFC 2308 §2).
    """

    rcode: int
    authentic: bool
    truncated: bool
    canonical_name: dns.name.Name
    records: tuple[Any, ...] = ()
    ttl: int = _MAX_TTL
    denied: bool = False
    options: tuple[dns.edns.Option, ...] = ()


def read_response(wire: bytes, question: Question, message_id: int) -> Response:
    """Read the answer to a question; of one that is cut off only that it is.

    Raises MalformedError and ContradictionError.
    """
    if len(wire) < _HEADER.size:
        raise MalformedError("no header")
    its_id, flags, questions, *counts = _HEADER.unpack_from(wire)
    if its_id != message_id or not flags & _QR or flags & _OPCODE:
        raise MalformedError("no answer, or one to another message")
    if questions == 0 and flags & _RCODE in _WITHOUT_QUESTION:
        start = _HEADER.size
    elif questions == 1:
        start = question.end_of_echo(wire)
    else:
        raise MalformedError(f"{questions} questions")
    authentic = bool(flags & _AD)
    if flags & _TC:
        return Response(flags & _RCODE, authentic, truncated=True, canonical_name=question.name)
    try:
        body = _Body(wire, start, question, counts)
    except dns.exception.DNSException as error:
        raise MalformedError(str(error) or type(error).__name__) from error
    rcode = flags & _RCODE | body.high_rcode
    name, ttl, found = _follow(question, body.answers)
    if found is not None and rcode == dns.rcode.NXDOMAIN:
        raise ContradictionError("records of a name that is said not to exist")
    soa = None if found is not None else _denied_for(_labels(name), body.zones)
    return Response(
        rcode,
        authentic,
        truncated=False,
        canonical_name=name,
        records=_distinct(found.rdatas) if found is not None else (),
        ttl=ttl if soa is None else min(ttl, soa),
        denied=soa is not None,
        options=body.options,
    )


class _Body:
    """The records of a message that matter; all others are stepped over.

    `answers`: of the type asked for, and CNAMEs. `zones`: how long an SOA record says that what is not there is not
    there, in seconds (RFC 2308 §5). Names are labels in lower case.
    """

    def __init__(self, wire: bytes, start: int, question: Question, counts: list[int]) -> None:
        self.answers: dict[tuple[_Labels, int], _Records] = {}
        self.zones: dict[_Labels, int] = {}
        self.options: tuple[dns.edns.Option, ...] = ()
        self.high_rcode = 0
        self._wire = wire
        self._at = start
        self._question = question
        answers, authorities, additionals = counts
        for owner, rdtype, ttl, octets in self._records(answers, (question.rdtype, _CNAME)):
            known = self.answers.setdefault((owner, rdtype), _Records(ttl, []))
            known.ttl = min(known.ttl, ttl)
            known.rdatas.append(self._rdata(rdtype, octets))
        for owner, _, ttl, octets in self._records(authorities, (_SOA,)):
            soa = wire[octets]
            if len(soa) < _LEAST_SOA:
                raise MalformedError("an SOA record that is cut off")
            self.zones[owner] = min(ttl, int.from_bytes(soa[-4:], "big"))
        for _, _, ttl, octets in self._records(additionals, (_OPT,)):
            self.high_rcode = ttl >> 24 << 4
            self.options = self._rdata(_OPT, octets).options if wire[octets] else ()
        if self._at != len(wire):
            raise MalformedError("octets behind the message")

    def _records(self, count: int, wanted: tuple[int, ...]) -> Iterator[tuple[_Labels, int, int, slice]]:
        """Owner, type, TTL and place of the data of each record that is wanted."""
        wire = self._wire
        for _ in range(count):
            owner = self._owner()
            start = self._at + _RECORD.size
            if start > len(wire):
                raise MalformedError("a record that is cut off")
            rdtype, rdclass, ttl, length = _RECORD.unpack_from(wire, self._at)
            self._at = start + length
            if self._at > len(wire):
                raise MalformedError("a record that is cut off")
            if rdtype in wanted and (rdclass == _IN or rdtype == _OPT):
                yield owner, rdtype, ttl if ttl <= _MAX_TTL or rdtype == _OPT else 0, slice(start, self._at)

    def _owner(self) -> _Labels:
        if self._wire.startswith(_POINTER_TO_QUESTION, self._at):
            self._at += len(_POINTER_TO_QUESTION)
            return self._question.labels
        name, used = dns.name.from_wire(self._wire, self._at)
        self._at += used
        return _labels(name)

    def _rdata(self, rdtype: int, octets: slice) -> Any:
        if rdtype in _ADDRESSES:
            length, family = _ADDRESSES[rdtype]
            address = self._wire[octets]
            if len(address) != length:
                raise MalformedError("an address of another length")
            return family(address)
        # The class of OPT is a size, which nobody asks for.
        kind = dns.rdatatype.RdataType(rdtype)
        return dns.rdata.from_wire(dns.rdataclass.IN, kind, self._wire, octets.start, octets.stop - octets.start)


def _follow(
    question: Question, records: dict[tuple[_Labels, int], _Records]
) -> tuple[dns.name.Name, int, _Records | None]:
    """Return where the CNAMEs lead, the smallest TTL, and the records that are there."""
    name, labels, ttl = question.name, question.labels, _MAX_TTL
    for _ in range(MAX_CHAIN):
        found = records.get((labels, question.rdtype))
        if found is not None:
            return name, min(ttl, found.ttl), found
        alias = records.get((labels, _CNAME))
        if alias is None:
            return name, ttl, None
        name, ttl = alias.rdatas[-1].target, min(ttl, alias.ttl)
        labels = _labels(name)
    raise ContradictionError(f"more than {MAX_CHAIN} CNAMEs in an answer")


def _denied_for(labels: _Labels, zones: dict[_Labels, int]) -> int | None:
    """Return what the nearest zone that the name is in says, or None."""
    above = [zone for zone in zones if labels[-len(zone) :] == zone]
    return zones[max(above, key=len)] if above else None


def _distinct(rdatas: list[Any]) -> tuple[Any, ...]:
    """RFC 2181 §5: a record that is given twice is one."""
    return tuple(rdatas) if len(rdatas) == 1 else tuple(dict.fromkeys(rdatas))


def _labels(name: dns.name.Name) -> _Labels:
    return tuple([label.lower() for label in name.labels])
