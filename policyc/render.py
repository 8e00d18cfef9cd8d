"""Diagnostics as text and as JSON."""

from __future__ import annotations

import json
import unicodedata
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

from policyc.diagnostics import Diagnostic
from policyc.model import Span

JSON_FORMAT = "policyc-diagnostics"
JSON_VERSION = 1
WINDOW = 160
TAB = 4

_RED, _YELLOW, _BLUE, _BOLD, _PLAIN = "\x1b[31m", "\x1b[33m", "\x1b[34m", "\x1b[1m", "\x1b[0m"


def render(
    diagnostics: Iterable[Diagnostic],
    sources: Mapping[str, str],
    color: bool = False,
    shown: Callable[[str], str] = str,
) -> str:
    """All diagnostics as text with the lines they speak of, a blank line between two; "" for none.

    `sources` maps the file names of spans to texts; of a file that is not in it no line is shown. `shown` makes of such
    a name what the reader can open."""
    lines = _Lines(sources)
    return "\n".join(_one(d, lines, color, shown) for d in diagnostics)


def _one(d: Diagnostic, lines: _Lines, color: bool, shown: Callable[[str], str]) -> str:
    def at(span: Span) -> str:
        return _escaped(f"{shown(span.file)}:{span.line}:{span.column}")

    def paint(style: str, text: str) -> str:
        return f"{style}{text}{_PLAIN}" if color else text

    tone = _RED if d.severity == "error" else _YELLOW
    place = f"{at(d.span)}: " if d.span else ""
    head = paint(_BOLD + tone, f"{d.severity}[{d.code} {d.name}]")
    out = [f"{place}{head}: {_escaped(d.message)}"]
    if d.span is not None:
        marked = lines.marked(d.span)
        if marked is not None:
            gutter = " " * len(str(d.span.line))
            out.append(f"{paint(_BLUE, gutter + ' |')}")
            out.append(f"{paint(_BLUE, f'{d.span.line} |')} {marked[0]}".rstrip())
            out.append(f"{paint(_BLUE, gutter + ' |')} {paint(tone, marked[1])}")
    if d.expected:
        out.append(f"  expected: {_listed(d.expected)}")
    if d.suggestion:
        out.append(f"  did you mean `{_escaped(d.suggestion)}`?")
    out.extend(f"  note: {_escaped(text)}: {at(span)}" for text, span in d.notes)
    if d.help:
        out.append(f"  help: {_escaped(d.help)}")
    return "\n".join(out) + "\n"


def _listed(words: Sequence[str]) -> str:
    words = [_escaped(w) for w in words]
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


class _Lines:
    """The lines of the sources, split once a file."""

    def __init__(self, sources: Mapping[str, str]) -> None:
        self._sources = sources
        self._split: dict[str, list[str]] = {}

    def line(self, file: str, number: int) -> str | None:
        if file not in self._sources:
            return None
        if file not in self._split:
            self._split[file] = self._sources[file].split("\n")
        lines = self._split[file]
        return lines[number - 1].rstrip("\r") if 0 < number <= len(lines) else None

    def marked(self, span: Span) -> tuple[str, str] | None:
        """The source line, cut to what is near the span, and the line that underlines it."""
        line = self.line(span.file, span.line)
        if line is None:
            return None
        first = span.column - 1
        last = span.end_column - 1 if span.end_line == span.line else len(line.rstrip())
        start = max(0, first - WINDOW // 2) if len(line) > WINDOW else 0
        end = min(len(line), start + WINDOW)
        before = "…" if start else ""
        after = "…" if end < len(line) else ""
        lead = before + _shown(line[start:first])
        marked = _shown(line[first : min(last, end)])
        text = lead + marked + _shown(line[max(first, min(last, end)) : end]) + after
        return text, " " * _width(lead) + "^" * max(_width(marked), 1)


def _shown(text: str) -> str:
    """Tabs as spaces, control and invisible characters escaped."""
    if text.isascii() and text.isprintable():
        return text
    return "".join(" " * TAB if c == "\t" else c if _harmless(c) else f"<U+{ord(c):04X}>" for c in text)


def _harmless(c: str) -> bool:
    return c.isprintable() or unicodedata.category(c) in ("Mn", "Mc", "Me", "Zs")


def _escaped(text: str) -> str:
    return text if text.isprintable() else "".join(c if _harmless(c) else f"<U+{ord(c):04X}>" for c in text)


def _width(text: str) -> int:
    """Columns of a terminal: wide characters take two, combining ones none."""
    if text.isascii():
        return len(text)
    return sum(
        0 if unicodedata.category(c) in ("Mn", "Me") else 2 if unicodedata.east_asian_width(c) in "WF" else 1
        for c in text
    )


# --- JSON -------------------------------------------------------------------------------------------------------


def document(diagnostics: Iterable[Diagnostic]) -> dict[str, Any]:
    """The object that `--format json` prints. Places are null for a diagnostic without one."""
    entries = [_object(d) for d in diagnostics]
    return {"format": JSON_FORMAT, "version": JSON_VERSION, "diagnostics": entries}


def render_json(diagnostics: Iterable[Diagnostic]) -> str:
    return json.dumps(document(diagnostics), indent=2, ensure_ascii=True) + "\n"


def _object(d: Diagnostic) -> dict[str, Any]:
    return {
        "code": d.code,
        "name": d.name,
        "severity": d.severity,
        "message": d.message,
        **_place(d.span),
        "expected": list(d.expected),
        "help": d.help,
        "suggestion": d.suggestion,
        "notes": [{"message": text, **_place(span)} for text, span in d.notes],
    }


def _place(span: Span | None) -> dict[str, Any]:
    return {
        "file": span.file if span else None,
        "line": span.line if span else None,
        "column": span.column if span else None,
        "end_line": span.end_line if span else None,
        "end_column": span.end_column if span else None,
    }
