"""The Resolver over dnspython: TTL cache, one question at a time per name, and answers that never raise.

RFC 1035, RFC 2308 (negative caching), RFC 4035 §3.2.3 (the AD bit), RFC 8914 (extended errors).
Limits: DNSSEC is validated by the name server, which therefore has to be near; see `nameservers.TrustAd`.
"""

import asyncio
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from itertools import chain, zip_longest
from typing import Any, TypeVar, assert_never

import dns.edns
import dns.exception
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rdtypes.ANY.TLSA
import dns.resolver
from cachetools import TLRUCache, TTLCache

from policy.answers import Absence, Absent, Answer, Found, MxRecord, TlsaRecord, Unknown, UnknownReason
from policy.dns_servers import NameServers, NoAnswerError
from policy.dns_wire import Question
from policy.names import InvalidNameError, IPAddress, to_host
from policy.nameservers import DnssecSupport, IpFamily, NameServer, TrustAd, believes_ad
from policy.observer import DnsObserver, DnsResult, NullObserver, RecordType
from policy.one_line import one_line
from policy.single_flight import SingleFlight

MAX_TTL = timedelta(days=1)
UNKNOWN_TTL = timedelta(seconds=3)
"""How long an unanswered question is not asked again: enough to break a burst, too little to hide a recovery."""

_MAX_TTL_SECONDS = int(MAX_TTL.total_seconds())
_MAX_CNAMES = 8
_MAX_QUESTIONS = 256
_MAX_OVERDUE_QUESTIONS = 64
_OVERDUE_SECONDS = 1800.0
_OVERDUE_NAMES = 20_000
_PER_SERVER_SECONDS = 2.0
_EDNS_PAYLOAD = 1232
_BOGUS_CODES = frozenset(range(5, 13)) | {25, 27}  # RFC 8914 §4: what a validator says when it does not believe
_RDTYPES = {record_type: dns.rdatatype.from_text(record_type.value) for record_type in RecordType}
_LABEL = re.compile(rb"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?")

T = TypeVar("T")

# RFC 6698 §4.1: a digest of the wrong length makes its own record unusable. dnspython would refuse the whole answer.
dns.rdtypes.ANY.TLSA.TLSA._cert_length_by_mtype = {}  # noqa: SLF001  there is no public way


def system_nameservers(path: str = "/etc/resolv.conf") -> tuple[NameServer, ...]:
    """Return the name servers of resolv.conf; of `search`, `ndots` and the like nothing is used."""
    reader = dns.resolver.Resolver(configure=False)
    try:
        reader.read_resolv_conf(path)
    except dns.resolver.NoResolverConfiguration:
        return ()
    return tuple(NameServer(address=str(server)) for server in reader.nameservers)


@dataclass(frozen=True, slots=True)
class _Stored:
    answer: Answer[Any]
    stored_at: float


