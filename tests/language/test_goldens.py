"""What a person sees: each policy in bad/ beside its rendered diagnostics.

After a change that is meant, write them anew with POLICYC_WRITE_GOLDENS=1 and read the difference."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from policyc.diagnostics import Diagnostic
from policyc.frontend import load
from policyc.model import Span
from policyc.render import render, render_json

BAD = sorted((Path(__file__).parent / "bad").glob("*.pol"))


@pytest.mark.parametrize("file", BAD, ids=lambda f: f.stem)
def test_rendered(file: Path) -> None:
    result = load([str(file)])
    text = render(result.diagnostics, result.sources)
    golden = file.with_suffix(".txt")
    if os.environ.get("POLICYC_WRITE_GOLDENS"):
        golden.write_text(text, encoding="utf-8")
    assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("file", BAD, ids=lambda f: f.stem)
def test_order_is_by_place_and_stable(file: Path) -> None:
    found = load([str(file)]).diagnostics
    places = [(d.span.line, d.span.column) for d in found if d.span]
    assert places == sorted(places)
    assert found == load([str(file)]).diagnostics


def test_json() -> None:
    span = Span("a.pol", 1, 2, 1, 5)
    found = [
        Diagnostic("P1001", "unknown-name", "error", "m", span, ("x",), "h", "s", (("n", span),)),
        Diagnostic("P4001", "unreadable-file", "error", "m", None),
    ]
    place = {"file": "a.pol", "line": 1, "column": 2, "end_line": 1, "end_column": 5}
    document = json.loads(render_json(found))
    assert (document["format"], document["version"]) == ("policyc-diagnostics", 1)
    first, second = document["diagnostics"]
    assert first == {
        "code": "P1001",
        "name": "unknown-name",
        "severity": "error",
        "message": "m",
        **place,
        "expected": ["x"],
        "help": "h",
        "suggestion": "s",
        "notes": [{"message": "n", **place}],
    }
    assert (second["file"], second["line"], second["expected"], second["notes"]) == (None, None, [], [])


def test_colour_only_when_asked() -> None:
    d = Diagnostic("P1001", "unknown-name", "error", "m", Span("a.pol", 1, 1, 1, 2))
    assert "\x1b" not in render([d], {"a.pol": "x"})
    assert "\x1b[31m" in render([d], {"a.pol": "x"}, color=True)


@pytest.mark.parametrize(
    ("line", "column", "end", "shown", "mark"),
    [
        ("ab cd", 4, 6, "ab cd", "   ^^"),
        ("日本 cd", 4, 6, "日本 cd", "     ^^"),
        ("e\u0301 cd", 4, 6, "e\u0301 cd", "  ^^"),
        ("\tab", 2, 4, "    ab", "    ^^"),
        ("a\x1bb c", 5, 6, "a<U+001B>b c", "           ^"),
        ("ab", 3, 3, "ab", "  ^"),
    ],
)
def test_underline_stands_beneath_its_words(line: str, column: int, end: int, shown: str, mark: str) -> None:
    d = Diagnostic("P0007", "syntax", "error", "m", Span("a.pol", 1, column, 1, end))
    assert render([d], {"a.pol": line}).split("\n")[2:4] == [f"1 | {shown}", f"  | {mark}"]


def test_long_lines_are_cut_around_the_span() -> None:
    d = Diagnostic("P0007", "syntax", "error", "m", Span("a.pol", 1, 5001, 1, 5003))
    lines = render([d], {"a.pol": "x" * 5000 + "yz" + "x" * 5000}).split("\n")
    assert len(lines[2]) < 180
    assert lines[2][lines[3].index("^") :].startswith("yz")
