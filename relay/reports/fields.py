"""Hostile text into header fields and lines: cleaned, capped, folded, encoded. **Pure.**

RFC 5322 §2.2, RFC 2047, RFC 3461 §4 (xtext), RFC 6533 §3 (utf-8 address forms). What goes in may hold anything that
a peer or a client could send; what comes out is one line that means itself and nothing more.
"""

import re
import unicodedata
from binascii import b2a_base64
from collections.abc import Iterator
from datetime import datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.utils import format_datetime

from policy.names import InvalidNameError, to_domain
from relay.printable import printable

CRLF = "\r\n"
MAX_TEXT = 500
_MAX_ADDRESS = 900  # SMTP allows 256 octets for a path and 500 for ORCPT; a line holds 998
_FOLD_AT = 76
_MAX_SUBJECT = 200
_MAX_RAW_SUBJECT = 2000
_ENCODED_WORD_OCTETS = 39  # 52 characters of base64: "Subject: " and the word stay within 76 (RFC 2047 §2)

_LINE_BREAKERS = frozenset({"Cc", "Cs", "Zl", "Zp"})
_XTEXT = re.compile(r"(?:[!-*,-<>-~]|\+[0-9A-F]{2})*")
_HEXCHAR = re.compile(r"\+([0-9A-F]{2})")
_HEXPOINT = re.compile(r"\\x\{([0-9A-Fa-f]{2,6})\}")


def clean(text: str, limit: int = MAX_TEXT) -> str:
    """Return text as one printable line of at most `limit` characters; runs of white space become one space."""
    line = printable(" ".join(text[: 4 * limit].split()), limit)
    return line if len(line) <= limit else f"{line[: limit - 3].rstrip()}..."


def clean_address(path: str) -> str:
    """Return a path as it was accepted; what could end a line becomes "?" (RFC 3461 §9.1: never made to fit)."""
    return "".join("?" if unicodedata.category(char) in _LINE_BREAKERS else char for char in path[:_MAX_ADDRESS])


def ascii_only(text: str) -> str:
    r"""Write what is not ASCII as \x{HEX}, the form that RFC 6533 §3 gives to characters of an address."""
    return "".join(char if char.isascii() else f"\\x{{{ord(char):X}}}" for char in text)


def utf8_address_xtext(path: str) -> str:
    r"""Return the utf-8-addr-xtext form (RFC 6533 §3): ASCII; controls, SP, "\", "+" and "=" as \x{HEX} as well."""
    escaped = (char if "!" <= char <= "~" and char not in "\\+=" else f"\\x{{{ord(char):02X}}}" for char in path)
    return "".join(escaped)[:_MAX_ADDRESS]


def decode_xtext(value: str) -> str | None:
    """Return the text of an xtext (RFC 3461 §4), or None if it is none or its text is not printable ASCII."""
    if _XTEXT.fullmatch(value) is None:
        return None
    text = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value)
    return text if text.isascii() and text.isprintable() else None


def decode_utf8_address(value: str) -> str | None:
    r"""Return the native form of a utf-8 ORCPT (RFC 6533 §3), or None if an \x{HEX} in it is no character."""
    text = _HEXCHAR.sub(lambda match: chr(int(match[1], 16)), value)
    try:
        text = _HEXPOINT.sub(lambda match: chr(int(match[1], 16)), text)
        text.encode()
    except ValueError:
        return None
    return text


def date(moment: datetime) -> str:
    """Return a date with a numeric zone (RFC 5322 §3.3, RFC 3464 §2.2.5)."""
    return format_datetime(moment)


def fold(name: str, value: str) -> str:
    """Return a field without its last CRLF, folded at spaces where it grows long (RFC 5322 §2.2.3)."""
    lines = [f"{name}:"]
    for word in value.split(" "):
        if len(lines[-1]) + 1 + len(word) > _FOLD_AT and lines[-1] != f"{name}:":
            lines.append("")
        lines[-1] += f" {word}"
    return CRLF.join(lines)


def subject_field(text: str) -> str:
    """Return a Subject field; text that is not ASCII goes into whole encoded-words (RFC 2047 §5)."""
    if text.isascii() and "=?" not in text:
        return fold("Subject", text)
    return CRLF.join(f"{'Subject:' if number == 0 else ''} {word}" for number, word in enumerate(_encoded_words(text)))


def _encoded_words(text: str) -> Iterator[str]:
    chunk = b""
    for char in text:
        encoded = char.encode()
        if len(chunk) + len(encoded) > _ENCODED_WORD_OCTETS:
            yield _encoded_word(chunk)
            chunk = b""
        chunk += encoded
    yield _encoded_word(chunk)


def _encoded_word(octets: bytes) -> str:
    return f"=?utf-8?B?{b2a_base64(octets, newline=False).decode('ascii')}?="


def header_address(path: str) -> str:
    """Return a path as an angle-addr; with an ASCII local part its domain becomes A-labels (decision 11)."""
    local, at, domain = clean_address(path).rpartition("@")
    if local.isascii() and not domain.isascii():
        try:
            domain = to_domain(domain)
        except InvalidNameError:
            domain = ascii_only(domain)
    return f"<{local}{at}{domain}>"


def original_subject(header: bytes) -> str:
    """Return the Subject of a message for people: decoded, one line, capped; "" if there is none."""
    raw = _first_field(header, b"subject")
    text = clean(raw.decode("utf-8", "replace"), _MAX_RAW_SUBJECT)
    try:
        parts = decode_header(text)
    except (HeaderParseError, ValueError):
        return clean(text, _MAX_SUBJECT)
    return clean("".join(_decoded(part, charset) for part, charset in parts), _MAX_SUBJECT)


def _decoded(part: bytes | str, charset: str | None) -> str:
    if isinstance(part, str):
        return part
    try:
        # What stands between encoded-words comes back from decode_header in this encoding.
        return part.decode(charset or "raw-unicode-escape", "replace")
    except (LookupError, ValueError):
        return part.decode("ascii", "replace")


def _first_field(header: bytes, name: bytes) -> bytes:
    """The value of the first field of that name, still folded; lines end at CRLF alone, as SMTP says."""
    lines = iter(header.split(b"\r\n"))
    for line in lines:
        if not line:
            break
        field, colon, value = line.partition(b":")
        if colon and field.rstrip(b" \t").lower() == name:
            for more in lines:
                if not more.startswith((b" ", b"\t")) or len(value) > _MAX_RAW_SUBJECT:
                    break
                value += more
            return value
    return b""
