"""Protects what happens while packets flow and endpoints come, change and go; and who may send what."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from operation import (
    Client,
    Operator,
    Site,
    Transfer,
    address,
    answered,
    brief,
    curl,
    endpoint,
    ping,
    soon,
)

pytestmark = pytest.mark.bpf

POLICY = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/80 as pages
    allow from host on tcp/80 as probes
  }
  egress {}
}
"""


@pytest.fixture
def loaded(operator: Operator, policy: Callable[[str], Path]) -> Operator:
    """`web` and `api` judged at their links."""
    file = operator.endpoints(endpoint("web", interface="web"), endpoint("api", interface="api"))
    operator.load(policy(POLICY), "--endpoints", str(file))
    return operator


@pytest.mark.parametrize("version", [4, 6])
def test_added_and_removed_while_a_client_retries(
    site: Site, operator: Operator, policy: Callable[[str], Path], tmp_path: Path, version: int
) -> None:
    operator.load(policy(POLICY), "--endpoints", str(operator.endpoints(endpoint("api", interface="api"))))
    log, target = tmp_path / "answers", address("api", version)
    log.touch()
    url = f"http://[{target}]/" if version == 6 else f"http://{target}/"
    web = site.guest("web")
    loop = web.start("sh", "-c", f"while :; do curl -s -f -m 0.3 {url} >>{log}; done")
    try:
        assert not soon(lambda: log.stat().st_size > 0, 0.7)
        operator.run("endpoint", "add", "web", "--address", address("web", version), "--label", "app=web")
        assert soon(lambda: log.stat().st_size > 0)
        operator.run("endpoint", "remove", "web")
        size = log.stat().st_size + len("hello")  # one answer may be on its way
        assert not soon(lambda: log.stat().st_size > size, 0.7)
    finally:
        loop.kill()
        loop.wait()


def test_a_label_change_cuts_a_live_connection(site: Site, loaded: Operator, tmp_path: Path) -> None:
    with Transfer(site, tmp_path / "got", 80, 8) as transfer:
        assert transfer.moves()
        change = ["--address", address("web", 4), "--label", "app=other", "--interface", "web"]
        loaded.run("endpoint", "add", "shop", "web", *change)
        assert transfer.stands_still()
    assert loaded.counters()["api.pages"]["connections"] == 1
    assert answered(curl(site.guest("web"), address("api", 4), 80)) == [False]


def test_an_unregistered_workload_gets_nothing(site: Site, operator: Operator, policy: Callable[[str], Path]) -> None:
    file = operator.endpoints(endpoint("web"), endpoint("api"))
    operator.load(policy(POLICY), "--endpoints", str(file), "--attach", "workload:web=web")
    web = site.guest("web")
    clients = [c for v in (4, 6) for c in (ping(web, address("world", v)), curl(web, address("api", v), 80))]
    assert all(answered(*clients)), "nothing selects web"
    operator.run("endpoint", "remove", "web")
    assert not any(answered(*clients))
    found = {brief(e) for e in operator.events()}
    assert ("egress", "deny", None, "unregistered") in found
    assert {verdict for verdict in found if verdict[1] == "deny"} == {
        (direction, "deny", None, "unregistered") for direction in {verdict[0] for verdict in found}
    }
    addresses = [word for v in (4, 6) for word in ("--address", address("web", v))]
    operator.run("endpoint", "add", "web", *addresses, "--label", "app=web")
    assert all(answered(*clients))


def test_spoofed_sources_are_dropped_and_reported(site: Site, loaded: Operator) -> None:
    web = site.guest("web")
    web.ip("addr add 10.9.77.7/32 dev lo", "addr add fd09:77::7/128 dev lo nodad")
    site.network.machine.ip("route add 10.9.77.7/32 via 10.9.1.2", "route add fd09:77::7/128 via fd09:1::2")
    try:
        for version, source in ((4, "10.9.77.7"), (6, "fd09:77::7")):
            target = address("world", version)
            assert answered(
                Client(web, ["ping", "-n", "-c1", "-W", "0.5", "-I", source, target]), ping(web, target)
            ) == [False, True]
        events = [e for e in loaded.events() if e["src"]["address"] in ("10.9.77.7", "fd09:77::7")]
        assert [brief(e) for e in events] == [("egress", "deny", None, "spoofed-source")] * 2
    finally:
        web.ip("addr del 10.9.77.7/32 dev lo", "addr del fd09:77::7/128 dev lo")
        site.network.machine.ip("route del 10.9.77.7/32", "route del fd09:77::7/128")


def test_an_uplink_drops_what_claims_a_bound_endpoint(
    site: Site, operator: Operator, policy: Callable[[str], Path]
) -> None:
    world = site.guest("world")
    file = operator.endpoints(endpoint("web", interface="web"), endpoint("api", interface="api"))
    operator.load(policy(POLICY), "--endpoints", str(file), "--attach", "uplink:world")
    world.ip("addr add 10.9.1.2/32 dev lo")
    try:
        assert answered(curl(world, address("api", 4), 80, "--interface", "10.9.1.2")) == [False]
        assert brief(operator.events()[0]) == ("ingress", "deny", None, "spoofed-source")
        assert answered(curl(site.guest("web"), address("api", 4), 80)) == [True]
    finally:
        world.ip("addr del 10.9.1.2/32 dev lo")


def test_neighbour_discovery_under_default_deny(site: Site, loaded: Operator) -> None:
    """`api` may send nothing and receive only tcp/80; links are found all the same."""
    for namespace, device in ((site.guest("api"), "eth0"), (site.network.machine, "api")):
        for family in ("-4", "-6"):
            namespace.run("ip", family, "neigh", "flush", "dev", device, check=True)
    web, api = site.guest("web"), site.guest("api")
    assert answered(curl(web, address("api", 6), 80), curl(web, address("api", 4), 80)) == [True, True]
    assert answered(ping(api, address("world", 6))) == [False]
    assert loaded.reasons()["ingress", "allow", "none"] > 0


def test_host_sync(site: Site, loaded: Operator) -> None:
    machine, new = site.network.machine, "10.9.88.1"
    probe = curl(machine, address("api", 4), 80)
    sourced = curl(machine, address("api", 4), 80, "--interface", new)
    machine.ip(f"addr add {new}/32 dev lo")
    try:
        assert answered(probe, sourced) == [True, False]
        assert f"+ {new}" in loaded.run("host", "sync").stdout
        assert answered(sourced) == [True]
    finally:
        machine.ip(f"addr del {new}/32 dev lo")
    assert loaded.json("host", "sync", "shop")["removed"] == [new]


def test_an_endpoint_with_an_interface_is_attached_and_detached(
    site: Site, operator: Operator, policy: Callable[[str], Path]
) -> None:
    operator.load(policy(POLICY), "--endpoints", str(operator.endpoints(endpoint("web", interface="web"))))
    world = curl(site.guest("world"), address("api", 4), 80)
    assert answered(world) == [True]
    operator.run("endpoint", "add", "api", "--address", address("api", 4), "--label", "app=api", "--interface", "api")
    assert answered(world, curl(site.guest("web"), address("api", 4), 80)) == [False, True]
    operator.run("endpoint", "remove", "api")
    assert answered(world) == [True]
    shown = subprocess.run(
        site.network.machine.command("tc", "qdisc", "show", "dev", "api"), capture_output=True, text=True, check=True
    )
    assert "clsact" not in shown.stdout
