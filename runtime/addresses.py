"""Addresses as `(family, integer)`, as text, and as map keys."""

from __future__ import annotations

import ipaddress
from typing import Literal

Address = tuple[Literal["4", "6"], int]
MAPPED = 0xFFFF  # the upper 96 bits of an IPv4-mapped IPv6 address


def parse(text: str) -> Address:
    """Raises ValueError (also for zones, prefixes and IPv4-mapped IPv6)."""
    if "%" in text:
        raise ValueError(f"{text!r}: an address without a zone is meant")
    ip = ipaddress.ip_address(text)
    number = int(ip)
    if ip.version == 6 and number >> 32 == MAPPED:
        raise ValueError(f"{text!r} is an IPv4-mapped IPv6 address; write it as IPv4")
    return ("4" if ip.version == 4 else "6"), number


def text(address: Address) -> str:
    family, number = address
    return str(ipaddress.IPv4Address(number) if family == "4" else ipaddress.IPv6Address(number))


def key(address: Address) -> bytes:
    """As in the packet: the key of `ipcache4` or `ipcache6`."""
    family, number = address
    return number.to_bytes(4 if family == "4" else 16, "big")


def from_packet(family: int, data: bytes) -> str:
    """Text of an address field of an event (16 bytes; IPv4 in the first four)."""
    return str(ipaddress.IPv4Address(data[:4]) if family == 4 else ipaddress.IPv6Address(data[:16]))
