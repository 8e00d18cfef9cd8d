"""Protects what belongs to a connection: replies, the errors that quote it, its fragments; and the machine itself as
the subject of its uplinks."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from operation import Client, Operator, Site, address, answered, brief, curl, endpoint, ping, soon
from private_network import Namespace

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
    counted = operator.counted()
    assert counted.reasons["egress", "allow", "related"] == 1
    asked = counted.rules["api.asked"]
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


TICKS = """
import socket, threading, time
server = socket.create_server(("::", 9100), family=socket.AF_INET6, dualstack_ipv6=True)
print("ready", flush=True)
def serve(client):
    while client.send(b"."):
        time.sleep(0.05)
while True:
    threading.Thread(target=serve, args=(server.accept()[0],), daemon=True).start()
"""
READER = """
import socket, sys
client = socket.create_connection((sys.argv[1], 9100))
while data := client.recv(4096):
    sys.stdout.write("." * len(data))
    sys.stdout.flush()
"""
OLDER = """\
policy client for { app == web } {
  ingress {}
  egress { allow to any on tcp/9100 as ticks }
}
policy server for host {
  ingress { allow from any on tcp/9100 as ticks }
  egress {}
}
"""
NOBODY = OLDER.replace("tcp/9100", "tcp/9101")


@contextmanager
def ticking(server: Namespace, client: Namespace, target: str, log: Path, group: Path | None) -> Iterator[None]:
    """A connection on which only the server sends, ten times a second; `log` grows with what the client gets."""
    log.touch()
    join = f"echo $$ >{group}/cgroup.procs &&" if group is not None else ""
    serving = server.start(sys.executable, "-c", TICKS, stdout=subprocess.PIPE)
    try:
        assert serving.stdout is not None
        assert serving.stdout.readline() == b"ready\n"
        reader = ["sh", "-c", f'{join} exec "$@" >{log}', "sh", sys.executable, "-c", READER, target]
        reading = client.start(*reader, stderr=subprocess.DEVNULL)
        try:
            assert grows(log)
            yield
        finally:
            reading.kill()
            reading.wait()
    finally:
        serving.kill()
        serving.wait()


def grows(log: Path) -> bool:
    size = log.stat().st_size
    return soon(lambda: log.stat().st_size > size + 2, 1.0)


@pytest.mark.parametrize(("text", "goes_on"), [(OLDER, True), (NOBODY, False)], ids=["allowed", "denied"])
@pytest.mark.parametrize("where", ["uplink", "cgroup"])
def test_connections_older_than_the_load(
    site: Site,
    operator: Operator,
    policy: Callable[[str], Path],
    cgroup: Path,
    tmp_path: Path,
    version: int,
    where: str,
    text: str,
    goes_on: bool,
) -> None:
    """They are judged in the direction in which they began, though the other end speaks first after the load."""
    log, machine = tmp_path / "ticks", site.network.machine
    if where == "uplink":
        server, client, target, group = machine, site.guest("world"), ("203.0.113.1", "2001:db8:bad::1"), None
        endpoints, attach = operator.endpoints(), ["--attach", "uplink:world"]
    else:
        server, client, group = site.guest("api"), site.guest("web"), cgroup
        target = (address("api", 4), address("api", 6))
        endpoints, attach = operator.endpoints(endpoint("web", cgroup=str(cgroup))), []
    with ticking(server, client, target[version == 6], log, group):
        place = operator.at(machine if where == "uplink" else client)
        place.load(policy(text), "--endpoints", str(endpoints), *attach)
        grows(log)  # what was on its way
        assert grows(log) is goes_on
        counted = operator.counters()
        assert all(rule["connections"] == 0 for rule in counted.values())
