"""Unloading: whatever there is of a load goes, also where its state or its pins were lost or damaged."""

from __future__ import annotations

from contextlib import suppress

from policyc.diagnostics import OperationError
from policyc.runtime import bpffs, netlink, streams
from policyc.runtime.attach import TC_SIDES, Attacher
from policyc.runtime.names import check_name
from policyc.runtime.namespaces import elsewhere, inhabitant, is_here
from policyc.runtime.pins import Pins
from policyc.runtime.points import plan_of
from policyc.runtime.state import Snapshot, Store, names, unknown


def unload(name: str) -> list[str]:
    """Detaches, unpins and forgets a load. Returns the attach points that were freed, in words. `OperationError` where there
    is none, or where it must run in another network namespace; then nothing is changed."""
    check_name(name)
    known = name in names()
    if not known and not bpffs.exists(Store(name).folder):
        raise unknown(name)
    with Store(name) as store:
        if not known and not store.exists():
            store.remove()  # what a command left that was killed before it did anything
            raise unknown(name)
        freed = take_away(store)
        store.remove()
        return freed


def take_away(store: Store) -> list[str]:
    """All of a load but its locked folder. Done again after a kill, it goes on."""
    pins = Pins(store.name)
    states = _states(store)
    plans = [plan_of(s) for s in states]
    netns = states[-1].header.netns if states else netlink.namespace()
    if any(plan.devices for plan in plans) and not is_here(netns) and inhabitant(netns):
        raise elsewhere(store.name, netns)
    store.leave()
    try:
        streams.leave(pins, plans)
        attacher = Attacher(pins.links, [q for s in states for q in s.header.qdiscs])
        if is_here(netns):
            attacher.detach_everywhere(pins.numbers() | {n for s in states for n in s.header.entries})
        attacher.detach_links()
        bpffs.remove_folder(pins.folder)
    except OperationError:
        store.stay()  # the next command finds a load, which it can repair
        raise
    with suppress(OSError):
        bpffs.root().rmdir()  # only if this was the last one
    store.left()
    return list(dict.fromkeys(words for plan in plans for words in plan.words()))


def refuse_strays(name: str) -> None:
    """Raises `OperationError` where programs under this name are attached that no state knows. They go on judging, and
    loading over them would let packets pass meanwhile."""
    pins = Pins(name)
    numbers = pins.numbers()
    devices = netlink.devices().values() if numbers else ()
    stray = any(
        f.program in numbers for d in devices for _, side in TC_SIDES.values() for f in netlink.filters(d.ifindex, side)
    )
    if stray or bpffs.pins_in(pins.links):
        raise OperationError(
            f"programs of a load {name!r} are attached whose state was lost", f"`policyc unload {name}` detaches them"
        )


def _states(store: Store) -> list[Snapshot]:
    """What the state files say that can be read, the load in the making last."""
    found = []
    for path in (store.leaving, store.current, store.next):
        with suppress(OperationError):
            found.append(store.read(path))
    return found
