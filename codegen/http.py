"""The machine that reads HTTP/1.x: one step, called by bpf_loop until a buffer is read or a request is denied.

A step reads up to STEP_BYTES with the automaton at hand, a line of which nothing is asked, one byte of what is counted or compared by hand, or passes over a
body. What is common and stands in the window as a whole is read by words (`_known_method`, `_known_version`, `_line`), all else by automata, to the same end. All it
knows stands in the stream's record, so that the bytes of a head may come in buffers of any size. What is malformed: docs/semantics.md, section 4.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from llvmlite import ir

from policyc.artifact.stream_layout import HOST_BYTES, METHOD_BYTES, PATH_BYTES, Saw
from policyc.codegen import words
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Value, Var
from policyc.codegen.http_data import (
    COMPONENT_WORDS,
    ENCODING,
    EXPECT,
    HOST,
    LENGTH,
    NAME_LENGTHS,
    RUN_BEYOND_SHIFT,
    RUN_WORDS,
    UPGRADE,
    AutomatonWord,
    ComponentWord,
    HttpData,
    NamedWord,
    RunWord,
)
from policyc.codegen.stream import (
    OFFSET,
    REQUEST_BEGIN,
    REQUEST_END,
    SLACK,
    WINDOW_BYTES,
    Framing,
    Mode,
    State,
    Stream,
    Told,
)
from policyc.ir.http_guards import ASTERISK, AUTHORITY
from policyc.ir.http_tables import ACTION, METHOD_CONNECT, METHOD_HEAD, METHOD_OPTIONS, RUN_BYTES, Stop
from policyc.model import Span

STEP_BYTES = SLACK - RUN_BYTES  # and what a run that begins within them has beyond
STEPS = 24  # of an automaton, each a byte or a run
MORE = ACTION - 1  # instead of a Stop: the walk has not ended
TAB, LF, CR, SPACE, PERCENT = 9, 10, 13, 32, 37
TLS_HANDSHAKE = 0x16
LAST_LENGTH = (1 << 63) - 1
LENGTH_DIGITS, CHUNK_DIGITS = 19, 8
HOST_FIELD = b"host:"
CRLF = 0x0A0D  # as it is loaded
NAME_AHEAD = 32  # bytes of a line that are looked at together, where the buffer has them
BLOCKS = WINDOW_BYTES // words.WORD
INSIDE = 2 * WINDOW_BYTES - 1

Fill = Callable[[Function, Value, Stream, Value, Value], None]
"""fill(f, context, stream, position, n): `n` (1 to WINDOW_BYTES, i32) bytes of the buffer from `position` on into the window."""


@dataclass(frozen=True)
class Judges:
    """Functions of the stream that decide: at the end of a head (1 if it is allowed), and of what is malformed (with its Saw)."""

    judge: ir.Function
    malformed: ir.Function


def context_slot(f: Function, context: Value, stream: Value) -> Value:
    """What a step is called with: the program's context and the stream's record."""
    slot = f.slot(ir.ArrayType(I64, 2), "step")
    for i, pointer in enumerate((context, stream)):
        f.b.store(pointer, f.at_offset(slot, 8 * i))
    return slot


def spilled(f: Function, slot: Value, index: int) -> Value:
    """A pointer of `context_slot`."""
    return f.b.load(f.at_offset(slot, 8 * index), typ=PTR)


def build_step(
    module: ir.Module, debug: DebugInfo, data: HttpData, judges: Judges, kind: str, fill: Fill, apart: bool, span: Span
) -> ir.Function:
    """http_step_KIND(index, slot): 1 where nothing is left to do: the buffer is read, the request is denied, or rules have to be found first. `apart`: also where a
    chunk's bytes begin or end within the buffer."""
    u64s: Any = debug.pointer(debug.byte_record("step", 16))
    args = [("index", I32, debug.u32), ("slot", PTR, u64s)]
    f = Function(module, debug, f"http_step_{kind}", args, span, static=True)
    _Step(f, data, judges, fill, apart).build()
    return f.close()


