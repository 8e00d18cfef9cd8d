"""Random packets of conversations between those who are there: replies, reused ports, fragments, ICMP errors, broken heads."""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from random import Random

from random_world import Edges, Who

from policyc.artifact.layout import Hook
from policyc.model import Direction
from policyc.reference.world import Address

TCP, UDP, SCTP, ICMP, ICMPV6, GRE = 6, 17, 132, 1, 58, 47
FIN, SYN, RST, PSH, ACK = 1, 2, 4, 8, 16
FLAGS = (SYN, SYN, SYN | ACK, ACK, ACK, ACK | PSH, FIN | ACK, FIN | ACK, RST, RST | ACK, 0, SYN | FIN, SYN | RST)
EXTENSIONS = (0, 43, 60)
TAGS = ((0x8100,), (0x88A8, 0x8100), (0x8100, 0x8100), (0x8100, 0x8100, 0x8100))


def ip(
    family: str,
    src: int,
    dst: int,
    protocol: int,
    payload: bytes,
    *,
    hops: int = 64,
    fragment: int = 0,
    ident: int = 7,
    options: bytes = b"",
) -> bytes:
    """`fragment` is the 16-bit field of IPv4 (flags and offset in units of 8), `options` are IPv4's."""
    if family == "4":
        first, total = 0x45 + len(options) // 4, 20 + len(options) + len(payload)
        head = struct.pack("!BBHHHBBH", first, 0, total, ident, fragment, hops, protocol, 0)
        return head + src.to_bytes(4) + dst.to_bytes(4) + options + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, hops)
    return head + src.to_bytes(16) + dst.to_bytes(16) + payload


def fragment_header(following: int, offset: int, more: bool, ident: int) -> bytes:
    return struct.pack("!BBHI", following, 0, offset << 3 | more, ident)


def extension(following: int, units: int = 0) -> bytes:
    """An extension header of 8 * (`units` + 1) bytes."""
    return bytes((following, units)) + bytes(6 + 8 * units)


def ethernet(family: str, packet: bytes, tags: Sequence[int] = ()) -> bytes:
    tagged = b"".join(struct.pack("!HH", t, 5) for t in tags)
    return bytes(12) + tagged + (b"\x08\x00" if family == "4" else b"\x86\xdd") + packet


@dataclass(frozen=True)
class Conversation:
    """`destination_port` of ICMP is type << 8 | code, `source_port` the identifier."""

    family: str
    source: int
    destination: int
    protocol: int
    source_port: int
    destination_port: int


@dataclass(frozen=True)
class Packet:
    """An IP packet without its link header, and whose it claims to be."""

    family: str
    source: int
    destination: int
    data: bytes


@dataclass(frozen=True)
class Sent:
    """A frame at a hook of a device (a name of Place.devices)."""

    hook: Hook
    device: str
    frame: bytes


