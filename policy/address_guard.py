"""Which addresses may be contacted when a stranger's DNS names them. **Pure.**

`ipaddress.is_global` is True for loopback inside NAT64 and 6to4, for site-local, multicast and more, so this table
is our own: IANA's special-purpose registries (RFC 6890), and the IPv4 address inside an IPv6 one is judged too.
"""

from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network

from policy.names import IPAddress

_NOT_PUBLIC_V4 = tuple(
    IPv4Network(network)
    for network in (
        "0.0.0.0/8",  # this network
        "10.0.0.0/8",
        "100.64.0.0/10",  # carrier-grade NAT
        "127.0.0.0/8",
        "169.254.0.0/16",  # link-local, and the metadata services of clouds
        "172.16.0.0/12",
        "192.0.0.0/24",  # IETF protocol assignments
        "192.0.2.0/24",  # documentation
        "192.88.99.0/24",  # 6to4 relays (RFC 7526)
        "192.168.0.0/16",
        "198.18.0.0/15",  # benchmarks
        "198.51.100.0/24",  # documentation
        "203.0.113.0/24",  # documentation
        "224.0.0.0/4",  # multicast
        "240.0.0.0/4",  # reserved, and broadcast
    )
)
_UNICAST_V6 = IPv6Network("2000::/3")
_NOT_PUBLIC_V6 = tuple(
    IPv6Network(network)
    for network in (
        "2001::/23",  # IETF protocol assignments (Teredo is judged before)
        "2001:db8::/32",  # documentation
        "3fff::/20",  # documentation (RFC 9637)
    )
)
_NAT64 = IPv6Network("64:ff9b::/96")
_ISATAP_INTERFACE = 0x5EFE
_ISATAP_UNIVERSAL_BIT = 0x0200_0000


def is_public(address: IPAddress) -> bool:
    """Whether the address is one of the public internet, and so are all addresses hidden inside it."""
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _NOT_PUBLIC_V4)
    if address.scope_id is not None:
        return False
    inner = _inner_addresses(address)
    if not all(is_public(hidden) for hidden in inner):
        return False
    if inner and address not in _UNICAST_V6:
        return True  # NAT64 and v4-mapped lead to the inner address and nowhere else
    if inner and address.teredo is not None:
        return True
    return address in _UNICAST_V6 and not any(address in network for network in _NOT_PUBLIC_V6)


def _inner_addresses(address: IPv6Address) -> tuple[IPv4Address, ...]:
    """Return the IPv4 addresses that a packet to this IPv6 address may end at."""
    low = IPv4Address(int(address) & 0xFFFF_FFFF)
    if address.ipv4_mapped is not None or address in _NAT64:
        return (low,)
    if address.sixtofour is not None:
        return (address.sixtofour,)
    if address.teredo is not None:
        return address.teredo
    # RFC 5214 §6.1: the interface identifier is 0000:5efe or 0200:5efe, then the IPv4 address.
    if address in _UNICAST_V6 and (int(address) >> 32) & 0xFFFF_FFFF & ~_ISATAP_UNIVERSAL_BIT == _ISATAP_INTERFACE:
        return (low,)
    return ()
