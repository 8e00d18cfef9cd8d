"""The endpoints of a load: adding, changing and removing them while packets flow.

Every operation goes in an order in which no moment allows more than the state before it or the state after it: what
grants an address its identity comes last when it comes, and goes first when it goes. After the last step the
generation is counted up, so that live connections are judged again.
"""

from __future__ import annotations

import dataclasses
import os
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import cached_property, partial
from types import TracebackType
from typing import Any, TypeVar

from policyc.artifact.layout import (
    CGROUP,
    CGROUP_KEY,
    CONFIG,
    ENDPOINT,
    HOST_ENDPOINT,
    IPCACHE,
    POINT,
    POINT_KEY,
    ConfigFlag,
    EndpointFlag,
)
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import StreamHook
from policyc.diagnostics import OperationError
from policyc.model import Endpoint
from policyc.runtime import addresses, netlink, streams
from policyc.runtime.addresses import Address
from policyc.runtime.attach import Attacher, note_qdiscs, plan_hooks
from policyc.runtime.completion import complete
from policyc.runtime.generations import following
from policyc.runtime.identity import IdentityBuilder, Numbers, Slots, holds
from policyc.runtime.maps import Map
from policyc.runtime.names import check_name
from policyc.runtime.namespaces import elsewhere, is_here
from policyc.runtime.pins import NUMBER, ZERO, Pins, close_all
from policyc.runtime.points import DeviceTable, Plan, check_known, plan_of
from policyc.runtime.recovery import recover
from policyc.runtime.state import Header, Registered, Snapshot, Store, names, unknown
from policyc.runtime.unseen import L7Subjects, refuse_shared

FIRST_ENDPOINT = HOST_ENDPOINT + 1
NOBODY_SLOT, HOST_SLOT, FIRST_SLOT = 0, 1, 2
LONG_HISTORY = 1000  # lines of a state file beyond which it is rewritten


@dataclass
class Applied:
    """What `Registry.apply` did: names of endpoints."""

    added: list[str] = field(default_factory=list)
    changed: list[str] = field(default_factory=list)
    removed: list[str] = field(default_factory=list)


