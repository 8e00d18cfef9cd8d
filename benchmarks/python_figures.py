"""Figures of what pytest-benchmark measures: `bench_compiler.py` and `bench_endpoints.py`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from benchmarks.bench_compiler import FLOWS
from benchmarks.figures import Figure

FILES = ("benchmarks/bench_compiler.py", "benchmarks/bench_endpoints.py")


def command(out: Path, quick: bool) -> list[str]:
    """Runs them; pytest-benchmark's own document goes to `out`."""
    chosen = FILES[1:] if quick else FILES
    return [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *chosen, f"--benchmark-json={out}"]


def read(path: Path) -> list[Figure]:
    """Medians, from pytest-benchmark's document."""
    return [_figure(entry) for entry in json.loads(path.read_text())["benchmarks"]]


def _figure(entry: dict) -> Figure:  # type: ignore[type-arg]
    name, _, case = entry["name"].removeprefix("test_").rstrip("]").partition("[")
    seconds = entry["stats"]["median"]
    if name in ("add", "remove"):
        return Figure("python", f"endpoint: {name}, {case}", round(seconds * 1e6, 1), "µs", "<= 200")
    if name == "reference_evaluator":
        rate = FLOWS / seconds
        return Figure("python", f"reference evaluator, 1,000 rules ({case})", round(rate), "flows/s", ">= 1000")
    return Figure("python", f"{name} in process ({case})", round(seconds * 1e3, 1), "ms")
