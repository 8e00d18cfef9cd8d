"""`compile`: objects that read back, are equal wherever they are made, and evaluate alone; stages; `--check`."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from policyc.artifact.reader import read
from policyc.driver import STAGES, check_files
from tests.cli.run import policyc

SOURCE = """\
identity web { app == web }
policy p for web { ingress { allow from any on tcp/80  deny from 203.0.113.0/24 } }
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `x.pol` and its object `x.o`."""
    folder = tmp_path_factory.mktemp("compile")
    (folder / "x.pol").write_text(SOURCE)
    done = policyc("compile", folder / "x.pol", "-o", folder / "x.o")
    assert (done.code, done.out, done.err) == (0, "", "")
    return folder


def test_the_object_holds_the_checked_policy(folder: Path) -> None:
    artifact = read(folder / "x.o")
    assert artifact.policy == check_files([str(folder / "x.pol")]).policy
    assert {r.ref for r in artifact.manifest.rules} == {"p.ingress.1", "p.ingress.2"}
    assert {b.program for b in artifact.manifest.budget} >= {h.program for h in artifact.manifest.hooks}


def test_equal_bytes_from_another_folder_time_and_process(folder: Path, tmp_path: Path) -> None:
    source = tmp_path / "x.pol"
    shutil.copy(folder / "x.pol", source)
    os.utime(source, (1, 1))
    environment = os.environ | {"PYTHONHASHSEED": "7", "LANG": "C", "TZ": "Asia/Tokyo", "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-m", "policyc", "compile", "x.pol", "-o", "y.o"]
    subprocess.run(command, cwd=tmp_path, env=environment | {"PYTHONPATH": os.getcwd()}, check=True)
    assert (tmp_path / "y.o").read_bytes() == (folder / "x.o").read_bytes()


def test_the_object_alone_is_enough_to_evaluate(folder: Path) -> None:
    endpoints = folder / "e.json"
    endpoints.write_text('[{"name": "w", "addresses": ["10.0.0.1"], "labels": {"app": "web"}}]')
    flows = [b'{"src": "%s", "dst": "w", "proto": "tcp", "dport": 80}' % src for src in (b"192.0.2.1", b"203.0.113.9")]
    answers = [
        policyc("eval", folder / name, "--endpoints", endpoints, stdin=b"\n".join(flows)) for name in ("x.o", "x.pol")
    ]
    assert answers[0] == answers[1]
    assert [json.loads(line)["verdict"] for line in answers[0].out.splitlines()] == ["allow", "deny"]


def test_check_says_whether_an_object_is_current(folder: Path, tmp_path: Path) -> None:
    assert policyc("compile", folder / "x.pol", "--check", folder / "x.o").code == 0
    changed = tmp_path / "x.pol"
    changed.write_text(SOURCE + "# more\n")
    before = (folder / "x.o").read_bytes()
    done = policyc("compile", changed, "--check", folder / "x.o")
    assert done.code == 1
    assert "other sources: x.pol" in done.out
    assert (folder / "x.o").read_bytes() == before
    (tmp_path / "x.o").write_bytes(before[:-1])
    assert policyc("compile", changed, "--check", tmp_path / "x.o").code == 2


def test_json_says_what_was_written_and_whether_an_object_is_current(folder: Path, tmp_path: Path) -> None:
    source, target = folder / "x.pol", tmp_path / "x.o"
    written = json.loads(policyc("compile", source, "-o", target, "--format", "json").out)
    size = target.stat().st_size
    assert written == {
        "format": "policyc-compile", "version": 1, "output": str(target), "stage": "obj", "size": size,
    }  # fmt: skip
    done = policyc("compile", source, "--check", target, "--format", "json")
    assert (done.code, json.loads(done.out)["current"]) == (0, True)


@pytest.mark.parametrize("stage", STAGES)
def test_stages(folder: Path, stage: str) -> None:
    done = policyc("compile", folder / "x.pol", "--emit", stage, "-o", folder / f"stage.{stage}")
    assert done.code == 0
    text = (folder / f"stage.{stage}").read_bytes()
    sign = {"syntax": b"File", "policy": b'"policies"', "llvm": b"target triple", "asm": b"exit", "obj": b"\x7fELF"}
    assert sign.get(stage, b"p.ingress.1") in text


def test_stages_go_to_standard_output(folder: Path) -> None:
    assert "p.ingress.1" in policyc("compile", folder / "x.pol", "--emit", "tables").out


def test_passes_are_printed_and_timed(folder: Path) -> None:
    options = ["--emit", "tables", "-o", "/dev/null", "--print-between-passes", "--time-passes"]
    done = policyc("compile", folder / "x.pol", *options)
    assert (done.code, done.out) == (0, "")
    assert "; after lower" in done.err
    assert done.err.rstrip().endswith("ms")


def test_neither_output_nor_stage_is_wrong_usage(folder: Path) -> None:
    assert policyc("compile", folder / "x.pol").code == 2
    assert policyc("compile", folder / "x.pol", "--check", folder / "x.o", "-o", "y.o").code == 2
