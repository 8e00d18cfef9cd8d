"""The programs that judge streams: sockets are taken over when they are established, what arrives at a server and what a client sends is read
by the machine of its protocol, and what is denied is answered or dropped."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from policyc.artifact.layout import ENTRY_PREFIX, NEXT_PREFIX, PROGRAM_PREFIX, ConfigFlag, Reason
from policyc.artifact.layout import State as LoadState
from policyc.artifact.stream_layout import STREAM_SECTIONS, STREAM_SIZE, Answer, Saw, StreamHook
from policyc.codegen import http, http_verdict, stream_report, stream_rules
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper, Value, Var
from policyc.codegen.http_data import HttpData
from policyc.codegen.maps import Maps
from policyc.codegen.marks import poison_mark
from policyc.codegen.match import Matcher
from policyc.codegen.records import CONFIG_FLAGS, CONFIG_GENERATION, CONFIG_LOAD, CONFIG_STATE
from policyc.codegen.rodata import Data, Rodata
from policyc.codegen.stream import WINDOW_BYTES, Carried, Framing, Mode, State, Stream, Told, debug_type
from policyc.codegen.stream_rules import Found
from policyc.codegen.waiters import someone_is_blocked
from policyc.ir.http_tables import METHOD_HEAD
from policyc.model import Direction, Span

SK_DROP, SK_PASS = 0, 1
F_INGRESS = 1  # BPF_F_INGRESS of redirections
SKB_LEN, SKB_SK = 0, 168
MSG_DATA, MSG_DATA_END, MSG_SIZE, MSG_SK = 0, 8, 68, 72  # struct sk_msg_md
MOST_CUT = 4095  # bytes, of bpf_skb_adjust_room
MOST_CUTS = 256
FILLER = b"\r\n"  # an empty line before a request, which servers pass over (RFC 9112, section 2.2)
MOST_STEPS = 1 << 20  # of one buffer: a step reads at least a byte, most read many
BODY = b"Denied by network policy.\n"
# For the rest of a head whose end will not come: more words than a start line has, fields that no server may take, more lines than any takes.
SPOILER = b" \0 \0 \0\r\nContent-Length: \0\r\nTransfer-Encoding: \0\r\n" + b"\0\r\n" * 128
FORBIDDEN = (
    b"HTTP/1.1 403 Forbidden\r\nContent-Type: text/plain\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(BODY)
)


@dataclass(frozen=True)
class StreamParts:
    """What the programs share."""

    data: HttpData
    match: ir.Function
    judges: http.Judges
    answer: Data  # the bytes of FORBIDDEN and BODY
    spoiler: Data  # the bytes of SPOILER
    blank: Data  # a stream's record of which nothing is known
    shorten: ir.Function  # takes bytes off the beginning of a long buffer
    cut: ir.Function  # takes off as many as are told


def context_type(debug: DebugInfo) -> Any:
    return debug.pointer(debug.struct("context", [], 0))


def program(module: ir.Module, debug: DebugInfo, name: str, hook: StreamHook, span: Span) -> Function:
    return Function(module, debug, name, [("ctx", PTR, context_type(debug))], span, section=STREAM_SECTIONS[hook])


def build_parts(
    module: ir.Module, debug: DebugInfo, maps: Maps, rodata: Rodata, matcher: Matcher, rules: int, span: Span
) -> StreamParts:
    tables = matcher.tables
    assert tables.http is not None
    data = HttpData(rodata, tables, tables.http, matcher.rows.stream_sets)
    match = stream_rules.build(module, debug, maps, matcher, data, span)
    report = stream_report.build(module, debug, maps, rules, span)
    denied = _build_denied(module, debug, maps, report, span)
    head = http_verdict.build_head(module, debug, data, len(matcher.variants), span)
    judges = http.Judges(
        _build_judge(module, debug, head, report, denied, span),
        _build_malformed(module, debug, denied, len(matcher.variants), span),
    )
    return StreamParts(
        data,
        match,
        judges,
        rodata.array("http_forbidden", 1, FORBIDDEN + BODY),
        rodata.array("http_spoiler", 1, SPOILER),
        rodata.array("blank_stream", 1, bytes(STREAM_SIZE)),
        _build_shorten(module, debug, span),
        _build_cut(module, debug, span),
    )


# --- what a denial does ---------------------------------------------------------------------------------------------------


def _build_denied(module: ir.Module, debug: DebugInfo, maps: Maps, report: ir.Function, span: Span) -> ir.Function:
    """stream_denied(stream): the request at hand is denied: 0, or 1 where it passes all the same (an audited block, or a load that only reports)."""
    f = Function(module, debug, "stream_denied", [("stream", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    config = f.lookup_index(maps["config"], 0)
    with f.if_(f.not_null(config)), f.if_(f.bits(f.load(config, I32, CONFIG_FLAGS), ConfigFlag.AUDIT)):
        s.set("verdict", 1)
        s.set("reason", int(Reason.NO_POLICY))
        s.set("entry", 0)
        s.set("rule", 0)
    with f.if_(f.ne(s.get("verdict"), 0)):
        f.call(report, s.pointer)
        f.ret(1)
    s.raise_("state", State.POISONED)
    # Only where no earlier answer can be under way the client takes ours for this request's.
    sound = f.both(
        f.cmp("<=", s.get("mode"), Mode.HEAD_END), f.not_(s.has("framing", Framing.TRAILERS | Framing.WAITS))
    )
    # A server that has a part of the head must get more where that part could be taken for all of it: a thread that is blocked in a read is told of
    # an error, or all are told of the client's end.
    arrives = f.eq(s.get("direction"), int(Direction.INGRESS))
    carried = s.get("carried")
    needs_more = f.either(
        f.eq(carried, Carried.AWAITED), f.both(f.ne(carried, Carried.NOTHING), s.has("told", Told.ENDED))
    )
    sound = f.both(sound, f.not_(f.both(arrives, needs_more)))
    s.set("answer", f.select(sound, I8(Answer.FORBIDDEN), I8(Answer.CLOSED)))
    f.call(report, s.pointer)
    poison_mark(f, maps, s)
    return f.close()


def _build_malformed(
    module: ir.Module, debug: DebugInfo, denied: ir.Function, variants: int, span: Span
) -> ir.Function:
    """stream_malformed(stream, saw): what was read is no request."""
    f = Function(module, debug, "stream_malformed", [("stream", PTR, debug_type(debug)), ("saw", I32, debug.u32)], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    s.set("saw", f.select(s.has("framing", Framing.TRAILERS), I8(Saw.TRAILER), f.to(f.args[1], I8)))
    http_verdict.malformed(f, s, variants)
    with f.if_(f.ne(f.call(denied, s.pointer), 0)):
        s.set("mode", Mode.OPAQUE)
        s.raise_("state", State.UNJUDGED)
        s.set("position", s.get("length"))
    return f.close()


def _build_judge(
    module: ir.Module, debug: DebugInfo, head: ir.Function, report: ir.Function, denied: ir.Function, span: Span
) -> ir.Function:
    """stream_judge(stream): the request whose head was read: 1 if it passes."""
    f = Function(module, debug, "stream_judge", [("stream", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    f.call(head, s.pointer)
    with f.if_(f.eq(s.get("verdict"), 0)):
        f.ret(f.call(denied, s.pointer))
    f.call(report, s.pointer)
    f.ret(1)
    return f.close()


# --- entries --------------------------------------------------------------------------------------------------------------


def build_entry(module: ir.Module, debug: DebugInfo, maps: Maps, hook: StreamHook, span: Span) -> None:
    """enter_HOOK of the two verdict programs: the program of the slot that `switch` names."""
    name = hook.name.lower()
    f = program(module, debug, ENTRY_PREFIX + name, hook, span)
    switch = f.lookup_index(maps["switch"], 0)
    with f.if_(f.not_null(switch)):
        tail_call(f, maps, hook, f.to(f.sub(f.load(switch, I32), int(LoadState.ACTIVE)), I8))
    f.ret(SK_DROP)
    f.close()


def tail_call(f: Function, maps: Maps, hook: StreamHook, slot: Value) -> None:
    """To the program of a slot; goes on where there is none. Constant indices: the JIT makes them direct jumps."""
    for number in (0, 1):
        with f.if_(f.eq(slot, number)):
            f.helper(Helper.TAIL_CALL, f.args[0], maps[NEXT_PREFIX + hook.name.lower()], I32(number))


def stream_of(f: Function, maps: Maps, hook: StreamHook) -> Stream:
    """The record of the context's socket; without one nothing passes."""
    cookie = f.slot(I64, "cookie")
    if hook is StreamHook.STREAM_IN:
        f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, f.args[0]))
    else:
        socket = f.b.load(f.at_offset(f.args[0], MSG_SK), typ=PTR)
        with f.if_(f.is_null(socket)):
            f.ret(SK_DROP)
        known = f.helper(Helper.SK_STORAGE_GET, maps["socket_stream"], socket, ir.Constant(PTR, None), 0, result=PTR)
        with f.if_(f.is_null(known)):
            f.ret(SK_DROP)
        f.store(cookie, f.load(known, I64))
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.ret(SK_DROP)
    return Stream(f, pointer)


