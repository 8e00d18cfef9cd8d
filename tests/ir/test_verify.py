"""Protects the verifier: it finds what a broken pass would leave, and names the place."""

from __future__ import annotations

from pathlib import Path

import pytest

from policyc.frontend import load
from policyc.ir.pipeline import build
from policyc.ir.text import parse_module
from policyc.ir.verify import VerifyError, verify

GIVEN, EXPECTED = (Path(__file__).parent / "passes" / "build-rows-classes-and-cidrs.test").read_text().split("----\n")
FLAT, TABLES = GIVEN.split("\n", 2)[2], EXPECTED


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("match 1 peer 5", "match 1 peer 9", "group 0: match 1 9 0 refers to nothing"),
        ("match 0 peer 1", "match 3 peer 1", "group 0: match 1 5 0 is out of order"),
        ("peer 2 selector 0", "peer 2 selector 7", "peer 2: selector 7 does not exist (there are 1)"),
        ("peer 1 world", "peer 1 any", "peers: some are equal"),
        ("class 0\n", "class 0 1\n", "partition 0: class 0 has members"),
        ("v4 10.0.0.128 2", "v4 10.0.0.128 1", "partition 0 v4: start 167772288 repeats class 1"),
        ("full/6/80..full/6/80", "full/6/80..full/6/79", "services 0: has no interval or one out of range"),
        ("\nhas-audit", "", "module: has audited rules but says that it has none"),
        ("ingress normal 100 level 0 deny log", "egress normal 100 level 0 deny log",
         "group 0: rule 0 is of another direction or tier"),
        ("level 0 allow log", "level 1 allow log", "rule 2: level 1 does not follow from level 0"),
        ("enforced prospective partition", "enforced partition", "group 0: isolates enforced but not prospectively"),
        ("selected selector 0", "selected host", "selected: lacks a subject that a group has"),
    ],
)  # fmt: skip
def test_broken_flat_module(old, new, message):
    verify(parse_module(FLAT))
    _check(FLAT, old, new, message)


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("row 0\n  cell full/0/0 none", "row 0\n  cell full/0/0 rule 1", "row 0: is not the empty row"),
        ("cell full/6/81 none\n", "cell full/6/81 rule 2 log\n", "row 1: key 393297 repeats the cell before it"),
        ("cell full/6/80 rule 2 log\n", "cell full/0/0 rule 2 log\n", "row 1: key 0 is out of order or range"),
        ("rule 2 log prospective rule 0 log", "rule 0 log", "row 2: audited rule 0 is enforced"),
        ("none prospective rule 0 log", "none prospective rule 3", "row 2: an enforced rule is best only prospectively"),
        ("rule 2 log prospective rule 0 log", "rule 2 log prospective none",
         "row 2: enforced rule 2 is better than the prospective one"),
        ("classes 3", "classes 2", "cidr table 0 v4: class 2 does not exist (there are 2)"),
        ("world 2 host 1", "world 2 host 9", "group 0: row 9 does not exist (there are 5)"),
        ("class 0 any 0 world 0", "class 0 any 0 world 1", "group 0: class 0 has a row"),
        ("  class 2 any 3 world 4\n", "", "group 0: has not a row for each of the 3 classes of table 0"),
        ("ingress normal 100 level 0 allow log", "egress normal 100 level 0 allow log",
         "group 0: row 2 has rule 2 of another direction or tier"),
        ("same 0 row 1", "same 4 row 1", "group 0: same key 4 does not exist (there are 1)"),
    ],
)  # fmt: skip
def test_broken_tables(old, new, message):
    verify(parse_module(TABLES))
    _check(TABLES, old, new, message)


def _check(text, old, new, message):
    assert old in text
    with pytest.raises(VerifyError) as caught:
        verify(parse_module(text.replace(old, new, 1)))
    assert str(caught.value) == message


def test_a_rule_with_an_empty_block_begins_where_the_next_does(tmp_path: Path) -> None:
    file = tmp_path / "x.pol"
    rules = "allow to any on tcp/80 http {} priority 150\nallow to any on tcp/81 http { GET }"
    file.write_text(f"policy p for host {{ egress {{\n{rules}\n}} }}")
    policy = load([str(file)]).policy
    assert policy is not None
    build(policy)
