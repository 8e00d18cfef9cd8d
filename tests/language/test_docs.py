"""The language reference: its examples compile, its table of codes is complete.

After a change of codes write the table anew with POLICYC_WRITE_GOLDENS=1."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest

from policyc.codes import CODES
from policyc.frontend import load
from policyc.grammar import lexer

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "language.md"
BLOCKS = re.findall(r"^```policy\n(.*?)^```$", PAGE.read_text(encoding="utf-8"), re.S | re.M)
OPENING, CLOSING = "<!-- codes -->\n", "<!-- /codes -->"


def test_there_are_blocks() -> None:
    assert len(BLOCKS) >= 10


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_block_compiles(number: int, tmp_path: Path) -> None:
    shutil.copytree(ROOT / "examples" / "feeds", tmp_path / "feeds")
    for block in BLOCKS:
        named = re.match(r"# file: (\S+)\n", block)
        if named:
            (tmp_path / named.group(1)).write_text(block, encoding="utf-8")
    (tmp_path / "block.pol").write_text(BLOCKS[number], encoding="utf-8")
    errors = [d for d in load([str(tmp_path / "block.pol")]).diagnostics if d.severity == "error"]
    assert errors == []


def table() -> str:
    rows = "".join(f"| {c.code} | `{c.name}` | {c.severity} | {c.explanation} |\n" for c in CODES.values())
    return f"\n| code | name | severity | meaning |\n|---|---|---|---|\n{rows}\n"


def test_table_of_codes() -> None:
    text = PAGE.read_text(encoding="utf-8")
    head, _, rest = text.partition(OPENING)
    shown, _, tail = rest.partition(CLOSING)
    if os.environ.get("POLICYC_WRITE_GOLDENS"):
        PAGE.write_text(head + OPENING + table() + CLOSING + tail, encoding="utf-8")
        shown = table()
    assert shown == table()


def test_words_that_cannot_name_things_are_listed() -> None:
    text = PAGE.read_text(encoding="utf-8")
    listed = re.search(r"cannot name things:\n`(.*?)`", text, re.S)
    assert listed is not None
    assert set(listed.group(1).split()) == set(lexer.HARD)
