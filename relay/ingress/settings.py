"""Settings of the ingress as plain values: [relay], [[listener]], [access] and [ingress] of config.toml. **Pure.**"""

import ipaddress
import re
from dataclasses import dataclass
from datetime import timedelta
from enum import Enum
from pathlib import Path

IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

_ADDRESS = re.compile(r"(?:\[(?P<bracketed>[^\]]+)\]|(?P<host>[^:\[\]]+)):(?P<port>[0-9]{1,5})")


class TlsMode(Enum):
    """How a listener comes to TLS (RFC 3207, RFC 8314 §3)."""

    NONE = "none"
    STARTTLS = "starttls"
    STARTTLS_REQUIRED = "starttls-required"
    IMPLICIT = "implicit"


class TlsRequiredNo(Enum):
    """What is made of the header field TLS-Required: No (RFC 8689 §3)."""

    IGNORE = "ignore"
    HONOUR = "honour"


class BareNewlines(Enum):
    """What becomes of a bare CR or LF in content: made a CRLF, or the message is refused."""

    NORMALIZE = "normalize"
    REJECT = "reject"


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """One `[[listener]]`. `address` is "host:port" or "[ipv6]:port"; port 0 lets the system choose.

    `client_ca` holds the certificates that client certificates are verified with; a self-signed one stands for
    itself. Which of the verified ones may relay is said by `AccessSettings.certificates`.
    """

    address: str
    tls: TlsMode = TlsMode.NONE
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    proxy_protocol: bool = False

    def __post_init__(self) -> None:
        _ = self.host_port
        if self.tls is not TlsMode.NONE and self.certificate is None:
            raise ValueError(f"listener {self.address}: tls = {self.tls.value!r} needs a certificate")
        if self.tls is TlsMode.IMPLICIT and self.proxy_protocol:
            # The PROXY header and the ClientHello arrive in one read, which asyncio cannot hand over to its TLS.
            raise ValueError(f"listener {self.address}: proxy_protocol does not go together with tls = 'implicit'")

    @property
    def host_port(self) -> tuple[str, int]:
        match = _ADDRESS.fullmatch(self.address)
        if match is None or int(match["port"]) > 65535:
            raise ValueError(f"listener address {self.address!r} is not host:port")
        return match["bracketed"] or match["host"], int(match["port"])


@dataclass(frozen=True, slots=True, kw_only=True)
class AccessSettings:
    """`[access]`. Any one of networks, users_file and certificates admits a client; then sender_domains applies.

    `certificates` are SHA-256 fingerprints (hexadecimal, colons allowed) or SAN DNS names. `sender_domains` are
    domains in canonical form or "*.domain", any depth below it; empty means any. 0 messages a minute = no bound.
    """

    networks: tuple[IPNetwork, ...] = (ipaddress.IPv4Network("127.0.0.0/8"), ipaddress.IPv6Network("::1/128"))
    users_file: Path | None = None
    certificates: tuple[str, ...] = ()
    sender_domains: tuple[str, ...] = ()
    proxies: tuple[IPNetwork, ...] = ()
    max_connections: int = 1000
    max_connections_per_client: int = 100
    max_messages_per_minute_per_client: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class IngressSettings:
    """Everything the ingress needs to know. Sizes in octets.

    `memory_budget` bounds the content that all sessions together hold in memory; `upload_above` is the size from
    which content is streamed into the store. `requiretls`: the extension is offered, within TLS (RFC 8689 §2).
    """

    hostname: str
    postmaster: str
    listeners: tuple[ListenerSettings, ...]
    access: AccessSettings = AccessSettings()
    max_message_size: int = 150 * 1024 * 1024
    max_recipients: int = 1000
    bare_newlines: BareNewlines = BareNewlines.NORMALIZE
    idle_timeout: timedelta = timedelta(minutes=5)
    max_hops: int = 100
    handshake_timeout: timedelta = timedelta(seconds=30)
    requiretls: bool = True
    tls_required_no: TlsRequiredNo = TlsRequiredNo.IGNORE
    memory_budget: int = 128 * 1024 * 1024
    upload_above: int = 1024 * 1024
