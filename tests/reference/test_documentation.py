"""docs/semantics.md: its policies compile and their tests hold. docs/operations.md: what it evaluates says what it shows."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policyc.evaluate import run_tests
from policyc.frontend import load

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "semantics.md"
OPERATIONS = ROOT / "docs" / "operations.md"
EXAMPLES = re.findall(r"^```policy\n(.*?)^```$", PAGE.read_text(), re.DOTALL | re.MULTILINE)


def test_there_are_examples() -> None:
    assert EXAMPLES


@pytest.mark.parametrize("text", EXAMPLES)
def test_an_example_holds(text: str, tmp_path: Path) -> None:
    path = tmp_path / "example.pol"
    path.write_text(text)
    result = load([str(path)])
    assert result.diagnostics == []
    assert result.policy is not None
    assert [r.message for r in run_tests(result.policy) if not r.passed] == []


def test_asking_beforehand(tmp_path: Path) -> None:
    section = OPERATIONS.read_text().partition("## Asking beforehand\n")[2].partition("\n## ")[0]
    ((name, text),) = re.findall(r"^```policy (\S+)\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (session,) = re.findall(r"^```console\n(.*?)^```$", section, re.DOTALL | re.MULTILINE)
    (tmp_path / name).write_text(text)
    shutil.copy(ROOT / "examples" / "endpoints" / "starwars.yaml", tmp_path)
    program = tmp_path / "policyc"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -m policyc "$@"\n')
    program.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT), "NO_COLOR": "1"}
    for command, shown in re.findall(r"^\$ (.*)\n((?:(?!\$ ).*\n)*)", session, re.MULTILINE):
        done = subprocess.run(["sh", "-c", command], cwd=tmp_path, env=environment, capture_output=True, text=True)
        assert done.stdout == shown, done.stderr
