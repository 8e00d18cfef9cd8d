"""Protects repair: what an operator finds after pins, state, devices or cgroups were taken away under a load, and that
nothing passes that did not."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

import pytest

from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, load, netlink, query
from policyc.runtime.libbpf import ATTACH_TCX_EGRESS, ATTACH_TCX_INGRESS, ffi, lib, opts
from policyc.runtime.load import Options
from policyc.runtime.object import Object
from policyc.runtime.pins import Pins, active
from policyc.runtime.points import parse_spec
from policyc.runtime.registry import open_registry
from policyc.runtime.state import Store, names
from policyc.runtime.unload import unload

pytestmark = pytest.mark.bpf
SIDES = (netlink.CLSACT_INGRESS, netlink.CLSACT_EGRESS)


def endpoint(name: str, address: str, interface: str | None = None, cgroup: str | None = None) -> Endpoint:
    return Endpoint(name, (addresses.parse(address),), {"app": name}, cgroup, interface)


def filters(device: str) -> int:
    ifindex = netlink.devices()[device].ifindex
    return sum(len(netlink.filters(ifindex, side)) for side in SIDES)


def leftovers(machine: Any) -> list[str]:
    roots = [machine.folder / "bpf", machine.folder / "state"]
    return [str(p) for root in roots if root.exists() for p in root.rglob("*") if p.suffix != ".debug"]


def attached() -> list[bool | None]:
    return [a.present for a in query.attachments(query.view("shop"))]


@pytest.fixture
def loaded(machine: Any, artifact: Artifact) -> Any:
    machine.guest("vweb", 1)
    load.load(artifact, "shop", Options(endpoints=[endpoint("web", "10.9.1.2", "vweb")]))
    return machine


def healthy() -> bool:
    try:
        return query.enforcing(query.view("shop"))
    except OperationError:
        return False


LOSSES: dict[str, Callable[[Path], None]] = {
    "all pins": lambda folder: shutil.rmtree(folder / "bpf" / "shop"),
    "an entry program": lambda folder: (folder / "bpf/shop/enter_tc_ingress").unlink(),
    "the switch": lambda folder: (folder / "bpf/shop/switch").unlink(),
    "the tables": lambda folder: shutil.rmtree(folder / "bpf/shop/g1"),
    "the state": lambda folder: shutil.rmtree(folder / "state/shop"),
    "the artifact": lambda folder: (folder / "state/shop/artifact-1.o").unlink(),
}


@pytest.mark.parametrize("what", LOSSES)
def test_losses_are_told_and_unloading_removes_the_rest(loaded: Any, artifact: Artifact, what: str) -> None:
    LOSSES[what](loaded.folder)
    assert names() == ["shop"]
    assert not healthy()
    before = leftovers(loaded)
    with pytest.raises(OperationError) as caught:
        load.load(artifact, "shop", Options())
    assert "unload" in (caught.value.help or "")
    assert leftovers(loaded) == before
    assert filters("vweb") == 2
    unload("shop")
    assert leftovers(loaded) == []
    assert filters("vweb") == 0


@pytest.mark.parametrize(
    "line",
    [b"5\n", b"[]\n", b"\xff\n", b'{"op":"nope"}\n', b'{"op":"put"}\n+\n', b'{"op":"remove","name":"x"}\n', b"{\n+\n"],
)
def test_damaged_journals_are_told(loaded: Any, line: bytes) -> None:
    with Store("shop").current.open("ab") as file:
        file.write(line)
    for ask in (lambda: query.view("shop"), lambda: open_registry("shop")):
        with pytest.raises(OperationError, match="is damaged"):
            ask()
    unload("shop")
    assert leftovers(loaded) == []
    assert filters("vweb") == 0


def test_a_mark_that_could_not_be_written_loses_nothing(loaded: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_registry("shop") as registry, monkeypatch.context() as patch:
        patch.setattr(Store, "done", lambda store: None)
        registry.put(endpoint("one", "10.0.0.1"))
        registry.put(endpoint("two", "10.0.0.2"))
    with open_registry("shop") as registry:
        assert set(registry.endpoints) == {"web", "one", "two"}


@pytest.mark.parametrize("switched", [False, True])
def test_endpoint_commands_settle_a_killed_load_first(
    loaded: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch, switched: bool
) -> None:
    """Otherwise the endpoint would enter tables that nobody asks."""
    with monkeypatch.context() as patch:
        patch.setattr(load, "finish", lambda *_: None)
        load.load(artifact, "shop", Options())
    if not switched:
        with Store("shop") as store:
            switch = Pins("shop").map("switch")
            switch.update(bytes(4), active(store.read().header.slot).to_bytes(4, "little"))
            switch.close()
    with open_registry("shop") as registry:
        assert registry.header.number == 1 + switched
        registry.put(endpoint("late", "10.0.0.9"))
    assert query.enforcing(query.view("shop"))
    assert attached() == [True]


def test_what_leaves_with_a_replacement_is_judged_until_the_switch(
    loaded: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(self: object, value: int) -> None:
        assert filters("vweb") == 2
        raise OperationError("no")

    with monkeypatch.context() as patch:
        patch.setattr(load._Installation, "_switch", refuse)
        with pytest.raises(OperationError, match="no"):
            load.load(artifact, "shop", Options(endpoints=[]))
    assert filters("vweb") == 2
    load.load(artifact, "shop", Options(endpoints=[]))
    assert filters("vweb") == 0


def test_no_qdisc_goes_under_another_load(loaded: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    """One command has seen that nobody uses the qdisc, another attaches, the first removes it: the second was not attached."""
    second = Thread(target=load.load, args=(artifact, "other", Options(specs=[parse_spec("uplink:vweb")])))
    asked = netlink.ingress_qdisc

    def between(ifindex: int) -> str | None:
        if second.ident is None and filters("vweb") == 0:
            second.start()
            second.join(1.5)
        return asked(ifindex)

    with monkeypatch.context() as patch:
        patch.setattr(netlink, "ingress_qdisc", between)
        unload("shop")
    second.join()
    assert filters("vweb") == 2
    unload("other")
    assert filters("vweb") == 0


@pytest.mark.parametrize("xdp", ["", "+xdp"])
def test_a_device_made_anew(machine: Any, artifact: Artifact, xdp: str) -> None:
    """Its name has another index then; replacing the load, and applying the endpoint again, attach there."""
    machine.guest("vweb", 1)
    web = endpoint("web", "10.9.1.2")
    load.load(artifact, "shop", Options(endpoints=[web], specs=[parse_spec(f"workload:vweb{xdp}=web")]))
    subprocess.run(["ip", "link", "del", "vweb"], check=True)
    assert attached() == [False]
    with pytest.raises(OperationError, match="there is no device 'vweb'"):
        load.load(artifact, "shop", Options())
    machine.guest("vweb", 1)
    assert attached() == [False]
    load.load(artifact, "shop", Options())
    assert attached() == [True]
    assert filters("vweb") == (1 if xdp else 2)
    unload("shop")
    assert leftovers(machine) == []


def test_a_renamed_device_stays(machine: Any, artifact: Artifact) -> None:
    machine.guest("vweb", 1)
    load.load(artifact, "shop", Options(specs=[parse_spec("uplink:vweb")]))
    for command in ("down", "name other", "up"):
        subprocess.run(["ip", "link", "set", "vweb" if command != "up" else "other", *command.split()], check=True)
    load.load(artifact, "shop", Options())
    assert attached() == [True]
    unload("shop")
    assert filters("other") == 0


def test_a_cgroup_that_is_removed(machine: Any, cgroup: Path, artifact: Artifact) -> None:
    mine = cgroup / "mine"
    mine.mkdir()
    load.load(artifact, "shop", Options(endpoints=[endpoint("web", "10.9.1.2", cgroup=str(mine))]))
    assert attached() == [True]
    mine.rmdir()
    for _ in range(100):  # the kernel detaches a moment later
        if attached() == [False]:
            break
    assert attached() == [False]
    with pytest.raises(OperationError, match="there is no cgroup"):
        load.load(artifact, "shop", Options())
    mine.mkdir()
    try:
        with open_registry("shop") as registry:
            assert registry.put(endpoint("web", "10.9.1.2", cgroup=str(mine))) == "changed"
        assert attached() == [True]
        unload("shop")
        assert leftovers(machine) == []
    finally:
        mine.rmdir()


def test_a_filter_that_somebody_removed_comes_back(loaded: Any, artifact: Artifact) -> None:
    subprocess.run(["tc", "qdisc", "del", "dev", "vweb", "clsact"], check=True)
    assert attached() == [False]
    load.load(artifact, "shop", Options())
    assert attached() == [True]
    unload("shop")
    assert netlink.ingress_qdisc(netlink.devices()["vweb"].ifindex) is None


@pytest.mark.parametrize("side", [ATTACH_TCX_INGRESS, ATTACH_TCX_EGRESS])
def test_tcx_programs_of_others(machine: Any, artifact: Artifact, side: int) -> None:
    """They run before tc filters and can let packets pass by them: refused at load, reported later."""
    machine.guest("vweb", 1)
    ifindex = netlink.devices()["vweb"].ifindex
    with Object(artifact) as foreign:
        foreign.load()
        program = foreign.program_fd("enter_tc_ingress")
        link = lib().bpf_link_create(program, ifindex, side, ffi.NULL)
        if link < 0:
            pytest.skip("this kernel has no TCX")
        with pytest.raises(OperationError, match=r"TCX program of somebody else \(enter_tc_ingres"):
            load.load(artifact, "shop", Options(specs=[parse_spec("uplink:vweb")]))
        assert leftovers(machine) == []
        os.close(link)
        load.load(artifact, "shop", Options(specs=[parse_spec("uplink:vweb")]))
        assert query.attachments(query.view("shop"))[0].judges
        link = lib().bpf_link_create(program, ifindex, side, ffi.NULL)
        (found,) = query.attachments(query.view("shop"))
        assert (found.present, found.ahead, found.judges) == (True, ("enter_tc_ingres",), False)
        os.close(link)
    unload("shop")


def test_filters_of_others_that_come_to_stand_before_ours(loaded: Any, artifact: Artifact) -> None:
    load.load(artifact, "other", Options(specs=[parse_spec("uplink:vweb")]))
    assert query.attachments(query.view("shop"))[0].judges, "another load lets nothing pass by"
    side = opts("bpf_tc_hook", ifindex=netlink.devices()["vweb"].ifindex, attach_point=1)
    with Object(artifact) as foreign:
        foreign.load()
        assert lib().bpf_tc_attach(side, opts("bpf_tc_opts", prog_fd=foreign.program_fd("enter_tc_ingress"))) == 0
    assert query.attachments(query.view("shop"))[0].ahead == ("enter_tc_ingres",)
    assert not query.attachments(query.view("other"))[0].judges
    unload("other")
    unload("shop")
    assert filters("vweb") == 1, "it is not ours"


def test_bpffs_that_is_read_only(loaded: Any, artifact: Artifact) -> None:
    bpf = str(loaded.folder / "bpf")
    subprocess.run(["mount", "-o", "remount,ro", bpf], check=True)
    try:
        for change in (lambda: unload("shop"), lambda: load.load(artifact, "shop", Options())):
            with pytest.raises(OperationError, match="Read-only"):
                change()
        assert names() == ["shop"], "what is still there is not forgotten"
    finally:
        subprocess.run(["mount", "-o", "remount,rw", bpf], check=True)
    load.load(artifact, "shop", Options())
    assert attached() == [True]
    unload("shop")
    assert leftovers(loaded) == []


def test_a_full_disk(machine: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch) -> None:
    disk = machine.folder / "disk"
    disk.mkdir()
    subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={len(artifact.object) // 4096 * 4 + 16 + 64}k", "none", disk], check=True
    )
    monkeypatch.setenv("POLICYC_STATE", str(disk))
    try:
        load.load(artifact, "shop", Options())
        with pytest.raises(OperationError, match="No space left"):
            load.load(artifact, "shop", Options())
        with open_registry("shop") as registry, pytest.raises(OperationError, match="No space left"):
            registry.apply([endpoint(f"e{i}", f"10.3.{i // 250}.{i % 250}") for i in range(5_000)])
        with open_registry("shop") as registry:
            assert registry.endpoints
        assert query.enforcing(query.view("shop"))
        unload("shop")
        assert leftovers(machine) == []
    finally:
        subprocess.run(["umount", "-l", disk], check=True)


def test_apply_hands_no_device_over(loaded: Any) -> None:
    """Between the two endpoints the device would be without a program."""
    with open_registry("shop") as registry:
        with pytest.raises(OperationError, match="interface vweb would go from endpoint 'web' to 'next'"):
            registry.apply([endpoint("next", "10.9.1.2", "vweb")])
        assert set(registry.endpoints) == {"web"}
    assert attached() == [True]
