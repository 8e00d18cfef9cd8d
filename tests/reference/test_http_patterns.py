"""Globs and regexes of the reference evaluator against Python's `re`, an independent reading of them."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.model import Pattern
from policyc.reference.http_patterns import BadRegex, Matcher, host_glob, matches, path_glob, regex
from tests.reference.builders import span

SEGMENTS = st.sampled_from(["a", "b", "ab", "*", "a*", "*b", "a*b", "**"])


@given(st.lists(SEGMENTS, min_size=1, max_size=4), st.text("ab/;", max_size=10))
def test_path_globs(segments: list[str], text: str) -> None:
    some = "(/[^/;]+)*"
    pattern = "".join(
        (some + "/?" if n == len(segments) else some)
        if s == "**"
        else "/" + ("[^/;]+" if s == "*" else s.replace("*", "[^/;]*"))
        for n, s in enumerate(segments, 1)
    )
    glob = "".join(f"/{s}" for s in segments)
    path = f"/{text}"
    assert Matcher(path_glob(glob.encode())).matches(path.encode()) == bool(re.fullmatch(pattern, path))


@given(st.lists(SEGMENTS, min_size=1, max_size=4), st.text("ab.", max_size=10))
def test_host_globs(labels: list[str], text: str) -> None:
    words = {"*": "[^.]+", "**": r"[^.]+(\.[^.]+)*"}
    pattern = r"\.".join(words.get(s, s.replace("*", "[^.]*")) for s in labels)
    assert Matcher(host_glob(".".join(labels).encode())).matches(text.encode()) == bool(re.fullmatch(pattern, text))


ATOMS = st.sampled_from(
    ["a", "b", "0", ".", r"\d", r"\w", r"\S", r"\x61", r"\.", "[ab]", "[^a]", "[a-c0]", "[^\\d]", "é", r"\n", "[b-]"]
)
SIGNS = st.sampled_from(["", "", "*", "+", "?", "{2}", "{1,}", "{0,2}"])
REGEXES = st.recursive(
    st.builds("(?:{}){}".format, ATOMS, SIGNS),
    lambda inner: st.one_of(
        st.builds("{}{}".format, inner, inner),
        st.builds("({}|{}){}".format, inner, inner, SIGNS),
    ),
    max_leaves=5,
)


@given(REGEXES, st.text("ab01.é\n-", max_size=6))
def test_regexes(text: str, data: str) -> None:
    expected = re.fullmatch(text.encode(), data.encode(), re.DOTALL)
    assert Matcher(regex(text)).matches(data.encode()) == (expected is not None)


@pytest.mark.parametrize(
    "text", ["(", ")", "[", "[a", "a{2", "*", "a|+", "\\", r"\q", "[é]", "^a", "a$", "{2}", r"\x4", "a{b}"]
)
def test_what_is_no_regex_is_refused(text: str) -> None:
    with pytest.raises(BadRegex):
        regex(text)


@pytest.mark.parametrize(
    ("kind", "text", "place", "data", "expected"),
    [
        ("string", "a*", "path", b"a*", True),
        ("string", "a*", "path", b"ab", False),
        ("glob", "*", "path", b"*", True),
        ("glob", "*", "path", b"/a", False),
        ("glob", "*", "value", b"*", True),
        ("string", "A.B", "host", b"a.b", True),
        ("string", "é", "value", "é".encode(), True),
        ("regex", ".", "value", b"\xff", True),
        ("regex", "", "value", b"", True),
    ],
)
def test_places(kind: str, text: str, place: str, data: bytes, expected: bool) -> None:
    assert matches(Pattern(kind, text, span()), data, place) is expected  # type: ignore[arg-type]
