"""Loading a policy, replacing a loaded one, and unloading.

Everything that can fail happens before the one write to `switch`; until then each step can be undone, and is. A
process killed before that write leaves a load in the making, which `recover` takes back; one killed after it leaves
the new load, which `recover` completes.
"""

from __future__ import annotations

import dataclasses
import os
import secrets
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from policyc.artifact.layout import (
    CGROUP,
    CGROUP_KEY,
    CONFIG,
    ENDPOINT,
    ENTRY_PREFIX,
    HOST_ENDPOINT,
    IPCACHE,
    NEXT_PREFIX,
    POINT,
    POINT_KEY,
    PROGRAM_PREFIX,
    RECENT_KEYS,
    RECENT_KEYS_VALUE,
    SWITCH,
    WAKES,
    ConfigFlag,
    EndpointFlag,
    Events,
    Hook,
    State,
)
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import StreamHook
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, bpffs, connections, netlink, sockets, streams, symbols
from policyc.runtime.addresses import Address
from policyc.runtime.attach import Attacher, device_hooks, new_hooks, note_qdiscs, plan_hooks
from policyc.runtime.generations import following, pass_over
from policyc.runtime.identity import IdentityBuilder, Numbers, Slots
from policyc.runtime.maps import Map
from policyc.runtime.names import check_name
from policyc.runtime.namespaces import elsewhere
from policyc.runtime.object import Object
from policyc.runtime.pins import (
    NUMBER,
    SHARED,
    TABLES,
    ZERO,
    Pins,
    active,
    close_all,
)
from policyc.runtime.points import CgroupPoint, DevicePoint, DeviceTable, Plan, Spec, plan_from_state, renew_cgroup
from policyc.runtime.programs import program_id
from policyc.runtime.recovery import finish, recover
from policyc.runtime.registry import (
    FIRST_ENDPOINT,
    FIRST_SLOT,
    HOST_SLOT,
    NOBODY_SLOT,
    Registry,
    endpoint_flags,
    registered,
    reset_older,
)
from policyc.runtime.state import Header, Registered, Store
from policyc.runtime.unload import refuse_strays
from policyc.runtime.unseen import L7Subjects, refuse_shared

HEADROOM = 2  # tables hold this many times what is there at load


@dataclass
class Options:
    """What an operator says at load. `endpoints`, `host` and `specs` are None where not given: a replaced load keeps its own.
    `l7_deny`: endpoints whose streams nobody sees may be subjects of L7 rules, and are denied."""

    endpoints: Sequence[Endpoint] | None = None
    host: Sequence[Address] | None = None
    specs: Sequence[Spec] | None = None
    events: str = "denied"
    audit: bool = False
    l7_deny: bool = False
    dry_run: bool = False
    progress: Callable[[str], None] = lambda step: None


@dataclass(frozen=True)
class Report:
    """What `load` did. `points` are the attach points in words; `warnings` what an operator should know; `reset` is the number of
    sockets that were closed, being older than the rules which judge their requests."""

    name: str
    number: int
    replaced: bool
    dry_run: bool
    generation: int
    endpoints: int
    addresses: int
    points: tuple[str, ...]
    seconds: float
    warnings: tuple[str, ...] = ()
    reset: int = 0


@dataclass
class Contents:
    """What goes into the maps of a load."""

    header: Header
    plan: Plan
    endpoints: list[Registered]
    records: dict[int, bytes] = field(default_factory=dict)  # identity slot → record
    words: list[tuple[int, int, int]] = field(default_factory=list)  # endpoint index, slot, flags
    host: set[Address] = field(default_factory=set)


