"""A differential case: policies, who is there, and the steps that are taken one after another; drawn from a seed, kept as a file."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory
from typing import Any

import random_world
from noise import behind_no_ops
from random_packets import Sent, Traffic, usable
from random_world import Edges, Who
from structures import STRUCTURES

from policyc.artifact.layout import Events, Hook
from policyc.frontend import load
from policyc.model import Endpoint, PolicySet
from policyc.reference.connections import (
    IDLE_CLOSING,
    IDLE_FRAGMENT,
    IDLE_OTHER,
    IDLE_TCP,
    IDLE_TCP_OPENING,
)

FORMAT, VERSION = "policyc-differential-case", 1
AGES = tuple(n + d for n in (IDLE_CLOSING, IDLE_FRAGMENT, IDLE_TCP_OPENING, IDLE_OTHER, IDLE_TCP) for d in (0, 1))


@dataclass(frozen=True)
class Replace:
    """The policy of this number is loaded in the place of the one that is there; connections stay."""

    policy: int


@dataclass(frozen=True)
class Audit:
    """The same policy is loaded anew, to report only or to enforce."""

    on: bool


@dataclass(frozen=True)
class Age:
    """All that is remembered was last seen so many units (2**30 ns) earlier."""

    units: int


Step = Sent | Who | Replace | Audit | Age


@dataclass(frozen=True)
class Case:
    """`policies` are texts, the first is loaded at the beginning. `structure`: how rows are stored, one of structures.STRUCTURES."""

    policies: tuple[str, ...]
    structure: str
    events: Events
    audit: bool
    who: Who
    steps: tuple[Step, ...]


@lru_cache(32)
def checked(text: str) -> PolicySet:
    """A policy from its text, which must be without errors."""
    with TemporaryDirectory() as folder:
        path = Path(folder) / "case.pol"
        path.write_text(text)
        found = load([str(path)])
    if found.policy is None:
        raise ValueError("\n".join(f"{d.span}: {d.message}" for d in found.diagnostics if d.severity == "error"))
    return found.policy


# --- drawing ----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Ground:
    """What is costly to prepare and serves several cases."""

    policies: tuple[str, ...]
    structure: str
    edges: Edges


def ground(seed: int, no_ops: bool = False) -> Ground:
    """Policies of a seed; with `no_ops` behind thousands of rules that match nothing of what is sent."""
    r = Random(f"policies {seed}")
    texts = [random_world.policies(r)]
    if r.random() < 0.25:
        texts.append(_edited(r, texts[0]) if r.random() < 0.6 else random_world.policies(r))
    edges = _union([random_world.edges(checked(text)) for text in texts])
    if no_ops:
        texts[0] = behind_no_ops(r, texts[0])
    return Ground(tuple(texts), r.choice(("chosen", *STRUCTURES)), edges)


def _edited(r: Random, text: str) -> str:
    """A new version: some rules are gone, some come before others."""
    lines = [line for line in text.splitlines() if not (line.startswith("    ") and r.random() < 0.3)]
    for at in range(len(lines) - 1):
        if r.random() < 0.2 and all(line.startswith("    ") for line in lines[at : at + 2]):
            lines[at], lines[at + 1] = lines[at + 1], lines[at]
    return "\n".join(lines) + "\n"


def _union(edges: Sequence[Edges]) -> Edges:
    return Edges(
        {f: sorted({n for e in edges for n in e.addresses[f]}) for f in "46"},
        sorted({n for e in edges for n in e.ports}),
        sorted({n for e in edges for n in e.protocols}),
        sorted({n for e in edges for n in e.icmp}),
        [hint for e in edges for hint in e.hints],
    )


def draw(on: Ground, seed: int, part: int, packets: int) -> Case:
    """Case number `part` on that ground: at least `packets` packets, with changes between them."""
    r = Random(f"case {seed} {part}")
    events = r.choice((Events.TRACE, Events.TRACE, Events.TRACE, Events.ALL, Events.DENIED, Events.NONE))
    now = first = random_world.who(r, on.edges)
    audit = first_audit = r.random() < 0.12
    steps: list[Step] = []
    traffic, sent, policy = Traffic(r, on.edges, now, r.choice((0.05, 0.2, 0.5))), 0, 0
    changes = r.choice((0.0, 0.01, 0.03))
    while sent < packets:
        kind = r.random()
        if kind < changes:
            now = traffic.who = random_world.changed(r, now, on.edges)
            steps.append(now)
        elif kind < changes * 1.3:
            steps.append(Age(r.choice(AGES)))
        elif kind < changes * 1.6 and len(on.policies) > 1:
            policy = 1 - policy
            steps.append(Replace(policy))
        elif kind < changes * 1.7:
            audit = not audit and r.random() < 0.5
            steps.append(Audit(audit))
        else:
            fitting = [one for one in traffic.send() if usable(one)]
            steps += fitting
            sent += len(fitting)
    return Case(on.policies, on.structure, events, first_audit, first, tuple(steps))


# --- files ------------------------------------------------------------------------------------------------------


def write(case: Case, differences: Sequence[str]) -> str:
    """The case and what differed, as text that `read` takes."""
    document = {
        "format": FORMAT,
        "version": VERSION,
        "differences": list(differences),
        "structure": case.structure,
        "events": case.events.name.lower(),
        "audit": case.audit,
        "policies": [text.splitlines() for text in case.policies],
        "who": _of_who(case.who),
        "steps": [_of_step(step) for step in case.steps],
    }
    return json.dumps(document, indent=1) + "\n"


def read(text: str) -> Case:
    """Raises ValueError or KeyError for what is no case."""
    document = json.loads(text)
    if (document.get("format"), document.get("version")) != (FORMAT, VERSION):
        raise ValueError(f"not a {FORMAT} of version {VERSION}")
    return Case(
        tuple("\n".join(lines) + "\n" for lines in document["policies"]),
        document["structure"],
        Events[document["events"].upper()],
        document["audit"],
        _to_who(document["who"]),
        tuple(_to_step(step) for step in document["steps"]),
    )


def _of_who(who: Who) -> dict[str, Any]:
    ends = [
        {"name": e.name, "addresses": [random_world.text(a) for a in e.addresses], "labels": e.labels}
        for e in who.endpoints
    ]
    return {**asdict(who), "endpoints": ends, "host": [random_world.text(a) for a in who.host]}


def _to_who(entry: dict[str, Any]) -> Who:
    ends = tuple(
        Endpoint(e["name"], tuple(random_world.address(a) for a in e["addresses"]), e["labels"])
        for e in entry["endpoints"]
    )
    host = tuple(random_world.address(a) for a in entry["host"])
    return Who(**{**entry, "endpoints": ends, "host": host, "elsewhere": tuple(entry["elsewhere"])})


def _of_step(step: Step) -> dict[str, Any]:
    match step:
        case Sent():
            return {"send": step.frame.hex(), "hook": step.hook.name.lower(), "device": step.device}
        case Who():
            return {"who": _of_who(step)}
        case Replace():
            return {"replace": step.policy}
        case Audit():
            return {"audit": step.on}
        case Age():
            return {"age": step.units}


def _to_step(entry: dict[str, Any]) -> Step:
    if "send" in entry:
        return Sent(Hook[entry["hook"].upper()], entry["device"], bytes.fromhex(entry["send"]))
    if "who" in entry:
        return _to_who(entry["who"])
    if "replace" in entry:
        return Replace(entry["replace"])
    return Audit(entry["audit"]) if "audit" in entry else Age(entry["age"])
