"""`policyc eval` and `policyc test`: flow lines or `test` blocks in, answers out, on any engine."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from policyc.answers import document, error_document
from policyc.engine import Engine, EngineFactory, ReferenceEngine
from policyc.expectations import Result, run_test
from policyc.flows import BadFlow, parse_flow
from policyc.model import PolicySet

__all__ = ["Engine", "EngineFactory", "ReferenceEngine", "Result", "evaluate", "run_tests"]


def evaluate(lines: Iterable[str | bytes], engine: Engine) -> Iterator[dict[str, Any]]:
    """One document a line, in order; a bad line gives `{"error": …, "line": N}` in its place."""
    for number, line in enumerate(lines, 1):
        try:
            flow = parse_flow(line, engine.world)
            answer = engine.judge(flow)
        except BadFlow as error:
            yield error_document(str(error), number)
        else:
            yield document(engine.world, flow, answer)


def run_tests(policy: PolicySet, engine_factory: EngineFactory = ReferenceEngine) -> list[Result]:
    """The result of every expectation of every `test` block, in source order."""
    return [result for test in policy.tests for result in run_test(policy, test, engine_factory)]
