"""Where a path's automaton takes several bytes at once."""

from __future__ import annotations

import pytest

from policyc.ir.automata.globs import path_glob
from policyc.ir.http_automata import Source, automaton
from policyc.ir.http_guards import path_reading
from policyc.ir.http_lower import UNLIKELY_PATH
from policyc.ir.http_runs import SHORTEST, with_runs
from policyc.ir.http_tables import ACTION, RUN_BYTES, Automaton
from policyc.ir.verify_http import verify_automaton
from policyc.model import Span

SPAN = Span("a.pol", 1, 1, 1, 1)


def made(*globs: str) -> tuple[Automaton, Automaton]:
    """The automaton of paths without runs and with them."""
    sources = [Source(path_glob(glob), mark, glob, SPAN) for mark, glob in enumerate(globs)]
    plain = automaton(path_reading(), sources, len(globs), lambda tag, marks: 1 + sum(1 << m for m in marks), "path")
    return plain, with_runs(plain, UNLIKELY_PATH)


def texts(*globs: str) -> list[bytes]:
    _, automaton = made(*globs)
    verify_automaton("automaton", automaton)
    return sorted(text for text, _ in automaton.runs)


@pytest.mark.parametrize(
    ("globs", "expected"),
    [
        (("/abcd",), [b"abcd"]),
        (("/abc",), []),
        (("/api/v1/items/*",), [b"api/v1/i", b"tems/"]),
        (("/api/v1/items/*", "/api/v1/items/*/x"), [b"api/v1/i", b"tems/"]),
        (("/api/one/abcdef", "/api/two/abcdef"), [b"api/", b"ne/abcde", b"wo/abcde"]),
        (("/items/**",), [b"items/"]),
        (("/**",), []),
        (("/*/items", "/static/x"), [b"tatic/x"]),
    ],
)
def test_literals_are_runs(globs: tuple[str, ...], expected: list[bytes]) -> None:
    assert texts(*globs) == expected


def test_they_change_nothing_but_the_numbers_of_states() -> None:
    plain, automaton = made("/api/v1/items/*", "/api/v1/orders/**", "/static/*.css", "/**/x")
    number = {plain.start: automaton.start}
    new = [plain.start]
    while new:
        state = new.pop()
        assert plain.outcome[state] == automaton.outcome[number[state]]
        for class_ in range(plain.width):
            cell = plain.next[state * plain.width + class_]
            other = automaton.next[number[state] * plain.width + class_]
            if cell >= ACTION:
                assert other == cell
            elif cell not in number:
                number[cell] = other
                new.append(cell)
            else:
                assert number[cell] == other
    assert len(set(number.values())) == len(plain.outcome) == len(automaton.outcome)


def test_their_lengths() -> None:
    _, automaton = made(*(f"/api/{'x' * n}/{n}" for n in range(30)))
    assert automaton.runs
    assert all(SHORTEST <= len(text) <= RUN_BYTES for text, _ in automaton.runs)