@dataclass
class Traffic:
    """Draws what is sent. A few conversations go on and on, so that tables have something to find."""

    random: Random
    edges: Edges
    who: Who
    restless: float = 0.1  # how often a new conversation takes the place of an old one
    conversations: list[Conversation] = field(default_factory=list)
    past: list[Packet] = field(default_factory=list)
    held: list[Packet] = field(default_factory=list)  # fragments that come late

    def __post_init__(self) -> None:
        for _ in range(12):
            self._meet()

    def _meet(self) -> None:
        """A new conversation: mostly one that some rule is about, with somebody who is judged, the workload's own above all, because
        elsewhere most of what it sends is spoofed."""
        r, now = self.random, self.who
        family = r.choice("46")
        first = {now.workload: 4, now.inner: 2, now.outer: 1}
        owners: list[Address] = [a for e in now.endpoints for a in e.addresses * first.get(e.name, 1)] + [*now.host]
        mine = [a for f, a in owners if f == family]
        ends = [r.choice(mine) if mine and r.random() < 0.6 else r.choice(self.edges.addresses[family]) for _ in "sd"]
        if mine and r.random() < 0.85:
            ends[r.randrange(2)] = r.choice(mine)
        protocol, number = self._service()
        if self.edges.hints and r.random() < 0.7:
            hint = r.choice(self.edges.hints)
            subject = 0 if hint.direction is Direction.EGRESS else 1
            if mine:
                ends[subject] = r.choice(mine)
            if hint.peers[family] and r.random() < 0.6:
                ends[1 - subject] = r.choice(hint.peers[family])
            if hint.services:
                protocol, number = r.choice(hint.services)
        sport = number if protocol not in (ICMP, ICMPV6) and r.random() < 0.04 else r.choice((5, 6))
        self.conversations.append(Conversation(family, *ends, protocol, sport, number))

    def _service(self) -> tuple[int, int]:
        """Protocol, and port or type << 8 | code."""
        r = self.random
        protocol = r.choice((TCP, TCP, TCP, UDP, SCTP, ICMP, ICMPV6, GRE))
        if protocol in (ICMP, ICMPV6):
            kind, code = r.choice(self.edges.icmp)
            return protocol, kind << 8 | code
        return r.choice(self.edges.protocols) if protocol == GRE else protocol, r.choice(self.edges.ports)

    def send(self) -> list[Sent]:
        """What becomes of one packet: it is seen where its source sends it and where its destination gets it, or anywhere."""
        r = self.random
        if r.random() < self.restless:
            self._meet()
            del self.conversations[r.randrange(len(self.conversations) - 1)]
        sent = []
        for packet in self._packets():
            frame = ethernet(packet.family, packet.data, r.choice(TAGS) if r.random() < 0.06 else ())
            if r.random() < 0.01:
                frame = frame[:12] + r.choice((b"\x08\x06", b"\x88\xcc")) + frame[14:]
            points = self._points(packet) if r.random() < 0.85 else []
            sent += [Sent(hook, device, frame) for hook, device in points or [self._anywhere()]]
        return sent

    # --- where ------------------------------------------------------------------------------------------------

    def _anywhere(self) -> tuple[Hook, str]:
        devices = ("workload", "uplink", "empty", "unknown", "loopback")
        return self.random.choice(list(Hook)), self.random.choices(devices, (6, 6, 1, 1, 2))[0]

    def _points(self, packet: Packet) -> list[tuple[Hook, str]]:
        r, now = self.random, self.who
        points: list[tuple[Hook, str]] = []
        cgroup = now.inner or now.outer
        if now.owner(packet_source := _address(packet.family, packet.source)) is None and _configures(packet_source):
            return [
                r.choice(
                    ((Hook.TC_INGRESS, "workload"), (Hook.XDP_INGRESS, "workload"), (Hook.CGROUP_EGRESS, "uplink"))
                )
            ]
        for number, leaves in ((packet.source, True), (packet.destination, False)):
            owner = now.owner(_address(packet.family, number))
            if owner is None or r.random() < 0.1:
                continue
            if owner == now.workload:
                arriving = r.choice((Hook.TC_INGRESS, Hook.TC_INGRESS, Hook.XDP_INGRESS))
                points.append((arriving if leaves else Hook.TC_EGRESS, "workload"))
            elif owner == cgroup:
                device = r.choice(("uplink", "uplink", "loopback"))
                points.append((Hook.CGROUP_EGRESS if leaves else Hook.CGROUP_INGRESS, device))
            else:
                arriving = r.choice((Hook.TC_INGRESS, Hook.TC_INGRESS, Hook.XDP_INGRESS))
                points.append((Hook.TC_EGRESS if leaves else arriving, "uplink"))
        return points

    # --- what -------------------------------------------------------------------------------------------------

    def _packets(self) -> list[Packet]:
        r = self.random
        kind = r.random()
        if self.held and r.random() < 0.05:
            return [self.held.pop(r.randrange(len(self.held)))]
        if kind < 0.1 and self.past:
            made = [self._error()]
        elif kind > 0.97:
            made = [r.choice((self._neighbour, self._configuration))()]
        else:
            one = r.choice((r.choice(self.conversations), self.conversations[-1]))
            forth = r.random() < 0.6
            src, dst = (one.source, one.destination) if forth else (one.destination, one.source)
            payload = self._l4(one, forth)
            if kind < 0.2:
                pieces = self._pieces(one.family, src, dst, one.protocol, payload)
            else:
                pieces = [self._whole(one.family, src, dst, one.protocol, payload)]
            made = [Packet(one.family, src, dst, data) for data in pieces]
            if len(made) > 1 and r.random() < 0.4:
                self.held.append(made.pop())
        self.past = [*self.past[-9:], *made]
        if r.random() < 0.08:
            made = [Packet(p.family, p.source, p.destination, self._broken(p.data)) for p in made]
        return made

    def _neighbour(self) -> Packet:
        """ICMPv6 of neighbour discovery and MLD, and what is nearly that."""
        r = self.random
        ends = [r.choice(self.edges.addresses["6"]) for _ in "sd"]
        mine = [n for e in self.who.endpoints for f, n in e.addresses if f == "6"]
        if mine:
            ends[r.randrange(2)] = r.choice(mine)
        body = struct.pack("!BBHI", r.choice((*range(129, 139), 142, 143, 144)), 0, 0, 0) + bytes(16)
        return Packet("6", *ends, ip("6", *ends, ICMPV6, body, hops=r.choice((255, 255, 254, 1, 1, 2, 64))))

    def _configuration(self) -> Packet:
        """DHCP and DHCPv6 from addresses that are nobody's, and what is nearly that, sent by the workload or a cgroup."""
        r, family = self.random, self.random.choice("46")
        sources = (
            (0, 0, 1) if family == "4" else (0, 0xFE80 << 112 | 5, 0xFEBF << 112 | 5, 0xFEC0 << 112, 0xFE7F << 112)
        )
        source, target = r.choice(sources), r.choice(self.edges.addresses[family])
        payload = struct.pack("!HHHH", 68, r.choice((66, 67, 67, 68, 546, 547, 547)), 12, 0) + b"data"
        return Packet(family, source, target, ip(family, source, target, r.choice((UDP, UDP, UDP, TCP)), payload * 2))

    def _l4(self, one: Conversation, forth: bool) -> bytes:
        r = self.random
        ports = (one.source_port, one.destination_port) if forth else (one.destination_port, one.source_port)
        if one.protocol == TCP:
            flags, words = r.choice(FLAGS), r.choice((5, 5, 5, 5, 5, 5, 8, 4))
            return struct.pack("!HHIIBBHHH", *ports, 1, 2, words << 4, flags, 99, 0, 0) + b"data" * r.choice((0, 1, 9))
        if one.protocol == UDP:
            return struct.pack("!HHHH", *ports, 12, 0) + b"data" * r.choice((0, 1, 9))
        if one.protocol == SCTP:
            return struct.pack("!HHII", *ports, 1, 0) + b"data"
        if one.protocol in (ICMP, ICMPV6):
            kind, code = one.destination_port >> 8, one.destination_port & 255
            if kind in (8, 128) and not forth:
                kind -= 8 if kind == 8 else -1
            if r.random() < 0.15:
                kind = r.choice((0, 8, 3, 11, 128, 129, 1, 4, 130, 135, 137, 143))
            return struct.pack("!BBHHH", kind, code, 0, one.source_port, 1) + b"ping" * 4
        return b"whatever" * r.choice((0, 1, 3))

    def _whole(self, family: str, src: int, dst: int, protocol: int, payload: bytes) -> bytes:
        r = self.random
        hops, options = r.choice((64, 64, 64, 255, 1)), b""
        if family == "6" and r.random() < 0.2:
            protocol, payload = self._chain(protocol, payload)
        if family == "4" and r.random() < 0.1:
            options = bytes(4 * r.choice((1, 3, 10)))
        return ip(family, src, dst, protocol, payload, hops=hops, options=options)

    def _chain(self, protocol: int, payload: bytes) -> tuple[int, bytes]:
        """Extension headers before the payload, an atomic fragment's among them."""
        r = self.random
        for _ in range(r.choice((1, 1, 2, 3, 7, 8, 9))):
            if r.random() < 0.15:
                payload, protocol = fragment_header(protocol, 0, False, 9) + payload, 44
                continue
            payload = extension(protocol, r.choice((0, 0, 1, 2))) + payload
            protocol = r.choice(EXTENSIONS)
        return protocol, payload

    def _pieces(self, family: str, src: int, dst: int, protocol: int, payload: bytes) -> list[bytes]:
        """Fragments of one packet in any order, some lost, some twice, some of another packet with that number."""
        r = self.random
        if family == "6" and r.random() < 0.25:
            payload, protocol = extension(protocol) + payload, 60
        payload += bytes(-len(payload) % 8 + 8 * r.randrange(3))
        cuts = sorted({0, len(payload), *(8 * r.randrange(len(payload) // 8 + 1) for _ in range(r.choice((1, 1, 2))))})
        ident = r.choice((1, 2, 3))
        made = []
        for begin, end in pairwise(cuts):
            more, offset = end < len(payload), begin // 8
            if r.random() < 0.05:
                offset, more = r.choice(((0, True), (1, True), (8191, False), (0, False)))
            if family == "4":
                made.append(
                    ip(family, src, dst, protocol, payload[begin:end], fragment=offset | more << 13, ident=ident)
                )
                continue
            body, outer = fragment_header(protocol, offset, more, ident) + payload[begin:end], 44
            if r.random() < 0.15:
                body, outer = extension(44) + body, r.choice(EXTENSIONS)
            if r.random() < 0.03:
                body, outer = fragment_header(44, 0, r.random() < 0.5, 4) + body, 44
            made.append(ip(family, src, dst, outer, body))
        if r.random() < 0.5:
            r.shuffle(made)
        return made if r.random() < 0.8 else r.choices(made, k=len(made))

    def _error(self) -> Packet:
        """An ICMP error about something that was sent, to who sent it or, rarely, to somebody else."""
        r = self.random
        about = r.choice(self.past)
        family, quoted = about.family, about.data
        target = about.source if r.random() < 0.9 else r.choice(self.edges.addresses[family])
        sender = about.destination if r.random() < 0.5 else r.choice(self.edges.addresses[family])
        protocol, kind = (ICMP, r.choice((3, 3, 4, 11, 12))) if family == "4" else (ICMPV6, r.choice((1, 2, 3, 4)))
        cut = r.random()
        if cut < 0.15:
            quoted = quoted[: r.randrange(len(quoted))]
        elif cut < 0.5:  # what RFC 792 asks for
            quoted = quoted[: 4 * (quoted[0] & 15) + 8 if family == "4" and quoted else 48]
        body = struct.pack("!BBHI", kind, r.choice((0, 1)), 0, 0) + quoted
        return Packet(family, sender, target, self._whole(family, sender, target, protocol, body))

    def _broken(self, data: bytes) -> bytes:
        """Truncated, lengthened, or a byte or bit of the heads changed."""
        r = self.random
        kind = r.random()
        if kind < 0.4:
            return data[: r.randrange(20, len(data) + 1)]
        if kind < 0.5:
            return data + bytes(r.choice((1, 4, 8)))
        at = r.choice((0, 2, 3, 4, 5, 6, 7, 9, r.randrange(min(len(data), 64))))
        value = data[at] ^ 1 << r.randrange(8) if r.random() < 0.5 else r.randrange(256)
        return data[:at] + bytes((value,)) + data[at + 1 :]


def _address(family: str, number: int) -> Address:
    return ("4", number) if family == "4" else ("6", number)


def _configures(source: Address) -> bool:
    return source[1] == 0 or (source[0] == "6" and source[1] >> 118 in (0xFE80 >> 6, 0xFEC0 >> 6))


def usable(one: Sent) -> bool:
    """Whether TEST_RUN can send it: a cgroup sees IP only."""
    return one.hook not in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS) or one.frame[12:14] in (b"\x08\x00", b"\x86\xdd")
