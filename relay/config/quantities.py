"""How an admin writes durations, sizes, addresses and names in config.toml, and back. **Pure.**

Each parser raises ValueError with a sentence that fits behind "must be".
"""

import ipaddress
import re
from datetime import date, timedelta
from typing import NamedTuple

from policy.names import InvalidNameError, IPAddress, to_domain
from relay.delivery.routing_table import NextHop

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"([0-9]{1,9})(ms|s|m|h|d)")
_LONGEST = timedelta(days=3660)

_SIZES = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40}
_SIZE = re.compile(r"([0-9]{1,9})(B|KiB|MiB|GiB|TiB)")

_FINGERPRINT = re.compile(r"(?:[0-9A-Fa-f]{2}:?){31}[0-9A-Fa-f]{2}")
_SELECTOR = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?(?:\.[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?){0,3}")
_LOCAL_PART = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+(?:\.[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+)*")


def parse_duration(text: str) -> timedelta:
    """Read `30s`, `15m`, `1h`, `7d` (and `500ms`)."""
    match = _DURATION.fullmatch(text)
    if match is None:
        raise ValueError('a duration such as "30s", "15m", "1h" or "7d"')
    duration = timedelta(seconds=int(match[1]) * _UNITS[match[2]])
    if duration > _LONGEST:
        raise ValueError(f'a duration of at most "{_LONGEST.days}d"')
    return duration


def render_duration(duration: timedelta) -> str:
    """Write a duration in the largest unit that gives a whole number."""
    milliseconds = round(duration.total_seconds() * 1000)
    for unit in ("d", "h", "m", "s"):
        length = round(_UNITS[unit] * 1000)
        if milliseconds and milliseconds % length == 0:
            return f"{milliseconds // length}{unit}"
    return f"{milliseconds}ms" if milliseconds else "0s"


def parse_size(text: str) -> int:
    """Read `512KiB`, `150MiB` as octets."""
    match = _SIZE.fullmatch(text)
    if match is None:
        raise ValueError('a size such as "512KiB" or "150MiB"')
    return int(match[1]) * _SIZES[match[2]]


def render_size(octets: int) -> str:
    for unit in ("TiB", "GiB", "MiB", "KiB"):
        if octets and octets % _SIZES[unit] == 0:
            return f"{octets // _SIZES[unit]}{unit}"
    return f"{octets}B"


class HostPort(NamedTuple):
    """An IP address (or a host name, where one is allowed) and a port."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_address_port(text: str, default_port: int | None = None) -> HostPort:
    """Read `127.0.0.1:2525` or `[::1]:2525`; with a default port, `127.0.0.1` and `::1` as well."""
    told = 'an address with a port such as "127.0.0.1:2525" or "[::1]:2525"'
    if default_port is not None:
        told = 'an IP address, with or without a port, such as "127.0.0.1" or "[::1]:5353"'
        if (address := _ip(text)) is not None:
            return HostPort(str(address), default_port)
    host, colon, port = text.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    address = _ip(host[1:-1] if bracketed else host)
    if not colon or address is None or (address.version == 6) != bracketed:
        raise ValueError(told)
    return HostPort(str(address), _port(port))


def _ip(text: str) -> IPAddress | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _port(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text) <= 65535):
        raise ValueError("followed by a port between 0 and 65535")
    return int(text)


def parse_smtp_url(text: str) -> HostPort:
    """Read `smtp://host:port`; the port is 25 where none is given."""
    scheme, separator, rest = text.partition("://")
    if scheme != "smtp" or not separator:
        raise ValueError('written as "smtp://host:port"')
    try:
        return parse_address_port(rest, default_port=25)
    except ValueError:
        host, _, port = rest.partition(":")
        return HostPort(parse_domain(host), _port(port) if port else 25)


def parse_next_hop(text: str) -> NextHop:
    try:
        return NextHop.parse(text)
    except ValueError:
        # The parser's own words repeat the URL, in which somebody may have written a password.
        raise ValueError('written as "smtp://host:port", "smtps://host:port" or "mx://domain"') from None


def parse_domain(text: str) -> str:
    try:
        return to_domain(text)
    except InvalidNameError as error:
        raise ValueError(f"a domain name ({error})") from None


def parse_domain_pattern(text: str) -> str:
    """Read a domain, or `*.domain` for all below it."""
    return f"*.{parse_domain(text[2:])}" if text.startswith("*.") else parse_domain(text)


def parse_route_pattern(text: str) -> str:
    """Read a domain, `*.domain` for all below it, or `*`."""
    return text if text == "*" else parse_domain_pattern(text)


def parse_day(value: object) -> date | None:
    """Read a day such as 2026-12-31, with or without quotes; "" is none."""
    if value == "":
        return None
    try:
        if type(value) is date:  # a time of day would be one too
            return value
        return date.fromisoformat(value if isinstance(value, str) and len(value) == len("2026-12-31") else "")
    except ValueError:
        raise ValueError('a day such as "2026-12-31"') from None


def parse_mailbox(text: str) -> str:
    """Read a plain address, local-part@domain, and bring its domain into canonical form."""
    local_part, at, domain = text.rpartition("@")
    if not at or _LOCAL_PART.fullmatch(local_part) is None:
        raise ValueError('a mail address such as "postmaster@example.com"')
    return f"{local_part}@{parse_domain(domain)}"


def parse_selector(text: str) -> str:
    """Read the selector of a DKIM key (RFC 6376 §3.1): labels of a domain name."""
    if _SELECTOR.fullmatch(text.lower()) is None:
        raise ValueError('a selector such as "tlsrpt" or "tlsrpt.2026"')
    return text.lower()


def parse_network(text: str) -> ipaddress.IPv4Network | ipaddress.IPv6Network:
    """Read `10.0.0.0/8`, `::1/128` or a single address."""
    try:
        return ipaddress.ip_network(text)
    except ValueError as error:
        hint = "" if "host bits" not in str(error) else f"; did you mean {ipaddress.ip_network(text, strict=False)}?"
        raise ValueError(f'a network such as "10.0.0.0/8" or "::1/128"{hint}') from None


def parse_certificate_name(text: str) -> str:
    """Read a SHA-256 fingerprint (colons allowed) as lower-case digits, or a DNS name."""
    if _FINGERPRINT.fullmatch(text):
        return text.replace(":", "").lower()
    try:
        return to_domain(text)
    except InvalidNameError:
        raise ValueError("a SHA-256 fingerprint of 64 hexadecimal digits or a DNS name") from None
