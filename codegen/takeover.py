"""Taking sockets over when they are established (sock_ops), and what must happen to them later: closing what was denied, forgetting what is gone."""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from policyc.artifact.layout import ENTRY_PREFIX, PROGRAM_PREFIX, CgroupKind
from policyc.artifact.layout import State as LoadState
from policyc.artifact.stream_layout import StreamHook
from policyc.codegen import known_streams
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.maps import Maps
from policyc.codegen.marks import NO_EXIST, count_to_close, expect, make_mark, not_expected, note_sent, remove_mark
from policyc.codegen.records import CGROUP_SUBJECT_ENDPOINT, CGROUP_SUBJECT_KIND, CONFIG_STATE
from policyc.codegen.stream import TUPLE_END, Carried, State, Stream
from policyc.codegen.stream_programs import StreamParts, program, tail_call
from policyc.codegen.stream_rules import Found
from policyc.ir.flat import ServiceSet
from policyc.model import Direction, Span


class Op(IntEnum):
    """BPF_SOCK_OPS_*, linux/bpf.h."""

    REQUESTED = 2  # RWND_INIT; without a full socket: a listener is asked for a connection
    ACTIVE_ESTABLISHED = 4
    PASSIVE_ESTABLISHED = 5
    STATE_CHANGED = 10
    RTT = 12
    SENDS = 14  # HDR_OPT_LEN_CB


CALL_STATE, CALL_RTT, CALL_SENDS = 4, 8, 64  # BPF_SOCK_OPS_STATE_CB_FLAG, RTT_CB_FLAG, WRITE_HDR_OPT_CB_FLAG
# struct bpf_sock_ops
OP, REPLY, NEW_STATE, FAMILY, REMOTE4, LOCAL4, REMOTE6, LOCAL6 = 0, 4, 8, 20, 24, 28, 32, 48
REMOTE_PORT, LOCAL_PORT, IS_FULLSOCK, RCV_NXT, SND_NXT, SND_UNA, SOCKET = 64, 68, 72, 100, 104, 108, 184
# In the word that programs may write, and that those of one event share: the nearest cgroup's program has run; below it its subject.
NEAREST = 1 << 31
STREAMS_ONLY = 1 << 30  # its packets are judged at the subject's interface
AF_INET = 2
TCP_CLOSED = 7
SOL_SOCKET, SO_KEEPALIVE, SO_RCVLOWAT = 1, 9, 18
SOL_TCP, TCP_KEEPIDLE, TCP_KEEPINTVL, TCP_KEEPCNT = 6, 4, 5, 6
MAPPED = 0xFFFF0000  # the third word of ::ffff:0:0/96, network order
PASSED = 1


def build_entry(module: ir.Module, debug: DebugInfo, maps: Maps, span: Span) -> None:
    """enter_sock_ops: notes whose socket it is, then the program of the slot that judges. The nearest cgroup's program runs first and alone."""
    hook = StreamHook.SOCK_OPS
    f = program(module, debug, ENTRY_PREFIX + hook.name.lower(), hook, span)
    context = f.args[0]
    op = f.load(context, I32, OP)
    with f.if_(f.both(*(f.ne(op, int(n)) for n in Op))):
        f.ret(PASSED)
    with f.if_(f.either(f.eq(op, Op.SENDS), f.eq(op, Op.RTT))):  # so often that it must cost little
        _leave_unless_denied(f, maps)
    with f.if_(f.both(f.eq(op, Op.STATE_CHANGED), f.ne(f.load(context, I32, NEW_STATE), TCP_CLOSED))):
        f.ret(PASSED)
    is_client = f.ne(f.load(context, I32, IS_FULLSOCK), 0)
    with f.if_(f.both(f.eq(op, Op.REQUESTED), is_client)):
        f.ret(PASSED)
    with f.if_(f.cmp("<=", op, Op.PASSIVE_ESTABLISHED)):
        with f.if_(f.ne(f.load(context, I32, REPLY), 0)):
            f.ret(PASSED)
        subject = f.helper(Helper.GET_LOCAL_STORAGE, maps["cgroup_subject"], 0, result=PTR)
        kind = f.load(subject, I32, CGROUP_SUBJECT_KIND)
        with f.if_(f.both(f.eq(op, Op.REQUESTED), f.ne(kind, int(CgroupKind.STREAMS_ONLY)))):
            f.ret(PASSED)
        bits = f.select(f.eq(kind, int(CgroupKind.STREAMS_ONLY)), I32(NEAREST | STREAMS_ONLY), I32(NEAREST))
        f.store(context, f.or_(f.load(subject, I32, CGROUP_SUBJECT_ENDPOINT), bits), offset=REPLY)
    switch = f.lookup_index(maps["switch"], 0)
    with f.if_(f.not_null(switch)):
        tail_call(f, maps, hook, f.to(f.sub(f.load(switch, I32), int(LoadState.ACTIVE)), I8))
    with f.if_(f.eq(op, Op.REQUESTED)):
        f.store(context, 0, I32, REPLY)
    f.ret(PASSED)
    f.close()


