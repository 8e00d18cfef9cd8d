"""A case played twice: the same packets through the compiled programs and through the reference machine, none may differ."""

from __future__ import annotations

import struct
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

from event_book import Due, EventBook, FlowId
from random_packets import Sent
from random_world import NAMES, Who
from scenario import Age, Audit, Case, Replace, Step, checked
from structures import compiled

from policyc.artifact.layout import (
    ENDPOINT,
    HOST_ENDPOINT,
    NO_RULE,
    NOT_DIFFERENT,
    ConfigFlag,
    Events,
    Hook,
    PointKind,
    Reason,
)
from policyc.artifact.reader import Artifact
from policyc.codegen.records import CT_SEEN, FRAG_SEEN
from policyc.kernel_engine import NUMBER, KernelLoad
from policyc.model import Direction, Endpoint
from policyc.reference import machine as model
from policyc.reference.connections import TICK
from policyc.reference.packet import Malformed, Packet, Parsed, parse
from policyc.reference.verdict import Judgement
from policyc.reference.world import Address, World

PASS = {
    Hook.TC_INGRESS: 0xFFFFFFFF,
    Hook.TC_EGRESS: 0xFFFFFFFF,
    Hook.CGROUP_INGRESS: 1,
    Hook.CGROUP_EGRESS: 1,
    Hook.XDP_INGRESS: 2,
}
ROOM = {"ct4": 4096, "ct6": 4096, "frags": 4096, "denials": 4096, "ipcache4": 256, "ipcache6": 256, "events": 1 << 18}
BATCH = 64
ATTEMPTS = 3
MARGIN_NS = 15_000_000
LAST_REASON = max(Reason)
NOBODY = ("not-ready", "unregistered")  # told before the packet is looked at


@dataclass(frozen=True)
class Place:
    """Where packets are sent through: devices by name → index, and the caller's cgroups, nearest first, with their levels."""

    devices: dict[str, int]
    cgroups: Sequence[tuple[int, int]]  # id, level


# --- compiling --------------------------------------------------------------------------------------------------


Compiler = Callable[[str, str], Artifact]


@lru_cache(8)
def compile_text(text: str, structure: str) -> Artifact:
    """A policy's text with its rows stored as `structure` says (structures.STRUCTURES)."""
    return compiled(checked(text), structure)


class Load(KernelLoad):
    """Endpoints are numbered by random_world.NAMES, whoever is there."""

    def __init__(self, artifact: Artifact, replaces: KernelLoad | None) -> None:
        super().__init__(artifact, [Endpoint(name) for name in (*NAMES, "e8")], (), replaces)
        self.refs = [rule.ref for rule in artifact.manifest.rules]

    def _size(self) -> None:
        super()._size()
        for name, entries in ROOM.items():
            self.object.resize(name, entries)

    def take(self, who: Who, devices: dict[str, int], cgroups: Sequence[tuple[int, int]]) -> None:
        """These endpoints and points and no others; config is left alone."""
        for name in ("ipcache4", "ipcache6", "points", "cgroups"):
            table = self.map(name)
            for key in list(table.keys()):
                table.delete(key)
        there = set(who.names)
        for name, number in self.numbers.items():
            if name not in there:
                self.map("endpoints").update(NUMBER.pack(number), ENDPOINT.pack(0, 0))
        self.endpoints, self.host = who.endpoints, who.host
        flagged = who.inner or who.outer
        self.write_endpoints(frozenset(bound(who)), frozenset([flagged] if who.own_netns and flagged else []))
        self.attach_point(devices["uplink"], PointKind.UPLINK)
        self.attach_point(devices["empty"], PointKind.WORKLOAD)
        self.attach_point(devices["workload"], PointKind.WORKLOAD, who.workload if who.workload in there else None)
        for (number, _), name in zip(cgroups, (who.inner, who.outer), strict=True):
            if name is not None:
                self.bind_cgroup(number, name, who.streams_only and name == who.inner)


