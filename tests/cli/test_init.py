"""`init` gives files that work, and overwrites nothing."""

from __future__ import annotations

import json
import os
from pathlib import Path

from tests.cli.run import policyc


def test_the_files_check_test_and_evaluate(tmp_path: Path) -> None:
    folder = tmp_path / "new" / "shop"
    assert policyc("init", folder).code == 0
    assert policyc("check", folder / "policy.pol").code == 0
    assert policyc("test", folder / "policy.pol").code == 0
    assert policyc("fmt", "--check", folder / "policy.pol").code == 0
    flows = ["--endpoints", folder / "endpoints.yaml", "--flows", folder / "flows.jsonl"]
    done = policyc("eval", folder / "policy.pol", *flows)
    assert done.code == 0
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [a["verdict"] for a in answers] == ["allow", "allow", "deny", "deny"]
    assert answers[1]["ref"] == "db.ingress.1"


def test_nothing_is_overwritten(tmp_path: Path) -> None:
    (tmp_path / "flows.jsonl").symlink_to("nowhere")
    done = policyc("init", tmp_path)
    assert done.code == 2
    assert "flows.jsonl" in done.err
    assert os.listdir(tmp_path) == ["flows.jsonl"]


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    assert policyc("init", tmp_path / "file" / "x").code == 2
