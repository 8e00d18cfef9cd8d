"""BPF_PROG_TEST_RUN: one packet through one program, with no device involved."""

from __future__ import annotations

import errno
import struct
from collections.abc import Iterable
from dataclasses import dataclass

from policyc.diagnostics import OperationError
from policyc.runtime.libbpf import error, ffi, lib

SKB_SIZE = 192  # struct __sk_buff
SKB_IFINDEX = 40  # field offset
XDP_MD = struct.Struct("<6I")  # data, data_end, data_meta, ingress_ifindex, rx_queue_index, egress_ifindex
MINIMUM = 14  # bytes of a frame below which the kernel refuses to run
OUT_SIZE = 1 << 16


@dataclass(frozen=True)
class Result:
    """`code` is the program's return value, `data` the packet afterwards, `duration_ns` the mean of a repetition."""

    code: int
    data: bytes
    duration_ns: int


def run_skb(program: int, frame: bytes, *, ifindex: int = 1, repeat: int = 1) -> Result:
    """A tc or cgroup_skb program on an Ethernet frame (14 bytes of header also for cgroup_skb, which does not see
    them). `ifindex` must be a device of this network namespace; 1 is loopback. At cgroup hooks the socket is one of
    the caller's cgroup. Frames whose network header the kernel cannot hold (under 20 bytes of IPv4, 40 of IPv6) are
    refused."""
    return _run(program, frame, skb_context(ifindex), repeat)


def run_xdp(program: int, frame: bytes, *, ifindex: int = 1, repeat: int = 1) -> Result:
    """An XDP program on an Ethernet frame that arrives at `ifindex`, a device of this network namespace."""
    return _run(program, frame, xdp_context(ifindex, len(frame)), repeat)


def skb_context(ifindex: int) -> bytes:
    """What `run_skb` gives a program, for `codes`."""
    context = bytearray(SKB_SIZE)
    struct.pack_into("<I", context, SKB_IFINDEX, ifindex)
    return bytes(context)


def xdp_context(ifindex: int, size: int) -> bytes:
    """What `run_xdp` gives a program for a frame of `size` bytes, for `codes`."""
    return XDP_MD.pack(0, size, 0, ifindex, 0, 0)


def codes(packets: Iterable[tuple[int, bytes, bytes]]) -> list[int | None]:
    """What programs return for many packets, each a program, an Ethernet frame and a context; None where the kernel refuses the frame.
    Nothing else is told, which costs less than half of `run_skb`."""
    run = ffi.new("struct bpf_test_run_opts *")
    run.sz = ffi.sizeof("struct bpf_test_run_opts")
    run.repeat = 1
    test, view, found = lib().bpf_prog_test_run_opts, ffi.from_buffer, list[int | None]()
    for program, frame, context in packets:
        if len(frame) < MINIMUM:
            found.append(None)
            continue
        data_in, ctx_in = view(frame), view(context)
        run.data_in, run.data_size_in = data_in, len(frame)
        run.ctx_in, run.ctx_size_in = ctx_in, len(context)
        run.data_size_out = 0  # the kernel wrote what it would have returned
        result = test(program, run)
        if result not in (0, -errno.EINVAL):
            raise _refused(-result, len(frame))
        found.append(run.retval if result == 0 else None)
    return found


def _run(program: int, frame: bytes, context: bytes, repeat: int) -> Result:
    if len(frame) < MINIMUM:
        raise OperationError(f"a frame of {len(frame)} bytes cannot be test-run", f"it takes at least {MINIMUM} bytes")
    data_in, ctx_in = ffi.from_buffer(frame), ffi.from_buffer(context)
    out = bytearray(max(OUT_SIZE, len(frame)))
    data_out = ffi.from_buffer(out)
    run = ffi.new("struct bpf_test_run_opts *")
    run.sz = ffi.sizeof("struct bpf_test_run_opts")
    run.data_in, run.data_size_in = data_in, len(frame)
    run.data_out, run.data_size_out = data_out, len(out)
    run.ctx_in, run.ctx_size_in = ctx_in, len(context)
    run.repeat = repeat
    result = lib().bpf_prog_test_run_opts(program, run)
    if result < 0:
        raise _refused(-result, len(frame))
    return Result(run.retval, bytes(out[: run.data_size_out]), run.duration)


def _refused(number: int, size: int) -> OperationError:
    if number == errno.EINVAL:
        return OperationError(
            f"the kernel refuses to test-run a frame of {size} bytes",
            "BPF_PROG_TEST_RUN takes whole IP headers, a device of this network namespace, and XDP frames of at most a page",
        )
    return error(number, "test-run a program (BPF_PROG_TEST_RUN)")
