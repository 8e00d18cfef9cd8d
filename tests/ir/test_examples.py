"""Protects the policies people have: each builds, verifies and prints back at every stage, small enough for code."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.frontend import load
from policyc.ir.pipeline import build
from policyc.ir.text import parse_module, print_module

EXAMPLES = sorted((Path(__file__).parents[2] / "examples").glob("*.pol"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_builds(path):
    policy = load([str(path)]).policy
    assert policy is not None

    def observe(_name, module, _seconds):
        assert parse_module(print_module(module)) == module

    tables = build(policy, observer=observe)
    assert tables.inline_rows
    assert [rule.ref for rule in tables.rules]
