"""Protects enforcement at every hook and side: what is allowed gets through, what is denied does not, and both are
counted and reported once, with the right line of the policy."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from operation import Operator, Site, address, answered, brief, curl, endpoint, ping, udp

pytestmark = pytest.mark.bpf

INGRESS = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/80 as pages
    allow from { app == web } on udp/5353 as names
    allow from any on icmp/echo-request, icmpv6/echo-request as ping
    deny  from { app == web } on tcp/8080 log as closed
  }
}
"""
EGRESS = """\
policy web for { app == web } {
  egress {
    allow to { app == api } on tcp/80 as pages
    allow to { app == api } on udp/5353 as names
    allow to any on icmp/echo-request, icmpv6/echo-request as ping
    deny  to { app == api } on tcp/8080 log as closed
  }
}
"""
LINES = {"pages": 3, "names": 4, "ping": 5, "closed": 6}

# Where a load is attached: by name, (namespace in which the command runs, the device of `--attach`, the endpoints' own
# interfaces). At the host's end of a link the guest is judged, at an uplink whoever owns the address.
WEB, API = endpoint("web"), endpoint("api")
INGRESS_PLACES = {
    "workload": ("machine", [], [WEB, endpoint("api", interface="api")]),
    "workload+xdp": ("machine", ["workload:api+xdp=api"], [WEB, API]),
    "router's uplink": ("machine", ["uplink:web"], [WEB, API]),
    "router's uplink+xdp": ("machine", ["uplink:web+xdp"], [WEB, API]),
    "own namespace": ("api", ["uplink:eth0"], [WEB, API]),
    "own namespace+xdp": ("api", ["uplink:eth0+xdp"], [WEB, API]),
}
EGRESS_PLACES = {
    "workload": ("machine", [], [endpoint("web", interface="web"), API]),
    "workload+xdp": ("machine", ["workload:web+xdp=web"], [WEB, API]),
    "router's uplink": ("machine", ["uplink:api"], [WEB, API]),
    "own namespace": ("web", ["uplink:eth0"], [WEB, API]),
    "own namespace+xdp": ("web", ["uplink:eth0+xdp"], [WEB, API]),
}
CASES = [
    *(pytest.param("ingress", *where, id=f"ingress at {name}") for name, where in INGRESS_PLACES.items()),
    *(pytest.param("egress", *where, id=f"egress at {name}") for name, where in EGRESS_PLACES.items()),
]


@pytest.mark.parametrize(("direction", "where", "specs", "endpoints"), CASES)
def test_devices(
    site: Site,
    operator: Operator,
    policy: Callable[[str], Path],
    direction: str,
    where: str,
    specs: list[str],
    endpoints: list[dict[str, object]],
) -> None:
    place = site.network.machine if where == "machine" else site.guest(where)
    operator = operator.at(place)
    built = policy(INGRESS if direction == "ingress" else EGRESS)
    attach = [word for spec in specs for word in ("--attach", spec)]
    operator.load(built, "--endpoints", str(operator.endpoints(*endpoints)), "--events", "all", *attach)
    web = site.guest("web")
    clients, expected = [], []
    for version in (4, 6):
        api = address("api", version)
        clients += [curl(web, api, 80), udp(web, api, 5353), ping(web, api), curl(web, api, 8080), udp(web, api, 5454)]
        expected += [True, True, True, False, False]
    assert answered(*clients) == expected
    try:
        name = "api" if direction == "ingress" else "web"
        found = operator.counted()
        counted = {ref.removeprefix(f"{name}."): rule for ref, rule in found.rules.items()}
        assert {n: counted[n]["connections"] for n in ("pages", "names", "ping")} == dict.fromkeys(
            ("pages", "names", "ping"), 2
        )
        assert counted["closed"]["packets"] == 2
        assert found.reasons[direction, "deny", "default"] == 2
        events = [e for e in operator.events() if e["direction"] == direction and e["reason"] != "established"]
        for rule, number in LINES.items():
            told = [e for e in events if e["ref"] == f"{name}.{rule}"]
            assert [e["verdict"] for e in told] == ["deny" if rule == "closed" else "allow"] * 2, rule
            assert {e["rule"] for e in told} == {f"e2e.pol:{number}:5"}
        assert sum(brief(e) == (direction, "deny", None, "default") for e in events) == 2
    finally:
        operator.run("unload", "shop")
    assert all(answered(*clients)), "without a policy everything gets through"