def _leave_unless_denied(f: Function, maps: Maps) -> None:
    number = f.lookup_index(maps["to_close"], 0)
    with f.if_(f.is_null(number)):
        f.ret(PASSED)
    with f.if_(f.eq(f.load(number, I64), 0)):
        f.ret(PASSED)
    cookie = f.slot(I64, "cookie")
    f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, f.args[0]))
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.ret(PASSED)
    with f.if_(f.not_(_is_to_close(f, Stream(f, pointer)))):
        f.ret(PASSED)


def _is_to_close(f: Function, s: Stream) -> Value:
    return f.eq(f.and_(s.get("state"), State.POISONED | State.CLOSED), State.POISONED)


def build(
    module: ir.Module,
    debug: DebugInfo,
    maps: Maps,
    parts: StreamParts,
    services: dict[Direction, ServiceSet],
    span: Span,
) -> None:
    """policyc_sock_ops. `services`: by direction the port intervals of all rules with blocks: other connections are no business of ours."""
    hook = StreamHook.SOCK_OPS
    f = program(module, debug, PROGRAM_PREFIX + hook.name.lower(), hook, span)
    context = f.args[0]
    op = f.load(context, I32, OP)
    with f.if_(f.eq(op, Op.REQUESTED)):
        _expect(f, maps, services[Direction.INGRESS])
        f.store(context, 0, I32, REPLY)  # the kernel would take it for a window
        f.ret(PASSED)
    for number, direction in ((Op.PASSIVE_ESTABLISHED, Direction.INGRESS), (Op.ACTIVE_ESTABLISHED, Direction.EGRESS)):
        with f.if_(f.eq(op, number)):
            if services[direction]:
                _established(f, maps, parts, direction, services[direction])
            f.ret(PASSED)
    cookie = f.slot(I64, "cookie")
    f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, context))
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.ret(PASSED)
    s = Stream(f, pointer)
    with f.if_(f.ne(op, Op.STATE_CHANGED)):
        _close(f, maps, s)
        f.ret(PASSED)
    with f.if_(_is_to_close(f, s)):
        count_to_close(f, maps, -1)
    remove_mark(f, maps, s)
    f.helper(Helper.MAP_DELETE, maps["streams"], cookie)
    f.ret(PASSED)
    f.close()


def _established(f: Function, maps: Maps, parts: StreamParts, direction: Direction, services: ServiceSet) -> None:
    context = f.args[0]
    with f.if_(f.not_(_is_of(f, direction, services))):
        f.ret(PASSED)
    config = f.lookup_index(maps["config"], 0)
    word = f.load(context, I32, REPLY)
    subject, at_interface = f.and_(word, STREAMS_ONLY - 1), f.bits(word, STREAMS_ONLY)
    with f.if_(f.either(f.eq(subject, 0), f.is_null(config))):
        f.ret(PASSED)
    with f.if_(f.ne(f.load(config, I32, CONFIG_STATE), int(LoadState.ACTIVE))):
        f.ret(PASSED)
    cookie = f.slot(I64, "cookie")
    f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, context))
    with f.if_(f.ne(f.helper(Helper.MAP_UPDATE, maps["streams"], cookie, parts.blank.var, NO_EXIST), 0)):
        f.ret(PASSED)
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.ret(PASSED)
    s = Stream(f, pointer)
    forget = f.b.append_basic_block("forget")
    s.set("direction", int(direction))
    s.set("subject", subject)
    s.set("family", _fill_ends(f, s))
    if direction is Direction.INGRESS:
        with f.if_(at_interface):
            not_expected(f, maps, s)
    with f.if_(f.ne(f.call(parts.match, s.pointer), int(Found.STREAM))):
        f.leave(forget)
    sockets = maps["streams_in"]
    s.set("answer_at", f.load(context, I32, SND_NXT if direction is Direction.INGRESS else RCV_NXT))
    s.set("base", f.load(context, I32, RCV_NXT))
    if direction is Direction.EGRESS:
        sockets = maps["streams_out"]
        # What is acknowledged: bytes that went with the SYN, and may be sent again, are not approved.
        s.set("base", f.load(context, I32, SND_UNA))
        socket = f.b.load(f.at_offset(context, SOCKET), typ=PTR)
        with f.if_(f.is_null(socket)):
            f.leave(forget)
        known = f.helper(Helper.SK_STORAGE_GET, maps["socket_stream"], socket, ir.Constant(PTR, None), 1, result=PTR)
        with f.if_(f.is_null(known)):
            f.leave(forget)
        f.store(known, f.load(cookie, I64))
    with f.if_(f.ne(f.helper(Helper.SOCK_HASH_UPDATE, context, sockets, cookie, NO_EXIST), 0)):
        f.leave(forget)
    # By these a denied stream's socket comes back to us: a server's acknowledges what it got, a client's has FILLER acknowledged.
    asks = CALL_SENDS if direction is Direction.INGRESS else CALL_RTT
    f.helper(Helper.SOCK_OPS_CB_FLAGS_SET, context, I32(CALL_STATE | asks))
    # From here on its payload passes. Without a mark (a full table) nothing does: its socket stays where its program is asked, which finds no record.
    with f.if_(f.ne(make_mark(f, maps, s, f.load(cookie, I64)), 0)):
        f.leave(forget)
    with f.if_(f.not_(at_interface)):
        known_streams.introduce(f, maps, s)
    f.ret(PASSED)
    f.b.position_at_end(forget)
    f.helper(Helper.MAP_DELETE, maps["streams"], cookie)