class Registry:
    """An open load. It holds the load's lock until it is closed."""

    def __init__(self, store: Store) -> None:
        """`store` is locked; the registry closes it. Use `open_registry`."""
        snapshot = store.read()
        self.store = store
        self.l7_deny = False  # endpoints whose streams nobody sees may become subjects of L7 rules
        self.warnings: list[str] = []
        self.header = snapshot.header
        self.artifact: Artifact = store.read_artifact(self.header.number)
        self.builder = IdentityBuilder(self.artifact.manifest, bytes.fromhex(self.header.same_key))
        self.pins = Pins(store.name)
        number = self.header.number
        self._config = self.pins.map("config", number)
        self._config_value = self._config.lookup(ZERO) or bytes(CONFIG.size)
        self._endpoints = self.pins.map("endpoints", number)
        self._identities = self.pins.map("identities", number)
        self._points = self.pins.map("points", number)
        self._cgroups = self.pins.map("cgroups", number)
        self._ipcache = {"4": self.pins.map("ipcache4", number), "6": self.pins.map("ipcache6", number)}
        self._entries = self.pins.entries()
        self._attacher = Attacher(self.pins.links, self.header.qdiscs)
        self.host = snapshot.host
        self._local = netlink.interface_addresses() if is_here(self.header.netns) else set(self.host)
        self.endpoints = snapshot.endpoints
        self.holder = {a: r.name for r in self.endpoints.values() for a in r.addresses}
        self._indices = Numbers(FIRST_ENDPOINT, self._endpoints.max_entries)
        self._slot_numbers = Numbers(FIRST_SLOT, self._identities.max_entries)
        self._slots = Slots(self._slot_numbers, self._write_identity)
        self._take_up(snapshot)
        self.plan = plan_of(snapshot)
        if snapshot.pending:
            self._finish(snapshot.pending)
        elif snapshot.torn or snapshot.lines > 2 * len(self.endpoints) + LONG_HISTORY:
            self.compact()

    def close(self) -> None:
        for table in (
            self._config,
            self._endpoints,
            self._identities,
            self._points,
            self._cgroups,
            *self._ipcache.values(),
        ):
            table.close()
        close_all(self._entries)
        self.store.close()

    def __enter__(self) -> Registry:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # --- asking ---------------------------------------------------------------------------------------------------

    @property
    def generation(self) -> int:
        return int(CONFIG.unpack(self._config_value)[1])

    def get(self, name: str) -> Registered:
        """Raises `OperationError` where there is none, with the nearest name."""
        check_known(name, self.endpoints, self.store.name)
        return self.endpoints[name]

    def index_state(self) -> list[int]:
        """`Numbers.state` of the endpoint indices."""
        return self._indices.state()

    def identities(self, known: Registered) -> list[str]:
        """Names of the policy's identities that select an endpoint, in source order."""
        named = self.artifact.policy.identities
        return [n for n, s in named.items() if s is not None and all(holds(r, known.labels) for r in s.requirements)]

    # --- operations -----------------------------------------------------------------------------------------------

    def put(self, endpoint: Endpoint) -> str:
        """Adds an endpoint, or changes the one of that name. Returns `added`, `changed` or `unchanged`."""
        outcome = self._put(endpoint)
        if outcome != "unchanged":
            self._reset_older()
        return outcome

    def _put(self, endpoint: Endpoint) -> str:
        self._check_endpoint(endpoint)
        old = self.endpoints.get(endpoint.name)
        if not self._run(endpoint):
            return "unchanged"
        return "added" if old is None else "changed"

    def remove(self, name: str) -> None:
        """Raises `OperationError` where there is no such endpoint."""
        self._remove(name)
        self._reset_older()

    def _remove(self, name: str) -> None:
        old = self.get(name)
        plan = self.plan.copy()
        plan.remove_endpoint(name)
        with self._written({"op": "remove", "name": name}):
            self._execute(old, None, plan)

    def apply(self, endpoints: Sequence[Endpoint], progress: Callable[[int], None] = lambda _: None) -> Applied:
        """Makes `endpoints` the whole set. An address that changes hands goes from one to the other by one write."""
        wanted = {e.name: e for e in endpoints}
        takers = {a: e.name for e in endpoints for a in e.addresses}
        self._check_sizes(wanted, takers)
        self._check_all(endpoints, takers)
        report = Applied()
        known = set(self.endpoints)
        self._check_points(wanted)
        touched = self._hand_over(wanted, takers)
        for done, name in enumerate([n for n in self.endpoints if n not in wanted]):
            self._remove(name)
            report.removed.append(name)
            progress(done)
        for done, endpoint in enumerate(endpoints):
            outcome = self._put(endpoint)
            if endpoint.name not in known:
                report.added.append(endpoint.name)
            elif outcome == "changed" or endpoint.name in touched:
                report.changed.append(endpoint.name)
            progress(done)
        if report.added or report.changed or report.removed:
            self._reset_older()
        return report

    def list_host(self, listed: Iterable[Address]) -> None:
        """Takes over the addresses that an endpoints file lists for `host`."""
        texts = [addresses.text(a) for a in listed]
        if texts == self.header.host_listed:
            return
        self.header.host_listed = texts
        self.compact()
        if is_here(self.header.netns):
            self.sync_host()

    def sync_host(self) -> tuple[list[Address], list[Address]]:
        """Brings class `host` up to date with this machine's interfaces. Returns what came and what went."""
        self._check_namespace()
        self._local = netlink.interface_addresses()
        wanted = {addresses.read(a) for a in self.header.host_listed} | self._local
        came, went = sorted(wanted - self.host), sorted(self.host - wanted)
        if not came and not went:
            return [], []
        with self._written({"op": "host", "addresses": [addresses.text(a) for a in sorted(wanted)]}):
            for address in went:
                if address not in self.holder:
                    self._ipcache[address[0]].delete(addresses.key(address))
            for address in came:
                if address not in self.holder:
                    self._ipcache[address[0]].update(addresses.key(address), IPCACHE.pack(HOST_ENDPOINT))
            self.host = wanted
            with ExitStack() as undo:
                undo.callback(self._bump)
                for name in {self.holder[a] for a in (*came, *went) if a in self.holder}:
                    known = self.endpoints[name]
                    self._write_word(known.index, known.slot, endpoint_flags(known, self.plan, self._local), undo)
                undo.pop_all()
            self._bump()
        return came, went

    def compact(self) -> None:
        """Rewrites the state file without its history."""
        self.header.host = [addresses.text(a) for a in sorted(self.host)]
        self.header.indices = self._indices.state()
        self.header.slots = self._slot_numbers.state()
        self.store.write(self.store.current, self.header, list(self.endpoints.values()))
        self.store.reopen()

    # --- checks ---------------------------------------------------------------------------------------------------

    def _check_endpoint(self, endpoint: Endpoint) -> None:
        for address in endpoint.addresses:
            holder = self.holder.get(address)
            if holder is not None and holder != endpoint.name:
                raise OperationError(
                    f"address {addresses.text(address)} is held by endpoint {holder!r}",
                    f"an address belongs to one endpoint: `policyc endpoint remove {self.store.name} {holder}` first",
                )
        _check_reachable(endpoint, any(p.by_spec for p in self.plan.owned(endpoint.name).cgroups))

    def _plan_with(self, endpoint: Endpoint, old: Registered | None) -> Plan:
        """The attach points with `endpoint` in place; the present plan itself where nothing of it changes."""
        before = (old.interface, old.cgroup) if old is not None else (None, None)
        if before == (endpoint.interface, endpoint.cgroup) and (old is None or _still_there(old)):
            return self.plan
        plan = self.plan.copy()
        plan.remove_endpoint(endpoint.name)
        if endpoint.interface is not None:
            self._check_namespace()
        plan.add_endpoint(endpoint.name, endpoint.interface, endpoint.cgroup, DeviceTable())
        if self.header.streams and endpoint.cgroup is not None:
            refuse_shared(self.store.name, plan)
        return plan

    def _check_sizes(self, wanted: dict[str, Endpoint], takers: dict[Address, str]) -> None:
        for family, table in self._ipcache.items():
            needed = len({a for a in takers if a[0] == family} | {a for a in self.host if a[0] == family})
            if needed > table.max_entries:
                raise OperationError(
                    f"table {table.name} has room for {table.max_entries} addresses, and {needed} are wanted",
                    "load the policy again with this endpoints file: the tables are sized for it then",
                )
        if len(wanted) + FIRST_ENDPOINT > self._endpoints.max_entries:
            raise OperationError(
                f"table endpoints has room for {self._endpoints.max_entries - FIRST_ENDPOINT} endpoints",
                "load the policy again with this endpoints file: the tables are sized for it then",
            )

    def _check_all(self, endpoints: Sequence[Endpoint], takers: dict[Address, str]) -> None:
        """What can be known before anything is changed: each endpoint's addresses, labels and points, and these together."""
        kept = Plan(
            {i: p for i, p in self.plan.devices.items() if p.by_spec},
            {i: p for i, p in self.plan.cgroups.items() if p.by_spec},
        )
        spec_cgroups = {p.endpoint for p in kept.cgroups.values()}
        devices, records = DeviceTable(), set()
        for endpoint in endpoints:
            for address in endpoint.addresses:
                if takers[address] != endpoint.name:
                    raise OperationError(
                        f"address {addresses.text(address)} belongs to endpoints {endpoint.name!r} and {takers[address]!r}",
                        "an address belongs to one endpoint",
                    )
            _check_reachable(endpoint, endpoint.name in spec_cgroups)
            records.add(self.builder.record(endpoint.labels, endpoint.name))
            if endpoint.interface is not None:
                self._check_namespace()
            if endpoint.interface is not None or endpoint.cgroup is not None:
                kept.add_endpoint(endpoint.name, endpoint.interface, endpoint.cgroup, devices)
        new = [e for e in endpoints if (known := self.endpoints.get(e.name)) is None or not _same(known, e)]
        self._check_seen(new, kept)
        if self.header.streams:
            refuse_shared(self.store.name, kept)
        if len(records) + FIRST_SLOT > self._identities.max_entries:
            raise OperationError(
                f"table identities has room for {self._identities.max_entries - FIRST_SLOT} different sets of labels, and"
                f" {len(records)} are wanted",
                "load the policy again with this endpoints file: the tables are sized for it then",
            )

    def _check_points(self, wanted: dict[str, Endpoint]) -> None:
        """A device or cgroup that changes hands would be without a program, or its holder without its point, for a moment."""
        for what in ("interface", "cgroup"):
            takers = {getattr(e, what): e.name for e in wanted.values() if getattr(e, what) is not None}
            for known in self.endpoints.values():
                taker = takers.get(getattr(known, what))
                if taker not in (None, known.name):
                    raise OperationError(
                        f"{what} {getattr(known, what)} would go from endpoint {known.name!r} to {taker!r}",
                        "load the policy again with this endpoints file: it changes all of them at one moment",
                    )

    def _check_seen(self, endpoints: Iterable[Endpoint], plan: Plan) -> None:
        """Raises `OperationError` where rules with a block judge an endpoint whose streams nobody sees."""
        if self.header.streams and not (self.l7_deny or self.header.l7_deny or self.header.audit):
            self._l7_subjects.refuse(endpoints, plan)

    @cached_property
    def _l7_subjects(self) -> L7Subjects:
        return L7Subjects(self.artifact)

    def _reset_older(self) -> None:
        known = self.endpoints.values()
        reset_older(self.header, self.artifact, self.plan, known, self.host, self.pins, self.warnings)

    def _check_namespace(self) -> None:
        if not is_here(self.header.netns):
            raise elsewhere(self.store.name, self.header.netns)

    # --- execution ------------------------------------------------------------------------------------------------

    def _run(self, endpoint: Endpoint) -> bool:
        """Adds or changes; whether there was anything to do. Addresses are free (the caller's duty)."""
        old = self.endpoints.get(endpoint.name)
        plan = self._plan_with(endpoint, old)
        if old is not None and _same(old, endpoint) and plan == self.plan:
            return False
        self._check_seen([endpoint], plan)
        index = old.index if old is not None else self._indices.take()
        if index is None:
            raise OperationError(
                "table endpoints is full",
                "load the policy again: the tables are sized for the endpoints there are then",
            )
        try:
            slot = self._slots.acquire(self.builder.record(endpoint.labels, endpoint.name))
        except BaseException:
            self._give_back(old, index)
            raise
        new = registered(endpoint, index, slot, plan)
        try:
            if note_qdiscs(self.header, _missing(plan.devices, self.plan.devices)):
                self.compact()
            with self._written(new.to_json()):
                self._execute(old, new, plan)
        except BaseException:
            self._slots.release(slot)
            self._give_back(old, index)
            raise
        return True

    def _give_back(self, old: Registered | None, index: int) -> None:
        if old is None:
            self._indices.free(index)

    @contextmanager
    def _written(self, operation: dict[str, Any]) -> Iterator[None]:
        """Journals what is done inside."""
        mark = self.store.begin(operation)
        try:
            yield
        except BaseException:
            self.store.abort(mark)
            raise
        self.store.done()

    def _execute(self, old: Registered | None, new: Registered | None, plan: Plan) -> None:
        """One operation, undone where a step fails. `old` None: adds; `new` None: removes."""
        before = old.addresses if old is not None else ()
        after = new.addresses if new is not None else ()
        with ExitStack() as undo:
            undo.callback(self._bump)  # programs may remember what they looked up meanwhile
            for address in before:
                if address not in after and old is not None:
                    self._forget_address(address, undo, old.index)
            if new is not None:
                self._place(old, new, plan, undo)
            elif old is not None:
                # Its points first deny what is nobody's; then its word may go.
                self._settle_devices(self.plan, old.name, 0, undo)
                self._settle_cgroups(self.plan, old.name, 0, undo)
                self._settle_streams(self.plan, old.name, streams.NOBODY, undo)
                self._write_word(old.index, 0, 0, undo)
                self._move_points(plan, undo)
            for address in after:
                if address not in before and new is not None:
                    self._give_address(address, new.index, undo)
            undo.pop_all()
        self._remember(old, new)
        self._bump()

    def _place(self, old: Registered | None, new: Registered, plan: Plan, undo: ExitStack) -> None:
        """The endpoint's word and its points. Uplinks stop judging a bound endpoint only when it is judged at its own
        point, and begin again before that ends."""
        flags = endpoint_flags(new, plan, self._local)
        if flags & EndpointFlag.BOUND:
            self._some_are_bound()
        if old is None or not flags & EndpointFlag.BOUND:
            self._write_word(new.index, new.slot, flags, undo)
            self._move_points(plan, undo, new)
        else:
            self._move_points(plan, undo, new)
            self._write_word(new.index, new.slot, flags, undo)
        self._settle_devices(plan, new.name, new.index, undo)
        self._settle_cgroups(plan, new.name, new.index, undo)
        self._settle_streams(plan, new.name, new.index, undo)

    def _remember(self, old: Registered | None, new: Registered | None) -> None:
        if old is not None:
            for address in old.addresses:
                del self.holder[address]
            self._slots.release(old.slot)
            del self.endpoints[old.name]
            if new is None:
                self._indices.free(old.index)
        if new is not None:
            self.endpoints[new.name] = new
            self.holder.update(dict.fromkeys(new.addresses, new.name))

    def _write_identity(self, slot: int, record: bytes) -> None:
        self._identities.update(NUMBER.pack(slot), record)

    def _write_word(self, index: int, slot: int, flags: int, undo: ExitStack) -> None:
        previous = self._endpoints.lookup(NUMBER.pack(index)) or bytes(ENDPOINT.size)
        word = ENDPOINT.pack(slot, flags)
        if word == previous:
            return
        self._endpoints.update(NUMBER.pack(index), word)
        undo.callback(self._endpoints.update, NUMBER.pack(index), previous)

    def _give_address(self, address: Address, index: int, undo: ExitStack) -> None:
        table, key = self._ipcache[address[0]], addresses.key(address)
        table.update(key, IPCACHE.pack(index))
        if address in self.host:
            undo.callback(table.update, key, IPCACHE.pack(HOST_ENDPOINT))
        else:
            undo.callback(table.delete, key)

    def _forget_address(self, address: Address, undo: ExitStack, index: int) -> None:
        table, key = self._ipcache[address[0]], addresses.key(address)
        if address in self.host:
            table.update(key, IPCACHE.pack(HOST_ENDPOINT))
        else:
            table.delete(key)
        undo.callback(table.update, key, IPCACHE.pack(index))

    def _settle_devices(self, plan: Plan, name: str, value: int, undo: ExitStack) -> None:
        """Writes the endpoint index of the devices of `name`: its own, or 0 (nobody: denied there)."""
        for point in plan.owned(name).devices:
            self._write_entry(self._points, POINT_KEY.pack(point.ifindex), POINT.pack(point.kind, value), undo)

    def _settle_cgroups(self, plan: Plan, name: str, value: int, undo: ExitStack) -> None:
        for group in plan.owned(name).cgroups:
            self._write_entry(self._cgroups, CGROUP_KEY.pack(group.id), CGROUP.pack(group.kind, value), undo)

    def _settle_streams(self, plan: Plan, name: str, index: int, undo: ExitStack) -> None:
        """Writes whose sockets those of the cgroups of `name` are."""
        groups = plan.owned(name).cgroups if self.header.streams else []
        if not groups or not streams.entries_are_there(self.pins):
            return
        with streams.Streams(self.pins) as opened:
            for group in groups:
                undo.callback(streams.settle, self.pins, group, opened.subject(group))
                if index != streams.NOBODY:
                    opened.attach(group)  # should somebody have taken it away
                opened.settle(group, index)

    def _move_streams(self, plan: Plan, undo: ExitStack) -> None:
        """Takes sockets over at the cgroups of `plan`, each nobody's as yet, and leaves the others."""
        gone, new = _missing(self.plan.cgroups, plan.cgroups), _missing(plan.cgroups, self.plan.cgroups)
        if not self.header.streams or not (gone or new):
            return
        if new:
            complete(self.artifact, self.pins, self.header, StreamHook)
        with streams.Streams(self.pins) as opened:
            for group in new:
                opened.attach(group)
                undo.callback(streams.detach, self.pins, group)
            for group in gone:
                undo.callback(streams.attach, self.pins, group, opened.subject(group))
                opened.detach(group)

    def _clear_entry(self, table: Map, key: bytes, undo: ExitStack) -> None:
        previous = table.lookup(key)
        if previous is not None and table.delete(key):
            undo.callback(table.update, key, previous)

    def _write_entry(self, table: Map, key: bytes, value: bytes, undo: ExitStack) -> None:
        previous = table.lookup(key)
        if previous == value:
            return
        table.update(key, value)
        if previous is None:
            undo.callback(table.delete, key)
        else:
            undo.callback(table.update, key, previous)

    def _move_points(self, plan: Plan, undo: ExitStack, new: Registered | None = None) -> None:
        """From the present points to those of `plan`: attaches what is new, then detaches what is gone."""
        before = self.plan
        if plan == before:
            return
        if plan_hooks(plan) - plan_hooks(before):
            complete(self.artifact, self.pins, self.header, plan_hooks(plan))
        self._move_streams(plan, undo)
        old_groups, new_groups = before.attached_cgroups(), plan.attached_cgroups()
        self._write_levels(plan.cgroup_levels() | before.cgroup_levels())
        if new is not None:
            self._settle_devices(plan, new.name, new.index, undo)
        for point in _missing(plan.devices, before.devices):
            self._attacher.attach_device(point, self._entries)
            undo.callback(self._attacher.detach_device, point, self._entries)
        if new is not None:
            self._settle_cgroups(plan, new.name, new.index, undo)
        for group in _missing(new_groups, old_groups):
            self._attacher.attach_cgroup(group, self._entries)
            undo.callback(self._attacher.detach_cgroup, group)
        for point in _missing(before.devices, plan.devices):
            undo.callback(self._attacher.attach_device, point, self._entries)
            self._attacher.detach_device(point, self._entries)
            self._clear_entry(self._points, POINT_KEY.pack(point.ifindex), undo)
        for group in _missing(old_groups, new_groups):
            undo.callback(self._attacher.attach_cgroup, group, self._entries)
            self._attacher.detach_cgroup(group)
        for group in _missing(before.cgroups, plan.cgroups):
            self._clear_entry(self._cgroups, CGROUP_KEY.pack(group.id), undo)
        self.plan = plan
        undo.callback(setattr, self, "plan", before)
        self._write_levels(plan.cgroup_levels())

    def _write_levels(self, levels: int) -> None:
        fields = list(CONFIG.unpack(self._config_value))
        if fields[4] != levels:
            fields[4] = levels
            self._write_config(fields)

    def _some_are_bound(self) -> None:
        """Has uplinks ask whose a packet claims to be. For good: a load without bound endpoints begins without."""
        fields = list(CONFIG.unpack(self._config_value))
        if fields[3] & ConfigFlag.NONE_BOUND:
            fields[3] &= ~ConfigFlag.NONE_BOUND
            self._write_config(fields)

    def _bump(self) -> None:
        """Has live connections judged again."""
        fields = list(CONFIG.unpack(self._config_value))
        fields[1] = following(fields[1])
        self._write_config(fields)

    def _write_config(self, fields: list[int]) -> None:
        self._config_value = CONFIG.pack(*fields)
        self._config.update(ZERO, self._config_value)

    # --- handing addresses over -------------------------------------------------------------------------------------

    def _hand_over(self, wanted: dict[str, Endpoint], takers: dict[Address, str]) -> set[str]:
        """Moves the addresses that go from one endpoint to another: their takers are made without them, then each
        address is moved by one write. Returns the names concerned."""
        moving = {
            address: (holder, takers[address])
            for address, holder in self.holder.items()
            if takers.get(address, holder) != holder
        }
        for name in dict.fromkeys(taker for _, taker in moving.values()):
            old, endpoint = self.endpoints.get(name), wanted[name]
            leaving = tuple(a for a in old.addresses if a in moving) if old is not None else ()
            kept = tuple(a for a in endpoint.addresses if a not in moving)
            self._run(dataclasses.replace(endpoint, addresses=(*kept, *leaving)))
        for address, (giver, taker) in moving.items():
            self._move_address(address, giver, taker)
        return {name for pair in moving.values() for name in pair}

    def _move_address(self, address: Address, giver_name: str, taker_name: str) -> None:
        giver, taker = self.endpoints[giver_name], self.endpoints[taker_name]
        giving = dataclasses.replace(giver, addresses=tuple(a for a in giver.addresses if a != address))
        taking = dataclasses.replace(taker, addresses=(*taker.addresses, address))
        operation = {
            "op": "move",
            "address": addresses.text(address),
            "from": giver_name,
            "to": taker_name,
        }
        with self._written(operation), ExitStack() as undo:
            undo.callback(self._bump)
            self._write_word(taking.index, taking.slot, endpoint_flags(taking, self.plan, self._local), undo)
            self._give_address(address, taking.index, undo)
            self._write_word(giving.index, giving.slot, endpoint_flags(giving, self.plan, self._local), undo)
            undo.pop_all()
            self.endpoints[giver_name], self.endpoints[taker_name] = giving, taking
            self.holder[address] = taker_name
            self._bump()

    # --- taking up what is there ------------------------------------------------------------------------------------

    def _take_up(self, snapshot: Snapshot) -> None:
        """Brings the numbers in use to where the maps are, without touching those."""
        gone, pending = snapshot.gone, snapshot.pending
        for known in self.endpoints.values():
            self._slots.adopt(known.slot, partial(self.builder.record, known.labels, known.name))
        begun = [Registered.from_json(pending)] if pending is not None and pending["op"] == "put" else []
        in_use = [*self.endpoints.values(), *begun]
        freed = [*self.header.indices[1:], *(g.index for g in gone if g.name not in self.endpoints)]
        self._indices.restore(_numbers({r.index for r in in_use}, freed, self.header.indices, FIRST_ENDPOINT))
        freed = [*self.header.slots[1:], *(g.slot for g in gone)]
        self._slot_numbers.restore(_numbers({r.slot for r in in_use}, freed, self.header.slots, FIRST_SLOT))

    def _finish(self, line: dict[str, Any]) -> None:
        """Does again what a killed process had begun: every step may have been taken already."""
        match line["op"]:
            case "put":
                new = Registered.from_json(line)
                old = self.endpoints.get(new.name)
                record = self.builder.record(new.labels, new.name)
                new.slot = self._slots.acquire(record)
                self._execute(old, new, self._plan_with(_endpoint(new), old))
            case "remove":
                plan = self.plan.copy()
                plan.remove_endpoint(line["name"])
                self._execute(self.endpoints[line["name"]], None, plan)
            case "move":
                self._move_address(addresses.read(line["address"]), line["from"], line["to"])
            case "host":
                self.host |= {addresses.read(a) for a in line["addresses"]}
                self.sync_host()
        self.compact()


