"""Protects the automata: each pattern's own matches and no others, in as few states and classes as there can be, within limits."""

from __future__ import annotations

import re
from itertools import combinations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.ir.automata.dfa import Dfa, byte_classes
from policyc.ir.automata.expression import ANY_BYTE, NOTHING, byte_set, literal, loops, positions
from policyc.ir.automata.globs import host_glob, path_glob
from policyc.ir.automata.limits import BudgetExceeded, Limits
from policyc.ir.automata.regex import parse_regex
from tests.ir.automata.languages import dfa_of, outcome

PATTERNS = (
    "a",
    "ab",
    "a*",
    "(a|b)*",
    "a+b?",
    "(ab)*",
    "[^a]b",
    ".*a",
    ".*a.{2}",
    "b{2,3}",
    "(a*b*)*",
    "a(b|a)c",
    "",
    "[ab]?c",
    ".",
    "(a?b?)+",
    "((a|)b)*",
)
TEXTS = st.text(st.sampled_from("abc"), max_size=8).map(str.encode)
PATH_GLOBS = (
    "/a",
    "/a/*",
    "/a/**",
    "/**",
    "/**/b",
    "/a/**/b/*",
    "/a*",
    "/*b/",
    "/a*b",
    "/*/a",
    "/a/**/b/**",
    "*",
    "/",
    "/a*b*c",
    "/a.b",
)
PATHS = (
    "/",
    "/a",
    "/b",
    "/ab",
    "/a/",
    "/a/b",
    "/a/c/b",
    "/a/b/b/c",
    "/ab/",
    "/x/a",
    "/a;b",
    "/a/b;c",
    "/a/;",
    "/axbxc",
    "/a/x/b/y",
    "/a.b",
    "/axb",
    "*",
    "",
    "/c/d/b",
    "/a/b/x",
)
HOST_GLOBS = ("a", "*", "**", "*.a", "**.a", "a.*", "a*", "x*y.a", "a.**.b", "A.b")
HOSTS = (
    "a",
    "b",
    "a.a",
    "b.a",
    "c.b.a",
    "a.b",
    "ab",
    "xy.a",
    "xzy.a",
    "x.y.a",
    "a.x.b",
    "a.x.y.b",
    "",
    ".",
    "a.",
    ".a",
    "b..a",
)


def distinguishable(dfa: Dfa) -> set[tuple[int, int]]:
    """Pairs of states that some bytes tell apart, found in the most naive way."""
    pairs = list(combinations(range(len(dfa.rows)), 2))
    found = {p for p in pairs if dfa.outcomes[p[0]] != dfa.outcomes[p[1]]}
    while True:
        more = {
            (a, b) for a, b in pairs
            if (a, b) not in found
            and any(tuple(sorted(t)) in found for t in zip(dfa.rows[a], dfa.rows[b], strict=True))
        }  # fmt: skip
        if not more:
            return found
        found |= more


def reachable(dfa: Dfa) -> set[int]:
    seen = {0}
    waiting = [0]
    while waiting:
        for target in dfa.rows[waiting.pop()]:
            if target not in seen:
                seen.add(target)
                waiting.append(target)
    return seen


@settings(max_examples=200, deadline=None)
@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=4), st.lists(TEXTS, min_size=1, max_size=10))
def test_the_outcome_is_the_set_of_patterns_that_match(patterns: list[str], texts: list[bytes]):
    dfa = dfa_of([parse_regex(p) for p in patterns])
    for text in texts:
        expected = sum(1 << n for n, p in enumerate(patterns) if re.fullmatch(p.encode(), text, re.DOTALL))
        assert outcome(dfa, text) == expected


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PATTERNS), min_size=1, max_size=3))
def test_no_two_states_and_no_two_classes_are_equivalent(patterns: list[str]):
    dfa = dfa_of([parse_regex(p) for p in patterns])
    states = range(len(dfa.rows))
    assert distinguishable(dfa) == set(combinations(states, 2))
    assert reachable(dfa) == set(states)
    columns = list(zip(*dfa.rows, strict=True))
    assert len(set(columns)) == len(columns) == max(dfa.classes) + 1


def as_regex(glob: str, separator: str, one: str) -> str:
    """What a glob means, in the words of another engine."""
    if glob == "*":
        return r"\*" if separator == "/" else f"{one}+"
    result = []
    for part in glob.split(separator):
        pieces = [re.escape(piece) for piece in part.split("*")]
        result.append(f"{one}+" if part == "*" else f"{one}*".join(pieces) if part != "**" else "**")
    text = re.escape(separator).join(result)
    if separator == ".":
        return text.replace("**", rf"{one}+(\.{one}+)*")
    if text.endswith("/**"):
        text = text.removesuffix("/**") + f"(/{one}+)*/?"
    return text.replace("/**", f"(/{one}+)*")


@pytest.mark.parametrize("glob", PATH_GLOBS)
def test_path_globs(glob: str):
    dfa = dfa_of([path_glob(glob)])
    expected = re.compile(as_regex(glob, "/", "[^/;]"))
    # `/**` alone matches the empty path in the other engine's words, and no path is empty.
    assert [p for p in PATHS if p and outcome(dfa, p.encode())] == [p for p in PATHS if p and expected.fullmatch(p)]


@pytest.mark.parametrize("glob", HOST_GLOBS)
def test_host_globs(glob: str):
    dfa = dfa_of([host_glob(glob)])
    expected = re.compile(as_regex(glob.lower(), ".", r"[^.]"))
    assert [h for h in HOSTS if outcome(dfa, h.encode())] == [h for h in HOSTS if expected.fullmatch(h)]


def test_nothing_matches_nothing():
    dfa = dfa_of([NOTHING])
    assert (len(dfa.rows), outcome(dfa, b""), outcome(dfa, b"a")) == (1, 0, 0)


def test_patterns_that_end_alike_share_their_ends():
    alike = [parse_regex(f"({'|'.join(f'x{n}' for n in range(20))})/abcdefgh")]
    assert len(dfa_of(alike).rows) < 20


def test_classes_are_as_few_as_the_sets_allow():
    classes = byte_classes({byte_set(b"ab"), byte_set(b"bc"), ANY_BYTE})
    assert [classes[b] for b in b"abcd"] == [1, 2, 3, 0]
    assert max(classes) == 3


def test_sizes_of_expressions():
    expression = parse_regex("a{3}(b|c)*d{2,}")
    assert (positions(expression), loops(expression)) == (7, 2)


@pytest.mark.parametrize("limits", [Limits(states=1000), Limits(steps=20_000), Limits(links=20)])
def test_what_grows_beyond_the_limits_is_refused(limits: Limits):
    with pytest.raises(BudgetExceeded):
        dfa_of([parse_regex(".*a.{20}")], limits)


def test_a_regex_whose_parts_may_all_be_absent_does_not_fill_the_memory():
    with pytest.raises(BudgetExceeded):
        dfa_of([parse_regex("(a?b?c?d?e?f?g?h?i?j?){1000}")])


def test_long_patterns_that_begin_alike():
    """Nothing is as deep as a pattern is long."""
    texts = [b"/" + b"a" * n for n in range(1200)]
    dfa = dfa_of([literal(text) for text in texts])
    assert outcome(dfa, texts[1199]) == 1 << 1199


def test_numbers_do_not_depend_on_the_order_of_hashing():
    globs = [path_glob(f"/a/*/b{n}/**") for n in range(30)]
    first = dfa_of(globs)
    assert first == dfa_of(globs)
    assert list(dict.fromkeys(t for row in first.rows for t in row if t)) == list(range(1, len(first.rows)))
