"""docs/platform.md names every probe, and no other."""

from __future__ import annotations

import re
from pathlib import Path

HERE = Path(__file__).resolve().parent


def test_the_page_names_the_probes() -> None:
    page = (HERE.parents[1] / "docs" / "platform.md").read_text()
    probes = [
        name
        for file in sorted(HERE.glob("test_*.py"))
        if file != Path(__file__).resolve()
        for name in re.findall(r"^def (test_\w+)", file.read_text(), re.M)
    ]
    assert sorted(re.findall(r"\| `(test_\w+)` \|", page)) == sorted(probes)
