"""Protects attach points: their forms, what is refused, and which cgroups are attached."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from pathlib import Path
from typing import Any

import pytest

from policyc.artifact.layout import CgroupKind, Hook
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import cgroups, load, netlink
from policyc.runtime.libbpf import ATTACH_XDP, ffi, lib
from policyc.runtime.load import Options
from policyc.runtime.pins import Pins, close_all
from policyc.runtime.points import CgroupPoint, DeviceTable, Plan, Spec, parse_spec
from policyc.runtime.registry import open_registry
from policyc.runtime.unload import unload

ADDRESS = (("4", 0x0A000001),)


@pytest.mark.parametrize(
    ("text", "spec"),
    [
        ("workload:veth0=web", Spec("workload", "veth0", False, "web")),
        ("workload:veth0+xdp=web", Spec("workload", "veth0", True, "web")),
        ("uplink:eth0", Spec("uplink", "eth0")),
        ("uplink:eth0+xdp", Spec("uplink", "eth0", True)),
        ("cgroup:/shop/a=b=web", Spec("cgroup", "/shop/a=b", False, "web")),
    ],
)
def test_forms(text: str, spec: Spec) -> None:
    assert parse_spec(text) == spec
    assert str(spec) == text


@pytest.mark.parametrize("text", ["", "eth0", "uplink:", "uplink:eth0=web", "workload:veth0", "cgroup:=x", "tc:eth0=a"])
def test_other_forms_are_refused(text: str) -> None:
    with pytest.raises(OperationError, match="is no attach point"):
        parse_spec(text)


def test_only_topmost_judging_cgroups_are_attached() -> None:
    plan = Plan()
    plan.add_cgroup(CgroupPoint("/cg/a/b", 3, 2, CgroupKind.JUDGE, "inner"))
    assert set(plan.attached_cgroups()) == {3}
    plan.add_cgroup(CgroupPoint("/cg/a", 2, 1, CgroupKind.JUDGE, "outer"))
    plan.add_cgroup(CgroupPoint("/cg/ab", 4, 1, CgroupKind.JUDGE, "beside"))
    plan.add_cgroup(CgroupPoint("/cg", 1, 0, CgroupKind.STREAMS_ONLY, "streams"))
    assert set(plan.attached_cgroups()) == {2, 4}
    plan.remove_endpoint("outer")
    assert set(plan.attached_cgroups()) == {3, 4}


bpf = pytest.mark.bpf


@bpf
@pytest.mark.parametrize(
    ("spec", "message"),
    [
        ("uplink:lo", "loopback"),
        ("uplink:vone", "did you mean|there is no device"),
        ("workload:vweb=wbe", "there is no endpoint 'wbe'"),
        ("cgroup:/=web", "root cgroup"),
        ("cgroup:/policyc-none=web", "there is no cgroup"),
    ],
)
def test_refused_targets(machine: Any, artifact: Artifact, spec: str, message: str) -> None:
    machine.guest("vweb", 1)
    with pytest.raises(OperationError, match=message):
        load.load(artifact, "shop", Options(endpoints=[Endpoint("web", ADDRESS, {})], specs=[parse_spec(spec)]))


@bpf
def test_two_endpoints_on_one_device(machine: Any, artifact: Artifact) -> None:
    machine.guest("vweb", 1)
    pair = [Endpoint("a", ADDRESS, {}, interface="vweb"), Endpoint("b", (("4", 9),), {}, interface="vweb")]
    with pytest.raises(OperationError, match="already held by endpoint 'a'"):
        load.load(artifact, "shop", Options(endpoints=pair))


def test_device_without_ethernet_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(netlink, "devices", lambda: {"tun0": netlink.Device("tun0", 7, False, False)})
    with pytest.raises(OperationError, match="no Ethernet"):
        DeviceTable().get("tun0")
    with pytest.raises(OperationError, match="there is no device 'tun1'") as caught:
        DeviceTable().get("tun1")
    assert caught.value.help == "did you mean 'tun0'?"


@bpf
def test_foreign_xdp_program_is_refused(machine: Any, artifact: Artifact) -> None:
    machine.guest("vweb", 1)
    instructions = struct.pack("<BBhiBBhi", 0xB7, 0, 0, 2, 0x95, 0, 0, 0)
    program = lib().bpf_prog_load(6, b"foreign", b"GPL", instructions, 2, ffi.NULL)
    link = lib().bpf_link_create(program, netlink.devices()["vweb"].ifindex, ATTACH_XDP, ffi.NULL)
    assert link > 0
    with pytest.raises(OperationError, match="XDP program of somebody else"):
        load.load(artifact, "shop", Options(specs=[parse_spec("uplink:vweb+xdp")]))
    os.close(link)
    os.close(program)
    assert load.load(artifact, "shop", Options(specs=[parse_spec("uplink:vweb+xdp")])).points == ("uplink:vweb+xdp",)
    unload("shop")


@bpf
def test_cgroups_come_and_go(machine: Any, cgroup: Path, artifact: Artifact) -> None:
    inner = Endpoint("inner", (), {"app": "api"}, str(cgroup / "inner"))
    load.load(artifact, "shop", Options(endpoints=[inner]))
    links = machine.folder / "bpf" / "shop" / "links"
    number = {name: cgroups.resolve(str(path)).id for name, path in (("outer", cgroup), ("inner", cgroup / "inner"))}

    def attached() -> set[int]:
        return {int(p.name.rpartition("-")[2]) for p in links.iterdir()}

    assert attached() == {number["inner"]}
    with open_registry("shop") as registry:
        registry.put(Endpoint("outer", (), {"app": "web"}, str(cgroup)))
    assert attached() == {number["outer"]}
    with open_registry("shop") as registry:
        registry.remove("outer")
    assert attached() == {number["inner"]}
    with open_registry("shop") as registry:
        registry.remove("inner")
    assert attached() == set()
    unload("shop")


@bpf
def test_a_cgroup_held_by_a_program_that_shares_with_none(machine: Any, cgroup: Path, artifact: Artifact) -> None:
    load.load(artifact, "other", Options())
    programs = Pins("other").programs(1)
    fd = os.open(cgroup, os.O_RDONLY)
    assert bpf_call(PROG_ATTACH, struct.pack("<4I", fd, programs[Hook.CGROUP_INGRESS], 0, 0)) == 0
    with pytest.raises(OperationError, match="held by a program that shares with no other"):
        load.load(artifact, "shop", Options(endpoints=[Endpoint("e", (), {}, str(cgroup))]))
    assert bpf_call(PROG_DETACH, struct.pack("<4I", fd, 0, 0, 0)) == 0
    os.close(fd)
    close_all(programs)
    unload("other")


PROG_ATTACH, PROG_DETACH = 8, 9


def bpf_call(command: int, attributes: bytes) -> int:
    """bpf(2), for the older way of attaching, which allows no other program."""
    number = {"x86_64": 321, "aarch64": 280}[platform.machine()]
    return int(ctypes.CDLL(None).syscall(number, command, attributes.ljust(64, b"\0"), 64))


@pytest.mark.bpf
def test_a_cgroup_deeper_than_the_programs_look_is_refused() -> None:
    from policyc.runtime.cgroups import DEEPEST, mount_point, resolve

    top = mount_point() / f"policyc-deep-{os.getpid()}"
    folders = [top]
    while len(folders) <= DEEPEST:
        folders.append(folders[-1] / "d")
    folders[-1].mkdir(parents=True)
    try:
        assert resolve(str(folders[DEEPEST - 1])).level == DEEPEST
        with pytest.raises(OperationError, match="32 levels deep"):
            resolve(str(folders[DEEPEST]))
    finally:
        for folder in reversed(folders):
            folder.rmdir()