# --- verdicts -------------------------------------------------------------------------------------------------------------


def build_verdict(
    module: ir.Module, debug: DebugInfo, maps: Maps, parts: StreamParts, hook: StreamHook, span: Span
) -> None:
    """policyc_HOOK: reads the buffer, and passes it, or of it what stands before a denied request."""
    arrives = hook is StreamHook.STREAM_IN
    kind = "in" if arrives else "out"
    fill = _fill_from_skb if arrives else _fill_from_msg
    step = http.build_step(module, debug, parts.data, parts.judges, kind, fill, not arrives, span)
    f = program(module, debug, PROGRAM_PREFIX + hook.name.lower(), hook, span)
    s = stream_of(f, maps, hook)
    size = SKB_LEN if arrives else MSG_SIZE
    with f.if_(f.eq(f.load(f.args[0], I32, size), 0)):
        if arrives:
            _end_of_client(f, parts, s)
        f.ret(SK_PASS)
    end = f.b.append_basic_block("end")
    with f.if_(s.has("state", State.POISONED)):
        if arrives:
            f.ret(SK_DROP)
        else:
            _end_by_msg(f, maps, s)
    begun_in = f.var(Mode.START, I8)
    if not arrives:
        _follow_writes(f, maps, s, end)
        s.set("run", 0)
    else:
        _drop_repeated(f, maps, s, parts)
    s.set("length", f.load(f.args[0], I32, size))
    with f.if_(f.not_(s.has("state", State.RESUMES))):
        s.set("position", 0)
        s.set("window_length", 0)
        s.set("request_at", 0)
        _note_carried(f, maps, s, arrives)
        s.set("waited", f.to(f.ne(s.get("begun"), s.get("answered")), I8))
    _look_for_changes(f, maps, hook, s, parts, end)
    if not arrives:
        begun_in.set(_between_chunks(f, s))
    slot = http.context_slot(f, f.args[0], s.pointer)
    f.repeat(MOST_STEPS, step, slot)
    with f.if_(f.both(s.has("state", State.OTHER_SLOT), _stopped_at_start(f, s))):
        s.set("slot", f.xor(s.get("slot"), 1))
        s.raise_("state", State.RESUMES | State.MUST_MATCH)
        tail_call(f, maps, hook, s.get("slot"))
        f.ret(SK_DROP)
    with f.if_(f.both(s.has("state", State.MUST_MATCH), _stopped_at_start(f, s))):
        _match_again(f, maps, s, parts)
        f.repeat(MOST_STEPS, step, slot)
    f.leave(end)
    f.b.position_at_end(end)
    if not arrives:
        _keep_chunks_apart(f, s, begun_in)
    unread = f.cmp("<", s.get("position"), s.get("length"))
    with f.if_(f.both(unread, f.not_(s.has("state", State.POISONED)))):
        # More steps than there may be: nobody knows what follows.
        s.set("saw", int(Saw.HEAD_LIMIT))
        f.call(parts.judges.malformed, s.pointer, int(Saw.HEAD_LIMIT))
    within = f.both(s.within_head(), f.not_(s.has("state", State.POISONED)))
    if arrives:
        s.set("base", f.add(s.get("base"), s.get("length")))
        within = f.both(within, f.eq(f.to(s.get("approved"), I32), s.get("base")))
    with f.if_(f.both(within, s.has("told", Told.ENDED))):
        f.call(parts.judges.malformed, s.pointer, int(Saw.UNFINISHED))
    _pass_or_deny(f, maps, parts, s, arrives)
    f.close()


