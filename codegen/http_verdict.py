"""The verdict on a request whose head was read: which of the entries that judge its connection match, and what follows.

What a head's parts are (method, path, host: numbers and classes) selects words of entries; their intersection with those of the connection's rules
leaves few to be asked for their conditions. Deny entries come first, so the first that matches decides (ir/http_tables.py).
"""

from __future__ import annotations

from collections.abc import Callable

from llvmlite import ir

from policyc.artifact.layout import Reason
from policyc.artifact.stream_layout import MAX_STREAM_RULES, Saw
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.function import I8, I16, I32, I64, PTR, Function, Value
from policyc.codegen.http import spilled
from policyc.codegen.http_data import (
    COMPONENT_WORDS,
    ENTRY_BODY,
    ENTRY_DENY,
    ENTRY_FLAGS_SHIFT,
    ENTRY_INDEX_SHIFT,
    ENTRY_UPGRADE,
    ENTRY_WORDS,
    FIRST_WORD_SHIFT,
    ComponentWord,
    EntryWord,
    HttpData,
    RuleWord,
)
from policyc.codegen.stream import Framing, Stream, debug_type
from policyc.ir.http_guards import ABSOLUTE
from policyc.ir.http_tables import METHOD_CONNECT, METHOD_GET, METHOD_TRACE
from policyc.model import Span

WORDS_AT_ONCE = 8
# What the search for an entry is called with, from byte 8 on: i32 each.
_AUDITED, _NEEDS, _ENTRY, _RANK, _DENIES, _NAMED = range(8, 32, 4)
_SEARCH_BYTES = 32


def build_head(module: ir.Module, debug: DebugInfo, data: HttpData, variants: int, span: Span) -> ir.Function:
    """http_head(stream): sets verdict, reason, saw, entry and rule (and the prospective ones) of the request whose head was read."""
    evaluate = _build_evaluate(module, debug, data, span)
    f = Function(module, debug, "http_head", [("stream", PTR, debug_type(debug))], span)
    with f.if_(f.is_null(f.args[0])):
        f.ret(0)
    s = Stream(f, f.args[0])
    bad, decided = (f.b.append_basic_block(name) for name in ("malformed", "decided"))
    is_connect = f.eq(s.get("method"), METHOD_CONNECT)
    saw = f.var(0, I8)

    def refuse(condition: Value, why: Saw) -> None:
        with f.if_(condition):
            saw.set(int(why))
            f.leave(bad)

    one = f.eq(s.get("minor"), 2)
    refuse(f.both(one, f.not_(s.has("framing", Framing.HOST))), Saw.HOST)
    if variants == 1:
        f.call(evaluate, s.pointer, 0)
        _copy_outcome(s)
    else:
        f.call(evaluate, s.pointer, 1)
        with f.if_(f.cmp(">", s.get("head"), s.get("audit_limit"))), f.if_(f.ne(s.get("audit_rules_length"), 0)):
            s.set("saw", int(Saw.HEAD_LIMIT))
            _malformed_as(s, "audit_")
        f.call(evaluate, s.pointer, 0)  # last, so that what is malformed in force is told
    f.leave(decided)
    f.b.position_at_end(bad)
    s.set("saw", saw.get())
    malformed(f, s, variants)
    f.leave(decided)
    f.b.position_at_end(decided)
    with f.if_(f.both(f.ne(s.get("verdict"), 0), f.either(is_connect, s.has("framing", Framing.UPGRADE)))):
        s.raise_("framing", Framing.SWITCHES)
    return f.close()


def malformed(f: Function, s: Stream, variants: int) -> None:
    """The outcome of a request that is none; where no block in force judges the connection only the prospective one is a denial."""
    _malformed_as(s, "")
    if variants == 1:
        _copy_outcome(s)
        return
    _malformed_as(s, "audit_")
    for prefix in ("", "audit_"):
        with f.if_(f.eq(s.get(prefix + "rules_length"), 0)):
            by_connection(s, prefix)


def _malformed_as(s: Stream, prefix: str) -> None:
    s.set(prefix + "verdict", 0)
    s.set(prefix + "reason", int(Reason.L7_MALFORMED))
    s.set(prefix + "entry", 0)
    s.set(prefix + "rule", s.f.add(s.get(prefix + "rank"), 1))


