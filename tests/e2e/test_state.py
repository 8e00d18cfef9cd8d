"""Protects what belongs to a connection: replies, the errors that quote it, its fragments; and the machine itself as
the subject of its uplinks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from operation import Client, Namespace, Operator, Site, address, answered, brief, curl, endpoint, ping

pytestmark = pytest.mark.bpf

POLICY = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on udp/5353, udp/7000, icmp/echo-request, icmpv6/echo-request as asked
  }
  egress default deny log {}
}
"""
MACHINE = """\
cidr office = [ 203.0.113.0/24, 2001:db8:bad::/48 ]
policy machine for host {
  ingress default deny log {
    allow from office on tcp/9000 as pages
    allow from any on icmp/echo-request, icmpv6/echo-request as pings
  }
  egress {}
}
"""
REFUSED = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(0.7)
s.connect((sys.argv[1], 7000))
s.send(b"hello")
try:
    s.recv(1)
except ConnectionRefusedError:
    print("refused")
"""
LARGE = """
import socket, sys
family = socket.AF_INET6 if ":" in sys.argv[1] else socket.AF_INET
s = socket.socket(family, socket.SOCK_DGRAM)
s.settimeout(0.7)
sent = bytes(range(250)) * 40
s.sendto(sent, (sys.argv[1], int(sys.argv[2])))
assert s.recv(65536) == sent
"""


def script(guest: Namespace, text: str, *arguments: str) -> Client:
    return Client(guest, [sys.executable, "-c", text, *arguments])


@pytest.fixture(params=[4, 6])
def version(request: pytest.FixtureRequest) -> int:
    return int(request.param)


@pytest.mark.parametrize("spec", ["workload:api=api", "workload:api+xdp=api"])
def test_replies_errors_and_fragments(
    site: Site, operator: Operator, policy: Callable[[str], Path], version: int, spec: str
) -> None:
    """`api` may send nothing of its own accord; what belongs to an allowed connection passes."""
    file = operator.endpoints(endpoint("web"), endpoint("api"))
    operator.load(policy(POLICY), "--endpoints", str(file), "--attach", spec)
    web, api = site.guest("web"), address("api", version)
    unreachable = Client(web, [sys.executable, "-c", REFUSED, api], needs_output=True)
    whole = Client(web, ["ping", "-n", "-c1", "-W1", "-s", "4000", api])
    fragments = [script(web, LARGE, api, "5353"), script(web, LARGE, api, "5454")]
    assert answered(unreachable, whole, *fragments) == [True, True, True, False]
    assert operator.reasons()["egress", "allow", "related"] == 1
    asked = operator.counters()["api.asked"]
    # A datagram in one piece and its error; then 3 and 7 fragments, there and back.
    assert (asked["packets"], asked["connections"]) == (2 + 2 * (3 + 7), 3)
    default = ("ingress", "deny", None, "default")
    assert {(e["dst"]["port"], brief(e)) for e in operator.events()} == {(5454, default), (0, default)}


@pytest.fixture
def machine_server(site: Site) -> Iterator[Namespace]:
    """A server of the machine's own on tcp/9000 and tcp/9001."""
    with served(site, 9000), served(site, 9001):
        site.network.machine.wait_for_listeners([9000, 9001])
        yield site.network.machine


@contextmanager
def served(site: Site, port: int) -> Iterator[None]:
    command = [sys.executable, "-m", "http.server", "--bind", "::", "-d", str(site.folder), str(port)]
    process = site.network.machine.start("sh", "-c", 'exec "$@" >/dev/null 2>&1', "sh", *command)
    try:
        yield
    finally:
        process.kill()
        process.wait()


@pytest.mark.parametrize("spec", ["uplink:world", "uplink:world+xdp"])
def test_the_machine_at_its_uplink(
    site: Site,
    operator: Operator,
    policy: Callable[[str], Path],
    machine_server: Namespace,
    version: int,
    spec: str,
) -> None:
    """`host` is judged there; what is forwarded to others is not."""
    operator.load(policy(MACHINE), "--attach", spec)
    world, own = site.guest("world"), "203.0.113.1" if version == 4 else "2001:db8:bad::1"
    clients = [curl(world, own, 9000), curl(world, own, 9001), ping(world, own)]
    away = [ping(machine_server, address("world", version)), curl(world, address("web", version), 80)]
    assert answered(*clients, *away) == [True, False, True, False, False]
    forwarded = curl(world, address("api", version), 80)
    assert answered(forwarded) == [True]
    denied = [e for e in operator.events() if e["verdict"] == "deny"]
    assert {brief(e) for e in denied} == {("ingress", "deny", None, "default"), ("egress", "deny", None, "default")}
    assert {e["dst"]["class"] for e in denied if e["direction"] == "ingress"} == {"host"}
    assert operator.reasons()["ingress", "allow", "no-subject"] > 0
