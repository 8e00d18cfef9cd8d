"""Which events `monitor` shows."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from policyc.cli.output import plain
from policyc.diagnostics import OperationError
from policyc.model import Op, Requirement, Selector

if TYPE_CHECKING:
    from policyc.runtime.query import Event
    from policyc.runtime.requests import Request
    from policyc.runtime.sides import Side

FORMS = "write key=value, key!=value, key or !key, several with commas between them"


def parse_selector(text: str, option: str) -> Selector:
    """`key=value,key!=value,key,!key`, all of which must hold. Raises `OperationError`."""
    return Selector(tuple(_requirement(part.strip(), option) for part in text.split(",")))


def _requirement(text: str, option: str) -> Requirement:
    key, operator, value = _split(text)
    if not key or (operator and not value):
        raise OperationError(f"{option}: {plain(text)!r} is no condition on a label", FORMS)
    if operator:
        return Requirement(key, Op.NE if operator == "!=" else Op.EQ, (value,))
    return Requirement(key.removeprefix("!"), Op.NOT_EXISTS if key.startswith("!") else Op.EXISTS)


def _split(text: str) -> tuple[str, str, str]:
    """At the first `!=`, `==` or `=`."""
    found = re.search(r"!=|==?", text)
    if found is None:
        return (text if text != "!" else ""), "", ""
    return text[: found.start()].strip(), found[0], text[found.end() :].strip()


def path_pattern(glob: str) -> re.Pattern[str]:
    """`**` is anything, `*` anything but `/`."""
    parts = re.split(r"(\*\*|\*)", glob)
    return re.compile("".join({"**": ".*", "*": "[^/]*"}.get(p) or re.escape(p) for p in parts), re.DOTALL)


@dataclass(frozen=True)
class Filter:
    """What is None, empty or `all` asks nothing. `rule`: the reference of a rule or an entry."""

    kind: str = "all"  # l7, l3-l4, all
    source: Selector | None = None
    destination: Selector | None = None
    verdict: str | None = None  # allow, deny
    port: int | None = None
    methods: Sequence[str] = ()
    path: re.Pattern[str] | None = None
    rule: str | None = None

    def shows_request(self, request: Request) -> bool:
        decision = request.decision
        return (
            self.kind != "l3-l4"
            and self._shows(request.source, request.destination, decision.allowed, request.destination_port)
            and (not self.methods or request.method.text in self.methods)
            and (self.path is None or self.path.fullmatch(request.path.text) is not None)
            and self.rule in (None, decision.entry_ref, decision.rule.ref if decision.rule is not None else None)
        )

    def shows_packet(self, event: Event) -> bool:
        return (
            self.kind != "l7"
            and not self.methods
            and self.path is None
            and self._shows(event.source, event.destination, event.allowed, event.destination_port)
            and self.rule in (None, event.rule.ref if event.rule is not None else None)
        )

    def _shows(self, source: Side, destination: Side, allowed: bool, port: int | None) -> bool:
        return (
            self.verdict in (None, "allow" if allowed else "deny")
            and self.port in (None, port)
            and (self.source is None or selects(self.source, source))
            and (self.destination is None or selects(self.destination, destination))
        )


def selects(selector: Selector, side: Side) -> bool:
    """As in the language a selector selects endpoints only."""
    from policyc.runtime.identity import holds

    return side.endpoint is not None and all(holds(r, side.labels) for r in selector.requirements)