def _end_of_client(f: Function, parts: StreamParts, s: Stream) -> None:
    """The client's FIN, which comes as an empty buffer. Some servers take the end of a stream for that of a head: one that has a part of a head is given more of it
    than it can take."""
    with f.if_(s.within_head()):
        with f.if_(f.not_(s.has("state", State.POISONED))):
            s.set("carried", int(Carried.PART))
            f.call(parts.judges.malformed, s.pointer, int(Saw.UNFINISHED))
        with f.if_(f.both(s.has("state", State.POISONED), f.ne(s.get("carried"), Carried.NOTHING))):
            _become(f, parts.spoiler, I32(len(SPOILER)))


def _note_carried(f: Function, maps: Maps, s: Stream, arrives: bool) -> None:
    mode = s.get("mode")
    s.set("carried", f.select(f.eq(mode, Mode.START), I8(Carried.NOTHING), I8(Carried.PART)))
    if arrives:
        with (
            f.if_(s.within_head()),
            f.if_(f.ne(someone_is_blocked(f, maps, _tcp_socket(f, SKB_SK)), 0)),
        ):
            s.set("carried", int(Carried.AWAITED))


def _stopped_at_start(f: Function, s: Stream) -> Value:
    return f.both(f.eq(s.get("mode"), Mode.START), f.cmp("<", s.get("position"), s.get("length")))


