"""Which addresses a user may send the server to: those of the public Internet, and what the operator allows besides.

Python 3.11's `is_global` is True for NAT64, 6to4 and IPv4-compatible forms of loopback, for fec0::/10, for multicast.
So what is public is said here. Source: the IANA registries of special-purpose addresses, IPv4 and IPv6.
"""

import re
import socket
from collections.abc import Sequence
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address

Address = IPv4Address | IPv6Address
Network = IPv4Network | IPv6Network

_SPECIAL_V4 = [
    IPv4Network(text)
    for text in (
        "0.0.0.0/8",
        "10.0.0.0/8",
        "100.64.0.0/10",
        "127.0.0.0/8",
        "168.63.129.16/32",  # Azure's host, which hands out the settings and certificates of a machine.
        "169.254.0.0/16",
        "172.16.0.0/12",
        "192.0.0.0/24",
        "192.0.2.0/24",
        "192.88.99.0/24",
        "192.168.0.0/16",
        "198.18.0.0/15",
        "198.51.100.0/24",
        "203.0.113.0/24",
        "224.0.0.0/3",
    )
]
_GLOBAL_V6 = IPv6Network("2000::/3")
# Protocol assignments with Teredo, documentation, 6to4, documentation again.
_SPECIAL_V6 = [IPv6Network(text) for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20")]
_NAT64 = IPv6Network("64:ff9b::/96")

_LOOPBACK_NAME = re.compile(r"(?:.*\.)?localhost(?:\.localdomain)?|ip6-(?:localhost|loopback)")
_KNOWN_NAMES = {"metadata.google.internal": IPv4Address("169.254.169.254")}


def reachable(address: Address, allowed: Sequence[Network]) -> bool:
    """Whether a connection may be made: the address is public, or in one of the allowed networks."""
    address = _unwrapped(address)
    return any(address in network for network in allowed) or _public(address)


def _unwrapped(address: Address) -> Address:
    """The IPv4 address at which a mapped or translated one ends. Tunnels (6to4, Teredo) are refused as they are."""
    if isinstance(address, IPv4Address):
        return address
    if address.ipv4_mapped is not None:
        return address.ipv4_mapped
    return IPv4Address(int(address) & 0xFFFFFFFF) if address in _NAT64 else address


def _public(address: Address) -> bool:
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_V4)
    return address in _GLOBAL_V6 and not any(address in network for network in _SPECIAL_V6)


def literal_address(host: str) -> Address | None:
    """The address that a host is without asking anyone, also in the old short, octal and hexadecimal forms.

    None for a name, which only a resolver knows.
    """
    host = host.removesuffix(".").lower()
    if _LOOPBACK_NAME.fullmatch(host):
        return IPv4Address("127.0.0.1")
    if known := _KNOWN_NAMES.get(host):
        return known
    try:
        return ip_address(host)
    except ValueError:
        pass
    try:
        return IPv4Address(socket.inet_aton(host))
    except (OSError, ValueError):
        return None
