"""Attach points: what the operator asks for, checked against this machine."""

from __future__ import annotations

import difflib
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Any

from policyc.artifact.layout import CgroupKind, PointKind
from policyc.diagnostics import OperationError
from policyc.runtime import cgroups, netlink
from policyc.runtime.netlink import Device
from policyc.runtime.state import Registered, Snapshot

SPEC_FORMS = "workload:IF[+xdp]=ENDPOINT, cgroup:PATH=ENDPOINT, uplink:IF[+xdp]"


@dataclass(frozen=True)
class Spec:
    """One `--attach`. `kind` is workload, cgroup or uplink; `target` a device or a cgroup's path."""

    kind: str
    target: str
    xdp: bool = False
    endpoint: str | None = None

    def __str__(self) -> str:
        return f"{self.kind}:{self.target}{'+xdp' * self.xdp}{f'={self.endpoint}' if self.endpoint else ''}"


def parse_spec(text: str) -> Spec:
    """Raises `OperationError` where `text` has none of `SPEC_FORMS`."""
    kind, colon, rest = text.partition(":")
    target, _, endpoint = rest.rpartition("=") if kind != "uplink" else (rest, "", "")
    xdp = kind != "cgroup" and target.endswith("+xdp")
    target = target.removesuffix("+xdp") if xdp else target
    complete = bool(endpoint) if kind in ("workload", "cgroup") else kind == "uplink" and "=" not in rest
    if not (colon and target and complete):
        raise OperationError(f"{text!r} is no attach point", f"write {SPEC_FORMS}")
    return Spec(kind, target, xdp, endpoint or None)


@dataclass(frozen=True)
class DevicePoint:
    device: str
    ifindex: int
    kind: PointKind
    xdp: bool = False
    endpoint: str | None = None
    by_spec: bool = False  # stays when its endpoint goes

    def __str__(self) -> str:
        """As `--attach` takes it."""
        name = f"={self.endpoint}" if self.endpoint else ""
        return f"{self.kind.name.lower()}:{self.device}{'+xdp' * self.xdp}{name}"


@dataclass(frozen=True)
class CgroupPoint:
    path: str
    id: int
    level: int
    kind: CgroupKind
    endpoint: str
    by_spec: bool = False

    def __str__(self) -> str:
        """As `--attach` takes it."""
        return f"cgroup:{self.path}={self.endpoint}"


@dataclass
class Owned:
    """The points of one endpoint."""

    devices: list[DevicePoint] = field(default_factory=list)
    cgroups: list[CgroupPoint] = field(default_factory=list)


@dataclass
class Plan:
    """All points of a load, devices by ifindex and cgroups by number. `streams`: the load has stream programs; then what belongs to a stream
    passes a cgroup only while it is seen, wherever its endpoint is judged."""

    devices: dict[int, DevicePoint] = field(default_factory=dict)
    cgroups: dict[int, CgroupPoint] = field(default_factory=dict)
    streams: bool = False
    _owners: dict[str, Owned] | None = field(default=None, compare=False, repr=False)  # made when asked for

    def copy(self) -> Plan:
        return Plan(dict(self.devices), dict(self.cgroups), self.streams)

    def owned(self, name: str) -> Owned:
        """The points of an endpoint."""
        if self._owners is None:
            self._owners = {}
            for point in self.devices.values():
                if point.endpoint is not None:
                    self._owners.setdefault(point.endpoint, Owned()).devices.append(point)
            for group in self.cgroups.values():
                self._owners.setdefault(group.endpoint, Owned()).cgroups.append(group)
        return self._owners.get(name) or Owned()

    def is_bound(self, name: str) -> bool:
        """Whether an endpoint has a point of its own at which it is judged."""
        owned = self.owned(name)
        return bool(owned.devices) or any(g.kind is CgroupKind.JUDGE for g in owned.cgroups)

    def attached_cgroups(self) -> dict[int, CgroupPoint]:
        """The cgroups with packet programs (those that judge, all where streams are judged) below no other one: a program there sees the
        packets of all that is beneath."""
        judging = {p.path: p for p in self.cgroups.values() if self.streams or p.kind is CgroupKind.JUDGE}
        return {p.id: p for p in judging.values() if not any(a in judging for a in _ancestors(p.path))}

    def cgroup_levels(self) -> int:
        return cgroups.levels([p.level for p in self.cgroups.values()])

    def words(self) -> list[str]:
        """The attach points as `--attach` takes them."""
        return [str(point) for point in (*self.devices.values(), *self.cgroups.values())]

    # --- adding and removing points -----------------------------------------------------------------------------

    def add_device(self, point: DevicePoint) -> None:
        """Raises `OperationError` where the device is taken."""
        other = self.devices.get(point.ifindex)
        if other is not None:
            holder = f"endpoint {other.endpoint!r}" if other.endpoint else f"{other.kind.name.lower()}:{other.device}"
            raise OperationError(f"device {point.device} is already held by {holder}", "bind each device once")
        self.devices[point.ifindex] = point
        if self._owners is not None and point.endpoint is not None:
            self._owners.setdefault(point.endpoint, Owned()).devices.append(point)

    def add_cgroup(self, point: CgroupPoint) -> None:
        """Raises `OperationError` where the cgroup is taken."""
        other = self.cgroups.get(point.id)
        if other is not None:
            raise OperationError(
                f"cgroup {point.path} is already held by endpoint {other.endpoint!r}", "bind each cgroup once"
            )
        self.cgroups[point.id] = point
        if self._owners is not None:
            self._owners.setdefault(point.endpoint, Owned()).cgroups.append(point)

    def add_endpoint(self, name: str, interface: str | None, cgroup: str | None, devices: DeviceTable) -> None:
        """The points an endpoint's own `interface` and `cgroup` make."""
        if interface is not None:
            device = devices.get(interface)
            self.add_device(DevicePoint(device.name, device.ifindex, PointKind.WORKLOAD, endpoint=name))
        if cgroup is not None:
            group = cgroups.resolve(cgroup)
            self.add_cgroup(CgroupPoint(group.path, group.id, group.level, CgroupKind.JUDGE, name))
        self.settle_kinds(name)

    def remove_endpoint(self, name: str) -> None:
        """Takes away the points that the endpoint itself made."""
        self.devices = {i: p for i, p in self.devices.items() if p.endpoint != name or p.by_spec}
        self.cgroups = {i: p for i, p in self.cgroups.items() if p.endpoint != name or p.by_spec}
        self._owners = None
        self.settle_kinds(name)

    def settle_kinds(self, name: str) -> None:
        """An endpoint with an interface is judged there; its cgroups then serve its streams only."""
        owned = self.owned(name)
        kind = CgroupKind.STREAMS_ONLY if owned.devices else CgroupKind.JUDGE
        for at, point in enumerate(owned.cgroups):
            self.cgroups[point.id] = owned.cgroups[at] = replace(point, kind=kind)

    def add_spec(self, spec: Spec, known: Iterable[str], devices: DeviceTable) -> None:
        """Raises `OperationError` for a target or an endpoint that is not there."""
        if spec.endpoint is not None:
            check_known(spec.endpoint, known, f"--attach {spec}")
        if spec.kind == "cgroup":
            group = cgroups.resolve(spec.target)
            assert spec.endpoint is not None
            self.add_cgroup(CgroupPoint(group.path, group.id, group.level, CgroupKind.JUDGE, spec.endpoint, True))
        else:
            device = devices.get(spec.target)
            kind = PointKind.WORKLOAD if spec.kind == "workload" else PointKind.UPLINK
            self.add_device(DevicePoint(device.name, device.ifindex, kind, spec.xdp, spec.endpoint, True))
        if spec.endpoint is not None:
            self.settle_kinds(spec.endpoint)