def _look_for_changes(f: Function, maps: Maps, hook: StreamHook, s: Stream, parts: StreamParts, end: ir.Block) -> None:
    """Whether this program may finish the request at hand, and whether the next needs its rules found anew. A request that was begun under the
    program of the other slot, the one before, is handed to that."""
    config = f.lookup_index(maps["config"], 0)
    with f.if_(f.is_null(config)):
        f.ret(SK_DROP)
    with f.if_(f.ne(f.load(config, I32, CONFIG_STATE), int(LoadState.ACTIVE))):
        f.ret(SK_DROP)
    state = s.get("state")
    handed = f.bits(state, State.HANDED)
    s.drop("state", State.HANDED | State.RESUMES | State.OTHER_SLOT)
    with f.if_(f.ne(s.get("generation"), f.load(config, I32, CONFIG_GENERATION))):
        s.raise_("state", State.MUST_MATCH)
    with f.if_(s.has("told", Told.REFUSED)):
        _give_up(f, maps, s, Saw.EARLY_BYTES)
        f.leave(end)
    with f.if_(handed):
        s.raise_("state", State.OTHER_SLOT)
    with f.if_(f.both(s.has("state", State.UNJUDGED), s.has("state", State.MUST_MATCH))):
        _judge_at_last(f, maps, s, parts, f.bits(f.load(config, I32, CONFIG_FLAGS), ConfigFlag.AUDIT), end)
    # A head needs the program under which it began; what comes behind it is only counted.
    mode = s.get("mode")
    with f.if_(f.cmp(">", mode, Mode.HEAD_END)):
        s.set("load", f.load(config, I32, CONFIG_LOAD))
    begun = f.ne(mode, Mode.START)
    with f.if_(f.both(begun, f.ne(s.get("load"), f.load(config, I32, CONFIG_LOAD)))):
        switch = f.lookup_index(maps["switch"], 0)
        with f.if_(f.both(f.not_(handed), f.not_null(switch))):
            present = f.to(f.sub(f.load(switch, I32), int(LoadState.ACTIVE)), I8)
            s.set("slot", f.xor(present, 1))
            s.raise_("state", State.HANDED)
            tail_call(f, maps, hook, s.get("slot"))
        s.drop("state", State.HANDED)
        _give_up(f, maps, s, Saw.CONFIGURATION)
        f.leave(end)


def _judge_at_last(f: Function, maps: Maps, s: Stream, parts: StreamParts, only_reports: Value, end: ir.Block) -> None:
    """A stream that no policy in force judged, in which nobody knows where a request begins, ends once one does."""
    found = f.call(parts.match, s.pointer)
    judged = f.both(f.eq(found, int(Found.STREAM)), f.ne(s.get("rules_length"), 0))
    with f.if_(f.both(f.either(judged, f.eq(found, int(Found.DENIED))), f.not_(only_reports))):
        _give_up(f, maps, s, Saw.CONFIGURATION)
        s.set("request_at", 0)
        f.leave(end)


def _drop_repeated(f: Function, maps: Maps, s: Stream, parts: StreamParts) -> None:
    """Takes off what the client sent again with what is new: the kernel hands such a segment to verdict programs, and then to who reads, with bytes that were
    read before (tcp_read_skb). Where others wait behind it nobody can tell from the socket which repeats what."""
    tcp = _tcp_socket(f, SKB_SK)
    received = f.var(f.kernel_field(tcp, "tcp_sock", "rcv_nxt"))
    fin = f.to(s.get("approved"), I32)
    with f.if_(f.both(s.has("told", Told.ENDED), f.eq(received.get(), f.add(fin, 1)))):
        received.set(fin)
    length = f.load(f.args[0], I32, SKB_LEN)
    repeated = f.sub(f.add(s.get("base"), length), received.get())
    waited = f.ne(s.get("more"), 0)
    s.set("more", f.to(f.b.icmp_signed("<", repeated, I32(0)), I8))
    with f.if_(f.b.icmp_signed(">", repeated, I32(0))):
        s.set("run", repeated)
        with f.if_(f.both(f.not_(waited), f.cmp("<", repeated, length))):
            f.repeat(MOST_CUTS, parts.cut, http.context_slot(f, f.args[0], s.pointer))
        with f.if_(f.ne(s.get("run"), 0)):
            _give_up(f, maps, s, Saw.UNFOLLOWED)
            f.ret(f.select(s.has("state", State.POISONED), I32(SK_DROP), I32(SK_PASS)))


