"""Programs that feed others with packets, and programs of which only a known part is done, as floors.

A *driver* writes the next of many tuples into the packet at hand and tail-calls the program under test, so that each run of it
sees another packet; it writes by direct access, as do all programs here. Behind it stand, by turns and in the same run:

- `empty`: nothing; what the driver itself costs.
- `hand`: the least that reads ports: three bounds, three comparisons.
- `parser`: policyc's own reading of a common packet (`codegen/direct.py`), which fills the record that its functions share.
- `lookup`, `insert`: `hand`, then a bucket of an array like `recent` and the key of a connection in a table like `ct4` looked up, and
  the key entered in that.
"""

from __future__ import annotations

import os
import random
import struct
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from llvmlite import ir

from benchmarks.rulesets import SERVER, Packet
from policyc.artifact.layout import CT, CT4_KEY, RECENT_BUCKETS, RECENT_SLOTS, MapSpec
from policyc.codegen import direct
from policyc.codegen.direct import Context
from policyc.codegen.flow import new_flow
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.near import ODD
from policyc.runtime import testrun
from policyc.runtime.libbpf import lib
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from tests.platform.program import array, loaded, returns

ETHERNET, IPV4 = 14, 20
CHECKSUM, SOURCE, PORTS = 24, 26, 34  # offsets in a frame; the destination follows the source
HEADERS = PORTS + 8
TUPLE = struct.Struct("!4s4sHHH2x")  # source, destination, ports, checksum of the IP header
CURSOR = struct.Struct(
    "<QQQQ"
)  # packets so far, mask of the tuples, log2 of how many packets share source ports, device
SAME_PORTS = 63
PACKETS = 1 << 17  # room for tuples
SECTIONS = {Context.TC: "tc", Context.XDP: "xdp.frags"}
DATA = {Context.TC: (76, 80), Context.XDP: (0, 4)}  # data, data_end in the contexts (linux/bpf.h)
REDIRECT = 23  # helper number
NOT_IP = 0
UDP = 17


def frame(destination: bytes = bytes(6)) -> bytes:
    """60 bytes to the server at `destination`, whose addresses, ports and checksum a driver writes."""
    ip = bytes([0x45, 0, 0, 46, 0, 0, 0, 0, 64, UDP]) + bytes(10)
    return destination + bytes([2, 0, 0, 0, 0, 1]) + b"\x08\x00" + ip + bytes(4) + bytes([0, 26]) + bytes(2 + 18)


def tuples(packets: Sequence[Packet], seed: int = 1, server: int = SERVER, reverse: bool = False) -> list[bytes]:
    """`packets` with random source ports; `reverse`: what the server would send to them."""
    rng = random.Random(seed)
    made = []
    for address, port in packets:
        near, far = server.to_bytes(4), address.to_bytes(4)
        source, destination, ports = far, near, (rng.randrange(1024, 65536), port)
        if reverse:
            source, destination, ports = near, far, (ports[1], ports[0])
        made.append(TUPLE.pack(source, destination, *ports, _checksum(source, destination)))
    return made


def _checksum(source: bytes, destination: bytes) -> int:
    header = frame()[ETHERNET : ETHERNET + 12] + source + destination
    total: int = sum(struct.unpack("!10H", header))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


# --- programs ---------------------------------------------------------------------------------------------------------


def start_of(f: Function, context: Context, size: int) -> Value:
    """Where the packet begins; returns from the program if it has fewer than `size` bytes."""
    data, limit = (f.load(f.args[0], I32, at) for at in DATA[context])
    start = f.b.inttoptr(f.to(data, I64), PTR)
    with f.if_(f.cmp(">", f.b.ptrtoint(f.at_offset(start, size), I64), f.to(limit, I64))):
        f.ret(NOT_IP)
    return start


def write_next(f: Function, maps: Mapping[str, Value], context: Context) -> Value:
    """Writes the next tuple into the packet. The cursor."""
    cursor = f.lookup_index(maps["cursor"], 0)
    with f.if_(f.is_null(cursor)):
        f.ret(NOT_IP)
    count = f.load(cursor, I64)
    f.store(cursor, f.add(count, 1))
    tuple_ = f.lookup_index(maps["tuples"], f.to(f.and_(count, f.load(cursor, I64, 8)), I32))
    with f.if_(f.is_null(tuple_)):
        f.ret(NOT_IP)
    start = start_of(f, context, HEADERS)
    for at in (0, 4):
        f.store(start, f.load(tuple_, I32, at), offset=SOURCE + at)
    lap = f.to(f.shr(count, f.load(cursor, I64, 16)), I16)
    f.store(start, f.xor(f.load(tuple_, I16, 8), lap), offset=PORTS)
    f.store(start, f.load(tuple_, I16, 10), offset=PORTS + 2)
    f.store(start, f.load(tuple_, I16, 12), offset=CHECKSUM)
    return cursor