def bound(who: Who) -> set[str]:
    return {n for n in (who.workload, who.inner, who.outer, *who.elsewhere) if n is not None}


class Loads:
    """The loads of a ground's policies, for one case after another."""

    def __init__(self, policies: Sequence[str], structure: str, compiler: Compiler = compile_text) -> None:
        self.loads: list[Load] = []
        try:
            for text in policies:
                self.loads.append(Load(compiler(text, structure), self.loads[0] if self.loads else None))
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        for load in self.loads[::-1]:
            load.close()

    def __enter__(self) -> Loads:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def age(kernel: KernelLoad, machine: model.Machine, units: int) -> None:
    """All that the two remember was last seen so many units of idle time earlier."""
    kernel.forget_recent()
    for name, offset in (("ct4", CT_SEEN), ("ct6", CT_SEEN), ("frags", FRAG_SEEN)):
        table = kernel.map(name)
        for key in list(table.keys()):
            value = bytearray(table.lookup(key) or b"")
            seen = struct.unpack_from("<I", value, offset)[0]
            struct.pack_into("<I", value, offset, (seen - units) & 0xFFFFFFFF)
            table.update(key, bytes(value))
    for connection in machine.connections.values():
        connection.last_seen -= units
    machine.fragments = {k: replace(f, seen=f.seen - units) for k, f in machine.fragments.items()}


# --- playing ----------------------------------------------------------------------------------------------------

Outcome = tuple[str, str, str | None]  # verdict, reason, ref
Answer = tuple[str, str, str | None, Outcome | None]  # and the prospective one, where it differs


def _ref(judgement: Judgement) -> str | None:
    return judgement.rule.ref if judgement.rule else None


def expected(judgement: Judgement) -> Answer:
    prospective = judgement.prospective
    audit = (prospective.verdict, prospective.reason, _ref(prospective)) if prospective else None
    return judgement.verdict, judgement.reason, _ref(judgement), audit


class Unsure(Exception):
    """The process slept across a unit of idle time: who saw which is not known any more."""


@dataclass
class Played:
    """What came of a case: how it differed, how many packets were sent, and what they were answered."""

    differences: list[str]
    packets: int
    answers: Counter[tuple[str, str]]


def play(case: Case, place: Place, loads: Loads, batch: int = BATCH) -> Played:
    """Ends at the first batch with a difference. `loads` are those of the case's policies."""
    for _ in range(ATTEMPTS):
        player = _Player(case, place, loads, batch)
        try:
            player.run()
            break
        except Unsure:  # on a busy machine: once more, and at last what there is
            continue
    return Played(player.differences, player.packets, player.answers)


