"""From the answer to an MX query to the hosts to be tried, in order. **Pure.**

RFC 5321 §5.1 (order, implicit MX, loops), RFC 7505 (null MX).
"""

from collections.abc import Callable, Iterable, Sequence
from collections.abc import Set as AbstractSet
from typing import NamedTuple, assert_never

from policy.answers import Absence, Absent, Answer, Found, MxRecord, Unknown
from policy.findings import TlsaFindings
from policy.names import IPAddress
from relay.queue.attempt import FailureKind, HostFailure

MAX_HOSTS = 10
"""How many hosts of a domain are looked at; an endless list is an attack or a mistake."""
MAX_ADDRESSES_OF_HOST = 3
"""How many addresses of one host are tried, so that the tries of one attempt reach a second host."""

LOOP = HostFailure(kind=FailureKind.LOOP, detail="the mail hosts of the domain lead back to this relay")


class MxHost(NamedTuple):
    """A host that an MX record names, or the domain itself where it has none."""

    preference: int
    name: str


class LocatedHost(NamedTuple):
    """An MX host with the answer to the question for its addresses, and what was found of its TLSA records."""

    mx: MxHost
    addresses: Answer[IPAddress]
    tlsa: TlsaFindings | None = None


def mx_hosts(
    domain: str, answer: Answer[MxRecord], *, own_names: AbstractSet[str], draw: Callable[[], float]
) -> tuple[MxHost, ...] | HostFailure:
    """Return the hosts of a domain in the order to be tried, at most MAX_HOSTS, or why there is none.

    `draw` gives numbers that put hosts of equal preference into random order (RFC 5321 §5.1).
    """
    match answer:
        case Found():
            listed = _listed(answer.records)
            if isinstance(listed, HostFailure):
                return listed
        case Absent(absence=Absence.NODATA):
            listed = [MxHost(0, domain)]
        case Absent():
            return HostFailure(kind=FailureKind.DOMAIN_ABSENT, detail=f"{domain} does not exist in the DNS")
        case Unknown():
            return dns_unknown(f"MX records of {domain}", answer)
        case _:
            assert_never(answer)
    ordered = sorted(listed, key=lambda mx: (mx.preference, draw()))
    ours = [mx.preference for mx in ordered if mx.name in own_names]
    below = [mx for mx in ordered if not ours or mx.preference < min(ours)]
    return tuple(below[:MAX_HOSTS]) or LOOP


def _listed(records: Iterable[MxRecord]) -> list[MxHost] | HostFailure:
    """Each host once, at its lowest number. A null MX counts only when it stands alone (RFC 7505 §3)."""
    best: dict[str, int] = {}
    null, invalid = False, ""
    for record in records:
        if record.invalid is not None:
            invalid = record.invalid
        elif not record.host:
            null = True
        else:
            best[record.host] = min(record.preference, best.get(record.host, record.preference))
    if best:
        return [MxHost(preference, name) for name, preference in best.items()]
    if null:
        return HostFailure(kind=FailureKind.NULL_MX, detail="the domain says that it accepts no mail (RFC 7505)")
    return HostFailure(kind=FailureKind.NO_ADDRESS, detail=f"no MX record names a host: {invalid[:80]!a}")


def below_ourselves(hosts: Sequence[LocatedHost], own_addresses: AbstractSet[IPAddress]) -> tuple[LocatedHost, ...]:
    """Return the hosts that come before the first level with an address of ours (RFC 5321 §5.1), maybe none."""
    ours = [
        host.mx.preference
        for host in hosts
        if isinstance(host.addresses, Found) and not own_addresses.isdisjoint(host.addresses.records)
    ]
    return tuple(host for host in hosts if not ours or host.mx.preference < min(ours))


def addresses(
    host: str, answer: Answer[IPAddress], *, allowed: Callable[[IPAddress], bool]
) -> tuple[IPAddress, ...] | HostFailure:
    """Return the addresses of a host that may be contacted, in the resolver's order (RFC 5321 §5.1)."""
    match answer:
        case Found():
            public = tuple(address for address in answer.records if allowed(address))
            if public:
                return public[:MAX_ADDRESSES_OF_HOST]
            return HostFailure(
                kind=FailureKind.ADDRESS_REFUSED, detail=f"the address {answer.records[0]} of {host} is not public"
            )
        case Absent():
            return HostFailure(kind=FailureKind.NO_ADDRESS, detail=f"{host} has no address in the DNS")
        case Unknown():
            return dns_unknown(f"addresses of {host}", answer)
        case _:
            assert_never(answer)


def dns_unknown(what: str, answer: Unknown) -> HostFailure:
    """The failure for a question that the DNS did not answer, which is no proof of absence."""
    return HostFailure(kind=FailureKind.DNS_UNKNOWN, detail=f"{what}: {answer.reason.value}: {answer.detail}")
