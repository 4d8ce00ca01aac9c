"""Which name servers to ask, and how far to believe them. **Pure.**

RFC 4035 §4.9.3: the AD bit means something only over a path that can be trusted.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass
from enum import Enum
from ipaddress import ip_address
from typing import assert_never

_NAMESERVER = re.compile(
    r"(?:\[(?P<v6>[0-9A-Fa-f:.]+)\]|(?P<v4>[0-9.]+))(?::(?P<port>[0-9]{1,5}))?|(?P<bare>[0-9A-Fa-f:.]+)"
)


class TrustAd(Enum):
    """Whether to believe the AD bit. AUTO: only if all name servers are on loopback."""

    AUTO = "auto"
    YES = "true"
    NO = "false"


class DnssecSupport(Enum):
    """Whether answers can be secure at all, which DANE needs (RFC 7672 §2.1.1)."""

    VALIDATES = "validates"
    """A name server that may be trusted has vouched for an answer."""
    NOT_TRUSTED = "not-trusted"
    """Whatever the name servers say, they are not near enough to be believed."""
    NOT_VALIDATING = "not-validating"
    """They answer, and vouch for nothing."""
    UNKNOWN = "unknown"
    """There was no answer now."""


class IpFamily(Enum):
    """The address families that may be used to reach hosts."""

    ANY = "any"
    IPV4 = "ipv4"
    IPV6 = "ipv6"


@dataclass(frozen=True, slots=True, kw_only=True)
class NameServer:
    """Where a name server listens."""

    address: str
    port: int = 53


def parse_nameserver(text: str) -> NameServer:
    """Read `192.0.2.1`, `192.0.2.1:5353`, `2001:db8::1` or `[2001:db8::1]:53`. Raises ValueError."""
    parts = _NAMESERVER.fullmatch(text)
    if parts is None:
        raise ValueError(f"{text!r} is not an address, nor an address with a port")
    port = int(parts["port"] or "53")
    if not 0 < port < 65536:
        raise ValueError(f"{text!r} has no valid port")
    return NameServer(address=str(ip_address(parts["v6"] or parts["v4"] or parts["bare"])), port=port)


def believes_ad(trust_ad: TrustAd, nameservers: Iterable[NameServer]) -> bool:
    """Whether the AD bit of these name servers counts."""
    match trust_ad:
        case TrustAd.YES:
            return True
        case TrustAd.NO:
            return False
        case TrustAd.AUTO:
            return all(ip_address(server.address).is_loopback for server in nameservers)
        case _:
            assert_never(trust_ad)
