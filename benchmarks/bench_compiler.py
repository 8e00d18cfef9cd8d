"""What runs in Python without root: checking, compiling, the reference evaluator. `pytest benchmarks/bench_compiler.py`."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from benchmarks import rulesets
from benchmarks.loads import sources
from benchmarks.rulesets import RuleSet, dotted
from policyc.driver import check_files, compile_files
from policyc.engine import ReferenceEngine
from policyc.flows import parse_flow

RULES = 1000
SHAPES: dict[str, Callable[[], RuleSet]] = {
    "empty": rulesets.empty,
    "services": lambda: rulesets.services(RULES),
    "access list": lambda: rulesets.access_list(RULES),
}
FLOWS = 500


@pytest.fixture(params=SHAPES)
def rules(request: pytest.FixtureRequest) -> RuleSet:
    return SHAPES[request.param]()


@pytest.fixture
def source(rules: RuleSet) -> Iterator[Path]:
    with sources(rules) as path:
        yield path


def test_check(benchmark: Any, source: Path) -> None:
    assert benchmark(check_files, [str(source)]).policy is not None


def test_compile(benchmark: Any, source: Path) -> None:
    made = benchmark.pedantic(compile_files, args=([str(source)],), rounds=5, warmup_rounds=1)
    assert made.startswith(b"\x7fELF")


def test_reference_evaluator(benchmark: Any, rules: RuleSet, source: Path) -> None:
    """FLOWS flows, each judged in both directions; half of them match a rule."""
    if rules.packets is None:
        pytest.skip("no rule, no flow")
    engine = ReferenceEngine(check_files([str(source)]).policy, rules.endpoints)
    rng = random.Random(1)
    drawn = [
        rules.packets(rng) if n % 2 else (rulesets.world_address(rng), rng.randrange(1, 65536)) for n in range(FLOWS)
    ]
    server = dotted(rulesets.SERVER)
    flows = [
        parse_flow(f'{{"src": "{dotted(a)}", "dst": "{server}", "proto": "udp", "dport": {p}}}', engine.world)
        for a, p in drawn
    ]

    def judge() -> int:
        return sum(all(step.outcome.verdict == "allow" for step in engine.judge(flow)) for flow in flows)

    assert 0 < benchmark.pedantic(judge, rounds=7, warmup_rounds=1) < FLOWS
