"""Parameters of MAIL and RCPT: SIZE, BODY, SMTPUTF8, RET, ENVID, AUTH, REQUIRETLS, NOTIFY, ORCPT. **Pure.**

RFC 1870 §3, RFC 6152 §2, RFC 6531 §3.4, RFC 3461 §4, RFC 4954 §5, RFC 8689 §2, RFC 6533 §3. Parameters of extensions
that are not offered are unknown: 555 (RFC 5321 §4.1.1.11).
"""

import re
from collections.abc import Callable
from dataclasses import dataclass

from relay.queue.message import Notify, Ret

_PARAMETER = re.compile(rb"([A-Za-z0-9][A-Za-z0-9-]*)(?:=([\x21-\x3c\x3e-\x7e\x80-\xff]+))?")
_SIZE = re.compile(r"[0-9]{1,20}")
_XTEXT = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x7e]|\+[0-9A-F]{2})*")
_HEX_PAIR = re.compile(r"\+([0-9A-F]{2})")
_ORCPT = re.compile(r"([A-Za-z0-9-]+);(.+)")
# RFC 6533 §3: what must be escaped as \x{...} is CTL, SP, backslash, "+" and "=".
_UTF8_ADDRESS = re.compile(r"(?:[\x21-\x2a\x2c-\x3c\x3e-\x5b\x5d-\x7e\x80-\U0010ffff]|\\x\{[0-9A-Fa-f]{2,6}\})+")
_EMBEDDED = re.compile(r"\\x\{([0-9A-Fa-f]+)\}")

_MAX_ENVID = 100
_MAX_ORCPT = 500


class ParameterError(ValueError):
    """A parameter that is unknown (555) or wrong (501). The text is fit for a reply."""

    def __init__(self, code: int, reason: str) -> None:
        super().__init__(reason)
        self.code = code


@dataclass(frozen=True, slots=True, kw_only=True)
class MailParameters:
    """What MAIL said beside the path. `envid` is the xtext as received. BODY is not kept: content is scanned."""

    size: int | None = None
    smtputf8: bool = False
    ret: Ret | None = None
    envid: str | None = None
    requiretls: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class RcptParameters:
    """What RCPT said beside the path. `orcpt` is the value as received, letter for letter."""

    notify: frozenset[Notify] | None = None
    orcpt: str | None = None


NO_MAIL_PARAMETERS = MailParameters()
NO_RCPT_PARAMETERS = RcptParameters()


def parse_mail_parameters(text: bytes) -> MailParameters:
    """Parse the parameters of MAIL; raises ParameterError."""
    if not text:
        return NO_MAIL_PARAMETERS
    values = _split(text, _MAIL_KEYWORDS)
    smtputf8 = "SMTPUTF8" in values
    for keyword, value in values.items():
        if not value.isascii():
            raise ParameterError(501, f"{keyword} must be ASCII")
    size = values.get("SIZE")
    envid = values.get("ENVID")
    return MailParameters(
        size=None if size is None else int(size),
        smtputf8=smtputf8,
        ret=Ret(values["RET"].upper()) if "RET" in values else None,
        envid=envid,
        requiretls="REQUIRETLS" in values,
    )


def parse_rcpt_parameters(text: bytes, *, smtputf8: bool) -> RcptParameters:
    """Parse the parameters of RCPT; raises ParameterError. UTF-8 in ORCPT needs SMTPUTF8 (RFC 6533 §3)."""
    if not text:
        return NO_RCPT_PARAMETERS
    values = _split(text, _RCPT_KEYWORDS)
    for keyword, value in values.items():
        if not value.isascii() and not (smtputf8 and keyword == "ORCPT"):
            raise ParameterError(501, f"{keyword} must be ASCII")
    notify = values.get("NOTIFY")
    return RcptParameters(
        notify=None if notify is None else frozenset(Notify(word) for word in notify.upper().split(",")),
        orcpt=values.get("ORCPT"),
    )


def _split(text: bytes, known: dict[str, Callable[[str], bool]]) -> dict[str, str]:
    """Return the values by keyword, each checked; a keyword without value has ""."""
    values: dict[str, str] = {}
    for word in text.split(b" "):
        if not word:
            continue
        match = _PARAMETER.fullmatch(word)
        if match is None:
            raise ParameterError(501, "malformed parameter")
        keyword = match[1].decode("ascii").upper()
        is_valid = known.get(keyword)
        if is_valid is None:
            raise ParameterError(555, f"parameter {keyword[:40]} is not known")
        if keyword in values:
            raise ParameterError(501, f"{keyword} is given twice")
        try:
            value = (match[2] or b"").decode("utf-8")
        except UnicodeDecodeError:
            raise ParameterError(501, f"{keyword} is not UTF-8") from None
        if not is_valid(value):
            raise ParameterError(501, f"bad value of {keyword}")
        values[keyword] = value
    return values


def is_xtext(value: str) -> bool:
    """Whether the value is xtext (RFC 3461 §4) that decodes to printable US-ASCII."""
    if _XTEXT.fullmatch(value) is None:
        return False
    return all("\x20" <= chr(int(pair, 16)) <= "\x7e" for pair in _HEX_PAIR.findall(value))


def _is_envid(value: str) -> bool:
    return 1 <= len(value) <= _MAX_ENVID and is_xtext(value)


def _is_auth(value: str) -> bool:
    """RFC 4954 §5: a mailbox as xtext, or `<>`. Nobody is trusted to say it, so it counts as `<>` in any case."""
    return value == "<>" or (bool(value) and is_xtext(value))


def _is_notify(value: str) -> bool:
    words = value.upper().split(",")
    return words == ["NEVER"] or all(word in ("SUCCESS", "FAILURE", "DELAY") for word in words)


def _is_orcpt(value: str) -> bool:
    match = _ORCPT.fullmatch(value)
    if match is None or len(value.encode()) > _MAX_ORCPT:
        return False
    if match[1].lower() == "utf-8":
        return _is_utf8_address(match[2])
    return is_xtext(match[2])


def _is_utf8_address(text: str) -> bool:
    """utf-8-addr-xtext or utf-8-addr-unitext (RFC 6533 §3); nothing in it may decode to a line end or NUL."""
    if _UTF8_ADDRESS.fullmatch(text) is None or any("\x80" <= char <= "\x9f" for char in text):
        return False
    points = [int(point, 16) for point in _EMBEDDED.findall(text)]
    return all(0 < point <= 0x10FFFF and not 0xD800 <= point <= 0xDFFF and point not in (10, 13) for point in points)


_MAIL_KEYWORDS: dict[str, Callable[[str], bool]] = {
    "SIZE": lambda value: _SIZE.fullmatch(value) is not None,
    "BODY": lambda value: value.upper() in ("7BIT", "8BITMIME"),
    "SMTPUTF8": lambda value: not value,
    "RET": lambda value: value.upper() in ("FULL", "HDRS"),
    "ENVID": _is_envid,
    "AUTH": _is_auth,
    "REQUIRETLS": lambda value: not value,
}
_RCPT_KEYWORDS: dict[str, Callable[[str], bool]] = {"NOTIFY": _is_notify, "ORCPT": _is_orcpt}
