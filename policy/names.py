"""Domain and host names as the rest of the program holds them: lower-case A-labels, no final dot.

RFC 5890, RFC 5321 §2.3.5 and §4.1.3. **Pure.**
"""

import ipaddress
import re

import idna

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address

_LDH_LABEL = re.compile(r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?")
_HOST_LABEL = re.compile(r"[a-z0-9_](?:[a-z0-9_-]{0,61}[a-z0-9_])?")
_MAX_NAME = 253


class InvalidNameError(ValueError):
    """The text is not a domain name that mail can be sent to."""


def to_domain(text: str) -> str:
    """Return a mail domain as lower-case A-labels without a final dot.

    U-labels are converted by IDNA 2008 (UTS 46, non-transitional), the one mapping used for DNS, SNI, policy host
    and cache key alike. Address literals are not domains.
    """
    return _canonical(text, _LDH_LABEL)


def to_host(text: str) -> str:
    """Return a host name found in DNS in canonical form; unlike a mail domain it may carry underscores."""
    return _canonical(text, _HOST_LABEL)


def _canonical(text: str, label_form: re.Pattern[str]) -> str:
    name = text.removesuffix(".")
    if name.isascii():
        name = name.lower()
    else:
        try:
            name = idna.encode(name, uts46=True, transitional=False, std3_rules=True).decode("ascii").lower()
        except (idna.IDNAError, UnicodeError) as error:
            raise InvalidNameError(f"{text!r} is not an internationalised domain name: {error}") from error
    if not name or len(name) > _MAX_NAME:
        raise InvalidNameError(f"{text!r} is empty or longer than {_MAX_NAME} octets")
    for label in name.split("."):
        if label_form.fullmatch(label) is None:
            raise InvalidNameError(f"{text!r} has the label {label!r}, which no host name may have")
    if name.rpartition(".")[2].isdigit():
        raise InvalidNameError(f"{text!r} ends in a number, so it is an address and not a name")
    return name


def parse_address_literal(text: str) -> IPAddress | None:
    """Return the address of `[192.0.2.1]` or `[IPv6:2001:db8::1]` (RFC 5321 §4.1.3), or None if it is none."""
    if not (text.startswith("[") and text.endswith("]")):
        return None
    inner = text[1:-1]
    try:
        if inner[:5].lower() == "ipv6:":
            return ipaddress.IPv6Address(inner[5:]) if "%" not in inner else None
        return ipaddress.IPv4Address(inner)
    except ValueError:
        return None
