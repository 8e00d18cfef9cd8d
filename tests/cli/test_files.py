"""Files are replaced whole or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyc.cli import files
from policyc.diagnostics import OperationError


def test_new_file_has_the_mode_of_the_mask(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        files.write(tmp_path / "x", b"data")
    finally:
        os.umask(old)
    assert (tmp_path / "x").read_bytes() == b"data"
    assert (tmp_path / "x").stat().st_mode & 0o777 == 0o640


def test_mode_and_link_are_kept(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_bytes(b"old")
    target.chmod(0o755)
    link.symlink_to(target)
    files.write(link, b"new")
    assert link.is_symlink()
    assert target.read_bytes() == b"new"
    assert target.stat().st_mode & 0o777 == 0o755
    assert sorted(os.listdir(tmp_path)) == ["link", "target"]


def test_a_failure_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "x").write_bytes(b"old")
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OperationError, match="No space left"):
        files.write(tmp_path / "x", b"new")
    assert os.listdir(tmp_path) == ["x"]
    assert (tmp_path / "x").read_bytes() == b"old"


def test_a_device_is_written_to() -> None:
    files.write(Path("/dev/null"), b"data")
    assert not Path("/dev/null").is_file()


@pytest.mark.parametrize("name", ["missing/x", ".", "nul\0"])
def test_what_cannot_be_written(tmp_path: Path, name: str) -> None:
    with pytest.raises(OperationError):
        files.write(tmp_path / name, b"")
