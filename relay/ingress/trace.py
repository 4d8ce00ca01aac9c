"""The Received field that the relay puts on top (RFC 5321 §4.4, RFC 3848, RFC 6531 §4.3, RFC 8314 §4.3). **Pure.**"""

import re
from datetime import UTC, datetime
from functools import lru_cache
from typing import NamedTuple

_DAYS = ("Mon", "Tue", "Wed", "Thu", "Fri", "Sat", "Sun")
_MONTHS = ("Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec")
_UNSAFE = re.compile(r"[^A-Za-z0-9._:\[\]-]")

# OpenSSL's names of the TLS 1.2 suites that a default server context may choose, as IANA has them.
_IANA_CIPHERS = {
    "ECDHE-ECDSA-AES256-GCM-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-RSA-AES256-GCM-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
    "ECDHE-ECDSA-AES128-GCM-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-RSA-AES128-GCM-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
    "ECDHE-ECDSA-CHACHA20-POLY1305": "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-RSA-CHACHA20-POLY1305": "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "ECDHE-ECDSA-AES256-SHA384": "TLS_ECDHE_ECDSA_WITH_AES_256_CBC_SHA384",
    "ECDHE-RSA-AES256-SHA384": "TLS_ECDHE_RSA_WITH_AES_256_CBC_SHA384",
    "ECDHE-ECDSA-AES128-SHA256": "TLS_ECDHE_ECDSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-RSA-AES128-SHA256": "TLS_ECDHE_RSA_WITH_AES_128_CBC_SHA256",
    "ECDHE-ECDSA-CAMELLIA256-SHA384": "TLS_ECDHE_ECDSA_WITH_CAMELLIA_256_CBC_SHA384",
    "ECDHE-RSA-CAMELLIA256-SHA384": "TLS_ECDHE_RSA_WITH_CAMELLIA_256_CBC_SHA384",
    "ECDHE-ECDSA-CAMELLIA128-SHA256": "TLS_ECDHE_ECDSA_WITH_CAMELLIA_128_CBC_SHA256",
    "ECDHE-RSA-CAMELLIA128-SHA256": "TLS_ECDHE_RSA_WITH_CAMELLIA_128_CBC_SHA256",
    "DHE-RSA-AES256-GCM-SHA384": "TLS_DHE_RSA_WITH_AES_256_GCM_SHA384",
    "DHE-RSA-AES128-GCM-SHA256": "TLS_DHE_RSA_WITH_AES_128_GCM_SHA256",
    "DHE-RSA-CHACHA20-POLY1305": "TLS_DHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
    "DHE-RSA-AES256-SHA256": "TLS_DHE_RSA_WITH_AES_256_CBC_SHA256",
    "DHE-RSA-AES128-SHA256": "TLS_DHE_RSA_WITH_AES_128_CBC_SHA256",
}


class Protocol(NamedTuple):
    """How the message came. `tls_cipher` is OpenSSL's name, None without TLS."""

    extended: bool
    tls_cipher: str | None = None
    authenticated: bool = False
    smtputf8: bool = False

    @property
    def keyword(self) -> str:
        """The `with` keyword. HELO sessions are SMTP whatever else they did: no other keyword is registered."""
        if not self.extended:
            return "SMTP"
        name = "UTF8SMTP" if self.smtputf8 else "ESMTP"
        return name + ("S" if self.tls_cipher else "") + ("A" if self.authenticated else "")


def received(
    *,
    helo: str,
    address: str,
    hostname: str,
    protocol: Protocol,
    queue_id: str,
    forward_path: str | None,
    now: datetime,
) -> bytes:
    """Return the field with its CRLF. `forward_path` is given when there is only one (§7.2: others stay hidden).

    What the client said of itself is cleaned, so that it can be neither another clause nor another field. There is
    no reverse name beside the address: the DNS is not asked while a client waits.
    """
    before, after = _around_id(helo, address, hostname, protocol)
    recipient = f"\r\n\tfor <{forward_path}>" if forward_path is not None and forward_path.isascii() else ""
    date_time = _date_time(int(now.timestamp()))
    return f"{before} id {queue_id}{recipient}{after};\r\n\t{date_time}\r\n".encode("ascii")


@lru_cache(maxsize=128)
def _around_id(helo: str, address: str, hostname: str, protocol: Protocol) -> tuple[str, str]:
    """What is the same for all messages of a session: what goes before the id, and behind the recipient."""
    literal = f"[IPv6:{address}]" if ":" in address else f"[{address}]"
    cipher = iana_cipher(protocol.tls_cipher)
    return (
        f"Received: from {_UNSAFE.sub('?', helo) or 'unknown'} ({literal})\r\n\tby {hostname} with {protocol.keyword}",
        f"\r\n\ttls {cipher}" if cipher is not None else "",
    )


@lru_cache(maxsize=1)
def _date_time(seconds: int) -> str:
    """RFC 5322 §3.3 in UTC, of a POSIX time. Not strftime, whose names are the locale's."""
    now = datetime.fromtimestamp(seconds, UTC)
    day, month = _DAYS[now.weekday()], _MONTHS[now.month - 1]
    return f"{day}, {now.day:02} {month} {now.year:04} {now.hour:02}:{now.minute:02}:{now.second:02} +0000"


def iana_cipher(openssl_name: str | None) -> str | None:
    """Return the registered name of a cipher suite, or None if it has none here. TLS 1.3 names are IANA's."""
    if openssl_name is None or openssl_name.startswith("TLS_"):
        return openssl_name
    return _IANA_CIPHERS.get(openssl_name)
