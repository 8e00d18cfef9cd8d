"""Protects what each pass does: text in, text out, in `passes/*.test` (a comment, the pass, its input, its output)."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.ir.pipeline import PASSES
from policyc.ir.text import parse_module, print_module
from policyc.ir.verify import verify

CASES = sorted((Path(__file__).parent / "passes").glob("*.test"))
BY_NAME = {step.name: step for step in PASSES}


@pytest.mark.parametrize("path", CASES, ids=[path.stem for path in CASES])
def test_pass_output_is_the_expected_text(path):
    given, expected = path.read_text().split("----\n")
    comment, header, source = given.split("\n", 2)
    assert comment.startswith("# ")
    step = BY_NAME[header.removeprefix("pass ")]
    before = parse_module(source)
    verify(before)
    after = step.run(before)
    verify(after)
    assert print_module(after) == expected
    assert print_module(before) == source, "the pass changed its input"


def test_every_pass_between_lowering_and_the_end_has_a_case():
    covered = {path.read_text().split("\n")[1].removeprefix("pass ") for path in CASES}
    assert covered == BY_NAME.keys() - {"lower"}