class _Player:
    def __init__(self, case: Case, place: Place, loads: Loads, batch: int) -> None:
        self.case, self.place, self.loads, self.batch = case, place, loads.loads, batch
        self.who, self.audit, self.policy = case.who, case.audit, 0
        self.generation = max(load.generation for load in self.loads) + 1
        self.levels = sum(1 << level for _, level in place.cgroups)
        self.ids = [number for number, _ in place.cgroups]
        self.book = EventBook(case.events)
        self.differences: list[str] = []
        self.packets, self.answers = 0, Counter[tuple[str, str]]()
        self.kernel.forget()
        self.machine = model.Machine(self._world(), audit=case.audit)
        self._write()
        self._begin_counting()

    @property
    def kernel(self) -> Load:
        return self.loads[self.policy]

    def run(self) -> None:
        waiting: list[tuple[int, Sent]] = []
        for number, step in enumerate(self.case.steps):
            if isinstance(step, Sent):
                waiting.append((number, step))
                if len(waiting) < self.batch and not self._may_be_mistaken(step):
                    continue
            self._send(waiting)
            waiting = []
            if not isinstance(step, Sent):
                self._change(step)
            if self.differences:
                return
        self._send(waiting)
        if not self.differences:
            self._compare_counts()

    def _may_be_mistaken(self, sent: Sent) -> bool:
        """Whether it may leave an event that a packet behind it could have left: none follows it in a batch."""
        return self.case.events is not Events.TRACE and isinstance(parse(sent.frame), Malformed)

    # --- changes ----------------------------------------------------------------------------------------------

    def _world(self) -> World:
        return World(checked(self.case.policies[self.policy]), self.who.endpoints, self.who.host)

    def _change(self, step: Step) -> None:
        match step:
            case Age():
                self._age(step.units)
                return
            case Who():
                self.who = step
            case Audit():
                self.audit = step.on
            case Replace():
                self._compare_counts()
                self.policy = step.policy
                self._begin_counting()
        self.generation += 1
        self._write()
        self.machine.audit = self.audit
        self.machine.update(self._world())

    def _write(self) -> None:
        """What is the case now into the maps, and into the machine's attach points."""
        self.kernel.generation = self.generation
        self.kernel.take(self.who, self.place.devices, self.place.cgroups)
        flags = int(ConfigFlag.AUDIT) if self.audit else 0
        self.kernel.configure(events=self.case.events, flags=flags, cgroup_levels=self.levels)
        who, devices = self.who, self.place.devices
        self.machine.points = {
            devices["uplink"]: model.Uplink(),
            devices["empty"]: model.Workload(None),
            devices["workload"]: model.Workload(who.workload),
            **{1000 + i: model.Workload(name) for i, name in enumerate(who.elsewhere)},
        }
        inner, outer = self.ids
        self.machine.cgroups = {}
        if who.inner is not None:
            self.machine.cgroups[inner] = model.Cgroup(who.inner, who.streams_only, who.own_netns)
        if who.outer is not None:
            self.machine.cgroups[outer] = model.Cgroup(who.outer, False, who.own_netns)

    def _age(self, units: int) -> None:
        age(self.kernel, self.machine, units)

    # --- packets ----------------------------------------------------------------------------------------------

    def _send(self, waiting: Sequence[tuple[int, Sent]]) -> None:
        if not waiting:
            return
        begun = _well_inside_a_tick()
        codes, events = self.kernel.run_many([(s.hook, s.frame, self.place.devices[s.device]) for _, s in waiting])
        ended = time.monotonic_ns()
        if ended // TICK != begun // TICK:
            raise Unsure
        taken = [(n, s, code) for (n, s), code in zip(waiting, codes, strict=True) if code is not None]
        self.packets += len(taken)
        left = iter(events)
        event = next(left, None)
        for number, sent, code in taken:
            judgement = self._judged(sent, begun)
            want = expected(judgement)
            self.answers[want[:2]] += 1
            self._count(sent, judgement)
            what: list[str] = []
            if (code == PASS[sent.hook]) != (judgement.verdict == "allow"):
                what.append(f"returned {code}, expected {want}")
            flow = self._flow(sent)
            due = self.book.due(judgement, self.machine.noted, flow, begun, ended)
            if due is not Due.NO:
                odd = ["no event"] if event is None else self._odd(event, sent, want)
                if event is not None and not odd:
                    self.book.told(judgement, self.machine.noted, flow, event["time_ns"])
                    event = next(left, None)
                elif due is Due.YES:
                    what += odd
            if what:  # the events that follow belong to others
                self._differs(number, sent, "; ".join(what))
                return
        if event is not None:
            self.differences.append(f"after step {waiting[-1][0]}: an event that no packet is due: {event}")

    def _judged(self, sent: Sent, now: int) -> Judgement:
        which, ifindex = model.Hook[sent.hook.name], self.place.devices[sent.device]
        if not which.is_cgroup:
            return self.machine.packet(which, sent.frame, now, ifindex=ifindex)
        kind = int.from_bytes(sent.frame[12:14])
        return self.machine.packet(which, sent.frame[14:], now, ifindex=ifindex, cgroups=self.ids, ethertype=kind)

    def _direction(self, sent: Sent) -> Direction:
        """As the subject sees it: at the host's end of a link what arrives is what the workload sends."""
        which = model.Hook[sent.hook.name]
        point = self.machine.points.get(self.place.devices[sent.device])
        if which.is_cgroup or not isinstance(point, model.Workload):
            return which.direction
        return Direction.EGRESS if which.direction is Direction.INGRESS else Direction.INGRESS

    def _differs(self, number: int, sent: Sent, what: str) -> None:
        self.differences.append(
            f"step {number}, {sent.hook.name.lower()} {sent.device} {sent.frame.hex()}: {what}"
            f" (policy {self.policy}, {self.case.structure}, events {self.case.events.name})"
        )

    # --- events -----------------------------------------------------------------------------------------------

    def _flow(self, sent: Sent) -> FlowId:
        direction, packet = self._direction(sent), self.machine.noted.packet
        if packet is None:
            return FlowId(direction, None)
        if not isinstance(packet, Packet | Malformed) or packet.head is None:
            return FlowId(direction, sent.frame, certain=False)
        head = packet.head
        ends = direction, self.machine.noted.subject, head.source, head.destination
        if isinstance(packet, Malformed):
            return FlowId(ends, sent.frame, certain=False)
        return FlowId(ends, (head.protocol, packet.source_port, packet.destination_port))

    def _odd(self, event: dict[str, Any], sent: Sent, want: Answer) -> list[str]:
        """What is wrong with an event."""
        audit = None
        if event["audit_verdict"] != NOT_DIFFERENT:
            audit = self._outcome(event["audit_verdict"], event["audit_reason"], event["audit_rank"])
        got = (*self._outcome(event["verdict"], event["reason"], event["rank"]), audit)
        odd = [] if got == want else [f"kernel {got}, expected {want}"]
        fields = {
            "hook": int(sent.hook),
            "direction": int(self._direction(sent)),
            "ifindex": self.place.devices[sent.device],
        }
        if want[1] not in (*NOBODY, "none"):
            subject = self.machine.noted.subject
            fields["subject"] = (
                0 if subject is None else HOST_ENDPOINT if subject[1] else self.kernel.numbers[subject[0]]
            )
        odd += [f"{name} {event[name]}, expected {value}" for name, value in fields.items() if event[name] != value]
        sizes = lengths(sent, self.machine.noted.packet, want[1])
        odd += [f"length {event['length']}, expected {sizes}"] * bool(sizes and event["length"] not in sizes)
        return odd + self._odd_ends(event, sent, want)

    def _odd_ends(self, event: dict[str, Any], sent: Sent, want: Answer) -> list[str]:
        if want[1] in (*NOBODY, "none") or (want[3] is not None and want[3][1] in NOBODY):
            return []
        packet = self.machine.noted.packet
        if not isinstance(packet, Packet | Malformed) or packet.head is None:
            return []
        head = packet.head
        if isinstance(packet, Malformed):
            same = [event["source"], event["destination"]] == [_padded(head.source), _padded(head.destination)]
            known = event["protocol"] in (0, head.protocol)  # 0: not all its extension headers were there
            return ["other addresses"] * (not same) + ["another protocol"] * (not known)
        ports = packet.source_port.to_bytes(2), packet.destination_port.to_bytes(2)
        if packet.icmp is not None:
            ports = bytes(packet.icmp), b"\0\0"
        fields = {
            "source": _padded(head.source),
            "destination": _padded(head.destination),
            "family": head.version,
            "protocol": head.protocol,
            "source_port": ports[0],
            "destination_port": ports[1],
        }
        if head.protocol in (1, 58) and packet.icmp is None:
            del fields["source_port"], fields["destination_port"]
        return [f"{name} {event[name]}, expected {value!r}" for name, value in fields.items() if event[name] != value]

    def _outcome(self, verdict: int, reason: int, rank: int) -> Outcome:
        return "allow" if verdict else "deny", Reason(reason).word, None if rank == NO_RULE else self.kernel.refs[rank]

    # --- counters ---------------------------------------------------------------------------------------------

    def _begin_counting(self) -> None:
        self.before = self._counters()
        self.counted = Counter[tuple[str, str]]()
        self.unsized: set[tuple[str, str]] = set()

    def _count(self, sent: Sent, judgement: Judgement) -> None:
        sizes = lengths(sent, self.machine.noted.packet, judgement.reason)
        reason = f"{self._direction(sent).word} {judgement.verdict} {judgement.reason}"
        for name in (reason, _ref(judgement)):
            if name is not None:
                self.counted[name, "packets"] += 1
                self.counted[name, "bytes"] += sizes[0] if sizes else 0
                if len(sizes) != 1:
                    self.unsized.add((name, "bytes"))
        if judgement.rule is not None and self.machine.noted.opened:
            self.counted[judgement.rule.ref, "connections"] += 1

    def _counters(self) -> Counter[tuple[str, str]]:
        found = Counter[tuple[str, str]]()
        rules, reasons = self.kernel.map("counters"), self.kernel.map("reasons")
        for ref, value in zip(self.kernel.refs, rules.read_array(), strict=False):
            for name, number in zip(("packets", "bytes", "connections"), rules.sum_cpus(value), strict=True):
                found[ref, name] = number
        for index, value in enumerate(reasons.read_array()):
            verdict = "allow" if index >> 5 & 1 else "deny"
            if index & 31 <= LAST_REASON:
                reason = f"{Direction(index >> 6).word} {verdict} {Reason(index & 31).word}"
                packets, size = reasons.sum_cpus(value)
                found[reason, "packets"], found[reason, "bytes"] = packets, size
        return found

    def _compare_counts(self) -> None:
        now = self._counters()
        got = Counter({k: n - self.before[k] for k, n in now.items() if n != self.before[k]})
        names = sorted(
            k for k in got.keys() | self.counted.keys() if got[k] != self.counted[k] and k not in self.unsized
        )
        if names:
            self.differences.append(
                "counters: " + ", ".join(f"{k[0]} {k[1]} {got[k]}, expected {self.counted[k]}" for k in names[:8])
            )


