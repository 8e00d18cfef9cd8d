"""A whole compilation: from the units that were read to a PolicySet."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator

from policyc.check.cases import Cases, References
from policyc.check.cidrs import Cidrs
from policyc.check.extent import MAX_RANGES, MAX_SERVICES, Extent
from policyc.check.findings import Findings
from policyc.check.peers import Peers
from policyc.check.policies import Policies, not_there_yet
from policyc.check.scope import Declared, Scope, Unit, scopes
from policyc.check.services import Services
from policyc.grammar import syntax
from policyc.model import Policy, PolicySet, Rule, Selector, Test
from policyc.sources import Root

LANGUAGE = 1


def check(units: list[Unit], root: Root, found: Findings) -> PolicySet:
    """Everything that the units mean. `units` has included units before those that include them, which is the order of
    their rules. What is wrong is added to `found`, and the result is then good for nothing."""
    visible = scopes(units, found)
    cidrs = Cidrs(root, found, Extent(found, "address ranges", MAX_RANGES))
    services = Services(found, Extent(found, "services", MAX_SERVICES))
    peers = Peers(cidrs, found)
    policies = _policies(units, visible, Policies(peers, services, found), found)
    declared = [
        d for u in units for d in (*visible[u.name].peers.values(), *visible[u.name].ports.values()) if d.unit is u
    ]
    _read_declared(declared, peers, cidrs, services)
    broken = {name for u in units for name in u.tree.broken}
    lost = any(u.lost or u.tree.lost for u in units)
    references = References({ref for p in policies for r in p.rules for ref in _references(r)}, broken, lost)
    tests = _tests(units, visible, Cases(cidrs, services, references, found))
    if not found.failed:
        _unused(declared, found)
    files = [(u.name, u.digest) for u in units]
    files += [(name, hashlib.sha256(root.texts[name][1]).hexdigest()) for name in cidrs.feeds]
    return PolicySet(
        LANGUAGE, tuple(files), _identities(declared, peers), tuple(policies), cidrs.mentioned, tuple(tests)
    )


def _references(rule: Rule) -> Iterator[str]:
    """What `by` can name of a rule: itself and its entries."""
    yield rule.ref
    if rule.http is not None:
        yield from (f"{rule.ref}.{entry.number}" for entry in rule.http.entries)


def _policies(units: list[Unit], visible: dict[str, Scope], policies: Policies, found: Findings) -> list[Policy]:
    result: list[Policy] = []
    for unit in units:
        for index, item in enumerate(unit.tree.items):
            if isinstance(item, syntax.Policy):
                result.append(policies.check(item, visible[unit.name]))
            elif isinstance(item, syntax.Language):
                _language(item, index, found)
            elif isinstance(item, syntax.Reserved):
                not_there_yet(item.what, item.span, found)
            elif isinstance(item, syntax.ServiceDecl):
                not_there_yet("`service`", item.span, found)
            elif isinstance(item, syntax.Cidr) and item.entries is None:
                not_there_yet("a CIDR set filled at load", item.span, found)
    return result


def _language(node: syntax.Language, index: int, found: Findings) -> None:
    if index:
        found.add("misplaced-language", "`language` is the first thing in a file", node.span, help="move it to the top")
    elif int(node.number.text) != LANGUAGE:
        message = f"version {node.number.text} of the language is not known"
        found.add("language-version", message, node.number.span, expected=(str(LANGUAGE),))


def _read_declared(declared: list[Declared], peers: Peers, cidrs: Cidrs, services: Services) -> None:
    """Values are checked whether or not something uses them."""
    for one in declared:
        used = one.used
        if isinstance(one.node, syntax.Identity):
            peers.identity(one)
        elif isinstance(one.node, syntax.Cidr):
            cidrs.named(one)
        else:
            services.port_set(one)
        one.used = used


def _tests(units: list[Unit], visible: dict[str, Scope], cases: Cases) -> list[Test]:
    return [
        cases.check(item, visible[unit.name])
        for unit in units
        for item in unit.tree.items
        if isinstance(item, syntax.Test)
    ]


def _unused(declared: list[Declared], found: Findings) -> None:
    what = {syntax.Identity: "identity", syntax.Cidr: "CIDR set", syntax.Ports: "port set"}
    for one in declared:
        if one.unit.given and not one.used:
            name = one.node.name
            message = f"nothing uses the {what[type(one.node)]} `{name.text}`"
            found.add("unused-name", message, name.span, help="remove it, or use it")


def _identities(declared: list[Declared], peers: Peers) -> dict[str, Selector | None]:
    return {d.node.name.text: peers.identity(d) for d in declared if isinstance(d.node, syntax.Identity)}
