"""Reading a load without changing it, beside whoever changes it: state, attachments, counters, events."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from policyc.artifact.layout import (
    ENTRY_PREFIX,
    EVENT,
    EVENT_FIELDS,
    HOST_ENDPOINT,
    NO_RULE,
    NOT_DIFFERENT,
    PROGRAM_PREFIX,
    REASON_ENTRIES,
    PeerClassCode,
    Reason,
    State,
)
from policyc.artifact.manifest import ManifestEntry, ManifestRule
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import STREAM_EVENT_HOOK, Saw, StreamHook
from policyc.diagnostics import OperationError
from policyc.model import Direction
from policyc.runtime import addresses, requests, streams
from policyc.runtime.attach import Attacher
from policyc.runtime.identity import Matcher
from policyc.runtime.namespaces import inhabitant, is_here
from policyc.runtime.pins import Pins, active, close_all
from policyc.runtime.points import CgroupPoint, Plan, plan_of
from policyc.runtime.programs import is_jited
from policyc.runtime.registry import sole_name
from policyc.runtime.requests import Decision, Request
from policyc.runtime.ringbuf import RingBuffer
from policyc.runtime.sides import Side
from policyc.runtime.state import Header, Registered, Store, names

PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmpv6", 132: "sctp"}
CLASS_WORDS: dict[int, str] = {
    PeerClassCode.WORLD: "world",
    PeerClassCode.HOST: "host",
    PeerClassCode.ENDPOINT: "endpoint",
}
SUBJECT_CLASS: dict[int, int] = {0: PeerClassCode.NONE, HOST_ENDPOINT: PeerClassCode.HOST}  # by endpoint index


@dataclass(frozen=True)
class View:
    """A load as it was at one moment."""

    header: Header
    endpoints: dict[str, Registered]
    plan: Plan
    artifact: Artifact

    @property
    def pins(self) -> Pins:
        return Pins(self.header.name)


def view(name: str | None) -> View:
    """The load of that name, without a name the only one. Raises `OperationError`."""
    store = Store(sole_name(name))
    while True:
        snapshot = store.read()
        try:
            artifact = store.read_artifact(snapshot.header.number)
        except OperationError:
            if store.read().header.number == snapshot.header.number:
                raise
            continue  # it was replaced just now
        return View(snapshot.header, snapshot.endpoints, plan_of(snapshot), artifact)


def identity_names(view: View) -> Callable[[Registered], list[str]]:
    """A function from an endpoint to the names of the policy's identities that select it, in source order."""
    named = [(n, s) for n, s in view.artifact.policy.identities.items() if s is not None]
    matcher = Matcher(selector for _, selector in named)
    return lambda known: [named[i][0] for i in matcher.match(known.labels)]


@dataclass(frozen=True)
class Attachment:
    """`present` is None where it cannot be told from this network namespace. `ahead` names what sees packets before our
    programs and can let them pass by."""

    point: str
    present: bool | None
    ahead: tuple[str, ...] = ()

    @property
    def judges(self) -> bool:
        """Whether nothing is known to be amiss."""
        return self.present is not False and not self.ahead


def attachments(view: View) -> list[Attachment]:
    """Every attach point and whether its programs are there. Cgroups below an attached one are served by that one."""
    entries = view.pins.entries()
    attacher = Attacher(view.pins.links, [])
    found: list[Attachment] = []
    try:
        if is_here(view.header.netns):
            friends = {number for name in names() for number in Pins(name).numbers()}
            for point in view.plan.devices.values():
                present = attacher.device_attached(point, entries)
                ahead = attacher.ahead(point, entries, friends) if present else []
                found.append(Attachment(str(point), present, tuple(ahead)))
        else:
            gone = inhabitant(view.header.netns) is None
            found += [Attachment(str(point), False if gone else None) for point in view.plan.devices.values()]
    finally:
        close_all(entries)
    tops = view.plan.attached_cgroups()
    for number, group in view.plan.cgroups.items():
        present = attacher.cgroup_attached(group) if number in tops else True
        found.append(Attachment(str(group), present))
    if view.header.streams:
        found += [
            Attachment(f"streams:{p.path}={p.endpoint}", _takes_over(view, p)) for p in view.plan.cgroups.values()
        ]
    return found


def _takes_over(view: View, point: CgroupPoint) -> bool:
    """Whether the sockets of a cgroup are taken over, for its endpoint."""
    if not streams.entries_are_there(view.pins) or not streams.sockets_are_judged(view.pins):
        return False
    with streams.Streams(view.pins) as opened:
        return opened.attached(point) and opened.subject(point) != streams.NOBODY


def judged_streams(view: View) -> int:
    """How many connections were taken over and live, counted once an end."""
    return len(streams.marked(view.pins))


def enforcing(view: View) -> bool:
    """Whether the switch lets this load's programs judge."""
    missing = view.pins.missing(view.header.number, view.header.streams and bool(view.plan.cgroups))
    return not missing and view.pins.switch() == active(view.header.slot)