def _is_of(f: Function, direction: Direction, services: ServiceSet) -> Value:
    """Whether the connection's service is in the port intervals."""
    word = f.load(f.args[0], I32, LOCAL_PORT if direction is Direction.INGRESS else REMOTE_PORT)
    port = word if direction is Direction.INGRESS else f.swap(word)
    return f.within(port, services)


def _expect(f: Function, maps: Maps, services: ServiceSet) -> None:
    """A listener of ours is asked for a connection. Packet programs at a device may see its first payload before its socket is there."""
    if not services:
        return
    with f.if_(_is_of(f, Direction.INGRESS, services)):
        memory = f.slot(ir.ArrayType(I8, TUPLE_END), "asked")
        f.zero(memory, TUPLE_END)
        s = Stream(f, memory)
        s.set("subject", f.and_(f.load(f.args[0], I32, REPLY), STREAMS_ONLY - 1))
        expect(f, maps, s, _fill_ends(f, s))


def _fill_ends(f: Function, s: Stream) -> Value:
    """The connection's addresses and ports; its family (i8). IPv4 over an IPv6 socket is IPv4."""
    context = f.args[0]
    s.set("local_port", f.swap(f.to(f.load(context, I32, LOCAL_PORT), I16)))
    s.set("remote_port", f.swap(f.to(f.swap(f.load(context, I32, REMOTE_PORT)), I16)))
    family = f.var(4, I8)
    with f.if_else(f.eq(f.load(context, I32, FAMILY), AF_INET)) as (v4, v6):
        with v4:
            f.store(s.address("local"), f.load(context, I32, LOCAL4))
            f.store(s.address("remote"), f.load(context, I32, REMOTE4))
        with v6:
            words = [f.load(context, I32, REMOTE6 + 4 * i) for i in range(4)]
            zero = f.eq(f.or_(words[0], words[1]), 0)
            with f.if_else(f.both(zero, f.eq(words[2], MAPPED))) as (inner, real):
                with inner:
                    f.store(s.address("local"), f.load(context, I32, LOCAL6 + 12))
                    f.store(s.address("remote"), words[3])
                with real:
                    family.set(6)
                    for i in range(4):
                        f.store(s.address("local", 4 * i), f.load(context, I32, LOCAL6 + 4 * i))
                        f.store(s.address("remote", 4 * i), f.load(context, I32, REMOTE6 + 4 * i))
    return family.get()


def _close(f: Function, maps: Maps, s: Stream) -> None:
    """A socket whose stream was denied probes its peer, and the probes are kept back (`marks.gate`): it times out two seconds later."""
    with f.if_(f.not_(_is_to_close(f, s))):
        f.ret(PASSED)
    s.raise_("state", State.CLOSED)
    count_to_close(f, maps, -1)
    with f.if_(f.eq(s.get("direction"), int(Direction.INGRESS))):
        note_sent(f, maps, s, f.load(f.args[0], I32, SND_NXT))
    value = f.slot(I32, "option", align=4)
    f.store(value, 1, I32)
    options = ((SOL_TCP, TCP_KEEPIDLE), (SOL_TCP, TCP_KEEPINTVL), (SOL_TCP, TCP_KEEPCNT), (SOL_SOCKET, SO_KEEPALIVE))
    for level, option in options:
        f.helper(Helper.SETSOCKOPT, f.args[0], I32(level), I32(option), value, I32(4))
    # The kernel counts bytes that were denied as not read yet, and would tell those who ask that there are some, again and again. Whoever is blocked must
    # not be woken, which this could do.
    with f.if_(f.ne(s.get("carried"), Carried.AWAITED)):
        f.store(value, 0x7FFFFFFF, I32)
        f.helper(Helper.SETSOCKOPT, f.args[0], I32(SOL_SOCKET), I32(SO_RCVLOWAT), value, I32(4))
