"""The stream programs of a load: attached to their maps and cgroups, and told whose cgroup each is (docs/runtime.md).

`enter_sock_ops` stands at every bound cgroup, whatever its kind and whatever is bound above it: of several programs the one at
the nearest cgroup runs first. As long as `cgroup_subject` holds 0 for a cgroup nothing is taken over there, so that what a rule
with a block allows is denied (`l7-not-seen`).
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, suppress

from policyc.artifact.layout import ENTRY_PREFIX, PROGRAM_PREFIX
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import CGROUP_STORAGE_KEY, CGROUP_SUBJECT, MARK, StreamHook
from policyc.diagnostics import OperationError
from policyc.runtime import bpffs, sockets
from policyc.runtime.attach import Attacher
from policyc.runtime.libbpf import ATTACH_MSG_VERDICT, ATTACH_STREAM_VERDICT, check, lib
from policyc.runtime.namespaces import inside, namespaces_of
from policyc.runtime.object import Object
from policyc.runtime.pins import STREAM_ENTRIES, STREAM_NEXT, STREAM_TABLES, Pins
from policyc.runtime.points import CgroupPoint, Plan
from policyc.runtime.programs import attached_to_map, program_id
from policyc.runtime.state import Registered

VERDICT_MAPS = {
    StreamHook.STREAM_IN: ("streams_in", ATTACH_STREAM_VERDICT),
    StreamHook.STREAM_OUT: ("streams_out", ATTACH_MSG_VERDICT),
}
NOBODY = 0


def entries_are_there(pins: Pins) -> bool:
    """Whether the entry programs are loaded, and attached to their maps."""
    return all(bpffs.exists(pins.folder / name) for name in STREAM_ENTRIES)


def sockets_are_judged(pins: Pins) -> bool:
    """Whether the entry programs are attached to their maps, as far as the kernel tells."""
    for hook, (name, kind) in VERDICT_MAPS.items():
        table, entry = pins.optional_map(name), pins.stream_entry(hook)
        try:
            found = attached_to_map(table.fd, kind) if table is not None else []
            if found is not None and program_id(entry) not in found:
                return False
        finally:
            os.close(entry)
            if table is not None:
                table.close()
    return True


def unneeded(artifact: Artifact, pins: Pins | None, plan: Plan, before: Plan) -> list[str]:
    """The stream programs that a load has no use for: all of them where it has no cgroup, and entry programs where those of
    an earlier load stay (`pins`)."""
    hooks = artifact.manifest.stream_hooks
    if not plan.cgroups and not before.cgroups:
        return [name for hook in hooks for name in (hook.entry, hook.program)]
    return [hook.entry for hook in hooks] if pins is not None and entries_are_there(pins) else []


def enter(obj: Object, pins: Pins) -> None:
    """Attaches the loaded entry programs to the maps whose sockets they judge, then pins them: what is pinned is attached."""
    for hook in StreamHook:
        name = ENTRY_PREFIX + hook.name.lower()
        if name not in obj.loaded:
            continue
        if hook in VERDICT_MAPS:
            table, kind = VERDICT_MAPS[hook]
            result = lib().bpf_prog_attach(obj.program_fd(name), obj.map_fd(table), kind, 0)
            check(result, f"attach a program to the sockets of map {table}")
        bpffs.unpin(pins.folder / name)
        bpffs.pin(obj.program_fd(name), pins.folder / name)


class Streams:
    """Whose sockets are taken over. Opened for a load that has stream programs and a cgroup; the caller closes it."""

    def __init__(self, pins: Pins) -> None:
        self._attacher = Attacher(pins.links, [])
        with ExitStack() as opened:
            self._subjects = pins.map("cgroup_subject")
            opened.callback(self._subjects.close)
            self._entry = pins.stream_entry(StreamHook.SOCK_OPS)
            opened.callback(os.close, self._entry)
            self._opened = opened.pop_all()

    def close(self) -> None:
        self._opened.close()

    def __enter__(self) -> Streams:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def attach(self, point: CgroupPoint) -> bool:
        """Whether it was not there yet. The cgroup is nobody's until `settle`."""
        return self._attacher.attach_streams(point, self._entry)

    def detach(self, point: CgroupPoint) -> None:
        """Does nothing where nothing is attached."""
        if self._attacher.streams_attached(point):
            self.settle(point, NOBODY)
        self._attacher.detach_streams(point)

    def attached(self, point: CgroupPoint) -> bool:
        return self._attacher.streams_attached(point)

    def subject(self, point: CgroupPoint) -> int:
        """The endpoint index whose sockets those of the cgroup are."""
        value = self._subjects.lookup(CGROUP_STORAGE_KEY.pack(point.id))
        return int(CGROUP_SUBJECT.unpack(value)[0]) if value is not None else NOBODY

    def settle(self, point: CgroupPoint, index: int) -> None:
        """`point` is attached."""
        key, value = CGROUP_STORAGE_KEY.pack(point.id), CGROUP_SUBJECT.pack(index, point.kind)
        was = self._subjects.lookup(key)
        if was != value and (was is not None or index != NOBODY):
            self._subjects.update(key, value)


