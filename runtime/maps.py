"""Maps by file descriptor: typed by their sizes, values as bytes."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Iterator, Sequence

from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import MAP_TYPE, check, error, ffi, lib

BATCH = 4096  # entries a system call
INFO = struct.Struct(
    "<6I16sI"
)  # struct bpf_map_info: type, id, key size, value size, max entries, flags, name, ifindex
PER_CPU = {MAP_TYPE["PERCPU_HASH"], MAP_TYPE["PERCPU_ARRAY"]}


class TableFull(OperationError):
    """The map has no room for one more entry. Nothing was changed."""


class Map:
    """An open map, which owns `fd`. `value_size` is what one lookup yields: for per-CPU maps all CPUs' values.

    The ends of every method: keys and values are bytes of exactly the map's sizes (the caller's duty; layouts are in
    `artifact.layout`); errors are `OperationError`s that name the map."""

    def __init__(self, fd: int, name: str) -> None:
        self.fd = fd
        self.name = name
        info = map_info(fd)
        self.type, self.id, self.key_size, self.entry_size, self.max_entries, self.flags = info
        self.per_cpu = self.type in PER_CPU
        self.value_size = (self.entry_size + 7 & ~7) * possible_cpus() if self.per_cpu else self.entry_size
        self._lib = lib()
        self._value = bytearray(self.value_size)
        self._value_pointer = ffi.from_buffer(self._value)

    def close(self) -> None:
        if self.fd >= 0:
            os.close(self.fd)
            self.fd = -1

    def lookup(self, key: bytes) -> bytes | None:
        """The value, None where there is none."""
        result = self._lib.bpf_map_lookup_elem(self.fd, key, self._value_pointer)
        if result == -errno.ENOENT:
            return None
        if result < 0:
            raise error(-result, f"read map {self.name}")
        return bytes(self._value)

    def update(self, key: bytes, value: bytes, flags: int = 0) -> None:
        """Raises `TableFull` where the map is full."""
        result = self._lib.bpf_map_update_elem(self.fd, key, value, flags)
        if result < 0:
            self._refused(-result)

    def delete(self, key: bytes) -> bool:
        """Whether there was such an entry."""
        result = self._lib.bpf_map_delete_elem(self.fd, key)
        if result == -errno.ENOENT:
            return False
        if result < 0:
            raise error(-result, f"delete from map {self.name}")
        return True

    def update_many(self, entries: Sequence[tuple[bytes, bytes]]) -> None:
        """In batches where the kernel has them for this map type, else one by one."""
        for start in range(0, len(entries), BATCH):
            chunk = entries[start : start + BATCH]
            if not self._update_batch(chunk):
                for key, value in entries[start:]:
                    self.update(key, value)
                return

    def has_batches(self) -> bool:
        """Whether the kernel takes batches for this map; writes one entry of zeros."""
        return self._update_batch([(bytes(self.key_size), bytes(self.value_size))])

    def _update_batch(self, chunk: Sequence[tuple[bytes, bytes]]) -> bool:
        keys = b"".join(key for key, _ in chunk)
        values = b"".join(value for _, value in chunk)
        count = ffi.new("__u32 *", len(chunk))
        result = self._lib.bpf_map_update_batch(self.fd, keys, values, count, ffi.NULL)
        if result in (-errno.EOPNOTSUPP, -524, -errno.EINVAL, -errno.ENOSPC):
            return False
        if result < 0:
            self._refused(-result)
        return True

    def keys(self) -> Iterator[bytes]:
        """All keys. Entries that come or go meanwhile may be missed or begin the walk anew (bounded)."""
        key = ffi.NULL
        for _ in range(2 * self.max_entries + 1):
            following = bytearray(self.key_size)
            result = self._lib.bpf_map_get_next_key(self.fd, key, ffi.from_buffer(following))
            if result == -errno.ENOENT:
                return
            check(result, f"read map {self.name}")
            key = bytes(following)
            yield key

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self.keys():
            value = self.lookup(key)
            if value is not None:
                yield key, value

    def read_array(self) -> list[bytes]:
        """All values of an ARRAY or PERCPU_ARRAY by index."""
        values = [self.lookup(struct.pack("<I", i)) for i in range(self.max_entries)]
        return [v if v is not None else bytes(self.value_size) for v in values]

    def sum_cpus(self, value: bytes) -> tuple[int, ...]:
        """The u64 fields of a per-CPU value, added up over the CPUs."""
        width = (self.entry_size + 7 & ~7) // 8
        numbers = struct.unpack(f"<{len(value) // 8}Q", value)
        return tuple(sum(numbers[i::width]) for i in range(width))

    def _refused(self, number: int) -> None:
        if number == errno.E2BIG:
            raise TableFull(
                f"table {self.name} is full ({self.max_entries} entries)",
                "load the policy again: the tables are sized for the endpoints there are then",
            )
        raise error(number, f"write map {self.name}")


def create(kind: str, name: str, key_size: int, value_size: int, max_entries: int) -> Map:
    """A new map of `MAP_TYPE[kind]`."""
    what = f"create map {name}"
    made = lib().bpf_map_create(MAP_TYPE[kind], name.encode(), key_size, value_size, max_entries, ffi.NULL)
    return Map(check(made, what), name)


def map_info(fd: int) -> tuple[int, int, int, int, int, int]:
    """type, id, key size, value size, max entries, flags."""
    buffer = bytearray(256)
    size = ffi.new("__u32 *", len(buffer))
    check(lib().bpf_obj_get_info_by_fd(fd, ffi.from_buffer(buffer), size), "read what a map is")
    kind, number, key_size, value_size, max_entries, flags, _, _ = INFO.unpack_from(buffer)
    return kind, number, key_size, value_size, max_entries, flags


_cpus = 0


def possible_cpus() -> int:
    """The number of possible CPUs, which sizes per-CPU values (/sys/devices/system/cpu/possible)."""
    global _cpus
    if not _cpus:
        with open("/sys/devices/system/cpu/possible", encoding="ascii") as file:
            last = file.read().strip().split(",")[-1]
        _cpus = int(last.split("-")[-1]) + 1
    return _cpus
