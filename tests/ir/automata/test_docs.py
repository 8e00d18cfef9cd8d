"""Protects docs/regex.md: what its examples match, and that what it says is not there is not there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyc.ir.automata import RegexError, parse_regex
from tests.ir.automata.languages import accepts, dfa_of

PAGE = (Path(__file__).parents[3] / "docs" / "regex.md").read_text()
ROWS = [
    re.findall(r"`([^`]+)`", line.replace(r"\|", "\0"))[-3:] for line in PAGE.splitlines() if line.startswith("| ")
][1:]
EXAMPLES = [tuple(text.replace("\0", "|") for text in row) for row in ROWS]


@pytest.mark.parametrize(("regex", "matching", "other"), EXAMPLES)
def test_examples(regex: str, matching: str, other: str):
    dfa = dfa_of([parse_regex(regex)])
    assert accepts(dfa, matching.encode())
    assert not accepts(dfa, other.encode())


def test_every_row_has_an_example():
    assert len(EXAMPLES) == 13
    assert all(len(row) == 3 for row in EXAMPLES)


@pytest.mark.parametrize("regex", ["^a", "a$", r"\Aa", r"a\z", r"\b", "a*?", "a*+", r"(a)\1", "(?=a)", "(?<=a)", "(?P<n>a)", "(?>a)", "(?i)", "(?#)", "[[:alpha:]]", r"\p{L}", r"\e", r"\0", "[é]"])  # fmt: skip
def test_what_is_not_there(regex: str):
    with pytest.raises(RegexError):
        parse_regex(regex)
