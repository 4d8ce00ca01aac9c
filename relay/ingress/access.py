"""Who may relay (threats: open relay): any one of networks, users and certificates admits a client. **Pure.**"""

import ipaddress
import re
from dataclasses import dataclass

from policy.names import IPAddress
from relay.ingress.paths import Path
from relay.ingress.settings import AccessSettings, IPNetwork

_FINGERPRINT = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """What is known of a client: its address, the user it has authenticated as, its verified certificate.

    `fingerprint` is the SHA-256 of the certificate in lower-case hexadecimal; `dns_names` its SAN DNS names.
    """

    address: IPAddress
    user: str | None = None
    fingerprint: str | None = None
    dns_names: frozenset[str] = frozenset()


class AccessRule:
    """`[access]`, made ready. Nobody is trusted for having a private address."""

    def __init__(self, settings: AccessSettings) -> None:
        self._networks = settings.networks
        self._proxies = settings.proxies
        listed = [name.replace(":", "").lower() for name in settings.certificates]
        self._fingerprints = frozenset(name for name in listed if _FINGERPRINT.fullmatch(name))
        self._certificate_names = frozenset(name.lower() for name in settings.certificates)
        self._domains = frozenset(d for d in settings.sender_domains if not d.startswith("*."))
        self._domain_suffixes = tuple(d[1:] for d in settings.sender_domains if d.startswith("*."))

    def admits(self, client: Identity) -> bool:
        """Whether the client may relay at all."""
        return (
            client.user is not None
            or _is_in(client.address, self._networks)
            or client.fingerprint in self._fingerprints
            or not self._certificate_names.isdisjoint(client.dns_names)
        )

    def allows_sender(self, reverse_path: Path) -> bool:
        """Whether an admitted client may use this reverse-path.

        The null one it always may: the DSNs and read receipts of a legacy MTA have it.
        """
        if not reverse_path.mailbox or not (self._domains or self._domain_suffixes):
            return True
        domain = reverse_path.destination
        return domain in self._domains or domain.endswith(self._domain_suffixes)

    def is_proxy(self, address: IPAddress) -> bool:
        """Whether the address may speak the PROXY protocol."""
        return _is_in(address, self._proxies)


def client_address(text: str) -> IPAddress:
    """The address of a peer; an IPv4-mapped one is the IPv4 address that it is. A zone is of no interest."""
    address = ipaddress.ip_address(text.partition("%")[0])
    mapped = address.ipv4_mapped if isinstance(address, ipaddress.IPv6Address) else None
    return mapped or address


def client_key(address: IPAddress) -> str:
    """What counts as one client in limits: the address, or an IPv6 host's /64, which is all its own."""
    if isinstance(address, ipaddress.IPv4Address):
        return str(address)
    return str(ipaddress.IPv6Network((address, 64), strict=False).network_address)


def _is_in(address: IPAddress, networks: tuple[IPNetwork, ...]) -> bool:
    return any(address in network for network in networks)
