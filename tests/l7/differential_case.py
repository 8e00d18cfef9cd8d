"""Cases of the differential tests: the rules of a port, and a stream of single writes; their text form, which plays again."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from tests.reference.http_corpus import Case as CorpusCase

FIRST_PORT = 10000
FORMAT = 1
OTHER_END = {"web": "api", "api": "web"}  # words of peers


@dataclass(frozen=True)
class RuleText:
    """An allow rule for one port. `block`: `http` with its options, "" where there is none; `entries` stand in it; `tail`: modifiers behind it."""

    block: str = "http"
    entries: tuple[str, ...] = ()
    peer: str = "{ app == web }"
    tier: str = "normal"
    tail: str = ""

    def text(self, port: int, name: str, egress: bool = False) -> str:
        """Of a server's policy, or of a client's (`egress`), whose peers are at the other end."""
        block = f" {self.block} {{ {' '.join(self.entries)} }}" if self.block else ""
        peer = "".join(OTHER_END.get(word, word) for word in re.split(r"(\W+)", self.peer)) if egress else self.peer
        return f"    allow {'to' if egress else 'from'} {peer} on tcp/{port}{block} as {name}{self.tail and ' '}{self.tail}\n"


Rules = tuple[RuleText, ...]


@dataclass(frozen=True)
class Segment:
    """One write. `answered`: behind it the server answers every request that is complete."""

    data: bytes
    answered: bool = True


@dataclass(frozen=True)
class Case:
    name: str
    rules: Rules
    segments: tuple[Segment, ...]

    @property
    def stream(self) -> bytes:
        return b"".join(s.data for s in self.segments)

    def split(self, name: str, *sizes: int) -> Case:
        """The same bytes in pieces of these sizes, the rest in one."""
        data, segments = self.stream, []
        for size in sizes:
            segments.append(Segment(data[:size]))
            data = data[size:]
        return replace(self, name=f"{self.name}, {name}", segments=(*segments, *([Segment(data)] if data else [])))


@dataclass(frozen=True)
class Ground:
    """Rules by port, compiled as one policy: that of the server `api`, or (`egress`) of the client `web`."""

    rules: tuple[Rules, ...]
    egress: bool = False
    ports: dict[Rules, int] = field(init=False, compare=False, repr=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "ports", {rules: FIRST_PORT + n for n, rules in enumerate(self.rules)})

    @property
    def text(self) -> str:
        """Policies p_TIER; rule K of port N is `gN_K`."""
        lines: dict[str, list[str]] = {}
        for rules, port in self.ports.items():
            for number, rule in enumerate(rules, 1):
                lines.setdefault(rule.tier, []).append(rule.text(port, f"g{port}_{number}", self.egress))
        way, subject = ("egress", "web") if self.egress else ("ingress", "api")
        return "".join(
            f"policy p_{tier} for {{ app == {subject} }} tier {tier} {{\n  {way} {{\n{''.join(rules)}  }}\n}}\n"
            for tier, rules in lines.items()
        )


def ground(cases: Iterable[Case], egress: bool = False) -> Ground:
    return Ground(tuple(dict.fromkeys(case.rules for case in cases)), egress)


def of_corpus(case: CorpusCase) -> Case:
    def rule(text: str) -> RuleText:
        block, _, inside = text.partition("{")
        return RuleText(block.strip(), (inside.rpartition("}")[0].strip(),)) if text else RuleText("")

    return Case(case.name, tuple(map(rule, case.rules)), tuple(map(Segment, case.segments)))


# --- as text ------------------------------------------------------------------------------------------------------------


def write(case: Case, differences: Sequence[str], egress: bool = False) -> str:
    document = {
        "format": FORMAT,
        "name": case.name,
        "egress": egress,
        "rules": [vars(rule) | {"entries": list(rule.entries)} for rule in case.rules],
        "segments": [{"data": s.data.decode("latin-1"), "answered": s.answered} for s in case.segments],
        "differed": list(differences),
    }
    return json.dumps(document, indent=2) + "\n"


def is_egress(text: str) -> bool:
    """Whether a written case is of a client's policy."""
    return bool(json.loads(text)["egress"])


def read(text: str) -> Case:
    """Raises ValueError, KeyError or TypeError where it is no case."""
    document: dict[str, Any] = json.loads(text)
    if document["format"] != FORMAT:
        raise ValueError(f"format {document['format']} is not known")
    rules = tuple(RuleText(**{**rule, "entries": tuple(rule["entries"])}) for rule in document["rules"])
    segments = tuple(Segment(s["data"].encode("latin-1"), s["answered"]) for s in document["segments"])
    return Case(document["name"], rules, segments)
