"""Text to tokens. Every token lies on one line; comments and white space make none.

The lexer never fails: what it cannot read becomes a diagnostic and is skipped.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from policyc.codes import diagnostic
from policyc.diagnostics import Diagnostic
from policyc.model import Span

MAX_DEPTH = 64
MAX_WORD = 256
MAX_NUMBER = 10
MAX_STRING = 4096
MAX_LINE_ERRORS = 100
MAX_TOKENS = 3_000_000

DECLARATIONS = {
    "language": "LANGUAGE",
    "include": "INCLUDE",
    "identity": "IDENTITY",
    "cidr": "CIDR",
    "ports": "PORTS",
    "policy": "POLICY",
    "test": "TEST",
    "service": "SERVICE_DECL",
    "never": "NEVER",
    "always": "ALWAYS",
}
# Words that may also name things.
_SOFT_WORDS = (
    *("at", "load", "in", "not", "exists", "except", "file", "for", "admin", "normal", "baseline", "proxy"),
    *("header", "query", "upgrade", "body", "limit", "absent", "call", "produce", "consume"),
)
SOFT = DECLARATIONS | {w: w.upper() for w in _SOFT_WORDS} | {"name": "QNAME"}  # NAME is the shape of names
# Words that begin or modify a rule or an expectation, and the built-in peers: they name nothing.
_HARD_WORDS = (
    *(
        "allow",
        "deny",
        "pass",
        "from",
        "to",
        "on",
        "log",
        "audit",
        "priority",
        "as",
        "http",
        "grpc",
        "kafka",
        "dns",
        "via",
    ),
    *("ingress", "egress", "default", "tier", "any", "world", "host", "endpoints", "same", "proto", "endpoint", "by"),
)
HARD = {w: w.upper() for w in _HARD_WORDS}
KEYWORDS = SOFT | HARD
PUNCTUATION = {
    "{": "LBRACE",
    "}": "RBRACE",
    "[": "LSQB",
    "]": "RSQB",
    "(": "LPAR",
    ")": "RPAR",
    ",": "COMMA",
    "=": "EQUALS",
    "==": "EQ",
    "!=": "NE",
    "->": "ARROW",
    "~": "TILDE",
    "*": "STAR",
}
SPELLING = {kind: word for word, kind in (KEYWORDS | PUNCTUATION).items()}

_TOKEN = re.compile(
    r"(?P<blank>[ \t]+|\#[^\n]*)"
    r"|(?P<word>(?:[A-Za-z0-9._/:@]|-(?!>))+)"
    r"|(?P<mark>==|!=|->|[{}\[\](),=~*])"
    r"|(?P<string>\"(?:[^\"\\\n]|\\[^\n])*\")"
    r"|(?P<newline>\r?\n)"
    r"|(?P<open>\"[^\n]*)"
    r"|(?P<single>'[^'\"\n\r]*')"
    r"|(?P<other>[^\sA-Za-z0-9._/:@{}\[\](),=~*\"\#-]+|.)",
    re.DOTALL,
)
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_-]*\Z")
_SERVICE = re.compile(r"(?:tcp|udp|sctp|icmp|icmpv6)(?:/.*)?\Z")
_ADDRESS = re.compile(r"(?:[0-9]+\.[0-9.]*[0-9.](?:/[0-9]*)?|(?=[^/]*:[^/]*:)[0-9A-Fa-f:.]+(?:/[0-9]*)?)\Z")
_RANGE = re.compile(r"[0-9A-Fa-f:.]+[.:][0-9A-Fa-f:.]*-[0-9A-Fa-f:.]+\Z")
# Bidirectional controls, other invisible characters, line separators of Unicode, C0 and C1 controls.
_CONTROL = re.compile(
    "[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]|\r(?!\n)"
)
_ESCAPE = re.compile(r"\\(.)")


class Token:
    """A terminal of the grammar: `type`, the `value` it means, the `text` as written, and its place.

    `unclosed`: a string that swallowed the rest of its line."""

    __slots__ = ("span", "text", "type", "unclosed", "value")

    def __init__(self, type: str, value: str, span: Span, text: str, unclosed: bool = False) -> None:
        self.unclosed = unclosed
        self.type = type
        self.value = value
        self.span = span
        self.text = text


def word_type(text: str) -> str:
    """The terminal of an unquoted word."""
    keyword = KEYWORDS.get(text)
    if keyword is not None:
        return keyword
    if text.isdigit():
        return "NUMBER"
    if _SERVICE.match(text):
        return "SERVICE"
    if _NAME.match(text):
        return "NAME"
    if _ADDRESS.match(text) or _RANGE.match(text):
        return "ADDRESS"
    return "WORD"


def control_characters(text: str, file: str) -> Iterator[Diagnostic]:
    """One finding for each line with characters that a reader cannot see or that reorder what is seen."""
    line, seen = 1, 0
    for _ in range(MAX_LINE_ERRORS):
        match = _CONTROL.search(text, seen)
        if match is None:
            return
        at = match.start()
        line += text.count("\n", seen, at)
        line_start = text.rfind("\n", 0, at) + 1
        column = at - line_start + 1
        yield diagnostic(
            "control-character",
            f"control character U+{ord(match.group()):04X}",
            Span(file, line, column, line, column + 1),
            help="remove it; text must read as it is compiled",
        )
        seen = text.find("\n", at)
        if seen < 0:
            return


def tokens(text: str, file: str, found: list[Diagnostic]) -> tuple[list[Token], bool]:
    """All tokens of `text`, and whether they are all: it stops where brackets nest too deep or too much is wrong.

    Findings are appended to `found`."""
    found.extend(control_characters(text, file))
    result: list[Token] = []
    types: dict[str, str] = {}
    line, start, depth = 1, 0, 0
    for match in _TOKEN.finditer(text):
        kind = match.lastgroup
        if kind == "blank":
            continue
        if kind == "newline":
            line += 1
            start = match.end()
            continue
        written = match.group()
        column = match.start() - start + 1
        span = Span(file, line, column, line, column + len(written))
        if kind == "word":
            if len(written) > MAX_WORD:
                found.append(_too_long("word", MAX_WORD, span))
                result.append(Token("NAME", written[:MAX_WORD], span, written[:MAX_WORD]))
                continue
            type = types.get(written)
            if type is None:
                type = types[written] = word_type(written)
            if type == "NUMBER" and len(written) > MAX_NUMBER:
                found.append(_too_long("number", MAX_NUMBER, span))
                written = "1"
            result.append(Token(type, written, span, written))
        elif kind == "mark":
            type = PUNCTUATION[written]
            if written in "{[(":
                depth += 1
                if depth > MAX_DEPTH:
                    found.append(diagnostic("nested-too-deep", f"brackets nest deeper than {MAX_DEPTH}", span))
                    return result, False
            elif written in "}])":
                depth = max(depth - 1, 0)
            result.append(Token(type, written, span, written))
        elif kind == "string":
            regex = bool(result) and result[-1].type == "TILDE"
            result.append(Token("STRING", _string(written, span, regex, found), span, written))
        elif kind == "open":
            written = written.rstrip("\r")
            found.append(
                diagnostic("unclosed-string", "this string is not closed on its line", span, help='end it with `"`')
            )
            result.append(Token("STRING", written[1 : MAX_STRING + 1], span, written, True))
        elif kind == "single":
            found.append(_unexpected(written, span))
            result.append(Token("STRING", written[1:-1][:MAX_STRING], span, written))
        elif not _CONTROL.match(written):
            found.append(_unexpected(written, span))
        if len(found) > MAX_LINE_ERRORS:
            return result, False
        if len(result) > MAX_TOKENS:
            message = f"this file has more than {MAX_TOKENS:,} words and marks"
            found.append(diagnostic("file-too-large", message, span, help="split it, and include the parts"))
            return result, False
    return result, True


def _unexpected(written: str, span: Span) -> Diagnostic:
    shown = written if len(written) <= 20 else written[:20] + "…"
    help = "names are of ASCII letters, digits, `-` and `_`; anything else stands in quotes"
    if written.startswith("'"):
        help = 'strings stand in double quotes: "…"'
    if written.startswith(";"):
        help = "nothing stands between rules and declarations; a comment begins with `#`"
    return diagnostic("unexpected-character", f"unexpected `{shown}`", span, help=help)


def _too_long(what: str, limit: int, span: Span) -> Diagnostic:
    return diagnostic("too-long", f"this {what} is longer than {limit} characters", span)


def _string(written: str, span: Span, regex: bool, found: list[Diagnostic]) -> str:
    if len(written) > MAX_STRING + 2:
        found.append(_too_long("string", MAX_STRING, span))
        return written[1:MAX_STRING]
    if regex or "\\" not in written:
        return written[1:-1]
    for match in _ESCAPE.finditer(written):
        if match.group(1) not in '"\\':
            at = span.column + match.start()
            found.append(
                diagnostic(
                    "bad-escape",
                    f"unknown escape `\\{match.group(1)}`",
                    Span(span.file, span.line, at, span.line, at + 2),
                    expected=('`\\"`', "`\\\\`"),
                    help="write a backslash twice to mean itself",
                )
            )
            break
    return _ESCAPE.sub(r"\1", written[1:-1])
