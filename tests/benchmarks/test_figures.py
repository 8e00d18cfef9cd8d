"""Protects what is made of measured figures: whether a promise is met, the document, and the marked parts of pages."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import figures, publish
from benchmarks.figures import Figure

MADE = [
    Figure("new", "new connection, tc uplink", 120.0, "ns", "<= 150", "a note"),
    Figure("new", "new connection, XDP uplink", 160.0, "ns", "<= 150"),
    Figure("ratios", "policyc XDP against nftables set, 1,000 rules", 1.5, "× faster", ">= 1.3"),
    Figure("frames", "policyc XDP, 10 rules", 200.0, "ns/frame"),
    Figure("frames", "policyc XDP, 1,000 rules", 300.0, "ns/frame"),
]


def test_a_promise_is_met_or_not() -> None:
    assert [f.met for f in MADE] == [True, False, True, None, None]


def test_the_document_reads_back(tmp_path: Path) -> None:
    made = figures.document(MADE, quick=True)
    (tmp_path / "results.json").write_text(made.json())
    assert figures.read(tmp_path / "results.json") == made


def test_a_row_holds_only_if_all_its_figures_do() -> None:
    lines = publish.contract(figures.document(MADE, quick=False)).splitlines()
    (new,) = (line for line in lines if "new connection" in line)
    assert "120 ns (tc), 160 ns (XDP)" in new
    assert new.endswith("| ≤ 150 ns | **no** |")
    (nft,) = (line for line in lines if "nftables" in line)
    assert nft.endswith("| yes |")


def test_what_was_not_measured_is_not_met() -> None:
    lines = publish.contract(figures.document([], quick=False)).splitlines()[2:]
    assert all("| not measured |" in line and line.endswith("| |") for line in lines)


def test_curves_are_found_by_name() -> None:
    assert publish.curves(MADE[3:]) == {"policyc XDP": [(10, 200.0), (1000, 300.0)]}


def test_a_marked_part_is_replaced_whole(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- bench:x -->\nold\n<!-- /bench -->\nb\n<!-- bench:y -->\n<!-- /bench -->\n")
    for _ in range(2):
        publish.replace_part(page, "x", "new")
    assert page.read_text() == "a\n<!-- bench:x -->\n\nnew\n\n<!-- /bench -->\nb\n<!-- bench:y -->\n<!-- /bench -->\n"
    with pytest.raises(ValueError, match="0 parts named z"):
        publish.replace_part(page, "z", "new")


@pytest.mark.parametrize("page", [publish.README, publish.PAGE])
def test_pages_have_the_parts_that_are_replaced(page: Path) -> None:
    text = page.read_text()
    wanted = ["contract"] if page == publish.README else ["contract", *publish.DETAILS, "steps"]
    assert all(text.count(f"<!-- bench:{name} -->") == 1 for name in wanted)
