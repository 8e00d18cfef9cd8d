"""Findings name files so that they can be opened from where the command was called."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.run import policyc

BAD = "policy p for nobody {}\n"


@pytest.mark.parametrize(
    ("here", "given", "named"),
    [
        (".", "sub/a.pol", "sub/a.pol:1:14:"),
        ("sub", "a.pol", "a.pol:1:14:"),
        ("other", "../sub/a.pol", "{}/sub/a.pol:1:14:"),
    ],
)
def test_a_finding_is_named_from_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, here: str, given: str, named: str
) -> None:
    for folder in ("sub", "other"):
        (tmp_path / folder).mkdir()
    (tmp_path / "sub/a.pol").write_text(BAD)
    monkeypatch.chdir(tmp_path / here)
    for command in ("check", "test"):
        done = policyc(command, given)
        assert done.code == 2
        assert (done.out + done.err).startswith(named.format(tmp_path.resolve()))
