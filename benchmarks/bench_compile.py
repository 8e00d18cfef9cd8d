"""What checking, compiling and the reference evaluator take: `pytest benchmarks/bench_compile.py` (pytest-benchmark)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import policies
from policyc.driver import check_files, compile_files
from policyc.engine import ReferenceEngine
from policyc.flows import parse_flow
from policyc.model import Endpoint

SOURCES = {
    "10 rules": policies.services(10),
    "1000 rules": policies.services(1000),
    "1000 prefixes": policies.blocklist(1000),
}


@pytest.fixture(params=SOURCES)
def source(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    path = tmp_path / "bench.pol"
    path.write_text(SOURCES[request.param])
    return str(path)


def test_check(benchmark: Any, source: str) -> None:
    assert benchmark(check_files, [source]).policy is not None


def test_compile(benchmark: Any, source: str) -> None:
    made = benchmark.pedantic(compile_files, args=([source],), rounds=3, warmup_rounds=1)
    assert made.startswith(b"\x7fELF")


def test_reference(benchmark: Any, source: str) -> None:
    """One flow, both directions."""
    policy = check_files([source]).policy
    server = Endpoint("server", (("4", 10 << 24 | 1),), {"app": "server"})
    caller = Endpoint("caller", (("4", 10 << 24 | 2),), {"app": "app7"})
    engine = ReferenceEngine(policy, (server, caller))
    flow = parse_flow('{"src": "caller", "dst": "server", "proto": "udp", "dport": 1007}', engine.world)
    assert benchmark(engine.judge, flow)
