"""Pins: files on bpffs that keep maps, programs and links alive after the process. One folder a load.

`POLICYC_BPFFS` names another root than /sys/fs/bpf/policyc; the file system that holds it is mounted if need be.
"""

from __future__ import annotations

import ctypes
import errno
import fcntl
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import CAPABILITIES, PERMISSION_OR_FEATURE, check, error, lib

DEFAULT_ROOT = "/sys/fs/bpf/policyc"
MOUNT_POINT = "/sys/fs/bpf"
BPFFS_MAGIC = 0xCAFE4A11
PATIENCE = 10.0  # seconds


def root() -> Path:
    return Path(os.environ.get("POLICYC_BPFFS") or DEFAULT_ROOT)


def folder(name: str) -> Path:
    """The folder of load `name`, whether or not it exists."""
    return root() / name


def ensure_mounted() -> None:
    """Has a bpf file system under `root()`: mounts one if nobody has, and makes the folder."""
    target = root()
    if is_mounted():
        _make(target)
        return
    mount_point = Path(MOUNT_POINT) if target.is_relative_to(MOUNT_POINT) else target
    try:
        mount_point.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"make {mount_point}") from None
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.mount(b"bpf", os.fsencode(mount_point), b"bpf", 0, b"mode=0700") != 0:
        raise _not_mounted(ctypes.get_errno(), mount_point)
    _make(target)


def is_mounted() -> bool:
    """Whether `root()` lies, or would lie, on a bpf file system."""
    return _is_bpffs(_existing(root()))


def pin(fd: int, path: Path) -> None:
    """Pins a map, program or link. The path must not exist."""
    check(lib().bpf_obj_pin(fd, os.fsencode(path)), f"pin {path}")


def open_pin(path: Path) -> int:
    """A file descriptor of what is pinned. Raises `OperationError` where nothing is."""
    result = lib().bpf_obj_get(os.fsencode(path))
    if result == -errno.ENOENT:
        raise OperationError(
            f"the pin {path} is not there: what was loaded was taken away by something other than policyc",
            "`policyc unload` what is left, then load again",
        )
    return check(result, f"open the pin {path}")


def unpin(path: Path) -> None:
    """Removes a pin; it may be gone."""
    try:
        path.unlink(missing_ok=True)
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"remove the pin {path}") from None


def move(path: Path, target: Path) -> None:
    """Gives a pin another path; what was pinned there is replaced."""
    try:
        path.replace(target)
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"move the pin {path}") from None


def exists(path: Path) -> bool:
    """Whether there is such a file. Raises `OperationError` where that may not be asked."""
    try:
        path.stat()
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"use {path}") from None
    return True


def pins_in(path: Path, pattern: str = "*") -> list[Path]:
    """What a folder holds; nothing where it is not there."""
    try:
        return sorted(path.glob(pattern))
    except FileNotFoundError:
        return []
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"read the folder {path}") from None


def remove_folder(path: Path) -> None:
    """Removes a folder of pins with all that is in it; it may be gone."""
    try:
        shutil.rmtree(path)
    except FileNotFoundError:
        return
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"remove the folder {path}") from None


@contextmanager
def alone() -> Iterator[None]:
    """Holds what all loads share, the qdiscs of devices, against other commands. Users who may not look into the bpf file system
    cannot hold it. Raises `OperationError` where another command holds it for long."""
    deadline = time.monotonic() + PATIENCE
    fd = -1
    try:
        while fd < 0:
            try:
                fd = os.open(root(), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            except FileNotFoundError:
                break  # nothing is loaded: pins of all loads lie there
            except OSError as failure:
                raise error(failure.errno or errno.EIO, f"open {root()}") from None
            if not _locked(fd):
                os.close(fd)
                fd = -1
                if time.monotonic() > deadline:
                    raise OperationError(
                        "another policyc command changes the qdiscs of devices",
                        "wait for it to end, then repeat this one",
                    )
                time.sleep(0.005)
        yield
    finally:
        if fd >= 0:
            os.close(fd)


def _locked(fd: int) -> bool:
    """Locks the open root; the lock of one that was removed meanwhile is worth nothing."""
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        return os.fstat(fd).st_ino == root().stat().st_ino
    except (BlockingIOError, FileNotFoundError):
        return False


def _existing(path: Path) -> Path:
    """The nearest ancestor that exists."""
    while not path.exists() and path != path.parent:
        path = path.parent
    return path


def _is_bpffs(path: Path) -> bool:
    """Whether `path` lies on a bpf file system (statfs(2): f_type)."""
    buffer = ctypes.create_string_buffer(256)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.statfs(os.fsencode(path), buffer) != 0:
        return False
    return int.from_bytes(buffer.raw[:8], "little") & 0xFFFFFFFF == BPFFS_MAGIC


def _make(target: Path) -> None:
    try:
        target.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"make the folder {target}") from None


def _not_mounted(number: int, mount_point: Path) -> OperationError:
    if number in (errno.EPERM, errno.EACCES):
        return OperationError(
            f"not permitted to mount the bpf file system on {mount_point}",
            f"{CAPABILITIES}; mounting takes CAP_SYS_ADMIN, or `mount -t bpf bpf {mount_point}` beforehand",
            PERMISSION_OR_FEATURE,
        )
    return OperationError(
        f"cannot mount the bpf file system on {mount_point}: {os.strerror(number)}",
        "the kernel needs CONFIG_BPF_SYSCALL",
        PERMISSION_OR_FEATURE,
    )
