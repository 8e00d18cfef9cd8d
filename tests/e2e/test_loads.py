"""Protects the life of a load: it outlives its loader, is replaced in one step, shares devices, reports without
denying where it shall, and leaves nothing behind when it goes or fails."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from operation import Operator, Site, Transfer, address, answered, brief, curl, endpoint, ping, soon, udp

pytestmark = pytest.mark.bpf

BOTH = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/80 as pages
    allow from { app == web } on tcp/8080 log as more
    deny  from world log as strangers
  }
}
"""
FIRST_ONLY = """\
policy api for { app == api } {
  ingress { allow from { app == web } on tcp/80 as pages }
}
"""
AUDITED = """\
policy today for { app == api } { ingress { allow from { app == web } } }
policy tomorrow for { app == api } tier admin audit {
  ingress { deny from { app == web } on tcp/8080 as cut }
}
"""


@dataclass
class Machine:
    """What is attached, pinned and remembered."""

    site: Site
    operator: Operator

    def run(self, *command: str) -> str:
        return subprocess.run(
            self.site.network.machine.command(*command), capture_output=True, text=True, check=True
        ).stdout

    def attached(self) -> list[int]:
        """Numbers of the programs at the devices."""
        found = []
        for device in ("web", "api", "world"):
            for side in ("ingress", "egress"):
                filters = json.loads(self.run("tc", "-j", "filter", "show", "dev", device, side) or "[]")
                found += [f["options"]["prog"]["id"] for f in filters if "prog" in f.get("options", {})]
            link = json.loads(self.run("ip", "-j", "-d", "link", "show", "dev", device))[0]
            found += [link["xdp"]["prog"]["id"]] if "xdp" in link else []
        return found

    def qdiscs(self) -> int:
        return self.run("tc", "qdisc", "show").count("clsact")

    def pinned(self) -> list[str]:
        listing = self.run("find", str(self.operator.folder / "bpf"), "-type", "f")
        return sorted(line for line in listing.splitlines() if not line.endswith(".debug"))

    def remembered(self) -> dict[str, bytes]:
        state = self.operator.folder / "state"
        return {str(p.relative_to(state)): p.read_bytes() for p in state.rglob("*") if p.is_file()}

    def programs(self) -> list[int]:
        """Numbers of the programs that are pinned."""
        found = []
        for pin in self.pinned():
            name = Path(pin).name
            if name.startswith(("policyc_", "enter_")):
                found.append(json.loads(self.run("bpftool", "-j", "prog", "show", "pinned", pin))["id"])
        return found

    def snapshot(self) -> tuple[Any, ...]:
        return self.attached(), self.qdiscs(), self.pinned(), self.remembered()


@pytest.fixture
def machine(site: Site, operator: Operator) -> Machine:
    return Machine(site, operator)


def bound(operator: Operator) -> str:
    return str(operator.endpoints(endpoint("web", interface="web"), endpoint("api", interface="api")))


def test_unloading_leaves_nothing(
    site: Site, machine: Machine, operator: Operator, policy: Callable[[str], Path], cgroup: Path
) -> None:
    file = operator.endpoints(endpoint("web"), endpoint("api"), endpoint("host-unit", cgroup=str(cgroup)))
    attach = ["--attach", "workload:api+xdp=api", "--attach", "workload:web=web", "--attach", "uplink:world"]
    operator.load(policy(BOTH), "--endpoints", str(file), *attach)
    programs = machine.programs()
    assert len(machine.attached()) == 6
    assert len(programs) == 10
    assert set(machine.attached()) <= set(programs)
    assert machine.run("bpftool", "cgroup", "show", str(cgroup)).count("enter_cgroup") == 2
    operator.run("unload")
    assert machine.snapshot() == ([], 0, [], {})
    assert "enter_" not in machine.run("bpftool", "cgroup", "show", str(cgroup))

    def gone() -> bool:
        known = {p["id"] for p in json.loads(machine.run("bpftool", "-j", "prog", "show"))}
        return known.isdisjoint(programs)

    assert soon(gone), "programs are still in the kernel"
    assert not list((operator.folder / "state").rglob("*"))


