"""A network namespace with devices, and a cgroup that this process is in, for programs under TEST_RUN."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from packets_differential import Place

from policyc.runtime.cgroups import mount_point

CLONE_NEWNET = 0x40000000
DEVICES = {"workload": "wl0", "uplink": "up0", "empty": "em0", "unknown": "un0"}


@contextmanager
def private_place() -> Iterator[Place]:
    """Makes them, and leaves and removes them at the end. Needs root."""
    libc = ctypes.CDLL(None, use_errno=True)
    home = os.open("/proc/self/ns/net", os.O_RDONLY)
    assert libc.unshare(CLONE_NEWNET) == 0, os.strerror(ctypes.get_errno())
    top = mount_point() / f"policyc-differential-{os.getpid()}"
    upper, leaf = top / "a", top / "a" / "b"
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))[3:]
    before = mount_point() / own.lstrip("/") / "cgroup.procs"
    try:
        for name in DEVICES.values():
            subprocess.run(["ip", "link", "add", name, "type", "veth", "peer", "name", f"{name}p"], check=True)
        leaf.mkdir(parents=True)
        (leaf / "cgroup.procs").write_text(str(os.getpid()))
        level = len(leaf.relative_to(mount_point()).parts)
        indices = {kind: socket.if_nametoindex(name) for kind, name in DEVICES.items()}
        yield Place({**indices, "loopback": 1}, [(leaf.stat().st_ino, level), (upper.stat().st_ino, level - 1)])
    finally:
        before.write_text(str(os.getpid()))
        for folder in (leaf, upper, top):
            if folder.exists():
                folder.rmdir()
        assert libc.setns(home, CLONE_NEWNET) == 0
        os.close(home)
