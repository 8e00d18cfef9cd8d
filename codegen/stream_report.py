"""Counters and events of requests."""

from __future__ import annotations

from llvmlite import ir

from policyc.artifact.layout import NO_RULE, NOT_DIFFERENT, Events
from policyc.artifact.stream_layout import (
    HOST_BYTES,
    METHOD_BYTES,
    NO_ENTRY,
    PATH_BYTES,
    STREAM_EVENT,
    STREAM_EVENT_HOOK,
    StreamHook,
)
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.parse import TCP
from policyc.codegen.peer import class_of, peer_of
from policyc.codegen.records import CONFIG_EVENTS, STREAM_EVENT_OFFSETS
from policyc.codegen.report import count_reason, count_rule
from policyc.codegen.stream import Stream, debug_type
from policyc.model import Direction, Span


def build(module: ir.Module, debug: DebugInfo, maps: Maps, rules: int, span: Span) -> ir.Function:
    """stream_report(stream): counts the request at hand and emits an event where one is due."""
    f = Function(module, debug, "stream_report", [("stream", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    verdict = s.get("verdict")
    count_reason(f, maps, s.get("direction"), verdict, s.get("reason"), I64(0))
    with f.if_(f.ne(s.get("entry"), 0)):
        count_rule(f, maps, f.sub(f.add(s.get("entry"), rules), 1), I64(0))
    config = f.lookup_index(maps["config"], 0)
    with f.if_(f.is_null(config)):
        f.ret(0)
    wanted = f.load(config, I32, CONFIG_EVENTS)
    denied = f.both(f.eq(verdict, 0), f.cmp(">=", wanted, int(Events.DENIED)))
    differs = f.ne(verdict, s.get("audit_verdict"))
    due = f.either(f.cmp(">=", wanted, int(Events.ALL)), denied, differs, f.ne(s.get("logs"), 0))
    with f.if_(f.not_(due)):
        f.ret(0)
    _emit(f, maps, s, differs)
    return f.close()


def _emit(f: Function, maps: Maps, s: Stream, differs: Value) -> None:
    event = f.helper(Helper.RINGBUF_RESERVE, maps["events"], STREAM_EVENT.size, 0, result=PTR)
    with f.if_(f.is_null(event)):
        lost = f.lookup_index(maps["lost"], 0)
        with f.if_(f.not_null(lost)):
            f.add_to(lost, I64(1))
        f.ret(0)
    f.zero(event, STREAM_EVENT.size)

    def put(name: str, value: Value, type_: ir.IntType | None = None) -> None:
        f.store(event, value, type_, STREAM_EVENT_OFFSETS[name])

    put("time_ns", f.helper(Helper.KTIME_GET_NS))
    for name in ("direction", "verdict", "reason", "family", "subject"):
        put(name, s.get(name))
    arrives = f.eq(s.get("direction"), int(Direction.INGRESS))
    hook = f.select(arrives, I8(StreamHook.STREAM_IN), I8(StreamHook.STREAM_OUT))
    put("hook", f.add(hook, STREAM_EVENT_HOOK))
    put("rank", f.sub(s.get("rule"), 1))
    put("entry", f.sub(s.get("entry"), 1))
    put("audit_verdict", f.select(differs, s.get("audit_verdict"), I8(NOT_DIFFERENT)))
    put("audit_reason", f.select(differs, s.get("audit_reason"), I8(NOT_DIFFERENT)))
    put("audit_rank", f.select(differs, f.sub(s.get("audit_rule"), 1), I32(NO_RULE)))
    put("audit_entry", f.select(differs, f.sub(s.get("audit_entry"), 1), I32(NO_ENTRY)))
    put("count", 1, I32)
    put("protocol", TCP, I8)
    put("answer", s.get("answer"))
    put("saw", s.get("saw"))
    put("minor", f.sub(s.get("minor"), 1))
    put("method_length", f.to(s.get("method_length"), I8))
    put("host_length", s.get("host_length"))
    put("path_length", s.get("path_length"))
    for text, room in (("method", METHOD_BYTES), ("host", HOST_BYTES), ("path", PATH_BYTES)):
        _put_text(f, s, event, text, room)
    _put_ends(f, maps, s, event, arrives)
    f.helper(Helper.RINGBUF_SUBMIT, event, 0)


def _put_text(f: Function, s: Stream, event: Value, text: str, room: int) -> None:
    """What is kept of a text, and zeros behind it: what stands there in the record may be bytes that are not to be told."""
    bits = f.shl(f.to(s.get(f"{text}_length"), I64), 3)
    with f.loop(room // 8, room // 8) as (i, _):
        at = f.shl(f.to(i, I64), 3)
        left = f.sub(bits, f.shl(at, 3))
        whole = f.not_(f.sar(f.sub(left, 64), 63))
        part = f.and_(f.sub(f.shl(I64(1), f.and_(left, 63)), 1), f.not_(f.sar(left, 63)))
        kept = f.and_(f.load(s.address(f"{text}_text", at), I64), f.or_(whole, part))
        f.store(event, kept, offset=f.add(at, STREAM_EVENT_OFFSETS[text]))


def _put_ends(f: Function, maps: Maps, s: Stream, event: Value, arrives: Value) -> None:
    with f.if_else(arrives) as (ingress, egress):
        for branch, source, destination in ((ingress, "remote", "local"), (egress, "local", "remote")):
            with branch:
                f.copy(event, STREAM_EVENT_OFFSETS["source"], s.address(source), 0, 16, I32)
                f.copy(event, STREAM_EVENT_OFFSETS["destination"], s.address(destination), 0, 16, I32)
                f.store(event, s.get(f"{source}_port"), offset=STREAM_EVENT_OFFSETS["source_port"])
                f.store(event, s.get(f"{destination}_port"), offset=STREAM_EVENT_OFFSETS["destination_port"])
    # The peer as it is now.
    address = f.slot(ir.ArrayType(I8, 16), "address")
    f.copy(address, 0, s.address("remote"), 0, 16)
    peer = peer_of(f, maps, s.get("family"), address)
    f.store(event, peer, offset=STREAM_EVENT_OFFSETS["peer"])
    f.store(event, f.to(class_of(f, peer), I8), offset=STREAM_EVENT_OFFSETS["peer_class"])
