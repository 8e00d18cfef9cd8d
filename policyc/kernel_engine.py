"""The kernel as an engine: the compiled programs under BPF_PROG_TEST_RUN, with their maps filled and nothing attached."""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Literal

from policyc.answers import FlowAnswer, Outcome, RequestAnswer, StepAnswer
from policyc.artifact import reader
from policyc.artifact.layout import (
    CGROUP,
    CGROUP_KEY,
    CONFIG,
    ENDPOINT,
    EVENT,
    EVENT_FIELDS,
    HOST_ENDPOINT,
    IPCACHE,
    NO_RULE,
    NOT_DIFFERENT,
    POINT,
    PROGRAM_PREFIX,
    RECENT_KEYS_VALUE,
    CgroupKind,
    ConfigFlag,
    EndpointFlag,
    Events,
    Hook,
    PointKind,
    Reason,
    State,
)
from policyc.artifact.reader import Artifact
from policyc.artifact.stream_layout import Saw
from policyc.engine import EngineFactory
from policyc.flows import BadFlow, Flow
from policyc.frames import frame
from policyc.kernel_requests import Reports
from policyc.kernel_streams import KernelStreams
from policyc.model import Direction, Endpoint, PolicySet
from policyc.reference.verdict import service_matches
from policyc.reference.world import Address, World
from policyc.runtime import requests, testrun
from policyc.runtime.identity import IdentityBuilder
from policyc.runtime.maps import Map
from policyc.runtime.object import Object
from policyc.runtime.ringbuf import RingBuffer
from policyc.stream_worker import Report, Stream, Unplayable

LOOPBACK = 1
NUMBER = struct.Struct("<I")
STATE_TABLES = ("ct4", "ct6", "frags", "denials")
TABLES = {"ct4": 1024, "ct6": 1024, "frags": 1024, "denials": 1024, "points": 64, "cgroups": 64}
EVENT_BYTES = 1 << 16


@dataclass(frozen=True)
class Ran:
    """One packet through one program: its return value and the event it left (layout.EVENT_FIELDS), if any."""

    code: int
    event: dict[str, Any] | None


