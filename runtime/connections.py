"""Connections that are older than a load: those this network namespace can list enter the connection table, of a
generation before the first. So each is judged once more, in the direction in which it began."""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Iterable, Iterator, Mapping

from policyc.artifact.layout import CT, CT4_KEY, CT6_KEY, HOST_ENDPOINT, CgroupKind, CtFlag
from policyc.model import Direction
from policyc.runtime import addresses
from policyc.runtime.addresses import Address
from policyc.runtime.maps import Map
from policyc.runtime.points import CgroupPoint
from policyc.runtime.sockets import Connection

BEFORE_ANY_GENERATION = 0


def subjects_by_cgroup(
    points: Iterable[CgroupPoint], index_of: Mapping[str, int], streams: bool = False
) -> dict[int, int]:
    """The number of every cgroup at or below a bound one → index of the endpoint that is judged there, 0 for nobody. `streams`: whose
    streams are judged there."""
    found: dict[int, int] = {}
    for point in sorted(points, key=lambda p: p.level):
        index = index_of.get(point.endpoint, 0) if streams or point.kind is CgroupKind.JUDGE else 0
        for folder, _, _ in os.walk(point.path):
            found[os.stat(folder).st_ino] = index
    return found


def entries(
    connections: Iterable[Connection], owners: Mapping[Address, int], cgroups: Mapping[int, int]
) -> Iterator[tuple[str, bytes, bytes]]:
    """Table (`ct4`, `ct6`), key and value of each connection for each of its subjects: the endpoint of its cgroup, and
    the owner of either end's address (`owners`: endpoint indices, `HOST_ENDPOINT` for this machine)."""
    now = time.monotonic_ns() >> 30
    for one in connections:
        near = {cgroups.get(one.cgroup, 0), owners.get(one.local, 0)} - {0}
        far = {owners.get(one.remote, 0)} - {0, HOST_ENDPOINT}
        for subject in near:
            yield _entry(subject, one.local, one.remote, one.local_port, one.remote_port, one.arriving, now)
        for subject in far:
            yield _entry(subject, one.remote, one.local, one.remote_port, one.local_port, not one.arriving, now)


def enter(tables: Mapping[str, Map], found: Iterable[tuple[str, bytes, bytes]]) -> None:
    """What a table knows already stays as it is."""
    for name, key, value in found:
        table = tables.get(name)
        if table is not None and table.lookup(key) is None:
            table.update(key, value)


def _entry(
    subject: int, local: Address, remote: Address, local_port: bytes, remote_port: bytes, arriving: bool, now: int
) -> tuple[str, bytes, bytes]:
    layout = CT4_KEY if local[0] == "4" else CT6_KEY
    ends = addresses.key(local), addresses.key(remote), local_port, remote_port
    direction = Direction.INGRESS if arriving else Direction.EGRESS
    value = CT.pack(BEFORE_ANY_GENERATION, 0, now, direction, CtFlag.REPLY, 0, *(2 * [BEFORE_ANY_GENERATION]))
    return f"ct{local[0]}", layout.pack(*ends, subject << 8 | socket.IPPROTO_TCP), value
