"""Frames from their parts, network byte order; checksums are 0."""

from __future__ import annotations

import ipaddress
import struct

ETHER_IPV4, ETHER_IPV6 = b"\x08\x00", b"\x86\xdd"


def raw(address: str) -> bytes:
    return ipaddress.ip_address(address).packed


def ether(packet: bytes, *tags: bytes, kind: bytes | None = None) -> bytes:
    """`tags`: ethertypes of VLAN tags, outermost first."""
    kind = kind or (ETHER_IPV6 if packet[:1] and packet[0] >> 4 == 6 else ETHER_IPV4)
    return b"\x02" * 12 + b"".join(t + b"\x00\x07" for t in tags) + kind + packet


def ipv4(
    src: str, dst: str, protocol: int, payload: bytes, *, more: bool = False, offset: int = 0, number: int = 1,
    options: bytes = b"", total: int | None = None, version: int = 4, ihl: int | None = None,
) -> bytes:  # fmt: skip
    """`offset` in units of 8 bytes."""
    words = 5 + len(options) // 4 if ihl is None else ihl
    length = 20 + len(options) + len(payload) if total is None else total
    head = struct.pack(
        ">BBHHHBBH", version << 4 | words, 0, length, number, (0x2000 if more else 0) | offset, 64, protocol, 0
    )
    return head + raw(src) + raw(dst) + options + payload


def ipv6(src: str, dst: str, protocol: int, payload: bytes, *, hops: int = 64, length: int | None = None) -> bytes:
    size = len(payload) if length is None else length
    return struct.pack(">IHBB", 6 << 28, size, protocol, hops) + raw(src) + raw(dst) + payload


def extension(following: int, payload: bytes, *, units: int = 0) -> bytes:
    """Hop-by-hop, routing or destination options of (units + 1) * 8 bytes."""
    return bytes([following, units]) + bytes(6 + 8 * units) + payload


def fragment(following: int, payload: bytes, *, more: bool, offset: int = 0, number: int = 1) -> bytes:
    return struct.pack(">BBHI", following, 0, offset << 3 | int(more), number) + payload


def tcp(sport: int, dport: int, flags: int = 2, *, words: int = 5) -> bytes:
    return struct.pack(">HHIIBBHHH", sport, dport, 0, 0, words << 4, flags, 0, 0, 0)


def udp(sport: int, dport: int, data: bytes = b"") -> bytes:
    return struct.pack(">HHHH", sport, dport, 8 + len(data), 0) + data


def sctp(sport: int, dport: int) -> bytes:
    return struct.pack(">HHII", sport, dport, 0, 0)


def icmp(kind: int, code: int = 0, identifier: int = 0, rest: bytes = b"") -> bytes:
    return struct.pack(">BBHHH", kind, code, 0, identifier, 1) + rest
