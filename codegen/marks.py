"""Marks: which connections' streams are judged, by the connection table's key. The packet programs let the payload of a connection whose requests must be
judged pass only where it has one; so whatever keeps a socket from being taken over ends in denied packets."""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from policyc.artifact.layout import CT6_KEY, CtFlag, Hook, Reason
from policyc.artifact.stream_layout import MARK, MARK_POISONED
from policyc.codegen.flow import Flag, Flow
from policyc.codegen.function import I8, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.parse import TCP
from policyc.codegen.records import CT_FLAGS, MARK_COOKIE, MARK_DIRECTION, MARK_FLAGS, MARK_SENT
from policyc.codegen.stream import OFFSET, Mode, State, Stream, Told
from policyc.model import Direction

NO_EXIST = 1
TCP_FIN, TCP_FIN_SYN_RST, TCP_URG = 1, 1 | 2 | 4, 32


def _key(f: Function, s: Stream, family: int) -> Value:
    """The connection's key (layout.CT4_KEY, CT6_KEY) on the stack."""
    size, step = (4, I32) if family == 4 else (16, I64)
    key = f.shared_slot(ir.ArrayType(I8, CT6_KEY.size), "mark_key")
    f.copy(key, 0, s.pointer, OFFSET["local"], size, step)
    f.copy(key, size, s.pointer, OFFSET["remote"], size, step)
    f.copy(key, 2 * size, s.pointer, OFFSET["local_port"], 4, I32)
    f.store(key, f.or_(f.shl(s.get("subject"), 8), TCP), offset=2 * size + 4)
    return key


def by_family(f: Function, s: Stream, use: Callable[[int, Value], None], of: Value | None = None) -> None:
    """`use(family, key)` for the stream's family, or the one given."""
    with f.if_else(f.eq(s.get("family") if of is None else of, 4)) as branches:
        for branch, family in zip(branches, (4, 6), strict=True):
            with branch:
                use(family, _key(f, s, family))


def poison_mark(f: Function, maps: Maps, s: Stream) -> None:
    """Packet programs see to it that the connection ends, and its socket's program that it closes. Once a stream."""
    count_to_close(f, maps, 1)

    def mark(family: int, key: Value) -> None:
        found = f.lookup(maps[f"marks{family}"], key)
        with f.if_(f.not_null(found)):
            f.set_bits(found, I32(MARK_POISONED), MARK_FLAGS)
        entry = f.lookup(maps[f"ct{family}"], key)
        with f.if_(f.not_null(entry)):
            word = CT_FLAGS & ~3
            f.set_bits(entry, I32(CtFlag.CLOSING << 8 * (CT_FLAGS - word)), word)

    by_family(f, s, mark)


def count_to_close(f: Function, maps: Maps, amount: int) -> None:
    """Of denied streams, those whose sockets have not been told to close: as long as there is none their programs need not ask."""
    number = f.lookup_index(maps["to_close"], 0)
    with f.if_(f.not_null(number)):
        f.count(number, 0, amount)


def make_mark(f: Function, maps: Maps, s: Stream, cookie: Value) -> Value:
    """Marks the connection with its socket's cookie (i64): 0 (i64), or what the update failed with."""
    value = f.slot(ir.ArrayType(I8, MARK.size), "mark")
    f.store(value, cookie, offset=MARK_COOKIE)
    f.store(value, f.to(s.get("direction"), I32), offset=MARK_DIRECTION)
    for offset in range(MARK_FLAGS, MARK.size, 4):
        f.store(value, 0, I32, offset)
    failed = f.var(0, I64)

    def update(family: int, key: Value) -> None:
        failed.set(f.helper(Helper.MAP_UPDATE, maps[f"marks{family}"], key, value, NO_EXIST))

    by_family(f, s, update)
    return failed.get()


def note_sent(f: Function, maps: Maps, s: Stream, sequence: Value) -> None:
    """What a server is about to send begins at `sequence`; from now on packet programs follow it."""

    def note(family: int, key: Value) -> None:
        found = f.lookup(maps[f"marks{family}"], key)
        with f.if_(f.not_null(found)):
            f.store(found, sequence, offset=MARK_SENT)

    by_family(f, s, note)


def remove_mark(f: Function, maps: Maps, s: Stream) -> None:
    def delete(family: int, key: Value) -> None:
        f.helper(Helper.MAP_DELETE, maps[f"marks{family}"], key)

    by_family(f, s, delete)


