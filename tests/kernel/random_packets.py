"""Random packets over the addresses of a random world: connections and their replies, fragments, ICMP errors, broken heads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from random import Random

from random_world import ADDRESSES, PORTS

from policyc.reference.world import Address

TCP, UDP, SCTP, ICMP, ICMPV6, GRE = 6, 17, 132, 1, 58, 47
FIN, SYN, RST, ACK = 1, 2, 4, 16
EXTENSIONS = (0, 43, 60)


def ip(
    family: str, src: int, dst: int, protocol: int, payload: bytes, *, hops: int = 64, fragment: int = 0, ident: int = 7
) -> bytes:
    """`fragment` is the 16-bit field of IPv4 (flags and offset in units of 8)."""
    if family == "4":
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), ident, fragment, hops, protocol, 0)
        return head + src.to_bytes(4) + dst.to_bytes(4) + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
    return head + src.to_bytes(16) + dst.to_bytes(16) + payload


def fragment_header(following: int, offset: int, more: bool, ident: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset << 3 | more, ident)


def options(following: int, units: int = 0) -> bytes:
    return bytes((following, units)) + bytes(6 + 8 * units)


def ethernet(family: str, packet: bytes, tags: Sequence[int] = ()) -> bytes:
    tagged = b"".join(struct.pack("!HH", t, 5) for t in tags)
    return bytes(12) + tagged + (b"\x08\x00" if family == "4" else b"\x86\xdd") + packet


def l4(r: Random, protocol: int, sport: int, dport: int) -> bytes:
    if protocol == TCP:
        flags = r.choice((SYN, SYN, SYN | ACK, ACK, ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN))
        return (
            struct.pack("!HHIIBBHHH", sport, dport, 1, 2, r.choice((5, 5, 5, 5, 8, 4)) << 4, flags, 99, 0, 0) + b"data"
        )
    if protocol == UDP:
        return struct.pack("!HHHH", sport, dport, 12, 0) + b"data"
    if protocol == SCTP:
        return struct.pack("!HHII", sport, dport, 1, 0)
    if protocol == ICMP:
        return struct.pack("!BBHHH", r.choice((8, 8, 0, 0, 3, 11, 13)), r.choice((0, 0, 1)), 0, sport, 1) + b"ping"
    if protocol == ICMPV6:
        return (
            struct.pack("!BBHHH", r.choice((128, 128, 129, 129, 1, 4, 135, 143)), r.choice((0, 0, 1)), 0, sport, 1)
            + b"ping"
        )
    return b"whatever"


@dataclass
class Traffic:
    """Draws frames. A few tuples are used again and again, so that tables have something to find."""

    random: Random
    tuples: list[tuple[str, int, int, int, int, int]] = field(default_factory=list)
    sent: list[tuple[str, bytes]] = field(default_factory=list)

    def __post_init__(self) -> None:
        r = self.random
        for _ in range(10):
            family = r.choice("46")
            src, dst = (r.choice(ADDRESSES[family]) for _ in range(2))
            protocol = r.choice((TCP, TCP, UDP, SCTP, ICMP, ICMPV6, GRE))
            self.tuples.append((family, src, dst, protocol, r.choice((5, 6)), r.choice(PORTS)))

    def owned(self, owners: Sequence[Address]) -> None:
        """Lets most tuples begin or end at one of these addresses, so that somebody is judged."""
        r = self.random
        for number, (family, src, dst, *rest) in enumerate(self.tuples):
            mine = [a for f, a in owners if f == family]
            if mine and r.random() < 0.8:
                src, dst = (r.choice(mine), dst) if r.random() < 0.5 else (src, r.choice(mine))
                self.tuples[number] = (family, src, dst, *rest)

    def frame(self) -> tuple[str, bytes]:
        """Family and Ethernet frame."""
        r = self.random
        family, src, dst, protocol, sport, dport = r.choice(self.tuples)
        if r.random() < 0.45:
            src, dst, sport, dport = dst, src, (sport if protocol in (ICMP, ICMPV6) else dport), sport
        kind = r.random()
        if kind < 0.12 and self.sent:
            packet = self._error(family)
        elif kind < 0.3:
            packet = self._fragment(family, src, dst, protocol, l4(r, protocol, sport, dport))
        else:
            payload = l4(r, protocol, sport, dport)
            if family == "6" and r.random() < 0.3:
                protocol, payload = self._chain(protocol, payload)
            packet = ip(family, src, dst, protocol, payload, hops=r.choice((64, 64, 255, 1)))
        self.sent = [*self.sent[-8:], (family, packet)]
        if r.random() < 0.1:
            packet = self._broken(packet)
        tags = r.choice(((), (), (), (), (0x8100,), (0x88A8, 0x8100), (0x8100, 0x8100, 0x8100)))
        return family, ethernet(family, packet, tags)

    def _chain(self, protocol: int, payload: bytes) -> tuple[int, bytes]:
        for _ in range(self.random.choice((1, 1, 2, 7, 8, 9))):
            payload = options(protocol, self.random.choice((0, 0, 1))) + payload
            protocol = self.random.choice(EXTENSIONS)
        return protocol, payload

    def _fragment(self, family: str, src: int, dst: int, protocol: int, payload: bytes) -> bytes:
        r = self.random
        ident, offset, more = r.choice((1, 2)), r.choice((0, 0, 1, 2, 8191)), r.random() < 0.5
        cut = payload if r.random() < 0.8 else payload[:8]
        if family == "4":
            return ip(family, src, dst, protocol, cut, fragment=offset | more << 13, ident=ident)
        following = protocol
        if r.random() < 0.2:
            following, cut = 60, options(protocol) + cut
        body = fragment_header(following, offset, more, ident) + cut
        outer = 44
        if r.random() < 0.2:
            body, outer = options(44) + body, 0
        return ip(family, src, dst, outer, body)

    def _error(self, family: str) -> bytes:
        r = self.random
        about = [p for f, p in self.sent if f == family and len(p) >= 28]
        if not about:
            return ip(family, 1, 2, GRE, b"")
        quoted = r.choice(about)
        width = 4 if family == "4" else 16
        at = 12 if family == "4" else 8
        source = int.from_bytes(quoted[at : at + width])
        target = source if r.random() < 0.85 else r.choice(ADDRESSES[family])
        protocol, type_ = (ICMP, r.choice((3, 11, 12))) if family == "4" else (ICMPV6, r.choice((1, 2, 3, 4)))
        if r.random() < 0.15:
            quoted = quoted[: r.randrange(len(quoted))]
        body = struct.pack("!BBHI", type_, r.choice((0, 1)), 0, 0) + quoted
        return ip(family, r.choice(ADDRESSES[family]), target, protocol, body)

    def _broken(self, packet: bytes) -> bytes:
        """Truncated, or one byte of the heads changed."""
        r = self.random
        if r.random() < 0.5:
            return packet[: r.randrange(20, len(packet) + 1)]
        at = r.choice((0, 2, 3, 6, 7, 9, r.randrange(len(packet))))
        return packet[:at] + bytes((r.randrange(256),)) + packet[at + 1 :]