def load(artifact: Artifact, name: str, options: Options) -> Report:
    """Has the kernel enforce `artifact` under `name`. Raises `OperationError`; then everything is as it was."""
    began = time.monotonic()
    check_name(name)
    with Store(name) as store, ExitStack() as resources:
        resources.callback(lambda: None if store.exists() else store.remove())
        recover(store)
        previous = None
        if store.current.exists():
            # The registry shares the lock, which this function's `with` gives back.
            previous = resources.enter_context(Replaced(store))
            _refuse_damage(Pins(name), previous.registry)
        else:
            refuse_strays(name)
        options.progress("checking attach points")
        contents = _contents(artifact, name, options, previous)
        with Object(artifact) as obj:
            obj.check()
            options.progress("verifying")
            pins = Pins(name)
            _prepare(obj, contents, pins if previous else None)
            if not options.dry_run:
                bpffs.ensure_mounted()
            before = previous.registry.plan if previous else Plan()
            obj.load(() if options.dry_run else _unneeded(artifact, contents.plan, before, pins if previous else None))
            generation = following(previous.registry.generation) if previous else 1
            warnings = [*_warnings(contents.plan), *_stream_warnings(artifact, contents, options)]
            reset = 0
            if not options.dry_run:
                _Installation(store, pins, obj, artifact, contents, previous, generation, options).run()
                known, host = contents.endpoints, contents.host
                reset = reset_older(contents.header, artifact, contents.plan, known, host, pins, warnings)
    return Report(
        name,
        contents.header.number,
        previous is not None,
        options.dry_run,
        generation,
        len(contents.endpoints),
        sum(len(e.addresses) for e in contents.endpoints),
        tuple(contents.plan.words()),
        time.monotonic() - began,
        tuple(warnings),
        reset,
    )


def _refuse_damage(pins: Pins, registry: Registry) -> None:
    missing = pins.missing(registry.header.number, registry.header.streams and bool(registry.plan.cgroups))
    if missing:
        raise OperationError(
            f"pins of load {pins.name!r} are not there, something other than policyc removed them: {', '.join(missing)}",
            f"`policyc unload {pins.name}`, then load again",
        )


class Replaced:
    """The load that is being replaced, open for as long as that takes."""

    def __init__(self, store: Store) -> None:
        self._borrowed = Store(store.name)
        self.registry = Registry(self._borrowed)

    def __enter__(self) -> Replaced:
        return self

    def __exit__(self, *_: object) -> None:
        self.registry.close()


# --- what goes into the maps ------------------------------------------------------------------------------------------


def _contents(artifact: Artifact, name: str, options: Options, previous: Replaced | None) -> Contents:
    old = previous.registry if previous else None
    header = _header(artifact, name, options, old)
    endpoints = _endpoints(options, old)
    namespace = netlink.namespace()
    wants_devices = bool(options.specs) or any(e.interface is not None for e in endpoints)
    if old is not None and old.header.netns != namespace and (wants_devices or old.plan.devices):
        raise elsewhere(name, old.header.netns)
    plan = _plan(options, endpoints, old, header.streams)
    header.netns = namespace
    header.specs = _specs_json(plan)
    local = netlink.interface_addresses()
    listed = {addresses.read(a) for a in header.host_listed}
    contents = Contents(header, plan, [], host=listed | local)
    header.host = [addresses.text(a) for a in sorted(contents.host)]
    builder = IdentityBuilder(artifact.manifest, bytes.fromhex(header.same_key))
    _number(contents, endpoints, old, builder, local)
    if header.streams:
        refuse_shared(name, plan)
        if not header.l7_deny and not header.audit:
            L7Subjects(artifact).refuse(contents.endpoints, plan)
    return contents


def _header(artifact: Artifact, name: str, options: Options, old: Registry | None) -> Header:
    listed = [addresses.text(a) for a in options.host or ()]
    if old is not None and options.endpoints is None:
        listed = old.header.host_listed
    return Header(
        name=name,
        number=old.header.number + 1 if old else 1,
        slot=1 - old.header.slot if old else 0,
        same_key=old.header.same_key if old else secrets.token_hex(32),
        events=options.events,
        audit=options.audit,
        netns=0,
        source=artifact.name,
        loaded_at=time.time(),
        host_listed=listed,
        qdiscs=list(old.header.qdiscs) if old else [],
        streams=bool(artifact.manifest.stream_hooks),
        l7_deny=options.l7_deny,
    )


