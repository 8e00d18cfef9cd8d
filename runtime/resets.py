"""Connections that are older than the rules which judge their streams: nobody saw how they began, so they are reset.

Those can be found that this network namespace lists, and those of the processes in bound cgroups. The others are denied
(`l7-not-seen`) as long as they last.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property

from policyc.artifact.layout import PointKind
from policyc.artifact.reader import Artifact
from policyc.diagnostics import OperationError
from policyc.model import Direction, Endpoint
from policyc.reference.verdict import Traffic, judge
from policyc.reference.world import HOST, AddressClass, Subject, World
from policyc.runtime import sockets
from policyc.runtime.addresses import Address
from policyc.runtime.connections import subjects_by_cgroup
from policyc.runtime.namespaces import inside, namespaces_of
from policyc.runtime.pins import Pins
from policyc.runtime.points import Plan
from policyc.runtime.sockets import Connection
from policyc.runtime.state import Registered
from policyc.runtime.streams import marked

TCP = 6


@dataclass(frozen=True)
class Resets:
    """How many sockets were closed. `failure`: why others could not be."""

    sockets: int = 0
    failure: str | None = None

    def words(self) -> str | None:
        """For an operator; None where nothing happened."""
        if self.failure is not None:
            return f"connections that are older than the rules which judge their requests are denied: {self.failure}"
        if self.sockets:
            what = "1 socket was" if self.sockets == 1 else f"{self.sockets} sockets were"
            return f"{what} reset: older than the rules which judge their requests"
        return None


class Older:
    """Finds and resets them. `host`: the addresses of class host. The policy is read only if there is any connection."""

    def __init__(
        self, artifact: Artifact, plan: Plan, endpoints: Iterable[Registered], host: Iterable[Address], pins: Pins
    ) -> None:
        self._artifact, self._plan, self._pins = artifact, plan, pins
        self._endpoints, self._host = {e.index: e for e in endpoints}, frozenset(host)
        self._has_uplink = any(p.kind is PointKind.UPLINK for p in plan.devices.values())

    @cached_property
    def _world(self) -> World:
        known = self._endpoints.values()
        return World(self._artifact.policy, [Endpoint(e.name, e.addresses, e.labels) for e in known], self._host)

    @cached_property
    def _ports(self) -> set[tuple[int, int]]:
        """Of all rules with a block in force; the connections of others need not be judged here."""
        rules = [r for r in self._artifact.policy.rules if r.http is not None and not r.http.audit]
        return {s.ports or (0, 0xFFFF) for r in rules for s in r.services if s.protocol in (None, TCP)}

    def reset(self) -> Resets:
        """Does what it can."""
        index_of = {e.name: index for index, e in self._endpoints.items()}
        groups = subjects_by_cgroup(self._plan.cgroups.values(), index_of, streams=True)
        paths = [group.path for group in self._plan.cgroups.values()]
        closed, failure = 0, None
        for place in namespaces_of(paths):
            try:
                closed += inside(place, lambda: self._reset_here(groups)) or 0
            except OperationError as error:
                failure = error.message
        return Resets(closed, failure)

    def _reset_here(self, groups: dict[int, int]) -> int:
        listed = [c for c in sockets.connections() if c.established]
        seen = marked(self._pins) if listed else set()  # later than the list: what was taken over meanwhile is marked
        found = [c for c in listed if c.cookie not in seen and self._needs_stream(c, groups)]
        return sum(sockets.destroy(c) for c in found)

    def _needs_stream(self, one: Connection, groups: dict[int, int]) -> bool:
        direction = Direction.INGRESS if one.arriving else Direction.EGRESS
        port = int.from_bytes(one.local_port if one.arriving else one.remote_port, "big")
        if not any(first <= port <= last for first, last in self._ports):
            return False
        for subject in self._subjects(one, groups):
            found = judge(self._world, subject, direction, one.remote, Traffic(TCP, port))
            if any(rule.http is not None and not rule.http.audit for rule in found.rules):
                return True
        return False

    def _subjects(self, one: Connection, groups: dict[int, int]) -> list[Subject]:
        """Who is judged for the socket's end of a connection."""
        by_cgroup = self._endpoints.get(groups.get(one.cgroup, 0))
        if by_cgroup is not None:
            own_netns = bool(by_cgroup.addresses) and self._host.isdisjoint(by_cgroup.addresses)
            return [] if own_netns and _is_loopback(one.remote) else [self._world.endpoints[by_cgroup.name]]
        if _is_loopback(one.remote):
            return []
        owner = self._world.owner(one.local)
        if owner is not None:
            return [owner] if self._has_uplink or self._plan.owned(owner.name).devices else []
        return [HOST] if self._has_uplink and self._world.class_of(one.local) is AddressClass.HOST else []


def _is_loopback(address: Address) -> bool:
    family, number = address
    return number >> 24 == 127 if family == "4" else number == 1
