"""Tests that need the kernel cannot vanish unseen: they are counted when skipped, and fail where they are required."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
CASES = """
import pytest

@pytest.mark.bpf
def test_kernel():
    pass

@pytest.mark.bpf
def test_tool_missing():
    pytest.skip("no nginx")

def test_plain():
    pass
"""


def run(folder: Path, permitted: bool, required: bool) -> tuple[int, str]:
    probe = "None" if permitted else "'it is not permitted here'"
    conftest = (HERE / "conftest.py").read_text() + f"\n\ndef missing_permission():\n    return {probe}\n"
    (folder / "conftest.py").write_text(conftest)
    (folder / "test_cases.py").write_text(CASES)
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = bpf: x\n")
    environment = os.environ | {"POLICYC_REQUIRE_BPF": str(int(required))}
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider"]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    return done.returncode, done.stdout


@pytest.mark.parametrize(
    ("permitted", "required", "code", "summary"),
    [
        (True, False, 0, "2 passed, 1 skipped"),
        (True, True, 1, "1 failed, 2 passed"),
        (False, False, 0, "1 passed, 2 skipped"),
        (False, True, 1, "1 passed, 2 errors"),
    ],
)
def test_outcomes(tmp_path: Path, permitted: bool, required: bool, code: int, summary: str) -> None:
    returned, output = run(tmp_path, permitted, required)
    assert returned == code, output
    assert summary in output
    assert ("KERNEL TESTS DID NOT RUN" in output) is not required
    if required:
        assert "POLICYC_REQUIRE_BPF=1" in output