class KernelLoad:
    """An artifact's programs with their maps, open in this process only. Endpoints are numbered from 2 in the order given."""

    def __init__(
        self,
        artifact: Artifact,
        endpoints: Iterable[Endpoint] = (),
        host: Iterable[Address] = (),
        replaces: KernelLoad | None = None,
    ) -> None:
        """`replaces`: connections and fragments go on in its tables, under a generation of their own."""
        self.artifact = artifact
        self.endpoints = tuple(endpoints)
        self.host = tuple(host)
        self.object = Object(artifact)
        try:
            self.object.check()
            self._size()
            if replaces is not None:
                for name in STATE_TABLES:
                    self.object.reuse(name, replaces.object.map_fd(name))
            self.object.load()
        except BaseException:
            self.object.close()
            raise
        self.programs = {h: self.object.program_fd(PROGRAM_PREFIX + h.name.lower()) for h in Hook}
        self._maps: dict[str, Map] = {}
        self._ring = RingBuffer(self.map("events").fd)
        self.numbers = {e.name: n for n, e in enumerate(self.endpoints, HOST_ENDPOINT + 1)}
        self.generation: int = replaces.generation + 1 if replaces is not None else 1
        self._contexts: dict[int, bytes] = {}
        # Numbers that stand for values of `same` keys never leave this process: any key for them will do.
        self._records = IdentityBuilder(artifact.manifest, bytes(32))
        self.fill()

    def _size(self) -> None:
        addresses = sum(len(e.addresses) for e in self.endpoints) + len(self.host) + 1
        sizes = {"ipcache4": addresses, "ipcache6": addresses, "endpoints": len(self.endpoints) + 2}
        sizes["identities"] = sizes["endpoints"]
        for name, entries in {**TABLES, **sizes, "events": EVENT_BYTES}.items():
            self.object.resize(name, entries)

    def map(self, name: str) -> Map:
        if name not in self._maps:
            self._maps[name] = Map(self.object.map_fd(name), name)
        return self._maps[name]

    def fill(self, bound: frozenset[str] = frozenset(), own_netns: frozenset[str] = frozenset()) -> None:
        """Endpoints, addresses and the configuration: ready, every packet traced. `bound` and `own_netns` name endpoints."""
        self.forget_recent()
        self.write_endpoints(bound, own_netns)
        self.configure()

    def write_endpoints(self, bound: frozenset[str], own_netns: frozenset[str]) -> None:
        """The host and `self.endpoints` with their addresses, flags and identities."""
        self._none_bound = not bound
        self.map("identities").update(NUMBER.pack(HOST_ENDPOINT), self._records.host())
        self.map("endpoints").update(NUMBER.pack(HOST_ENDPOINT), ENDPOINT.pack(HOST_ENDPOINT, 0))
        for address in self.host:
            self._own(address, HOST_ENDPOINT)
        self.relabel(self.endpoints)
        for endpoint in self.endpoints:
            number = self.numbers[endpoint.name]
            flags = EndpointFlag.BOUND * (endpoint.name in bound) | EndpointFlag.ADDRESSES * bool(endpoint.addresses)
            flags |= EndpointFlag.OWN_NETNS * (endpoint.name in own_netns)
            self.map("endpoints").update(NUMBER.pack(number), ENDPOINT.pack(number, flags))
            for address in endpoint.addresses:
                self._own(address, number)

    def _own(self, address: Address, number: int) -> None:
        family, value = address
        self.map(f"ipcache{family}").update(value.to_bytes(4 if family == "4" else 16), IPCACHE.pack(number))

    def configure(
        self, state: State = State.ACTIVE, events: Events = Events.TRACE, flags: int = 0, cgroup_levels: int = 0
    ) -> None:
        if self._none_bound:
            flags |= ConfigFlag.NONE_BOUND
        self.map("config").update(
            NUMBER.pack(0), CONFIG.pack(state, self.generation, events, flags, cgroup_levels, 0, 0)
        )

    def attach_point(self, ifindex: int, kind: PointKind, endpoint: str | None = None) -> None:
        """`endpoint` None: nobody is registered at the point, or it is an uplink."""
        number = self.numbers[endpoint] if endpoint else 0
        self.map("points").update(NUMBER.pack(ifindex), POINT.pack(kind, number))
        # Without a new generation the programs would go by what they have looked up.
        self.forget_recent()
        near = self.map("near_points")
        near.update_many([(NUMBER.pack(n), bytes(near.value_size)) for n in range(near.max_entries)])

    def bind_cgroup(self, number: int, endpoint: str, streams_only: bool = False) -> None:
        """`number` is the cgroup's id; its level must be among `configure`'s `cgroup_levels`."""
        kind = CgroupKind.STREAMS_ONLY if streams_only else CgroupKind.JUDGE
        self.map("cgroups").update(CGROUP_KEY.pack(number), CGROUP.pack(kind, self.numbers[endpoint]))

    def relabel(self, endpoints: Iterable[Endpoint]) -> None:
        """Writes the identity records of `endpoints`, whose labels may have changed."""
        for endpoint in endpoints:
            record = self._records.record(endpoint.labels, endpoint.name)
            self.map("identities").update(NUMBER.pack(self.numbers[endpoint.name]), record)

    def forget_recent(self) -> None:
        """Has the programs ask the connection tables: whoever changed those without a new generation must."""
        self.map("recent_keys").update(NUMBER.pack(0), os.urandom(RECENT_KEYS_VALUE.size))

    def forget(self) -> None:
        """Empties the tables of connections, fragments and denials."""
        self.forget_recent()
        for name in STATE_TABLES:
            table = self.map(name)
            for key in list(table.keys()):
                table.delete(key)

    def run(self, hook: Hook, data: bytes, ifindex: int = LOOPBACK) -> Ran:
        """An Ethernet frame through a program (a cgroup program sees it from the IP header on)."""
        test = testrun.run_xdp if hook is Hook.XDP_INGRESS else testrun.run_skb
        result = test(self.programs[hook], data, ifindex=ifindex)
        events = list(self._ring.consume())
        event = dict(zip(EVENT_FIELDS, EVENT.unpack(events[-1]), strict=True)) if events else None
        return Ran(result.code, event)

    def run_many(self, packets: Sequence[tuple[Hook, bytes, int]]) -> tuple[list[int | None], list[dict[str, Any]]]:
        """Like `run` one after another, each a hook, a frame and a device: all return values, None where the kernel refuses a frame,
        and all events in their order."""
        found = testrun.codes((self.programs[h], data, self._context(h, data, device)) for h, data, device in packets)
        events = [dict(zip(EVENT_FIELDS, EVENT.unpack(e), strict=True)) for e in self._ring.consume()]
        return found, events

    def _context(self, hook: Hook, data: bytes, device: int) -> bytes:
        if hook is Hook.XDP_INGRESS:
            return testrun.xdp_context(device, len(data))
        if device not in self._contexts:
            self._contexts[device] = testrun.skb_context(device)
        return self._contexts[device]

    def close(self) -> None:
        self._ring.close()
        self.object.close()

    def __enter__(self) -> KernelLoad:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, value: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class KernelEngine:
    """Judges flows at an uplink that judges every endpoint: tc egress at the source, tc ingress at the destination. Streams are played on real
    sockets, each end at a cgroup of its own."""

    def __init__(
        self,
        policy: PolicySet,
        endpoints: Iterable[Endpoint] = (),
        host: Iterable[Address] = (),
        artifact: Artifact | None = None,
    ) -> None:
        self.world = World(policy, endpoints, host)
        artifact = artifact or compile_policy(policy)
        self._load: KernelLoad = KernelLoad(artifact, self.world.endpoints.values(), self.world.host)
        self._load.attach_point(LOOPBACK, PointKind.UPLINK)
        by_ref = {rule.ref: rule for rule in policy.rules}
        self._rules = [by_ref[r.ref] for r in artifact.manifest.rules]
        self._artifact = artifact
        self._reports = Reports(artifact.manifest, policy)
        self._streams: KernelStreams | None = None

    def close(self) -> None:
        """What it has in the kernel goes; it does so, too, when the engine is forgotten."""
        for part in ("_load", "_streams"):
            opened = getattr(self, part, None)
            if opened is not None:
                opened.close()
            setattr(self, part, None)

    def __del__(self) -> None:
        self.close()

    def judge(self, flow: Flow) -> FlowAnswer:
        """Raises `BadFlow` where a stream's ends cannot be those of sockets, and `OperationError` where streams cannot be played here."""
        data = frame(flow)
        order = (Direction.EGRESS, Direction.INGRESS) if flow.direction is None else (flow.direction,)
        steps = tuple(self._step(data, direction) for direction in order)
        if not flow.http or any(s.outcome.verdict == "deny" for s in steps) or not self._may_judge(flow, order):
            return steps
        return self._judge_stream(flow, steps)

    def _may_judge(self, flow: Flow, order: Sequence[Direction]) -> bool:
        """Whether some rule's block is about this service."""
        blocks = (r for r in self._rules if r.http is not None and r.direction in order)
        return any(service_matches(service, flow.traffic) for rule in blocks for service in rule.services)

    def _judge_stream(self, flow: Flow, steps: FlowAnswer) -> FlowAnswer:
        judged = {step.direction for step in steps}
        ends = ((Direction.EGRESS, flow.src), (Direction.INGRESS, flow.dst))
        client, server = (self._subject(address) if way in judged else None for way, address in ends)
        assert flow.traffic.port is not None
        if self._streams is None:
            self._streams = KernelStreams(self._artifact, self.world.endpoints.values(), self.world.host)
        try:
            report = self._streams.play(
                Stream(flow.src, flow.dst, flow.traffic.port, (client, server), flow.http or ())
            )
        except Unplayable:
            raise BadFlow("the kernel has no sockets with these ends: its requests cannot be judged there") from None
        return tuple(self._with_requests(step, report) for step in steps)

    def _subject(self, address: Address) -> str | None:
        """As `Stream.subjects` has it."""
        subject = self.world.subject(address)
        if subject is None:
            return None
        return subject.name if isinstance(subject, Endpoint) else ""

    def _with_requests(self, step: StepAnswer, report: Report) -> StepAnswer:
        rules = () if step.outcome.rule is None else (step.outcome.rule,)
        told: list[RequestAnswer] = []
        for record in _judged(step.direction, report):
            if self._reports.is_again(record):
                told.pop()
            told.append(self._reports.request(record, rules))
        closed = any(request.outcome.verdict == "deny" for request in told)
        return replace(step, requests=tuple(told), end="closed" if closed else "open")

    def _step(self, data: bytes, direction: Direction) -> StepAnswer:
        self._load.forget()
        event = self._load.run(Hook.TC_EGRESS if direction is Direction.EGRESS else Hook.TC_INGRESS, data).event
        if event is None:
            raise RuntimeError("the program left no event")
        audit = None
        if event["audit_verdict"] != NOT_DIFFERENT:
            audit = self._outcome(event["audit_verdict"], event["audit_reason"], event["audit_rank"])
        return StepAnswer(direction, self._outcome(event["verdict"], event["reason"], event["rank"]), audit)

    def _outcome(self, allowed: int, reason: int, rank: int) -> Outcome:
        verdict: Literal["allow", "deny"] = "allow" if allowed else "deny"
        return Outcome(verdict, Reason(reason).word, None if rank == NO_RULE else self._rules[rank])