def open_registry(name: str | None) -> Registry:
    """The load of that name, without a name the only one. Raises `OperationError` where there is none, or several."""
    store = Store(sole_name(name))
    if not store.exists():
        raise unknown(store.name)
    store.lock()
    try:
        recover(store)
        if not store.current.exists():
            store.remove()
            raise unknown(store.name)
        return Registry(store)
    except BaseException:
        store.close()
        raise


def sole_name(name: str | None) -> str:
    """`name`, or the name of the only load."""
    if name is not None:
        return check_name(name)
    known = names()
    if len(known) == 1:
        return known[0]
    if not known:
        raise OperationError("nothing is loaded", "`policyc load X.o --name NAME` loads a policy")
    raise OperationError(f"several policies are loaded: {', '.join(known)}", "say which, as the first argument")


def _check_reachable(endpoint: Endpoint, has_cgroup: bool) -> None:
    if not endpoint.addresses and endpoint.cgroup is None and not has_cgroup:
        raise OperationError(
            f"endpoint {endpoint.name!r} has neither an address nor a cgroup", "give --address or --cgroup"
        )


def registered(endpoint: Endpoint, index: int, slot: int, plan: Plan) -> Registered:
    """What is remembered of an endpoint that has these numbers and whose points are in `plan`."""
    owned = plan.owned(endpoint.name)
    own = next((p for p in owned.devices if not p.by_spec), None)
    group = next((p for p in owned.cgroups if not p.by_spec), None)
    return Registered(
        endpoint.name,
        index,
        slot,
        tuple(dict.fromkeys(endpoint.addresses)),
        dict(endpoint.labels),
        endpoint.cgroup,
        endpoint.interface,
        [own.device, own.ifindex] if own else None,
        [group.path, group.id, group.level] if group else None,
    )


