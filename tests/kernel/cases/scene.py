"""A policy with endpoints in the kernel and in the reference machine: each packet goes through both, and both must say what a case expects."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, NamedTuple

from packets_differential import PASS, Place, age

from policyc.artifact.layout import (
    NO_RULE,
    ConfigFlag,
    Events,
    Hook,
    PointKind,
    Reason,
    State,
)
from policyc.artifact.reader import Artifact
from policyc.flows import parse_address
from policyc.frontend import load
from policyc.kernel_engine import NOT_DIFFERENT, KernelLoad, compile_policy
from policyc.model import Direction, Endpoint, PolicySet
from policyc.reference import machine as model
from policyc.reference.verdict import Judgement
from policyc.reference.world import Address, World


class At(NamedTuple):
    """An attach point, with the direction as its subject sees it."""

    hook: Hook
    device: str
    direction: Direction


IN, OUT = Direction.INGRESS, Direction.EGRESS
UPLINK_IN = At(Hook.TC_INGRESS, "uplink", IN)
UPLINK_XDP = At(Hook.XDP_INGRESS, "uplink", IN)
UPLINK_OUT = At(Hook.TC_EGRESS, "uplink", OUT)
WORKLOAD_IN = At(Hook.TC_EGRESS, "workload", IN)
WORKLOAD_OUT = At(Hook.TC_INGRESS, "workload", OUT)
WORKLOAD_XDP = At(Hook.XDP_INGRESS, "workload", OUT)
CGROUP_IN = At(Hook.CGROUP_INGRESS, "uplink", IN)
CGROUP_OUT = At(Hook.CGROUP_EGRESS, "uplink", OUT)
CGROUP_LOOPBACK_IN = At(Hook.CGROUP_INGRESS, "loopback", IN)
CGROUP_LOOPBACK_OUT = At(Hook.CGROUP_EGRESS, "loopback", OUT)
EMPTY_IN = At(Hook.TC_EGRESS, "empty", IN)
EMPTY_OUT = At(Hook.TC_INGRESS, "empty", OUT)
EMPTY_XDP = At(Hook.XDP_INGRESS, "empty", OUT)
UNKNOWN_IN = At(Hook.TC_INGRESS, "unknown", IN)
UNKNOWN_OUT = At(Hook.TC_EGRESS, "unknown", OUT)
UNKNOWN_XDP = At(Hook.XDP_INGRESS, "unknown", IN)


@lru_cache(64)
def policy_of(text: str) -> PolicySet:
    """A checked policy from its text."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "case.pol"
        path.write_text(text)
        found = load([str(path)])
    errors = [d for d in found.diagnostics if d.severity == "error"]
    assert found.policy is not None, errors
    return found.policy


@lru_cache(64)
def artifact_of(text: str) -> Artifact:
    return compile_policy(policy_of(text))


def address(text: str) -> Address:
    parsed = parse_address(text)
    assert parsed is not None, text
    return parsed


def endpoint(line: str) -> Endpoint:
    """`NAME [ADDRESS …] [KEY=VALUE …]`"""
    name, *words = line.split()
    labels = dict(w.split("=", 1) for w in words if "=" in w)
    return Endpoint(name, tuple(address(w) for w in words if "=" not in w), labels)


def endpoints(text: str) -> tuple[Endpoint, ...]:
    return tuple(endpoint(line) for line in text.splitlines() if line.strip())


def said(value: object) -> str:
    """A parameter in a test's name: frames and the like are numbered."""
    return value.replace(" ", "-") if isinstance(value, str) else str(value) if isinstance(value, int) else "frame"


def outcome(verdict: str, reason: str, ref: str | None) -> str:
    return f"{verdict} {reason} {ref}" if ref else f"{verdict} {reason}"


def described(judgement: Judgement) -> str:
    """`VERDICT REASON [REF] [~ the same of the prospective verdict]`"""
    text = outcome(judgement.verdict, judgement.reason, judgement.rule.ref if judgement.rule else None)
    return f"{text} ~ {described(judgement.prospective)}" if judgement.prospective else text