def _tcp_socket(f: Function, at: int) -> Value:
    """The context's socket, which every program here has, as a `struct tcp_sock`."""
    socket = f.b.load(f.at_offset(f.args[0], at), typ=PTR)
    with f.if_(f.is_null(socket)):
        f.ret(SK_DROP)
    tcp = f.helper(Helper.SKC_TO_TCP_SOCK, socket, result=PTR)
    with f.if_(f.is_null(tcp)):
        f.ret(SK_DROP)
    return tcp


def _follow_writes(f: Function, maps: Maps, s: Stream, end: ir.Block) -> None:
    """Compares what was approved with what stands in the socket's queue. More is there if somebody's `send` began before the socket was taken over: these
    bytes must not pass for approved ones. Less is there if a `send` that does not wait was taken in part: who sends goes on with the rest, which is
    read once more. Of a body or chunk only its length matters; what stands between two chunks is a buffer of its own (http.build_step), nothing of which was taken; of a
    head nobody knows any more what was read where."""
    done, lost = f.b.append_basic_block("followed"), f.b.append_basic_block("lost")
    with f.if_(f.both(f.eq(s.get("mode"), Mode.OPAQUE), f.not_(s.has("told", Told.REFUSED)))):
        f.leave(done)
    tcp = _tcp_socket(f, MSG_SK)
    # A protocol above TCP (kernel TLS) sends other bytes than those that are read here.
    with f.if_(f.not_null(f.kernel_pointer(tcp, "inet_connection_sock", "icsk_ulp_ops"))):
        f.leave(lost)
    with f.if_(s.has("state", State.RESUMES)):
        f.leave(done)
    written = f.kernel_field(tcp, "tcp_sock", "write_seq")
    lacking = f.sub(f.add(s.get("base"), f.to(s.get("approved"), I32)), written)
    with f.if_(f.eq(lacking, 0)):
        f.leave(done)
    counted = f.cmp(">=", s.get("run_mode"), Mode.BODY)
    with f.if_(f.either(f.eq(lacking, s.get("run")), f.both(counted, f.cmp("<", lacking, s.get("run"))))):
        s.set("approved", f.sub(s.get("approved"), f.to(lacking, I64)))
        s.set("remaining", f.select(counted, f.add(s.get("remaining"), f.to(lacking, I64)), I64(0)))
        s.set("mode", s.get("run_mode"))
        with f.if_(f.not_(counted)):
            s.set("digits", 0)
            s.drop("framing", Framing.TRAILERS)
        f.leave(done)
    f.leave(lost)
    f.b.position_at_end(lost)
    _give_up(f, maps, s, Saw.UNFOLLOWED)
    s.set("carried", 1)
    s.set("length", 0)
    s.set("position", 0)
    s.set("request_at", 0)
    f.leave(end)
    f.b.position_at_end(done)


def _between_chunks(f: Function, s: Stream) -> Value:
    """The Mode (i8) in which a buffer begins that may have to be read again: at the end of a chunk, or where a size is to come; else START."""
    mode = s.get("mode")
    between = f.either(f.eq(mode, Mode.CHUNK_END), f.both(f.eq(mode, Mode.CHUNK_SIZE), f.eq(s.get("digits"), 0)))
    return f.select(between, mode, I8(Mode.START))


def _keep_chunks_apart(f: Function, s: Stream, begun_in: Var) -> None:
    """A client's buffer ends where a chunk begins or ends: what is behind is asked for once more. So a `send` that is not taken can be read again."""
    mode = s.get("mode")
    at_chunk = f.either(f.eq(mode, Mode.CHUNK), f.eq(mode, Mode.CHUNK_END))
    with f.if_(f.both(at_chunk, f.ne(s.get("position"), 0), f.not_(s.has("state", State.POISONED)))):
        s.set("length", s.get("position"))
    with f.if_(
        f.both(f.ne(begun_in.get(), Mode.START), f.eq(s.get("request_at"), 0), f.eq(s.get("position"), s.get("length")))
    ):
        s.set("run", s.get("length"))
        s.set("run_mode", begun_in.get())


