"""The command lines that a lab MX understands (RFC 5321 §4.1, RFC 3030 §2) and what each parameter needs. **Pure.**"""

import re

# RFC 5321 §4.1.1.2: no space after the colon, exactly one before each parameter.
_PATH = rb'<((?:"(?:[^"\\]|\\.)*"|[^<>"\s])*)>((?: [^ ]+)*)'
MAIL = re.compile(rb"MAIL FROM:" + _PATH, re.IGNORECASE)
RCPT = re.compile(rb"RCPT TO:" + _PATH, re.IGNORECASE)
_BDAT = re.compile(rb"BDAT ([0-9]{1,9})( LAST)?", re.IGNORECASE)

LAST_OF_A_GROUP = frozenset({b"EHLO", b"HELO", b"DATA", b"VRFY", b"QUIT", b"NOOP", b"STARTTLS"})
"""RFC 2920 §3.1: a client waits for the replies to these."""

_KEYWORD_NEEDED = {
    "BODY": "8BITMIME",
    "RET": "DSN",
    "ENVID": "DSN",
    "NOTIFY": "DSN",
    "ORCPT": "DSN",
}

Parameters = tuple[str, ...]


def parse_path(pattern: re.Pattern[bytes], line: bytes) -> tuple[str, Parameters] | None:
    """Return path and parameters of a `MAIL` or `RCPT` line, or None where it is malformed."""
    found = pattern.fullmatch(line)
    if found is None:
        return None
    return text(found[1]), tuple(text(found[2]).split()) if found[2] else ()


def parse_bdat(line: bytes) -> tuple[int, bool] | None:
    """Return the size of the chunk and whether it is the last one, or None where the line is malformed."""
    found = _BDAT.fullmatch(line)
    return None if found is None else (int(found[1]), found[2] is not None)


def not_offered(parameters: Parameters, offered: frozenset[str]) -> str | None:
    """Return the first parameter whose extension is not among the EHLO keywords offered (RFC 5321 §4.1.1.11)."""
    for parameter in parameters:
        keyword = parameter.partition("=")[0].upper()
        if _KEYWORD_NEEDED.get(keyword, keyword) not in offered:
            return keyword
    return None


def declared_size(parameters: Parameters) -> int:
    """Return what SIZE= says (RFC 1870 §6), 0 where there is none."""
    for parameter in parameters:
        keyword, _, value = parameter.partition("=")
        if keyword.upper() == "SIZE" and re.fullmatch(r"[0-9]{1,20}", value):
            return int(value)
    return 0


def text(octets: bytes) -> str:
    """Return bytes as text that shows what is not UTF-8."""
    return octets.decode("utf-8", "backslashreplace")
