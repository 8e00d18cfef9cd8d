"""The formatter: indentation and spaces, never words. Line breaks and columns stay where the author put them."""

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
    """The text with two spaces a level of indentation, single spaces between words and at most one blank line. Several spaces
    between two words align columns and stay.

    Comments stay, the tokens are the same in the same order, and formatting twice changes nothing more. A byte order
    mark goes. Raises PolicyError for a text that does not parse; names and values are not looked at."""
    text = text.removeprefix("\ufeff")
    _, diagnostics = parse(text, file)
    if any(d.severity == "error" for d in diagnostics):
        raise PolicyError(diagnostics)
    out: list[str] = []
    depth = 0
    for line in text.split("\n"):
        matches = list(_PIECE.finditer(line))
        pieces = [(m.lastgroup or "", m.group().rstrip()) for m in matches]
        gaps = [line[a.end() : b.start()] for a, b in pairwise(matches)]
        if not pieces:
            if out and out[-1]:
                out.append("")
            continue
        closing = 0
        while closing < len(pieces) and pieces[closing][1] in _CLOSE and pieces[closing][0] == "mark":
            closing += 1
        out.append(INDENT * max(depth - closing, 0) + _joined(pieces, gaps))
        for kind, written in pieces:
            if kind == "mark":
                depth += (written in _OPEN) - (written in _CLOSE)
    while out and not out[-1]:
        out.pop()
    return "\n".join(out) + "\n" if out else ""


def _joined(pieces: list[tuple[str, str]], gaps: list[str]) -> str:
    """`gaps` is what stands between the pieces now."""
    result = pieces[0][1]
    for ((_, before), (kind, written)), now in zip(pairwise(pieces), gaps, strict=True):
        gap = _gap(before, kind, written)
        result += (now if gap and now == " " * len(now) and len(now) > 1 else gap) + written
    return result


def _gap(before: str, kind: str, written: str) -> str:
    if kind == "comment":
        return "  "
    tight = written in (",", ")") or before in ("(", "~") or (written == "(" and before in ("same", "world"))
    empty = (before, written) in (("{", "}"), ("[", "]"))
    return "" if tight or empty else " "