def lengths(sent: Sent, packet: Parsed | None, reason: str) -> tuple[int, ...]:
    """What may count for a packet: its IP length, or, if its IP headers were not read, what the program was given (a cgroup sees no link
    header). Empty where nothing is said about it."""
    given = len(sent.frame) - 14 * (sent.hook in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS))
    if not isinstance(packet, Packet | Malformed):
        return (given,) if packet is None else ()
    if reason == "none":
        return ()
    if packet.head is None:
        return given, len(sent.frame) - 14
    version = packet.head.version
    start = sent.frame.index(b"\x08\x00" if version == 4 else b"\x86\xdd", 12) + 2
    at, beyond = (2, 0) if version == 4 else (4, 40)
    stated = int.from_bytes(sent.frame[start + at : start + at + 2]) + beyond
    return (stated,) if isinstance(packet, Packet) else (stated, given)


def _padded(address: Address) -> bytes:
    return address[1].to_bytes(4 if address[0] == "4" else 16).ljust(16, b"\0")


def _well_inside_a_tick() -> int:
    """The time (ns), not near a change of the unit of idle times: kernel and machine must read the same."""
    while True:
        now = time.monotonic_ns()
        if MARGIN_NS < now % TICK < TICK - 2 * MARGIN_NS:
            return now
        time.sleep(MARGIN_NS / 4e9)


def total(played: Iterable[Played]) -> tuple[list[str], int, Counter[tuple[str, str]]]:
    """Differences, packets and answers of several cases."""
    differences, packets, answers = list[str](), 0, Counter[tuple[str, str]]()
    for one in played:
        differences += one.differences
        packets += one.packets
        answers += one.answers
    return differences, packets, answers
