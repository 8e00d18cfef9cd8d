"""One random case: the same packets through the compiled programs and through the reference machine."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from random import Random

from random_packets import Traffic
from random_world import Case, case

from policyc.artifact.layout import NO_RULE, Hook, PointKind, Reason
from policyc.artifact.reader import Artifact, read
from policyc.codegen.emit import compile_object
from policyc.diagnostics import OperationError
from policyc.ir.pipeline import build
from policyc.kernel_engine import NOT_DIFFERENT, KernelLoad
from policyc.model import PolicySet
from policyc.reference import machine as model
from policyc.reference.verdict import Judgement
from policyc.reference.world import World

PASS = {
    Hook.TC_INGRESS: 0xFFFFFFFF,
    Hook.TC_EGRESS: 0xFFFFFFFF,
    Hook.CGROUP_INGRESS: 1,
    Hook.CGROUP_EGRESS: 1,
    Hook.XDP_INGRESS: 2,
}


@dataclass(frozen=True)
class Place:
    """Where packets are sent through: devices by name → index, and the caller's cgroups, nearest first, with their levels."""

    devices: dict[str, int]
    cgroups: Sequence[tuple[int, int]]  # id, level


Answer = tuple[str, str, str | None, tuple[str, str, str | None] | None]  # verdict, reason, ref, prospective


def expected(judgement: Judgement) -> Answer:
    prospective = judgement.prospective
    audit = (prospective.verdict, prospective.reason, _ref(prospective)) if prospective else None
    return judgement.verdict, judgement.reason, _ref(judgement), audit


def _ref(judgement: Judgement) -> str | None:
    return judgement.rule.ref if judgement.rule else None


def compiled(policy: PolicySet, searched: bool) -> Artifact:
    """The policy's artifact, its rows searched in arrays or, where the cost model says so, as decision trees."""
    tables = build(policy)
    if searched:
        tables = replace(tables, inline_rows=False)
    return read(compile_object(tables, policy, {}, "").object)


class Bench:
    """A compiled case in the kernel and in the model, with every kind of attach point."""

    def __init__(self, drawn: Case, place: Place, seed: int) -> None:
        r = Random(seed)
        self.case, self.place = drawn, place
        bound = [e.name for e in drawn.endpoints[:3]]
        self.own_netns = r.random() < 0.5
        self.streams_only = r.random() < 0.1
        self.kernel = KernelLoad(compiled(drawn.policy, r.random() < 0.5), drawn.endpoints, drawn.host)
        self.kernel.fill(frozenset(bound), frozenset([bound[2]] if self.own_netns else []))
        d = place.devices
        self.kernel.attach_point(d["workload"], PointKind.WORKLOAD, bound[0])
        self.kernel.attach_point(d["empty"], PointKind.WORKLOAD)
        self.kernel.attach_point(d["uplink"], PointKind.UPLINK)
        points: dict[int, model.Workload | model.Uplink] = {
            d["workload"]: model.Workload(bound[0]),
            d["empty"]: model.Workload(None),
            d["uplink"]: model.Uplink(),
        }
        (leaf, leaf_level), (upper, upper_level) = place.cgroups
        self.kernel.bind_cgroup(upper, bound[1])
        cgroups = {upper: model.Cgroup(bound[1])}
        if r.random() < 0.7:
            self.kernel.bind_cgroup(leaf, bound[2], self.streams_only)
            cgroups[leaf] = model.Cgroup(bound[2], self.streams_only, self.own_netns)
        else:
            points[99] = model.Workload(bound[2])  # bound elsewhere
        self.levels = 1 << leaf_level | 1 << upper_level
        self.kernel.configure(cgroup_levels=self.levels)
        self.model = model.Machine(World(drawn.policy, drawn.endpoints, drawn.host), points, cgroups)
        self.rules = [rule.ref for rule in self.kernel.artifact.manifest.rules]

    def relabel(self, r: Random) -> None:
        """Endpoints exchange their labels: identities change under live connections."""
        labels = [e.labels for e in self.case.endpoints]
        r.shuffle(labels)
        ends = tuple(replace(e, labels=new) for e, new in zip(self.case.endpoints, labels, strict=True))
        self.case = replace(self.case, endpoints=ends)
        self.kernel.relabel(ends)
        self.kernel.generation += 1
        self.kernel.configure(cgroup_levels=self.levels)
        self.model.update(World(self.case.policy, ends, self.case.host))

    def kernel_answer(self, hook: Hook, frame: bytes, ifindex: int) -> tuple[int, Answer | None]:
        ran = self.kernel.run(hook, frame, ifindex)
        event = ran.event
        if event is None:
            return ran.code, None
        audit = None
        if event["audit_verdict"] != NOT_DIFFERENT:
            audit = self._outcome(event["audit_verdict"], event["audit_reason"], event["audit_rank"])
        return ran.code, (*self._outcome(event["verdict"], event["reason"], event["rank"]), audit)

    def _outcome(self, verdict: int, reason: int, rank: int) -> tuple[str, str, str | None]:
        return "allow" if verdict else "deny", Reason(reason).word, None if rank == NO_RULE else self.rules[rank]

    def model_answer(self, hook: Hook, frame: bytes, ifindex: int, now: int) -> Answer:
        which = model.Hook[hook.name]
        if which.is_cgroup:
            ethertype = int.from_bytes(frame[12:14])
            ids = [number for number, _ in self.place.cgroups]
            return expected(
                self.model.packet(which, frame[14:], now, ifindex=ifindex, cgroups=ids, ethertype=ethertype)
            )
        return expected(self.model.packet(which, frame, now, ifindex=ifindex))

    def close(self) -> None:
        self.kernel.close()


def differences(
    seed: int, place: Place, packets: int, clock: Callable[[], int], policy: PolicySet | None = None
) -> list[str]:
    """What kernel and model disagree on, each as a line."""
    r = Random(seed)
    drawn = case(r)
    if policy is not None:
        drawn = replace(drawn, policy=policy)
    bench = Bench(drawn, place, seed)
    traffic = Traffic(r)
    # The workload's own addresses more often than others': elsewhere most of what it sends is spoofed.
    everybody = [a for e in drawn.endpoints for a in e.addresses] + list(drawn.host)
    traffic.owned([*everybody, *drawn.endpoints[0].addresses * 6, *drawn.endpoints[1].addresses * 3])
    found = []
    try:
        for number in range(packets):
            if r.random() < 0.02:
                bench.relabel(r)
            hook = r.choice(list(Hook))
            device = r.choices(list(place.devices), (6, 6, 1, 1, 2))[0]
            _, frame = traffic.frame()
            ifindex = place.devices[device]
            if hook in (Hook.CGROUP_INGRESS, Hook.CGROUP_EGRESS) and frame[12:14] not in (b"\x08\x00", b"\x86\xdd"):
                continue
            try:
                code, got = bench.kernel_answer(hook, frame, ifindex)
            except OperationError:
                continue  # a frame that TEST_RUN does not take
            want = bench.model_answer(hook, frame, ifindex, clock())
            if got != want or (code == PASS[hook]) != (want[0] == "allow"):
                found.append(
                    f"seed {seed} packet {number} {hook.name} {device} {frame.hex()}: kernel {code} {got}, model {want}"
                )
    finally:
        bench.close()
    return found