class _Step:
    def __init__(self, f: Function, data: HttpData, judges: Judges, fill: Fill, apart: bool) -> None:
        self.f, self.data, self.judges, self.fill, self.apart = f, data, judges, fill, apart
        slot = f.args[1]
        self.context, self.stream = spilled(f, slot, 0), Stream(f, spilled(f, slot, 1))
        self.saw = f.var(0, I32)
        self.bad = f.b.append_basic_block("malformed")
        self.more = f.b.append_basic_block("more")
        self.line, self.version, self.skip, self.head_ended = (
            f.b.append_basic_block(name) for name in ("line", "version", "skip", "head_ended")
        )

    def build(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.cmp(">=", s.get("position"), s.get("length"))):
            f.ret(1)
        mode = s.get("mode")
        with f.if_(f.cmp(">=", mode, Mode.BODY)):
            self._pass_over(mode)
        with f.if_(f.eq(mode, Mode.START)):
            self._begin()
        mode = s.get("mode")
        with f.if_(f.both(f.cmp("<=", mode, Mode.HEAD_END), f.cmp(">=", s.get("head"), s.get("limit")))):
            self.malformed(Saw.HEAD_LIMIT)
        self.offset = f.var(self._window(mode))
        self.at = f.var(self.offset.get())
        with f.if_(f.eq(mode, Mode.LINE)):
            f.leave(self.line)
        with f.if_(f.eq(mode, Mode.SKIP)):
            f.leave(self.skip)
        with f.if_(f.cmp(">", mode, Mode.VALUE)):
            self._byte()
            f.leave(self.more)
        with f.if_(f.both(f.eq(mode, Mode.METHOD), f.eq(s.get("head"), 0))):
            self._known_method()
        self.read = f.b.append_basic_block("read")
        f.leave(self.read)
        f.b.position_at_end(self.read)
        self._read()
        f.b.position_at_end(self.version)
        self._known_version()
        f.b.position_at_end(self.line)
        self._line()
        f.b.position_at_end(self.skip)
        self._skip()
        f.b.position_at_end(self.head_ended)
        self._judge()
        f.leave(self.more)
        f.b.position_at_end(self.more)
        f.ret(0)
        f.b.position_at_end(self.bad)
        f.call(self.judges.malformed, s.pointer, self.saw.get())
        # A request that only an audited block denies passes; nothing more of its stream is judged.
        f.ret(1)

    def malformed(self, saw: Saw) -> None:
        self.saw.set(int(saw))
        self.f.leave(self.bad)

    # --- what is not read ---------------------------------------------------------------------------------------------

    def _pass_over(self, mode: Value) -> None:
        """A body, a chunk, or what is not judged any more."""
        f, s = self.f, self.stream
        left = f.to(f.sub(s.get("length"), s.get("position")), I64)
        with f.if_(f.eq(mode, Mode.OPAQUE)):
            s.set("position", s.get("length"))
            f.ret(1)
        if self.apart:
            with f.if_(f.both(f.eq(mode, Mode.CHUNK), f.ne(s.get("position"), 0))):
                f.ret(1)
        remaining = s.get("remaining")
        n = f.select(f.cmp("<", remaining, left), remaining, left)
        s.add("position", f.to(n, I32))
        s.set("remaining", f.sub(remaining, n))
        ends = f.eq(s.get("position"), s.get("length"))
        whole = f.either(ends, f.eq(mode, Mode.CHUNK)) if self.apart else ends
        s.set("run", f.select(whole, f.to(n, I32), I32(0)))
        s.set("run_mode", mode)
        with f.if_(f.eq(s.get("remaining"), 0)), f.if_else(f.eq(mode, Mode.BODY)) as (body, chunk):
            with body:
                self._finish()
            with chunk:
                s.set("mode", Mode.CHUNK_END)
                if self.apart:
                    f.ret(1)
        f.ret(0)

    def _finish(self) -> None:
        """The request has been passed whole."""
        f, s = self.f, self.stream
        s.set("mode", Mode.START)
        with f.if_(s.has("framing", Framing.SWITCHES)):
            # Answers are watched where a block is in force.
            watched = f.ne(s.get("rules_length"), 0)
            s.set("mode", f.select(watched, I8(Mode.UPGRADED), I8(Mode.OPAQUE)))
            with f.if_(f.not_(watched)):
                s.raise_("state", State.UNJUDGED)

    def _begin(self) -> None:
        f, s = self.f, self.stream
        with f.if_(s.has("state", State.MUST_MATCH | State.OTHER_SLOT)):
            f.ret(1)
        f.zero(s.address("content_length"), REQUEST_END - REQUEST_BEGIN)
        s.set("head", 0)
        s.set("request_at", s.get("position"))
        s.set("carried", 0)
        s.set("mode", Mode.METHOD)
        with f.if_(f.ne(s.get("begun"), s.get("answered"))):
            s.set("framing", Framing.WAITS)

    def _enter(self, automaton: Value) -> None:
        """The automaton reads from its start state on."""
        f, s = self.f, self.stream
        automaton = I32(automaton) if isinstance(automaton, int) else automaton
        s.set("automaton", f.to(automaton, I16))
        s.set("at", f.to(self.data.automaton(f, automaton, AutomatonWord.START), I16))

    # --- bytes ----------------------------------------------------------------------------------------------------------

    def _window(self, mode: Value) -> Value:
        """Where in the window (i32) the next byte stands. It is fetched where that is not there, or little of a line is."""
        f, s = self.f, self.stream
        offset = f.var(f.sub(s.get("position"), s.get("window_at")))
        lacks = f.cmp(">=", offset.get(), s.get("window_length"))
        begins = f.either(f.eq(mode, Mode.LINE), f.eq(mode, Mode.METHOD))
        with f.if_(f.either(lacks, f.both(begins, self._is_short(offset.get())))):
            n = f.at_most(f.sub(s.get("length"), s.get("position")), WINDOW_BYTES)
            s.set("window_at", s.get("position"))
            s.set("window_length", n)
            self.fill(f, self.context, s, s.get("position"), n)
            offset.set(0)
        return offset.get()

    def _is_short(self, offset: Value) -> Value:
        """Whether the window has little behind `offset`, and the buffer more."""
        f, s = self.f, self.stream
        length = s.get("window_length")
        little = f.cmp("<", length, f.add(offset, NAME_AHEAD))
        return f.both(little, f.cmp("<", f.add(s.get("window_at"), length), s.get("length")))

    def _word(self, offset: Value, type_: ir.IntType = I64) -> Value:
        """Bytes from an offset in the window on, also behind the end of what was fetched."""
        f = self.f
        return f.load(self.stream.address("window", f.and_(offset, WINDOW_BYTES - 1)), type_)

    def _at(self, offset: Value) -> Value:
        """The byte (i8) at an offset in the window."""
        f = self.f
        return f.load(self.stream.address("window", f.and_(offset, WINDOW_BYTES - 1)), I8)

    def _consume(self, n: Value) -> None:
        """The next `n` bytes, all of them in the window, are read."""
        f, s = self.f, self.stream
        s.add("position", n)
        s.add("head", n)
        # From memory, so that the verifier does not go on with each number of bytes by itself.
        self.offset.set(f.and_(f.sub(s.get("position"), s.get("window_at")), INSIDE))

    def _check_limit(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.cmp(">", s.get("head"), s.get("limit"))):
            self.malformed(Saw.HEAD_LIMIT)

    def _take_lf(self) -> None:
        """A line's LF where it stands in the window; else it is the next step's."""
        f, s = self.f, self.stream
        s.set("mode", Mode.LINE_END)
        at = self.offset.get()
        there = f.both(f.cmp("<", at, s.get("window_length")), f.eq(self._at(at), LF))
        with f.if_(there):
            self._consume(I32(1))
            self._next_line()

    def _component(self, word: ComponentWord) -> Value:
        return self.data.components(self.f, self.stream.get("component"), COMPONENT_WORDS, word)

    # --- automata -------------------------------------------------------------------------------------------------------

    def _read(self) -> None:
        f, s, data = self.f, self.stream, self.data
        automaton = f.to(s.get("automaton"), I32)
        base, width = (data.automaton(f, automaton, w) for w in (AutomatonWord.NEXT, AutomatonWord.WIDTH))
        classes = f.shl(automaton, 9)
        begin = self.offset.get()
        state, at, stop = f.var(f.to(s.get("at"), I32)), f.var(begin), f.var(MORE, I32)
        end = s.get("window_length")
        runs, first_run = (data.automaton(f, automaton, w) for w in (AutomatonWord.RUNS, AutomatonWord.RUN))
        last = f.var(f.add(begin, STEP_BYTES))
        with f.if_(f.cmp(">", last.get(), end)):
            last.set(end)
        with f.loop(STEPS, STEPS) as (_, done):
            with f.if_(f.cmp(">=", at.get(), last.get())):
                f.leave(done)
            step, behind = (f.b.append_basic_block(name) for name in ("step", "behind_step"))
            with f.if_(f.cmp("<", state.get(), runs)):
                run = f.add(first_run, state.get())
                text, target = (data.runs(f, run, RUN_WORDS, w) for w in RunWord)
                beyond = f.shr(target, RUN_BEYOND_SHIFT)
                other = f.shl(f.xor(self._word(at.get()), text), f.and_(beyond, 63))
                after_run = f.sub(f.add(at.get(), words.WORD), f.to(f.shr(beyond, 3), I32))
                with f.if_(f.both(f.eq(other, 0), f.cmp("<=", after_run, end))):
                    state.set(f.and_(f.to(target, I32), ACTION - 1))
                    at.set(f.and_(after_run, INSIDE))
                    f.leave(behind)
            f.leave(step)
            f.b.position_at_end(step)
            class_ = data.classes(f, f.add(classes, f.to(self._at(at.get()), I32)))
            after = f.to(data.next(f, f.add(f.add(base, f.mul(state.get(), width)), f.to(class_, I32))), I32)
            at.set(f.and_(f.add(at.get(), 1), INSIDE))
            with f.if_(f.bits(after, ACTION)):
                stop.set(f.and_(after, ACTION - 1))
                f.leave(done)
            state.set(after)
            f.leave(behind)
            f.b.position_at_end(behind)
        s.set("at", f.to(state.get(), I16))
        consumed = f.sub(at.get(), begin)
        ended = f.ne(stop.get(), MORE)
        # Of what ends a walk only the percent sign belongs to the text.
        delimiter = f.both(ended, f.ne(stop.get(), Stop.ESCAPE))
        self._keep_text(begin, f.sub(consumed, f.to(delimiter, I32)))
        self._consume(consumed)
        self._check_limit()
        with f.if_(f.not_(ended)):
            f.leave(self.more)
        outcome = data.outcomes(f, f.add(data.automaton(f, automaton, AutomatonWord.OUTCOME), f.to(s.get("at"), I32)))
        self._ended(stop.get(), outcome)
        f.leave(self.more)

    def _keep_text(self, begin: Value, n: Value) -> None:
        """Copies what was read of method, path and Host line for events; what is cut off is counted."""
        f, s = self.f, self.stream
        mode = s.get("mode")
        self._keep(f.eq(mode, Mode.METHOD), "method", METHOD_BYTES, begin, n)
        self._keep(f.eq(mode, Mode.PATH), "path", PATH_BYTES, begin, n)
        self._keep(f.both(f.eq(mode, Mode.VALUE), f.eq(s.get("header"), HOST)), "host", HOST_BYTES, begin, n)

    def _keep(self, condition: Value, text: str, room: int, begin: Value, n: Value) -> None:
        f, s = self.f, self.stream
        with f.if_(condition):
            kept = f.to(s.get(f"{text}_length"), I32)
            with f.if_(f.cmp("<", kept, room)):
                source = s.address("window", f.and_(begin, WINDOW_BYTES - 1))
                target = s.address(f"{text}_text", f.and_(kept, room - 1))
                f.copy(target, 0, source, 0, SLACK)
            s.set(f"{text}_length", f.to(f.add(kept, n), I16))

    def _ended(self, stop: Value, outcome: Value) -> None:
        """The automaton's delimiter was read."""
        f = self.f
        with f.if_(f.eq(stop, Stop.MALFORMED)):
            self._malformed_where()
        self.stop, self.outcome = stop, outcome
        cases = {
            Mode.METHOD: self._method, Mode.PATH: self._path, Mode.QUERY_KEY: self._query_key,
            Mode.QUERY_VALUE: self._query_value, Mode.VERSION: self._version, Mode.NAME: self._name,
            Mode.VALUE: self._value,
        }  # fmt: skip
        f.switch(self.stream.get("mode"), {int(m): emit for m, emit in cases.items()}, self.more)

    def _malformed_where(self) -> None:
        """What a byte that may not stand there makes of the request."""
        f, s = self.f, self.stream
        mode = s.get("mode")
        first = f.both(f.eq(mode, Mode.METHOD), f.eq(s.get("head"), 1))
        begins = self._last_byte()
        with f.if_(f.both(first, f.eq(begins, TLS_HANDSHAKE))):
            self.malformed(Saw.TLS)
        with f.if_(f.both(self._is_preface(), f.either(f.eq(mode, Mode.PATH), f.eq(mode, Mode.VERSION)))):
            self.malformed(Saw.HTTP2)
        folded = f.both(f.eq(s.get("at"), self._start(self.data.http.name)), self._is_blank(self._last_byte()))
        with f.if_(f.both(f.eq(mode, Mode.NAME), s.has("framing", Framing.TRAILERS))):
            self.malformed(Saw.TRAILER)
        with f.if_(f.both(f.eq(mode, Mode.NAME), folded)):
            self.malformed(Saw.FOLDED_LINE)
        last = self._last_byte()
        of_host = f.both(f.eq(mode, Mode.VALUE), f.eq(s.get("header"), HOST), f.ne(last, LF), f.ne(last, 0))
        with f.if_(of_host):
            self.malformed(Saw.HOST)
        saws = {
            Mode.METHOD: Saw.START_LINE, Mode.PATH: Saw.TARGET, Mode.QUERY_KEY: Saw.TARGET,
            Mode.QUERY_VALUE: Saw.TARGET, Mode.VERSION: Saw.VERSION, Mode.NAME: Saw.HEADER_NAME,
        }  # fmt: skip
        for m, saw in saws.items():
            with f.if_(f.eq(mode, m)):
                self.malformed(saw)
        self.malformed(Saw.HEADER_VALUE)

    def _start(self, automaton: int) -> Value:
        return self.f.to(self.data.automaton(self.f, automaton, AutomatonWord.START), I16)

    def _start_at(self) -> Value:
        """The start state (i16) of the automaton at hand."""
        f = self.f
        return f.to(self.data.automaton(f, f.to(self.stream.get("automaton"), I32), AutomatonWord.START), I16)

    def _last_byte(self) -> Value:
        """The byte that was consumed last."""
        f, s = self.f, self.stream
        return self._at(f.sub(f.sub(s.get("position"), s.get("window_at")), 1))

    def _is_blank(self, byte: Value) -> Value:
        return self.f.either(self.f.eq(byte, SPACE), self.f.eq(byte, TAB))

    def _is_preface(self) -> Value:
        """Whether the method is that of HTTP/2's connection preface (RFC 9113, section 3.4)."""
        f, s = self.f, self.stream
        letters = (f.eq(f.load(s.address("method_text", i), I8), b) for i, b in enumerate(b"PRI"))
        return f.both(f.eq(s.get("method_length"), 3), *letters)

    # --- the start line ---------------------------------------------------------------------------------------------------

    def _known_method(self) -> None:
        """A method that has a number and, with the space behind it, fits into a word; any other is the automaton's."""
        f, s, http = self.f, self.stream, self.data.http
        found, read = (f.b.append_basic_block(name) for name in ("known_method", "other_method"))
        with f.if_(f.cmp(">", f.add(self.offset.get(), words.WORD), s.get("window_length"))):
            f.leave(read)
        word = self._word(self.offset.get())
        for number, name in enumerate(http.methods):
            if not 0 < len(name) < words.WORD:
                continue
            text = name.encode() + b" "
            with f.if_(f.eq(f.and_(word, (1 << 8 * len(text)) - 1), words.text(text))):
                s.set("method", number)
                s.set("method_length", len(name))
                f.leave(found)
        f.leave(read)
        f.b.position_at_end(found)
        f.store(s.address("method_text"), word)
        self._consume(f.add(f.to(s.get("method_length"), I32), 1))
        self._check_limit()
        self._to_path()
        behind = f.b.append_basic_block("behind_method")
        f.leave(behind)
        f.b.position_at_end(read)
        self._enter(http.method)
        f.leave(behind)
        f.b.position_at_end(behind)

    def _method(self) -> None:
        s = self.stream
        s.set("method", self.outcome)
        self._to_path()

    def _to_path(self) -> None:
        self.stream.set("mode", Mode.PATH)
        self._enter(self._component(ComponentWord.PATH))

    def _path(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.eq(self.stop, Stop.ESCAPE)):
            self._escape(Mode.PATH)
        with f.if_(f.eq(self.outcome, 0)):
            self._bad_target()
        s.set("path", self.outcome)
        self._form()
        with f.if_else(f.eq(self.stop, Stop.QUERY)) as (query, end):
            with query:
                self._next_key()
            with end:
                self._to_version()

    def _form(self) -> None:
        """`*` stands with OPTIONS only, authority form and CONNECT with each other."""
        f, s = self.f, self.stream
        form, method = self.data.form(f, s.get("component"), s.get("path")), s.get("method")
        stray = f.both(f.eq(form, ASTERISK), f.ne(method, METHOD_OPTIONS))
        other = f.ne(f.to(f.eq(form, AUTHORITY), I8), f.to(f.eq(method, METHOD_CONNECT), I8))
        with f.if_(f.either(stray, other)):
            self._bad_target()

    def _bad_target(self) -> None:
        with self.f.if_(self._is_preface()):
            self.malformed(Saw.HTTP2)
        self.malformed(Saw.TARGET)

    def _to_version(self) -> None:
        self.f.leave(self.version)

    def _known_version(self) -> None:
        """Version and the line's end where the window has all of it."""
        f, s = self.f, self.stream
        at = self.offset.get()
        word, behind = self._word(at), self._word(f.add(at, words.WORD), I16)
        digit = f.to(f.shr(word, 56), I8)
        sound = f.both(
            f.cmp(">=", s.get("window_length"), f.add(at, words.WORD + 2)),
            f.eq(f.and_(word, (1 << 56) - 1), words.text(b"HTTP/1.")),
            f.eq(f.and_(digit, 0xFE), ord("0")),
            f.eq(behind, CRLF),
        )
        with f.if_(f.not_(sound)):
            s.set("mode", Mode.VERSION)
            self._enter(self.data.version)
            f.leave(self.more)
        s.set("minor", f.sub(digit, ord("0") - 1))
        self._next_line()
        self._consume(I32(words.WORD + 2))
        self._check_limit()
        at = self.offset.get()
        with f.if_(f.either(f.cmp(">=", at, s.get("window_length")), self._is_short(at))):
            f.leave(self.more)
        f.leave(self.line)

    def _next_key(self) -> None:
        self.stream.set("mode", Mode.QUERY_KEY)
        self._enter(self._component(ComponentWord.QUERY_KEY))

    def _escape(self, returns: Mode) -> None:
        self.stream.set("escaped_mode", returns)
        self.stream.set("mode", Mode.ESCAPE)
        self.f.leave(self.more)

    def _query_key(self) -> None:
        f, s, data = self.f, self.stream, self.data
        with f.if_(f.eq(self.stop, Stop.ESCAPE)):
            self._escape(Mode.QUERY_KEY)
        s.set("query", self.outcome)
        named = self._query_named()
        with f.if_(f.eq(self.stop, Stop.VALUE)):
            s.set("mode", Mode.QUERY_VALUE)
            asked = f.ne(self.outcome, 0)
            automaton = data.named(f, named, 4, NamedWord.AUTOMATON)
            self._enter(f.select(asked, automaton, I32(data.http.skip_query)))
            f.leave(self.more)
        # Without a value; an empty piece, which alone ends in the start state, is no key.
        with f.if_(f.both(f.ne(self.outcome, 0), f.ne(s.get("at"), self._start_at()))):
            automaton = data.named(f, named, 4, NamedWord.AUTOMATON)
            start = data.automaton(f, automaton, AutomatonWord.START)
            self._apply(named, data.outcomes(f, f.add(data.automaton(f, automaton, AutomatonWord.OUTCOME), start)))
        self._after_query_piece()

    def _query_named(self) -> Value:
        """The record in `named` of the key at hand, whose number is not 0."""
        f, s = self.f, self.stream
        return f.sub(f.add(self._component(ComponentWord.QUERIES), f.to(s.get("query"), I32)), 1)

    def _query_value(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.eq(self.stop, Stop.ESCAPE)):
            self._escape(Mode.QUERY_VALUE)
        with f.if_(f.ne(s.get("query"), 0)):
            self._apply(self._query_named(), self.outcome)
        self._after_query_piece()

    def _after_query_piece(self) -> None:
        f = self.f
        with f.if_else(f.eq(self.stop, Stop.TARGET)) as (ended, piece):
            with ended:
                self._to_version()
            with piece:
                self._next_key()

    def _apply(self, named: Value, outcome: Value) -> None:
        """The conditions on a name that a value's `outcome` satisfies, and those that it does not."""
        f, s, data = self.f, self.stream, self.data
        mask = data.masks(f, f.add(data.named(f, named, 4, NamedWord.MASKS), f.to(outcome, I32)))
        s.set("held", f.or_(s.get("held"), mask))
        s.set("failed", f.or_(s.get("failed"), f.and_(self._all(named), f.not_(mask))))

    def _all(self, named: Value) -> Value:
        f, data = self.f, self.data
        low, high = (f.to(data.named(f, named, 4, w), I64) for w in (NamedWord.ALL_LOW, NamedWord.ALL_HIGH))
        return f.or_(low, f.shl(high, 32))

    def _version(self) -> None:
        self.stream.set("minor", self.f.to(self.outcome, I8))
        self._next_line()

    # --- header lines -----------------------------------------------------------------------------------------------------

    def _next_line(self) -> None:
        self.stream.set("mode", Mode.LINE)

    def _line(self) -> None:
        """The end of the head, or a line: a name of letters, digits and hyphens is read by words where nobody asks for one like it."""
        f, s, data = self.f, self.stream, self.data
        self._end_of_head()
        self._same_host()
        begin, end = self.offset.get(), s.get("window_length")
        named, other = (f.b.append_basic_block(name) for name in ("named", "other_name"))
        length = f.var(0, I32)
        with f.loop(NAME_LENGTHS // words.WORD, NAME_LENGTHS // words.WORD):
            word = self._word(f.add(begin, length.get()))
            colons = words.equal(f, word, ord(":"))
            odd = f.not_(words.plain_letters(f, word))
            with f.if_(f.ne(f.and_(words.before_first(f, colons), odd), 0)):
                f.leave(other)
            with f.if_(f.ne(colons, 0)):
                length.set(f.add(length.get(), words.first(f, colons)))
                f.leave(named)
            length.set(f.add(length.get(), words.WORD))
        f.leave(other)
        f.b.position_at_end(named)
        n = f.and_(length.get(), NAME_LENGTHS - 1)
        behind = f.add(f.add(begin, n), 1)
        known = data.names(f, f.to(self._at(begin), I32))
        asked = f.bits(f.shr(known, n), 1)
        with f.if_(f.either(f.eq(n, 0), f.cmp(">", behind, end), asked)):
            f.leave(other)
        self.at.set(behind)
        f.leave(self.skip)
        f.b.position_at_end(other)
        s.set("mode", Mode.NAME)
        self._enter(data.http.name)
        f.leave(self.more)

    def _end_of_head(self) -> None:
        f = self.f
        at = self.offset.get()
        inside = f.cmp("<=", f.add(at, 2), self.stream.get("window_length"))
        with f.if_(f.both(inside, f.eq(self._word(at, I16), CRLF))):
            self._consume(I32(2))
            self._check_limit()
            f.leave(self.head_ended)

    def _same_host(self) -> None:
        """A Host line that is the one before to the letter, as it is on most connections."""
        f, s = self.f, self.stream
        begin, n = self.offset.get(), s.get("known_host_length")
        same, other = (f.b.append_basic_block(name) for name in ("same_host", "no_known_host"))
        field = f.and_(f.or_(self._word(begin), 0x20202020), (1 << 8 * len(HOST_FIELD)) - 1)
        first = f.not_(s.has("framing", Framing.HOST | Framing.TRAILERS))
        with f.if_(f.not_(f.both(f.eq(field, words.text(HOST_FIELD)), first, f.ne(n, 0)))):
            f.leave(other)
        value = f.add(begin, len(HOST_FIELD))
        with f.loop(HOST_BYTES // words.WORD, HOST_BYTES // words.WORD) as (i, _):
            at = f.shl(i, 3)
            left = f.sub(n, at)
            known = f.load(s.address("host_text", at), I64)
            differs = f.var(f.xor(self._word(f.add(value, at)), known))
            with f.if_(f.cmp("<=", left, words.WORD)):
                beyond = f.sub(64, f.shl(left, 3))
                with f.if_(f.eq(f.shl(differs.get(), f.to(f.and_(beyond, 63), I64)), 0)):
                    f.leave(same)
                f.leave(other)
            with f.if_(f.ne(differs.get(), 0)):
                f.leave(other)
        f.leave(other)
        f.b.position_at_end(same)
        behind = f.add(value, n)
        ends = f.both(f.cmp("<=", f.add(behind, 2), s.get("window_length")), f.eq(self._word(behind, I16), CRLF))
        with f.if_(f.not_(ends)):
            f.leave(other)
        s.set("host", f.to(s.get("known_host"), I16))
        s.set("host_length", f.to(n, I16))
        s.raise_("framing", Framing.HOST)
        self._consume(f.add(n, len(HOST_FIELD) + 1))
        self._check_limit()
        self._consume(I32(1))
        self._end_of_head()
        f.leave(self.more)
        f.b.position_at_end(other)

    def _name(self) -> None:
        f, s, data = self.f, self.stream, self.data
        with f.if_(f.eq(self.stop, Stop.EMPTY)):
            s.set("mode", Mode.HEAD_END)
            f.leave(self.more)
        s.set("header", self.outcome)
        s.set("mode", Mode.SKIP)
        number = self.outcome
        self.at.set(self.offset.get())
        with f.if_(f.eq(number, 0)):
            f.leave(self.skip)
        with f.if_(s.has("framing", Framing.TRAILERS)):
            with f.if_(f.cmp("<=", number, ENCODING)):
                self.malformed(Saw.TRAILER)
            f.leave(self.more)
        with f.if_(f.eq(number, HOST)):
            self._only_line(Framing.HOST, Saw.HOST)
            s.set("known_host_length", 0)
            self._to_value(self._component(ComponentWord.HOST))
        with f.if_(f.eq(number, LENGTH)):
            self._only_line(Framing.LENGTH, Saw.CONTENT_LENGTH)
            s.set("mode", Mode.LENGTH)
            s.set("digits", 0)
            f.leave(self.more)
        with f.if_(f.eq(number, ENCODING)):
            self._only_line(Framing.ENCODING, Saw.TRANSFER_ENCODING)
            self._to_value(data.http.chunked)
        with f.if_(f.eq(number, EXPECT)):
            self._to_value(data.http.expect)
        with f.if_(f.eq(number, UPGRADE)):
            s.raise_("framing", Framing.UPGRADE)
        named = self._header_named(number)
        with f.if_(f.ne(named, 0)):
            with f.if_(f.cmp("<", number, len(data.http.headers))):
                self._to_value(data.named(f, named, 4, NamedWord.AUTOMATON))
            # It differs only in `_` for `-` from one that is asked for: what wants that absent fails.
            s.set("failed", f.or_(s.get("failed"), self._all(named)))

    def _header_named(self, number: Value) -> Value:
        f = self.f
        return f.to(self.data.headers(f, f.add(self._component(ComponentWord.HEADERS), f.to(number, I32))), I32)

    def _only_line(self, bit: Framing, saw: Saw) -> None:
        with self.f.if_(self.stream.has("framing", bit)):
            self.malformed(saw)
        self.stream.raise_("framing", bit)

    def _to_value(self, automaton: Value) -> None:
        self.stream.set("mode", Mode.VALUE)
        self._enter(automaton)
        self.f.leave(self.more)

    def _value(self) -> None:
        f, s = self.f, self.stream
        number = s.get("header")
        self._take_lf()
        with f.if_(f.eq(number, HOST)):
            s.set("host", self.outcome)
            length = f.to(s.get("host_length"), I32)
            with f.if_(f.cmp("<=", length, HOST_BYTES)):
                s.set("known_host", f.to(self.outcome, I32))
                s.set("known_host_length", length)
            f.leave(self.more)
        with f.if_(f.eq(number, ENCODING)):
            with f.if_(f.eq(self.outcome, 0)):
                self.malformed(Saw.TRANSFER_ENCODING)
            with f.if_(f.ne(s.get("minor"), 2)):
                self.malformed(Saw.TRANSFER_ENCODING)
            with f.if_(s.has("framing", Framing.LENGTH)):
                self.malformed(Saw.BOTH_LENGTHS)
            s.raise_("framing", Framing.CHUNKED)
            f.leave(self.more)
        with f.if_(f.eq(number, EXPECT)):
            with f.if_(f.ne(self.outcome, 0)):
                s.raise_("framing", Framing.EXPECT)
            f.leave(self.more)
        self._apply(self._header_named(number), self.outcome)

    def _skip(self) -> None:
        """A value that nobody asks for, from `at` on, to its line's end."""
        f, s = self.f, self.stream
        begin, end, at = self.offset.get(), s.get("window_length"), self.at
        ended = f.var(0, I8)
        with f.loop(BLOCKS + 2, BLOCKS + 2) as (_, done):
            with f.if_(f.cmp(">=", at.get(), end)):
                f.leave(done)
            low = words.below(f, self._word(at.get()), 14)
            with f.if_else(f.eq(low, 0)) as (none, some):
                with none:
                    at.set(f.and_(f.add(at.get(), words.WORD), INSIDE))
                with some:
                    place = f.add(at.get(), words.first(f, low))
                    at.set(f.and_(f.add(place, 1), INSIDE))
                    with f.if_(f.cmp(">=", place, end)):
                        f.leave(done)
                    byte = self._at(place)
                    with f.if_(f.eq(byte, CR)):
                        ended.set(1)
                        f.leave(done)
                    with f.if_(f.either(f.eq(byte, LF), f.eq(byte, 0))):
                        ended.set(2)
                        f.leave(done)
        with f.if_(f.cmp(">", at.get(), end)):
            at.set(end)
        s.set("mode", Mode.SKIP)
        self._consume(f.sub(at.get(), begin))
        self._check_limit()
        with f.if_(f.eq(ended.get(), 2)):
            self._bad_value()
        with f.if_(f.eq(ended.get(), 1)):
            self._take_lf()
        f.leave(self.more)

    def _bad_value(self) -> None:
        with self.f.if_(self.stream.has("framing", Framing.TRAILERS)):
            self.malformed(Saw.TRAILER)
        self.malformed(Saw.HEADER_VALUE)

    # --- single bytes -------------------------------------------------------------------------------------------------------

    def _byte(self) -> None:
        f, s = self.f, self.stream
        self.byte = self._at(self.offset.get())
        with f.if_(f.eq(s.get("mode"), Mode.UPGRADED)):
            self._upgraded()
        counts = f.cmp("<=", s.get("mode"), Mode.HEAD_END)
        s.add("position", 1)
        s.add("head", f.to(counts, I32))
        cases = {
            Mode.ESCAPE: self._first_digit, Mode.ESCAPE_2: self._second_digit, Mode.LENGTH: self._length,
            Mode.LENGTH_END: self._length_end, Mode.LINE_END: self._line_end, Mode.HEAD_END: self._head_end,
            Mode.CHUNK_SIZE: self._chunk_size, Mode.CHUNK_LF: self._chunk_lf, Mode.CHUNK_END: self._chunk_end,
            Mode.CHUNK_END_LF: self._chunk_end_lf,
        }  # fmt: skip
        f.switch(s.get("mode"), {int(m): emit for m, emit in cases.items()}, self.more)

    def _upgraded(self) -> None:
        f, s = self.f, self.stream
        with f.if_(s.has("told", Told.SWITCHED)):
            s.set("mode", Mode.OPAQUE)
            f.leave(self.more)
        f.zero(s.address("content_length"), REQUEST_END - REQUEST_BEGIN)
        s.set("request_at", s.get("position"))
        self.malformed(Saw.EARLY_BYTES)

    def _hex(self, byte: Value) -> Var:
        """The digit's value (i8), 255 where it is none."""
        f = self.f
        value = f.var(255, I8)
        for first, last, from_ in ((ord("0"), ord("9"), ord("0")), (ord("a"), ord("f"), ord("a") - 10)):
            folded = byte if first == ord("0") else f.or_(byte, 0x20)
            with f.if_(f.both(f.cmp(">=", folded, first), f.cmp("<=", folded, last))):
                value.set(f.sub(folded, from_))
        return value

    def _first_digit(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.eq(self._hex(self.byte).get(), 255)):
            self._no_escape([I8(PERCENT)])
        s.set("escape", self.byte)
        s.set("mode", Mode.ESCAPE_2)
        self._keep_escape()

    def _second_digit(self) -> None:
        f, s = self.f, self.stream
        low = self._hex(self.byte).get()
        with f.if_(f.eq(low, 255)):
            self._no_escape([I8(PERCENT), s.get("escape")])
        value = f.or_(f.shl(self._hex(s.get("escape")).get(), 4), low)
        with f.if_(f.eq(s.get("escaped_mode"), Mode.PATH)):
            forbidden = f.either(
                f.cmp("<", value, 0x20), f.eq(value, 0x7F), f.eq(value, ord("/")), f.eq(value, ord("\\"))
            )
            with f.if_(forbidden):
                self.malformed(Saw.TARGET)
        self._keep_escape()
        self._decoded(value)
        s.set("mode", s.get("escaped_mode"))

    def _no_escape(self, letters: list[Value]) -> None:
        """In a path malformed; in a query the letters so far stand for themselves, and the byte at hand is read as any other."""
        f, s = self.f, self.stream
        with f.if_(f.eq(s.get("escaped_mode"), Mode.PATH)):
            self.malformed(Saw.TARGET)
        for letter in letters:
            self._decoded(letter)
        s.set("mode", s.get("escaped_mode"))
        s.set("position", f.sub(s.get("position"), 1))
        s.set("head", f.sub(s.get("head"), 1))
        f.leave(self.more)

    def _decoded(self, byte: Value) -> None:
        """The automaton takes a byte that an escape stands for."""
        f, s, data = self.f, self.stream, self.data
        automaton = f.to(s.get("automaton"), I32)
        base, width = (data.automaton(f, automaton, w) for w in (AutomatonWord.NEXT, AutomatonWord.WIDTH))
        class_ = data.classes(f, f.add(f.add(f.shl(automaton, 9), 256), f.to(byte, I32)))
        s.set("at", data.next(f, f.add(f.add(base, f.mul(f.to(s.get("at"), I32), width)), f.to(class_, I32))))

    def _keep_escape(self) -> None:
        """The digit belongs to the path as it was sent."""
        f, s = self.f, self.stream
        with f.if_(f.eq(s.get("escaped_mode"), Mode.PATH)):
            kept = f.to(s.get("path_length"), I32)
            with f.if_(f.cmp("<", kept, PATH_BYTES)):
                f.store(s.address("path_text", f.and_(kept, PATH_BYTES - 1)), self.byte)
            s.set("path_length", f.to(f.add(kept, 1), I16))

    def _length(self) -> None:
        f, s = self.f, self.stream
        value = f.sub(self.byte, ord("0"))
        with f.if_(f.cmp("<=", value, 9)):
            s.add("digits", 1)
            length = s.get("content_length")
            added = f.add(f.mul(length, 10), f.to(value, I64))
            too_long = f.either(f.cmp(">", s.get("digits"), LENGTH_DIGITS), f.cmp(">", added, LAST_LENGTH))
            with f.if_(too_long):
                self.malformed(Saw.CONTENT_LENGTH)
            s.set("content_length", added)
            f.leave(self.more)
        with f.if_(self._is_blank(self.byte)):
            with f.if_(f.ne(s.get("digits"), 0)):
                s.set("mode", Mode.LENGTH_END)
            f.leave(self.more)
        with f.if_(f.either(f.ne(self.byte, CR), f.eq(s.get("digits"), 0))):
            self.malformed(Saw.CONTENT_LENGTH)
        self._length_ended()

    def _length_ended(self) -> None:
        with self.f.if_(self.stream.has("framing", Framing.ENCODING)):
            self.malformed(Saw.BOTH_LENGTHS)
        self.stream.set("mode", Mode.LINE_END)

    def _length_end(self) -> None:
        f = self.f
        with f.if_(f.not_(self._is_blank(self.byte))):
            with f.if_(f.ne(self.byte, CR)):
                self.malformed(Saw.CONTENT_LENGTH)
            self._length_ended()

    def _line_end(self) -> None:
        f = self.f
        with f.if_(f.ne(self.byte, LF)):
            self._bad_value()
        self._next_line()

    def _head_end(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.ne(self.byte, LF)):
            with f.if_(s.has("framing", Framing.TRAILERS)):
                self.malformed(Saw.TRAILER)
            self.malformed(Saw.HEADER_NAME)
        f.leave(self.head_ended)

    def _judge(self) -> None:
        """The head, or what follows the last chunk, was read to its end."""
        f, s = self.f, self.stream
        with f.if_(s.has("framing", Framing.TRAILERS)):
            self._finish()
            f.leave(self.more)
        with f.if_(f.eq(f.call(self.judges.judge, s.pointer), 0)):
            f.ret(1)
        self._count()
        with f.if_(s.has("framing", Framing.CHUNKED)):
            s.set("mode", Mode.CHUNK_SIZE)
            s.set("digits", 0)
            f.leave(self.more)
        with f.if_(f.ne(s.get("content_length"), 0)):
            s.set("remaining", s.get("content_length"))
            s.set("mode", Mode.BODY)
            f.leave(self.more)
        self._finish()

    def _count(self) -> None:
        """The request waits for an answer; to HEAD it has no body."""
        f, s = self.f, self.stream
        bit = f.shl(I64(1), f.to(f.and_(s.get("begun"), 63), I64))
        is_head = f.eq(s.get("method"), METHOD_HEAD)
        s.set("heads", f.select(is_head, f.or_(s.get("heads"), bit), f.and_(s.get("heads"), f.not_(bit))))
        s.add("begun", 1)

    # --- chunks ---------------------------------------------------------------------------------------------------------------

    def _chunk_size(self) -> None:
        f, s = self.f, self.stream
        value = self._hex(self.byte).get()
        with f.if_(f.ne(value, 255)):
            s.add("digits", 1)
            with f.if_(f.cmp(">", s.get("digits"), CHUNK_DIGITS)):
                self.malformed(Saw.CHUNK)
            s.set("remaining", f.or_(f.shl(s.get("remaining"), 4), f.to(value, I64)))
            f.leave(self.more)
        with f.if_(f.either(f.ne(self.byte, CR), f.eq(s.get("digits"), 0))):
            self.malformed(Saw.CHUNK)
        s.set("mode", Mode.CHUNK_LF)

    def _chunk_lf(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.ne(self.byte, LF)):
            self.malformed(Saw.CHUNK)
        with f.if_(f.ne(s.get("remaining"), 0)):
            s.set("mode", Mode.CHUNK)
            f.leave(self.more)
        s.raise_("framing", Framing.TRAILERS)
        s.set("head", 0)
        self._next_line()

    def _chunk_end(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.ne(self.byte, CR)):
            self.malformed(Saw.CHUNK)
        s.set("mode", Mode.CHUNK_END_LF)

    def _chunk_end_lf(self) -> None:
        f, s = self.f, self.stream
        with f.if_(f.ne(self.byte, LF)):
            self.malformed(Saw.CHUNK)
        s.set("mode", Mode.CHUNK_SIZE)
        s.set("digits", 0)


assert OFFSET["content_length"] % 8 == 0
assert REQUEST_END % 8 == 0
