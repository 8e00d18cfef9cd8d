"""Protects scripts/kernels: what is taken out of packages, what a guest starts from, and what is said where there is none.

The guests themselves are tried by `make kernels`."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "scripts" / "kernels"))

import archive  # noqa: E402
import guest  # noqa: E402


def in_kernel(*arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(ROOT / "scripts" / "in-kernel"), *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)


def test_without_an_emulator_it_says_what_to_install() -> None:
    done = in_kernel("true", PATH="/nowhere", HOME="/nowhere")
    assert (done.returncode, done.stdout) == (69, "")
    assert "apt install" in done.stderr


def test_a_folder_that_cannot_be_written_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("POLICYC_KERNELS", "/proc/none")
    with pytest.raises(archive.Unavailable, match="cannot be written"):
        archive.kernel("amd64")


@pytest.mark.parametrize(
    ("path", "taken"),
    [
        ("lib/modules/6.1.0-1-amd64/kernel/net/sched/cls_bpf.ko", True),
        ("usr/lib/modules/6.1.0-1-amd64/kernel/drivers/net/veth.ko.xz", True),
        ("lib/modules/6.1.0-1-amd64/modules.order", True),
        ("lib/modules/6.1.0-1-amd64/kernel/drivers/gpu/drm/i915/i915.ko", False),
        ("lib/modules/6.1.0-1-amd64/kernel/net/wireless/cfg80211.ko", False),
        ("usr/share/doc/linux-image-6.1.0-1-amd64/copyright", False),
    ],
)
def test_only_modules_that_can_be_needed_are_kept(path: str, taken: bool) -> None:
    assert archive._is_module(path, "6.1.0-1-amd64") is taken


def test_newer_kernels_come_first() -> None:
    names = ["linux-image-6.1.0-9-amd64", "linux-image-6.1.0-56-amd64", "linux-image-6.1.0-10-amd64"]
    ordered = sorted(names, key=archive._numbers, reverse=True)
    assert [name.split("-")[3] for name in ordered] == ["56", "10", "9"]


def test_modules_come_after_those_they_need(tmp_path: Path) -> None:
    kernel = archive.Kernel("amd64", "6.1", tmp_path)
    kernel.modules.mkdir(parents=True)
    dependencies = "kernel/9p.ko: kernel/9pnet.ko kernel/netfs.ko\nkernel/9pnet.ko:\nkernel/netfs.ko: kernel/9pnet.ko\n"
    (kernel.modules / "modules.dep").write_text(dependencies)
    assert [path.stem for path in archive.closure(kernel, ("built_in", "9p"))] == ["9pnet", "netfs", "9p"]


def test_the_first_files_of_a_guest_are_a_cpio_archive(tmp_path: Path) -> None:
    packed = guest._cpio({"init": (0o755, b"#!/bin/sh\n"), "bin/odd": (0o644, b"12345")}, ("bin",))
    fields = [int(packed[at : at + 8], 16) for at in range(6, 110, 8)]
    assert packed[:6] == b"070701"
    assert (fields[1], packed[110:114]) == (0o40755, b"bin\0")
    assert len(packed) % 4 == 0
    assert packed.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_a_download_that_fails_leaves_nothing(tmp_path: Path) -> None:
    def fail() -> None:
        with archive._made(tmp_path / "6.1") as made:
            (made / "vmlinuz").write_bytes(b"half")
            raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        fail()
    assert list(tmp_path.iterdir()) == []
