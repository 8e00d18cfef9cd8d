"""Protects a machine that is busy when its first policy is loaded: hundreds of connections, begun by either end, on both families,
go on where the policy allows them, and carry data all the time."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from operation import Operator, Site, address, endpoint
from private_network import Namespace, end_process

pytestmark = pytest.mark.bpf

MANY = 150  # connections a family and direction
ECHO = """
import selectors, socket, sys
server = socket.create_server(("::", int(sys.argv[1])), family=socket.AF_INET6, dualstack_ipv6=True, backlog=512)
polled = selectors.DefaultSelector()
polled.register(server, selectors.EVENT_READ)
print("ready", flush=True)
while True:
    for key, _ in polled.select():
        if key.fileobj is server:
            polled.register(server.accept()[0], selectors.EVENT_READ)
        elif data := key.fileobj.recv(4096):
            key.fileobj.send(data)
        else:
            polled.unregister(key.fileobj)
            key.fileobj.close()
"""
# Says a word on each connection in turn and waits for its echo, until its input ends; tells how often each was heard.
TALK = """
import selectors, socket, sys
many, port = int(sys.argv[1]), int(sys.argv[2])
made = [socket.create_connection((host, port), 10) for host in sys.argv[3:] for _ in range(many)]
for one in made:
    one.settimeout(5)
print("ready", flush=True)
told = selectors.DefaultSelector()
told.register(sys.stdin, selectors.EVENT_READ)
rounds = 0
while not told.select(0):
    for one in made:
        one.send(b"word")
    for one in made:
        if one.recv(4) != b"word":
            sys.exit("closed: %r" % (one,))
    rounds += 1
print(rounds)
"""
POLICY = """\
policy busy for {subject} {{
  ingress {{ allow from any on tcp/9100 as arriving }}
  egress {{ allow to any on tcp/9200 as leaving }}
}}
"""


@contextmanager
def started(namespace: Namespace, group: Path | None, script: str, *arguments: str) -> Iterator[subprocess.Popen[Any]]:
    join = f"echo $$ >{group}/cgroup.procs && " if group is not None else ""
    command = ["sh", "-c", f'{join}exec "$@"', "sh", sys.executable, "-c", script, *arguments]
    process = namespace.start(*command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout.readline() == "ready\n"
        yield process
    finally:
        end_process(process)


@pytest.mark.parametrize("where", ["uplink", "cgroup"])
def test_a_first_load_cuts_nothing_that_is_allowed(
    site: Site, operator: Operator, policy: Callable[[str], Path], cgroup: Path, where: str
) -> None:
    if where == "uplink":
        here, there, group, subject = site.network.machine, site.guest("world"), None, "host"
        own, far = ("203.0.113.1", "2001:db8:bad::1"), (address("world", 4), address("world", 6))
        endpoints, attach = operator.endpoints(), ["--attach", "uplink:world"]
    else:
        here, there, group, subject = site.guest("web"), site.guest("api"), cgroup, "{ app == web }"
        own, far = (address("web", 4), address("web", 6)), (address("api", 4), address("api", 6))
        endpoints, attach = operator.endpoints(endpoint("web", cgroup=str(cgroup))), []
    with ExitStack() as running:
        running.enter_context(started(here, group, ECHO, "9100"))
        running.enter_context(started(there, None, ECHO, "9200"))
        arriving = running.enter_context(started(there, None, TALK, str(MANY), "9100", *own))
        leaving = running.enter_context(started(here, group, TALK, str(MANY), "9200", *far))
        place = operator.at(here)
        place.load(policy(POLICY.format(subject=subject)), "--endpoints", str(endpoints), *attach)
        place.load(policy(POLICY.format(subject=subject)))  # a replacement cuts nothing either
        for talking in (arriving, leaving):
            rounds, _ = talking.communicate("", timeout=60)
            assert talking.returncode == 0
            assert int(rounds) > 1
        counted = operator.counters()
        assert counted["busy.arriving"]["packets"] > MANY
        assert counted["busy.leaving"]["packets"] > MANY
        assert not any(verdict == "deny" and count for (_, verdict, _), count in operator.reasons().items())
