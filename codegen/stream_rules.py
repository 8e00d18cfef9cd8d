"""Which rules judge the requests of a connection: found when its socket is taken over, and again at the next request after policy, endpoints or
labels changed."""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from policyc.artifact.layout import Reason
from policyc.artifact.stream_layout import MAX_STREAM_RULES
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import SIZE, Flow
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Value
from policyc.codegen.http_data import SET_WORDS, HttpData, RuleWord
from policyc.codegen.maps import Maps
from policyc.codegen.match import Matcher
from policyc.codegen.parse import TCP
from policyc.codegen.peer import set_peer
from policyc.codegen.records import CONFIG_GENERATION, CONFIG_LOAD, ENDPOINT_SLOT, IDENTITY_GROUPS
from policyc.codegen.rows import ACTION_SHIFT, RANK_BITS, RANK_SHIFT, STREAMS_BITS, STREAMS_SHIFT
from policyc.codegen.stream import SCRATCH, State, Stream, debug_type
from policyc.ir.tables import KeyKind
from policyc.model import Direction, Span


class Found(IntEnum):
    """What stream_match returns."""

    PLAIN = 0  # no block judges the connection
    STREAM = 1
    DENIED = 2  # the policy denies the connection, or too many rules would judge it


def build(module: ir.Module, debug: DebugInfo, maps: Maps, matcher: Matcher, data: HttpData, span: Span) -> ir.Function:
    """stream_match(stream): finds the rules that judge its connection, under the present generation; `Found`. The record is
    between two requests: its scratch memory holds a flow record meanwhile."""
    collects = [_build_collect(module, debug, matcher, data, n, span) for n in range(len(matcher.variants))]
    f = Function(module, debug, "stream_match", [("stream", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(int(Found.DENIED))
    s = Stream(f, f.args[0])
    flow = Flow(f, f.at_offset(s.pointer, SCRATCH))
    f.zero(flow.pointer, SIZE)
    config = f.lookup_index(maps["config"], 0)
    with f.if_(f.is_null(config)):
        f.ret(int(Found.DENIED))
    s.set("generation", f.load(config, I32, CONFIG_GENERATION))
    s.set("load", f.load(config, I32, CONFIG_LOAD))
    with f.if_(f.not_(_fill(f, maps, s, flow))):
        f.ret(int(Found.DENIED))
    direction = f.to(s.get("direction"), I32)
    f.call(matcher.match_policy, flow.pointer, direction, flow.get("key"))
    s.drop("state", State.MUST_MATCH | State.TOO_MANY)
    for name in (
        "rules_length",
        "audit_rules_length",
        "plain",
        "audit_plain",
        "limit",
        "audit_limit",
        "known_host_length",
    ):
        s.set(name, 0)
    s.set("logs", flow.get("log"))
    record = f.lookup_index(maps["identities"], flow.get("subject_slot"))
    with f.if_(f.is_null(record)):
        f.ret(int(Found.DENIED))
    for prefix, collect in zip(matcher.variants, collects, strict=True):
        s.set(prefix + "rank", flow.get(prefix + "rank"))
        allowed = f.both(f.ne(flow.get(prefix + "verdict"), 0), f.eq(flow.get(prefix + "reason"), int(Reason.RULE)))
        with f.if_(f.both(allowed, f.ne(flow.get(prefix + "stream"), 0))):
            s.set("level", data.levels(f, flow.get(prefix + "rank")))
            _collect_all(f, matcher, s, record, direction, collect)
            _settle(f, data, s, prefix)
    if len(matcher.variants) == 1:
        s.set("audit_rank", s.get("rank"))
    with f.if_(f.eq(s.get("rules_length"), 0)):
        s.set("limit", s.get("audit_limit"))
    with f.if_(f.either(f.eq(flow.get("verdict"), 0), s.has("state", State.TOO_MANY))):
        f.ret(int(Found.DENIED))
    any_ = f.or_(s.get("rules_length"), s.get("audit_rules_length"))
    with f.if_(f.ne(any_, 0)):
        f.ret(int(Found.STREAM))
    return f.close()


def _fill(f: Function, maps: Maps, s: Stream, flow: Flow) -> Value:
    """The flow record of the connection's first packet; whether (i1) its subject is registered."""
    for name in ("local", "remote"):
        f.copy(flow.address(name), 0, s.address(name), 0, 16)
    flow.copy_address("match", "remote")
    for name in ("local_port", "remote_port", "family", "direction", "subject"):
        flow.set(name, s.get(name))
    flow.set("protocol", TCP)
    arrives = f.eq(s.get("direction"), int(Direction.INGRESS))
    port = f.swap(f.select(arrives, s.get("local_port"), s.get("remote_port")))
    flow.set("key", f.or_(f.to(port, I32), int(KeyKind.FULL) << 24 | TCP << 16))
    word = f.lookup_index(maps["endpoints"], s.get("subject"))
    with f.if_(f.not_null(word)):
        flow.set("subject_slot", f.load(word, I32, ENDPOINT_SLOT))
    set_peer(f, maps, flow, f.slot(ir.ArrayType(I8, 16), "address"))
    return f.ne(flow.get("subject_slot"), 0)


def _collect_all(
    f: Function, matcher: Matcher, s: Stream, record: Value, direction: Value, collect: ir.Function
) -> None:
    """Every group that selects the subject in this direction; cells of other levels are passed over."""
    for way in Direction:
        with f.if_(f.eq(direction, int(way))):
            for other, tier in matcher.lists:
                if other is not way:
                    continue
                number = 3 * int(way) + int(tier)
                base = matcher.layout.groups_offset + 4 * matcher.layout.max_groups * number
                with f.loop(f.load(record, I32, IDENTITY_GROUPS + 4 * number), matcher.layout.max_groups) as (i, _):
                    group = f.load(record, I32, f.add(f.shl(f.to(i, I64), 2), base))
                    f.call(collect, s.pointer, group)


def _settle(f: Function, data: HttpData, s: Stream, prefix: str) -> None:
    """Component and limit from the rules that were collected."""
    length = f.to(s.get(prefix + "rules_length"), I32)
    with f.loop(length, MAX_STREAM_RULES) as (i, _):
        number = f.to(f.load(s.address(prefix + "rules", f.shl(f.to(i, I64), 1)), I16), I32)
        s.set("component", data.rules(f, number, 4, RuleWord.COMPONENT))
        limit = data.rules(f, number, 4, RuleWord.LIMIT)
        with f.if_(f.cmp(">", limit, s.get(prefix + "limit"))):
            s.set(prefix + "limit", limit)


def _build_collect(
    module: ir.Module, debug: DebugInfo, matcher: Matcher, data: HttpData, variant: int, span: Span
) -> ir.Function:
    """stream_collect(stream, group): adds the L7 rules of the group's rows that the peer selects, of the level asked for."""
    prefix = matcher.variants[variant]
    args = [("stream", PTR, debug_type(debug)), ("group", I32, debug.u32)]
    f = Function(module, debug, f"stream_collect{variant}", args, span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    flow = Flow(f, f.at_offset(s.pointer, SCRATCH))
    matcher.fold_rows(f, flow, f.args[1], lambda found: _take(f, data, s, prefix, found[variant]))
    return f.close()


def _take(f: Function, data: HttpData, s: Stream, prefix: str, best: Value) -> None:
    with f.if_(f.eq(f.to(f.shr(best, ACTION_SHIFT), I32), s.get("level"))):
        number = f.and_(f.to(f.shr(best, STREAMS_SHIFT), I32), (1 << STREAMS_BITS) - 1)
        plain = f.var(f.add(f.and_(f.to(f.shr(best, RANK_SHIFT), I32), (1 << RANK_BITS) - 1), 1))
        with f.if_(f.ne(number, 0)):
            plain.set(data.sets(f, number, SET_WORDS, 1))
            count = data.sets(f, number, SET_WORDS, 0)
            with f.if_(f.cmp(">", count, MAX_STREAM_RULES)):
                s.raise_("state", State.TOO_MANY)
            base = f.add(f.shl(number, SET_WORDS.bit_length() - 1), 2)
            with f.loop(count, MAX_STREAM_RULES) as (i, _):
                _add(f, s, prefix, f.to(data.sets(f, f.add(base, i)), I16))
        known = s.get(prefix + "plain")
        first = f.both(f.ne(plain.get(), 0), f.either(f.eq(known, 0), f.cmp("<", plain.get(), known)))
        with f.if_(first):
            s.set(prefix + "plain", plain.get())


def _add(f: Function, s: Stream, prefix: str, number: Value) -> None:
    """Adds a rule (i16), unless it is there."""
    length = s.get(prefix + "rules_length")
    there = f.var(0, I8)
    with f.loop(f.to(length, I32), MAX_STREAM_RULES) as (i, done):
        other = f.load(s.address(prefix + "rules", f.shl(f.to(i, I64), 1)), I16)
        with f.if_(f.eq(other, number)):
            there.set(1)
            f.leave(done)
    with f.if_(f.eq(there.get(), 0)), f.if_else(f.cmp("<", length, MAX_STREAM_RULES)) as (room, full):
        with room:
            place = f.shl(f.to(length, I64), 1)
            f.store(s.address(prefix + "rules", place), number)
            s.set(prefix + "rules_length", f.add(length, 1))
        with full:
            s.raise_("state", State.TOO_MANY)