def _give_up(f: Function, maps: Maps, s: Stream, saw: Saw) -> None:
    """What follows cannot be judged: the connection ends, or where a load only reports nothing of it is judged any more."""
    config = f.lookup_index(maps["config"], 0)
    reports = f.var(0, I8)
    with f.if_(f.not_null(config)), f.if_(f.bits(f.load(config, I32, CONFIG_FLAGS), ConfigFlag.AUDIT)):
        reports.set(1)
    with f.if_else(f.ne(reports.get(), 0)) as (only, closes):
        with only:
            s.set("mode", Mode.OPAQUE)
            s.raise_("state", State.UNJUDGED)
            s.set("position", s.get("length"))
        with closes:
            s.set("saw", int(saw))
            s.raise_("state", State.POISONED)
            s.set("answer", int(Answer.CLOSED))
            poison_mark(f, maps, s)


def _match_again(f: Function, maps: Maps, s: Stream, parts: StreamParts) -> None:
    found = f.call(parts.match, s.pointer)
    with f.if_(f.eq(found, int(Found.DENIED))):
        _give_up(f, maps, s, Saw.NOTHING)
        s.set("request_at", s.get("position"))
        s.set("position", s.get("length"))
    with f.if_(f.eq(found, int(Found.PLAIN))):
        s.set("mode", Mode.OPAQUE)
        s.raise_("state", State.UNJUDGED)


def _pass_or_deny(f: Function, maps: Maps, parts: StreamParts, s: Stream, arrives: bool) -> None:
    context = f.args[0]
    with f.if_(f.not_(s.has("state", State.POISONED))):
        if arrives:
            f.ret(SK_PASS)
        else:
            length = s.get("length")
            s.set("approved", f.add(s.get("approved"), f.to(length, I64)))
            # Also where it is all there is: else the number given for the part before holds.
            f.helper(Helper.MSG_APPLY_BYTES, context, length)
            _to_peer(f, maps, s)
    before = s.get("request_at")
    with f.if_(f.ne(before, 0)):
        s.set("request_at", 0)
        s.set("carried", 0)
        if arrives:
            with f.if_(f.eq(f.helper(Helper.SKB_CHANGE_TAIL, context, before, 0), 0)):
                f.ret(SK_PASS)
            # It takes memory for the whole buffer in one piece. Without that nothing of it is passed, so the refusal answers its first request.
            with f.if_(f.eq(s.get("waited"), 0)):
                s.set("answer", int(Answer.FORBIDDEN))
        else:
            s.set("approved", f.add(s.get("approved"), f.to(before, I64)))
            f.helper(Helper.MSG_APPLY_BYTES, context, before)
            _to_peer(f, maps, s)
    if arrives:
        with f.if_(f.eq(s.get("answer"), int(Answer.FORBIDDEN))):
            cookie = f.slot(I64, "own_cookie")
            f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, context))
            f.repeat(MOST_CUTS, parts.shorten, http.context_slot(f, context, s.pointer))
            _answer_by_skb(f, maps, parts, _answer_length(f, s), cookie)
        with f.if_(f.ne(s.get("carried"), Carried.NOTHING)):
            _give_more(f, parts, s)
        f.ret(SK_DROP)
    else:
        _end_by_msg(f, maps, s)


def _build_shorten(module: ir.Module, debug: DebugInfo, span: Span) -> ir.Function:
    """stream_shorten(index, slot): takes bytes off the beginning of a buffer until little is left, 1 when it is done: to change what is long its
    whole length would be copied."""
    args = [("index", I32, debug.u32), ("slot", PTR, debug.pointer(debug.byte_record("step", 16)))]
    f = Function(module, debug, "stream_shorten", args, span, static=True)
    context = http.spilled(f, f.args[1], 0)
    length = f.load(context, I32, SKB_LEN)
    with f.if_(f.cmp("<=", length, MOST_CUT)):
        f.ret(1)
    failed = f.helper(Helper.SKB_ADJUST_ROOM, context, I32(-MOST_CUT & 0xFFFFFFFF), I32(0), 0)
    f.ret(f.to(f.ne(failed, 0), I32))
    return f.close()


