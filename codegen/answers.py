"""Watching a server's answers in the packet programs: how many requests of a stream are answered whole, so that a refusal of ours is taken for the
answer to the right request; whether an Upgrade was accepted; whether a request was refused before its body.

Only heads and the heads of chunks are read, where they are expected by sequence number; bodies are passed over. What cannot be followed (a head over several packets, an
answer that ends with the connection) is given up for good: from then on a denied request ends the connection without an answer.
"""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.flow import Flow, debug_type
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Helper, Value
from policyc.codegen.http import CR, LF, SPACE, context_slot, spilled
from policyc.codegen.maps import Maps
from policyc.codegen.stream import Framing, Mode, Stream, Told
from policyc.codegen.words import ONES
from policyc.ir.http_tables import METHOD_CONNECT
from policyc.model import Span

LENGTH, ENCODING = b"content-length:", b"transfer-encoding:"
LENGTH_BYTES = 16  # of a Content-Length: its digits, spaces before them and the CR
PIECE, BEYOND = 128, 32  # bytes read at once, and of the last line in them what is looked at behind them
ROOM = PIECE + BEYOND + 8  # what the verifier thinks may be looked at behind a newline
CHUNK_LINE = 64
MOST_PIECES = 128  # of one packet
HEADS = 64  # requests
LONGEST = 1 << 30  # bytes of a body or chunk; sequence numbers wrap


class Awaits(IntEnum):
    """`answer_mode`: what begins at `answer_at`."""

    HEAD = 0
    END = 1  # of a body whose length is known
    CHUNK = 2
    LOST = 3  # nobody knows


class _Phase(IntEnum):
    FIRST_LINE = 0
    HEAD = 1  # what is behind it
    CHUNK = 2


def build(module: ir.Module, debug: DebugInfo, maps: Maps, see_mptcp: ir.Function, span: Span) -> ir.Function:
    """watch(ctx, flow): reads what a packet (an skb) has of its server's answers; the flow record has the cookie of the stream in `best`. Other packets are for `see_mptcp`: a
    call of its own in each program has kernel 6.1 walk more paths than it will."""
    step = _build_step(module, debug, span)
    # The kernel knows the context of a global function by the name of its type.
    args = [("ctx", PTR, debug.pointer(debug.struct("__sk_buff", [], 0))), ("flow", PTR, debug_type(debug))]
    f = Function(module, debug, "watch", args, span)
    with f.if_(f.is_null(f.args[1])):
        f.ret(0)
    flow = Flow(f, f.args[1])
    with f.if_(f.eq(flow.get("answers"), 0)):
        f.ret(f.call(see_mptcp, f.args[0], f.args[1]))
    cookie = f.slot(I64, "cookie")
    f.store(cookie, flow.get("best"))
    pointer = f.lookup(maps["streams"], cookie)
    with f.if_(f.is_null(pointer)):
        f.ret(0)
    s = Stream(f, pointer)
    with f.if_(f.not_(concern(f, flow, s))):
        f.ret(0)
    payload = flow.get("payload")
    ahead = f.sub(s.get("answer_at"), flow.get("sequence"))
    with f.if_(f.eq(s.get("answer_mode"), Awaits.END)):
        s.add("answered", 1)
        s.set("answer_mode", Awaits.HEAD)
        with f.if_(f.eq(ahead, payload)):
            f.ret(0)
    begins = flow.get("payload_at")
    s.set("watch_at", f.add(begins, ahead))
    s.set("watch_end", f.add(begins, payload))
    chunk = f.eq(s.get("answer_mode"), Awaits.CHUNK)
    s.set("watch_phase", f.select(chunk, I8(_Phase.CHUNK), I8(_Phase.FIRST_LINE)))
    # Without an end in this packet it is lost; what ends in it, or beyond it, says so.
    s.set("answer_mode", Awaits.LOST)
    f.repeat(MOST_PIECES, step, context_slot(f, f.args[0], s.pointer))
    with f.if_(f.ne(s.get("answer_mode"), Awaits.LOST)):
        s.set("answer_at", f.add(flow.get("sequence"), f.sub(s.get("watch_at"), begins)))
    return f.close()