def expect(f: Function, maps: Maps, s: Stream, family: Value) -> None:
    """Of a record only the ends and the subject are there."""
    value = f.slot(I32, "expected", align=4)
    f.store(value, 1, I32)

    def update(number: int, key: Value) -> None:
        f.helper(Helper.MAP_UPDATE, maps[f"expected{number}"], key, value, 0)

    by_family(f, s, update, family)


def not_expected(f: Function, maps: Maps, s: Stream) -> None:
    def delete(family: int, key: Value) -> None:
        f.helper(Helper.MAP_DELETE, maps[f"expected{family}"], key)

    by_family(f, s, delete)


def gate(f: Function, maps: Maps, flow: Flow, key: Value) -> None:
    """Denies a packet of an allowed connection whose requests must be judged (`flow.stream`) unless its stream is seen. `key`: the packet's, in the
    table of its family."""
    denied = f.b.append_basic_block("not_seen")
    done = f.b.append_basic_block("gated")
    with f.if_(f.either(f.eq(flow.get("stream"), 0), f.eq(flow.get("verdict"), 0), flow.has_flag(Flag.AUDIT))):
        f.leave(done)
    payload = flow.get("payload")
    direction = f.sub(f.to(flow.get("stream"), I32), 1)
    mark = _find(f, maps, flow, key)
    seen = f.var(0, I8)
    with f.if_(f.not_null(mark)), f.if_(f.eq(f.load(mark, I32, MARK_DIRECTION), direction)):
        seen.set(1)
    with f.if_(f.eq(seen.get(), 0)):
        with f.if_(f.ne(payload, 0)):
            _expected(f, maps, flow, key, direction, done)
            f.leave(denied)
        f.leave(done)
    with f.if_(f.is_null(mark)):  # the verifier does not know what `seen` says
        f.leave(denied)
    judged_way = f.eq(f.to(flow.get("direction"), I32), direction)
    with f.if_(f.both(f.not_(judged_way), f.ne(payload, 0))):
        _is_answer(f, flow, mark)
    flags = flow.get("tcp_flags")
    with f.if_(f.both(judged_way, f.ne(payload, 0), f.bits(flags, TCP_URG))):
        f.leave(denied)  # the program would see one byte more than who reads
    with f.if_(f.both(judged_way, f.eq(direction, int(Direction.EGRESS)), f.ne(payload, 0))):
        _within_ledger(f, maps, flow, mark, denied)
    with f.if_(f.both(judged_way, f.bits(flags, TCP_FIN))):
        _ends_in_head(f, maps, flow, mark, done)
    with f.if_(f.bits(f.load(mark, I32, MARK_FLAGS), MARK_POISONED)):
        _closing(f, maps, flow, mark, judged_way, done)
    f.leave(done)
    f.b.position_at_end(denied)
    flow.settle(0, int(Reason.L7_NOT_SEEN))
    f.leave(done)
    f.b.position_at_end(done)


def _expected(f: Function, maps: Maps, flow: Flow, key: Value, direction: Value, done: ir.Block) -> None:
    """At a device a connection's first payload may come before its socket is taken over behind it. It passes if a judged listener was asked for
    the connection; at the listener's cgroup it is asked for its mark (`streams_only`)."""
    arrives = f.both(f.eq(f.to(flow.get("direction"), I32), direction), f.eq(direction, int(Direction.INGRESS)))
    at_cgroup = f.either(*(f.eq(flow.get("hook"), int(h)) for h in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS)))
    with f.if_(f.both(arrives, f.not_(at_cgroup))):
        for family in (4, 6):
            with f.if_(f.eq(flow.get("family"), family)):
                expected = f.lookup(maps[f"expected{family}"], key)
                with f.if_(f.not_null(expected)):
                    f.leave(done)


def pass_known(f: Function, maps: Maps, flow: Flow, key: Value, direction: Value, unknown: ir.Block) -> None:
    """The same for payload of a known connection in whose `direction` (i8) requests travel; leaves to `unknown` unless it passes."""
    mark = _find(f, maps, flow, key)
    with f.if_(f.is_null(mark)):
        f.leave(unknown)
    with f.if_(
        f.either(f.ne(f.load(mark, I32, MARK_DIRECTION), f.to(direction, I32)), f.ne(f.load(mark, I32, MARK_FLAGS), 0))
    ):
        f.leave(unknown)
    with f.if_else(f.eq(flow.get("direction"), direction)) as (judged_way, answer):
        with judged_way:
            with f.if_(f.bits(flow.get("tcp_flags"), TCP_URG)):
                f.leave(unknown)
            with f.if_(f.eq(direction, int(Direction.EGRESS))):
                _within_ledger(f, maps, flow, mark, unknown)
        with answer:
            _has_answers(f, flow, mark)