# What a server's end may find malformed in a stream that the client's end has let through: there a syntax error is not the stream's.
_BY_RULES = {Saw.UPGRADE, Saw.BODY, Saw.HEAD_LIMIT}


def _judged(direction: Direction, report: Report) -> Iterator[bytes]:
    """The records of one end. When a client's request is denied its end sends bytes that are no request, so that the server's socket closes: they are left out."""
    cut = False
    for way, record in report.records:
        f = requests.fields(record)
        saw = requests.saw(f["saw"])
        named = saw is Saw.TARGET and requests.minor(f["minor"]) is not None  # the whole head was read
        if way is direction and not (
            cut and way is Direction.INGRESS and saw not in (Saw.NOTHING, *_BY_RULES) and not named
        ):
            yield record
        cut = cut or (way is Direction.EGRESS and not f["verdict"])


def compile_policy(policy: PolicySet) -> Artifact:
    """The artifact of a checked policy whose sources are not at hand."""
    from policyc.codegen.emit import compile_object
    from policyc.ir.pipeline import build

    return reader.read(compile_object(build(policy), policy, {}, ".").object)


def engine_factory(artifact: Artifact | None = None) -> EngineFactory:
    """Engines for one policy: `artifact` is compiled once and loaded afresh for each set of endpoints."""
    compiled: dict[int, tuple[PolicySet, Artifact]] = {}

    def make(policy: PolicySet, endpoints: tuple[Endpoint, ...], host: tuple[Address, ...]) -> KernelEngine:
        if artifact is not None:
            return KernelEngine(policy, endpoints, host, artifact)
        if id(policy) not in compiled:
            compiled[id(policy)] = (policy, compile_policy(policy))
        return KernelEngine(policy, endpoints, host, compiled[id(policy)][1])

    return make
