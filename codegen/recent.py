"""Recently let-through packets: an array that answers for the connection table, for packets of known connections.

A slot says that a packet of this tuple, arriving at this device and hook, was let through as one of a known connection under the
present generation and in the present tick. So who its ends are, and whether their connection lives, need not be asked: an
inlined array lookup is a fraction of a hash lookup. A tick later the connection table is asked again, which keeps its entry from
idling out.

A slot is one u64, read and written at once, so that it says the truth whatever other CPUs write meanwhile: from the top
fingerprint ^ stamp (of generation and tick), four bits by which slots that answer for nothing any more are
told, the direction and the rule to be counted (rank + 1). The fingerprint is two strongly universal hashes of 32 bits
(Multilinear-HM: Lemire, Kaser, "Strongly universal string hashing is fast", 2014) under keys drawn at load; what of it does not fit
into the slot chooses the bucket. How likely a foreign tuple is taken for a known one: docs/decisions/recent.md. Without keys the array is not used.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from llvmlite import ir

from policyc.artifact.layout import RECENT_BUCKETS, RECENT_KEYS, RECENT_SLOTS, Hook
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import Flow, debug_type
from policyc.codegen.function import I8, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.near import ODD
from policyc.codegen.parse import swap_addresses, swap_ports
from policyc.codegen.report import count_known
from policyc.model import Direction, Span

TICK_JIFFIES = 7  # a tick is 2**7 timer interrupts: 0.13 to 1.3 s
OTHER_ODD = 0xD1B54A32D192ED03
VOIDED = 8 * RECENT_KEYS  # offset in the value of `recent_keys`
SLOT_BYTES = 8
MARK_BITS = 4


@dataclass(frozen=True)
class Slot:
    """Where the parts of a slot stand, for a policy of so many rules."""

    rules: int

    @property
    def direction(self) -> int:
        return self.rules.bit_length()

    @property
    def mark(self) -> int:
        return self.direction + 1

    @property
    def fingerprint(self) -> int:
        return self.mark + MARK_BITS

    def low(self, f: Function, rule: Value, direction: Value, mark: Value) -> Value:
        wide = [f.to(v, I64) for v in (rule, direction, mark)]
        return f.or_(f.or_(wide[0], f.shl(wide[1], self.direction)), f.shl(wide[2], self.mark))


@contextmanager
def _with_keys(f: Function, maps: Maps) -> Iterator[Value]:
    """Emits what follows for the case that there are keys; yields where they stand."""
    keys = f.lookup_index(maps["recent_keys"], 0)
    with f.if_(f.not_null(keys)), f.if_(f.ne(f.load(keys, I64), 0)):
        yield keys


def _fingerprint(f: Function, keys: Value, flow: Flow, family: int, hook: Value) -> Value:
    """Of source, destination, ports, device, hook and protocol, each in 32 bits, of a packet whose record is as if it arrived."""
    fingerprint = f.var(0, I64)
    # In a loop, though it is short: all at once needs more registers than there are, and stack is dear.
    with f.loop(2, 2) as (half, _):
        own = f.at_offset(keys, f.mul(f.to(half, I64), 8 * (RECENT_KEYS // 2)))
        total = f.load(own, I64)
        for number, pair in enumerate(_pairs(f, flow, family, hook)):
            a, b = (f.add(f.to(word, I64), f.load(own, I64, 8 * (1 + 2 * number + i))) for i, word in enumerate(pair))
            total = f.add(total, f.mul(a, b))
        fingerprint.set(f.or_(f.shl(fingerprint.get(), 32), f.shr(total, 32)))
    return fingerprint.get()


def _pairs(f: Function, flow: Flow, family: int, hook: Value) -> Iterator[tuple[Value, Value]]:
    """The words of a fingerprint, two at a time: few are alive at once."""
    for side in ("remote", "local"):
        at = flow.address(side)
        if family == 4:
            yield f.load(at, I32), I32(0) if side == "remote" else flow.get("ifindex")
        else:
            yield from ((f.load(at, I32, n), f.load(at, I32, n + 4)) for n in (0, 8))
    kind = f.or_(f.shl(f.to(hook, I32), 8), f.to(flow.get("protocol"), I32))
    yield f.load(flow.address("local_port"), I32), kind
    if family == 6:
        yield flow.get("ifindex"), I32(1)


def tick(f: Function) -> Value:
    """The present tick (i64, below 2**32): by it what answers for the connection table asks that again now and then."""
    return f.and_(f.shr(f.helper(Helper.JIFFIES64), TICK_JIFFIES), 0xFFFFFFFF)


def _stamp(f: Function, keys: Value, generation: Value) -> Value:
    """Of generation, tick and how often all was made void."""
    when = f.or_(f.shl(f.to(generation, I64), 32), tick(f))
    return f.xor(f.mul(when, ODD), f.mul(f.load(keys, I64, VOIDED), OTHER_ODD))


def void(f: Function, maps: Maps) -> None:
    """Has the array answer for nothing any more: a connection that it may answer for has been replaced. That is rare, and not
    known is by what devices its packets came."""
    keys = f.lookup_index(maps["recent_keys"], 0)
    with f.if_(f.not_null(keys)):
        f.count(keys, VOIDED, 1)


def _mark(f: Function, stamp: Value) -> Value:
    return f.shr(stamp, 64 - MARK_BITS)


def _bucket(f: Function, maps: Maps, fingerprint: Value) -> Value:
    return f.lookup_index(maps["recent"], f.to(f.and_(fingerprint, RECENT_BUCKETS - 1), I32))


def let_through(f: Function, maps: Maps, flow: Flow, hook: Hook, passed: int) -> None:
    """Returns `passed` for a packet that the array answers for, counted; else goes on. The record is as direct.read filled
    it, as if the packet arrived."""
    slot = Slot(maps.rules)
    with _with_keys(f, maps) as keys:
        found: list[tuple[Value, ir.Block]] = []
        with f.if_else(f.eq(flow.get("family"), 4)) as branches:
            for branch, family in zip(branches, (4, 6), strict=True):
                with branch:
                    fingerprint = _fingerprint(f, keys, flow, family, I8(hook))
                    found.append((fingerprint, f.b.block))
        either = f.b.phi(I64)
        for value, block in found:
            either.add_incoming(value, block)
        wanted = f.xor(either, _stamp(f, keys, flow.get("generation")))
        bucket = _bucket(f, maps, either)
        with f.if_(f.not_null(bucket)):
            for way in range(RECENT_SLOTS):
                word = f.load(bucket, I64, way * SLOT_BYTES)
                with f.if_(f.eq(f.shr(f.xor(word, wanted), slot.fingerprint), 0)):
                    _count(f, maps, flow, slot, word)
                    f.ret(passed)


def _count(f: Function, maps: Maps, flow: Flow, slot: Slot, word: Value) -> None:
    rule = f.to(f.and_(word, (1 << slot.direction) - 1), I32)
    direction = f.to(f.and_(f.shr(word, slot.direction), 1), I8)
    count_known(f, maps, flow, direction, rule)


def build(module: ir.Module, debug: DebugInfo, maps: Maps, span: Span) -> ir.Function:
    """remember(flow, rule): enters a packet that the connection table answered for; `rule` is the rank + 1 or 0. Turns the record
    to what it was when the packet was read."""
    f = Function(module, debug, "remember", [("flow", PTR, debug_type(debug)), ("rule", I32, debug.u32)], span)
    slot = Slot(maps.rules)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    flow, rule = Flow(f, f.args[0]), f.args[1]
    direction = flow.get("direction")
    with f.if_(f.eq(direction, int(Direction.EGRESS))):
        swap_addresses(f, flow)
        swap_ports(f, flow)
    with _with_keys(f, maps) as keys:
        stamp = _stamp(f, keys, flow.get("generation"))
        mark = _mark(f, stamp)
        low = slot.low(f, rule, direction, mark)
        with f.if_else(f.eq(flow.get("family"), 4)) as branches:
            for branch, family in zip(branches, (4, 6), strict=True):
                with branch:
                    fingerprint = _fingerprint(f, keys, flow, family, flow.get("hook"))
                    bucket = _bucket(f, maps, fingerprint)
                    high = f.and_(f.xor(fingerprint, stamp), -1 << slot.fingerprint & (1 << 64) - 1)
                    with f.if_(f.not_null(bucket)):
                        way = _free_way(f, bucket, slot, mark, fingerprint)
                        f.store(bucket, f.or_(high, low), offset=f.shl(way, 3))
    return f.close()


def _free_way(f: Function, bucket: Value, slot: Slot, mark: Value, fingerprint: Value) -> Value:
    """A way that answers for nothing now; where each does, any."""
    chosen = f.var(f.and_(f.shr(fingerprint, 40), RECENT_SLOTS - 1))
    for way in range(RECENT_SLOTS):
        there = f.and_(f.shr(f.load(bucket, I64, way * SLOT_BYTES), slot.mark), (1 << MARK_BITS) - 1)
        chosen.set(f.select(f.eq(there, mark), chosen.get(), I64(way)))
    return f.and_(chosen.get(), RECENT_SLOTS - 1)