def _find(f: Function, maps: Maps, flow: Flow, key: Value) -> Value:
    """The mark with the packet's key in the table of its family, or null."""
    found: list[tuple[Value, ir.Block]] = []
    with f.if_else(f.eq(flow.get("family"), 4)) as branches:
        for branch, family in zip(branches, (4, 6), strict=True):
            with branch:
                found.append((f.lookup(maps[f"marks{family}"], key), f.b.block))
    mark = f.b.phi(PTR)
    for value, block in found:
        mark.add_incoming(value, block)
    return mark


def _has_answers(f: Function, flow: Flow, mark: Value) -> None:
    flow.set("answers", 1)
    flow.set("best", f.load(mark, I64, MARK_COOKIE))


def _is_answer(f: Function, flow: Flow, mark: Value) -> None:
    _has_answers(f, flow, mark)
    ends = f.add(flow.get("sequence"), flow.get("payload"))
    with f.if_(f.b.icmp_signed(">", f.sub(ends, f.load(mark, I32, MARK_SENT)), I32(0))):  # not sent again
        f.store(mark, ends, offset=MARK_SENT)


def _within_ledger(f: Function, maps: Maps, flow: Flow, mark: Value, denied: ir.Block) -> None:
    """A client's payload passes up to as many bytes as were approved when it sent them; those are not counted where nothing is judged any more."""
    with f.if_(f.not_(is_within_ledger(f, flow, _stream(f, maps, mark, denied)))):
        f.leave(denied)


def is_within_ledger(f: Function, flow: Flow, s: Stream) -> Value:
    """Whether a client's stream was approved up to the packet's end."""
    end = f.sub(f.add(flow.get("sequence"), flow.get("payload")), s.get("base"))
    approved = f.b.icmp_signed(">=", f.sub(f.to(s.get("approved"), I32), end), I32(0))
    return f.either(f.eq(s.get("mode"), Mode.OPAQUE), approved)


def _stream(f: Function, maps: Maps, mark: Value, without: ir.Block) -> Stream:
    """The record of a mark's stream; leaves to `without` where there is none."""
    cookie = f.shared_slot(I64, "mark_cookie")
    f.store(cookie, f.load(mark, I64, MARK_COOKIE))
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.leave(without)
    return Stream(f, pointer)


def _ends_in_head(f: Function, maps: Maps, flow: Flow, mark: Value, done: ir.Block) -> None:
    """Some servers take the end of a stream for the end of a head. The program that judges what comes with a client's FIN, or before it, is told of that; what leaves a
    judged client has been judged, so there the FIN itself is kept back from a server that has a part of a head."""
    s = _stream(f, maps, mark, done)
    s.raise_("told", Told.ENDED)
    with f.if_else(f.eq(flow.get("direction"), int(Direction.INGRESS))) as (arrives, leaves):
        with arrives:
            s.set("approved", f.to(f.add(flow.get("sequence"), flow.get("payload")), I64))
        with leaves:
            denied = s.has("state", State.POISONED)
            has_part = f.either(f.both(denied, f.ne(s.get("carried"), 0)), f.both(f.not_(denied), s.within_head()))
            with f.if_(has_part):
                flow.settle(0, int(Reason.L7_MALFORMED))
                with f.if_(denied):
                    flow.raise_flag(Flag.TOLD)
                f.leave(done)


def _closing(f: Function, maps: Maps, flow: Flow, mark: Value, judged_way: Value, done: ir.Block) -> None:
    """Of a connection that is to end, the judged socket's keepalive probes are kept back: bare acknowledgements of the byte before the next. Without an
    answer it gives up."""
    bare = f.both(f.eq(flow.get("payload"), 0), f.not_(f.bits(flow.get("tcp_flags"), TCP_FIN_SYN_RST)))
    leaves = f.eq(flow.get("direction"), int(Direction.EGRESS))
    with f.if_(f.both(bare, leaves)):
        following = f.var(f.load(mark, I32, MARK_SENT))
        with f.if_(judged_way):
            s = _stream(f, maps, mark, done)
            following.set(f.add(s.get("base"), f.to(s.get("approved"), I32)))
        with f.if_(f.eq(f.add(flow.get("sequence"), 1), following.get())):
            flow.settle(0, int(Reason.L7_NOT_SEEN))
            flow.raise_flag(Flag.TOLD)
    # What a server's socket were given now would wake who reads, for nothing.
    with f.if_(f.both(judged_way, f.not_(leaves), f.ne(flow.get("payload"), 0))):
        flow.settle(0, int(Reason.L7_NOT_SEEN))
        flow.raise_flag(Flag.TOLD)
