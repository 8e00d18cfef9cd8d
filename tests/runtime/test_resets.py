"""Protects who is reset: connections that L7 rules judge and nobody saw begin, and no other."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from policyc.artifact.layout import CT4_KEY
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import MARK
from policyc.model import PolicySet
from policyc.runtime import addresses, bpffs, maps, sockets
from policyc.runtime.namespaces import inside, namespaces_of
from policyc.runtime.pins import Pins
from policyc.runtime.points import Plan
from policyc.runtime.resets import Older
from policyc.runtime.streams import reset_marked
from tests.runtime.conftest import policy_set
from tests.runtime.streams import cgroup_point, connection, endpoint, is_reset, with_block

pytestmark = pytest.mark.bpf
LOOPBACK = addresses.parse("127.0.0.1")
PORT = 80


@contextmanager
def member(group: Path) -> Iterator[None]:
    """This process in a cgroup: sockets are of the cgroup in which they are made."""
    own = next(line for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0::"))
    home = group.parents[0] / "cgroup.procs" if own == "0::/" else Path(f"{group.parents[0]}{own[3:]}/cgroup.procs")
    (group / "cgroup.procs").write_text(str(os.getpid()))
    try:
        yield
    finally:
        home.write_text(str(os.getpid()))


def older(group: Path, policy: PolicySet) -> Older:
    """`api` is bound at `group`, `web` has the loopback address."""
    plan = Plan(cgroups={1: cgroup_point(str(group), group.stat().st_ino, "api")})
    web = endpoint("web", 3, "web")
    web.addresses = (LOOPBACK,)
    artifact = cast(Artifact, SimpleNamespace(policy=policy))
    return Older(artifact, plan, [endpoint("api", 2, "api"), web], [LOOPBACK], Pins("x"))


def test_what_nobody_saw_begin(machine: Any, cgroup: Path) -> None:
    judge = older(cgroup, with_block(policy_set(PORT)))
    with connection(PORT) as outside, member(cgroup), connection(PORT + 1) as other_port:
        with connection(PORT, "127.0.0.2") as (client, server):
            done = judge.reset()
            assert (done.failure, done.sockets) == (None, 1)
            assert is_reset(client)
            assert is_reset(server)
        assert not any(is_reset(end) for end in (*outside, *other_port))
        assert judge.reset().words() is None


@pytest.mark.parametrize("audit", [False, True])
def test_rules_that_judge_no_requests_reset_nothing(machine: Any, cgroup: Path, audit: bool) -> None:
    policy = with_block(policy_set(PORT), audit=True) if audit else policy_set(PORT)
    with member(cgroup), connection(PORT) as (client, _):
        assert older(cgroup, policy).reset().sockets == 0
        assert not is_reset(client)


def marks(cookie: int) -> None:
    """Pins of a load `x` that has taken over one socket."""
    bpffs.ensure_mounted()
    folder = Pins("x").folder
    folder.mkdir()
    table = maps.create("HASH", "marks4", CT4_KEY.size, MARK.size, 8)
    table.update(bytes(CT4_KEY.size), cookie.to_bytes(8, "little").ljust(MARK.size, b"\0"))
    bpffs.pin(table.fd, folder / "marks4")
    table.close()


def cookie_of(port: int) -> int:
    return next(c.cookie for c in sockets.connections() if c.local_port == port.to_bytes(2, "big"))


def test_what_is_marked_stays_until_unload(machine: Any, cgroup: Path) -> None:
    with member(cgroup), connection(PORT) as (client, server), connection(PORT, "127.0.0.2") as (second, _):
        wanted = next(
            c.cookie for c in sockets.connections() if c.remote_port == client.getsockname()[1].to_bytes(2, "big")
        )
        marks(wanted)
        assert older(cgroup, with_block(policy_set(PORT))).reset().sockets == 1
        assert is_reset(second)
        assert not is_reset(client)
        assert reset_marked(Pins("x"), []) == 1
        assert is_reset(client)
        assert is_reset(server)


def test_listeners_stay(machine: Any) -> None:
    """SOCK_DESTROY by addresses alone takes a listener where the connection is gone."""
    with connection(PORT) as (client, server):
        listed = next(c for c in sockets.connections() if c.local_port == PORT.to_bytes(2, "big"))
        assert sockets.destroy(listed)
        assert not sockets.destroy(listed)
        assert is_reset(client)
        assert is_reset(server)
        with pytest.raises(OSError, match="in use"):
            connection(PORT).__enter__()


def test_in_the_namespace_of_a_process_of_the_cgroup(machine: Any, cgroup: Path) -> None:
    guest = machine.guest("vapi", 2)
    code = (
        "import socket, time\ns = socket.create_server(('127.0.0.1', 80))\n"
        "c = socket.create_connection(('127.0.0.1', 80)); a, _ = s.accept()\nprint(flush=True)\n"
        "try: print(a.recv(1))\nexcept ConnectionError as e: print(type(e).__name__, flush=True)\ntime.sleep(600)"
    )
    server = subprocess.Popen(guest.command(sys.executable, "-c", code), stdout=subprocess.PIPE, text=True)
    try:
        assert server.stdout is not None
        assert server.stdout.readline() == "\n"
        here = sockets.connections()
        (cgroup / "cgroup.procs").write_text(str(server.pid))
        places = namespaces_of([str(cgroup)])
        assert len(places) == 2
        listed = [c for c in inside(places[1], sockets.connections) or [] if c.arriving]
        assert len(listed) == 1
        assert sockets.connections() == here, "the caller stays in its namespace"
        marks(listed[0].cookie)
        assert reset_marked(Pins("x"), [Plan(cgroups={1: cgroup_point(str(cgroup), 1, "api")})]) == 1
        assert server.stdout.readline().strip() == "ConnectionAbortedError", "the socket that was destroyed"
    finally:
        server.kill()
        server.wait()
