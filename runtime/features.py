"""What this machine has of what enforcement needs. Every question has three answers: there, not there, could not tell."""

from __future__ import annotations

import os
import platform
import socket
from collections.abc import Callable
from dataclasses import dataclass
from enum import Enum
from functools import partial
from pathlib import Path

from policyc.diagnostics import OperationError
from policyc.runtime import bpffs, cgroups, libbpf, maps, netlink, sockets
from policyc.runtime.libbpf import CAPABILITIES, INSTALL, MAP_TYPE, REQUIRED_CAPABILITIES, ffi, lib, opts
from policyc.runtime.namespaces import CLONE_NEWNET

SO_COOKIE = 57
MINIMUM_KERNEL = (6, 1)
NEW_KERNEL = "run Linux 6.1 or newer"

# linux/bpf.h: the helpers that programs call, by a program type that may call them
HELPERS = {
    "bpf_ktime_get_coarse_ns": (3, 160),
    "bpf_ringbuf_output": (3, 130),
    "bpf_tail_call": (3, 12),
    "bpf_skb_ancestor_cgroup_id": (8, 83),
}
# of programs that judge streams
STREAM_PROGRAM_TYPES = {"sock_ops": 13, "sk_skb": 14, "sk_msg": 16}
STREAM_MAP_TYPES = ("SOCKHASH", "CGROUP_STORAGE", "SK_STORAGE")
STREAM_HELPERS = {
    "bpf_get_local_storage (sock_ops)": (13, 81),
    "bpf_sock_hash_update (sock_ops)": (13, 70),
    "bpf_sk_storage_get (sk_msg)": (16, 107),
    "bpf_sk_redirect_hash (sk_skb)": (14, 72),
}
FOR_STREAMS = "only policies with L7 rules need it"
MAP_TYPES = ("HASH", "ARRAY", "PROG_ARRAY", "PERCPU_ARRAY", "LRU_HASH", "RINGBUF")
PROGRAM_TYPES = {"sched_cls (tc)": 3, "xdp": 6, "cgroup_skb": 8}


class Answer(Enum):
    THERE = "there"
    NOT_THERE = "not there"
    UNKNOWN = "could not tell"


@dataclass(frozen=True)
class Finding:
    """`needed`: without it nothing can be enforced, or `needed_for` cannot. `help` tells what to do where it is not there."""

    subject: str
    answer: Answer
    detail: str = ""
    needed: bool = True
    help: str = ""


def examine() -> list[Finding]:
    """All findings, in the order in which one would mend things."""
    findings = [_kernel(), _libbpf()]
    library = findings[-1].answer is Answer.THERE
    findings += _capabilities()
    permitted = _bpf_call() if library else Finding("bpf()", Answer.UNKNOWN, "libbpf is missing", True, INSTALL)
    findings.append(permitted)
    usable = library and permitted.answer is Answer.THERE
    for kind in MAP_TYPES:
        findings.append(_probe(f"map type {kind}", usable, partial(_map_type, MAP_TYPE[kind])))
    for name, number in PROGRAM_TYPES.items():
        findings.append(_probe(f"program type {name}", usable, partial(_program_type, number)))
    for name, (program, helper) in HELPERS.items():
        findings.append(_probe(f"helper {name}", usable, partial(_helper, program, helper)))
    findings.append(
        _probe("batch operations on maps", usable, _batches, needed=False, help="filling maps takes longer")
    )
    findings.append(
        _probe("clsact qdisc (tc)", usable, _clsact, help="build the kernel with NET_SCH_INGRESS and NET_CLS_BPF")
    )
    findings += _streams(usable)
    findings += [_bpffs(), _cgroup(), _jit()]
    return findings


def _streams(usable: bool) -> list[Finding]:
    """What L7 rules take."""
    asked: dict[str, Callable[[], Answer]] = {
        f"program type {name}": partial(_program_type, number) for name, number in STREAM_PROGRAM_TYPES.items()
    }
    asked |= {f"map type {kind}": partial(_map_type, MAP_TYPE[kind]) for kind in STREAM_MAP_TYPES}
    asked |= {f"helper {name}": partial(_helper, *where) for name, where in STREAM_HELPERS.items()}
    found = [_probe(subject, usable, ask, needed=False, help=FOR_STREAMS) for subject, ask in asked.items()]
    try:
        destroys = Finding(
            "SOCK_DESTROY",
            _sock_destroy(),
            "",
            False,
            "build the kernel with INET_DIAG_DESTROY: without it"
            " connections that are older than L7 rules are denied, not reset",
        )
    except OSError as error:
        destroys = Finding("SOCK_DESTROY", Answer.UNKNOWN, str(error), False)
    return [*found, destroys]


def _sock_destroy() -> Answer:
    """Resets a connection of this process to itself."""
    try:
        with (
            socket.create_server(("127.0.0.1", 0)) as server,
            socket.create_connection(server.getsockname(), timeout=1) as client,
        ):
            cookie = int.from_bytes(client.getsockopt(socket.SOL_SOCKET, SO_COOKIE, 8), "little")
            mine = next((c for c in sockets.connections() if c.cookie == cookie), None)
            if mine is None:
                return Answer.UNKNOWN
            return Answer.THERE if sockets.destroy(mine) else Answer.UNKNOWN
    except OperationError as error:
        return Answer.UNKNOWN if "not permitted" in error.message else Answer.NOT_THERE


