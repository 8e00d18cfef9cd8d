"""Protects what is loaded when: a load has only the programs that its points need, the others come with the first endpoint
that brings such a point, and judge by the same tables."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from policyc.artifact.layout import PROGRAM_PREFIX, Hook
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, load, query
from policyc.runtime.load import Options
from policyc.runtime.maps import Map
from policyc.runtime.pins import TABLES, Pins
from policyc.runtime.registry import open_registry
from policyc.runtime.unload import unload

pytestmark = pytest.mark.bpf
CGROUP = [Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS]
TC = [Hook.TC_INGRESS, Hook.TC_EGRESS]


@pytest.fixture
def guarded(machine: Any, cgroup: Path, artifact: Artifact) -> Iterator[Any]:
    """`web` at a cgroup; a guest `api` that nobody judges."""
    api = machine.guest("vapi", 2)
    web = Endpoint("web", (addresses.parse("10.9.1.2"),), {"app": "web"}, cgroup=str(cgroup))
    load.load(artifact, "shop", Options(endpoints=[web]))
    yield machine, api, Endpoint("api", (addresses.parse(api.v4),), {"app": "api"}, interface="vapi")
    unload("shop")


def pinned() -> list[Hook]:
    found = Pins("shop").programs(load.Store("shop").read().header.number)
    hooks = sorted(found)
    load.close_all(found)
    return hooks


def judged(api: Any) -> bool:
    """Pings from anywhere are allowed, the machine's connections are not."""
    probe = ["timeout", "0.5", "bash", "-c", f"exec 3<>/dev/tcp/{api.v4}/80"]
    code = subprocess.run(probe, capture_output=True).returncode
    return api.reaches("10.9.2.1") and code == 124  # 1: refused by the guest, for nobody listens


def test_an_endpoint_brings_programs(guarded: Any, artifact: Artifact) -> None:
    _, api, endpoint = guarded
    assert pinned() == CGROUP
    assert not judged(api)
    with open_registry("shop") as registry:
        registry.put(endpoint)
    assert pinned() == sorted([*TC, *CGROUP])
    assert judged(api)
    assert {a.present for a in query.attachments(query.view("shop"))} == {True}
    counted = {r.reason: r.packets for r in query.reason_counts(query.view("shop"))}
    assert any(counted.values()), "they count where the others do"
    load.load(artifact, "shop", Options())
    assert pinned() == sorted([*TC, *CGROUP])
    assert judged(api)
    with open_registry("shop") as registry:
        registry.remove("api")
    load.load(artifact, "shop", Options())
    assert pinned() == CGROUP


@pytest.mark.parametrize("step", ["Object.load", "bpffs.pin"])
def test_programs_that_cannot_come_change_nothing(guarded: Any, monkeypatch: pytest.MonkeyPatch, step: str) -> None:
    _, api, endpoint = guarded

    def fail(*_: object, **__: object) -> None:
        raise OperationError("no")

    with open_registry("shop") as registry, monkeypatch.context() as patch:
        patch.setattr(f"policyc.runtime.completion.{step}", fail)
        with pytest.raises(OperationError, match="no"):
            registry.put(endpoint)
    assert not judged(api)
    with open_registry("shop") as registry:
        assert set(registry.endpoints) == {"web"}
        registry.put(endpoint)
    assert judged(api)


def test_tables_of_another_layout_are_replaced(
    guarded: Any, artifact: Artifact, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another version would have made them: the new programs' own take their places."""
    _, api, endpoint = guarded
    old = {name: identity(name) for name in TABLES}
    reuse = load._reuse

    def other(obj: load.Object, name: str, pins: Pins) -> None:
        if name != "ct4":
            reuse(obj, name, pins)

    with monkeypatch.context() as patch:
        patch.setattr(load, "_reuse", other)
        load.load(artifact, "shop", Options())
    assert {name for name in TABLES if identity(name) != old[name]} == {"ct4"}
    with open_registry("shop") as registry:
        registry.put(endpoint)  # over the table that the other programs use
    assert judged(api)
    assert PROGRAM_PREFIX + "tc_ingress" in {p.name for p in Pins("shop").generation(2).iterdir()}
    assert not (Pins("shop").generation(2) / "ct4").exists()


def identity(name: str) -> int:
    table: Map = Pins("shop").map(name)
    table.close()
    return int(table.id)
