"""TCP by hand, through AF_PACKET: segments as no kernel would send them, from an address that the kernel does not have.

Called in an agent. Only what the tests need: no retransmission, no window, no checksum of what arrives."""

from __future__ import annotations

import random
import socket
import struct
import time
from dataclasses import dataclass

from tests.l7.waiting import readable

ETH_P_IP = 0x0800
FIN, SYN, RST, PSH, ACK, URG = 1, 2, 4, 8, 16, 32
MSS = b"\x02\x04\x05\xb4"  # the option: 1,460 bytes
PATIENCE = 1.5  # seconds until an answer must have come


@dataclass(frozen=True)
class Line:
    """From where to where; `mac` is the next hop's behind `device`."""

    source: str
    address: str
    port: int
    mac: bytes
    device: str = "eth0"


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\x00"
    total = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


class HandMade:
    """One connection, or what looks like one. `sequence` is that of the next byte, `expected` of the next that is to come."""

    def __init__(self, line: Line) -> None:
        self.line, self.own_port = line, random.randrange(20000, 60000)
        self._socket = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(ETH_P_IP))
        self._socket.bind((line.device, ETH_P_IP))
        self.sequence, self.expected = random.randrange(1 << 31), 0
        self.received, self.end = b"", "silent"

    def send(self, flags: int, data: bytes = b"", ahead: int = 0, urgent: int = 0) -> None:
        """A segment `ahead` bytes beyond the next; `sequence` stays."""
        options = MSS if flags & SYN else b""
        tcp = struct.pack(
            "!HHIIBBHHH", self.own_port, self.line.port, (self.sequence + ahead) & 0xFFFFFFFF, self.expected if flags & ACK else 0,
            (5 + len(options) // 4) << 4, flags, 65535, 0, urgent,
        )  # fmt: skip
        tcp += options + data
        ends = socket.inet_aton(self.line.source) + socket.inet_aton(self.line.address)
        total = checksum(ends + struct.pack("!BBH", 0, socket.IPPROTO_TCP, len(tcp)) + tcp)
        tcp = tcp[:16] + struct.pack("!H", total) + tcp[18:]
        ip = struct.pack(
            "!BBHHHBBH", 0x45, 0, 20 + len(tcp), random.randrange(1 << 16), 0x4000, 64, socket.IPPROTO_TCP, 0
        )
        ip = ip[:10] + struct.pack("!H", checksum(ip + ends)) + ends
        self._socket.sendto(ip + tcp, (self.line.device, ETH_P_IP, 0, 0, self.line.mac))

    def next(self, end: float) -> tuple[int, int, int, bytes] | None:
        """The next segment of the peer: flags, sequence, acknowledged, data; None at `end` (monotonic)."""
        while (left := end - time.monotonic()) > 0:
            if not readable(self._socket, left):
                return None
            packet, (_, _, kind, *_) = self._socket.recvfrom(1 << 16)
            if kind == socket.PACKET_OUTGOING or len(packet) < 40 or packet[9] != socket.IPPROTO_TCP:
                continue
            tcp = packet[(packet[0] & 15) * 4 : struct.unpack_from("!H", packet, 2)[0]]
            source, target, sequence, acknowledged, size, flags = struct.unpack_from("!HHIIBB", tcp)
            ours = (source, target) == (self.line.port, self.own_port)
            if ours and packet[12:16] == socket.inet_aton(self.line.address):
                return flags, sequence, acknowledged, tcp[(size >> 4) * 4 :]
        return None

    def connect(self, with_syn: bytes = b"", with_ack: bytes = b"") -> bool:
        """The handshake, with data where there should be none; whether the peer answered. What the peer has not taken of the SYN's is sent again."""
        self.send(SYN, with_syn)
        end = time.monotonic() + PATIENCE
        while (found := self.next(end)) is not None:
            flags, sequence, acknowledged, _ = found
            if flags & RST:
                self.end = "reset"
                return False
            if flags & SYN and flags & ACK:
                taken = (acknowledged - self.sequence - 1) & 0xFFFFFFFF
                self.sequence, self.expected = acknowledged, (sequence + 1) & 0xFFFFFFFF
                self.push(with_syn[taken:] + with_ack)
                return True
        return False

    def push(self, data: bytes) -> None:
        """ACK, with data if there are any."""
        self.send(ACK | PSH if data else ACK, data)
        self.sequence = (self.sequence + len(data)) & 0xFFFFFFFF

    def answer(self) -> str:
        """Takes what comes until there is an answer: `answered`, `eof`, `reset` or `silent`."""
        end = time.monotonic() + PATIENCE
        while (found := self.next(end)) is not None:
            flags, sequence, _, data = found
            if flags & RST:
                return "reset"
            if sequence == self.expected and data:
                self.received += data
                self.expected = (self.expected + len(data)) & 0xFFFFFFFF
                self.send(ACK)
                return "answered"
            if flags & FIN:
                return "eof"
        return self.end

    def close(self) -> None:
        self.send(RST | ACK)
        self._socket.close()


# --- called in an agent ---------------------------------------------------------------------------------------------------


def by_hand(line: Line, payload: bytes) -> str:
    """An ordinary connection that no socket knows of."""
    made = HandMade(line)
    if made.connect():
        made.push(payload)
    result = made.answer()
    made.close()
    return result


def with_the_syn(line: Line, payload: bytes, part: int = 0) -> str:
    """All of it, or `part` bytes in the SYN, the rest with the last ACK."""
    made = HandMade(line)
    made.connect(payload[: part or None], payload[part:] if part else b"")
    result = made.answer()
    made.close()
    return result


def with_the_last_ack(line: Line, payload: bytes) -> str:
    made = HandMade(line)
    made.connect(with_ack=payload)
    result = made.answer()
    made.close()
    return result


def backwards(line: Line, payload: bytes, size: int = 7) -> str:
    """The last segment first."""
    made = HandMade(line)
    if made.connect():
        for at in reversed(range(0, len(payload), size)):
            made.send(ACK | PSH, payload[at : at + size], ahead=at)
            time.sleep(0.002)
        made.sequence += len(payload)
    result = made.answer()
    made.close()
    return result


def urgently(line: Line, payload: bytes, at: int) -> str:
    """An urgent byte before `payload[at]`, in one segment with the rest."""
    made = HandMade(line)
    if made.connect():
        made.send(ACK | PSH | URG, payload[:at] + b"X" + payload[at:], urgent=at + 1)
        made.sequence += len(payload) + 1
    result = made.answer()
    made.close()
    return result
