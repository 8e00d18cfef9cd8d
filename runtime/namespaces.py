"""Network namespaces: a load's devices are in one, and commands that need them run there."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Callable, Iterable
from contextlib import suppress
from threading import Thread
from typing import TypeVar

from policyc.diagnostics import OperationError
from policyc.runtime import netlink
from policyc.runtime.libbpf import error

CLONE_NEWNET = 0x40000000
T = TypeVar("T")


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


def namespaces_of(cgroup_paths: Iterable[str]) -> list[str | None]:
    """This network namespace (None), then a file of each other one that a process in or below these cgroups is in."""
    found: dict[int, str | None] = {netlink.namespace(): None}
    for top in cgroup_paths:
        for folder, _, _ in os.walk(top):
            for process in _processes(folder):
                path = f"/proc/{process}/ns/net"
                with suppress(OSError):  # the process is gone
                    found.setdefault(os.stat(path).st_ino, path)
    return list(found.values())


def inside(place: str | None, action: Callable[[], T]) -> T | None:
    """What `action` returns in the network namespace of that file, None where that is gone. The calling thread stays where it is."""
    if place is None:
        return action()
    try:
        fd = os.open(place, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None
    results: list[T] = []
    failures: list[BaseException] = []

    def work() -> None:
        try:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.setns(fd, CLONE_NEWNET) != 0:
                raise error(ctypes.get_errno(), "enter a network namespace (CAP_SYS_ADMIN)")
            results.append(action())
        except BaseException as failure:
            failures.append(failure)

    thread = Thread(target=work)
    thread.start()
    thread.join()
    os.close(fd)
    if failures:
        raise failures[0]
    return results[0]


def _processes(cgroup: str) -> list[str]:
    try:
        with open(f"{cgroup}/cgroup.procs", encoding="ascii") as file:
            return file.read().split()
    except OSError:  # the cgroup is gone, or holds threads only
        return []
