"""What a host offers in its latest EHLO reply, and nothing else (RFC 5321 §4.1.1.1, RFC 3207 §4.2). **Pure.**"""

import re
from dataclasses import dataclass

from policy.names import InvalidNameError, to_host
from relay.status import Reply

_SIZE = re.compile(r"[0-9]{1,20}")
_LIMIT = re.compile(r"[1-9][0-9]{0,5}")
_LIMIT_FORM = re.compile(r"[A-Za-z0-9_-]+(?:=[!-:<-~]+)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Extensions:
    """The extensions that matter to a sender. A HELO reply offers none: `Extensions()`.

    `requiretls` is what is said within TLS alone (RFC 8689 §2).

    `max_size` is None without a bound (RFC 1870 §4). The limits are those of RFC 9422 §4: MAIL commands in a
    session, RCPT commands in a transaction, recipient domains in a session; refused ones count too. `auth` are the
    mechanisms of RFC 4954, `logged_in` whether one of them was used with success.
    """

    starttls: bool = False
    pipelining: bool = False
    chunking: bool = False
    eight_bit_mime: bool = False
    smtputf8: bool = False
    dsn: bool = False
    requiretls: bool = False
    size: bool = False
    max_size: int | None = None
    mail_max: int | None = None
    rcpt_max: int | None = None
    rcpt_domain_max: int | None = None
    auth: frozenset[str] = frozenset()
    logged_in: bool = False


def parse_extensions(reply: Reply, *, in_tls: bool = False) -> Extensions:
    """Read a positive reply to EHLO: a greeting, then a keyword a line, in any case."""
    offered: dict[str, str] = {}
    for line in reply.lines[1:]:
        keyword, _, parameters = line.strip().partition(" ")
        offered[keyword.upper()] = parameters.strip()
    limits = _parse_limits(offered.get("LIMITS", ""))
    return Extensions(
        starttls="STARTTLS" in offered,
        pipelining="PIPELINING" in offered,
        chunking="CHUNKING" in offered,
        eight_bit_mime="8BITMIME" in offered,
        smtputf8="SMTPUTF8" in offered,
        dsn="DSN" in offered,
        requiretls=in_tls and "REQUIRETLS" in offered,
        size="SIZE" in offered,
        max_size=_parse_size(offered.get("SIZE", "")),
        mail_max=limits.get("MAILMAX"),
        rcpt_max=limits.get("RCPTMAX"),
        rcpt_domain_max=limits.get("RCPTDOMAINMAX"),
        auth=frozenset(offered.get("AUTH", "").upper().split()),
    )


def peer_name(reply: Reply) -> str:
    """Return the name by which a host calls itself in its greeting or its reply to EHLO, "" if it is none."""
    word = reply.lines[0].partition(" ")[0]
    try:
        return to_host(word) if word.isascii() else ""
    except InvalidNameError:
        return ""


def _parse_size(parameter: str) -> int | None:
    # RFC 1870 §4: 0 says that there is no bound. What is not a number says nothing, and refuses no mail.
    return int(parameter) or None if _SIZE.fullmatch(parameter) else None


def _parse_limits(parameters: str) -> dict[str, int]:
    """Return the limits that can be read; with broken syntax none, a bad value loses that one (RFC 9422 §3.7)."""
    words = parameters.split()
    if not all(_LIMIT_FORM.fullmatch(word) for word in words):
        return {}
    pairs = (word.upper().partition("=") for word in words)
    return {name: int(value) for name, _, value in pairs if _LIMIT.fullmatch(value)}