def _kernel() -> Finding:
    release = platform.release()
    try:
        major, minor = (int("".join(c for c in part if c.isdigit())) for part in release.split(".")[:2])
    except ValueError:
        return Finding("kernel", Answer.UNKNOWN, release, False, NEW_KERNEL)
    answer = Answer.THERE if (major, minor) >= MINIMUM_KERNEL else Answer.NOT_THERE
    return Finding("kernel", answer, release, True, NEW_KERNEL)


def _libbpf() -> Finding:
    try:
        return Finding("libbpf", Answer.THERE, libbpf.version(), True, INSTALL)
    except OperationError as error:
        return Finding("libbpf", Answer.NOT_THERE, error.message, True, error.help or INSTALL)


def _capabilities() -> list[Finding]:
    effective = libbpf.effective_capabilities()
    return [
        Finding(name, Answer.THERE if effective >> bit & 1 else Answer.NOT_THERE, "", True, CAPABILITIES)
        for name, bit in REQUIRED_CAPABILITIES.items()
    ]


def _bpf_call() -> Finding:
    try:
        maps.create("HASH", "probe", 4, 4, 1).close()
    except OperationError as error:
        return Finding("bpf()", Answer.NOT_THERE, error.message, True, error.help or CAPABILITIES)
    return Finding("bpf()", Answer.THERE)


def _probe(
    subject: str, usable: bool, ask: Callable[[], Answer], needed: bool = True, help: str = NEW_KERNEL
) -> Finding:
    if not usable:
        return Finding(subject, Answer.UNKNOWN, "bpf() cannot be used", needed)
    try:
        return Finding(subject, ask(), "", needed, help)
    except (OperationError, OSError) as error:
        return Finding(subject, Answer.UNKNOWN, str(error), needed, help)


def _of(result: int) -> Answer:
    """From libbpf's probes: 1 there, 0 not there, an error otherwise."""
    return Answer.UNKNOWN if result < 0 else Answer.THERE if result else Answer.NOT_THERE


def _map_type(number: int) -> Answer:
    return _of(lib().libbpf_probe_bpf_map_type(number, ffi.NULL))


def _program_type(number: int) -> Answer:
    return _of(lib().libbpf_probe_bpf_prog_type(number, ffi.NULL))


def _helper(program: int, number: int) -> Answer:
    return _of(lib().libbpf_probe_bpf_helper(program, number, ffi.NULL))


def _batches() -> Answer:
    table = maps.create("HASH", "probe", 4, 4, 2)
    try:
        return Answer.THERE if table.has_batches() else Answer.NOT_THERE
    finally:
        table.close()


def _clsact() -> Answer:
    """Makes one on the loopback of a network namespace that lives as long as the question, in a child process."""
    child = os.fork()
    if child == 0:
        os._exit(_clsact_in_child())
    status = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    return {0: Answer.THERE, 1: Answer.NOT_THERE}.get(status, Answer.UNKNOWN)


def _clsact_in_child() -> int:
    """0 there, 1 not there, 2 could not tell."""
    import ctypes

    try:
        if ctypes.CDLL(None).unshare(CLONE_NEWNET) != 0:
            return 2
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, 2)  # libbpf writes the kernel's words to standard error
        hook = opts("bpf_tc_hook", ifindex=socket.if_nametoindex("lo"), attach_point=3)
        return 0 if lib().bpf_tc_hook_create(hook) == 0 and netlink.ingress_qdisc(hook.ifindex) == "clsact" else 1
    except Exception:
        return 2


def _bpffs() -> Finding:
    subject, help = (
        "bpf file system",
        f"`mount -t bpf bpf {bpffs.MOUNT_POINT}`; `policyc load` does it with CAP_SYS_ADMIN",
    )
    if bpffs.is_mounted():
        return Finding(subject, Answer.THERE, str(bpffs.root()), False, help)
    with open("/proc/filesystems", encoding="ascii", errors="replace") as file:
        known = any(line.split()[-1:] == ["bpf"] for line in file)
    if not known:
        return Finding(subject, Answer.NOT_THERE, "the kernel does not know it", True, NEW_KERNEL)
    if libbpf.effective_capabilities() >> 21 & 1:
        return Finding(subject, Answer.THERE, "not mounted yet: `policyc load` mounts it", False, help)
    return Finding(subject, Answer.NOT_THERE, "not mounted, and mounting takes CAP_SYS_ADMIN", True, help)


def _cgroup() -> Finding:
    try:
        return Finding("cgroup v2", Answer.THERE, str(cgroups.mount_point()), False)
    except OperationError as error:
        return Finding("cgroup v2", Answer.NOT_THERE, "only interfaces can be attach points", False, error.help or "")
    except OSError as error:
        return Finding("cgroup v2", Answer.UNKNOWN, str(error), False)


def _jit() -> Finding:
    help = "`sysctl net.core.bpf_jit_enable=1`: without it programs are interpreted, several times slower"
    try:
        on = Path("/proc/sys/net/core/bpf_jit_enable").read_text(encoding="ascii").strip() != "0"
    except OSError:
        return Finding("JIT", Answer.UNKNOWN, "", False, help)
    return Finding("JIT", Answer.THERE if on else Answer.NOT_THERE, "", False, help)
