"""Byte layouts shared by the compiled programs and whoever fills their maps. The one place where they live.

All integers are little-endian unless marked *network*: then they stand as in the packet. Sizes are bytes. The same
layouts in prose, with the order in which the maps are filled: docs/artifact.md.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from enum import IntEnum


class State(IntEnum):
    """`config.state` and, with the slots, the value of `switch`."""

    NOT_READY = 0  # deny everything
    DORMANT = 1  # pass everything
    ACTIVE = 2  # config: judge. switch: judge with generation slot 0
    ACTIVE_1 = 3  # switch only: judge with generation slot 1


class Events(IntEnum):
    """`config.events`: what is reported besides rules and defaults that say `log`."""

    NONE = 0
    DENIED = 1
    ALL = 2
    TRACE = 3  # every packet, without rate limit


class ConfigFlag(IntEnum):
    AUDIT = 1  # the whole load only reports
    NONE_BOUND = 2  # no endpoint has the flag BOUND: an uplink need not ask whose a packet claims to be


class PointKind(IntEnum):
    WORKLOAD = 1  # the host's end of a workload's link, or its cgroup
    UPLINK = 2


class CgroupKind(IntEnum):
    JUDGE = 1
    STREAMS_ONLY = 2  # the endpoint is judged at its interface


class EndpointFlag(IntEnum):
    BOUND = 1  # has an attach point of its own on this machine: uplinks do not judge it
    ADDRESSES = 2  # has registered addresses
    OWN_NETNS = 4  # lives in a network namespace of its own: its loopback is not judged


class IdentityFlag(IntEnum):
    SELECTED = 1  # some enforced policy selects it
    SELECTED_AUDIT = 2  # some policy, enforced or audited, selects it


class Reason(IntEnum):
    """Why a packet was judged as it was; the words are the contract (`Reason.word`)."""

    NONE = 0  # not judged: not IP, neighbour discovery, MLD, loopback, dormant
    RULE = 1
    DEFAULT = 2
    NO_POLICY = 3
    NO_SUBJECT = 4
    UNREGISTERED = 5
    SPOOFED_SOURCE = 6
    ESTABLISHED = 7
    RELATED = 8
    L7_ENTRY = 9
    L7_NO_ENTRY = 10
    L7_MALFORMED = 11
    L7_NOT_SEEN = 12
    FRAGMENT = 13
    MALFORMED = 14
    TABLE_FULL = 15
    NOT_READY = 16

    @property
    def word(self) -> str:
        return self.name.lower().replace("_", "-")


class Hook(IntEnum):
    """The programs. Function names in the object are `policyc_` + the lower-case name."""

    TC_INGRESS = 0
    TC_EGRESS = 1
    CGROUP_INGRESS = 2
    CGROUP_EGRESS = 3
    XDP_INGRESS = 4


HOOK_SECTIONS = {
    Hook.TC_INGRESS: "tc",
    Hook.TC_EGRESS: "tc",
    Hook.CGROUP_INGRESS: "cgroup_skb/ingress",
    Hook.CGROUP_EGRESS: "cgroup_skb/egress",
    Hook.XDP_INGRESS: "xdp.frags",
}
# Beside each `policyc_HOOK` stands `enter_HOOK`, the constant entry program: it reads `switch` and tail-calls
# `next_HOOK[slot]` (slot 0 or 1), denies if that fails.
ENTRY_PREFIX, PROGRAM_PREFIX, NEXT_PREFIX = "enter_", "policyc_", "next_"

HOST_ENDPOINT = 1  # index of the record of `host`; 0 is nobody, endpoints begin at 2
NO_RULE = 0xFFFFFFFF

# state, generation (1 to LAST_GENERATION), events, flags, cgroup_levels, number of the load, address of the kernel's WAKES (0: not known)
CONFIG = struct.Struct("<6IQ")
WAKES = "woken_wake_function"  # what wakes a thread that is blocked in a read
LAST_GENERATION = (1 << 31) - 1  # then 1 again
POINT_KEY = struct.Struct("<I")  # ifindex
POINT = struct.Struct("<II")  # PointKind, endpoint index (0: none registered yet -> `unregistered`)
CGROUP_KEY = struct.Struct("<Q")  # cgroup id
CGROUP = struct.Struct("<II")  # CgroupKind, endpoint index
IPCACHE4_KEY = struct.Struct("4s")  # network
IPCACHE6_KEY = struct.Struct("16s")  # network
IPCACHE = struct.Struct("<I")  # endpoint index; HOST_ENDPOINT for an address of this machine
# identity slot (0: nobody), EndpointFlag bits; one 8-byte aligned word, written at once
ENDPOINT = struct.Struct("<II")
# local address, remote address, local port, remote port (network), subject<<8 | protocol
CT4_KEY = struct.Struct("<4s4s2s2sI")
CT6_KEY = struct.Struct("<16s16s2s2sI")
# generation, rule rank + 1, last seen (units of 2**30 ns), Direction, CtFlag bits, icmp type<<8|code; then by Direction the
# generation under which a packet that travels so was last let through as one of this connection, addresses checked and all, in
# the top bit: at an uplink
CT = struct.Struct("<IIIBBHII")
# `recent`: buckets of slots of a u64, which only programs read and write (codegen/recent.py). `recent_keys`: random numbers that the
# loader draws, the first not 0; as long as it is, `recent` is not used.
RECENT_BUCKETS, RECENT_SLOTS, RECENT_KEYS = 1 << 14, 8, 26
NEAR_SLOTS = 256  # of `near_points`, `near_owners4`, `near_owners6` (codegen/near.py)
RECENT_KEYS_VALUE = struct.Struct(
    f"<{RECENT_KEYS + 1}Q"
)  # the keys, then a number that programs count up: all of `recent` is void
# source, destination (IPv4: 4 bytes, then zeros), id (network), subject<<9 | Direction<<8 | protocol (0 for IPv6)
FRAG_KEY = struct.Struct("<16s16sII")
FRAG = struct.Struct("<IIIBBH")  # generation, rule rank + 1, last seen, verdict, Reason, 0
DENIAL_KEY = struct.Struct("<16s16s2s2sII")  # local, remote, local port, remote port, subject<<8 | protocol, Direction
DENIAL = struct.Struct("<QII")  # time of the last event (ns), denied since without an event, 0
COUNTER = struct.Struct("<3Q")  # packets, bytes, connections; one a CPU
REASON_COUNTER = struct.Struct("<2Q")  # packets, bytes; one a CPU
SWITCH = struct.Struct("<I")  # State


class CtFlag(IntEnum):
    FIN = 1  # FIN seen in the direction of the first packet
    FIN_REPLY = 2
    RST = 4
    REPLY = 8  # a reply was seen
    DENIED = 16  # judged again and no longer allowed
    REMEMBERED = 32  # `recent` may answer for it
    STREAM = 64  # its requests are judged: payload passes only while its stream is seen
    CLOSING = 128  # a request was denied: the connection is being closed


# Idle times in units of 2**30 ns (1.07 s).
IDLE_TCP_OPENING, IDLE_TCP, IDLE_CLOSING, IDLE_OTHER, IDLE_FRAGMENT = 60, 7450, 10, 120, 30


def reason_index(direction: int, allowed: bool, reason: int) -> int:
    """Index into `reasons`: direction<<6 | allowed<<5 | reason. 128 entries."""
    return direction << 6 | int(allowed) << 5 | reason


REASON_ENTRIES = 128


NOT_DIFFERENT = 255  # `audit_verdict` and `audit_reason` of an event whose prospective verdict is the enforced one
# One event. direction, hook, verdict (1 allow, 0 deny), reason; then the prospective verdict and reason where audit makes
# them differ (NOT_DIFFERENT where not); class of the peer (PeerClassCode); address family (4, 6); addresses are source and destination as in
# the packet (IPv4: 4 bytes, then zeros), ports network order (icmp: type, code, 0, 0).
EVENT = struct.Struct("<Q 8B III III BB2x 16s 16s 2s2s I 4x")
EVENT_FIELDS = (
    "time_ns", "direction", "hook", "verdict", "reason", "audit_verdict", "audit_reason", "peer_class", "family",
    "rank", "audit_rank", "count",  # rule ranks (NO_RULE); packets this event stands for
    "subject", "peer", "ifindex",  # endpoint indices; device
    "protocol", "seen",  # stream_layout.Saw
    "source", "destination", "source_port", "destination_port", "length",
)  # fmt: skip


class PeerClassCode(IntEnum):
    NONE = 0
    WORLD = 1
    HOST = 2
    ENDPOINT = 3


# IdentityFlag bits, number of peer selectors, 6 numbers of groups
IDENTITY_HEAD = struct.Struct("<8I")


@dataclass(frozen=True)
class IdentityLayout:
    """The value of `identities`, whose size depends on the policy (manifest: `identity_layout`).

    u32 flags (IdentityFlag); u32 number of peer selectors; 6 x u32 number of groups, at [direction * 3 + tier];
    u32 peer_selectors[max_peers], ascending selector indices; u32 groups[6][max_groups], ascending group indices;
    padding to 8; u64 same[keys]: a non-zero number a value of the key, equal for equal values, 0 where the key is absent.
    """

    max_peers: int
    max_groups: int
    same_keys: int

    @property
    def peers_offset(self) -> int:
        return IDENTITY_HEAD.size

    @property
    def groups_offset(self) -> int:
        return self.peers_offset + 4 * self.max_peers

    @property
    def same_offset(self) -> int:
        return (self.groups_offset + 24 * self.max_groups + 7) & ~7

    @property
    def size(self) -> int:
        return self.same_offset + 8 * self.same_keys

    def pack(self, flags: int, peers: list[int], groups: list[list[int]], same: list[int]) -> bytes:
        """`groups` has six lists, at [direction * 3 + tier]. Raises ValueError where one does not fit."""
        if len(peers) > self.max_peers or any(len(g) > self.max_groups for g in groups):
            most = max(len(g) for g in groups)
            raise ValueError(
                f"its labels match {len(peers)} selectors, and {most} subjects of one direction and tier;"
                f" the program has room for {self.max_peers} and {self.max_groups}"
            )
        value = bytearray(self.size)
        IDENTITY_HEAD.pack_into(value, 0, flags, len(peers), *(len(g) for g in groups))
        struct.pack_into(f"<{len(peers)}I", value, self.peers_offset, *peers)
        for i, group in enumerate(groups):
            struct.pack_into(f"<{len(group)}I", value, self.groups_offset + 4 * i * self.max_groups, *group)
        struct.pack_into(f"<{len(same)}Q", value, self.same_offset, *same)
        return bytes(value)


@dataclass(frozen=True)
class MapSpec:
    """A map of the object: its name, kernel type, key and value size and the default number of entries."""

    name: str
    type: str
    key_size: int
    value_size: int
    max_entries: int
    role: str


def map_specs(identity: IdentityLayout, rules: int) -> list[MapSpec]:
    """Every map a program may use, in the order in which a loader fills them. `rules` is the number of rule ranks.

    PROG_ARRAYs (`next_HOOK`, 2 entries) and the read-only data (`.rodata…`, filled by any ELF loader) stand apart."""
    return [
        MapSpec("config", "ARRAY", 4, CONFIG.size, 1, "state, generation and options; written last"),
        MapSpec("points", "HASH", POINT_KEY.size, POINT.size, 1024, "attach point of an interface index"),
        MapSpec("cgroups", "HASH", CGROUP_KEY.size, CGROUP.size, 1024, "endpoint bound to a cgroup id"),
        MapSpec("ipcache4", "HASH", IPCACHE4_KEY.size, IPCACHE.size, 16384, "endpoint index of an IPv4 address"),
        MapSpec("ipcache6", "HASH", IPCACHE6_KEY.size, IPCACHE.size, 16384, "endpoint index of an IPv6 address"),
        MapSpec("endpoints", "ARRAY", 4, ENDPOINT.size, 16384, "identity slot and flags of an endpoint index"),
        MapSpec("identities", "ARRAY", 4, identity.size, 4096, "what an identity slot's labels select"),
        MapSpec("ct4", "LRU_HASH", CT4_KEY.size, CT.size, 65536, "IPv4 connections"),
        MapSpec("ct6", "LRU_HASH", CT6_KEY.size, CT.size, 65536, "IPv6 connections"),
        MapSpec("recent", "ARRAY", 4, 8 * RECENT_SLOTS, RECENT_BUCKETS, "packets of known connections of late"),
        MapSpec("recent_keys", "ARRAY", 4, RECENT_KEYS_VALUE.size, 1, "keys of the hash by which `recent` is searched"),
        MapSpec("near_points", "ARRAY", 4, 16, NEAR_SLOTS, "of `points`, what was asked for of late"),
        MapSpec("near_owners4", "ARRAY", 4, 16, NEAR_SLOTS, "of `ipcache4`, this side's addresses of late"),
        MapSpec("near_owners6", "ARRAY", 4, 24, NEAR_SLOTS, "of `ipcache6`, this side's addresses of late"),
        MapSpec("frags", "LRU_HASH", FRAG_KEY.size, FRAG.size, 4096, "verdicts of first fragments"),
        MapSpec("denials", "LRU_HASH", DENIAL_KEY.size, DENIAL.size, 8192, "rate limit of denial events"),
        MapSpec("counters", "PERCPU_ARRAY", 4, COUNTER.size, max(rules, 1), "per-rule counters, by rank"),
        MapSpec("reasons", "PERCPU_ARRAY", 4, REASON_COUNTER.size, REASON_ENTRIES, "per-reason counters"),
        MapSpec("lost", "PERCPU_ARRAY", 4, 8, 1, "events that found the ring buffer full"),
        MapSpec("events", "RINGBUF", 0, 0, 1 << 20, "events"),
        MapSpec("switch", "ARRAY", 4, SWITCH.size, 1, "entry programs: which generation judges"),
    ]
