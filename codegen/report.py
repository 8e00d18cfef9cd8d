"""Counters and events: what every verdict leaves behind."""

from __future__ import annotations

from llvmlite import ir

from policyc.artifact.layout import (
    DENIAL,
    DENIAL_KEY,
    EVENT,
    NO_RULE,
    NOT_DIFFERENT,
    REASON_ENTRIES,
    Events,
    Reason,
)
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import OFFSET, Flag, Flow, debug_type
from policyc.codegen.function import I8, I32, I64, PTR, Function, Helper, Value, Var
from policyc.codegen.maps import Maps
from policyc.codegen.parse import ICMP, ICMPV6, is_one_of
from policyc.codegen.peer import set_peer
from policyc.codegen.records import (
    COUNTER_BYTES,
    COUNTER_CONNECTIONS,
    COUNTER_PACKETS,
    DENIAL_COUNT,
    DENIAL_KEY_ADDRESSES,
    DENIAL_KEY_DIRECTION,
    DENIAL_KEY_PORTS,
    DENIAL_KEY_SUBJECT,
    DENIAL_TIME,
    EVENT_OFFSETS,
    REASON_BYTES,
    REASON_PACKETS,
)
from policyc.model import Direction, Span

SECOND_NS = 1_000_000_000


def build(module: ir.Module, debug: DebugInfo, maps: Maps, span: Span) -> ir.Function:
    """report(flow): emits an event where one is due."""
    f = Function(module, debug, "report", [("flow", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    flow = Flow(f, f.args[0])
    suppressed = f.var(0, I32)
    with f.if_(flow.has_flag(Flag.PEER_SKIPPED)):
        set_peer(f, maps, flow, f.slot(ir.ArrayType(I8, 16)))
    with f.if_(_is_due(f, maps, flow, flow.events(), suppressed)):
        _emit(f, maps, flow, suppressed)
    return f.close()


def leave_behind(f: Function, maps: Maps, flow: Flow, report: ir.Function, connections: bool) -> None:
    """Counts the packet (and the `connections` that packets open) and calls `report` where there may be an event; a call costs more than to see that there is none."""
    rank, length = flow.get("rank"), f.to(flow.get("length"), I64)
    with f.if_(f.ne(rank, NO_RULE)):
        count_rule(f, maps, rank, length, flow.get("connection") if connections else None)
    verdict = flow.get("verdict")
    count_reason(f, maps, flow.get("direction"), verdict, flow.get("reason"), length)
    wanted = flow.events()
    denied = f.both(f.eq(verdict, 0), f.cmp(">=", wanted, int(Events.DENIED)), f.not_(flow.has_flag(Flag.TOLD)))
    differs = f.ne(verdict, flow.get("audit_verdict"))
    with f.if_(f.either(f.cmp(">=", wanted, int(Events.ALL)), denied, differs, f.ne(flow.get("log"), 0))):
        f.call(report, flow.pointer)


def audit_load(f: Function, flow: Flow) -> None:
    """Where the whole load only reports, everything passes; the prospective outcome, with all that is audited in force, stays."""
    with f.if_(flow.has_flag(Flag.AUDIT)):
        flow.set("verdict", 1)
        flow.set("reason", int(Reason.NO_POLICY))
        flow.set("rank", NO_RULE)
        flow.set("log", 0)


def count_rule(f: Function, maps: Maps, rank: Value, length: Value, connection: Value | None = None) -> None:
    """A packet of `length` bytes (i64) that the rule decided; `connection` (i8): 1 if it opened one."""
    counter = f.lookup_index(maps["counters"], rank)
    with f.if_(f.not_null(counter)):
        f.add_to(counter, I64(1), COUNTER_PACKETS)
        f.add_to(counter, length, COUNTER_BYTES)
        if connection is not None:
            f.add_to(counter, f.to(connection, I64), COUNTER_CONNECTIONS)


def count_known(f: Function, maps: Maps, flow: Flow, direction: Value, rule: Value) -> None:
    """A packet of a known connection that passed. `rule` (i32): rank + 1 of the one that allowed its first packet, 0 if none did."""
    length = f.to(flow.get("length"), I64)
    with f.if_(f.ne(rule, 0)):
        count_rule(f, maps, f.sub(rule, 1), length)
    count_reason(f, maps, direction, I8(1), I8(Reason.ESTABLISHED), length)


def count_reason(f: Function, maps: Maps, direction: Value, verdict: Value, reason: Value, length: Value) -> None:
    """All i8 but `length`, which is bytes (i64)."""
    place, allowed, why = (f.to(v, I32) for v in (direction, verdict, reason))
    index = f.or_(f.or_(f.shl(place, 6), f.shl(allowed, 5)), why)
    counter = f.lookup_index(maps["reasons"], f.and_(index, REASON_ENTRIES - 1))
    with f.if_(f.not_null(counter)):
        f.add_to(counter, I64(1), REASON_PACKETS)
        f.add_to(counter, length, REASON_BYTES)


def _is_due(f: Function, maps: Maps, flow: Flow, wanted: Value, suppressed: Var) -> Value:
    """Whether the packet gets an event, which stands for so many `suppressed` ones, too. Denials and differences of audit come at most once a second for a flow."""
    due = f.var(0, I8)
    denied = f.both(f.eq(flow.get("verdict"), 0), f.not_(flow.has_flag(Flag.TOLD)))
    differs = f.ne(flow.get("verdict"), flow.get("audit_verdict"))
    logged = f.ne(flow.get("log"), 0)
    opened = f.ne(flow.get("connection"), 0)
    judged = flow.has_flag(Flag.JUDGED)
    with f.if_else(f.eq(wanted, int(Events.TRACE))) as (trace, other):
        with trace:
            due.set(1)
        with other:
            everything = f.cmp(">=", wanted, int(Events.ALL))
            with f.if_(f.both(opened, f.either(everything, logged))):
                due.set(1)
            denial = f.both(denied, f.either(f.cmp(">=", wanted, int(Events.DENIED)), logged))
            stateless = f.both(judged, f.not_(denied), f.not_(opened), f.either(everything, logged))
            limited = f.either(denial, stateless, f.both(judged, differs))
            with f.if_(f.both(f.eq(due.get(), 0), limited)):
                due.set(_rate_limit(f, maps, flow, suppressed))
    return f.ne(due.get(), 0)


def _rate_limit(f: Function, maps: Maps, flow: Flow, suppressed: Var) -> Value:
    """1 (i8) if the flow had no event in the last second; else counts the packet for its next event."""
    due = f.var(1, I8)
    key = f.slot(ir.ArrayType(I8, DENIAL_KEY.size))
    f.zero(key, DENIAL_KEY.size)
    f.copy(key, DENIAL_KEY_ADDRESSES, flow.pointer, OFFSET["local"], 32)
    f.copy(key, DENIAL_KEY_PORTS, flow.pointer, OFFSET["local_port"], 4, I32)
    subject = f.or_(f.shl(flow.get("subject"), 8), f.to(flow.get("protocol"), I32))
    f.store(key, subject, offset=DENIAL_KEY_SUBJECT)
    f.store(key, f.to(flow.get("direction"), I32), offset=DENIAL_KEY_DIRECTION)
    now = f.helper(Helper.KTIME_GET_NS)
    known = f.lookup(maps["denials"], key)
    with f.if_else(f.not_null(known)) as (old, new):
        with old, f.if_else(f.cmp("<", f.sub(now, f.load(known, I64, DENIAL_TIME)), SECOND_NS)) as (soon, late):
            with soon:
                f.add_to(known, I32(1), DENIAL_COUNT)
                due.set(0)
            with late:
                suppressed.set(f.load(known, I32, DENIAL_COUNT))
                f.store(known, now, offset=DENIAL_TIME)
                f.store(known, 0, I32, DENIAL_COUNT)
        with new:
            value = f.slot(ir.ArrayType(I8, DENIAL.size))
            f.zero(value, DENIAL.size)
            f.store(value, now, offset=DENIAL_TIME)
            f.helper(Helper.MAP_UPDATE, maps["denials"], key, value, 0)
    return due.get()


def _emit(f: Function, maps: Maps, flow: Flow, suppressed: Var) -> None:
    event = f.helper(Helper.RINGBUF_RESERVE, maps["events"], EVENT.size, 0, result=PTR)
    with f.if_else(f.is_null(event)) as (full, room):
        with full:
            lost = f.lookup_index(maps["lost"], 0)
            with f.if_(f.not_null(lost)):
                f.add_to(lost, I64(1))
        with room:
            f.zero(event, EVENT.size)

            def put(name: str, value: Value) -> None:
                f.store(event, value, offset=EVENT_OFFSETS[name])

            put("time_ns", f.helper(Helper.KTIME_GET_NS))
            for name in (
                "direction",
                "hook",
                "verdict",
                "reason",
                "family",
                "rank",
                "subject",
                "peer",
                "ifindex",
                "length",
                "protocol",
                "seen",
            ):
                put(name, flow.get(name))
            put("peer_class", f.to(flow.get("peer_class"), I8))
            differs = f.ne(flow.get("verdict"), flow.get("audit_verdict"))
            put("audit_verdict", f.select(differs, flow.get("audit_verdict"), I8(NOT_DIFFERENT)))
            put("audit_reason", f.select(differs, flow.get("audit_reason"), I8(NOT_DIFFERENT)))
            put("audit_rank", f.select(differs, flow.get("audit_rank"), I32(NO_RULE)))
            _put_ends(f, flow, event)
            put("count", f.add(suppressed.get(), 1))
            f.helper(Helper.RINGBUF_SUBMIT, event, 0)


def _put_ends(f: Function, flow: Flow, event: Value) -> None:
    with f.if_else(f.eq(flow.get("direction"), int(Direction.INGRESS))) as (ingress, egress):
        for branch, source, destination in ((ingress, "remote", "local"), (egress, "local", "remote")):
            with branch:
                # Half words: the addresses are not aligned to 8 in the event.
                f.copy(event, EVENT_OFFSETS["source"], flow.pointer, OFFSET[source], 16, I32)
                f.copy(event, EVENT_OFFSETS["destination"], flow.pointer, OFFSET[destination], 16, I32)
                f.store(event, flow.get(f"{source}_port"), offset=EVENT_OFFSETS["source_port"])
                f.store(event, flow.get(f"{destination}_port"), offset=EVENT_OFFSETS["destination_port"])
    icmp = flow.get("icmp")
    with f.if_(is_one_of(f, flow.get("protocol"), (ICMP, ICMPV6))):
        f.store(event, f.swap(icmp), offset=EVENT_OFFSETS["source_port"])
        f.store(event, icmp.type(0), offset=EVENT_OFFSETS["destination_port"])