def state_word(view: View) -> str:
    """`enforcing`, `auditing`, `dormant` or `not ready`."""
    if enforcing(view):
        return "auditing" if view.header.audit else "enforcing"
    return "dormant" if view.pins.switch() == State.DORMANT else "not ready"


def jited(view: View) -> dict[str, bool]:
    """The load's programs and entry programs by name: whether the kernel made machine code of each."""
    found: dict[str, bool] = {}
    for prefix, programs in (
        (PROGRAM_PREFIX, view.pins.programs(view.header.number)),
        (ENTRY_PREFIX, view.pins.entries()),
    ):
        try:
            found |= {prefix + hook.name.lower(): is_jited(fd) for hook, fd in programs.items()}
        finally:
            close_all(programs)
    return found | {name: is_jited(fd) for name, fd in streams.programs(view.pins, view.header.number)}


@dataclass(frozen=True)
class RuleCount:
    rule: ManifestRule
    packets: int
    bytes: int
    connections: int


@dataclass(frozen=True)
class EntryCount:
    """`ref` is `RULE.N`."""

    ref: str
    entry: ManifestEntry
    requests: int


@dataclass(frozen=True)
class ReasonCount:
    direction: Direction
    allowed: bool
    reason: Reason
    packets: int
    bytes: int


def rule_counts(view: View) -> list[RuleCount]:
    """Every rule by rank, since this load was made."""
    return [RuleCount(rule, *count) for rule, count in zip(view.artifact.manifest.rules, _counters(view), strict=False)]


def entry_counts(view: View) -> list[EntryCount]:
    """Every L7 entry in source order, since this load was made."""
    manifest = view.artifact.manifest
    counts = _counters(view)[len(manifest.rules) :]
    return [EntryCount(manifest.entry_ref(e), e, count[0]) for e, count in zip(manifest.entries, counts, strict=False)]


def _counters(view: View) -> list[tuple[int, int, int]]:
    """Packets, bytes and connections of each rule by rank, then of each entry."""
    table = view.pins.optional_map("counters", view.header.number)
    if table is None:
        return [(0, 0, 0)] * view.artifact.manifest.counters
    values = [table.sum_cpus(v) for v in table.read_array()]
    table.close()
    return [(packets, size, connections) for packets, size, connections in values]


def reason_counts(view: View) -> list[ReasonCount]:
    """The reasons that occurred; indices: `layout.reason_index`."""
    table = view.pins.optional_map("reasons", view.header.number)
    if table is None:
        return []
    values = [table.sum_cpus(v) for v in table.read_array()[:REASON_ENTRIES]]
    table.close()
    known = {int(r) for r in Reason}
    return [
        ReasonCount(Direction(i >> 6), bool(i >> 5 & 1), Reason(i & 31), packets, size)
        for i, (packets, size) in enumerate(values)
        if packets and i & 31 in known
    ]


def lost_events(view: View) -> int:
    """Events that found the ring buffer full, since the first load under this name."""
    table = view.pins.optional_map("lost")
    if table is None:
        return 0
    total = table.sum_cpus(table.read_array()[0])[0]
    table.close()
    return total


# --- events -----------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Event:
    """Of one packet, or `count` of them."""

    time_ns: int
    direction: Direction
    allowed: bool
    reason: Reason
    saw: Saw  # why its stream is not seen
    rule: ManifestRule | None
    audit_allowed: bool | None
    audit_reason: Reason | None
    audit_rule: ManifestRule | None
    count: int
    source: Side
    destination: Side
    protocol: str
    source_port: int | None
    destination_port: int | None
    icmp: tuple[int, int] | None
    ifindex: int
    length: int

    @property
    def service(self) -> str:
        """As the language writes it: `tcp/80`, `icmp/8/0`, `proto 89`."""
        if self.icmp is not None:
            return f"{self.protocol}/{self.icmp[0]}/{self.icmp[1]}"
        return self.protocol if self.destination_port is None else f"{self.protocol}/{self.destination_port}"


