"""Text to syntax tree, with recovery: after a mistake parsing goes on at the next word that begins a rule or declaration.

The parser of lark is fed token by token. At each word that begins something the stacks are kept; on a mistake the
unfinished thing is dropped by putting them back, blocks left open are closed, and the next beginning is fed.
"""

from __future__ import annotations

import os
from copy import copy
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from lark import Lark, UnexpectedToken
from lark.lexer import Lexer
from lark.parsers.lalr_analysis import Shift

from policyc.codes import diagnostic
from policyc.diagnostics import Diagnostic
from policyc.grammar import lexer, syntax
from policyc.grammar.advice import SYNONYMS, advice
from policyc.grammar.builder import Builder, join
from policyc.grammar.expected import describe
from policyc.grammar.lexer import Token
from policyc.grammar.nearest import nearest
from policyc.model import Span

MAX_ERRORS = 100

ACTIONS = frozenset({"ALLOW", "DENY", "PASS"})
SECTIONS = frozenset({"INGRESS", "EGRESS"})
DECLARATIONS = frozenset(lexer.DECLARATIONS.values())
STARTERS = ACTIONS | SECTIONS | DECLARATIONS | {"ENDPOINT"}
METHODS = frozenset({"NAME", "WORD", "STAR"})  # one of them begins an entry of a block
NAMED = frozenset({"IDENTITY", "CIDR", "PORTS", "POLICY", "SERVICE_DECL", "ENDPOINT", "AS"})
HARD = frozenset(lexer.HARD.values())
NAMES = frozenset(lexer.SOFT.values()) | {"NAME"}
KEYWORDS = frozenset(lexer.KEYWORDS.values())
# What a body begins with, and the header that stands in for one that did not parse.
BODIES: dict[str, frozenset[str]] = {
    "POLICY": SECTIONS | {"RBRACE"},
    "INGRESS": ACTIONS | {"RBRACE"},
    "EGRESS": ACTIONS | {"RBRACE"},
    "TEST": frozenset({"ENDPOINT", "ALLOW", "DENY", "RBRACE"}),
}
HEADERS: dict[str, tuple[str, ...]] = {
    "POLICY": ("NAME", "FOR", "ENDPOINTS"),
    "INGRESS": (),
    "EGRESS": (),
    "TEST": ("STRING",),
}


class _NoLexer(Lexer):
    """The tokens are fed."""

    def __init__(self, lexer_conf: Any) -> None:
        pass

    def lex(self, lexer_state: Any, parser_state: Any) -> Any:
        return iter(())


@dataclass(frozen=True)
class _Tables:
    """The parser and the states in which a word that begins something has just been read as such; `entries`: those in which an
    entry of a block can begin, `acted`: those behind its `allow` or `deny`."""

    lark: Lark
    begun: frozenset[int]
    entries: frozenset[int]
    acted: frozenset[int]


@lru_cache(maxsize=1)
def _tables() -> _Tables:
    with open(os.path.join(os.path.dirname(__file__), "policy.lark"), encoding="utf-8") as file:
        text = file.read()
    lark = Lark(
        text,
        parser="lalr",
        lexer=_NoLexer,
        start="file",
        keep_all_tokens=True,
        maybe_placeholders=False,
        transformer=Builder(),
    )
    states = lark.parse_interactive().parser_state.parse_conf.states
    targets = {row[kind][1] for row in states.values() for kind in STARTERS if kind in row and row[kind][0] is Shift}
    begun = {s for s in targets if any(k.isupper() and action is Shift for k, (action, _) in states[s].items())}
    entries = {s for s, row in states.items() if all(k in row and row[k][0] is Shift for k in ("STAR", "DENY"))}
    acted = {states[s][kind][1] for s in entries for kind in ("ALLOW", "DENY")}
    return _Tables(lark, frozenset(begun), frozenset(entries), frozenset(acted))


@dataclass(frozen=True)
class _Mark:
    """The parser's stacks before the token `index`, which begins something."""

    states: list[Any]
    values: list[Any]
    opened: int
    index: int


