"""Addresses of clients, as they are counted."""

from __future__ import annotations

import ipaddress

THIS_DEVICE = "this device"  # whatever address it calls itself by
Address = ipaddress.IPv4Address | ipaddress.IPv6Address


def ip_of(host: str | None) -> Address | None:
    """Return the address, an IPv4 one also where IPv6 wraps it; None for what is none."""
    try:
        found = ipaddress.ip_address((host or "").partition("%")[0])
    except ValueError:
        return None
    return getattr(found, "ipv4_mapped", None) or found


def network_of(address: Address | None) -> str:
    """Return the IPv4 address, or the IPv6 network of 64 bits, which is what one household or machine has."""
    if isinstance(address, ipaddress.IPv6Address):
        return str(ipaddress.ip_network((address, 64), strict=False))
    return str(address or "")
