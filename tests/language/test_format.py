"""The formatter keeps tokens and comments, changes no meaning and is idempotent."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyc.diagnostics import PolicyError
from policyc.grammar import lexer
from policyc.grammar.format import format_file

POLICIES = sorted((Path(__file__).parents[2] / "examples").glob("*.pol"))


def words(text: str) -> list[str]:
    return [t.text for t in lexer.tokens(text, "x", [])[0]]


@pytest.mark.parametrize("file", POLICIES, ids=lambda f: f.stem)
def test_same_tokens_and_comments_and_idempotent(file: Path) -> None:
    text = file.read_text()
    once = format_file(text)
    assert words(once) == words(text)
    assert re.findall(r"#.*\S", once) == re.findall(r"#.*\S", text)
    assert format_file(once) == once


def test_columns_that_the_author_aligned_stay() -> None:
    text = "identity a   { x == y }\nidentity abc { x == z }  # both\npolicy p for a, abc {}\n"
    assert format_file(text) == text


def test_layout() -> None:
    messy = (
        "\ufeffpolicy  p for host{\r\n\r\n\r\n\tingress{   # in\n"
        "allow from same( ns ),world( 10.0.0.0/8 ,) on [tcp/80,]\n}\negress {}}"
    )
    with pytest.raises(PolicyError):
        format_file("policy p for")
    assert format_file(messy) == (
        "policy  p for host {\n\n  ingress {   # in\n    allow from same(ns), world(10.0.0.0/8,) on [ tcp/80, ]\n  }\n  egress {} }\n"
    )


def test_entries_of_a_block() -> None:
    messy = (
        "policy p for host { ingress {\n"
        "allow from any on tcp/80 http audit limit 32k{ # why\n"
        'GET,HEAD "/v1/**" , ~ "/[a-z]+\\"\\d" # first\n\n\n'
        '   deny *   "/v1/internal/**"\n# all below\n'
        'PUT "/x" host"a" , "b"\nheader "X-A"\n"1",~"2*" query "q" absent upgrade"ws" body\n'
        "} log\n"
        "allow from any on tcp/81 http{}\n"
        "}}\n"
        'test "t"{allow host->host tcp/80 GET "/x"host "y"  header "a" "b" by p.ingress.1.1}\n'
    )
    formatted = """policy p for host { ingress {
    allow from any on tcp/80 http audit limit 32k {  # why
      GET, HEAD "/v1/**", ~"/[a-z]+\\"\\d"  # first

      deny *   "/v1/internal/**"
      # all below
      PUT "/x" host "a", "b"
      header "X-A"
      "1", ~"2*" query "q" absent upgrade "ws" body
    } log
    allow from any on tcp/81 http {}
} }
test "t" { allow host -> host tcp/80 GET "/x" host "y"  header "a" "b" by p.ingress.1.1 }
"""
    assert format_file(messy) == formatted
    assert format_file(formatted) == formatted


def test_a_hash_in_a_string_is_no_comment() -> None:
    assert format_file('identity a{k=="#x"}\n') == 'identity a { k == "#x" }\n'


def test_empty() -> None:
    assert format_file("") == ""
    assert format_file("\n\n# only a comment\n\n") == "# only a comment\n"
