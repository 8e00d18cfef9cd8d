"""A network namespace, a bpf file system and a cgroup of one's own."""

from __future__ import annotations

import ctypes
import os
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from policyc.artifact.reader import Artifact, read
from policyc.driver import compile_files

CLONE_NEWNET = 0x40000000
MNT_DETACH = 2
LIBC = ctypes.CDLL(None, use_errno=True)
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="session")
def starwars() -> Artifact:
    return read(compile_files([str(ROOT / "examples" / "starwars.pol")]))


@pytest.fixture
def own_netns() -> Iterator[None]:
    """This process is in a new network namespace whose loopback is up."""
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert LIBC.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    try:
        subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
        yield
    finally:
        assert LIBC.setns(home, CLONE_NEWNET) == 0
        os.close(home)


@pytest.fixture
def mount_bpffs(tmp_path: Path) -> Iterator[Callable[[str], Path]]:
    """Mounts a bpf file system on a new folder of that name."""
    made: list[Path] = []

    def mount(name: str) -> Path:
        folder = tmp_path / name
        folder.mkdir()
        assert LIBC.mount(b"bpf", os.fsencode(folder), b"bpf", 0, b"mode=0700") == 0, os.strerror(ctypes.get_errno())
        made.append(folder)
        return folder

    yield mount
    for folder in made:
        LIBC.umount2(os.fsencode(folder), MNT_DETACH)


@pytest.fixture
def cgroup() -> Iterator[Path]:
    """A leaf, three levels below the mount point."""
    from policyc.runtime.cgroups import mount_point

    top = mount_point() / f"policyc-platform-{os.getpid()}"
    leaf = top / "a" / "b"
    leaf.mkdir(parents=True)
    yield leaf
    for folder in (leaf, leaf.parent, top):
        _remove(folder)


def _remove(folder: Path) -> None:
    """A cgroup is busy for a moment after its last process has ended."""
    for _ in range(100):
        try:
            folder.rmdir()
            return
        except OSError:
            time.sleep(0.02)
    folder.rmdir()