@pytest.mark.parametrize("delay", [None, 0.25, 0.45])
def test_killing_the_loader(
    site: Site, machine: Machine, operator: Operator, policy: Callable[[str], Path], delay: float | None
) -> None:
    """Killed right after, enforcement stays; killed on the way, the next command finds all or nothing."""
    command = operator.command("load", str(policy(FIRST_ONLY)), "--name", "shop", "--endpoints", bound(operator))
    loader = subprocess.Popen(command, env=operator.environment, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if delay is None:
        assert loader.stdout is not None
        assert loader.stdout.read(5) == b"shop:"
    else:
        time.sleep(delay)
    loader.send_signal(signal.SIGKILL)
    loader.communicate()
    denied, allowed = (curl(site.guest("web"), address("api", 4), port) for port in (8080, 80))
    assert answered(allowed) == [True]
    if delay is None:
        assert answered(denied) == [False]
    operator.load(policy(FIRST_ONLY), "--endpoints", bound(operator))
    assert len(machine.attached()) == 4
    assert answered(allowed, denied) == [True, False]
    operator.run("unload", "shop")
    assert machine.snapshot() == ([], 0, [], {})


@pytest.mark.parametrize("spec", ["workload:web=web", "workload:web+xdp=web"])
def test_replacing_during_transfers(
    site: Site, operator: Operator, policy: Callable[[str], Path], tmp_path: Path, spec: str
) -> None:
    file = operator.endpoints(endpoint("web"), endpoint("api", interface="api"))
    operator.load(policy(BOTH), "--endpoints", str(file), "--attach", spec)
    with (
        Transfer(site, tmp_path / "kept", 80, 24, version=6) as kept,
        Transfer(site, tmp_path / "cut", 8080, 8) as cut,
    ):
        assert kept.moves()
        assert cut.moves()
        operator.load(policy(FIRST_ONLY))
        assert cut.stands_still()
        assert kept.exact()
    assert operator.json("status")["loads"][0]["load"] == 2
    assert answered(curl(site.guest("web"), address("api", 4), 8080)) == [False]


@pytest.mark.parametrize("spec", ["workload:api=api", "workload:api+xdp=api", "uplink:api"])
@pytest.mark.parametrize("version", [4, 6])
def test_large_transfers_are_exact(
    site: Site, operator: Operator, policy: Callable[[str], Path], tmp_path: Path, spec: str, version: int
) -> None:
    """At full speed, where segments are joined and split by offloads."""
    file = operator.endpoints(endpoint("web"), endpoint("api"))
    operator.load(policy(BOTH), "--endpoints", str(file), "--attach", spec)
    with Transfer(site, tmp_path / "got", 80, 4000, version) as transfer:
        assert transfer.exact()


def test_a_failing_load_leaves_nothing(machine: Machine, operator: Operator, policy: Callable[[str], Path]) -> None:
    built = policy(BOTH)
    twice = operator.endpoints(endpoint("web", interface="web"), endpoint("web", interface="web"))
    nowhere = operator.endpoints(endpoint("web", interface="web"), endpoint("api", interface="appi"))
    operator.load(built, "--endpoints", str(twice), code=2)
    assert "did you mean 'api'" in operator.load(built, "--endpoints", str(nowhere), code=2).stderr
    operator.load(built, "--endpoints", bound(operator), "--attach", "uplink:lo", code=2)
    assert machine.snapshot() == ([], 0, [], {})


def test_a_failing_replacement_changes_nothing(
    site: Site, machine: Machine, operator: Operator, policy: Callable[[str], Path], tmp_path: Path
) -> None:
    operator.load(policy(BOTH), "--endpoints", bound(operator))
    foreign = operator.folder / "bpf" / "foreign"
    machine.run("bpftool", "prog", "loadall", str(policy(FIRST_ONLY)), str(foreign))
    machine.run("bpftool", "net", "attach", "xdp", "pinned", str(foreign / "policyc_xdp_ingress"), "dev", "world")
    try:
        before = machine.snapshot()
        nowhere = operator.endpoints(endpoint("web", interface="nowhere"))
        operator.load(policy(FIRST_ONLY), "--endpoints", str(nowhere), code=2)
        occupied = operator.load(policy(FIRST_ONLY), "--attach", "uplink:world+xdp", code=2)
        assert "XDP" in occupied.stderr
        assert machine.snapshot() == before
        web, api = site.guest("web"), address("api", 4)
        assert answered(curl(web, api, 80), curl(web, api, 8080), udp(web, api, 5353)) == [True, True, False]
    finally:
        machine.run("bpftool", "net", "detach", "xdp", "dev", "world")
        machine.run("rm", "-r", str(foreign))


def test_dry_run_attaches_nothing(machine: Machine, operator: Operator, policy: Callable[[str], Path]) -> None:
    done = operator.load(policy(BOTH), "--endpoints", bound(operator), "--dry-run")
    assert "nothing attached" in done.stdout
    assert machine.snapshot() == ([], 0, [], {})


def test_a_load_that_only_audits(site: Site, operator: Operator, policy: Callable[[str], Path]) -> None:
    operator.load(policy(BOTH), "--endpoints", bound(operator), "--audit")
    world, web, api = site.guest("world"), site.guest("web"), address("api", 4)
    assert all(answered(curl(world, api, 80), udp(web, api, 5353), ping(web, api)))
    told = {(e["ref"], e["audit"]["ref"], e["audit"]["verdict"], e["audit"]["rule"]) for e in operator.events()}
    assert told == {(None, "api.strangers", "deny", "e2e.pol:5:5"), (None, None, "deny", None)}


def test_an_audited_policy_reports_what_it_would_do(
    site: Site, operator: Operator, policy: Callable[[str], Path]
) -> None:
    operator.load(policy(AUDITED), "--endpoints", bound(operator))
    web, api = site.guest("web"), address("api", 6)
    assert all(answered(curl(web, api, 80), curl(web, api, 8080)))
    (event,) = operator.events()
    assert brief(event) == ("ingress", "allow", "today.ingress.1", "rule")
    assert (event["audit"]["verdict"], event["audit"]["ref"], event["audit"]["rule"]) == (
        "deny",
        "tomorrow.cut",
        "e2e.pol:3:13",
    )


def test_what_rules_log_is_reported_whatever_the_operator_chose(
    site: Site, operator: Operator, policy: Callable[[str], Path]
) -> None:
    operator.load(policy(BOTH), "--endpoints", bound(operator), "--events", "none")
    world, web, api = site.guest("world"), site.guest("web"), address("api", 4)
    clients = [curl(web, api, 8080), curl(web, api, 80), curl(world, api, 80), ping(web, api)]
    assert answered(*clients) == [True, True, False, False]
    assert sorted(brief(e) for e in operator.events()) == [
        ("ingress", "allow", "api.more", "rule"),
        ("ingress", "deny", "api.strangers", "rule"),
    ]


def test_two_loads_on_one_device_must_both_allow(
    site: Site, machine: Machine, operator: Operator, policy: Callable[[str], Path]
) -> None:
    operator.load(policy(BOTH), "--endpoints", bound(operator), name="one")
    operator.load(policy(FIRST_ONLY), "--endpoints", bound(operator), name="two")
    first, second = (curl(site.guest("web"), address("api", 4), port) for port in (80, 8080))
    assert answered(first, second) == [True, False]
    assert operator.run("counters", code=2).stderr.count("several policies are loaded")
    operator.run("unload", "two")
    assert answered(first, second) == [True, True]
    assert len(machine.attached()) == 4
    operator.run("unload", "one")
    assert machine.snapshot() == ([], 0, [], {})


def test_a_device_that_is_removed(
    site: Site, machine: Machine, operator: Operator, policy: Callable[[str], Path]
) -> None:
    machine.run("ip", "link", "add", "short0", "type", "veth", "peer", "name", "short1")
    operator.load(policy(BOTH), "--attach", "uplink:short0", "--attach", "uplink:world")
    machine.run("ip", "link", "del", "short0")
    status = operator.run("status", code=1).stdout
    assert "uplink:short0: NOT ATTACHED" in status
    assert "uplink:world: attached" in status
    operator.run("unload", "shop")
    assert machine.snapshot() == ([], 0, [], {})