def concern(f: Function, flow: Flow, s: Stream) -> Value:
    """Whether a server's packet has anything to read; one within a body whose end is known has not."""
    # Beyond this packet, or before it (a packet was lost on its way here).
    ahead = f.sub(s.get("answer_at"), flow.get("sequence"))
    return f.both(f.cmp("<=", ahead, flow.get("payload")), f.ne(s.get("answer_mode"), Awaits.LOST))


def _build_step(module: ir.Module, debug: DebugInfo, span: Span) -> ir.Function:
    """watch_step(index, slot): reads a piece; 1 where nothing is left to read."""
    args = [("index", I32, debug.u32), ("slot", PTR, debug.pointer(debug.byte_record("step", 16)))]
    f = Function(module, debug, "watch_step", args, span, static=True)
    _Step(f).build()
    return f.close()


class _Step:
    def __init__(self, f: Function) -> None:
        self.f, self.slot = f, f.args[1]
        self.context, self.s = spilled(f, self.slot, 0), Stream(f, spilled(f, self.slot, 1))
        self.piece = f.slot(ir.ArrayType(I8, ROOM), "piece")

    def build(self) -> None:
        f, s = self.f, self.s
        with f.if_(f.cmp(">=", s.get("watch_at"), s.get("watch_end"))):
            # Only between two answers, or two chunks, may a packet end.
            phase = s.get("watch_phase")
            with f.if_(f.eq(phase, _Phase.FIRST_LINE)):
                s.set("answer_mode", Awaits.HEAD)
            with f.if_(f.eq(phase, _Phase.CHUNK)):
                s.set("answer_mode", Awaits.CHUNK)
            f.ret(1)
        self._read()
        with f.if_(f.eq(s.get("watch_phase"), _Phase.FIRST_LINE)):
            self._first_line()
        with f.if_(f.eq(s.get("watch_phase"), _Phase.CHUNK)):
            self._chunk()
        self._lines()

    def _read(self) -> None:
        """Up to PIECE bytes, zeros behind them."""
        f = self.f
        f.zero(self.piece, ROOM)
        n = f.at_most(f.sub(self.s.get("watch_end"), self.s.get("watch_at")), PIECE + BEYOND)
        failed = f.helper(Helper.SKB_LOAD_BYTES, self.context, self.s.get("watch_at"), self.piece, n)
        with f.if_(f.ne(failed, 0)):
            f.ret(1)

    def _byte(self, at: int) -> Value:
        return self.f.load(self.piece, I8, at)

    def _begins_with(self, text: bytes, line: Value) -> Value:
        """Whether the letters, of either case, stand at a pointer."""
        f = self.f
        return f.both(*(f.eq(f.or_(f.load(line, I8, i), 0x20), b | 0x20) for i, b in enumerate(text)))

    def _newlines(self, at: Value) -> Value:
        """The top bits (i64) of those bytes of the piece's word at `at` that are LF."""
        f = self.f
        x = f.xor(f.load(self.piece, I64, at), LF * ONES)
        low = f.add(f.and_(x, 0x7F * ONES), 0x7F * ONES)
        return f.and_(f.not_(f.or_(low, x)), 0x80 * ONES)

    def _behind(self, hits: Value) -> Value:
        """Of a word with such bits the place (i64, 1 to 8) behind the first."""
        f = self.f
        # Below the first bit all are ones; of each byte that has some the lowest is counted.
        below = f.and_(f.sub(f.and_(hits, f.sub(I64(0), hits)), 1), ONES)
        return f.and_(f.shr(f.mul(below, ONES), 56), 15)

    def _newline(self) -> Value:
        """Where the first CHUNK_LINE bytes of the piece have an LF (i32), CHUNK_LINE if nowhere."""
        f = self.f
        found = f.var(CHUNK_LINE, I32)
        done = f.b.append_basic_block("newline")
        for word in range(CHUNK_LINE // 8):
            hits = self._newlines(8 * word)
            with f.if_(f.ne(hits, 0)):
                found.set(f.add(f.to(self._behind(hits), I32), 8 * word - 1))
                f.leave(done)
        f.leave(done)
        f.b.position_at_end(done)
        return found.get()

    def _advance(self, n: Value) -> None:
        self.s.set("watch_at", self.f.add(self.s.get("watch_at"), n))

    def _first_line(self) -> None:
        f, s = self.f, self.s
        # Bytes that nobody asked for, no answer, or one to a request that `heads` does not remember.
        waiting = f.sub(s.get("begun"), s.get("answered"))
        unknown = f.either(f.eq(waiting, 0), f.cmp(">", waiting, HEADS))
        with f.if_(f.either(unknown, f.not_(self._begins_with(b"HTTP/1.", self.piece)))):
            f.ret(1)
        digits = [f.to(f.sub(self._byte(9 + i), ord("0")), I32) for i in range(3)]
        with f.if_(f.either(*(f.cmp(">", d, 9) for d in digits))):
            f.ret(1)
        s.set("watch_status", f.add(f.add(f.mul(digits[0], 100), f.mul(digits[1], 10)), digits[2]))
        for name in ("watch_has_length", "watch_chunked", "watch_length"):
            s.set(name, 0)
        s.set("watch_phase", _Phase.HEAD)

    def _lines(self) -> None:
        """Those that begin in the piece: one that says how long the answer is, and the last. Others are passed over by their first letters."""
        f, s = self.f, self.s
        ended = f.b.append_basic_block("last_line")
        place = f.var(0, I32)
        with f.loop(PIECE // 8, PIECE // 8) as (word, _):
            at = f.shl(f.to(word, I64), 3)
            hits = f.var(self._newlines(at))
            with f.if_(f.ne(hits.get(), 0)), f.loop(2, 2) as (_, passed):  # a line has more than four bytes
                behind = f.add(at, self._behind(hits.get()))
                line = f.at_offset(self.piece, behind)
                first, ninth = f.load(line, I8), f.or_(f.load(line, I8, 8), 0x20)
                with f.if_(f.both(f.eq(first, CR), f.eq(f.load(line, I8, 1), LF))):
                    place.set(f.to(behind, I32))
                    f.leave(ended)
                folded = f.or_(first, 0x20)
                with (
                    f.if_(f.both(f.eq(folded, ord("c")), f.eq(ninth, ord("l")))),
                    f.if_(self._begins_with(LENGTH, line)),
                ):
                    self._content_length(f.at_offset(line, len(LENGTH)))
                with (
                    f.if_(f.both(f.eq(folded, ord("t")), f.eq(ninth, ord("-")))),
                    f.if_(self._begins_with(ENCODING, line)),
                ):
                    s.set("watch_chunked", 1)
                hits.set(f.and_(hits.get(), f.sub(hits.get(), 1)))
                with f.if_(f.eq(hits.get(), 0)):
                    f.leave(passed)
        self._advance(PIECE)
        f.ret(0)
        f.b.position_at_end(ended)
        self._advance(f.add(place.get(), 2))
        self._head_ended()

    def _content_length(self, value: Value) -> None:
        """Its digits are among the bytes that are looked at, or the answer cannot be followed."""
        f, s = self.f, self.s
        length, ended = f.var(0, I32), f.var(0, I8)
        with f.loop(LENGTH_BYTES, LENGTH_BYTES) as (i, done):
            byte = f.load(f.at_offset(value, f.to(i, I64)), I8)
            digit = f.to(f.sub(byte, ord("0")), I32)
            with f.if_else(f.cmp("<=", digit, 9)) as (more, other):
                with more:
                    with f.if_(f.cmp(">", length.get(), LONGEST // 10 - 1)):
                        f.ret(1)
                    length.set(f.add(f.mul(length.get(), 10), digit))
                with other, f.if_(f.ne(byte, SPACE)):
                    ended.set(f.to(f.eq(byte, CR), I8))
                    f.leave(done)
        with f.if_(f.either(f.eq(ended.get(), 0), f.ne(s.get("watch_has_length"), 0))):
            f.ret(1)
        s.set("watch_length", length.get())
        s.set("watch_has_length", 1)

    def _head_ended(self) -> None:
        f, s = self.f, self.s
        status = s.get("watch_status")
        is_connect = f.eq(s.get("method"), METHOD_CONNECT)
        accepted = f.either(f.eq(status, 101), f.both(is_connect, f.cmp(">=", status, 200), f.cmp("<", status, 300)))
        # Behind others that are not answered yet it is their answer.
        its_own = f.eq(f.sub(s.get("begun"), s.get("answered")), 1)
        with f.if_(f.both(accepted, f.eq(s.get("mode"), Mode.UPGRADED), its_own)):
            s.raise_("told", Told.SWITCHED)
            f.ret(1)
        with f.if_(f.cmp("<", status, 200)):
            s.set("watch_phase", _Phase.FIRST_LINE)
            f.ret(0)
        self._refused_early()
        bit = f.and_(f.shr(s.get("heads"), f.to(f.and_(s.get("answered"), 63), I64)), 1)
        bodyless = f.either(f.eq(status, 204), f.eq(status, 304), f.ne(bit, 0))
        with f.if_(bodyless):
            self._answered()
        with f.if_(f.ne(s.get("watch_chunked"), 0)):
            s.set("watch_phase", _Phase.CHUNK)
            f.ret(0)
        with f.if_(f.eq(s.get("watch_has_length"), 0)):  # ends with the connection
            f.ret(1)
        ends = f.add(s.get("watch_at"), s.get("watch_length"))
        s.set("watch_at", ends)
        with f.if_(f.cmp("<=", ends, s.get("watch_end"))):
            self._answered()
        s.set("answer_mode", Awaits.END)
        f.ret(1)

    def _refused_early(self) -> None:
        """A client that asked whether it may send its body got its final answer before: nobody knows whether what follows is the body or a request."""
        f, s = self.f, self.s
        mode = s.get("mode")
        unfinished = f.both(
            f.cmp(">", mode, Mode.HEAD_END), f.ne(mode, Mode.UPGRADED), f.ne(mode, Mode.OPAQUE),
            s.has("framing", Framing.EXPECT), f.eq(f.sub(s.get("begun"), s.get("answered")), 1),
        )  # fmt: skip
        with f.if_(unfinished):
            s.raise_("told", Told.REFUSED)

    def _answered(self) -> None:
        f, s = self.f, self.s
        s.add("answered", 1)
        with f.if_(f.eq(s.get("watch_at"), s.get("watch_end"))):
            s.set("answer_mode", Awaits.HEAD)
            f.ret(1)
        s.set("watch_phase", _Phase.FIRST_LINE)
        f.ret(0)

    def _chunk(self) -> None:
        f, s = self.f, self.s
        place = self._newline()
        s.set("watch_length", 0)
        s.set("watch_ended", 0)  # number of digits + 1
        for at in range(9):
            byte = self._byte(at)
            digit = f.to(f.sub(byte, ord("0")), I32)
            letter = f.to(f.sub(f.or_(byte, 0x20), ord("a")), I32)
            value = f.select(f.cmp("<=", digit, 9), digit, f.add(letter, 10))
            with f.if_(f.eq(s.get("watch_ended"), 0)), f.if_else(f.cmp("<", value, 16)) as (more, end):
                with more:
                    s.set("watch_length", f.or_(f.shl(s.get("watch_length"), 4), value))
                with end:
                    s.set("watch_ended", I8(at + 1))
        size = s.get("watch_length")
        unsound = f.either(f.eq(place, CHUNK_LINE), f.cmp("<", s.get("watch_ended"), 2), f.cmp(">", size, LONGEST))
        with f.if_(f.either(unsound, f.cmp(">", f.to(s.get("watch_ended"), I32), f.add(place, 1)))):
            f.ret(1)
        begins = f.add(s.get("watch_at"), f.add(place, 1))
        with f.if_(f.eq(size, 0)):
            # The empty line follows in the same packet, or trailers, which are not followed.
            with f.if_(f.cmp(">", f.add(begins, 2), s.get("watch_end"))):
                f.ret(1)
            with f.if_(f.ne(f.helper(Helper.SKB_LOAD_BYTES, self.context, begins, self.piece, I32(2)), 0)):
                f.ret(1)
            with f.if_(f.ne(f.load(self.piece, I16), LF << 8 | CR)):
                f.ret(1)
            s.set("watch_at", f.add(begins, 2))
            self._answered()
        ends = f.add(begins, f.add(size, 2))
        s.set("watch_at", ends)
        with f.if_(f.cmp(">", ends, s.get("watch_end"))):
            s.set("answer_mode", Awaits.CHUNK)
            f.ret(1)
        f.ret(0)
