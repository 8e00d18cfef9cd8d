"""`inspect` shows what the manifest holds and cannot be used to move a terminal's cursor."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

import pytest

from policyc.artifact import manifest as manifests
from policyc.artifact import reader, writer
from policyc.model import Op, Requirement, Selector
from tests.artifact.objects import artifact, minimal_object
from tests.cli.run import policyc

SOUND = artifact()


@pytest.fixture
def object_file(tmp_path: Path) -> Path:
    path = tmp_path / "x.o"
    path.write_bytes(SOUND)
    return path


def test_text_names_rules_with_their_lines(object_file: Path) -> None:
    done = policyc("inspect", object_file)
    assert done.code == 0
    for part in ("p.named", "ä.pol:3:3", "app == web", "policyc_xdp_ingress", "ipcache4", ".rodata"):
        assert part in done.out


def test_json_is_the_manifest(object_file: Path) -> None:
    document = json.loads(policyc("inspect", object_file, "--format", "json").out)
    assert (document["format"], document["version"]) == ("policyc-inspect", 1)
    assert manifests.from_json(document["manifest"]) == reader.read(SOUND).manifest


def test_nothing_of_the_file_reaches_the_terminal_raw(tmp_path: Path) -> None:
    evil = Selector((Requirement("\x1b[2J", Op.EQ, ("\u202e\x07",)),))
    manifest = dataclasses.replace(reader.read(SOUND).manifest, selectors=(evil,), compiler="\x1b]0;x\x07")
    path = tmp_path / "evil.o"
    path.write_bytes(writer.attach(minimal_object(), manifests.to_bytes(manifest)))
    for options in ([], ["--format", "json"]):
        done = policyc("inspect", path, *options)
        assert done.code == 0
        assert all(c.isprintable() or c == "\n" for c in done.out)


def test_what_is_no_artifact_is_2(tmp_path: Path) -> None:
    path = tmp_path / "x.o"
    path.write_bytes(SOUND[:-9])
    done = policyc("inspect", path)
    assert (done.code, done.out) == (2, "")
    assert "truncated" in done.err
    assert "help:" in done.err
