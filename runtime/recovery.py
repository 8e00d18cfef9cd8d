"""What comes after the write to `switch`, and after a kill before or behind it, or of an `unload`."""

from __future__ import annotations

from contextlib import ExitStack

from policyc.artifact.layout import Hook
from policyc.artifact.stream_layout import StreamHook
from policyc.runtime import bpffs, streams
from policyc.runtime.attach import DEVICE_HOOKS, Attacher, device_hooks, new_hooks
from policyc.runtime.generations import pass_over
from policyc.runtime.namespaces import elsewhere, inhabitant, is_here
from policyc.runtime.pins import Pins, active, close_all
from policyc.runtime.points import Plan, plan_of
from policyc.runtime.state import Header, Snapshot, Store
from policyc.runtime.unload import take_away


def recover(store: Store) -> None:
    """Completes or takes back what a killed `load` left, and completes a killed `unload`. `store` is locked."""
    if store.leaving.exists():
        take_away(store)
        return
    if not store.next.exists():
        return
    pins = Pins(store.name)
    coming = store.read(store.next)
    netns = coming.header.netns
    if not is_here(netns) and inhabitant(netns):
        raise elsewhere(store.name, netns)
    if pins.switch() == active(coming.header.slot):
        before = plan_of(store.read()) if store.current.exists() else None
        finish(store, coming.header, before, plan_of(coming))
        return
    _take_back(store, pins, coming)


def finish(store: Store, header: Header, before: Plan | None, after: Plan) -> None:
    """Completes a load whose programs judge already; can be done again. `before`: the points of the load that it replaced.
    Devices and cgroups that it does not have any more deny everything until here, for its tables do not know them."""
    pins = Pins(store.name)
    if before is not None:
        _put_entries(pins, header, before, after)
    _settle_streams(store, pins, header, before, after)
    pins.share(header.number)
    store.next.replace(store.current)
    for hook in Hook:
        pins.clear_slot(hook, 1 - header.slot)
    for folder in pins.folder.glob("g*"):
        if folder != pins.generation(header.number):
            bpffs.remove_folder(folder)
    for file in store.folder.glob("artifact-*.o"):
        if file != store.artifact(header.number):
            file.unlink(missing_ok=True)


def _put_entries(pins: Pins, header: Header, before: Plan, after: Plan) -> None:
    """The entry programs take the place of the new ones; what only the old load had is detached."""
    with ExitStack() as opened:
        entries, programs = pins.entries(), pins.programs(header.number)
        opened.callback(close_all, entries)
        opened.callback(close_all, programs)
        attacher = Attacher(pins.links, header.qdiscs)
        for point in after.devices.values():
            attacher.swap_device(point, programs, entries)
            # A device that had tc ingress and now has XDP, or the reverse, was judged at both until here.
            gone = [hook for hook in DEVICE_HOOKS if hook not in device_hooks(point)]
            attacher.detach_device(point, entries, gone)
        groups = after.attached_cgroups()
        for group in groups.values():
            attacher.swap_cgroup(group, entries)
        for ifindex, point in before.devices.items():
            if ifindex not in after.devices:
                attacher.detach_device(point, entries)
        for number, group in before.attached_cgroups().items():
            if number not in groups:
                attacher.detach_cgroup(group)


def _settle_streams(store: Store, pins: Pins, header: Header, before: Plan | None, after: Plan) -> None:
    """Every cgroup becomes its endpoint's. Where the new load judges no streams, those that the old one judged are reset. The programs of
    the old slot stay: a request that is under way is finished by them."""
    if header.streams:
        streams.reconcile(pins, after, streams.indices(store.read(store.next).endpoints.values()), before)
    elif before is not None:
        streams.leave(pins, (before, after))


def _take_back(store: Store, pins: Pins, coming: Snapshot) -> None:
    """Detaches what the killed load attached, dormant or judging already, and forgets it."""
    header = coming.header
    current = store.read() if store.current.exists() else None
    before = plan_of(current) if current is not None else None
    after = plan_of(coming)
    if current is not None:
        pass_over(pins, current.header.number)
    with ExitStack() as opened:
        programs = pins.entries() if before is None else pins.programs(header.number)
        opened.callback(close_all, programs)
        attacher = Attacher(pins.links, header.qdiscs)
        for point in after.devices.values():
            known = before.devices.get(point.ifindex) if before else None
            attacher.detach_device(point, programs, new_hooks(known, point))
        kept = before.attached_cgroups() if before else {}
        for number, group in after.attached_cgroups().items():
            if number not in kept:
                attacher.detach_cgroup(group)
    for hook in (*Hook, *StreamHook):
        pins.clear_slot(hook, header.slot)
    if current is not None and current.header.streams:
        streams.reconcile(pins, plan_of(current), streams.indices(current.endpoints.values()), after)
    else:
        streams.leave(pins, (after,))
    bpffs.remove_folder(pins.folder if before is None else pins.generation(header.number))
    store.artifact(header.number).unlink(missing_ok=True)
    store.next.unlink(missing_ok=True)