def _build_cut(module: ir.Module, debug: DebugInfo, span: Span) -> ir.Function:
    """stream_cut(index, slot): takes `run` bytes off the beginning of a buffer, in parts; 1 when it is done."""
    args = [("index", I32, debug.u32), ("slot", PTR, debug.pointer(debug.byte_record("step", 16)))]
    f = Function(module, debug, "stream_cut", args, span, static=True)
    context, s = http.spilled(f, f.args[1], 0), Stream(f, http.spilled(f, f.args[1], 1))
    left = s.get("run")
    with f.if_(f.eq(left, 0)):
        f.ret(1)
    n = f.at_most(left, MOST_CUT)
    failed = f.helper(Helper.SKB_ADJUST_ROOM, context, f.sub(I32(0), n), I32(0), 0)
    with f.if_(f.ne(failed, 0)):
        f.ret(1)
    s.set("run", f.sub(left, n))
    return f.close()


def _answer_length(f: Function, s: Stream) -> Value:
    """Bytes of the refusal; to HEAD it has no body."""
    return f.select(f.eq(s.get("method"), METHOD_HEAD), I32(len(FORBIDDEN)), I32(len(FORBIDDEN) + len(BODY)))


def _give_more(f: Function, parts: StreamParts, s: Stream) -> None:
    """The buffer becomes what a server that has a part of a request may have in place of the rest: where the client's end follows at once, what no server takes
    for the rest of a head; where a thread is blocked, or within a body, a NUL, with which no head and no chunk ends, so that who waits goes on waiting until
    the connection is closed."""
    context = f.args[0]
    in_head = f.cmp("<=", s.get("mode"), Mode.HEAD_END)
    ended = f.both(in_head, s.has("told", Told.ENDED))
    with f.if_(f.both(in_head, f.eq(s.get("carried"), Carried.PART), f.not_(ended))):
        f.ret(SK_DROP)
    f.repeat(MOST_CUTS, parts.shorten, http.context_slot(f, context, s.pointer))
    with f.if_(ended):
        _become(f, parts.spoiler, I32(len(SPOILER)))
        f.ret(SK_PASS)
    _become(f, parts.blank, I32(1))
    f.ret(SK_PASS)


def _answer_by_skb(f: Function, maps: Maps, parts: StreamParts, length: Value, cookie: Value) -> None:
    """The buffer becomes the answer, and leaves by the socket at which it arrived."""
    context = f.args[0]
    _become(f, parts.answer, length)
    f.ret(f.to(f.helper(Helper.SK_REDIRECT_HASH, context, maps["streams_in"], cookie, 0), I32))


def _become(f: Function, text: Data, length: Value) -> None:
    """The buffer becomes the first `length` bytes of a text; without memory for that it is dropped."""
    context = f.args[0]
    with f.if_(f.ne(f.helper(Helper.SKB_CHANGE_TAIL, context, length, 0), 0)):
        f.ret(SK_DROP)
    with f.if_(f.ne(f.helper(Helper.SKB_PULL_DATA, context, length), 0)):
        f.ret(SK_DROP)
    with f.if_(f.ne(f.helper(Helper.SKB_STORE_BYTES, context, I32(0), text.var, length, 0), 0)):
        f.ret(SK_DROP)


def _end_by_msg(f: Function, maps: Maps, s: Stream) -> None:
    """The message becomes FILLER, which goes to the server in its place, so that what acknowledges it has the socket close (takeover.py), and
    behind that the refusal, which goes to those who read from the socket that sends it."""
    context = f.args[0]
    with f.if_(s.has("state", State.ENDED)):
        f.ret(SK_DROP)
    with f.if_(s.has("state", State.FILLS)):
        s.raise_("state", State.ENDED)
        f.helper(Helper.MSG_APPLY_BYTES, context, f.load(context, I32, MSG_SIZE))
        _to_reader(f, maps)
    s.raise_("state", State.FILLS)
    length = f.var(0, I32)
    with f.if_(f.eq(s.get("answer"), int(Answer.FORBIDDEN))):
        length.set(_answer_length(f, s))
    size, wanted = f.load(context, I32, MSG_SIZE), f.add(length.get(), len(FILLER))
    with f.if_else(f.cmp("<", size, wanted)) as (short, other):
        with short:
            failed = f.helper(Helper.MSG_PUSH_DATA, context, I32(0), f.sub(wanted, size), 0)
            with f.if_(f.ne(failed, 0)):
                f.ret(SK_DROP)
        with other, f.if_(f.cmp(">", size, wanted)):
            failed = f.helper(Helper.MSG_POP_DATA, context, wanted, f.sub(size, wanted), 0)
            with f.if_(f.ne(failed, 0)):
                f.ret(SK_DROP)
    with f.if_(f.ne(f.helper(Helper.MSG_PULL_DATA, context, I32(0), wanted, 0), 0)):
        f.ret(SK_DROP)
    data, end = (f.b.load(f.at_offset(context, at), typ=PTR) for at in (MSG_DATA, MSG_DATA_END))
    with f.if_(f.cmp(">", f.at_offset(data, len(FILLER)), end)):
        f.ret(SK_DROP)
    # Where the server has a part of the request, nothing that could be its end.
    f.store(data, f.select(f.ne(s.get("carried"), 0), I16(0), I16(int.from_bytes(FILLER, "little"))))
    for text in (FORBIDDEN, FORBIDDEN + BODY):
        with f.if_(f.eq(length.get(), len(text))):
            with f.if_(f.cmp(">", f.at_offset(data, len(FILLER) + len(text)), end)):
                f.ret(SK_DROP)
            for i, byte in enumerate(text):
                f.store(data, byte, I8, len(FILLER) + i)
    with f.if_(f.eq(length.get(), 0)):
        s.raise_("state", State.ENDED)
    s.set("approved", f.add(s.get("approved"), len(FILLER)))
    f.helper(Helper.MSG_APPLY_BYTES, context, I32(len(FILLER)))
    f.ret(SK_PASS)


