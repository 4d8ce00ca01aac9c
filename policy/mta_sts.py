"""The MTA-STS record and policy: parse, render, match (RFC 8461 §3.1, §3.2, §4.1). **Pure.**"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum

MAX_MAX_AGE = timedelta(seconds=31_557_600)
"""The longest life that RFC 8461 §3.2 lets a policy ask for."""


class Mode(Enum):
    """Policy modes of RFC 8461 §5."""

    ENFORCE = "enforce"
    TESTING = "testing"
    NONE = "none"


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    """A valid policy file (RFC 8461 §3.2). `text` is the file as it was served, for reports and for re-reading."""

    mode: Mode
    mx: tuple[str, ...]
    max_age: timedelta
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Record:
    """The one valid `_mta-sts` record. Its id is compared for equality only, case counts (RFC 8461 §3.1)."""

    record_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class NoRecord:
    """There is no usable `_mta-sts` record, which says nothing about a policy that is cached already."""

    reason: str


class InvalidPolicyError(ValueError):
    """The policy file breaks the grammar of RFC 8461 §3.2. `reason` is one line of printable ASCII."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


_RECORD_PREFIX = b"v=STSv1;"
_RECORD_FIELD = rb"[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[\x21-\x3a\x3c\x3e-\x7e]+"
_RECORD = re.compile(rb"v=STSv1(?:[ \t]*;[ \t]*" + _RECORD_FIELD + rb")+(?:[ \t]*;[ \t]*)?")
_RECORD_ID = re.compile(rb"[A-Za-z0-9]{1,32}")


def parse_record(txts: Sequence[bytes]) -> Record | NoRecord:
    """Return the record among the TXT records at `_mta-sts`, each with its character-strings joined.

    One record alone is judged by the ABNF. Of several, those not beginning with the eight characters `v=STSv1;`
    are dropped first, and exactly one must remain, so that `v=STSv1 ;id=1` counts only when it is alone.
    """
    candidates = [txt for txt in txts if txt.startswith(_RECORD_PREFIX)] if len(txts) > 1 else txts
    if not candidates:
        return NoRecord(reason="no TXT record begins with v=STSv1;")
    if len(candidates) > 1:
        return NoRecord(reason=f"{len(candidates)} TXT records begin with v=STSv1; where one is allowed")
    record = candidates[0]
    if _RECORD.fullmatch(record) is None:
        return NoRecord(reason=f"the record is not valid: {_shown(record)}")
    for field in record.split(b";")[1:]:
        name, _, value = field.strip(b" \t").partition(b"=")
        if name == b"id":
            # RFC 8461 §3.2, last paragraph: of a repeated field all but the first are ignored.
            if _RECORD_ID.fullmatch(value) is None:
                return NoRecord(reason=f"the id is not 1 to 32 letters and digits: {_shown(value)}")
            return Record(record_id=value.decode("ascii"))
    return NoRecord(reason=f"the record has no id: {_shown(record)}")


_FIELD = re.compile(
    r"(?P<name>[A-Za-z0-9][A-Za-z0-9_.-]{0,31}):[ \t]*(?P<value>[!-~\x80-\U0010ffff][ -~\x80-\U0010ffff]*)"
)
_MAX_AGE = re.compile(r"[0-9]{1,10}")
_LABEL = r"[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?"
_MX_PATTERN = re.compile(rf"(?:\*\.)?{_LABEL}(?:\.{_LABEL})*")
_MAX_NAME = 253


def parse_policy(body: bytes) -> Policy:
    """Read a policy file. Raises InvalidPolicyError, and nothing else, with the exact reason.

    Lenient in three ways, none of which weakens a policy: a `max_age` above the maximum is cut to it, blank lines
    at the end are accepted, and an `mx` line with a bad value is passed over beside a good one, as the ABNF reads
    (it is then an extension field).
    """
    try:
        text = body.decode("utf-8")
    except UnicodeDecodeError as error:
        raise InvalidPolicyError(f"the policy is not UTF-8 at octet {error.start}") from None
    first: dict[str, str] = {}
    patterns: list[str] = []
    for number, line in enumerate(policy_lines(text), start=1):
        field = _FIELD.fullmatch(line.rstrip(" \t"))
        if field is None:
            raise InvalidPolicyError(f"line {number} is not a field: {_shown(line.encode())}")
        name, value = field["name"], field["value"]
        first.setdefault(name, value)
        if name == "mx" and _MX_PATTERN.fullmatch(value) and len(value) <= _MAX_NAME:
            patterns.append(value.lower())
    _check_version(first.get("version"))
    mode = _mode(first.get("mode"))
    max_age = _max_age(first.get("max_age"))
    if not patterns and mode is not Mode.NONE:
        shown = f": {_shown(first['mx'].encode())}" if "mx" in first else ""
        raise InvalidPolicyError(f"mode {mode.value} needs a valid mx{shown}")
    return Policy(mode=mode, mx=tuple(patterns), max_age=max_age, text=text)


def policy_lines(text: str) -> list[str]:
    """Split at LF or CRLF alone, and drop blank lines at the end (str.splitlines knows eight terminators more)."""
    *ended, last = text.split("\n")
    lines = [line.removesuffix("\r") for line in ended] + [last]
    while lines and not lines[-1].strip(" \t"):
        lines.pop()
    return lines


def _check_version(value: str | None) -> None:
    if value is None:
        raise InvalidPolicyError("there is no version")
    if value != "STSv1":
        raise InvalidPolicyError(f"the version is not STSv1: {_shown(value.encode())}")


def _mode(value: str | None) -> Mode:
    if value is None:
        raise InvalidPolicyError("there is no mode")
    try:
        return Mode(value)
    except ValueError:
        raise InvalidPolicyError(f"the mode is not enforce, testing or none: {_shown(value.encode())}") from None


def _max_age(value: str | None) -> timedelta:
    if value is None:
        raise InvalidPolicyError("there is no max_age")
    if _MAX_AGE.fullmatch(value) is None:
        raise InvalidPolicyError(f"the max_age is not 1 to 10 digits: {_shown(value.encode())}")
    # RFC 8461 erratum 7282: ten digits fit the ABNF, but the text names a maximum.
    return min(timedelta(seconds=int(value)), MAX_MAX_AGE)


def render_policy(policy: Policy) -> str:
    """Write the policy file anew from its meaning; `parse_policy` reads the same meaning back."""
    lines = ["version: STSv1", f"mode: {policy.mode.value}", *(f"mx: {pattern}" for pattern in policy.mx)]
    lines.append(f"max_age: {int(policy.max_age.total_seconds())}")
    return "".join(f"{line}\r\n" for line in lines)


_HOST = re.compile(rb"[a-z0-9_-]+(?:\.[a-z0-9_-]+)*")


def matches(mx_host: str, patterns: Sequence[str]) -> bool:
    """Whether the name of the MX record is one that the policy names (RFC 8461 §4.1).

    A pattern is a whole name, or `*.` and a name, where the asterisk stands for exactly one label.
    """
    # bytes.lower() folds ASCII only; str.lower() would make a k of the Kelvin sign.
    host = mx_host.removesuffix(".").encode("utf-8", "backslashreplace").lower()
    if _HOST.fullmatch(host) is None:
        return False
    parent = host.partition(b".")[2]
    for text in patterns:
        pattern = text.encode("utf-8", "backslashreplace").lower()
        if host == pattern or (parent and pattern == b"*." + parent):
            return True
    return False


def _shown(value: bytes) -> str:
    """Quote hostile text for one line of a log."""
    return ascii(value[:80])[1:] + ("..." if len(value) > 80 else "")
