"""The corpus of HTTP streams, played through the reference evaluator (semantics 4)."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from policyc.frontend import load
from policyc.model import PolicySet, Rule
from policyc.reference.http import HttpStream, RequestVerdict
from tests.reference.http_corpus import CASES, Case, Expected


@cache
def policy_set(text: str) -> PolicySet:
    with TemporaryDirectory() as folder:
        path = Path(folder) / "p.pol"
        path.write_text(text)
        result = load([str(path)])
    assert result.policy is not None, result.diagnostics
    return result.policy


def rules(text: str) -> tuple[Rule, ...]:
    return policy_set(text).policies[0].rules


def play(case: Case, segments: tuple[bytes, ...] | None = None) -> tuple[list[RequestVerdict], HttpStream]:
    stream = HttpStream(rules(case.policy))
    verdicts: list[RequestVerdict] = []
    for segment in case.segments if segments is None else segments:
        for verdict in stream.feed(segment):
            if verdict.again:
                verdicts.pop()
            verdicts.append(verdict)
    return verdicts, stream


def as_expected(verdict: RequestVerdict) -> Expected:
    ref = verdict.rule.ref.removeprefix("p.") + (f".{verdict.entry.number}" if verdict.entry else "")
    return Expected(verdict.verdict, verdict.reason, ref, verdict.answer, verdict.saw)


def test_names_are_unique() -> None:
    assert len({c.name for c in CASES}) == len(CASES)


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_case(case: Case) -> None:
    verdicts, stream = play(case)
    assert tuple(map(as_expected, verdicts)) == case.expected
    assert stream.end == case.end


@pytest.mark.parametrize("case", CASES, ids=lambda c: c.name)
def test_a_case_cut_anywhere(case: Case) -> None:
    """A write that is cut by the network is no other write: nothing depends on where."""
    for number, segment in enumerate(case.segments):
        step = max(1, len(segment) // 50)
        for at in range(1, len(segment), step):
            assert cut(case, number, at) == case.expected, (number, at)


def cut(case: Case, number: int, at: int) -> tuple[Expected, ...]:
    stream = HttpStream(rules(case.policy))
    verdicts: list[RequestVerdict] = []
    for index, segment in enumerate(case.segments):
        found = stream.feed(segment[:at], answered=False) if index == number else []
        for verdict in found + stream.feed(segment[at:] if index == number else segment):
            if verdict.again:
                verdicts.pop()
            verdicts.append(verdict)
    return tuple(map(as_expected, verdicts))
