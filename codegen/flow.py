"""The flow record: what a program knows of the packet at hand, on its stack, shared by all functions of the program.

Integers are host order unless marked network. IPv4 addresses stand in the first 4 of 16 bytes, the rest is zero.
"""

from __future__ import annotations

from typing import Any

from llvmlite import ir

from policyc.artifact.layout import NO_RULE, ConfigFlag
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, Function, Value

_FIELDS: list[tuple[str, int]] = [
    ("local", 16),  # network; the subject's side
    ("remote", 16),  # network
    ("local_port", 2),  # network; icmp echo: the identifier, in both
    ("remote_port", 2),
    ("subject", 4),  # endpoint index
    ("peer", 4),  # endpoint index of `match`
    ("peer_class", 4),  # PeerClassCode of `match`
    ("subject_slot", 4),  # identity slots
    ("peer_slot", 4),
    ("key", 4),  # service key in the direction of travel
    ("length", 4),  # bytes of the packet from the IP header on
    ("ifindex", 4),
    ("fragment_id", 4),  # network
    # Of the packet that an ICMP error quotes; its source is the error's destination.
    ("quoted_destination", 16),  # network
    ("quoted_local_port", 2),  # as the subject knows it
    ("quoted_remote_port", 2),
    ("direction", 1),
    ("family", 1),  # 4 or 6
    ("protocol", 1),
    ("hook", 1),
    # SCRATCH: while parsing, the next 48 bytes hold bytes of the packet.
    ("best", 8),  # see match.py: best cells, enforced and prospective, of the packet's key
    ("best_prospective", 8),
    ("named", 8),  # of the NAMED key
    ("named_prospective", 8),
    ("match", 16),  # network; the peer's address that rules are matched against
    ("icmp", 2),  # type << 8 | code
    ("flags", 2),  # Flag bits, and what is reported (Events)
    ("tcp_flags", 1),
    ("quoted_protocol", 1),
    ("verdict", 1),  # 1 allow, 0 deny
    ("reason", 1),
    ("rank", 4),
    ("audit_verdict", 1),
    ("audit_reason", 1),
    ("log", 1),
    ("connection", 1),  # a new connection was allowed
    ("audit_rank", 4),
    ("generation", 4),  # under which the packet is judged
    # Where some rule has an L7 block:
    ("sequence", 4),  # of TCP
    ("payload", 4),  # bytes of TCP's
    ("stream", 1),  # requests of the connection are judged; 1 + the direction of its first packet once that is known
    ("audit_stream", 1),
    ("answers", 1),  # it may have an answer of a server, to a stream whose cookie stands in `best`
    ("streams_only", 1),  # at a cgroup whose endpoint is judged at its interface: only whether the stream is seen
    ("payload_at", 4),  # where in the buffer TCP's payload begins
    ("seen", 1),  # Saw: why its stream is not seen
    ("pad", 7),
]


class Flag:
    """Bits of `flags`."""

    MALFORMED = 1
    FIRST_FRAGMENT = 2
    LATER_FRAGMENT = 4
    QUOTES = 8  # an ICMP error whose quoted packet was understood
    EXEMPT = 16  # neighbour discovery or MLD
    NO_ADDRESSES = 32  # malformed before its addresses
    LATER_UNKNOWN = 64  # a later IPv6 fragment whose protocol only its first tells
    UNKNOWN = 128  # the connection table need not be asked: it was and has no entry of its tuple, or a new connection is opened
    UPLINK = 256  # at an attach point without an endpoint of its own
    JUDGED = 512  # by itself, not as part of a known connection: what audit would change is told
    PEER_SKIPPED = 1024  # no verdict depends on who the peer is; an event asks
    AUDIT = 2048  # ConfigFlag bits
    NONE_BOUND = 4096
    TOLD = 8192  # why the packet is denied has been reported


CONFIG_FLAGS_SHIFT = 11  # of config.flags in `flags`
EVENTS_SHIFT = 14  # of config.events, above the Flag bits
assert Flag.AUDIT == ConfigFlag.AUDIT << CONFIG_FLAGS_SHIFT
assert Flag.NONE_BOUND == ConfigFlag.NONE_BOUND << CONFIG_FLAGS_SHIFT

OFFSET: dict[str, int] = {}
_size = 0
for _name, _bytes in _FIELDS:
    assert _name == "pad" or _size % min(_bytes, 8) == 0, _name
    OFFSET[_name] = _size
    _size += _bytes
SIZE = _size
assert SIZE % 8 == 0

SCRATCH, SCRATCH_SIZE = OFFSET["best"], OFFSET["icmp"] - OFFSET["best"]

_TYPES = {1: I8, 2: I16, 4: I32, 8: I64}
_WIDTH = dict(_FIELDS)


class Flow:
    """Typed access to the record at `pointer`."""

    def __init__(self, f: Function, pointer: Value) -> None:
        self.f, self.pointer = f, pointer

    def get(self, name: str) -> Value:
        return self.f.load(self.pointer, _TYPES[_WIDTH[name]], OFFSET[name])

    def set(self, name: str, value: Value) -> None:
        self.f.store(self.pointer, value, _TYPES[_WIDTH[name]], OFFSET[name])

    def address(self, name: str) -> Value:
        """Where the field stands."""
        return self.f.at_offset(self.pointer, OFFSET[name])

    def settle(self, verdict: int, reason: Value, rank: Value = NO_RULE) -> None:
        """One outcome, enforced and prospective alike."""
        for prefix in ("", "audit_"):
            self.set(prefix + "verdict", verdict)
            self.set(prefix + "reason", reason)
            self.set(prefix + "rank", rank)
        self.set("log", 0)

    def raise_flag(self, bits: int) -> None:
        self.set("flags", self.f.or_(self.get("flags"), bits))

    def drop_flag(self, bits: int) -> None:
        self.set("flags", self.f.and_(self.get("flags"), 0xFFFF ^ bits))

    def has_flag(self, bits: int) -> Value:
        return self.f.bits(self.get("flags"), bits)

    def forget_packet(self) -> None:
        """Takes back what direct.read filled in."""
        for name in ("local", "remote"):
            self.f.zero(self.address(name), 16)
        for name in (
            "local_port", "remote_port", "key", "length", "family", "protocol", "tcp_flags", "sequence", "payload",
        ):  # fmt: skip
            self.set(name, 0)

    def events(self) -> Value:
        """layout.Events (i16) of the load."""
        return self.f.shr(self.get("flags"), EVENTS_SHIFT)

    def copy_address(self, to: str, from_: str) -> None:
        self.f.copy(self.pointer, OFFSET[to], self.pointer, OFFSET[from_], 16)


def debug_type(debug: DebugInfo) -> Any:
    """Pointer to the record, whose size the kernel checks a caller's memory against."""
    return debug.pointer(debug.struct("flow", [("bytes", debug.array(debug.u8, SIZE, 8), 0, SIZE)], SIZE))


def new_flow(f: Function) -> Flow:
    pointer = f.slot(ir.ArrayType(I8, SIZE), "flow")
    f.zero(pointer, SIZE)
    return Flow(f, pointer)