class DnsResolver:
    """Implements `policy.answers.Resolver`.

    `timeout` bounds one question with all its retries and name servers. `timer` gives seconds that never go back.
    """

    def __init__(
        self,
        *,
        nameservers: Sequence[NameServer],
        timer: Callable[[], float],
        timeout: timedelta = timedelta(seconds=5),
        trust_ad: TrustAd = TrustAd.AUTO,
        ip_family: IpFamily = IpFamily.ANY,
        cache_size: int = 50_000,
        observer: DnsObserver | None = None,
    ) -> None:
        if not nameservers:
            raise ValueError("there is no name server to ask")
        self._nameservers = NameServers(nameservers, patience_seconds=_PER_SERVER_SECONDS)
        self._trusted = believes_ad(trust_ad, nameservers)
        self._timeout = timeout
        self._timer = timer
        self._ip_family = ip_family
        self._observer = observer or NullObserver()
        self._cache: TLRUCache[tuple[RecordType, str], _Stored] = TLRUCache(
            cache_size, ttu=lambda _, stored, now: now + _ttl(stored.answer).total_seconds(), timer=timer
        )
        self._flights: SingleFlight[tuple[RecordType, str], Answer[Any]] = SingleFlight()
        # Names that got no answer lately do not take up the places of those that may get one.
        self._questions = asyncio.Semaphore(_MAX_QUESTIONS)
        self._overdue_questions = asyncio.Semaphore(_MAX_OVERDUE_QUESTIONS)
        self._overdue: TTLCache[str, None] = TTLCache(_OVERDUE_NAMES, _OVERDUE_SECONDS, timer)

    async def mx(self, domain: str) -> Answer[MxRecord]:
        return await self._ask(RecordType.MX, domain, _mx_record)

    async def txt(self, name: str, *, fresh: bool = False) -> Answer[bytes]:
        return await self._ask(RecordType.TXT, name, lambda rdata: b"".join(rdata.strings), fresh=fresh)

    async def addresses(self, host: str) -> Answer[IPAddress]:
        wanted = {
            IpFamily.ANY: (RecordType.AAAA, RecordType.A),
            IpFamily.IPV4: (RecordType.A,),
            IpFamily.IPV6: (RecordType.AAAA,),
        }[self._ip_family]
        cached = [self._cached((record_type, _key(host))) for record_type in wanted]
        if None not in cached:
            return _merged([answer for answer in cached if answer is not None])
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(self._ask(record_type, host, _address)) for record_type in wanted]
        return _merged([task.result() for task in tasks])

    async def tlsa(self, name: str) -> Answer[TlsaRecord]:
        return await self._ask(RecordType.TLSA, name, _tlsa_record)

    async def cname(self, name: str) -> Answer[str]:
        return await self._ask(RecordType.CNAME, name, lambda rdata: rdata.target.to_text(omit_final_dot=True))

    async def dnssec_support(self, zone: str = ".") -> DnssecSupport:
        """Ask for the SOA record of a zone that is signed, and say what the answer is worth. For the start-up."""
        if not self._trusted:
            return DnssecSupport.NOT_TRUSTED
        answer = await self._resolve(RecordType.SOA, dns.name.from_text(zone), lambda rdata: rdata.serial)
        self._observer.dns_asked(RecordType.SOA, _result(answer))
        if isinstance(answer, Unknown):
            return DnssecSupport.UNKNOWN
        return DnssecSupport.VALIDATES if answer.authentic else DnssecSupport.NOT_VALIDATING

    async def _ask(
        self, record_type: RecordType, name: str, read: Callable[[Any], T], *, fresh: bool = False
    ) -> Answer[T]:
        key = (record_type, _key(name))
        if not fresh and (answer := self._cached(key)) is not None:
            return answer
        # Even a fresh question may share one that is under way: its answer comes from the DNS after the asking.
        return await self._flights.run(key, lambda: self._question(key, read))

    def _cached(self, key: tuple[RecordType, str]) -> Answer[Any] | None:
        """Return a stored answer with what is left of its TTL, so that nobody adds up TTLs."""
        stored = self._cache.get(key)
        if stored is None or isinstance(stored.answer, Unknown):
            return stored.answer if stored else None
        return replace(stored.answer, ttl=stored.answer.ttl - timedelta(seconds=self._timer() - stored.stored_at))

    async def _question(self, key: tuple[RecordType, str], read: Callable[[Any], T]) -> Answer[T]:
        record_type, name = key
        qname = _qname(name)
        if qname is None:
            # Such a name cannot be in the DNS, so that it is not there is known without asking.
            return Absent(absence=Absence.NXDOMAIN, ttl=timedelta(0))
        overdue = name in self._overdue
        async with self._overdue_questions if overdue else self._questions:
            answer = await self._resolve(record_type, qname, read)
        if isinstance(answer, Unknown) and answer.reason is UnknownReason.TIMEOUT:
            self._overdue[name] = None
        elif overdue:
            self._overdue.pop(name, None)
        self._observer.dns_asked(record_type, _result(answer))
        self._cache[key] = _Stored(answer, self._timer())
        return answer

    async def _resolve(self, record_type: RecordType, qname: dns.name.Name, read: Callable[[Any], T]) -> Answer[T]:
        """Ask, and ask again where a name server gave a CNAME without what it leads to."""
        deadline = asyncio.get_running_loop().time() + self._timeout.total_seconds()
        rdtype = _RDTYPES[record_type]
        ttl, authentic = _MAX_TTL_SECONDS, self._trusted
        for _ in range(_MAX_CNAMES):
            question = Question(qname, rdtype, dnssec=self._trusted, payload=_EDNS_PAYLOAD)
            try:
                response = await self._nameservers.ask(question, deadline)
            except NoAnswerError as error:
                return _unknown(error)
            authentic = authentic and response.authentic
            ttl = min(ttl, response.ttl)
            if response.records:
                records = tuple(read(rdata) for rdata in response.records)
                name = _plain(response.canonical_name) or response.canonical_name.to_text(omit_final_dot=True)
                return Found(records=records, canonical_name=name, ttl=timedelta(seconds=ttl), authentic=authentic)
            nxdomain = response.rcode == dns.rcode.NXDOMAIN
            if nxdomain or response.denied or response.canonical_name == qname:
                # RFC 2308 §5: without an SOA it is not to be cached.
                lasts = timedelta(seconds=ttl if response.denied else 0)
                absence = Absence.NXDOMAIN if nxdomain else Absence.NODATA
                return Absent(absence=absence, ttl=lasts, authentic=authentic)
            qname = response.canonical_name
        return Unknown(reason=UnknownReason.MALFORMED, detail=f"more than {_MAX_CNAMES} CNAMEs in a chain")


