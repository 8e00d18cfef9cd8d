"""Compiling texts in the tests of the language."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from policyc.frontend import LoadResult, load

Compile = Callable[..., LoadResult]


@pytest.fixture
def compiled(tmp_path: Path) -> Compile:
    """`compiled(text, **files)`: checks `text` as main.pol beside other files (a `_` in their names is a dot)."""

    def run(text: str, **files: str) -> LoadResult:
        for name, content in files.items():
            (tmp_path / name.replace("_", ".")).write_text(content, encoding="utf-8")
        main = tmp_path / "main.pol"
        main.write_text(text, encoding="utf-8")
        return load([str(main)])

    return run


@pytest.fixture
def names(compiled: Compile) -> Callable[..., list[str]]:
    """As `compiled`, but only the names of the diagnostics."""

    def run(text: str, **files: str) -> list[str]:
        return [d.name for d in compiled(text, **files).diagnostics]

    return run
