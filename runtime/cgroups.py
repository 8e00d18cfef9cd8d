"""cgroup v2: where it is mounted, and a group's path, number and level."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import PERMISSION_OR_FEATURE

INITIAL_NAMESPACE = 0xEFFFFFFB  # inode of the initial cgroup namespace (linux/proc_ns.h)
ALL_LEVELS = 0xFFFFFFFF
DEEPEST = 31  # levels that `config.cgroup_levels` has bits for


@dataclass(frozen=True)
class Cgroup:
    """`path` is absolute and canonical; `id` is what bpf_skb_ancestor_cgroup_id yields; the root has level 0."""

    path: str
    id: int
    level: int


def mount_point() -> Path:
    """Where cgroup v2 is mounted. Raises `OperationError` where it is not."""
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        for line in mounts:
            before, _, after = line.partition(" - ")
            if after.split(" ", 1)[0] == "cgroup2":
                return Path(before.split(" ")[4].encode("latin-1", "ignore").decode("unicode_escape"))
    raise OperationError(
        "cgroup v2 is not mounted",
        "`mount -t cgroup2 none /sys/fs/cgroup`, or bind by interface",
        PERMISSION_OR_FEATURE,
    )


def resolve(path: str) -> Cgroup:
    """A cgroup by its folder, or by its path below the mount (`/shop/web`, `shop/web`)."""
    mount = Path(os.path.realpath(mount_point()))
    folder = Path(os.path.realpath(path)) if path.startswith("/") else mount
    if not folder.is_relative_to(mount) or not path.startswith("/"):
        folder = Path(os.path.realpath(mount / path.lstrip("/")))
    if not folder.is_relative_to(mount):
        raise OperationError(f"{path} lies outside the cgroup v2 mount {mount}", "give a folder below it")
    if folder == mount:
        raise OperationError(
            "the root cgroup cannot be an attach point: all of the machine's sockets are in it",
            "put the workload into a cgroup of its own",
        )
    if not (folder / "cgroup.procs").is_file():
        raise OperationError(f"there is no cgroup {path}", f"cgroups are the folders below {mount}")
    level = len(folder.relative_to(mount).parts)
    if level > DEEPEST:
        raise OperationError(
            f"{path} lies {level} levels deep; the programs look {DEEPEST} deep",
            "bind a cgroup further up, or an interface",
        )
    return Cgroup(str(folder), folder.stat().st_ino, level)


def levels(points: list[int]) -> int:
    """`config.cgroup_levels` for bound cgroups at these levels. In a cgroup namespace of its own a process does not see how
    deep its root lies, so all levels are asked there."""
    if points and os.stat("/proc/self/ns/cgroup").st_ino != INITIAL_NAMESPACE:
        return ALL_LEVELS
    mask = 0
    for level in points:
        mask |= 1 << level
    return mask & ALL_LEVELS
