"""Addresses and networks, as settings name them."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable

from alphavel.foundation.errors import ConfigurationError

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def networks(texts: Iterable[str], key: str) -> list[Network]:
    """
    Read networks; an address is a network of one.

    Raises:
        ConfigurationError: One is none; `key` says where.
    """
    try:
        return [ipaddress.ip_network(text) for text in texts]
    except ValueError as error:
        raise ConfigurationError(f"expected addresses and networks such as 10.0.0.0/8: {error}.", key=key) from None


def read_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address:
    """Read an address, with or without the zone of a link-local one. Raises ValueError for what is none."""
    address = ipaddress.ip_address(text.partition("%")[0])
    # A socket that listens on :: sees IPv4 peers as ::ffff:192.0.2.1.
    return getattr(address, "ipv4_mapped", None) or address


def is_in(address: str, among: Iterable[Network]) -> bool:
    """Whether an address is in one of some networks; what is no address, such as that of a Unix socket, is in none."""
    try:
        found = read_address(address)
    except ValueError:
        return False
    return any(found in network for network in among)
