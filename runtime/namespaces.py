"""Network namespaces: a load's devices are in one, and commands that need them run there."""

from __future__ import annotations

import os

from policyc.diagnostics import OperationError
from policyc.runtime import netlink


def is_here(netns: int) -> bool:
    """Whether this process is in the network namespace of that inode."""
    return netlink.namespace() == netns


def elsewhere(name: str, netns: int) -> OperationError:
    """What to say where load `name` is of another network namespace."""
    process = inhabitant(netns)
    return OperationError(
        f"load {name!r} belongs to another network namespace (inode {netns})",
        f"run this command in that namespace (`nsenter --net={process} policyc …`)"
        if process
        else f"nobody is in that namespace any more: `policyc unload {name}`, then load again",
    )


def inhabitant(netns: int) -> str | None:
    """A file that stands for a network namespace; None where it is gone, and its devices with it."""
    candidates = [f"/proc/{p}/ns/net" for p in _listed("/proc") if p.isdigit()]
    with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as mounts:
        candidates += [line.split(" ")[4] for line in mounts if f" net:[{netns}] " in line]
    for path in candidates:
        try:
            if os.stat(path).st_ino == netns:
                return path
        except OSError:
            continue
    return None


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []
