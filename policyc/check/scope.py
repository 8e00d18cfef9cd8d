"""Who can see which name: a file sees what it declares and what the files it includes see."""

from __future__ import annotations

from dataclasses import dataclass, field

from policyc.check.findings import Findings
from policyc.grammar import syntax
from policyc.model import Span


@dataclass
class Unit:
    """A source file that was read: its tree, and the units it includes with the place of the `include`.

    `given` is true for files that the caller named; `digest` is the SHA-256 of its bytes in hex."""

    name: str
    tree: syntax.File
    digest: str
    given: bool
    includes: list[tuple[syntax.Include, Unit]] = field(default_factory=list)
    lost: bool = False


@dataclass(eq=False)
class Declared:
    """A declaration with the scope in which the names inside it are looked up."""

    node: syntax.Identity | syntax.Cidr | syntax.Ports
    scope: Scope
    unit: Unit
    used: bool = False


@dataclass(eq=False)
class Scope:
    """`peers`: identities and CIDR sets; `ports`: port sets. `broken` names are somewhere, but did not parse; where an
    include was lost (`lost`) any name may be, where a declaration lost its name (`nameless`) any that is near no other."""

    folder: str
    peers: dict[str, Declared] = field(default_factory=dict)
    ports: dict[str, Declared] = field(default_factory=dict)
    broken: set[str] = field(default_factory=set)
    lost: bool = False
    nameless: bool = False
    own: list[Declared] = field(default_factory=list)  # what the file itself declares and is seen by its name
    reached: dict[str, Scope] = field(default_factory=dict)  # the file and all it includes, by name

    def peer(self, name: syntax.Word, found: Findings, what: str) -> Declared | None:
        return self._look(self.peers, name, found, what, self.ports, "a port set")

    def port_set(self, name: syntax.Word, found: Findings) -> Declared | None:
        return self._look(self.ports, name, found, "port set", self.peers, "an identity or CIDR set")

    def _look(
        self,
        table: dict[str, Declared],
        name: syntax.Word,
        found: Findings,
        what: str,
        other: dict[str, Declared],
        other_what: str,
    ) -> Declared | None:
        """The declaration, marked as used, or None and a finding."""
        declared = table.get(name.text)
        if declared is not None:
            declared.used = True
            return declared
        if self.lost or name.text in self.broken:
            return None
        notes: tuple[tuple[str, Span], ...] = ()
        if name.text in other:
            notes = ((f"`{name.text}` is {other_what}", other[name.text].node.name.span),)
        suggestion = found.suggestion(name.text, table, len(table))
        if self.nameless and suggestion is None:
            return None
        help = None if suggestion else f"declare it in this file or in one it includes: {_EXAMPLES[what]}"
        message = f"there is no {what} `{name.text}`"
        found.add("unknown-name", message, name.span, suggestion=suggestion, help=help, notes=notes)
        return None


_EXAMPLES = {
    "identity or CIDR set": "`identity NAME { key == value }` or `cidr NAME = [ … ]`",
    "identity": "`identity NAME { key == value }`",
    "CIDR set": "`cidr NAME = [ … ]`",
    "port set": "`ports NAME = [ … ]`",
}


def scopes(units: list[Unit], found: Findings) -> dict[str, Scope]:
    """The scope of each unit by its name. `units` has included units before those that include them."""
    result: dict[str, Scope] = {}
    for unit in units:
        folder, _, _ = unit.name.rpartition("/")
        scope = Scope(folder, broken=set(unit.tree.broken), lost=unit.lost, nameless=unit.tree.lost)
        for include, inner in unit.includes:
            if inner.name in result:
                _merge(scope, result[inner.name], include, found)
        for item in unit.tree.items:
            if isinstance(item, (syntax.Identity, syntax.Cidr, syntax.Ports)):
                _declare(scope, Declared(item, scope, unit), found)
        scope.reached[unit.name] = result[unit.name] = scope
    return result


def _table(scope: Scope, declared: Declared) -> dict[str, Declared]:
    return scope.ports if isinstance(declared.node, syntax.Ports) else scope.peers


def _declare(scope: Scope, declared: Declared, found: Findings) -> None:
    name = declared.node.name
    if not name.text:
        return
    first = _table(scope, declared).setdefault(name.text, declared)
    if first is declared:
        scope.own.append(declared)
    else:
        notes = (("first declared here", first.node.name.span),)
        found.add("duplicate-name", f"`{name.text}` is declared twice", name.span, notes=notes)


def _merge(scope: Scope, inner: Scope, include: syntax.Include, found: Findings) -> None:
    """Adds what `inner` sees. Files reached before bring nothing new, so that many includes of many do not multiply."""
    for reached in [s for name, s in inner.reached.items() if name not in scope.reached]:
        for declared in reached.own:
            name = declared.node.name.text
            if _table(inner, declared)[name] is not declared:
                continue  # it lost to another declaration, which was reported
            first = _table(scope, declared).setdefault(name, declared)
            if first is not declared:
                places = (first.node.name.span, declared.node.name.span)
                notes = (("declared here", places[0]), ("and here", places[1]))
                found.add("duplicate-name", f"this brings in `{name}` a second time", include.path.span, notes=notes)
    scope.reached.update(inner.reached)
    scope.broken |= inner.broken
    scope.lost = scope.lost or inner.lost
    scope.nameless = scope.nameless or inner.nameless