class EventReader:
    """Follows the events of a load over its replacements."""

    def __init__(self, name: str | None) -> None:
        self._view = view(name)
        self._store = Store(self._view.header.name)
        self._mark = self._state_mark()
        self._by_index = {e.index: e for e in self._view.endpoints.values()}
        events = self._view.pins.optional_map("events")
        self._events = events
        self._ring = RingBuffer(events.fd) if events is not None else None
        self._lost = lost_events(self._view)

    def poll(self, timeout_ms: int) -> Iterator[Event | Request]:
        """What came of packets and requests, oldest first; records that are neither are left out."""
        records = self._ring.poll(timeout_ms) if self._ring is not None else iter(())
        self._refresh()
        return (event for record in records if (event := self._read(record)) is not None)

    def lost(self) -> int:
        """Events lost since the last call."""
        total = lost_events(self._view)
        since, self._lost = total - self._lost, total
        return max(since, 0)

    def ended(self) -> bool:
        """Whether the load is gone."""
        return not self._store.current.exists()

    def close(self) -> None:
        if self._ring is not None:
            self._ring.close()
        if self._events is not None:
            self._events.close()

    def _state_mark(self) -> tuple[int, int]:
        try:
            status = self._store.current.stat()
        except FileNotFoundError:
            return (0, 0)
        return status.st_ino, status.st_size

    def _refresh(self) -> None:
        """Endpoints come and go, and the policy is replaced, while we follow."""
        mark = self._state_mark()
        if mark in (self._mark, (0, 0)):
            return
        try:
            self._view = view(self._view.header.name)
        except OperationError:
            if self.ended():
                return
            raise
        self._mark = mark
        self._by_index = {e.index: e for e in self._view.endpoints.values()}

    def _read(self, record: bytes) -> Event | Request | None:
        if requests.is_packet(record):
            return self._event(record)
        return self._request(record) if requests.is_request(record) else None

    def _request(self, record: bytes) -> Request:
        f = requests.fields(record)
        direction = Direction(f["direction"] & 1)
        source, destination = self._ends(f, direction)
        method, host, path = requests.texts(f)
        return Request(
            time_ns=f["time_ns"],
            direction=direction,
            hook=StreamHook(f["hook"] - STREAM_EVENT_HOOK),
            decision=self._decision(f["verdict"], f["reason"], f["rank"], f["entry"]),
            audit=self._decision(f["audit_verdict"], f["audit_reason"], f["audit_rank"], f["audit_entry"])
            if f["audit_verdict"] != NOT_DIFFERENT
            else None,
            source=source,
            destination=destination,
            source_port=int.from_bytes(f["source_port"], "big"),
            destination_port=int.from_bytes(f["destination_port"], "big"),
            method=method,
            host=host,
            path=path,
            minor=requests.minor(f["minor"]),
            answer=requests.answer(f["answer"]),
            saw=requests.saw(f["saw"]),
        )

    def _decision(self, verdict: int, reason: int, rank: int, index: int) -> Decision:
        manifest = self._view.artifact.manifest
        entry = requests.entry_of(manifest.entries, index)
        rule = manifest.rules[entry.rank] if entry is not None else self._rule(rank)
        ref = manifest.entry_ref(entry) if entry is not None else None
        return Decision(bool(verdict), _reason(reason), rule, entry, ref)

    def _ends(self, f: dict[str, Any], direction: Direction) -> tuple[Side, Side]:
        """Source and destination."""
        subject = self._side(f["subject"], SUBJECT_CLASS.get(f["subject"], PeerClassCode.ENDPOINT))
        peer = self._side(f["peer"], f["peer_class"])
        ends = (peer, subject) if direction is Direction.INGRESS else (subject, peer)
        source, destination = (addresses.from_packet(f["family"], f[end]) for end in ("source", "destination"))
        return Side(source, *ends[0]), Side(destination, *ends[1])

    def _event(self, record: bytes) -> Event:
        f = dict(zip(EVENT_FIELDS, EVENT.unpack(record), strict=True))
        direction = Direction(f["direction"] & 1)
        source, destination = self._ends(f, direction)
        icmp = f["protocol"] in (1, 58)
        ports = f["protocol"] in (6, 17, 132)
        differs = f["audit_verdict"] != NOT_DIFFERENT
        return Event(
            time_ns=f["time_ns"],
            direction=direction,
            allowed=bool(f["verdict"]),
            reason=_reason(f["reason"]),
            saw=requests.saw(f["seen"]),
            rule=self._rule(f["rank"]),
            audit_allowed=bool(f["audit_verdict"]) if differs else None,
            audit_reason=_reason(f["audit_reason"]) if differs else None,
            audit_rule=self._rule(f["audit_rank"]) if differs else None,
            count=f["count"],
            source=source,
            destination=destination,
            protocol=PROTOCOLS.get(f["protocol"], f"proto {f['protocol']}"),
            source_port=int.from_bytes(f["source_port"], "big") if ports else None,
            destination_port=int.from_bytes(f["destination_port"], "big") if ports else None,
            icmp=(f["source_port"][0], f["source_port"][1]) if icmp else None,
            ifindex=f["ifindex"],
            length=f["length"],
        )

    def _side(self, index: int, code: int) -> tuple[str, str | None, dict[str, str]]:
        """Class, endpoint's name and labels."""
        known = self._by_index.get(index)
        if known is not None:
            return "endpoint", known.name, known.labels
        return CLASS_WORDS.get(code, "unknown"), None, {}

    def _rule(self, rank: int) -> ManifestRule | None:
        rules = self._view.artifact.manifest.rules
        return rules[rank] if rank != NO_RULE and rank < len(rules) else None


def _reason(number: int) -> Reason:
    return Reason(number) if number in {int(r) for r in Reason} else Reason.NONE