def _endpoints(options: Options, old: Registry | None) -> list[Endpoint]:
    if options.endpoints is not None:
        return list(options.endpoints)
    if old is None:
        return []
    return [Endpoint(e.name, e.addresses, e.labels, e.cgroup, e.interface) for e in old.endpoints.values()]


def _plan(options: Options, endpoints: list[Endpoint], old: Registry | None, streams: bool) -> Plan:
    """The attach points that the endpoints and the operator ask for, checked against this machine."""
    plan, devices = Plan(streams=streams), DeviceTable()
    for endpoint in endpoints:
        if endpoint.interface is not None or endpoint.cgroup is not None:
            plan.add_endpoint(endpoint.name, endpoint.interface, endpoint.cgroup, devices)
    names = {e.name for e in endpoints}
    if options.specs is not None:
        for spec in options.specs:
            plan.add_spec(spec, names, devices)
    elif old is not None:
        kept = plan_from_state(old.header.specs, ())
        for point in kept.devices.values():
            plan.add_device(devices.renew(point))
        for group in kept.cgroups.values():
            plan.add_cgroup(renew_cgroup(group))
    bound = {p.endpoint for p in plan.devices.values()} | {p.endpoint for p in plan.cgroups.values()}
    for name in names & bound:
        plan.settle_kinds(name)
    return plan


def _specs_json(plan: Plan) -> list[dict[str, Any]]:
    """The points that stay when endpoints go."""
    points: list[DevicePoint | CgroupPoint] = [*plan.devices.values(), *plan.cgroups.values()]
    return [{**dataclasses.asdict(p), "kind": int(p.kind)} for p in points if p.by_spec]


def _number(
    contents: Contents, endpoints: list[Endpoint], old: Registry | None, builder: IdentityBuilder, local: set[Address]
) -> None:
    """Gives endpoints their indices (those they had, where they had one) and identity slots."""
    contents.records = {NOBODY_SLOT: builder.nobody(), HOST_SLOT: builder.host()}
    slots = Numbers(FIRST_SLOT, 1 << 31)
    shared = Slots(slots, contents.records.__setitem__)
    indices = Numbers(FIRST_ENDPOINT, 1 << 24)  # connection keys have 24 bits for it
    if old is not None:
        staying = {e.name for e in endpoints}
        indices.restore(old.index_state())
        for gone in old.endpoints.values():
            if gone.name not in staying:
                indices.free(gone.index)
    contents.words.append((HOST_ENDPOINT, HOST_SLOT, 0))
    for endpoint in endpoints:
        known = old.endpoints.get(endpoint.name) if old is not None else None
        index = known.index if known is not None else indices.take()
        if index is None:
            raise OperationError("there are too many endpoints", "a load has room for 16 million")
        entry = registered(
            endpoint, index, shared.acquire(builder.record(endpoint.labels, endpoint.name)), contents.plan
        )
        contents.endpoints.append(entry)
        contents.words.append((index, entry.slot, endpoint_flags(entry, contents.plan, local)))
    contents.header.indices, contents.header.slots = indices.state(), slots.state()


# --- the object ---------------------------------------------------------------------------------------------------------


def _prepare(obj: Object, contents: Contents, shared: Pins | None) -> None:
    """Sizes the maps by need, and takes over those that outlive a replacement."""
    families = {f: sum(1 for e in contents.endpoints for a in e.addresses if a[0] == f) for f in "46"}
    for family in families:
        families[family] += sum(1 for a in contents.host if a[0] == family)
    top = max((index for index, _, _ in contents.words), default=0)
    needs = {
        "ipcache4": families["4"],
        "ipcache6": families["6"],
        "endpoints": top + 1,
        "identities": len(contents.records),
        "points": len(contents.plan.devices),
        "cgroups": len(contents.plan.cgroups),
    }
    for name, needed in needs.items():
        if name in obj.maps and needed * HEADROOM > obj.max_entries(name):
            obj.resize(name, _power(needed * HEADROOM))
    if shared is not None:
        for name in SHARED:
            _reuse(obj, name, shared)