def _key(name: str) -> str:
    return name.lower().removesuffix(".")


def _qname(name: str) -> dns.name.Name | None:
    """Return the name label by label (in a text, dnspython would read escapes), or None if it cannot be one."""
    try:
        return dns.name.Name([*(label.encode("ascii") for label in name.split(".")), b""])
    except (dns.exception.DNSException, UnicodeError):
        return None


def _merged(answers: Sequence[Answer[IPAddress]]) -> Answer[IPAddress]:
    """Put the families together: found in one is found, absent only if absent in all."""
    found = [answer for answer in answers if isinstance(answer, Found)]
    unknown = [answer for answer in answers if isinstance(answer, Unknown)]
    ttl = min(_ttl(answer) for answer in answers)
    if found:
        # RFC 7672 §2.2.2: one family that is secure is enough to look for TLSA records.
        named = next((answer for answer in found if answer.authentic), found[0])
        alternating = chain.from_iterable(zip_longest(*(answer.records for answer in found)))
        records = tuple(address for address in alternating if address is not None)
        return Found(records=records, canonical_name=named.canonical_name, ttl=ttl, authentic=named.authentic)
    if unknown:
        return unknown[0]
    authentic = all(answer.authentic for answer in answers if isinstance(answer, Absent))
    nodata = any(isinstance(answer, Absent) and answer.absence is Absence.NODATA for answer in answers)
    return Absent(absence=Absence.NODATA if nodata else Absence.NXDOMAIN, ttl=ttl, authentic=authentic)


def _ttl(answer: Answer[Any]) -> timedelta:
    return UNKNOWN_TTL if isinstance(answer, Unknown) else answer.ttl


def _result(answer: Answer[Any]) -> DnsResult:
    match answer:
        case Found():
            return DnsResult.FOUND
        case Absent():
            return DnsResult(answer.absence.value)
        case Unknown():
            return DnsResult(answer.reason.value)
        case _:
            assert_never(answer)


def _address(address: IPAddress) -> IPAddress:
    return address


def _mx_record(rdata: Any) -> MxRecord:
    if rdata.exchange == dns.name.root:
        return MxRecord(preference=rdata.preference, host="")
    host = _plain(rdata.exchange)
    if host is None:
        return MxRecord(preference=rdata.preference, host="", invalid=rdata.exchange.to_text(omit_final_dot=True))
    return MxRecord(preference=rdata.preference, host=host)


def _tlsa_record(rdata: Any) -> TlsaRecord:
    return TlsaRecord(usage=rdata.usage, selector=rdata.selector, matching_type=rdata.mtype, data=bytes(rdata.cert))


def _plain(name: dns.name.Name) -> str | None:
    """Return the name as a canonical host name, or None if it is none.

    Judged by the octets of the labels: the text form escapes odd ones, and then looks like another name.
    """
    labels = name.labels[:-1]
    if not all(_LABEL.fullmatch(label) for label in labels):
        return None
    try:
        return to_host(b".".join(labels).decode("ascii"))
    except InvalidNameError:
        return None


def _unknown(error: NoAnswerError) -> Unknown:
    """Say why there is no answer, from what the name servers said one after the other."""
    complaints = error.complaints
    options = [option for complaint in complaints for option in complaint.options]
    extended = [option for option in options if isinstance(option, dns.edns.EDEOption)]
    codes = [int(option.code) for option in extended]
    detail = "; ".join(
        [f"{complaint.server}: {complaint.words}" for complaint in complaints[-3:]]
        + [f"extended error {int(option.code)} {option.text or ''}".strip() for option in extended[:3]]
    )
    bogus = next((code for code in codes if code in _BOGUS_CODES), None)
    return Unknown(
        reason=UnknownReason.BOGUS if bogus is not None else _reason(error),
        detail=one_line(detail),
        extended_error=bogus if bogus is not None else next(iter(codes), None),
    )


def _reason(error: NoAnswerError) -> UnknownReason:
    rcodes = {complaint.rcode for complaint in error.complaints}
    if error.timed_out:
        return UnknownReason.TIMEOUT
    if dns.rcode.SERVFAIL in rcodes:
        return UnknownReason.SERVFAIL
    if dns.rcode.REFUSED in rcodes:
        return UnknownReason.REFUSED
    if any(complaint.unreachable for complaint in error.complaints):
        return UnknownReason.TIMEOUT  # nobody listens there, or no route: no answer
    return UnknownReason.MALFORMED
