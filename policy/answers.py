"""Answers of the DNS: found, absent, or not known, which are three different things. **Pure.**

RFC 1034, RFC 2308 (negative answers), RFC 8914 (extended errors), RFC 4035 §3.2.3 (the AD bit).
"""

from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from typing import Generic, Protocol, TypeVar

from policy.names import IPAddress

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)


class Absence(Enum):
    """How the DNS said that there is no such record."""

    NXDOMAIN = "nxdomain"
    NODATA = "nodata"


class UnknownReason(Enum):
    """Why the DNS gave no answer. None of these is a proof of absence."""

    TIMEOUT = "timeout"
    SERVFAIL = "servfail"
    BOGUS = "bogus"
    REFUSED = "refused"
    MALFORMED = "malformed"


@dataclass(frozen=True, slots=True, kw_only=True)
class Found(Generic[T_co]):
    """The records of an answer.

    `authentic` is the AD bit of a resolver that may be trusted, else False ("secure" in RFC 4035 §4.3). `ttl` is the
    smallest of the chain. `canonical_name` is where CNAMEs led; equal to the name asked for when there were none.
    """

    records: tuple[T_co, ...]
    canonical_name: str
    ttl: timedelta
    authentic: bool = False

    def __post_init__(self) -> None:
        if not self.records:
            raise ValueError("an answer without records is Absent, not Found")


@dataclass(frozen=True, slots=True, kw_only=True)
class Absent:
    """The DNS says with authority that there is none."""

    absence: Absence
    ttl: timedelta
    authentic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Unknown:
    """Could not find out. `detail` is one line for the operator; `extended_error` an RFC 8914 code if one came."""

    reason: UnknownReason
    detail: str
    extended_error: int | None = None


Answer = Found[T] | Absent | Unknown


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class MxRecord:
    """One MX record. `host` is canonical (policy.names), or "" for the root of a null MX (RFC 7505).

    `invalid` holds the name as it was published when it is not a host name; such a record is skipped.
    """

    preference: int
    host: str
    invalid: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True, order=True)
class TlsaRecord:
    """One TLSA record as it was published (RFC 6698 §2.1): any numbers, any data."""

    usage: int
    selector: int
    matching_type: int
    data: bytes

    @property
    def presentation(self) -> str:
        """As in a zone file (RFC 6698 §2.2), the data in one piece, with capitals."""
        return f"{self.usage} {self.selector} {self.matching_type} {self.data.hex().upper()}"

    def __str__(self) -> str:
        """As in a zone file; the data is cut short."""
        shown = self.data[:12].hex() + ("..." if len(self.data) > 12 else "")
        return f"{self.usage} {self.selector} {self.matching_type} {shown}"


class Resolver(Protocol):
    """Asks the DNS. Never raises for what the network does; bounded in time by its implementation.

    Answers may come from a cache within their TTL. With `fresh` they do not: the cache is passed over, and then
    refilled (RFC 8461 §5: look for an updated policy before a failure is made final).
    """

    async def mx(self, domain: str) -> "Answer[MxRecord]": ...

    async def txt(self, name: str, *, fresh: bool = False) -> "Answer[bytes]":
        """Each record's character-strings joined without a separator (RFC 8461 §3.1)."""
        ...

    async def addresses(self, host: str) -> "Answer[IPAddress]":
        """A and AAAA together, IPv6 and IPv4 alternating, each family in the order that the resolver gave.

        One family found is Found even when the other is Unknown, and authentic if the records of one family are.
        The address family setting is applied here. Addresses that may not be contacted are not filtered here: see
        `policy.address_guard.is_public`.
        """
        ...

    async def tlsa(self, name: str) -> "Answer[TlsaRecord]":
        """`name` with its prefix, as `_25._tcp.mx.example`."""
        ...

    async def cname(self, name: str) -> "Answer[str]":
        """The CNAME record itself, which tells whether the first zone of a chain is signed (RFC 7672 §2.1.3)."""
        ...
