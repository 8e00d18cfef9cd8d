"""Peers of rules and subjects of policies."""

from __future__ import annotations

from collections.abc import Iterable

from policyc.check import addresses
from policyc.check.cidrs import Cidrs
from policyc.check.findings import Findings
from policyc.check.scope import Declared, Scope
from policyc.check.selectors import label, selector
from policyc.grammar import syntax
from policyc.model import Peer, PeerCidrs, PeerClass, PeerSame, PeerSelector, Selector, Subject


class Peers:
    """Resolves peers; the selectors of identities are kept."""

    def __init__(self, cidrs: Cidrs, found: Findings) -> None:
        self.cidrs = cidrs
        self.found = found
        self._identities: dict[Declared, Selector | None] = {}

    def identity(self, declared: Declared) -> Selector | None:
        """The selector of an identity; None: it has none and is the host."""
        if declared not in self._identities:
            assert isinstance(declared.node, syntax.Identity)
            node = declared.node.selector
            self._identities[declared] = selector(node, self.found) if node else None
        return self._identities[declared]

    def peers(self, nodes: Iterable[syntax.Peer], scope: Scope) -> tuple[Peer, ...]:
        """What the nodes mean, each once, in source order."""
        resolved = (self._peer(node, scope) for node in nodes)
        return tuple(dict.fromkeys(p for p in resolved if p is not None))

    def _peer(self, node: syntax.Peer, scope: Scope) -> Peer | None:
        if isinstance(node, syntax.Builtin):
            return PeerClass(node.word)
        if isinstance(node, syntax.Selector):
            return PeerSelector(selector(node, self.found))
        if isinstance(node, syntax.Same):
            return PeerSame(tuple(dict.fromkeys(label(k, self.found) for k in node.keys)))
        if isinstance(node, syntax.WorldCidrs):
            return PeerCidrs(self.cidrs.read(node.entries, scope), True, _single_name(node.entries))
        if isinstance(node, syntax.Reference):
            return self._reference(node, scope)
        return PeerCidrs(self.cidrs.read([node], scope))

    def _reference(self, node: syntax.Reference, scope: Scope) -> Peer | None:
        declared = scope.peer(node.name, self.found, "identity or CIDR set")
        if declared is None:
            return None
        if isinstance(declared.node, syntax.Cidr):
            return PeerCidrs(self.cidrs.named(declared), False, node.name.text)
        wanted = self.identity(declared)
        return PeerClass.HOST if wanted is None else PeerSelector(wanted, node.name.text)

    def subjects(self, nodes: Iterable[syntax.Peer], scope: Scope) -> tuple[Subject, ...]:
        """Whom a policy is for, each once, in source order."""
        resolved = (self._subject(node, scope) for node in nodes)
        return tuple(dict.fromkeys(s for s in resolved if s is not None))

    def _subject(self, node: syntax.Peer, scope: Scope) -> Subject | None:
        if isinstance(node, syntax.Builtin) and node.word == "host":
            return PeerClass.HOST
        if isinstance(node, syntax.Builtin) and node.word == "endpoints":
            return PeerClass.ENDPOINTS
        if isinstance(node, syntax.Selector):
            return PeerSelector(selector(node, self.found))
        if not isinstance(node, syntax.Reference):
            self._refuse_subject(node)
            return None
        declared = scope.peer(node.name, self.found, "identity")
        if declared is None:
            return None
        if isinstance(declared.node, syntax.Cidr):
            self._refuse_subject(node)
            return None
        wanted = self.identity(declared)
        return PeerClass.HOST if wanted is None else PeerSelector(wanted, node.name.text)

    def _refuse_subject(self, node: syntax.Peer) -> None:
        help = "a policy is for identities, selectors, `endpoints` or `host`"
        if isinstance(node, syntax.Builtin):
            message = f"`{node.word}` cannot be the subject of a policy"
            help = "say `for endpoints, host` for all that is judged here"
        elif isinstance(node, syntax.Same):
            message = "`same(…)` compares a peer with the subject and cannot be a subject"
        else:
            message = "addresses cannot be the subject of a policy"
        self.found.add("bad-subject", message, node.span, help=help)


def matches_nothing(peers: tuple[Peer, ...]) -> bool:
    """Whether all peers are empty sets of addresses."""
    return bool(peers) and all(isinstance(p, PeerCidrs) and addresses.is_empty(p.addresses) for p in peers)


def _single_name(entries: tuple[syntax.CidrEntry, ...]) -> str | None:
    if len(entries) == 1 and isinstance(entries[0], syntax.Reference):
        return entries[0].name.text
    return None
