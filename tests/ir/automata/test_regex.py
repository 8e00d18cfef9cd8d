"""Protects the regex dialect: what it means, by independent libraries, and that what it has not is refused at its place."""

from __future__ import annotations

import re

import pytest
import re2
from hypothesis import given, settings
from hypothesis import strategies as st

from policyc.ir.automata import RegexError, parse_regex
from tests.ir.automata.languages import accepts, dfa_of

LITERALS = ("a", "b", "0", "/", "-", "é", r"\.", r"\\", r"\n", r"\x41", r"\xff", r"\/", " ", "\t")
SETS = (
    ".",
    "[a-c]",
    "[^a]",
    "[^/;]+",
    r"[\d.-]",
    r"[\]\-a]",
    "[a-]",
    "[-a]",
    r"\d",
    r"\w",
    r"\D",
    r"\W",
    r"\S",
    r"[^\w\s]",
    r"[\x00-\x1f]",
    "[a^]",
    "[.]",
)
TEXTS = st.lists(
    st.sampled_from(
        [b"a", b"b", b"c", b"0", b"/", b"-", b".", b"A", b"\n", b"\\", b" ", b"\xc3\xa9", b"\xff", b";", b"]"]
    ),
    max_size=8,
).map(b"".join)


def regexes() -> st.SearchStrategy[str]:
    atoms = st.sampled_from(LITERALS + SETS)

    def larger(inner: st.SearchStrategy[str]) -> st.SearchStrategy[str]:
        grouped = inner.map(lambda r: f"(?:{r})") | inner.map(lambda r: f"({r})")
        quantifiers = st.sampled_from(("*", "+", "?", "{2}", "{1,}", "{0,2}", "{1,3}"))
        return st.one_of(
            st.builds(lambda r, q: r + q, grouped, quantifiers),
            st.lists(inner, min_size=1, max_size=3).map("".join),
            st.lists(inner, min_size=2, max_size=3).map(lambda rs: "(" + "|".join(rs) + ")"),
        )

    return st.recursive(atoms, larger, max_leaves=8)


@settings(max_examples=400, deadline=None)
@given(regexes(), st.lists(TEXTS, min_size=1, max_size=8))
def test_means_what_python_says(regex: str, texts: list[bytes]):
    dfa = dfa_of([parse_regex(regex)])
    python = re.compile(regex.encode(), re.DOTALL)
    for text in texts:
        assert accepts(dfa, text) == (python.fullmatch(text) is not None)


@settings(max_examples=400, deadline=None)
@given(regexes(), st.lists(TEXTS, min_size=1, max_size=8))
def test_means_what_re2_says(regex: str, texts: list[bytes]):
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.dot_nl = True
    other = re2.compile(regex.encode(), options)
    dfa = dfa_of([parse_regex(regex)])
    for text in texts:
        assert accepts(dfa, text) == (other.fullmatch(text) is not None)


@pytest.mark.parametrize(
    ("regex", "position", "message"),
    [
        ("^a", 0, "anchors (`^`) are not supported"),
        ("a$", 1, "anchors (`$`) are not supported"),
        ("a*?", 1, "lazy quantifiers are not supported"),
        ("a{1,2}?", 1, "lazy quantifiers are not supported"),
        ("a++", 1, "possessive quantifiers are not supported"),
        ("a**", 2, "a quantifier follows a quantifier"),
        ("*a", 0, "`*` has nothing to repeat"),
        ("a|+", 2, "`+` has nothing to repeat"),
        ("(?)", 0, "inline flags are not supported"),
        ("(?i)a", 0, "inline flags are not supported"),
        ("(?i:a)", 0, "inline flags are not supported"),
        ("a(?=b)", 1, "lookahead is not supported"),
        ("a(?!b)", 1, "lookahead is not supported"),
        ("(?<=a)b", 0, "lookbehind is not supported"),
        ("(?<!a)b", 0, "lookbehind is not supported"),
        ("(?P<n>a)", 0, "named groups are not supported"),
        ("(?<n>a)", 0, "named groups are not supported"),
        ("(?P=n)", 0, "backreferences are not supported"),
        ("(?>a)", 0, "atomic groups are not supported"),
        ("(?#a)", 0, "comments are not supported"),
        ("(a)(?(1)b)", 3, "conditions are not supported"),
        (r"(a)\1", 3, r"backreferences (`\1`) are not supported"),
        (r"\bword", 0, r"word boundaries (`\b`) are not supported"),
        (r"\Aa\Z", 0, r"anchors (`\A`) are not supported"),
        (r"\p{L}", 0, r"classes of Unicode (`\p`) are not supported"),
        (r"a\q", 1, r"`\q` is not an escape"),
        (r"a\0", 1, r"`\0` is not an escape"),
        ("a\\é", 1, "`\\é` is not an escape"),
        (r"\x4", 0, r"`\x` without two hex digits"),
        (r"\xg0", 0, r"`\x` without two hex digits"),
        ("a\\", 1, "a `\\` at the end"),
        ("[a", 0, "a `[` without its `]`"),
        ("[]", 0, "an empty class"),
        ("[^]a]", 0, "an empty class"),
        ("[é]", 1, "`é` is not ASCII and cannot stand in a class"),
        ("[z-a]", 1, "the ends of the range are in the wrong order"),
        (r"[a-\d]", 1, "a range from or to a set"),
        ("[[:alpha:]]", 1, "classes by name are not supported"),
        ("a]", 1, "a `]` without its beginning"),
        ("a}", 1, "a `}` without its beginning"),
        ("(a", 0, "a `(` without its `)`"),
        ("a)b", 1, "a `)` without its `(`"),
        ("a{", 1, "`{` does not begin a repetition"),
        ("a{x}", 1, "`{` does not begin a repetition"),
        ("a{,3}", 1, "`{` does not begin a repetition"),
        ("a{3,2}", 1, "the bounds of the repetition are in the wrong order"),
        ("a{1001}", 1, "more than 1000 repetitions"),
        ("a{99999999999999999999}", 1, "more than 1000 repetitions"),
        ("é(a{1000}){1000}", 1, "with this the regex stands for more than 10,000 bytes"),
        ("(" * 60 + "a" + ")" * 60, 50, "more than 50 groups in one another"),
        ("\ud800", 0, "this is no character that UTF-8 has"),
    ],
)  # fmt: skip
def test_refused_at_its_place(regex: str, position: int, message: str):
    with pytest.raises(RegexError) as raised:
        parse_regex(regex)
    assert (raised.value.message, raised.value.position) == (message, position)


@settings(max_examples=500, deadline=None)
@given(st.text(st.sampled_from("ab0()[]{}|*+?\\^$.-,:=!<>Pxd é\x00\ud800"), max_size=12))
def test_any_text_is_a_regex_or_refused(text: str):
    positions = [0]
    try:
        parse_regex(text)
    except RegexError as error:
        positions.append(error.position)
    assert all(0 <= position <= len(text) for position in positions)
