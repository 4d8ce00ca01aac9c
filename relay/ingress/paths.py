"""Reverse-path and forward-path (RFC 5321 §4.1.2, RFC 6531 §3.3), parsed strictly from the octets. **Pure.**

The path is an octet string with a grammar and nothing else: no RFC 2047 words are decoded, no comments skipped, no
quoting changed. The local part is the destination's to interpret (RFC 5321 §2.3.11) and stays letter for letter;
the domain becomes canonical.
"""

import re
import unicodedata
from functools import lru_cache
from typing import NamedTuple

from policy.names import InvalidNameError, parse_address_literal, to_domain

_MAX_PATH = 256  # which leaves a domain fewer than the 255 octets that it may have
_MAX_LOCAL = 64

_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]"
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"

# What nearly every path looks like. The last label starts with a letter, so that the name is no address.
_ORDINARY = re.compile(
    rf"<({_ATEXT}+(?:\.{_ATEXT}+)*)@((?:{_LABEL}\.)*[A-Za-z](?:[A-Za-z0-9-]{{0,61}}[A-Za-z0-9])?)>".encode()
)
_DOT_STRING = re.compile(rf"(?:{_ATEXT}|[^\x00-\x7f])+(?:\.(?:{_ATEXT}|[^\x00-\x7f])+)*")
_QUOTED_STRING = re.compile(r'"(?:[\x20\x21\x23-\x5b\x5d-\x7e]|\\[\x20-\x7e]|[^\x00-\x7f])*"')
_QUOTED_PREFIX = re.compile(rb'"(?:[^"\\]|\\.)*"', re.DOTALL)
_UNPRINTABLE = frozenset({"Cc", "Zl", "Zp", "Cs"})


class PathError(ValueError):
    """The octets are no path. The text says why, in ASCII and without the octets, fit for a reply.

    `needs_smtputf8`: it would be one if the MAIL command had said SMTPUTF8 (RFC 6531 §3.5).
    """

    def __init__(self, reason: str, *, needs_smtputf8: bool = False) -> None:
        super().__init__(reason)
        self.needs_smtputf8 = needs_smtputf8


class Path(NamedTuple):
    """A mailbox. `mailbox` is local-part@destination; `destination` the canonical domain, or the literal, lower case.

    The null reverse-path has both empty; `<Postmaster>` has an empty destination.
    """

    mailbox: str
    destination: str


NULL_PATH = Path("", "")


def ordinary_path(octets: bytes) -> Path | None:
    """Return the path that the octets are, or None where they have to be split and parsed by all the rules."""
    match = _ORDINARY.fullmatch(octets) if len(octets) <= _MAX_PATH else None
    if match is None or match.end(1) > 1 + _MAX_LOCAL:
        return None
    name = match[2].decode("ascii").lower()
    return Path(f"{match[1].decode('ascii')}@{name}", name)


def split_path(argument: bytes) -> tuple[bytes, bytes]:
    """Split what follows `FROM:` or `TO:` into the path with its brackets and the parameters behind it."""
    if not argument.startswith(b"<"):
        raise PathError("the path must stand in angle brackets")
    at = argument.find(b">")
    if at + 1 == len(argument) and b'"' not in argument:  # nothing behind it, as mostly
        return argument, b""
    if argument.find(b'"', 0, at) >= 0:
        at = _closing_bracket(argument)
    if at < 0:
        raise PathError("the path has no closing bracket")
    path, rest = argument[: at + 1], argument[at + 1 :]
    if rest and not rest.startswith(b" "):
        raise PathError("parameters must be separated from the path by a space")
    return path, rest.strip(b" ")


def _closing_bracket(argument: bytes) -> int:
    """The place of the first `>` that is not in a quoted string, or -1."""
    at = 1
    while (char := argument[at : at + 1]) != b">":
        if char == b'"':
            quoted = _QUOTED_PREFIX.match(argument, at)
            if quoted is None:
                raise PathError("the quoted string has no end")
            at = quoted.end()
        elif not char:
            return -1
        else:
            at += 1
    return at


@lru_cache(256)  # applications send from few addresses
def parse_reverse_path(path: bytes, *, smtputf8: bool) -> Path:
    """Parse the path of MAIL; `<>` is the null reverse-path."""
    return NULL_PATH if path == b"<>" else _parse(path, smtputf8=smtputf8)


def parse_forward_path(path: bytes, *, smtputf8: bool) -> Path:
    """Parse the path of RCPT; `<Postmaster>` may stand without a domain (RFC 5321 §4.5.1)."""
    if path.lower() == b"<postmaster>":
        return Path("Postmaster", "")
    return _parse(path, smtputf8=smtputf8)


def parse_mailbox(text: str) -> Path:
    """Parse an address from the configuration."""
    return _parse(f"<{text}>".encode(), smtputf8=True)


def _parse(path: bytes, *, smtputf8: bool) -> Path:
    return ordinary_path(path) or _parse_any(path, smtputf8=smtputf8)


def _parse_any(path: bytes, *, smtputf8: bool) -> Path:
    if not (path.startswith(b"<") and path.endswith(b">")):
        raise PathError("the path must stand in angle brackets")
    if len(path) > _MAX_PATH:
        raise PathError(f"the path is longer than {_MAX_PATH} octets")
    try:
        text = path[1:-1].decode("utf-8")
    except UnicodeDecodeError:
        raise PathError("the path is neither ASCII nor UTF-8") from None
    parsed = _parse_mailbox(_without_route(text))
    if not smtputf8 and not text.isascii():
        raise PathError("an internationalised address needs SMTPUTF8", needs_smtputf8=True)
    return parsed


def _without_route(text: str) -> str:
    """RFC 5321 §4.1.1.3 and appendix C: a source route is accepted, checked, and ignored."""
    if not text.startswith("@"):
        return text
    route, colon, mailbox = text.partition(":")
    if not colon:
        raise PathError("the source route has no mailbox")
    for hop in route.split(","):
        if not hop.startswith("@"):
            raise PathError("the source route is malformed")
        _to_domain(hop[1:])
    return mailbox


def _parse_mailbox(text: str) -> Path:
    local, domain = _split_mailbox(text)
    if len(local.encode()) > _MAX_LOCAL:
        raise PathError(f"the local part is longer than {_MAX_LOCAL} octets")
    if any(unicodedata.category(char) in _UNPRINTABLE for char in text if char > "\x7f"):
        raise PathError("the address has control characters")
    if domain.startswith("["):
        if not domain.isascii() or parse_address_literal(domain) is None:
            raise PathError("the address literal is malformed")
        destination = domain.lower()
        return Path(f"{local}@{domain}", destination)
    destination = _to_domain(domain)
    return Path(f"{local}@{destination}", destination)


def _split_mailbox(text: str) -> tuple[str, str]:
    pattern = _QUOTED_STRING if text.startswith('"') else _DOT_STRING
    match = pattern.match(text)
    if match is None:
        raise PathError("the local part is malformed")
    if not text.startswith("@", match.end()):
        raise PathError("the local part is malformed, or the domain is missing")
    return match[0], text[match.end() + 1 :]


def _to_domain(text: str) -> str:
    if text.endswith("."):
        raise PathError("the domain ends in a dot")
    try:
        return to_domain(text)
    except InvalidNameError:
        raise PathError("the domain is malformed") from None
