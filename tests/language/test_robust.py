"""No text, however bad, raises or takes long; spans lie inside the text."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.diagnostics import Diagnostic
from policyc.frontend import load
from policyc.grammar import lexer
from policyc.grammar.format import format_file
from policyc.grammar.parser import parse
from policyc.render import render, render_json

POLICIES = [f.read_text() for f in sorted((Path(__file__).parents[2] / "examples").glob("*.pol"))]
PIECES = [
    *lexer.KEYWORDS,
    *lexer.PUNCTUATION,
    "web",
    "tcp/80",
    "10.0.0.0/8",
    '"s"',
    "7",
    "\n",
    "# c\n",
    '"',
    "é",
    "GET",
]


def checked(text: str) -> list[Diagnostic]:
    tree, found = parse(text, "x.pol")
    lines = text.split("\n")
    for d in found:
        assert d.span is not None
        assert 1 <= d.span.line <= len(lines)
        assert 1 <= d.span.column <= len(lines[d.span.line - 1]) + 1
    render(found, {"x.pol": text})
    render_json(found)
    assert tree.span.file == "x.pol"
    return found


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(POLICIES), st.data())
def test_tokens_deleted_doubled_and_put_in(text: str, data: st.DataObject) -> None:
    words = [t.text for t in lexer.tokens(text, "x", [])[0]]
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(words) - 1))
        change = data.draw(st.sampled_from(["delete", "double", "insert"]))
        if change == "delete" and len(words) > 1:
            del words[at]
        elif change == "double":
            words.insert(at, words[at])
        else:
            words.insert(at, data.draw(st.sampled_from(PIECES)))
    checked(" ".join(words))
    checked("\n".join(words))


@settings(max_examples=150, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=60))
def test_words_in_any_order(words: list[str]) -> None:
    text = " ".join(words)
    if not checked(text):
        assert format_file(format_file(text)) == format_file(text)


@settings(max_examples=100, deadline=None)
@given(st.text(max_size=80))
def test_any_text(text: str) -> None:
    checked(text)


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_any_file(tmp_path_factory: pytest.TempPathFactory, data: bytes) -> None:
    file = tmp_path_factory.mktemp("any") / "x.pol"
    file.write_bytes(data)
    result = load([str(file)])
    render(result.diagnostics, result.sources)


RULE = "allow from any "


@pytest.mark.parametrize(
    "text",
    [
        "{" * 100_000,
        "cidr a = " + "[" * 100_000,
        "identity a { k in (" + "(" * 5000,
        "x" * 2_000_000,
        "identity " + "x" * 2_000_000 + " { a == b }",
        '"' + "x" * 2_000_000,
        "policy p for host priority " + "9" * 1_000_000 + " {}",
        "ports a = [ tcp/" + "9" * 1_000_000 + " ]",
        "\u202e" * 500_000,
        "\n".join("\u202e" for _ in range(50_000)),
        "é" * 1_000_000,
        "é " * 200_000,
        "} " * 200_000,
        "allow " * 200_000,
        "identity " * 100_000,
        "policy p for host { ingress { " + "allow from , " * 50_000,
        "policy p for host { ingress { " + "allow from any on tcp/80 " * 5_000 + "}}",
        "policy p for host { ingress { allow from , " + "X\n" * 200_000,
        "policy p for host { ingress { allow from any on tcp/80 http { " + "GET, \n" * 50_000,
        "policy p for host { ingress { allow from any on tcp/80 http { " + 'GET "/a" ' * 20_000 + "}}}",
        "policy p for host { ingress { allow from any on tcp/80 http { GET " + '"/a", ' * 50_000 + '"/" }}}',
        "policy p for host { ingress { allow from any on tcp/80 http { GET " + 'header "X" ' * 20_000 + "}}}",
        "policy p for host { ingress { allow from any on tcp/80 http { " * 5_000,
        'policy p for host { ingress { allow from any on tcp/80 http { GET ~"' + "(" * 4_000 + '" }}}',
        'policy p for host { ingress { allow from any on tcp/80 http { GET ~"' + "(a{1000}){1000}" * 200 + '" }}}',
        "cidr a = [ " + "10.0.0.1, " * 50_000 + "]",
        "identity a { " + "k == v, " * 20_000 + "}",
    ],
    ids=lambda t: f"{t[:24]!r}…{len(t)}",
)
def test_blow_ups(text: str, tmp_path: Path) -> None:
    start = time.monotonic()
    file = tmp_path / "x.pol"
    file.write_text(text, encoding="utf-8")
    result = load([str(file)])
    assert len(render(result.diagnostics, result.sources)) < 250_000
    assert time.monotonic() - start < 10


def test_warnings_are_cut_and_never_become_or_hide_an_error(tmp_path: Path) -> None:
    file = tmp_path / "x.pol"
    unused = "".join(f"identity i{i} {{ app == v{i} }}\n" for i in range(1000))
    file.write_text(unused)
    result = load([str(file)])
    assert result.policy is not None
    assert sorted(d.name for d in result.diagnostics) == ["too-many-warnings"] + ["unused-name"] * 500
    file.write_text(unused + "policy p for host { ingress { allow from nobody } }\n")
    assert [d.name for d in load([str(file)]).diagnostics] == ["unknown-name"]


def test_long_chains_of_sets(tmp_path: Path) -> None:
    file = tmp_path / "x.pol"
    sets = "".join(f"cidr a{i} = [ a{i + 1} ]\nports p{i} = [ p{i + 1} ]\n" for i in range(3000))
    end = "cidr a3000 = [ 10.0.0.0/8 ]\nports p3000 = [ tcp/80 ]\n"
    file.write_text(sets + end + "policy p for host { ingress { allow from a0 on p0 } }\n")
    assert load([str(file)]).diagnostics == []


def test_a_thousand_rules_are_fast(tmp_path: Path) -> None:
    file = tmp_path / "x.pol"
    rules = "\n".join(
        f"allow from 10.{i % 256}.{i // 256}.0/24 on tcp/{i + 1}, udp/53 log as r{i}" for i in range(1000)
    )
    file.write_text(f"policy p for host {{ ingress {{ {rules} }} }}")
    load([str(file)])
    start = time.monotonic()
    assert load([str(file)]).diagnostics == []
    assert time.monotonic() - start < 1.5