def drive(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    write_next(f, maps, context)
    f.helper(Helper.TAIL_CALL, f.args[0], maps[f"target_{context.value}"], I32(0))


def flood(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    """Sends the packet into a device instead."""
    cursor = write_next(f, maps, context)
    device = f.load(cursor, I64, 24)
    f.ret(f.to(f.helper(REDIRECT, f.to(device, I32), 0), I32))  # type: ignore[arg-type]


def parse_by_hand(f: Function, context: Context) -> Value:
    start = start_of(f, context, HEADERS)
    udp4 = f.both(
        f.eq(f.load(start, I16, 12), 0x0008),
        f.eq(f.to(f.load(start, I16, ETHERNET), I32), 0x0045),  # no options; the type of service is 0
        f.eq(f.and_(f.load(start, I16, ETHERNET + 8), 0xFF00), UDP << 8),
    )
    with f.if_(f.not_(udp4)):
        f.ret(NOT_IP)
    return start


def hand(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    start = parse_by_hand(f, context)
    read = [f.load(start, I32, at) for at in (SOURCE, SOURCE + 4, PORTS)]
    f.ret(f.xor(f.xor(read[0], read[1]), read[2]))


def parser(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    flow = new_flow(f)
    is_common = direct.read(f, context, f.args[0], flow, False)
    # No instruction: memory that nobody reads would not be written.
    f.b.asm(ir.FunctionType(ir.VoidType(), [PTR]), "", "r,~{memory}", [flow.pointer], True)
    f.ret(f.to(is_common, I32))


def lookup(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    connection(f, maps, context)


def insert(f: Function, maps: Mapping[str, Value], context: Context) -> None:
    key = connection(f, maps, context)
    value = f.slot(_bytes(CT.size), "value")
    f.zero(value, CT.size)
    f.helper(Helper.MAP_UPDATE, maps["connections"], key, value, 0)


def connection(f: Function, maps: Mapping[str, Value], context: Context) -> Value:
    """Looks up the packet's connection, as a key of CT4_KEY. The key."""
    start = parse_by_hand(f, context)
    key = f.slot(_bytes(CT4_KEY.size), "key")
    for at, offset in ((0, SOURCE + 4), (4, SOURCE), (8, PORTS)):
        f.store(key, f.load(start, I32, offset), offset=at)
    f.store(key, 2 << 8 | UDP, I32, 12)
    _bucket(f, maps, key)
    f.lookup(maps["connections"], key)
    return key


def _bucket(f: Function, maps: Mapping[str, Value], key: Value) -> None:
    """Compares the slots of a bucket that the key chooses with the key's hash; none is equal."""
    hash_ = f.mul(f.xor(f.mul(f.load(key, I64), ODD), f.load(key, I64, 8)), ODD)
    bucket = f.lookup_index(maps["recent"], f.to(f.shr(hash_, 64 - (RECENT_BUCKETS - 1).bit_length()), I32))
    with f.if_(f.is_null(bucket)):
        f.ret(NOT_IP)
    for slot in range(RECENT_SLOTS):
        with f.if_(f.eq(f.load(bucket, I64, 8 * slot), f.or_(hash_, 1))):
            f.ret(NOT_IP)


def _bytes(size: int) -> Any:
    return ir.ArrayType(I8, size)


PROGRAMS = {"drive": drive, "hand": hand, "parser": parser, "lookup": lookup, "insert": insert}
FLOORS = ("empty", "hand", "parser")


class Driver:
    """The programs of one context, loaded, and their maps. It owns nothing: see `drivers`."""

    def __init__(self, made: Object, context: Context) -> None:
        self._made, self.context = made, context
        self.floors = {name: self._fd(name) for name in (*FLOORS, "lookup", "insert")}
        self._drive = self._fd("drive")

    def _fd(self, name: str) -> int:
        return self._made.program_fd(f"{name}_{self.context.value}")

    def run(self, program: int, repeat: int, device: int) -> int:
        """ns a packet that arrives at `device`, the driver's own included."""
        self._made_update(f"target_{self.context.value}", program.to_bytes(4, "little"))
        test = testrun.run_xdp if self.context is Context.XDP else testrun.run_skb
        return test(self._drive, frame(), ifindex=device, repeat=repeat).duration_ns

    def feed(self, entries: Sequence[bytes], new_ports: bool) -> None:
        """The tuples to go through, as many as a power of two. With `new_ports` each lap has source ports of its own, so that
        every packet is the first of its connection."""
        assert len(entries) & len(entries) - 1 == 0
        table = Map(os.dup(self._made.map_fd("tuples")), "tuples")
        table.update_many([(n.to_bytes(4, "little"), entry) for n, entry in enumerate(entries)])
        table.close()
        shift = len(entries).bit_length() - 1 if new_ports else SAME_PORTS
        self._made_update("cursor", CURSOR.pack(0, len(entries) - 1, shift, 0))

    def _made_update(self, name: str, value: bytes) -> None:
        assert lib().bpf_map_update_elem(self._made.map_fd(name), bytes(4), value, 0) == 0


@contextmanager
def drivers(connections: int) -> Iterator[dict[Context, Driver]]:
    """For both contexts. `connections`: entries of the table that `lookup` and `insert` use."""
    maps = [
        array("cursor", CURSOR.size, 1),
        array("tuples", TUPLE.size, PACKETS),
        array("recent", 8 * RECENT_SLOTS, RECENT_BUCKETS),
        MapSpec("connections", "LRU_HASH", CT4_KEY.size, CT.size, connections, ""),
        *(MapSpec(f"target_{context.value}", "PROG_ARRAY", 4, 4, 1, "") for context in SECTIONS),
    ]
    programs = {}
    for context, section in SECTIONS.items():
        programs[section, f"empty_{context.value}"] = returns(NOT_IP)
        for name, body in PROGRAMS.items():
            programs[section, f"{name}_{context.value}"] = _bound(body, context)
    with loaded(programs, maps) as made:
        yield {context: Driver(made, context) for context in SECTIONS}


def _bound(body: Any, context: Context) -> Any:
    return lambda f, maps: body(f, maps, context)
