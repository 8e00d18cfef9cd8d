"""Label selectors: canonical, and refused where no labels can meet them."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyc.check.findings import Findings
from policyc.grammar import syntax
from policyc.model import Op, Requirement, Selector

MAX_NOTES = 5


@dataclass
class _Key:
    """What is required of one key. `allowed` None: any value, or none at all."""

    allowed: list[str] | None = None
    excluded: dict[str, None] = field(default_factory=dict)  # in source order
    exists: bool = False
    absent: bool = False
    nodes: list[syntax.Requirement] = field(default_factory=list)

    def add(self, node: syntax.Requirement) -> None:
        self.nodes.append(node)
        values = list(dict.fromkeys(v.text for v in node.values))
        if node.op in ("==", "in"):
            listed = set(values)
            self.allowed = values if self.allowed is None else [v for v in self.allowed if v in listed]
        elif node.op in ("!=", "not in"):
            self.excluded |= dict.fromkeys(values)
        elif node.op == "exists":
            self.exists = True
        else:
            self.absent = True

    def left(self) -> list[str] | None:
        if self.allowed is None:
            return None
        return [v for v in self.allowed if v not in self.excluded]

    @property
    def impossible(self) -> bool:
        left = self.left()
        return left == [] or (self.absent and (self.exists or left is not None))

    def requirements(self, key: str) -> list[Requirement]:
        """The fewest requirements that mean the same."""
        left = self.left()
        if left is not None:
            return [Requirement(key, Op.EQ if len(left) == 1 else Op.IN, tuple(left))]
        if self.absent:
            return [Requirement(key, Op.NOT_EXISTS)]
        result = [Requirement(key, Op.EXISTS)] if self.exists else []
        if self.excluded:
            result.append(Requirement(key, Op.NE if len(self.excluded) == 1 else Op.NOT_IN, tuple(self.excluded)))
        return result


def label(word: syntax.Word, found: Findings) -> str:
    """The text of a label key or value. One of digits only needs quotes, so that nobody takes it for a number."""
    if not word.quoted and word.text.isdigit():
        help = f'write "{word.text}"; labels are text'
        found.add("unquoted-digits", f"`{word.text}` is a label and stands in quotes", word.span, help=help)
    return word.text


def selector(node: syntax.Selector, found: Findings) -> Selector:
    """Keys stand in the order in which they first occur, each with the fewest requirements that mean the same."""
    keys: dict[str, _Key] = {}
    for requirement in node.requirements:
        for value in requirement.values:
            label(value, found)
        keys.setdefault(label(requirement.key, found), _Key()).add(requirement)
    result: list[Requirement] = []
    for key, wanted in keys.items():
        if wanted.impossible:
            last = wanted.nodes[-1]
            notes = tuple(("this must hold too", n.span) for n in wanted.nodes[:-1][:MAX_NOTES])
            message = f"no labels match: the conditions on `{key}` contradict each other"
            found.add(
                "unsatisfiable-selector", message, last.span, help="alternatives stand in one `in (…)`", notes=notes
            )
            return Selector()
        result += wanted.requirements(key)
    return Selector(tuple(result))
