"""Loaded programs: their identity in the kernel."""

from __future__ import annotations

import errno
import os
import struct
import sys

from policyc.runtime.libbpf import check, error, ffi, lib

INFO = struct.Struct("<II8sI")  # struct bpf_prog_info: type, id, tag, jited_prog_len
LINK_TARGET = 16  # of `xdp.ifindex` and `cgroup.cgroup_id` in struct bpf_link_info
NAME_OFFSET = 64  # of `name[16]` in struct bpf_prog_info


def program_id(fd: int) -> int:
    """The kernel's number of an open program."""
    return _info(fd)[0]


def is_jited(fd: int) -> bool:
    """Whether the kernel made machine code of an open program; else it interprets it."""
    return _info(fd)[2] > 0


def program_name(number: int) -> str | None:
    """The name (at most 15 bytes) of the program of that number; None where it is gone or may not be seen."""
    fd = lib().bpf_prog_get_fd_by_id(number)
    if fd < 0:
        return None
    try:
        return _info(fd)[1]
    finally:
        os.close(fd)


def attached_to_cgroup(cgroup_fd: int, attach_type: int) -> tuple[int, list[int]]:
    """Attach flags and program numbers at a cgroup hook, those of ancestors left out."""
    flags, count = ffi.new("__u32 *"), ffi.new("__u32 *", 64)
    ids = ffi.new("__u32[64]")
    result = lib().bpf_prog_query(cgroup_fd, attach_type, 0, flags, ids, count)
    if result < 0 and result != -errno.ENOSPC:
        raise error(-result, "ask which programs a cgroup has")
    return flags[0], list(ids[0 : min(count[0], 64)])


def attached_to_device(ifindex: int, attach_type: int) -> list[int]:
    """Program numbers at a TCX hook; none where the kernel has no such hook, or the device is gone."""
    flags, count = ffi.new("__u32 *"), ffi.new("__u32 *", 64)
    ids = ffi.new("__u32[64]")
    result = lib().bpf_prog_query(ifindex, attach_type, 0, flags, ids, count)
    if result < 0 and result in (-errno.EPERM, -errno.EACCES):
        raise error(-result, "ask which programs a device has")
    return list(ids[0 : min(count[0], 64)]) if result in (0, -errno.ENOSPC) else []


def attached_to_map(fd: int, attach_type: int) -> list[int] | None:
    """Program numbers at the sockets of an open map; None where the kernel does not tell."""
    flags, count = ffi.new("__u32 *"), ffi.new("__u32 *", 1)
    ids = ffi.new("__u32[1]")
    result = lib().bpf_prog_query(fd, attach_type, 0, flags, ids, count)
    return None if result < 0 else list(ids[0 : count[0]])


def link_target(fd: int) -> int:
    """Not 0 while the device or cgroup of an open XDP or cgroup link is there (struct bpf_link_info)."""
    buffer = bytearray(256)
    size = ffi.new("__u32 *", len(buffer))
    check(lib().bpf_obj_get_info_by_fd(fd, ffi.from_buffer(buffer), size), "read what a link is")
    return int.from_bytes(buffer[LINK_TARGET : LINK_TARGET + 8], sys.byteorder)


def _info(fd: int) -> tuple[int, str, int]:
    """Number, name, bytes of machine code."""
    buffer = bytearray(256)
    size = ffi.new("__u32 *", len(buffer))
    check(lib().bpf_obj_get_info_by_fd(fd, ffi.from_buffer(buffer), size), "read what a program is")
    name = bytes(buffer[NAME_OFFSET : NAME_OFFSET + 16]).split(b"\0")[0]
    _, number, _, machine_code = INFO.unpack_from(buffer)
    return number, name.decode(errors="replace"), machine_code
