"""`--engine kernel`: the same answers as the reference evaluator, from files and from an object."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import policyc


@pytest.mark.bpf
def test_both_engines_answer_alike(tmp_path: Path) -> None:
    assert policyc("init", tmp_path).code == 0
    source, compiled = tmp_path / "policy.pol", tmp_path / "policy.o"
    assert policyc("compile", source, "-o", compiled).code == 0
    options = ["--endpoints", tmp_path / "endpoints.yaml", "--flows", tmp_path / "flows.jsonl"]
    answers = [
        policyc("eval", path, *options, "--engine", engine)
        for path in (source, compiled)
        for engine in ("reference", "kernel")
    ]
    assert answers[0].code == 0
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.bpf
def test_test_blocks_hold_in_the_kernel(tmp_path: Path) -> None:
    policyc("init", tmp_path)
    done = policyc("test", tmp_path / "policy.pol", "--engine", "kernel")
    assert (done.code, done.err) == (0, "")
    assert "on the kernel engine: all hold" in done.out
