"""Protects loading: enforcement after the process is done, replacement in one step, nothing left after a failure
or an unload."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from policyc.artifact.layout import Hook, State
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, load, netlink, state
from policyc.runtime.load import Options
from policyc.runtime.pins import Pins
from policyc.runtime.points import parse_spec
from policyc.runtime.registry import open_registry

pytestmark = pytest.mark.bpf


def endpoint(
    name: str, *texts: str, app: str = "none", cgroup: str | None = None, interface: str | None = None
) -> Endpoint:
    return Endpoint(name, tuple(addresses.parse(t) for t in texts), {"app": app}, cgroup, interface)


def leftovers(machine) -> list[str]:
    found = []
    for root in ("bpf", "state"):
        folder = machine.folder / root
        if folder.exists():
            found += [str(p) for p in folder.rglob("*")]
    return found


def filters(device: str) -> int:
    ifindex = netlink.devices()[device].ifindex
    return sum(len(netlink.filters(ifindex, p)) for p in (netlink.CLSACT_INGRESS, netlink.CLSACT_EGRESS))


def test_enforces_and_leaves_nothing(machine, artifact: Artifact) -> None:
    web, api = machine.guest("vweb", 1), machine.guest("vapi", 2)
    assert web.reaches(api.v4)
    assert web.reaches(api.v6)
    report = load.load(
        artifact,
        "shop",
        Options(
            endpoints=[
                endpoint("web", web.v4, web.v6, app="web", interface="vweb"),
                endpoint("api", api.v4, api.v6, app="api", interface="vapi"),
            ]
        ),
    )
    assert report.points == ("workload:vweb=web", "workload:vapi=api")
    assert web.reaches(api.v4)
    assert web.reaches(api.v6)
    listener = api.command("nc", "-l", "-p", "80")
    assert load.unload("shop") == ["workload:vweb=web", "workload:vapi=api"]
    assert leftovers(machine) == []
    assert filters("vweb") == filters("vapi") == 0
    assert netlink.ingress_qdisc(netlink.devices()["vweb"].ifindex) is None
    assert listener
