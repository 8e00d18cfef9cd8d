"""Packets of known connections, before anything else is asked: one lookup decides, counters are all it leaves.

What it takes is what `judge` would let through as established, and would do nothing more for than count: the entry says
that a packet of this tuple that travelled so was let through whole, addresses checked, under the present generation. Whatever
is not so plain (first packets, SYN, the FIN of who sends requests that are judged, an entry that was quiet for a while, is denied or of an older
generation) takes the long way.
"""

from __future__ import annotations

from llvmlite import ir

from policyc.artifact.layout import IDLE_CLOSING, CtFlag
from policyc.codegen.flow import OFFSET, SCRATCH, Flag, Flow
from policyc.codegen.function import I8, I32, I64, PTR, Function, Value
from policyc.codegen.maps import Maps
from policyc.codegen.marks import pass_known
from policyc.codegen.parse import TCP
from policyc.codegen.records import CT_DIRECTION, CT_FLAGS, CT_GENERATION, CT_RULE, CT_SEEN
from policyc.codegen.report import count_known
from policyc.codegen.state import (
    TCP_FIN,
    TCP_SYN,
    checked_as,
    checked_at,
    mark,
    opens,
    opens_or_closes,
    tcp_marks,
    time_units,
)


def let_through(f: Function, maps: Maps, flow: Flow, unknown: ir.Block, remembers: bool, has_streams: bool) -> Value:
    """Counts the packet as one of a known connection, whose rule's rank + 1 it returns; leaves to `unknown` where it is none.
    The record is that of a TCP or UDP packet (direct.py); where its tuple's entry is not needed or not there it says so (Flag.UNKNOWN).
    `remembers`: `recent` will answer for the next ones, but not where requests are judged, which `flow.stream` says."""
    with f.if_(f.both(f.eq(flow.get("protocol"), TCP), opens(f, flow))):  # whatever is known of its tuple
        flow.raise_flag(Flag.UNKNOWN)
        f.leave(unknown)
    entry = _lookup(f, maps, flow)
    with f.if_(f.is_null(entry)):
        flow.raise_flag(Flag.UNKNOWN)
        f.leave(unknown)
    direction = flow.get("direction")
    with f.if_(f.ne(f.load(entry, I32, checked_at(f, direction)), checked_as(f, flow))):
        f.leave(unknown)
    # Where two loads, or programs of two generations, judge at a time, the other may have judged it again since.
    with f.if_(f.ne(f.load(entry, I32, CT_GENERATION), flow.get("generation"))):
        f.leave(unknown)
    flags = f.load(entry, I8, CT_FLAGS)
    with f.if_(f.bits(flags, CtFlag.DENIED)):
        f.leave(unknown)
    with f.if_(f.bits(flow.get("tcp_flags"), TCP_SYN)):
        f.leave(unknown)
    same = f.eq(f.load(entry, I8, CT_DIRECTION), direction)
    if has_streams:
        with f.if_(f.bits(flags, CtFlag.STREAM)):
            ends = f.both(same, f.bits(flow.get("tcp_flags"), TCP_FIN))
            with f.if_(f.either(ends, f.bits(flags, CtFlag.CLOSING))):
                f.leave(unknown)
            with f.if_(f.ne(flow.get("payload"), 0)):
                key = f.at_offset(flow.pointer, SCRATCH)
                pass_known(f, maps, flow, key, f.load(entry, I8, CT_DIRECTION), unknown)
    now = time_units(f)
    idle = f.sub(now, f.load(entry, I32, CT_SEEN))
    with f.if_(f.ne(idle, 0)):
        # Shorter than any idle time. Another CPU's later time makes it huge: the long way, too.
        with f.if_(f.cmp(">", idle, IDLE_CLOSING)):
            f.leave(unknown)
        f.store(entry, now, offset=CT_SEEN)
    with f.if_(opens_or_closes(f, flow)):
        mark(f, entry, tcp_marks(f, flow, same))
    if has_streams:
        flow.set("stream", f.and_(flags, CtFlag.STREAM))
    if remembers:
        known_already = CtFlag.REMEMBERED | CtFlag.STREAM if has_streams else CtFlag.REMEMBERED
        with f.if_(f.not_(f.bits(flags, known_already))):
            mark(f, entry, I8(CtFlag.REMEMBERED))
    rule = f.load(entry, I32, CT_RULE)
    count_known(f, maps, flow, direction, rule)
    return rule


def _lookup(f: Function, maps: Maps, flow: Flow) -> Value:
    """The entry of the packet's tuple in the table of its family (layout.CT4_KEY, CT6_KEY), or null."""
    key = f.at_offset(flow.pointer, SCRATCH)
    last = f.or_(f.shl(flow.get("subject"), 8), f.to(flow.get("protocol"), I32))
    found: list[tuple[Value, ir.Block]] = []
    with f.if_else(f.eq(flow.get("family"), 4)) as branches:
        for branch, name, size, step in zip(branches, ("ct4", "ct6"), (4, 16), (I32, I64), strict=True):
            with branch:
                f.copy(key, 0, flow.pointer, OFFSET["local"], size, step)
                f.copy(key, size, flow.pointer, OFFSET["remote"], size, step)
                f.copy(key, 2 * size, flow.pointer, OFFSET["local_port"], 4, I32)
                f.store(key, last, offset=2 * size + 4)
                found.append((f.lookup(maps[name], key), f.b.block))
    entry = f.b.phi(PTR)
    for value, block in found:
        entry.add_incoming(value, block)
    return entry
