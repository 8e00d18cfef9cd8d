"""The first packet of a flow as an Ethernet frame, for engines that judge packets."""

from __future__ import annotations

import struct

from policyc.flows import Flow
from policyc.model import ICMP, ICMPV6

ETHERNET = bytes(12)
TCP, UDP, SCTP = 6, 17, 132
SOURCE_PORT = 49152  # where the flow names none
HOP_LIMIT = 64  # no flow is neighbour discovery or MLD


def frame(flow: Flow) -> bytes:
    """Checksums are zero: programs do not look at them."""
    payload = _payload(flow)
    protocol = flow.traffic.protocol
    if flow.src[0] == "4":
        head = struct.pack("!BBHHHBBH", 0x45, 0, 20 + len(payload), 0, 0, HOP_LIMIT, protocol, 0)
        return ETHERNET + b"\x08\x00" + head + flow.src[1].to_bytes(4) + flow.dst[1].to_bytes(4) + payload
    head = struct.pack("!IHBB", 6 << 28, len(payload), protocol, HOP_LIMIT)
    return ETHERNET + b"\x86\xdd" + head + flow.src[1].to_bytes(16) + flow.dst[1].to_bytes(16) + payload


def _payload(flow: Flow) -> bytes:
    traffic = flow.traffic
    ports = struct.pack("!HH", SOURCE_PORT if flow.sport is None else flow.sport, traffic.port or 0)
    if traffic.protocol == TCP:
        return ports + struct.pack("!IIBBHHH", 1, 0, 5 << 4, 2, 65535, 0, 0)  # SYN
    if traffic.protocol == UDP:
        return ports + struct.pack("!HH", 8, 0)
    if traffic.protocol == SCTP:
        return ports + bytes(8)
    if traffic.protocol in (ICMP, ICMPV6):
        return struct.pack("!BBHHH", traffic.icmp_type or 0, traffic.icmp_code or 0, 0, 1, 1)
    return bytes(8)