def endpoint_flags(known: Registered, plan: Plan, local: set[Address]) -> int:
    """`layout.EndpointFlag` bits. `local` are this machine's interface addresses."""
    flags = EndpointFlag.BOUND if plan.is_bound(known.name) else 0
    if known.addresses:
        flags |= EndpointFlag.ADDRESSES
        if not any(a in local for a in known.addresses):
            flags |= EndpointFlag.OWN_NETNS
    return int(flags)


def reset_older(
    header: Header,
    artifact: Artifact,
    plan: Plan,
    endpoints: Iterable[Registered],
    host: Iterable[Address],
    pins: Pins,
    warnings: list[str],
) -> int:
    """Resets connections whose requests are judged from now on, and whose beginning nobody saw (`resets`). How many sockets were
    closed; what an operator should know goes to `warnings`."""
    if not header.streams or header.audit or not plan.words():
        return 0
    from policyc.runtime.resets import Older

    done = Older(artifact, plan, endpoints, host, pins).reset()
    if words := done.words():
        warnings.append(words)
    return done.sockets


T = TypeVar("T")


def _missing(wanted: dict[int, T], there: dict[int, T]) -> list[T]:
    return [point for number, point in wanted.items() if number not in there]


def _numbers(used: set[int], freed: list[int], before: list[int], first: int) -> list[int]:
    """The state of `Numbers` after a history: the longest free come first."""
    top = max([first, *before[:1], *(n + 1 for n in used), *(n + 1 for n in freed)])
    order = [n for n in reversed(dict.fromkeys(reversed(freed))) if n not in used]
    forgotten = sorted(set(range(first, top)) - used - set(order))
    return [top, *order, *forgotten]


def _same(old: Registered, endpoint: Endpoint) -> bool:
    return (
        set(old.addresses) == set(endpoint.addresses)
        and old.labels == endpoint.labels
        and old.cgroup == endpoint.cgroup
        and old.interface == endpoint.interface
    )


def _still_there(known: Registered) -> bool:
    """Whether an endpoint's own device and cgroup are those it was bound to: both can be made anew under their names."""
    try:
        if known.device is not None and socket.if_nametoindex(known.device[0]) != known.device[1]:
            return False
        return known.group is None or os.stat(known.group[0]).st_ino == known.group[1]
    except OSError:
        return False


def _endpoint(known: Registered) -> Endpoint:
    return Endpoint(known.name, known.addresses, known.labels, known.cgroup, known.interface)
