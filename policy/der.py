"""As much of DER as the matching of TLSA records needs. Takes any octets, and never raises. **Pure.**

RFC 5280 §4.1 (Certificate, SubjectPublicKeyInfo), X.690 §8.1. The key is cut out as it stands in the certificate: a
library that read it and wrote it anew could give other octets, and with them another digest.
"""

from typing import NamedTuple

_INTEGER, _BIT_STRING, _SEQUENCE, _VERSION = 0x02, 0x03, 0x30, 0xA0
_MAX_LENGTH_OCTETS = 3


class _Element(NamedTuple):
    tag: int
    at: int
    """Where the element begins, its content begins, and it ends."""
    start: int
    end: int


def public_key_of(certificate: bytes) -> bytes | None:
    """Return the SubjectPublicKeyInfo of a certificate octet by octet, or None if this is no certificate."""
    try:
        (whole,) = _elements(certificate, 0, len(certificate), _SEQUENCE)
        (tbs, _, _) = _elements(certificate, whole.start, whole.end, _SEQUENCE, _SEQUENCE, _BIT_STRING)
        fields = _elements(certificate, tbs.start, tbs.end)
        if fields and fields[0].tag == _VERSION:
            fields = fields[1:]
        if [field.tag for field in fields[:6]] != [_INTEGER, *[_SEQUENCE] * 5]:
            return None
        key = certificate[fields[5].at : fields[5].end]
    except ValueError:
        return None
    return key if is_public_key(key) else None


def is_public_key(der: bytes) -> bool:
    """Whether this has the form of a SubjectPublicKeyInfo: an algorithm, and a string of bits."""
    try:
        (whole,) = _elements(der, 0, len(der), _SEQUENCE)
        _elements(der, whole.start, whole.end, _SEQUENCE, _BIT_STRING)
    except ValueError:
        return False
    return True


def _elements(der: bytes, at: int, end: int, *tags: int) -> list[_Element]:
    """Return the elements side by side from `at` to `end`; with `tags`, exactly these. Raises ValueError."""
    found = []
    while at < end:
        element = _element(der, at, end)
        found.append(element)
        at = element.end
    if tags and tuple(element.tag for element in found) != tags:
        raise ValueError("other elements than these")
    return found


def _element(der: bytes, at: int, end: int) -> _Element:
    if end - at < 2:
        raise ValueError("cut off")
    tag, length, start = der[at], der[at + 1], at + 2
    if length >= 0x80:
        octets = length - 0x80
        if not 0 < octets <= _MAX_LENGTH_OCTETS or end - start < octets:
            raise ValueError("a length without end, or beyond all reason")
        length = int.from_bytes(der[start : start + octets])
        start += octets
    if length > end - start:
        raise ValueError("cut off")
    return _Element(tag, at, start, start + length)
