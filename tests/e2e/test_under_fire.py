"""Protects what is allowed and what is not while everything changes or runs full: endpoints that change a thousand times a
second, a connection table and a ring buffer without room. What no state allows never passes, what every state allows goes on."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from operation import Operator, Prober, Site, Transfer, address, endpoint, soon

pytestmark = pytest.mark.bpf

POLICY = """\
policy api for { app == api } { ingress { allow from { team in (red, blue) } on tcp/80, udp/5353 as all } }
"""
FORBIDDEN = [5454]
CHANGES = """
import json, sys, time
from policyc.model import Endpoint
from policyc.runtime import addresses
from policyc.runtime.registry import open_registry

v4, v6 = (addresses.parse(a) for a in sys.argv[1:3])
spare = addresses.parse("10.9.1.77")
def web(team, *owned): return Endpoint("web", owned, {"app": "web", "team": team})
def other(number): return Endpoint(f"other{number}", (addresses.parse(f"10.8.0.{number}"),), {"team": "red"})
done, began = 0, time.monotonic()
with open_registry("shop") as registry:
    while time.monotonic() < began + float(sys.argv[3]):
        turn = done // 6
        registry.put(web("blue", v4, v6))
        registry.put(other(turn % 200 + 1))  # who comes and goes is nobody to these clients
        registry.put(web("red", v4, v6, spare))
        registry.put(Endpoint("web", (v6, v4), {"app": "web", "team": "blue", "turn": str(turn % 50)}))
        registry.remove(f"other{turn % 200 + 1}")
        registry.put(web("red", v4, v6))
        done += 6
        time.sleep(max(0.0, began + done / 1000 - time.monotonic()))
print(json.dumps({"changes": done, "seconds": time.monotonic() - began}))
"""
FLOWS = """
import socket, struct, sys
target, first, last = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
raw = socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_UDP)
for number in range(first, last):
    port, source = 5353, number % 60000 + 2000
    raw.bind((sys.argv[4 + number // 60000], 0))
    try:
        raw.sendto(struct.pack("!4H", source, port, 9, 0) + b"!", (target, 0))
    except OSError:
        pass
"""


def loaded(operator: Operator, policy: Callable[[str], Path], *options: str) -> None:
    file = operator.endpoints(endpoint("web", "app=web", "team=red"), endpoint("api", interface="api"))
    operator.load(policy(POLICY), "--endpoints", str(file), *options)


def test_endpoints_that_change_a_thousand_times_a_second(
    site: Site, operator: Operator, policy: Callable[[str], Path], tmp_path: Path
) -> None:
    """`web` is of one team or the other at every moment, both of which may; nobody may what is forbidden."""
    loaded(operator, policy)
    with (
        Prober(site) as prober,
        Transfer(site, tmp_path / "four", 80, 8) as four,
        Transfer(site, tmp_path / "six", 80, 8, version=6) as six,
    ):
        prober.forbid(FORBIDDEN)
        seconds = "6"
        command = [sys.executable, "-c", CHANGES, address("web", 4), address("web", 6), seconds]
        changing = subprocess.Popen(
            site.network.machine.command(*command), env=operator.environment, stdout=subprocess.PIPE
        )
        tried = 0
        while changing.poll() is None:
            answer = prober.ask([80], [5353], 2.0)
            assert all(answer["tcp"] + answer["udp"]), "both teams may"
            assert prober.wrongs() == 0
            tried += 1
        assert changing.stdout is not None
        done = json.loads(changing.stdout.read())
        assert changing.returncode == 0
        assert done["changes"] / done["seconds"] > 200, "a busy machine gets a fifth of the thousand that are meant"
        assert tried > 5
        assert four.exact()
        assert six.exact()
    assert operator.json("status")["loads"][0]["healthy"]


def test_a_full_connection_table(site: Site, operator: Operator, policy: Callable[[str], Path], tmp_path: Path) -> None:
    """More flows than it has room for: old ones are forgotten, nothing that is denied passes, what is new is judged."""
    loaded(operator, policy)
    web = site.guest("web")
    with Prober(site) as prober, Transfer(site, tmp_path / "got", 80, 16) as transfer:
        assert transfer.moves()
        prober.forbid(FORBIDDEN)
        web.ip("addr add 10.9.1.3/24 dev eth0")
        more = ["endpoint", "add", "shop", "web", "--label", "team=red"]
        more += [w for a in (address("web", 4), address("web", 6), "10.9.1.3") for w in ("--address", a)]
        operator.run(*more)
        try:
            sources = (address("web", 4), "10.9.1.3")
            flood = web.run(sys.executable, "-c", FLOWS, address("api", 4), "0", "100000", *sources, timeout=120)
            assert flood.returncode == 0, flood.stderr
            assert operator.counters()["api.all"]["connections"] > 1 << 16
            answer = prober.ask([80], [5353], 2.0)
            assert all(answer["tcp"] + answer["udp"])
            assert prober.wrongs() == 0
            assert transfer.exact()
        finally:
            web.ip("addr del 10.9.1.3/24 dev eth0")
    assert operator.reasons()["ingress", "deny", "default"] > 0


def test_a_full_ring(site: Site, operator: Operator, policy: Callable[[str], Path]) -> None:
    """Nobody reads the events: they are lost and counted, packets are judged as ever."""
    loaded(operator, policy, "--events", "all")
    web = site.guest("web")
    flood = [sys.executable, "-c", FLOWS, address("api", 4), "0", "30000", address("web", 4)]
    assert web.run(*flood, timeout=120).returncode == 0
    assert soon(lambda: operator.json("status")["loads"][0]["lost_events"] > 0)
    with Prober(site) as prober:
        prober.forbid(FORBIDDEN)
        answer = prober.ask([80, 8080], [5353, *FORBIDDEN], 1.0)
        assert answer["tcp"] == [True, False] * 2
        assert answer["udp"] == [True, False] * 2
        assert prober.wrongs() == 0
    assert "events: all, " in operator.run("status").stdout
    assert operator.events()
    assert operator.reasons()["ingress", "deny", "default"] > 0