def by_connection(s: Stream, prefix: str) -> None:
    """Nothing but the connection's own rule decides."""
    s.set(prefix + "verdict", 1)
    s.set(prefix + "reason", int(Reason.RULE))
    s.set(prefix + "entry", 0)
    s.set(prefix + "rule", s.f.add(s.get(prefix + "rank"), 1))


def _copy_outcome(s: Stream) -> None:
    for name in ("verdict", "reason", "entry", "rule"):
        s.set("audit_" + name, s.get(name))


def _build_evaluate(module: ir.Module, debug: DebugInfo, data: HttpData, span: Span) -> ir.Function:
    """http_evaluate(stream, audited): asks the entries of the connection's rules in one variant."""
    step = _build_search(module, debug, data, span)
    f = Function(
        module, debug, "http_evaluate", [("stream", PTR, debug_type(debug)), ("audited", I32, debug.u32)], span
    )
    pointer, audited = f.args
    with f.if_(f.is_null(pointer)):
        f.ret(0)
    s = Stream(f, pointer)
    search = f.slot(ir.ArrayType(I64, _SEARCH_BYTES // 8), "search")
    f.zero(search, _SEARCH_BYTES)
    f.b.store(pointer, search)
    f.store(search, audited, offset=_AUDITED)
    needs = f.var(0, I32)
    with f.if_(s.has("framing", Framing.UPGRADE)):
        needs.set(ENTRY_UPGRADE)
    has_body = f.either(f.ne(s.get("content_length"), 0), s.has("framing", Framing.ENCODING))
    bodyless = f.both(f.cmp(">=", s.get("method"), METHOD_GET), f.cmp("<=", s.get("method"), METHOD_TRACE))
    with f.if_(f.both(has_body, bodyless)):
        needs.set(f.or_(needs.get(), ENTRY_BODY))
    f.store(search, needs.get(), offset=_NEEDS)
    s.set("cursor", f.shr(data.path(f, s.get("component"), s.get("path")), FIRST_WORD_SHIFT))
    s.set("candidates", 0)
    most = max(c.words + len(c.entries) for c in data.http.components) + 1
    f.repeat(most, step, search)
    for prefix, condition in (("", f.eq(audited, 0)), ("audit_", f.ne(audited, 0))):
        with f.if_(condition):
            _outcome(f, data, s, search, prefix)
    return f.close()


def _outcome(f: Function, data: HttpData, s: Stream, search: Value, prefix: str) -> None:
    """From what the search found to the request's outcome."""
    with f.if_(f.eq(s.get(prefix + "rules_length"), 0)):
        by_connection(s, prefix)
        f.ret(0)

    def outcome(verdict: int, reason: Reason, entry: Value, rule: Value) -> None:
        for name, value in (("verdict", verdict), ("reason", int(reason)), ("entry", entry), ("rule", rule)):
            s.set(prefix + name, value)
        f.ret(0)

    def is_malformed(saw: Saw) -> None:
        s.set("saw", int(saw))
        outcome(0, Reason.L7_MALFORMED, 0, f.add(s.get(prefix + "rank"), 1))

    form = data.form(f, s.get("component"), s.get("path"))
    with f.if_(f.both(f.cmp(">=", form, ABSOLUTE), f.eq(f.load(search, I32, _NAMED), 0))):
        is_malformed(Saw.TARGET)
    entry, rule = f.load(search, I32, _ENTRY), f.load(search, I32, _RANK)
    with f.if_(f.ne(f.load(search, I32, _DENIES), 0)):
        outcome(0, Reason.L7_ENTRY, entry, rule)
    plain = s.get(prefix + "plain")
    with f.if_(f.both(f.eq(entry, 0), f.eq(plain, 0))):
        outcome(0, Reason.L7_NO_ENTRY, 0, f.add(s.get(prefix + "rank"), 1))
    lacking = f.load(search, I32, _NEEDS)
    with f.if_(f.bits(lacking, ENTRY_UPGRADE)):
        is_malformed(Saw.UPGRADE)
    with f.if_(f.bits(lacking, ENTRY_BODY)):
        is_malformed(Saw.BODY)
    by_plain = f.either(f.eq(entry, 0), f.both(f.ne(plain, 0), f.cmp("<", plain, rule)))
    with f.if_(by_plain):
        outcome(1, Reason.RULE, 0, plain)
    outcome(1, Reason.L7_ENTRY, entry, rule)
    # Both branches have returned; what follows is unreachable.
    f.b.position_at_end(f.b.append_basic_block("decided"))


def _build_search(module: ir.Module, debug: DebugInfo, data: HttpData, span: Span) -> ir.Function:
    """http_search(index, search): asks one candidate, or finds the next words that have some; 1 where it is decided."""
    args = [("index", I32, debug.u32), ("search", PTR, debug.pointer(debug.byte_record("search", _SEARCH_BYTES)))]
    f = Function(module, debug, "http_search", args, span, static=True)
    search = f.args[1]
    s = Stream(f, spilled(f, search, 0))
    component = s.get("component")

    def of(word: ComponentWord) -> Value:
        return data.components(f, component, COMPONENT_WORDS, word)

    with f.if_(f.eq(s.get("candidates"), 0)):
        _next_words(f, data, s, search, of)
    candidates = s.get("candidates")
    s.set("candidates", f.and_(candidates, f.sub(candidates, 1)))
    bit = f.to(f.b.cttz(candidates, ir.Constant(ir.IntType(1), 1)), I32)
    index = f.add(f.add(of(ComponentWord.ENTRIES), f.shl(f.sub(s.get("cursor"), 1), 6)), bit)
    who, conditions, absent = (data.entries(f, index, ENTRY_WORDS, w) for w in EntryWord)
    denies = f.bits(who, ENTRY_DENY << ENTRY_FLAGS_SHIFT)
    held, failed = s.get("held"), s.get("failed")
    unfailed = f.not_(failed)
    by_all = f.and_(held, unfailed)
    holds = f.or_(f.and_(f.select(denies, held, by_all), f.not_(absent)), f.and_(unfailed, absent))
    with f.if_(f.ne(f.and_(conditions, f.not_(holds)), 0)):
        f.ret(0)
    entry = f.add(f.to(f.shr(who, ENTRY_INDEX_SHIFT), I32), 1)
    rank = f.add(f.to(who, I32), 1)
    with f.if_(denies):
        f.store(search, entry, offset=_ENTRY)
        f.store(search, rank, offset=_RANK)
        f.store(search, 1, I32, _DENIES)
        f.ret(1)
    with f.if_(f.eq(f.load(search, I32, _ENTRY), 0)):
        f.store(search, entry, offset=_ENTRY)
        f.store(search, rank, offset=_RANK)
    needs = f.and_(f.load(search, I32, _NEEDS), f.not_(f.to(f.shr(who, ENTRY_FLAGS_SHIFT), I32)))
    f.store(search, needs, offset=_NEEDS)
    with f.if_(f.eq(needs, 0)):
        f.ret(1)
    return f.close()


def _next_words(f: Function, data: HttpData, s: Stream, search: Value, of: Callable[[ComponentWord], Value]) -> None:
    """Takes the next words of entries that the head's parts and the connection's rules leave; returns 0 where several are empty, 1 behind the last."""
    words = of(ComponentWord.WORDS)
    places = []
    for base, field in (
        (ComponentWord.METHODS, "method"),
        (ComponentWord.PATHS, "path"),
        (ComponentWord.HOSTS, "host"),
    ):
        places.append(f.add(of(base), f.mul(f.to(s.get(field), I32), words)))
    audited = f.ne(f.load(search, I32, _AUDITED), 0)
    length = f.to(f.select(audited, s.get("audit_rules_length"), s.get("rules_length")), I32)
    found = f.b.append_basic_block("found")
    with f.loop(WORDS_AT_ONCE, WORDS_AT_ONCE):
        word = s.get("cursor")
        with f.if_(f.cmp(">=", word, words)):
            f.ret(1)
        s.set("cursor", f.add(word, 1))
        rules = f.var(0, I64)
        with f.loop(length, MAX_STREAM_RULES) as (i, _):
            place = f.shl(f.to(i, I64), 1)
            lists = [f.load(s.address(name, place), I16) for name in ("rules", "audit_rules")]
            number = f.to(f.select(audited, lists[1], lists[0]), I32)
            rules.set(f.or_(rules.get(), data.vectors(f, f.add(data.rules(f, number, 4, RuleWord.VECTORS), word))))
        methods, paths, hosts = (data.vectors(f, f.add(place, word)) for place in places)
        ours = f.and_(paths, rules.get())
        with f.if_(f.ne(ours, 0)):
            f.store(search, 1, I32, _NAMED)
        candidates = f.and_(f.and_(ours, methods), hosts)
        with f.if_(f.ne(candidates, 0)):
            s.set("candidates", candidates)
            f.leave(found)
    f.ret(0)
    f.b.position_at_end(found)