class DeviceTable:
    """The devices of this network namespace, asked once; refuses those that cannot be attach points."""

    def __init__(self) -> None:
        self._devices: dict[str, Device] | None = None

    def get(self, name: str) -> Device:
        device = self._table().get(name)
        if device is None:
            near = difflib.get_close_matches(name, self._table(), 1)
            raise OperationError(
                f"there is no device {name!r} in this network namespace",
                f"did you mean {near[0]!r}?" if near else "`ip link` lists the devices",
            )
        if device.loopback:
            raise OperationError(
                f"{name} is the loopback device, which is never an attach point",
                "attach at the devices through which packets come and go",
            )
        if not device.ethernet:
            raise OperationError(f"{name} carries no Ethernet frames", "attach at an Ethernet device, or at a cgroup")
        return device

    def _table(self) -> dict[str, Device]:
        if self._devices is None:
            self._devices = netlink.devices()
        return self._devices

    def renew(self, point: DevicePoint) -> DevicePoint:
        """The point at the device that has its name now, else at its device under another name. Raises
        `OperationError` where both are gone."""
        device = self._table().get(point.device)
        if device is None and any(d.ifindex == point.ifindex for d in self._table().values()):
            return point
        return replace(point, ifindex=self.get(point.device).ifindex)


def plan_of(snapshot: Snapshot) -> Plan:
    """The points of a load as they were bound, without asking the machine."""
    plan = plan_from_state(snapshot.header.specs, snapshot.endpoints.values())
    plan.streams = snapshot.header.streams
    return plan


def plan_from_state(specs: list[dict[str, Any]], endpoints: Iterable[Registered]) -> Plan:
    """The points of a load as they were bound, without asking the machine."""
    plan = Plan()
    for spec in specs:
        if "ifindex" in spec:
            plan.add_device(DevicePoint(**{**spec, "kind": PointKind(spec["kind"])}))
        else:
            plan.add_cgroup(CgroupPoint(**{**spec, "kind": CgroupKind(spec["kind"])}))
    for known in endpoints:
        if known.device is not None:
            device, ifindex = known.device
            plan.add_device(DevicePoint(device, ifindex, PointKind.WORKLOAD, endpoint=known.name))
        if known.group is not None:
            path, number, level = known.group
            plan.add_cgroup(CgroupPoint(path, number, level, CgroupKind.JUDGE, known.name))
        if known.device is not None or known.group is not None:
            plan.settle_kinds(known.name)
    return plan


def renew_cgroup(point: CgroupPoint) -> CgroupPoint:
    """The cgroup that has the path now. Raises `OperationError` where it is gone."""
    group = cgroups.resolve(point.path)
    return replace(point, id=group.id, level=group.level)


def check_known(name: str, known: Iterable[str], where: str) -> None:
    """Raises `OperationError` where no endpoint has this name."""
    known = list(known) if not isinstance(known, (set, dict)) else known
    if name in known:
        return
    near = difflib.get_close_matches(name, known, 1)
    raise OperationError(
        f"{where}: there is no endpoint {name!r}",
        f"did you mean {near[0]!r}?" if near else "`policyc endpoint list` lists the endpoints",
    )


def _ancestors(path: str) -> Iterable[str]:
    while path := path.rpartition("/")[0]:
        yield path
