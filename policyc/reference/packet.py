"""Packets from bytes: Ethernet, VLAN tags, IPv4, IPv6 with extension headers, and the L4 head (RFC 791, 8200, 792, 4443, 9293, 768, 9260)."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from typing import Final

from policyc.model import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS
from policyc.reference.verdict import Traffic
from policyc.reference.world import Address

ETHERNET_BYTES = 14
VLAN_TAGS = (0x8100, 0x88A8)
MAX_TAGS = 2
ETHERTYPES = {0x0800: 4, 0x86DD: 6}
HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS = 0, 43, 44, 60
EXTENSION_HEADERS = frozenset({HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION_OPTIONS})
MAX_EXTENSION_HEADERS = 8
L4_BYTES = {6: 20, 17: 8, 132: 12, ICMP: 8, ICMPV6: 8}
QUOTED_L4_BYTES = 8  # RFC 792: a quotation has at least 64 bits of what follows the header
ECHO = {ICMP: (8, 0), ICMPV6: (128, 129)}  # request, reply
ERRORS = {ICMP: (3, 11, 12), ICMPV6: (1, 2, 3, 4)}
NEIGHBOUR_DISCOVERY = range(133, 138)
MLD = frozenset({130, 131, 132, 143})
FIN, SYN, RST, ACK = 1, 2, 4, 16


class NotIp(Enum):
    NOT_IP = "not IP"


NOT_IP: Final = NotIp.NOT_IP


class FragmentKind(Enum):
    WHOLE = 0  # also an atomic IPv6 fragment
    FIRST = 1
    LATER = 2


@dataclass(frozen=True)
class IpHead:
    """The IP headers of a packet. `protocol` is what the last of them names; `l4` and `end` are offsets in the frame, `end` that of
    the first byte after the packet or the frame, whichever is less."""

    version: int
    source: Address
    destination: Address
    hop_limit: int
    protocol: int
    kind: FragmentKind
    fragment_id: int
    l4: int
    end: int


@dataclass(frozen=True)
class Malformed:
    """What cannot be parsed. `head` is None if the addresses are not known; its other fields hold as far as they were read."""

    head: IpHead | None = None


@dataclass(frozen=True)
class Quote:
    """The packet that an ICMP error quotes: its ends and ports (echo: the identifier as both; none: 0)."""

    source: Address
    destination: Address
    source_port: int
    destination_port: int
    protocol: int


@dataclass(frozen=True)
class Packet:
    """A parsed packet. Ports: those of tcp, udp and sctp, the identifier of an ICMP echo as both, else 0."""

    head: IpHead
    source_port: int = 0
    destination_port: int = 0
    tcp_flags: int = 0
    icmp: tuple[int, int] | None = None  # type, code
    quote: Quote | None = None

    @property
    def traffic(self) -> Traffic:
        protocol = self.head.protocol
        if self.head.kind is FragmentKind.LATER:
            return Traffic(protocol, fragment=True)
        if protocol in PROTOCOLS_WITH_PORTS:
            return Traffic(protocol, self.destination_port)
        if self.icmp is not None:
            return Traffic(protocol, icmp_type=self.icmp[0], icmp_code=self.icmp[1])
        return Traffic(protocol)

    @property
    def opens(self) -> bool:
        """A SYN without ACK."""
        return self.head.protocol == 6 and self.tcp_flags & (SYN | ACK) == SYN

    @property
    def is_echo_request(self) -> bool:
        return self.icmp is not None and self.icmp[0] == ECHO[self.head.protocol][0]

    @property
    def is_echo_reply(self) -> bool:
        return self.icmp is not None and self.icmp[0] == ECHO[self.head.protocol][1]

    @property
    def is_no_flow(self) -> bool:
        """Neighbour discovery or MLD."""
        head = self.head
        if head.version != 6 or head.protocol != ICMPV6 or head.kind is not FragmentKind.WHOLE or self.icmp is None:
            return False
        kind = self.icmp[0]
        return (kind in NEIGHBOUR_DISCOVERY and head.hop_limit == 255) or (kind in MLD and head.hop_limit == 1)


Parsed = Packet | Malformed | NotIp


class _Bad(Exception):
    """The bytes end too early or contradict themselves. `head` is what was known."""

    def __init__(self, head: IpHead | None = None) -> None:
        self.head = head


def parse(frame: bytes, *, ethertype: int | None = None, tagged: bool = False) -> Parsed:
    """`ethertype`: the frame begins with its IP header, as at a cgroup; without it, with an Ethernet header, of which `tagged`
    says that one VLAN tag was already taken off."""
    try:
        start = 0
        if ethertype is None:
            ethertype, start = _ethernet(frame, tagged)
        if ethertype not in ETHERTYPES:
            return NOT_IP
        end = len(frame)
        head = _ipv4(frame, start, end) if ETHERTYPES[ethertype] == 4 else _ipv6(frame, start, end)
        return _l4(frame, head)
    except _Bad as bad:
        return Malformed(bad.head)


def _number(frame: bytes, offset: int, size: int, end: int, head: IpHead | None = None) -> int:
    """A network-order integer; raises _Bad beyond `end`."""
    if offset + size > end:
        raise _Bad(head)
    return int.from_bytes(frame[offset : offset + size], "big")


def _ethernet(frame: bytes, tagged: bool) -> tuple[int, int]:
    """The ethertype and the offset of what follows."""
    end, offset, tags = len(frame), ETHERNET_BYTES, int(tagged)
    ethertype = _number(frame, 12, 2, end)
    while ethertype in VLAN_TAGS:
        tags += 1
        if tags > MAX_TAGS:
            raise _Bad
        ethertype = _number(frame, offset + 2, 2, end)
        offset += 4
    return ethertype, offset


# --- IP ---------------------------------------------------------------------------------------------------------


def _ipv4(frame: bytes, start: int, limit: int, *, quoted: bool = False) -> IpHead:
    """A quoted packet is cut short: its total length binds nothing."""
    first = _number(frame, start, 1, limit)
    header = 4 * (first & 15)
    if first >> 4 != 4 or header < 20 or start + header > limit:
        raise _Bad
    total = _number(frame, start + 2, 2, limit)
    if not quoted and total < header:
        raise _Bad
    place = _number(frame, start + 6, 2, limit)
    more, offset = bool(place & 0x2000), place & 0x1FFF
    return IpHead(
        version=4,
        source=("4", _number(frame, start + 12, 4, limit)),
        destination=("4", _number(frame, start + 16, 4, limit)),
        hop_limit=frame[start + 8],
        protocol=frame[start + 9],
        kind=_fragment_kind(offset, more),
        fragment_id=_number(frame, start + 4, 2, limit),
        l4=start + header,
        end=limit if quoted else min(limit, start + total),
    )


def _fragment_kind(offset: int, more: bool) -> FragmentKind:
    if offset:
        return FragmentKind.LATER
    return FragmentKind.FIRST if more else FragmentKind.WHOLE


def _ipv6(frame: bytes, start: int, limit: int, *, quoted: bool = False) -> IpHead:
    first, payload = _number(frame, start, 1, limit), _number(frame, start + 4, 2, limit)
    if first >> 4 != 6 or start + 40 > limit:
        raise _Bad
    fixed = IpHead(
        version=6,
        source=("6", _number(frame, start + 8, 16, limit)),
        destination=("6", _number(frame, start + 24, 16, limit)),
        hop_limit=frame[start + 7],
        protocol=frame[start + 6],
        kind=FragmentKind.WHOLE,
        fragment_id=0,
        l4=start + 40,
        end=limit if quoted else min(limit, start + 40 + payload),
    )
    return _extension_headers(frame, fixed)


def _extension_headers(frame: bytes, head: IpHead) -> IpHead:
    """The head after all extension headers, or at the one that says that this is a later fragment."""
    count = 0
    while head.protocol in EXTENSION_HEADERS:
        count += 1
        if count > MAX_EXTENSION_HEADERS or head.l4 + 8 > head.end:
            raise _Bad(head)
        if head.protocol == FRAGMENT:
            head = _fragment_header(frame, head)
            if head.kind is FragmentKind.LATER:
                return head
        else:
            head = _moved(head, frame[head.l4], 8 * (frame[head.l4 + 1] + 1))
    return head


def _moved(head: IpHead, protocol: int, size: int) -> IpHead:
    if head.l4 + size > head.end:
        raise _Bad(head)
    return IpHead(
        head.version, head.source, head.destination, head.hop_limit, protocol, head.kind, head.fragment_id,
        head.l4 + size, head.end,
    )  # fmt: skip


def _fragment_header(frame: bytes, head: IpHead) -> IpHead:
    """Atomic (offset 0, nothing follows) changes nothing."""
    place = _number(frame, head.l4 + 2, 2, head.end)
    kind = _fragment_kind(place >> 3, bool(place & 1))
    number = _number(frame, head.l4 + 4, 4, head.end)
    if kind is FragmentKind.WHOLE:
        kind, number = head.kind, head.fragment_id
    return IpHead(
        head.version, head.source, head.destination, head.hop_limit, frame[head.l4], kind, number, head.l4 + 8, head.end
    )


# --- L4 ---------------------------------------------------------------------------------------------------------


def _l4(frame: bytes, head: IpHead) -> Packet:
    if head.kind is FragmentKind.LATER or head.protocol not in L4_BYTES:
        return Packet(head)
    at, end = head.l4, head.end
    if at + L4_BYTES[head.protocol] > end:
        raise _Bad(head)
    if head.protocol in PROTOCOLS_WITH_PORTS:
        source, destination = _number(frame, at, 2, end), _number(frame, at + 2, 2, end)
        flags = _tcp_flags(frame, head) if head.protocol == 6 else 0
        return Packet(head, source, destination, flags)
    icmp = (frame[at], frame[at + 1])
    identifier = _number(frame, at + 4, 2, end) if icmp[0] in ECHO[head.protocol] else 0
    is_error = icmp[0] in ERRORS[head.protocol] and head.kind is FragmentKind.WHOLE
    quote = _quote(frame, head) if is_error else None
    return Packet(head, identifier, identifier, icmp=icmp, quote=quote)


def _tcp_flags(frame: bytes, head: IpHead) -> int:
    if frame[head.l4 + 12] >> 4 < 5:
        raise _Bad(head)
    return frame[head.l4 + 13]


def _quote(frame: bytes, error: IpHead) -> Quote | None:
    """None if what is quoted tells no connection: unreadable, a later fragment, or ICMP that is no echo."""
    start = error.l4 + 8
    try:
        read = _ipv4 if error.version == 4 else _ipv6
        head = read(frame, start, error.end, quoted=True)
    except _Bad:
        return None
    if head.kind is FragmentKind.LATER:
        return None
    ports = _quoted_ports(frame, head)
    return None if ports is None else Quote(head.source, head.destination, *ports, head.protocol)


def _quoted_ports(frame: bytes, head: IpHead) -> tuple[int, int] | None:
    if head.protocol not in L4_BYTES:
        return 0, 0
    at, end = head.l4, head.end
    if at + QUOTED_L4_BYTES > end:
        return None
    if head.protocol in PROTOCOLS_WITH_PORTS:
        return _number(frame, at, 2, end), _number(frame, at + 2, 2, end)
    if frame[at] not in ECHO[head.protocol]:
        return None
    identifier = _number(frame, at + 4, 2, end)
    return identifier, identifier
