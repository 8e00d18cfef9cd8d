"""Addresses as `(family, integer)`, as text, and as map keys."""

from __future__ import annotations

import ipaddress
import socket
from typing import Literal

Address = tuple[Literal["4", "6"], int]
MAPPED = 0xFFFF  # the upper 96 bits of an IPv4-mapped IPv6 address


def parse(text: str) -> Address:
    """What an operator wrote. Raises ValueError (also for zones, prefixes and IPv4-mapped IPv6)."""
    address = read(text)
    if address[0] == "6" and address[1] >> 32 == MAPPED:
        raise ValueError(f"{text!r} is an IPv4-mapped IPv6 address; write it as IPv4")
    return address


def read(text: str) -> Address:
    """What the function `text` made of an address, which an interface may have IPv4-mapped. Raises ValueError."""
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        packed = socket.inet_pton(family, text)
    except (OSError, ValueError):
        raise ValueError(f"{text!r} is no IPv4 or IPv6 address") from None
    number = int.from_bytes(packed, "big")
    if family == socket.AF_INET:
        return "4", number
    return "6", number


def text(address: Address) -> str:
    family, number = address
    return socket.inet_ntoa(number.to_bytes(4, "big")) if family == "4" else str(ipaddress.IPv6Address(number))


def key(address: Address) -> bytes:
    """As in the packet: the key of `ipcache4` or `ipcache6`."""
    family, number = address
    return number.to_bytes(4 if family == "4" else 16, "big")


def from_packet(family: int, data: bytes) -> str:
    """Text of an address field of an event (16 bytes; IPv4 in the first four)."""
    return str(ipaddress.IPv4Address(data[:4]) if family == 4 else ipaddress.IPv6Address(data[:16]))
