"""Attaching programs to tc, XDP and cgroup hooks, and finding them again.

tc filters hold their program and are found again by its number; XDP and cgroup links live as pins in `folder`.
Attaching what is attached and detaching what is not do nothing.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

from policyc.artifact.layout import Hook
from policyc.diagnostics import OperationError
from policyc.runtime import bpffs, netlink, programs
from policyc.runtime.libbpf import (
    ATTACH_CGROUP_EGRESS,
    ATTACH_CGROUP_INGRESS,
    ATTACH_CGROUP_SOCK_OPS,
    ATTACH_TCX_EGRESS,
    ATTACH_TCX_INGRESS,
    ATTACH_XDP,
    effective_capabilities,
    error,
    ffi,
    lib,
    opts,
)
from policyc.runtime.points import CgroupPoint, DevicePoint, Plan
from policyc.runtime.state import Header, made_qdiscs

Programs = Mapping[Hook, int]  # open programs by hook

TC_INGRESS, TC_EGRESS = 1, 2  # enum bpf_tc_attach_point
TC_REPLACE = 1
XDP_SKB_MODE, XDP_DRV_MODE = 2, 4
TC_SIDES = {
    Hook.TC_INGRESS: (TC_INGRESS, netlink.CLSACT_INGRESS),
    Hook.TC_EGRESS: (TC_EGRESS, netlink.CLSACT_EGRESS),
}
TCX_SIDES = {Hook.TC_INGRESS: ATTACH_TCX_INGRESS, Hook.TC_EGRESS: ATTACH_TCX_EGRESS}
DEVICE_HOOKS = (Hook.TC_INGRESS, Hook.TC_EGRESS, Hook.XDP_INGRESS)
CGROUP_SIDES = {
    Hook.CGROUP_INGRESS: (ATTACH_CGROUP_INGRESS, "ingress"),
    Hook.CGROUP_EGRESS: (ATTACH_CGROUP_EGRESS, "egress"),
}
STREAMS_PIN = "cgroup-streams-"


class Attacher:
    """`folder` holds the pins of links; `qdiscs` are the devices whose clsact qdisc goes with its last filter."""

    def __init__(self, folder: Path, qdiscs: list[int]) -> None:
        self._folder = folder
        self.qdiscs = qdiscs

    # --- devices --------------------------------------------------------------------------------------------------

    def attach_device(self, point: DevicePoint, program: Programs, hooks: Sequence[Hook] | None = None) -> None:
        """These hooks of a device (all that the point has), or none of them; those that are there already stay."""
        made: list[Hook] = []
        try:
            for hook in device_hooks(point) if hooks is None else hooks:
                attach = self._attach_xdp if hook is Hook.XDP_INGRESS else self._attach_tc
                if attach(point, hook, program[hook]):
                    made.append(hook)
        except OperationError:
            self.detach_device(point, program, made)
            raise

    def detach_device(self, point: DevicePoint, program: Programs, hooks: Sequence[Hook] = DEVICE_HOOKS) -> None:
        """The device may be gone."""
        for hook in hooks:
            if hook is Hook.XDP_INGRESS:
                bpffs.unpin(self._xdp_pin(point.ifindex))
            elif hook in program:
                self._detach_tc(point.ifindex, hook, {programs.program_id(program[hook])})
        self._drop_qdisc(point.ifindex)

    def detach_everywhere(self, numbers: set[int]) -> None:
        """Takes the programs of these numbers from the tc hooks of every device of this network namespace, then every link."""
        for ifindex in [d.ifindex for d in netlink.devices().values()]:
            for hook in TC_SIDES:
                self._detach_tc(ifindex, hook, numbers)
            self._drop_qdisc(ifindex)
        self.detach_links()

    def detach_links(self) -> None:
        for pin in bpffs.pins_in(self._folder):
            bpffs.unpin(pin)

    def swap_device(self, point: DevicePoint, old: Programs, new: Programs) -> None:
        """Puts other programs in the place of the attached ones; no packet passes without one of them."""
        for hook in device_hooks(point):
            if hook is Hook.XDP_INGRESS:
                _update_link(self._xdp_pin(point.ifindex), new[hook])
                continue
            found = _find(point.ifindex, hook, old[hook])
            if found is not None:
                _tc_attach(point, hook, new[hook], found)

    def device_attached(self, point: DevicePoint, program: Programs) -> bool:
        """Whether all hooks of the device are there."""
        return all(
            _link_holds(self._xdp_pin(point.ifindex))
            if hook is Hook.XDP_INGRESS
            else hook in program and _find(point.ifindex, hook, program[hook]) is not None
            for hook in device_hooks(point)
        )

    def ahead(self, point: DevicePoint, program: Programs, friends: set[int]) -> list[str]:
        """Names of the programs and filters that see this device's packets before ours and can let them pass by;
        `friends` are the numbers of programs that do not."""
        found: list[str] = []
        for hook in device_hooks(point):
            if hook is Hook.XDP_INGRESS:
                continue
            found += _tcx_names(point.ifindex, hook)
            ours = programs.program_id(program[hook]) if hook in program else 0
            for other in netlink.filters(point.ifindex, TC_SIDES[hook][1]):
                if other.program and other.program == ours:
                    break
                if other.program not in friends:
                    found.append(programs.program_name(other.program) or f"{other.kind} filter {other.priority}")
        return found

    def _attach_tc(self, point: DevicePoint, hook: Hook, program: int) -> bool:
        """Whether it was not there yet."""
        if _find(point.ifindex, hook, program) is not None:
            return False
        if ahead := _tcx_names(point.ifindex, hook):
            raise OperationError(
                f"device {point.device} has a TCX program of somebody else ({', '.join(ahead)}), which runs before tc filters"
                " and can let packets pass by them",
                f"detach it (`bpftool net show dev {point.device}` names it)",
            )
        with bpffs.alone():  # else the last filter of another load could go, and the qdisc with it
            kind = netlink.ingress_qdisc(point.ifindex)
            if kind is None:
                self._make_qdisc(point)
            elif kind != "clsact":
                raise OperationError(
                    f"device {point.device} has an {kind} qdisc, which has no place for programs on leaving packets",
                    f"`tc qdisc replace dev {point.device} clsact`, or remove it",
                )
            _tc_attach(point, hook, program, None)
        return True

    def _detach_tc(self, ifindex: int, hook: Hook, numbers: set[int]) -> None:
        side = opts("bpf_tc_hook", ifindex=ifindex, attach_point=TC_SIDES[hook][0])
        for found in netlink.filters(ifindex, TC_SIDES[hook][1]):
            if found.program not in numbers:
                continue
            which = opts("bpf_tc_opts", handle=found.handle, priority=found.priority)
            result = lib().bpf_tc_detach(side, which)
            if result < 0 and result not in (-errno.ENOENT, -errno.ENODEV, -errno.EINVAL):
                raise error(-result, f"detach from device {ifindex}")

    def _make_qdisc(self, point: DevicePoint) -> None:
        both = opts("bpf_tc_hook", ifindex=point.ifindex, attach_point=TC_INGRESS | TC_EGRESS)
        result = lib().bpf_tc_hook_create(both)
        if result < 0 and result != -errno.EEXIST:
            raise error(-result, f"make the clsact qdisc of device {point.device} (kernel option NET_SCH_INGRESS)")

    def _drop_qdisc(self, ifindex: int) -> None:
        """Removes the qdisc if policyc made it and nobody uses it."""
        if ifindex not in self.qdiscs:
            return
        with bpffs.alone():
            if any(netlink.filters(ifindex, parent) for _, parent in TC_SIDES.values()):
                return
            self.qdiscs.remove(ifindex)
            if netlink.ingress_qdisc(ifindex) == "clsact":
                lib().bpf_tc_hook_destroy(opts("bpf_tc_hook", ifindex=ifindex, attach_point=TC_INGRESS | TC_EGRESS))

    def _xdp_pin(self, ifindex: int) -> Path:
        return self._folder / f"xdp-{ifindex}"

    def _attach_xdp(self, point: DevicePoint, _: Hook, program: int) -> bool:
        """Whether it was not there yet."""
        pin = self._xdp_pin(point.ifindex)
        if _link_holds(pin):
            return False
        bpffs.unpin(pin)  # of a device that is gone
        result = _link(program, point.ifindex, ATTACH_XDP, XDP_DRV_MODE)
        if result < 0 and result not in (-errno.EBUSY, -errno.EPERM, -errno.EEXIST):
            result = _link(program, point.ifindex, ATTACH_XDP, XDP_SKB_MODE)
        if result in (-errno.EBUSY, -errno.EEXIST):
            raise OperationError(
                f"device {point.device} has an XDP program of somebody else, and XDP programs cannot share a device",
                f"remove it (`ip link show {point.device}` names it), or attach without +xdp",
            )
        if result < 0:
            raise error(-result, f"attach an XDP program to device {point.device}")
        _keep(result, pin)
        return True

    # --- cgroups --------------------------------------------------------------------------------------------------

    def attach_cgroup(self, point: CgroupPoint, program: Programs) -> None:
        """Both sides of a cgroup, or none of them; one that is there already stays."""
        made: list[Path] = []
        try:
            for hook, (attach_type, _) in CGROUP_SIDES.items():
                pin = self._cgroup_pin(point.id, hook)
                if _attach_cgroup_side(point, pin, attach_type, program[hook]):
                    made.append(pin)
        except OperationError:
            for pin in made:
                bpffs.unpin(pin)
            raise

    def detach_cgroup(self, point: CgroupPoint) -> None:
        for hook in CGROUP_SIDES:
            bpffs.unpin(self._cgroup_pin(point.id, hook))

    def swap_cgroup(self, point: CgroupPoint, new: Programs) -> None:
        """Puts other programs in the place of the attached ones."""
        for hook in CGROUP_SIDES:
            _update_link(self._cgroup_pin(point.id, hook), new[hook])

    def cgroup_attached(self, point: CgroupPoint) -> bool:
        return all(_link_holds(self._cgroup_pin(point.id, hook)) for hook in CGROUP_SIDES)

    def _cgroup_pin(self, number: int, hook: Hook) -> Path:
        return self._folder / f"cgroup-{CGROUP_SIDES[hook][1]}-{number}"

    # --- streams of a cgroup ----------------------------------------------------------------------------------------

    def attach_streams(self, point: CgroupPoint, program: int) -> bool:
        """Has the sock_ops program `program` take over the sockets of a cgroup. Whether it was not there yet."""
        return _attach_cgroup_side(point, self._streams_pin(point.id), ATTACH_CGROUP_SOCK_OPS, program)

    def detach_streams(self, point: CgroupPoint) -> None:
        bpffs.unpin(self._streams_pin(point.id))

    def streams_attached(self, point: CgroupPoint) -> bool:
        return _link_holds(self._streams_pin(point.id))

    def detach_all_streams(self) -> None:
        for pin in bpffs.pins_in(self._folder, f"{STREAMS_PIN}*"):
            bpffs.unpin(pin)

    def _streams_pin(self, number: int) -> Path:
        return self._folder / f"{STREAMS_PIN}{number}"


def _attach_cgroup_side(point: CgroupPoint, pin: Path, attach_type: int, program: int) -> bool:
    """Whether it was not there yet."""
    if _link_holds(pin):
        return False
    bpffs.unpin(pin)
    try:
        fd = os.open(point.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except OSError as failure:
        raise error(failure.errno or errno.EIO, f"open cgroup {point.path}") from None
    try:
        result = _link(program, fd, attach_type, 0)
        if result == -errno.EPERM and effective_capabilities() >> 12 & 1:
            raise OperationError(_held(point, fd, attach_type), "detach it (`bpftool cgroup tree` shows where it is)")
    finally:
        os.close(fd)
    if result < 0:
        raise error(-result, f"attach a program to cgroup {point.path}")
    _keep(result, pin)
    return True


def note_qdiscs(header: Header, points: Iterable[DevicePoint]) -> bool:
    """Before `points` are attached: notes in the header which qdiscs policyc makes, or made for another load, so that they
    are found again whatever happens. Whether the header changed."""
    made: set[int] | None = None
    before = len(header.qdiscs)
    for ifindex in (p.ifindex for p in points if p.ifindex not in header.qdiscs):
        if made is None:
            made = made_qdiscs(header.netns)
        if ifindex in made or netlink.ingress_qdisc(ifindex) is None:
            header.qdiscs.append(ifindex)
    return len(header.qdiscs) != before


def device_hooks(point: DevicePoint) -> tuple[Hook, ...]:
    """XDP takes the place of tc ingress."""
    return (Hook.XDP_INGRESS if point.xdp else Hook.TC_INGRESS), Hook.TC_EGRESS


def plan_hooks(plan: Plan) -> set[Hook]:
    """The hooks of all points."""
    hooks = {hook for point in plan.devices.values() for hook in device_hooks(point)}
    return hooks | set(CGROUP_SIDES) if plan.attached_cgroups() else hooks


def new_hooks(before: DevicePoint | None, point: DevicePoint) -> list[Hook]:
    """The hooks of `point` that the device did not have before."""
    old = device_hooks(before) if before is not None else ()
    return [hook for hook in device_hooks(point) if hook not in old]


def _find(ifindex: int, hook: Hook, program: int) -> netlink.Filter | None:
    """Our filter, by the number of the open program."""
    number = programs.program_id(program)
    found = netlink.filters(ifindex, TC_SIDES[hook][1])
    return next((f for f in found if f.program == number), None)


def _tcx_names(ifindex: int, hook: Hook) -> list[str]:
    numbers = programs.attached_to_device(ifindex, TCX_SIDES[hook])
    return [programs.program_name(n) or f"program {n}" for n in numbers]


def _tc_attach(point: DevicePoint, hook: Hook, program: int, replaces: netlink.Filter | None) -> None:
    """In front of the filters that are there; in the place of `replaces` if that is given."""
    side = opts("bpf_tc_hook", ifindex=point.ifindex, attach_point=TC_SIDES[hook][0])
    which = opts("bpf_tc_opts", prog_fd=program)
    if replaces is not None:
        which.flags, which.handle, which.priority = TC_REPLACE, replaces.handle, replaces.priority
    elif any(f.priority == 1 for f in netlink.filters(point.ifindex, TC_SIDES[hook][1])):
        raise OperationError(
            f"device {point.device} has a tc filter of somebody else with priority 1, so none can stand before it",
            f"give that filter another priority (`tc filter show dev {point.device} {'in' if hook is Hook.TC_INGRESS else 'e'}gress`)",
        )
    result = lib().bpf_tc_attach(side, which)
    if result < 0:
        raise error(-result, f"attach a tc program to device {point.device}")


def _link(program: int, target: int, attach_type: int, flags: int) -> int:
    return int(lib().bpf_link_create(program, target, attach_type, opts("bpf_link_create_opts", flags=flags)))


def _keep(link: int, pin: Path) -> None:
    """Pins a link, without which it would end with this process."""
    try:
        bpffs.pin(link, pin)
    finally:
        os.close(link)


def _link_holds(pin: Path) -> bool:
    """Whether a pinned link is there and its device or cgroup too."""
    if not bpffs.exists(pin):
        return False
    link = bpffs.open_pin(pin)
    try:
        return programs.link_target(link) != 0
    finally:
        os.close(link)


def _update_link(pin: Path, program: int) -> None:
    """Does nothing where the link, or its device or cgroup, is gone."""
    if not _link_holds(pin):
        return
    link = bpffs.open_pin(pin)
    try:
        result = lib().bpf_link_update(link, program, ffi.NULL)
        if result < 0 and result != -errno.ENOLINK:  # gone just now
            raise error(-result, f"update the link {pin.name}")
    finally:
        os.close(link)


def _held(point: CgroupPoint, fd: int, attach_type: int) -> str:
    """Why the kernel refuses another program at a cgroup."""
    flags, ids = programs.attached_to_cgroup(fd, attach_type)
    if ids and not flags & 2:  # BPF_F_ALLOW_MULTI
        names = ", ".join(programs.program_name(i) or str(i) for i in ids)
        return f"cgroup {point.path} is held by a program that shares with no other: {names}"
    return f"a cgroup above {point.path} is held by a program that allows none beneath it"
