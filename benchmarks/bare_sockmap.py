"""The floor of judging streams in the kernel: a cgroup's accepted sockets in a sockmap whose program lets all pass, and nothing else."""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path

from policyc.artifact.layout import MapSpec
from policyc.artifact.stream_layout import COOKIE, STREAM_ENTRIES, STREAM_SECTIONS, StreamHook
from policyc.codegen.function import I32, I64, Function, Helper, Value
from policyc.codegen.marks import NO_EXIST
from policyc.codegen.stream_programs import SK_PASS
from policyc.codegen.takeover import OP, PASSED, Op
from policyc.runtime.libbpf import ATTACH_CGROUP_SOCK_OPS, ATTACH_STREAM_VERDICT, check, lib
from tests.platform.program import loaded, returns

SOCKETS = MapSpec("sockets", "SOCKHASH", COOKIE.size, 8, STREAM_ENTRIES, "")


def enter(resources: ExitStack, group: Path) -> None:
    """From now on what `group` accepts comes into the sockmap, until cgroup and stack are gone."""
    programs = {
        (STREAM_SECTIONS[StreamHook.SOCK_OPS], "take"): _take,
        (STREAM_SECTIONS[StreamHook.STREAM_IN], "let_pass"): returns(SK_PASS),
    }
    obj = resources.enter_context(loaded(programs, [SOCKETS]))
    result = lib().bpf_prog_attach(obj.program_fd("let_pass"), obj.map_fd("sockets"), ATTACH_STREAM_VERDICT, 0)
    check(result, "attach a program to a sockmap")
    target = os.open(group, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:  # it goes with the cgroup
        result = lib().bpf_prog_attach(obj.program_fd("take"), target, ATTACH_CGROUP_SOCK_OPS, 0)
        check(result, f"attach a program to cgroup {group}")
    finally:
        os.close(target)


def _take(f: Function, maps: Mapping[str, Value]) -> None:
    with f.if_(f.eq(f.load(f.args[0], I32, OP), Op.PASSIVE_ESTABLISHED)):
        cookie = f.slot(I64, "cookie")
        f.store(cookie, f.helper(Helper.GET_SOCKET_COOKIE, f.args[0]))
        f.helper(Helper.SOCK_HASH_UPDATE, f.args[0], maps["sockets"], cookie, NO_EXIST)
    f.ret(PASSED)
