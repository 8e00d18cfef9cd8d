"""The formatter: indentation and spaces, never words. Line breaks stay where the author put them."""

from __future__ import annotations

import re
from itertools import pairwise

from policyc.diagnostics import PolicyError
from policyc.grammar.parser import parse

INDENT = "  "
_PIECE = re.compile(
    r"(?P<comment>\#[^\n]*)|(?P<string>\"(?:[^\"\\\n]|\\[^\n])*\")|(?P<mark>==|!=|->|[{}\[\](),=~*])"
    r"|(?P<word>(?:[A-Za-z0-9._/:@]|-(?!>))+)"
)
_OPEN, _CLOSE = "{[(", "}])"


def format_file(text: str, file: str = "<text>") -> str:
    """The text with two spaces a level of indentation, single spaces between words and at most one blank line.

    Comments stay, the tokens are the same in the same order, and formatting twice changes nothing more. A byte order
    mark goes. Raises PolicyError for a text that does not parse; names and values are not looked at."""
    text = text.removeprefix("\ufeff")
    _, diagnostics = parse(text, file)
    if any(d.severity == "error" for d in diagnostics):
        raise PolicyError(diagnostics)
    out: list[str] = []
    depth = 0
    for line in text.split("\n"):
        pieces = [(m.lastgroup or "", m.group().rstrip()) for m in _PIECE.finditer(line)]
        if not pieces:
            if out and out[-1]:
                out.append("")
            continue
        closing = 0
        while closing < len(pieces) and pieces[closing][1] in _CLOSE and pieces[closing][0] == "mark":
            closing += 1
        out.append(INDENT * max(depth - closing, 0) + _joined(pieces))
        for kind, written in pieces:
            if kind == "mark":
                depth += (written in _OPEN) - (written in _CLOSE)
    while out and not out[-1]:
        out.pop()
    return "\n".join(out) + "\n" if out else ""


def _joined(pieces: list[tuple[str, str]]) -> str:
    result = pieces[0][1]
    for (_, before), (kind, written) in pairwise(pieces):
        result += _gap(before, kind, written) + written
    return result


def _gap(before: str, kind: str, written: str) -> str:
    if kind == "comment":
        return "  "
    tight = written in (",", ")") or before in ("(", "~") or (written == "(" and before in ("same", "world"))
    empty = (before, written) in (("{", "}"), ("[", "]"))
    return "" if tight or empty else " "
