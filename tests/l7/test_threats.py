"""Protects the threat model of docs/l7.md: what it names as evidence exists, and everything that is tried stands in it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

from tests.l7.corpus.all_cases import CASES
from tests.l7.evasion import EVASIONS

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "l7.md").read_text()


def evidence(kind: str) -> list[str]:
    """The names behind the word `kind` in the last column of the tables, a list of code spans."""
    table = PAGE.partition("## Threat model")[2]
    cells = [line.rsplit("|", 2)[1] for line in table.splitlines() if line.startswith("|")]
    found = [names for cell in cells for names in re.findall(rf"\b{kind} ((?:`[^`]+`(?:, )?)+)", cell)]
    return [name for names in found for name in re.findall(r"`([^`]+)`", names)]


def rows() -> Iterator[list[str]]:
    for line in PAGE.partition("## Threat model")[2].splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if line.startswith("|") and cells[0] != "attack" and set(cells[0]) != {"-"}:
            yield cells


def test_every_line_has_its_evidence() -> None:
    for cells in rows():
        assert len(cells) == 3, cells
        assert re.search(r"(evasion|corpus|test) `", cells[2]), cells[0]


def test_evasions() -> None:
    assert sorted(evidence("evasion")) == sorted(EVASIONS)


def test_patterns_of_the_corpus() -> None:
    names = [case.name for case in CASES]
    patterns = evidence("corpus")
    assert [p for p in patterns if not any(fnmatchcase(name, p) for name in names)] == []
    assert [name for name in names if not any(fnmatchcase(name, p) for p in patterns)] == []


@pytest.mark.parametrize("name", sorted(set(evidence("test"))))
def test_named_tests_exist(name: str) -> None:
    file, _, function = name.partition("::")
    assert re.search(rf"^\s*def {function}\(", (ROOT / file).read_text(), re.MULTILINE)


def test_numbers_are_those_of_the_layout() -> None:
    from policyc.artifact import stream_layout as layout

    connections = f"{layout.STREAM_ENTRIES:,}"
    assert f"| connections judged at a time, a load | {connections} |" in PAGE
    assert f"| L7 rules that judge one connection | {layout.MAX_STREAM_RULES} |" in PAGE
    assert f"a record of {layout.STREAM_SIZE} bytes a connection" in " ".join(PAGE.split())
    lengths = (layout.METHOD_BYTES, layout.HOST_BYTES, layout.PATH_BYTES)
    assert "| {} bytes of the method, {} of the host, {} of the path |".format(*lengths) in PAGE
