"""Methods, names of headers and protocols: the tokens of HTTP (RFC 9110, 5.6.2)."""

from __future__ import annotations

import re

from policyc.check.findings import Findings
from policyc.grammar import syntax
from policyc.grammar.advice import SYNONYMS
from policyc.grammar.nearest import nearest

_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+\Z")
_PROTOCOL = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+(?:/[!#$%&'*+.^_`|~0-9A-Za-z-]+)?\Z")
COMMON_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "CONNECT")
# Others of IANA's registry and of well-known servers that lie near to a common one.
OTHER_METHODS = frozenset(
    {"BIND", "COPY", "LINK", "LOCK", "MOVE", "LABEL", "MERGE", "PRI", "QUERY", "REPORT", "SEARCH"}
)
ACTIONS = ("allow", "deny", "pass")
CONDITIONS = ("host", "header", "query", "upgrade", "body")
FRAMING = frozenset({"host", "content-length", "transfer-encoding", "connection", "upgrade", "expect"})


def methods(words: tuple[syntax.Word, ...], found: Findings) -> tuple[str, ...]:
    """The methods of an entry, each once; none for `*`."""
    star = next((w for w in words if w.text == "*"), None)
    if star is not None and len(words) > 1:
        found.add("bad-method", "`*` is every method and stands alone", star.span, help="write `*`, or the others")
    return () if star is not None else tuple(dict.fromkeys(m for m in (method(w, found) for w in words) if m))


def is_misspelt_condition(word: syntax.Word) -> bool:
    """Whether what stands as a method was surely meant to go on with the entry before: `heeder`."""
    return word.text.islower() and nearest(word.text, (*CONDITIONS, *COMMON_METHODS)) in CONDITIONS


def method(word: syntax.Word, found: Findings, of_entry: bool = True) -> str | None:
    """One method, of an entry or of a request; None for what is none."""
    text = word.text
    if text in CONDITIONS:
        how = f"write `*` before `{text}` for any method" if of_entry else "a request begins with its method"
        found.add("bad-method", f"`{text}` is no method", word.span, help=how)
        return None
    action = text.lower() if text.lower() in ACTIONS else SYNONYMS.get(text.lower())
    if action is not None and (text != text.upper() or text.lower() in ACTIONS):
        # As a method it would be an entry of its own, and what it was to deny an entry that allows.
        how = "entries begin with `allow` or `deny`, in small letters, or with their methods"
        meant = action if action != "pass" else None
        found.add("bad-method", f"`{text}` is not a method", word.span, suggestion=meant, help=how)
        return None
    if not _TOKEN.match(text) or text != text.upper():
        suggestion = nearest(text, (*COMMON_METHODS, *CONDITIONS))
        message = f"`{text[:40]}` is not a method"
        expected = ("a method in capitals", "`*`") if of_entry else ("a method in capitals",)
        help = None if of_entry else "methods are tokens in capitals"
        if "/" in text:
            help = "paths stand in quotes"
        found.add("bad-method", message, word.span, expected=expected, suggestion=suggestion, help=help)
        return None
    if text not in COMMON_METHODS and text not in OTHER_METHODS:
        near = action or nearest(text, COMMON_METHODS)
        if near is not None:
            message = f"`{text[:40]}` is a method that nobody knows"
            help = "if it is meant, all is well: it is asked for as it is written"
            found.add("unknown-method", message, word.span, suggestion=near, help=help)
    return text


def header_name(word: syntax.Word, found: Findings) -> str | None:
    """The name in small letters; None for what cannot be the name of a header."""
    if _TOKEN.match(word.text):
        return word.text.lower()
    bare = word.text.strip().removesuffix(":")
    suggestion = f'"{bare}"' if _TOKEN.match(bare) else None
    message = "this cannot be the name of a header"
    help = "names of headers are of letters, digits, `-`, `_` and a few other marks, without colon and spaces"
    found.add("bad-header", message, word.span, suggestion=suggestion, help=help)
    return None


def is_framing(name: str, word: syntax.Word, found: Findings) -> bool:
    """Whether `name` is one of the headers that a `header` condition cannot ask for; that is reported."""
    if name not in FRAMING:
        return False
    help = "it says how a request is framed, which is checked for every request"
    if name in ("host", "upgrade"):
        help = f"write `{name} …`"
    suggestion = name if name in ("host", "upgrade") else None
    message = f"`header` cannot ask for `{word.text}`"
    found.add("framing-header", message, word.span, suggestion=suggestion, help=help)
    return True


def protocols(values: tuple[syntax.Pattern, ...], found: Findings) -> tuple[str, ...]:
    """The protocols that `upgrade` names, in small letters, each once."""
    result: dict[str, None] = {}
    for value in values:
        if value.regex or not _PROTOCOL.match(value.word.text):
            message = "this is not the name of a protocol"
            help = 'several stand with commas between them: upgrade "websocket", "h2c"'
            found.add("bad-upgrade", message, value.span, expected=('a string like "websocket"',), help=help)
        else:
            result[value.word.text.lower()] = None
    return tuple(result)
