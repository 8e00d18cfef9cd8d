"""Protects the corpus and the reference evaluator from each other: what a case expects is what the policy means."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import policyc
from tests.l7.corpus import policy
from tests.l7.corpus.all_cases import CASES
from tests.l7.corpus.case import Case, Outcome

ENDPOINTS = [
    {"name": "web", "addresses": ["10.9.1.2"], "labels": {"app": "web"}},
    {"name": "api", "addresses": ["10.9.2.2"], "labels": {"app": "api"}},
]
EVALUATED = [case for case in CASES if case.evaluated]


def flow(case: Case) -> dict[str, Any]:
    segments = [base64.b64encode(segment).decode() for segment in case.segments]
    line = {"src": "web", "dst": "api", "proto": "tcp", "dport": 8080, "direction": "ingress"}
    return {**line, "http": {"segments": segments}}


def expected(outcome: Outcome) -> tuple[str, str, Any, Any]:
    answer = int(outcome.answer) if outcome.answer == "403" else outcome.answer
    return outcome.verdict, outcome.reason, answer, outcome.saw.words or None


@pytest.fixture(scope="module")
def answers(tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    folder: Path = tmp_path_factory.mktemp("corpus")
    (folder / "corpus.pol").write_text(policy.TEXT)
    (folder / "endpoints.yaml").write_text(json.dumps({"version": 1, "endpoints": ENDPOINTS}))
    lines = "".join(json.dumps(flow(case)) + "\n" for case in EVALUATED)
    given = ("--endpoints", folder / "endpoints.yaml", "--engine", "reference")
    done = policyc("eval", folder / "corpus.pol", *given, stdin=lines.encode())
    assert done.code == 0, done.err
    found = [json.loads(line) for line in done.out.splitlines()]
    return {case.name: answer for case, answer in zip(EVALUATED, found, strict=True)}


@pytest.mark.parametrize("case", EVALUATED, ids=lambda c: c.name)
def test_the_evaluator_agrees(answers: dict[str, dict[str, Any]], case: Case) -> None:
    answer = answers[case.name]
    found = [(r["verdict"], r["reason"], r["answer"], r["saw"]) for r in answer["requests"]]
    assert found == [expected(outcome) for outcome in case.expected]
    assert answer["end"] == ("closed" if case.denied else "open")
    methods = [r["method"] for r in answer["requests"] if r["verdict"] == "allow"]
    assert methods == [method for method, _ in case.allowed]
