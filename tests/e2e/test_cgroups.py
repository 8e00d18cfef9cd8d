"""Protects enforcement at cgroups: processes that are moved into one are judged as its endpoint, both ways."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
from operation import TCP_PORTS, UDP_ECHO, Client, Operator, Site, address, answered, brief, curl, endpoint, udp

pytestmark = pytest.mark.bpf

POLICY = """\
policy web for { app == web } {
  egress {
    allow to { app == api } on tcp/80 as pages
    deny  to any on tcp/8080 log as closed
  }
}
policy batch for { app == batch } {
  egress {
    allow to { app == api } on tcp/8080, udp/5353 as work
  }
}
policy server for { app == server } {
  ingress {
    allow from { app == web } on tcp/9000 as pages
    allow from { app == web } on udp/9001 as names
  }
  egress {}
}
"""


def inside(group: Path, client: Client) -> Client:
    """The client, moved into `group` before it starts."""
    moved = f'echo $$ >{group}/cgroup.procs && exec "$@"'
    return dataclasses.replace(client, command=["sh", "-c", moved, "sh", *client.command])


@pytest.mark.parametrize("version", [4, 6])
def test_what_leaves(site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path, version: int) -> None:
    file = operator.endpoints(endpoint("web", cgroup=str(cgroup)), endpoint("api"))
    operator.load(policy(POLICY), "--endpoints", str(file), "--events", "all")
    web, api = site.guest("web"), address("api", version)
    clients = [curl(web, api, 80), curl(web, api, 8080), udp(web, api, 5353)]
    assert answered(*(inside(cgroup, c) for c in clients)) == [True, False, False]
    events = [e for e in operator.events() if e["dst"]["address"] == api]
    assert Counter(brief(e) for e in events) == {
        ("egress", "allow", "web.pages", "rule"): 1,
        ("egress", "deny", "web.closed", "rule"): 1,
        ("egress", "deny", None, "default"): 1,
    }
    assert {e["ref"]: e["rule"] for e in events}["web.closed"] == "e2e.pol:4:5"
    assert operator.counters()["web.pages"]["connections"] == 1
    assert all(answered(*clients)), "outside the cgroup nobody is judged"


@pytest.mark.parametrize("version", [4, 6])
def test_what_arrives(
    site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path, version: int
) -> None:
    server = {**endpoint("server"), "addresses": [address("api", 4), address("api", 6)], "cgroup": str(cgroup)}
    operator.load(policy(POLICY), "--endpoints", str(operator.endpoints(endpoint("web"), server)), "--events", "all")
    api, target = site.guest("api"), address("api", version)
    http = Client(api, [sys.executable, "-m", "http.server", "--bind", "::", "-d", str(site.folder), "9000"])
    echo = Client(api, [sys.executable, "-c", UDP_ECHO, "9001", "9002"])
    running = [
        api.start(*inside(cgroup, c).command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for c in (http, echo)
    ]
    try:
        api.wait_for_listeners([9000])
        web, world = site.guest("web"), site.guest("world")
        clients = [curl(web, target, 9000), udp(web, target, 9001), udp(web, target, 9002), curl(world, target, 9000)]
        assert answered(*clients) == [True, True, False, False]
        assert answered(curl(world, target, TCP_PORTS[0])) == [True], "a server outside the cgroup is not judged"
        counters = operator.counters()
        assert [counters[ref]["connections"] for ref in ("server.pages", "server.names")] == [1, 1]
        told = [brief(e)[1:] for e in operator.events() if e["direction"] == "ingress"]
        assert told.count(("allow", "server.pages", "rule")) == 1
        assert told.count(("deny", None, "default")) == 2
    finally:
        for process in running:
            process.kill()
            process.wait()


def test_the_nearest_ancestor_decides_once(
    site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path
) -> None:
    outer = endpoint("web", cgroup=str(cgroup))
    inner = {"name": "batch", "labels": {"app": "batch"}, "cgroup": str(cgroup / "inner")}
    operator.load(policy(POLICY), "--endpoints", str(operator.endpoints(outer, inner, endpoint("api"))))
    web, api = site.guest("web"), address("api", 4)
    pages, work = curl(web, api, 80), curl(web, api, 8080)
    leaf = cgroup / "inner" / "leaf"
    assert answered(inside(cgroup, pages), inside(cgroup, work)) == [True, False]
    found = operator.events()
    assert [brief(e) for e in found] == [("egress", "deny", "web.closed", "rule")]
    # `batch` has no addresses of its own: what it sends from those of `web` is spoofed.
    assert answered(inside(leaf, work)) == [False]
    assert {e["reason"] for e in operator.events()} == {"spoofed-source"}
    moved = {**inner, "addresses": [address("web", 4)]}
    operator.run(
        "endpoint",
        "apply",
        str(operator.endpoints({**outer, "addresses": [address("web", 6)]}, moved, endpoint("api"))),
    )
    assert answered(inside(leaf, pages), inside(leaf, work)) == [False, True]
    counters = operator.counters()
    assert counters["batch.work"]["connections"] == 1
    assert counters["web.pages"]["connections"] == 1


def test_an_endpoint_without_addresses_is_the_host(
    site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path
) -> None:
    batch = {"name": "batch", "labels": {"app": "batch"}, "cgroup": str(cgroup)}
    operator.load(policy(POLICY), "--endpoints", str(operator.endpoints(batch, endpoint("api"))))
    machine, api = site.network.machine, address("api", 6)
    clients = [curl(machine, api, 80), curl(machine, api, 8080), udp(machine, api, 5353)]
    assert answered(*(inside(cgroup, c) for c in clients)) == [False, True, True]
    assert all(answered(*clients))


def test_with_an_interface_the_cgroup_does_not_judge(
    site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path
) -> None:
    file = operator.endpoints(endpoint("web", interface="web", cgroup=str(cgroup)), endpoint("api"))
    operator.load(policy(POLICY), "--endpoints", str(file))
    pages = curl(site.guest("web"), address("api", 4), 80)
    assert answered(inside(cgroup, pages), pages) == [True, True]
    assert operator.counters()["web.pages"]["connections"] == 2