def programs(pins: Pins, number: int) -> Iterator[tuple[str, int]]:
    """Those of load `number` that are pinned, and entry programs: name and descriptor, open until the next is asked for."""
    paths = [pins.generation(number) / (PROGRAM_PREFIX + hook.name.lower()) for hook in StreamHook]
    for path in [*paths, *(pins.folder / name for name in STREAM_ENTRIES)]:
        if bpffs.exists(path):
            fd = bpffs.open_pin(path)
            yield path.name, fd
            os.close(fd)


def indices(endpoints: Iterable[Registered]) -> dict[str, int]:
    return {e.name: e.index for e in endpoints}


def reconcile(pins: Pins, plan: Plan, index_of: Mapping[str, int], gone: Plan | None) -> None:
    """Brings every cgroup of a load that has stream programs to its endpoint, and takes the program from those that only `gone` has."""
    if not entries_are_there(pins):
        return
    with Streams(pins) as streams:
        for number, point in gone.cgroups.items() if gone is not None else ():
            if number not in plan.cgroups:
                streams.detach(point)
        for point in plan.cgroups.values():
            if _is_there(point):
                streams.attach(point)
                streams.settle(point, index_of.get(point.endpoint, NOBODY))


def _is_there(point: CgroupPoint) -> bool:
    """Whether the cgroup is the one that was bound: it can be gone, or made anew under its path."""
    try:
        return os.stat(point.path).st_ino == point.id
    except OSError:
        return False


def settle(pins: Pins, point: CgroupPoint, index: int) -> None:
    with Streams(pins) as streams:
        streams.settle(point, index)


def attach(pins: Pins, point: CgroupPoint, index: int) -> None:
    with Streams(pins) as streams:
        streams.attach(point)
        streams.settle(point, index)


def detach(pins: Pins, point: CgroupPoint) -> None:
    with Streams(pins) as streams:
        streams.detach(point)


def leave_entries(pins: Pins) -> None:
    """Takes away entry programs that nothing calls yet."""
    for name in STREAM_ENTRIES:
        bpffs.unpin(pins.folder / name)


def leave(pins: Pins, plans: Iterable[Plan]) -> None:
    """Takes away what is there of stream programs: no socket is taken over any more, the connections that were are reset,
    then maps and programs go. Can be done again."""
    Attacher(pins.links, []).detach_all_streams()
    with suppress(OperationError):  # a kernel that cannot reset them
        reset_marked(pins, plans)
    for name in (*STREAM_ENTRIES, *STREAM_NEXT, *STREAM_TABLES):
        bpffs.unpin(pins.folder / name)


def marked(pins: Pins) -> set[int]:
    """The cookies of the sockets that were taken over and live."""
    found: set[int] = set()
    for name in ("marks4", "marks6"):
        table = pins.optional_map(name)
        if table is None:
            continue
        found |= {MARK.unpack(value)[0] for _, value in table.items()}
        table.close()
    return found


def reset_marked(pins: Pins, plans: Iterable[Plan]) -> int:
    """Resets the connections that were taken over: those of this network namespace and of the bound cgroups' processes. How many sockets were closed."""
    cookies = marked(pins)
    if not cookies:
        return 0

    def reset() -> int:
        return sum(sockets.destroy(one) for one in sockets.connections() if one.cookie in cookies)

    paths = {group.path for plan in plans for group in plan.cgroups.values()}
    return sum(inside(place, reset) or 0 for place in namespaces_of(paths))
