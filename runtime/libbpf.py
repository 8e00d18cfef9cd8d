"""libbpf, opened on first use, and its failures as `OperationError`s that say what to do.

libbpf 1.x returns negative errno values, and NULL with `errno` set where a pointer is due.
"""

from __future__ import annotations

import errno
import os
from functools import cache
from typing import Any, NoReturn

from policyc.diagnostics import OperationError
from policyc.runtime import _libbpf

ffi: Any = _libbpf.ffi

LIBRARY = "libbpf.so.1"
INSTALL = "install libbpf 1.x: `apt install libbpf1` on Debian and Ubuntu, `dnf install libbpf` on Fedora"
CAPABILITIES = "run as root, or with the capabilities CAP_BPF, CAP_NET_ADMIN and CAP_PERFMON"
PERMISSION_OR_FEATURE = 3  # exit code

# linux/bpf.h
MAP_TYPE = {
    "HASH": 1, "ARRAY": 2, "PROG_ARRAY": 3, "PERCPU_HASH": 5, "PERCPU_ARRAY": 6, "LRU_HASH": 9,
    "SOCKHASH": 18, "CGROUP_STORAGE": 19, "SK_STORAGE": 24, "RINGBUF": 27,
}  # fmt: skip
ATTACH_CGROUP_INGRESS, ATTACH_CGROUP_EGRESS, ATTACH_XDP = 0, 1, 37
ATTACH_CGROUP_SOCK_OPS, ATTACH_STREAM_VERDICT, ATTACH_MSG_VERDICT = 3, 5, 7
ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS = 46, 47


@cache
def lib() -> Any:
    """The library. Raises `OperationError` where it is not installed or too old."""
    try:
        library = ffi.dlopen(LIBRARY)
        major = library.libbpf_major_version()
    except (OSError, AttributeError) as error:
        raise OperationError(
            f"libbpf cannot be used: {_first_line(error)}", INSTALL, exit_code=PERMISSION_OR_FEATURE
        ) from None
    if major != 1:
        raise OperationError(f"libbpf {major} is not supported", INSTALL, exit_code=PERMISSION_OR_FEATURE)
    library.libbpf_set_print(ffi.NULL)  # failures are reported by us, from the verifier's log
    return library


def version() -> str:
    return f"{lib().libbpf_major_version()}.{lib().libbpf_minor_version()}"


def opts(type_name: str, **fields: Any) -> Any:
    """A zeroed `struct NAME *` whose `sz` is set."""
    struct = ffi.new(f"struct {type_name} *", fields)
    struct.sz = ffi.sizeof(f"struct {type_name}")
    return struct


def check(result: int, what: str) -> int:
    """`result` if it is not an error. `what` completes "cannot …"."""
    if result < 0:
        fail(-result, what)
    return int(result)


def check_pointer(pointer: Any, what: str) -> Any:
    if pointer == ffi.NULL:
        fail(ffi.errno, what)
    return pointer


def fail(number: int, what: str) -> NoReturn:
    """Raises what an errno means to an operator."""
    raise error(number, what)


def error(number: int, what: str) -> OperationError:
    """The `OperationError` for an errno; `what` completes "cannot …"."""
    if number in (errno.EPERM, errno.EACCES):
        return OperationError(f"not permitted to {what}", _missing(), exit_code=PERMISSION_OR_FEATURE)
    if number in (errno.EOPNOTSUPP, errno.ENOSYS, 524):  # 524: ENOTSUPP, which the kernel lets out here and there
        return OperationError(
            f"this kernel cannot {what}", "run `policyc doctor`, which tells what is missing", PERMISSION_OR_FEATURE
        )
    if number == errno.ENOMEM:
        return OperationError(f"cannot {what}: out of memory", "free memory, or raise the memory limit of this cgroup")
    text = os.strerror(number) if number < 512 else f"error {number}"
    return OperationError(f"cannot {what}: {text}")


def _missing() -> str:
    """Which capabilities this process lacks."""
    lacking = [name for name, bit in REQUIRED_CAPABILITIES.items() if not effective_capabilities() >> bit & 1]
    if not lacking:
        return "the capabilities are there: a security module, a seccomp filter or a user namespace refuses"
    return f"{', '.join(lacking)} {'is' if len(lacking) == 1 else 'are'} missing: {CAPABILITIES}"


REQUIRED_CAPABILITIES = {"CAP_NET_ADMIN": 12, "CAP_PERFMON": 38, "CAP_BPF": 39}


def effective_capabilities() -> int:
    """The effective capability bits of this process; CAP_SYS_ADMIN counts as CAP_BPF and CAP_PERFMON."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as status:
        bits = next((int(line.split()[1], 16) for line in status if line.startswith("CapEff:")), 0)
    return bits | (1 << 38 | 1 << 39 if bits >> 21 & 1 else 0)


def _first_line(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__