def _reuse(obj: Object, name: str, pins: Pins) -> None:
    if name not in obj.maps:
        return
    table = pins.optional_map(name)
    if table is None:
        return
    try:
        if obj.shape(name) == (table.type, table.key_size, table.entry_size):
            obj.reuse(name, table.fd)
        elif name not in TABLES:
            raise OperationError(
                f"the loaded policy {pins.name!r} was made by another version whose map {name} differs",
                f"`policyc unload {pins.name}`, then load again: connections are judged anew",
            )
    finally:
        table.close()


def _unneeded(artifact: Artifact, plan: Plan, before: Plan, pins: Pins | None) -> list[str]:
    """The programs that no point asks for; `completion.complete` loads them when an endpoint brings the first. Without any point:
    XDP, which no endpoint brings. What the replaced load (`pins`) has attached judges until it is detached."""
    needed = plan_hooks(plan) | plan_hooks(before) or set(Hook) - {Hook.XDP_INGRESS}
    packets = [PROGRAM_PREFIX + hook.name.lower() for hook in Hook if hook not in needed]
    return packets + streams.unneeded(artifact, pins, plan, before)


def _power(number: int) -> int:
    return 1 << max(number - 1, 1).bit_length()


# --- installing -----------------------------------------------------------------------------------------------------------