class Scene:
    """Endpoints are given as lines (`endpoint`). `workload`, `inner` and `outer` name who is bound to the workload's device and to the caller's
    cgroup and its parent; `elsewhere` names others that are bound. Nobody else is."""

    def __init__(
        self,
        place: Place,
        policy: str,
        who: str,
        host: str = "",
        *,
        workload: str | None = None,
        inner: str | None = None,
        outer: str | None = None,
        elsewhere: Iterable[str] = (),
        streams_only: bool = False,
        own_netns: bool = False,
        audit: bool = False,
        tables: Mapping[str, int] | None = None,
    ) -> None:
        self.place, self.policy = place, policy_of(policy)
        self.endpoints = self._registered = endpoints(who)
        self.host = tuple(address(a) for a in host.split())
        self.audit, self.state, self.events = audit, State.ACTIVE, Events.TRACE
        self.kernel = _Load(artifact_of(policy), self.endpoints, self.host, tables or {})
        self.refs = [rule.ref for rule in self.kernel.artifact.manifest.rules]
        self.bind(workload, inner, outer, elsewhere, streams_only, own_netns)

    def bind(
        self,
        workload: str | None = None,
        inner: str | None = None,
        outer: str | None = None,
        elsewhere: Iterable[str] = (),
        streams_only: bool = False,
        own_netns: bool = False,
    ) -> None:
        """Attach points anew, and nothing remembered."""
        kernel, d, self.endpoints = self.kernel, self.place.devices, self._registered
        (inner_id, inner_level), (outer_id, outer_level) = self.place.cgroups
        bound = {n for n in (workload, inner, outer, *elsewhere) if n}
        kernel.fill(frozenset(bound), frozenset([inner or outer or ""] if own_netns else []))
        kernel.forget()
        kernel.attach_point(d["uplink"], PointKind.UPLINK)
        kernel.attach_point(d["empty"], PointKind.WORKLOAD)
        kernel.attach_point(d["workload"], PointKind.WORKLOAD, workload)
        points: dict[int, model.Workload | model.Uplink] = {
            d["uplink"]: model.Uplink(),
            d["empty"]: model.Workload(None),
            d["workload"]: model.Workload(workload),
        }
        points |= {1000 + i: model.Workload(n) for i, n in enumerate(elsewhere)}
        cgroups = {}
        for key in list(kernel.map("cgroups").keys()):
            kernel.map("cgroups").delete(key)
        for number, name in ((inner_id, inner), (outer_id, outer)):
            if name is not None:
                only = streams_only and number == inner_id
                kernel.bind_cgroup(number, name, only)
                cgroups[number] = model.Cgroup(name, only, own_netns)
        self.levels = 1 << inner_level | 1 << outer_level
        self.model = model.Machine(self._world(), points, cgroups, audit=self.audit)
        self.configure()

    def _world(self) -> World:
        return World(self.policy, self.endpoints, self.host)

    def configure(self, state: State | None = None, events: Events | None = None) -> None:
        self.state = self.state if state is None else state
        self.events = self.events if events is None else events
        flags = int(ConfigFlag.AUDIT) if self.audit else 0
        self.kernel.configure(self.state, self.events, flags, self.levels)
        self.model.state = model.State(min(int(self.state), 2))

    # --- changes ----------------------------------------------------------------------------------------------

    def forget(self) -> None:
        """Nothing is known any more."""
        self.kernel.forget()
        self.model.connections.clear()
        self.model.fragments.clear()

    def relabel(self, who: str) -> None:
        """Some endpoints have other labels now; addresses stay as they are."""
        changed = {e.name: e.labels for e in endpoints(who)}
        self.endpoints = tuple(replace(e, labels=changed.get(e.name, e.labels)) for e in self.endpoints)
        self.kernel.relabel(self.endpoints)
        self.new_generation()

    def new_generation(self) -> None:
        self.kernel.generation += 1
        self.configure()
        self.model.update(self._world())

    def age(self, ticks: int) -> None:
        """All that is remembered was last seen `ticks` earlier."""
        age(self.kernel, self.model, ticks)

    # --- packets ----------------------------------------------------------------------------------------------

    def send(self, at: At, frame: bytes) -> tuple[int, dict[str, Any] | None]:
        """The kernel's return value and event."""
        ran = self.kernel.run(at.hook, frame, self.place.devices[at.device])
        return ran.code, ran.event

    def of_kernel(self, at: At, frame: bytes) -> str:
        code, event = self.send(at, frame)
        passed = code == PASS[at.hook]
        if event is None:
            return "allow none" if passed else "deny none"
        assert passed == bool(event["verdict"]), f"returned {code}, told {event}"
        text = self._outcome(event["verdict"], event["reason"], event["rank"])
        if event["audit_verdict"] == NOT_DIFFERENT:
            return text
        return f"{text} ~ {self._outcome(event['audit_verdict'], event['audit_reason'], event['audit_rank'])}"

    def _outcome(self, verdict: int, reason: int, rank: int) -> str:
        return outcome(
            "allow" if verdict else "deny", Reason(reason).word, None if rank == NO_RULE else self.refs[rank]
        )

    def of_model(self, at: At, frame: bytes) -> str:
        hook, ifindex = model.Hook[at.hook.name], self.place.devices[at.device]
        now = time.monotonic_ns()
        if not hook.is_cgroup:
            return described(self.model.packet(hook, frame, now, ifindex=ifindex))
        kind = int.from_bytes(frame[12:14])
        ids = [number for number, _ in self.place.cgroups]
        return described(self.model.packet(hook, frame[14:], now, ifindex=ifindex, cgroups=ids, ethertype=kind))

    def check(self, at: At, frame: bytes, expected: str) -> None:
        """The packet through both; both must say `expected`, and the kernel counts it once for its reason and rule."""
        before = self.counts()
        kernel, reference = self.of_kernel(at, frame), self.of_model(at, frame)
        assert (kernel, reference) == (expected, expected), (
            f"kernel: {kernel}, model: {reference}, expected: {expected}"
        )
        if self.state is State.DORMANT:
            return
        verdict, reason, *ref = expected.partition(" ~ ")[0].split()
        counted = Counter([f"{at.direction.word} {verdict} {reason}", *ref])
        assert self.counts() - before == counted, f"{expected}: counted {self.counts() - before}"

    def counts(self) -> Counter[str]:
        """Packets by `DIRECTION VERDICT REASON`, and by the rule's reference."""
        counts = Counter({name: packets for name, (packets, *_) in self.rules().items()})
        table = self.kernel.map("reasons")
        for index, value in enumerate(table.read_array()):
            packets, _ = table.sum_cpus(value)
            if packets:
                direction, verdict = Direction(index >> 6), "allow" if index >> 5 & 1 else "deny"
                counts[f"{direction.word} {verdict} {Reason(index & 31).word}"] = packets
        return counts

    def rules(self) -> dict[str, tuple[int, ...]]:
        """(packets, bytes, connections) by the rule's reference."""
        table = self.kernel.map("counters")
        counted = [table.sum_cpus(value) for value in table.read_array()]
        return dict(zip(self.refs, counted, strict=False))  # an array has an entry also where there is no rule

    def close(self) -> None:
        self.kernel.close()

    def __enter__(self) -> Scene:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Load(KernelLoad):
    """`sizes`: entries of some tables instead of the usual."""

    def __init__(
        self, artifact: Artifact, ends: Iterable[Endpoint], host: Iterable[Address], sizes: Mapping[str, int]
    ) -> None:
        self._sizes = sizes
        super().__init__(artifact, ends, host)

    def _size(self) -> None:
        super()._size()
        for name, entries in self._sizes.items():
            self.object.resize(name, entries)
