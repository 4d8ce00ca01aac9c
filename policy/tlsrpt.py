"""The `_smtp._tls` record: where a domain wants its TLS reports to go (RFC 8460 §3). **Pure.**

All of it is a stranger's: what cannot be understood as one mailbox or one https URL is passed over.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes

from policy.names import InvalidNameError, to_domain, to_host

MAX_ENDPOINTS = 5
"""Endpoints of one record that get the report; the others are passed over, so that no record multiplies our mail."""


@dataclass(frozen=True, slots=True)
class MailEndpoint:
    """A `mailto:` endpoint. `address` is an ASCII addr-spec; `domain` its domain in canonical form."""

    address: str
    domain: str

    def __str__(self) -> str:
        return f"mailto:{self.address}"


@dataclass(frozen=True, slots=True)
class HttpsEndpoint:
    """An `https:` endpoint: host in canonical form, path and query exactly as published."""

    url: str

    def __str__(self) -> str:
        return self.url


Endpoint = MailEndpoint | HttpsEndpoint


@dataclass(frozen=True, slots=True, kw_only=True)
class ReportingRecord:
    """The one valid record. `endpoints` may be empty: then there is nowhere to send to."""

    endpoints: tuple[Endpoint, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class NoReporting:
    """The domain does not take reports."""

    reason: str


_PREFIX = b"v=TLSRPTv1;"
_URI = rb"[\x21-\x2b\x2d-\x3a\x3c-\x7e]+"
_RUA = rb"rua=" + _URI + rb"(?:[ \t]*,[ \t]*" + _URI + rb")*"
_EXTENSION = rb"(?!rua=)[A-Za-z0-9][A-Za-z0-9_.-]{0,31}=[\x21-\x3a\x3c\x3e-\x7e]+"
_RECORD = re.compile(rb"v=TLSRPTv1(?:[ \t]*;[ \t]*(?:" + _RUA + rb"|" + _EXTENSION + rb"))+(?:[ \t]*;[ \t]*)?")


def parse_record(txts: Sequence[bytes]) -> ReportingRecord | NoReporting:
    """Return the record among the TXT records at `_smtp._tls`, each with its character-strings joined.

    One record alone is judged by the ABNF. Of several, those not beginning with `v=TLSRPTv1;` are dropped first, and
    exactly one must remain. Of a repeated `rua` all but the first are ignored.
    """
    candidates = [txt for txt in txts if txt.startswith(_PREFIX)] if len(txts) > 1 else txts
    if len(candidates) != 1:
        return NoReporting(reason=f"{len(candidates) or 'no'} TXT records begin with v=TLSRPTv1; where one is needed")
    if _RECORD.fullmatch(candidates[0]) is None:
        return NoReporting(reason="the record is not valid")
    for field in candidates[0].split(b";")[1:]:
        name, _, value = field.strip(b" \t").partition(b"=")
        if name == b"rua":
            found = (parse_endpoint(uri.strip(b" \t").decode("ascii")) for uri in value.split(b","))
            distinct = dict.fromkeys(endpoint for endpoint in found if endpoint is not None)
            return ReportingRecord(endpoints=tuple(distinct)[:MAX_ENDPOINTS])
    return NoReporting(reason="the record has no rua")


_BROKEN_ESCAPE = re.compile(r"%(?![0-9A-Fa-f]{2})")
_HTTPS = re.compile(
    r"https://(?P<host>[^/?#:@\[\]%]+)(?::(?P<port>[0-9]{1,5}))?(?P<path>(?:[/?][A-Za-z0-9._~:@$&'()*+=%/?-]*)?)",
    re.IGNORECASE,
)
_MAX_URL = 1000
_MAX_PORT = 65535


def parse_endpoint(uri: str) -> Endpoint | None:
    """Read one URI of a rua, or return None for one that no report can go to."""
    # RFC 8460 §3: an exclamation mark has to be percent-encoded; the size suffix of DMARC does not exist here.
    if "!" in uri or len(uri) > _MAX_URL or _BROKEN_ESCAPE.search(uri):
        return None
    scheme, _, rest = uri.partition(":")
    try:
        match scheme.lower():
            case "mailto":
                return _mail(rest.partition("?")[0])
            case "https":
                return _https(uri)
    except (InvalidNameError, UnicodeDecodeError):
        return None
    return None


_ATEXT = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]+"
_DOT_STRING = re.compile(rf"{_ATEXT}(?:\.{_ATEXT})*")
_QUOTED_STRING = re.compile(r'"(?:[ !#-\[\]-~]|\\[ -~])*"')
_TEXT = re.compile(r"[ -~]+")
_MAX_LOCAL = 64


def _mail(encoded: str) -> MailEndpoint | None:
    """Only the `to` part counts (RFC 6068 §2): a stranger sets no header field of ours."""
    local, _, domain = unquote_to_bytes(encoded).decode("utf-8").rpartition("@")
    if _TEXT.fullmatch(local) is None:
        return None
    if not (_DOT_STRING.fullmatch(local) or _QUOTED_STRING.fullmatch(local)):
        local = '"' + local.replace("\\", r"\\").replace('"', r"\"") + '"'
    canonical = to_domain(domain)
    return MailEndpoint(f"{local}@{canonical}", canonical) if len(local) <= _MAX_LOCAL else None


def _https(uri: str) -> HttpsEndpoint | None:
    match = _HTTPS.fullmatch(uri)
    if match is None:
        return None
    port = int(match["port"] or 443)
    if not 1 <= port <= _MAX_PORT:
        return None
    # A name that ends in a number is an address, which `to_host` refuses: every endpoint is asked of DNS and guarded.
    authority = to_host(match["host"]) + (f":{port}" if port != 443 else "")
    path = match["path"]
    return HttpsEndpoint(f"https://{authority}{path if path.startswith('/') else f'/{path}'}")