def _to_peer(f: Function, maps: Maps, s: Stream) -> None:
    """Sends the message by its own socket, redirected to it: where a `send` that passes is taken in part the kernel lets the next one pass unasked
    (tcp_bpf_send_verdict keeps its `eval`), after a redirection it asks again."""
    with f.if_(f.eq(s.get("mode"), Mode.OPAQUE)):
        f.ret(SK_PASS)
    _redirect(f, maps, 0)


def _to_reader(f: Function, maps: Maps) -> None:
    """Hands the message to those who read from the socket that sends it."""
    _redirect(f, maps, F_INGRESS)


def _redirect(f: Function, maps: Maps, flags: int) -> None:
    """To the socket that sends the message."""
    context = f.args[0]
    cookie = f.slot(I64, "own_cookie")
    socket = f.b.load(f.at_offset(context, MSG_SK), typ=PTR)
    with f.if_(f.is_null(socket)):
        f.ret(SK_DROP)
    known = f.helper(Helper.SK_STORAGE_GET, maps["socket_stream"], socket, ir.Constant(PTR, None), 0, result=PTR)
    with f.if_(f.is_null(known)):
        f.ret(SK_DROP)
    f.store(cookie, f.load(known, I64))
    f.ret(f.to(f.helper(Helper.MSG_REDIRECT_HASH, context, maps["streams_out"], cookie, flags), I32))


def _fill_from_skb(f: Function, context: Value, s: Stream, position: Value, n: Value) -> None:
    with f.if_(f.ne(f.helper(Helper.SKB_LOAD_BYTES, context, position, s.address("window"), n), 0)):
        s.set("window_length", 0)
        f.ret(1)


def _fill_from_msg(f: Function, context: Value, s: Stream, position: Value, n: Value) -> None:
    with f.if_(f.ne(f.helper(Helper.MSG_PULL_DATA, context, position, f.add(position, n), 0), 0)):
        s.set("window_length", 0)
        f.ret(1)
    data, end = (f.b.load(f.at_offset(context, at), typ=PTR) for at in (MSG_DATA, MSG_DATA_END))
    read = f.var(0, I32)
    with f.loop(WINDOW_BYTES // 8, WINDOW_BYTES // 8) as (_, done):
        at = f.and_(read.get(), WINDOW_BYTES - 1)
        source = f.at_offset(data, at)
        with f.if_(f.cmp(">", f.at_offset(source, 8), end)):
            f.leave(done)
        f.store(s.address("window", at), f.load(source, I64))
        read.set(f.add(at, 8))
        with f.if_(f.cmp(">=", read.get(), WINDOW_BYTES)):
            f.leave(done)
    with f.loop(7, 7) as (_, done):
        with f.if_(f.cmp(">=", read.get(), WINDOW_BYTES)):
            f.leave(done)
        at = f.and_(read.get(), WINDOW_BYTES - 1)
        source = f.at_offset(data, at)
        with f.if_(f.cmp(">", f.at_offset(source, 1), end)):
            f.leave(done)
        f.store(s.address("window", at), f.load(source, I8))
        read.set(f.add(at, 1))
    with f.if_(f.cmp("<", read.get(), n)):
        s.set("window_length", 0)
        f.ret(1)