class _Parse:
    def __init__(self, text: str, file: str) -> None:
        self.found: list[Diagnostic] = []
        self.file = file
        self.tokens, self.whole = lexer.tokens(text, file, self.found)
        self.unread: dict[int, list[int]] = {}
        for d in self.found:
            if d.span is not None and d.name != "control-character":
                self.unread.setdefault(d.span.line, []).append(d.span.column)
        tables = _tables()
        self.tables = tables
        self.parser: Any = tables.lark.parse_interactive()
        self.state: Any = self.parser.parser_state
        self.rows = self.state.parse_conf.states
        self.silent = copy(self.state.parse_conf)
        self.silent.callbacks = {}
        self.opened: list[Token] = []
        self.mark = _Mark(list(self.state.state_stack), [], 0, 0)
        self.block: Token | None = None  # the last brace with entries behind it, and where the rule before it begins
        self.rule = self.mark
        self.policy = ""
        self.broken: set[str] = set()
        self.lost = False
        self.skipped_to_end = False
        last = self.tokens[-1].span if self.tokens else Span(file, 1, 1, 1, 1)
        self.end = Token("$END", "", Span(file, last.end_line, last.end_column, last.end_line, last.end_column), "")

    def run(self) -> syntax.File:
        index, count = 0, len(self.tokens)
        errors = 0
        while index < count:
            token = self.tokens[index]
            try:
                self.feed(token, index)
                index += 1
            except UnexpectedToken:
                errors += 1
                if errors > MAX_ERRORS:
                    self.report("too-many-errors", "too many mistakes; the rest of this file was not read", token.span)
                    self.whole = False
                    self.drop()
                    break
                index = self.mend(index)
        items = self.finish()
        first = self.tokens[0] if self.tokens else self.end
        return syntax.File(tuple(items), frozenset(self.broken), self.lost, join(first, self.end))

    def report(self, name: str, message: str, span: Span, **more: Any) -> None:
        self.found.append(diagnostic(name, message, span, **more))

    # --- feeding
    def feed(self, token: Token, index: int) -> None:
        """Raises UnexpectedToken. `index` is the place of the token, or of the one it stands for."""
        kind = token.type
        if kind in KEYWORDS:
            if self.opens_rule(index) and self.in_entries():
                raise _no_entry(token)  # `allow` begins an entry, too, but not this one
            kind = self.feed_word(token, index)
        else:
            self.state.feed_token(token)
        if kind == "LBRACE":
            self.opened.append(token)
            if self.state.state_stack[-1] in self.tables.entries:
                self.block, self.rule = token, self.mark
        elif kind == "RBRACE":
            self.shut()
        elif (kind in STARTERS or kind in METHODS) and self.begins(self.state, kind):
            self.mark = _Mark(self.state.state_stack[:-1], self.state.value_stack[:-1], len(self.opened), index)
            if kind == "POLICY":
                self.policy = self.text(index + 1)

    def feed_word(self, token: Token, index: int) -> str:
        """Feeds a word of the language; where it cannot stand as such, as a name or label. The type that was fed."""
        try:
            if token.type in self.rows[self.state.state_stack[-1]]:
                self.state.feed_token(token)
                return token.type
        except UnexpectedToken:
            pass
        row = self.rows[self.state.state_stack[-1]]
        kind = "NAME" if token.type in NAMES and "NAME" in row else "LABEL" if "LABEL" in row else token.type
        if self.declares(index):
            kind = token.type
        self.state.feed_token(Token(kind, token.value, token.span, token.text))
        return kind

    def declares(self, index: int) -> bool:
        """Whether the word at `index` begins a line that can only be a declaration; then it is no name or label."""
        kind, after = self.kind(index), self.kind(index + 1)
        if kind not in DECLARATIONS or not self.starts_line(index):
            return False
        if kind in ("INCLUDE", "TEST"):
            return after == "STRING" and (kind == "INCLUDE" or self.kind(index + 2) == "LBRACE")
        return after in NAMES and self.kind(index + 2) in ("LBRACE", "EQUALS", "FOR", "AT")

    def text(self, index: int) -> str:
        return self.tokens[index].value if index < len(self.tokens) else ""

    def kind(self, index: int) -> str:
        return self.tokens[index].type if 0 <= index < len(self.tokens) else "$END"

    def begins(self, state: Any, kind: str) -> bool:
        """Whether `kind`, which `state` just took, began something."""
        if kind in METHODS:
            return state.state_stack[-2] in self.tables.entries
        return state.state_stack[-1] in self.tables.begun

    def in_entries(self) -> bool:
        return bool(self.opened) and self.opened[-1] is self.block

    def opens_rule(self, index: int) -> bool:
        return self.kind(index) in ACTIONS and self.kind(index + 1) in ("FROM", "TO")

    def closings(self, kind: str, rule: bool = False) -> int | None:
        """How many open blocks must be closed before `kind` begins something (or ends the file); None: it never does. `rule`: what it
        begins is a rule, no entry of a block."""
        for count in range(len(self.opened) + 1):
            trial = self.trial()
            try:
                for _ in range(count):
                    trial.feed_token(Token("RBRACE", "}", self.end.span, "}"))
                trial.feed_token(Token(kind, "", self.end.span, ""), kind == "$END")
            except UnexpectedToken:
                continue
            if rule and trial.state_stack[-1] in self.tables.acted:
                continue
            if kind == "$END" or self.begins(trial, kind):
                return count
        return None

    def trial(self) -> Any:
        state = self.state.copy(deepcopy_values=False)
        state.parse_conf = self.silent
        return state

    def close(self, count: int, span: Span) -> None:
        for _ in range(count):
            self.state.feed_token(Token("RBRACE", "}", span, "}"))
            self.shut()

    def shut(self) -> None:
        """The innermost block has been closed: behind entries their rule goes on."""
        if self.opened.pop() is self.block:
            self.mark = self.rule

    # --- mistakes
    def mend(self, index: int) -> int:
        """Reports the mistake at token `index`, and brings the parser and the place to a state to go on from."""
        token = self.tokens[index]
        accepted = self.parser.accepts()
        substitute = self.substitute(token, index, accepted)
        if substitute is not None:
            self.feed(substitute, index)
            return index + 1
        notes: tuple[tuple[str, Span], ...] = ()
        if self.opened and (token.type in DECLARATIONS or (self.opens_rule(index) and self.in_entries())):
            notes = (("this block is still open", self.opened[-1].span),)
        missing = self.lacks_brace(token, index, accepted)
        if self.kind(index - 1) == "NOT":
            self.broken.add("not")  # it was read as a name, which nobody meant
        if not self.is_told(index):
            self.report(
                "syntax",
                f"unexpected `{_shown(token.text)}`",
                token.span,
                expected=describe(accepted),
                help=advice(token, self.tokens[index - 1] if index else None, accepted),
                notes=notes,
            )
        if missing:
            span = self.tokens[index - 1].span
            self.feed(Token("LBRACE", "{", span, "{"), index - 1)
            return index
        return self.recover(index)

    def lacks_brace(self, token: Token, index: int, accepted: set[str]) -> bool:
        """Whether the token begins something in a body whose `{` was forgotten."""
        if token.type not in ACTIONS | SECTIONS | METHODS or "LBRACE" not in accepted:
            return False
        looks = self.is_method(index) if token.type in METHODS else self.is_beginning(index, True)
        if not self.starts_line(index) and not looks:
            return False
        trial = self.trial()
        try:
            trial.feed_token(Token("LBRACE", "{", token.span, "{"))
            trial.feed_token(token)
        except UnexpectedToken:
            return False
        return self.begins(trial, token.type)

    def is_told(self, index: int) -> bool:
        """Whether what the lexer reported stands right before this token."""
        if index and self.tokens[index - 1].unclosed:
            return True
        here = self.tokens[index].span
        before = self.tokens[index - 1].span if index else Span(self.file, 1, 0, 1, 0)
        start = before.column if before.line == here.line else 0
        return any(start <= column <= here.end_column for column in self.unread.get(here.line, ()))

    def substitute(self, token: Token, index: int, accepted: set[str]) -> Token | None:
        """What the token was surely meant to be, reported."""
        before = self.kind(index - 1)
        if before in NAMED and "NAME" in accepted and token.type in HARD | {"WORD", "STRING", "NUMBER", "SERVICE"}:
            if before == "AS" and (token.type not in HARD or self.is_beginning(index, True)):
                return None
            if token.type in HARD:
                message = f"`{token.text}` is a word of the language and cannot name things"
                self.report("reserved-word", message, token.span, help="choose another name")
            else:
                help = "names begin with a letter and go on with letters, digits, `-` and `_`, without quotes"
                self.report("name-form", f"`{_shown(token.text)}` is not a name", token.span, help=help)
            return Token("NAME", token.value, token.span, token.text)
        if token.type == "EQUALS" and "EQ" in accepted:
            self.report("syntax", "unexpected `=`", token.span, expected=("`==`",), help="`==` compares, `=` sets")
            return Token("EQ", "==", token.span, "==")
        if token.type == "EQ" and "EQUALS" in accepted:
            self.report("syntax", "unexpected `==`", token.span, expected=("`=`",), help="`==` compares, `=` sets")
            return Token("EQUALS", "=", token.span, "=")
        if token.type not in ("NAME", "WORD"):
            return None
        meant = SYNONYMS.get(token.text)
        if meant is None or lexer.KEYWORDS[meant] not in accepted:
            meant = self.spelling(token, accepted)
        if meant is None:
            return None
        self.report(
            "syntax",
            f"unexpected `{_shown(token.text)}`",
            token.span,
            expected=describe(accepted),
            suggestion=meant,
        )
        return Token(lexer.KEYWORDS[meant], meant, token.span, token.text)

    def spelling(self, token: Token, accepted: set[str]) -> str | None:
        return nearest(token.text, [lexer.SPELLING[kind] for kind in sorted(accepted & KEYWORDS)])

    def drop(self) -> str:
        """Puts the stacks back to where the unfinished thing began; the type of the word that began it, or `""`."""
        if self.policy and self.opened:
            self.broken.add(self.policy)
        if any(self.begins_here(kind) for kind in ("IDENTITY", "INGRESS", "ALLOW")):
            if self.kind(self.mark.index) == "ENDPOINT":
                self.lose(self.mark.index)
            return ""
        begun = self.mark
        kind = self.kind(begun.index)
        self.lose(begun.index)
        self.state.state_stack[:] = begun.states
        self.state.value_stack[:] = begun.values
        del self.opened[begun.opened :]
        return kind

    def lose(self, index: int) -> None:
        """Remembers what the thing that begins at `index` declares, or that this is not known."""
        kind = self.kind(index)
        if kind in NAMED and self.kind(index + 1) in NAMES:
            self.broken.add(self.text(index + 1))
        elif kind in NAMED or kind == "INCLUDE":
            self.lost = True

    def begins_here(self, kind: str) -> bool:
        trial = self.trial()
        try:
            trial.feed_token(Token(kind, "", self.end.span, ""))
        except UnexpectedToken:
            return False
        return self.begins(trial, kind)

    def recover(self, index: int) -> int:
        level = len(self.opened)
        dropped = self.drop()
        floor = len(self.opened)
        entries = self.begins_here("STAR")
        for at in range(index, len(self.tokens)):
            kind = self.kind(at)
            if kind == "LBRACE":
                if dropped in BODIES and self.kind(at + 1) in BODIES[dropped]:
                    self.open_body(dropped, at)
                    return at + 1
                level += 1
            elif kind == "RBRACE":
                level -= 1
                if level < floor and self.ends_block(at):
                    return at + 1
                level = max(level, floor)
            elif kind == "NAME" and floor <= 1:
                self.broken.add(self.text(at))
            elif kind in METHODS and entries and level == floor and self.is_method(at):
                return at
            elif kind in STARTERS and self.is_beginning(at, level > floor):
                count = self.closings(kind, self.opens_rule(at))
                if count is not None:
                    self.close(count, self.tokens[max(at - 1, 0)].span)
                    return at
        self.skipped_to_end = True
        return len(self.tokens)

    def ends_block(self, at: int) -> bool:
        """Feeds the brace at `at` if a block that is open can end here."""
        try:
            self.trial().feed_token(self.tokens[at])
        except UnexpectedToken:
            return False
        self.feed(self.tokens[at], at)
        return True

    def open_body(self, dropped: str, at: int) -> None:
        """Feeds a header in the place of one that did not parse, and the brace at `at`."""
        begun = self.mark.index
        span = self.tokens[begun].span
        self.feed(Token(dropped, self.tokens[begun].value, span, self.tokens[begun].text), begun)
        name = self.text(begun + 1) if dropped == "POLICY" and self.kind(begun + 1) in NAMES else ""
        for kind in HEADERS[dropped]:
            word = name if kind == "NAME" else lexer.SPELLING.get(kind, "")
            self.feed(Token(kind, word, span, word), begun)
        self.feed(self.tokens[at], at)

    def is_beginning(self, at: int, inside: bool) -> bool:
        """Whether the word at `at` looks like one that begins something; `inside` an unfinished block it must look more so."""
        kind, before, after = self.kind(at), self.kind(at - 1), self.kind(at + 1)
        if kind in ACTIONS:
            if after in ("FROM", "TO") or (after in METHODS and not inside and self.is_method(at + 1)):
                return True
            return not inside and (self.starts_line(at) or before in ("LBRACE", "RBRACE"))
        if kind in SECTIONS:
            return after in ("LBRACE", "DEFAULT")
        if kind == "ENDPOINT":
            return not inside
        if (inside or self.opened) and not self.starts_line(at) and before != "RBRACE":
            return False
        if kind in ("INCLUDE", "TEST"):
            return after == "STRING"
        if kind == "LANGUAGE":
            return after == "NUMBER"
        return after in NAMES or after in HARD or after == "WORD"

    def is_method(self, at: int) -> bool:
        """Whether the word at `at` looks like the first method of an entry."""
        if self.kind(at - 1) == "COMMA":
            return False
        return self.starts_line(at) or self.text(at).isupper() or self.kind(at) == "STAR"

    def starts_line(self, at: int) -> bool:
        return at == 0 or self.tokens[at - 1].span.line != self.tokens[at].span.line

    # --- the end
    def finish(self) -> list[Any]:
        try:
            return list(self.state.feed_token(self.end, True))
        except UnexpectedToken:
            pass
        if self.whole and not self.skipped_to_end and not (self.tokens and self.tokens[-1].unclosed):
            self.report_end()
        self.drop()
        count = self.closings("$END")
        if count is None:
            return []
        self.close(count, self.end.span)
        return list(self.state.feed_token(self.end, True))

    def report_end(self) -> None:
        accepted = self.parser.accepts()
        if self.opened:
            span = self.opened[-1].span
            self.report("unclosed-block", "this `{` is never closed", span, expected=("`}`",), help="add a `}`")
            return
        self.report("syntax", "unexpected end of file", self.end.span, expected=describe(accepted))


def _no_entry(token: Token) -> UnexpectedToken:
    error: UnexpectedToken = UnexpectedToken(token, {"RBRACE"})  # type: ignore[no-untyped-call]
    return error


def _shown(text: str) -> str:
    return text if len(text) <= 40 else text[:40] + "…"


def parse(text: str, file: str) -> tuple[syntax.File, list[Diagnostic]]:
    """The tree of all that parsed, and the findings in the order of their places. Never raises for any text."""
    run = _Parse(text, file)
    tree = run.run()
    return tree, sorted(run.found, key=lambda d: (d.span.line, d.span.column) if d.span else (0, 0))
