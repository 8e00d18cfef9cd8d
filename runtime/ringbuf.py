"""The reader of an event ring buffer."""

from __future__ import annotations

import errno
from collections.abc import Iterator
from types import TracebackType
from typing import Any

from policyc.runtime.libbpf import check_pointer, error, ffi, lib


class RingBuffer:
    """Yields the records of a RINGBUF map. There is one reader a map: two share the records between them."""

    def __init__(self, fd: int) -> None:
        self._records: list[bytes] = []
        self._callback = ffi.callback("ring_buffer_sample_fn", self._take)
        made = lib().ring_buffer__new(fd, self._callback, ffi.NULL, ffi.NULL)
        self._ring: Any = check_pointer(made, "read the event ring buffer")

    def _take(self, _context: Any, data: Any, size: int) -> int:
        self._records.append(bytes(ffi.buffer(data, size)))
        return 0

    def poll(self, timeout_ms: int) -> Iterator[bytes]:
        """Waits for records, at most `timeout_ms` (-1: without end); none may have come."""
        result = lib().ring_buffer__poll(self._ring, timeout_ms)
        if result < 0 and result != -errno.EINTR:
            raise error(-result, "read the event ring buffer")
        return self._drain()

    def consume(self) -> Iterator[bytes]:
        """What is there now, without waiting."""
        result = lib().ring_buffer__consume(self._ring)
        if result < 0:
            raise error(-result, "read the event ring buffer")
        return self._drain()

    def _drain(self) -> Iterator[bytes]:
        records, self._records = self._records, []
        return iter(records)

    def close(self) -> None:
        if self._ring is not None:
            lib().ring_buffer__free(self._ring)
            self._ring = None

    def __enter__(self) -> RingBuffer:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
