"""Packets of judged connections at a cgroup, where one lookup decides: the stream's record, by the cookie of the packet's socket.

It says (`known_ingress`, `known_egress`) that a packet that travelled so was let through as one of a known connection (known.py) under the present
generation and in the present tick. A tick later the connection table is asked again, which keeps its entry from idling out. What a packet may not do
(a denied stream's, urgent data, what a client was not approved of) is asked for each; SYN, FIN and RST take the long way.
"""

from __future__ import annotations

from collections.abc import Mapping

from llvmlite import ir

from policyc.artifact.layout import CtFlag, Events
from policyc.codegen import answers, recent
from policyc.codegen.flow import OFFSET, Flow
from policyc.codegen.function import I8, I32, I64, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.marks import TCP_URG, by_family, is_within_ledger
from policyc.codegen.parse import TCP
from policyc.codegen.records import CT_CHECKED, CT_DIRECTION, CT_FLAGS, CT_GENERATION, CT_RULE
from policyc.codegen.report import count_known
from policyc.codegen.state import opens_or_closes
from policyc.codegen.stream import OFFSET as STREAM_OFFSET
from policyc.codegen.stream import State, Stream
from policyc.ir.flat import ServiceSet
from policyc.model import Direction

KNOWN = {Direction.INGRESS: "known_ingress", Direction.EGRESS: "known_egress"}


def let_through(
    f: Function,
    maps: Maps,
    flow: Flow,
    context: Value,
    direction: Direction,
    services: Mapping[Direction, ServiceSet],
    watch: ir.Function,
    passed: int,
) -> None:
    """Returns `passed` for a packet (an skb) that its stream's record answers for, counted; else goes on. The flow record is as direct.read filled it;
    `services`: by direction the port intervals of all rules with blocks."""
    unknown = f.b.append_basic_block("unknown_stream")
    plain = f.both(f.eq(flow.get("protocol"), TCP), f.not_(opens_or_closes(f, flow)))
    with f.if_(f.not_(f.both(plain, f.ne(flow.events(), int(Events.TRACE)), _may_be_judged(f, flow, services)))):
        f.leave(unknown)
    pointer = _of_socket(f, maps, flow, context)
    with f.if_(f.is_null(pointer)):
        f.leave(unknown)
    s = Stream(f, pointer)
    with f.if_(f.ne(s.get(KNOWN[direction]), _now(f, flow.get("generation")))):
        f.leave(unknown)
    with f.if_(f.either(s.has("state", State.POISONED), f.not_(_has_ends(f, flow, s)))):
        f.leave(unknown)
    judged_way = f.eq(s.get("direction"), int(direction))
    with f.if_(f.ne(flow.get("payload"), 0)), f.if_else(judged_way) as (request, answer):
        with request:
            with f.if_(f.bits(flow.get("tcp_flags"), TCP_URG)):
                f.leave(unknown)
            if direction is Direction.EGRESS:
                with f.if_(f.not_(is_within_ledger(f, flow, s))):
                    f.leave(unknown)
        with answer, f.if_(answers.concern(f, flow, s)):
            flow.set("answers", 1)  # of the stream whose cookie `_of_socket` has left
            f.call(watch, context, flow.pointer)
    count_known(f, maps, flow, I8(direction), f.to(s.get("known_rule"), I32))
    f.ret(passed)
    f.b.position_at_end(unknown)


def remember(f: Function, maps: Maps, flow: Flow, context: Value, direction: Direction, rule: Value) -> None:
    """Has the record answer for the next packets like this one of a judged connection, which was let through as known. `rule`: rank + 1 or 0."""
    pointer = _of_socket(f, maps, flow, context)
    with f.if_(f.not_null(pointer)):
        s = Stream(f, pointer)
        with f.if_(f.both(f.eq(s.get("subject"), flow.get("subject")), _has_ends(f, flow, s))):
            s.set("known_rule", f.to(rule, I64))
            s.set(KNOWN[direction], _now(f, flow.get("generation")))


def introduce(f: Function, maps: Maps, s: Stream) -> None:
    """Has the record of a marked connection answer from its first payload on, for the ways in which the connection table has let packets through under the
    present generation."""
    generation = s.get("generation")

    def ask(family: int, key: Value) -> None:
        entry = f.lookup(maps[f"ct{family}"], key)
        with f.if_(f.not_null(entry)):
            flags = f.and_(f.load(entry, I8, CT_FLAGS), CtFlag.STREAM | CtFlag.DENIED | CtFlag.CLOSING)
            same = f.eq(f.load(entry, I8, CT_DIRECTION), s.get("direction"))
            current = f.eq(f.load(entry, I32, CT_GENERATION), generation)
            with f.if_(f.both(f.eq(flags, CtFlag.STREAM), same, current)):
                s.set("known_rule", f.to(f.load(entry, I32, CT_RULE), I64))
                for direction, name in KNOWN.items():
                    with f.if_(f.eq(f.load(entry, I32, CT_CHECKED[direction]), generation)):
                        s.set(name, _now(f, generation))

    by_family(f, s, ask)


def _may_be_judged(f: Function, flow: Flow, services: Mapping[Direction, ServiceSet]) -> Value:
    """Whether the port is between the lowest and the highest that some block is about; others need not be looked for."""
    ways = []
    for direction, name in zip(Direction, ("local_port", "remote_port"), strict=True):
        if intervals := services[direction]:
            port = f.to(f.swap(flow.get(name)), I32)
            ways.append(f.within(port, [(intervals[0][0], intervals[-1][1])]))
    return f.either(*ways)


def _of_socket(f: Function, maps: Maps, flow: Flow, context: Value) -> Value:
    """The record of the stream of the packet's socket, or null."""
    cookie = f.at_offset(flow.pointer, OFFSET["best"])
    f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, context))
    return f.lookup(maps["streams"], cookie)


def _now(f: Function, generation: Value) -> Value:
    """Generation and tick (i64)."""
    return f.or_(f.shl(f.to(generation, I64), 32), recent.tick(f))


def _has_ends(f: Function, flow: Flow, s: Stream) -> Value:
    """Whether the packet travels between the ends of the stream's connection."""
    differs = f.to(f.xor(f.load(flow.address("local_port"), I32), f.load(s.address("local_port"), I32)), I64)
    differs = f.or_(differs, f.to(f.xor(flow.get("family"), s.get("family")), I64))
    for at in range(0, 32, 8):  # both addresses
        word = f.xor(
            f.load(flow.pointer, I64, OFFSET["local"] + at), f.load(s.pointer, I64, STREAM_OFFSET["local"] + at)
        )
        differs = f.or_(differs, word)
    return f.eq(differs, 0)
