"""docs/semantics.md: its policies compile and their tests hold."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from policyc.evaluate import run_tests
from policyc.frontend import load

PAGE = Path(__file__).parents[2] / "docs" / "semantics.md"
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
