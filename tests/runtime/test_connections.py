"""Protects how connections that are older than a load become entries: their subjects, ends and direction."""

from __future__ import annotations

import socket

import pytest

from policyc.artifact.layout import CT, CT4_KEY, CT6_KEY, HOST_ENDPOINT, CtFlag
from policyc.model import Direction
from policyc.runtime.addresses import Address, parse
from policyc.runtime.connections import entries
from policyc.runtime.sockets import Connection, connections

HERE, GUEST, WORLD = parse("192.0.2.1"), parse("10.0.0.2"), parse("198.51.100.7")
HERE6, WORLD6 = parse("2001:db8::1"), parse("2001:db8:9::7")
OWNERS: dict[Address, int] = {HERE: HOST_ENDPOINT, HERE6: HOST_ENDPOINT, GUEST: 5}
GROUP = 77


def connection(local: Address, remote: Address, arriving: bool, cgroup: int = 0) -> Connection:
    return Connection(local, remote, b"\x00\x50", b"\x9c\x40", arriving, cgroup)


def made(one: Connection) -> list[tuple[str, int, int, bytes]]:
    """Table, subject, direction and local port of each entry."""
    found = []
    for table, key, value in entries([one], OWNERS, {GROUP: 6}):
        layout = CT4_KEY if table == "ct4" else CT6_KEY
        _, _, local_port, _, subject = layout.unpack(key)
        generation, _, _, direction, flags, _, *checked = CT.unpack(value)
        assert (generation, flags, subject & 0xFF) == (0, CtFlag.REPLY, socket.IPPROTO_TCP)
        assert checked == [0, 0]
        found.append((table, subject >> 8, direction, local_port))
    return sorted(found)


def test_of_the_machine() -> None:
    assert made(connection(HERE, WORLD, True)) == [("ct4", HOST_ENDPOINT, Direction.INGRESS, b"\x00\x50")]
    assert made(connection(HERE6, WORLD6, False)) == [("ct6", HOST_ENDPOINT, Direction.EGRESS, b"\x00\x50")]


def test_of_a_process_in_a_bound_cgroup() -> None:
    """For its endpoint, and for the machine whose address it uses."""
    assert [subject for _, subject, _, _ in made(connection(HERE, WORLD, True, GROUP))] == [HOST_ENDPOINT, 6]


def test_with_a_workload_at_the_other_end() -> None:
    """Seen from the workload the ends are swapped, and what left here arrived there."""
    assert made(connection(HERE, GUEST, False)) == [
        ("ct4", HOST_ENDPOINT, Direction.EGRESS, b"\x00\x50"),
        ("ct4", 5, Direction.INGRESS, b"\x9c\x40"),
    ]


def test_between_strangers() -> None:
    assert made(connection(WORLD, WORLD, True)) == []


@pytest.mark.parametrize("family", [socket.AF_INET, socket.AF_INET6])
def test_listing(family: socket.AddressFamily) -> None:
    """Both ends of a connection of this process; a server for both families speaks IPv4 to an IPv4 client."""
    loopback = "127.0.0.1" if family == socket.AF_INET else "::1"
    with socket.create_server(("::", 0), family=socket.AF_INET6, dualstack_ipv6=True) as server:
        port = server.getsockname()[1]
        with socket.create_connection((loopback, port)) as client:
            ends = {c.local_port: c for c in connections() if port.to_bytes(2, "big") in (c.local_port, c.remote_port)}
            mine = ends[client.getsockname()[1].to_bytes(2, "big")]
            theirs = ends[port.to_bytes(2, "big")]
            assert (mine.local, mine.remote) == (theirs.remote, theirs.local) == (parse(loopback), parse(loopback))
            assert (mine.arriving, theirs.arriving) == (False, True)