class _Installation:
    """From a loaded object to enforcement."""

    def __init__(
        self,
        store: Store,
        pins: Pins,
        obj: Object,
        artifact: Artifact,
        contents: Contents,
        previous: Replaced | None,
        generation: int,
        options: Options,
    ) -> None:
        self._store, self._pins, self._obj, self._artifact = store, pins, obj, artifact
        self._contents, self._header = contents, contents.header
        self._old = previous.registry if previous else None
        self._generation, self._options = generation, options
        self._programs = {hook: obj.program_fd(name) for hook in Hook if (name := _program(hook)) in obj.loaded}
        self._streams = {hook: obj.program_fd(name) for hook in StreamHook if (name := _program(hook)) in obj.loaded}
        self._wakes = symbols.address(WAKES) if self._streams else 0

    def run(self) -> None:
        progress = self._options.progress
        with ExitStack() as undo:
            progress("filling the maps")
            self._populate()
            self._pin(undo)
            self._enter_programs(undo)
            note_qdiscs(self._header, self._contents.plan.devices.values())
            self._remember(undo)
            progress("attaching")
            self._attach(undo)
            self._attach_streams(undo)
            self._enter_connections()
            if self._old is not None:
                # New devices and cgroups are judged from here on.
                undo.callback(pass_over, self._pins, self._old.header.number)
            self._configure(State.ACTIVE)
            self._switch(active(self._header.slot))
            undo.pop_all()
        finish(self._store, self._header, self._old.plan if self._old else None, self._contents.plan)

    # maps

    def _map(self, name: str) -> Map | None:
        if name not in self._obj.maps:
            return None
        return Map(os.dup(self._obj.map_fd(name)), name)

    def _fill(self, name: str, entries: Iterable[tuple[bytes, bytes]]) -> None:
        table = self._map(name)
        if table is None:
            return
        try:
            table.update_many(list(entries))
        finally:
            table.close()

    def _populate(self) -> None:
        contents, plan = self._contents, self._contents.plan
        index_of = {e.name: e.index for e in contents.endpoints}
        self._fill("identities", ((NUMBER.pack(s), record) for s, record in contents.records.items()))
        self._fill("endpoints", ((NUMBER.pack(i), ENDPOINT.pack(s, f)) for i, s, f in contents.words))
        owners = self._owners()
        for family in "46":
            self._fill(
                f"ipcache{family}",
                ((addresses.key(a), IPCACHE.pack(i)) for a, i in owners.items() if a[0] == family),
            )
        self._fill(
            "points",
            (
                (POINT_KEY.pack(p.ifindex), POINT.pack(p.kind, index_of.get(p.endpoint or "", 0)))
                for p in plan.devices.values()
            ),
        )
        self._fill(
            "cgroups",
            ((CGROUP_KEY.pack(p.id), CGROUP.pack(p.kind, index_of.get(p.endpoint, 0))) for p in plan.cgroups.values()),
        )
        keys = (1 + secrets.randbelow((1 << 64) - 1), *(secrets.randbits(64) for _ in range(RECENT_KEYS - 1)), 0)
        self._fill("recent_keys", [(ZERO, RECENT_KEYS_VALUE.pack(*keys))])
        self._configure(State.DORMANT)

    def _owners(self) -> dict[Address, int]:
        """Endpoint index of every address that is somebody's."""
        owners: dict[Address, int] = dict.fromkeys(self._contents.host, HOST_ENDPOINT)
        owners.update((a, e.index) for e in self._contents.endpoints for a in e.addresses)
        return owners

    def _enter_connections(self) -> None:
        """Makes known the TCP connections that are older than this load. Their packets pass dormant hooks meanwhile."""
        index_of = {e.name: e.index for e in self._contents.endpoints}
        groups = connections.subjects_by_cgroup(self._contents.plan.cgroups.values(), index_of)
        found = connections.entries(sockets.connections(), self._owners(), groups)
        with ExitStack() as tables:
            opened = {name: table for name in ("ct4", "ct6") if (table := self._map(name)) is not None}
            for table in opened.values():
                tables.callback(table.close)
            connections.enter(opened, found)

    def _configure(self, state: State) -> None:
        # Endpoints cannot have changed since: the lock is ours.
        fields = (
            state,
            self._generation,
            Events[self._options.events.upper()],
            self._flags(),
            self._contents.plan.cgroup_levels(),
        )
        self._fill("config", [(ZERO, CONFIG.pack(*fields, self._header.number, self._wakes))])

    def _flags(self) -> int:
        flags = ConfigFlag.AUDIT if self._options.audit else 0
        if not any(own & EndpointFlag.BOUND for _, _, own in self._contents.words):
            flags |= ConfigFlag.NONE_BOUND
        return flags

    # pins

    def _loaded(self) -> list[tuple[Hook | StreamHook, int]]:
        return [*self._programs.items(), *self._streams.items()]

    def _pin(self, undo: ExitStack) -> None:
        own = self._pins.generation(self._header.number)
        if self._old is None:
            # What a load that is not in the state left behind is nobody's.
            bpffs.remove_folder(self._pins.folder)
            undo.callback(bpffs.remove_folder, self._pins.folder)
        undo.callback(bpffs.remove_folder, own)
        bpffs.remove_folder(own)
        _make_folder(own)
        _make_folder(self._pins.links)
        for name in self._obj.maps:
            if name not in SHARED:
                bpffs.pin(self._obj.map_fd(name), self._pins.own(name, self._header.number))
        for hook, fd in self._loaded():
            bpffs.pin(fd, own / _program(hook))
        for name in SHARED:
            if name not in self._obj.maps:
                continue
            if not (self._pins.folder / name).exists():
                bpffs.pin(self._obj.map_fd(name), self._pins.folder / name)
                undo.callback(bpffs.unpin, self._pins.folder / name)
            elif name not in self._obj.reused:
                bpffs.pin(self._obj.map_fd(name), self._pins.own(name, self._header.number))
        for hook in Hook:
            entry = ENTRY_PREFIX + hook.name.lower()
            if entry in self._obj.programs and not (self._pins.folder / entry).exists():
                bpffs.pin(self._obj.program_fd(entry), self._pins.folder / entry)

    def _enter_programs(self, undo: ExitStack) -> None:
        """Puts the programs into the slot that nothing calls."""
        for hook, fd in self._loaded():
            name = NEXT_PREFIX + hook.name.lower()
            self._fill(name, [(NUMBER.pack(self._header.slot), NUMBER.pack(fd))])
            undo.callback(self._pins.clear_slot, hook, self._header.slot)

    # state

    def _remember(self, undo: ExitStack) -> None:
        entries = self._pins.entries()
        self._header.entries = [program_id(fd) for fd in entries.values()]
        close_all(entries)
        undo.callback(self._store.artifact(self._header.number).unlink, missing_ok=True)
        self._store.write_file(self._store.artifact(self._header.number), self._artifact.object)
        undo.callback(self._store.next.unlink, missing_ok=True)
        self._store.write(self._store.next, self._header, self._contents.endpoints)

    # hooks

    def _attach(self, undo: ExitStack) -> None:
        """First load: the entry programs, dormant. Replacing: what is new gets the new programs, dormant, and `finish`
        puts the entry programs in their place and detaches what is gone; what somebody took away comes back."""
        attacher = Attacher(self._pins.links, self._header.qdiscs)
        plan, before = self._contents.plan, self._old.plan if self._old else Plan()
        entries = self._pins.entries()
        with ExitStack() as later:
            later.callback(close_all, entries)
            if self._old is None:
                self._switch(State.DORMANT)
            program: Mapping[Hook, int] = self._programs if self._old is not None else entries
            for point in plan.devices.values():
                hooks = new_hooks(before.devices.get(point.ifindex), point)
                attacher.attach_device(point, entries, [h for h in device_hooks(point) if h not in hooks])
                attacher.attach_device(point, program, hooks)
                undo.callback(_detach_device, self._pins, self._header, point, hooks, self._old is not None)
            old_groups = before.attached_cgroups()
            for number, group in plan.attached_cgroups().items():
                if number in old_groups:
                    attacher.attach_cgroup(group, entries)
                else:
                    attacher.attach_cgroup(group, program)
                    undo.callback(attacher.detach_cgroup, group)

    def _attach_streams(self, undo: ExitStack) -> None:
        """At every bound cgroup, so that its sockets are taken over. One that changes hands is nobody's until `finish`."""
        before = self._old.plan.cgroups if self._old is not None and self._old.header.streams else {}
        if not self._header.streams or not (self._contents.plan.cgroups or before):
            return
        if not streams.entries_are_there(self._pins):
            undo.callback(streams.leave_entries, self._pins)
            streams.enter(self._obj, self._pins)
        index_of = streams.indices(self._contents.endpoints)
        with streams.Streams(self._pins) as opened:
            for point in self._contents.plan.cgroups.values():
                if opened.attach(point) and point.id not in before:
                    undo.callback(streams.detach, self._pins, point)
                was, wanted = opened.subject(point), index_of.get(point.endpoint, streams.NOBODY)
                if was != wanted and point.id in before:
                    undo.callback(streams.settle, self._pins, point, was)
                opened.settle(point, wanted if was == streams.NOBODY else was if was == wanted else streams.NOBODY)

    def _switch(self, value: int) -> None:
        self._fill("switch", [(ZERO, SWITCH.pack(value))])


def _program(hook: Hook | StreamHook) -> str:
    return PROGRAM_PREFIX + hook.name.lower()


def _detach_device(pins: Pins, header: Header, point: DevicePoint, hooks: Sequence[Hook], replacing: bool) -> None:
    program = pins.programs(header.number) if replacing else pins.entries()
    try:
        Attacher(pins.links, header.qdiscs).detach_device(point, program, hooks)
    finally:
        close_all(program)


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as failure:
        raise OperationError(
            f"cannot make the folder {path}: {failure.strerror}", "POLICYC_BPFFS names another place for pins"
        ) from None


def _warnings(plan: Plan) -> Iterable[str]:
    if not plan.devices and not plan.cgroups:
        yield "nothing is judged yet: no endpoint has an interface or a cgroup, and no --attach was given"


def _stream_warnings(artifact: Artifact, contents: Contents, options: Options) -> Iterable[str]:
    if contents.header.streams and not options.audit:
        yield from L7Subjects(artifact).warnings(contents.endpoints, contents.plan)
