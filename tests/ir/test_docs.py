"""Protects docs/ir.md: its example is IR, its second text is what the first becomes, its table has every pass."""

from __future__ import annotations

import re
from pathlib import Path

from policyc.ir.pipeline import PASSES
from policyc.ir.text import parse_module, print_module
from policyc.ir.verify import verify

PAGE = (Path(__file__).parents[2] / "docs" / "ir.md").read_text()


def test_example_becomes_the_tables_shown():
    flat, shown = re.findall(r"```\n(.*?)```", PAGE, re.S)
    module = parse_module(flat)
    verify(module)
    after_grouping = [step.name for step in PASSES].index("group-by-subject") + 1
    for step in PASSES[after_grouping:]:
        if step.name != "drop-unused":  # the page's selector shows every operator, `same` stands unused
            module = step.run(module)
            verify(module)
    assert shown in print_module(module)


def test_table_names_every_pass_in_order():
    assert re.findall(r"^\| `([a-z-]+)` \|", PAGE, re.M) == [step.name for step in PASSES]
