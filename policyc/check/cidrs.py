"""CIDR sets: entries, exceptions, subtraction, named sets, feed files."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyc.check import addresses
from policyc.check.addresses import BadAddress, Prefix, Range
from policyc.check.cycles import settle
from policyc.check.extent import Extent
from policyc.check.feeds import feed
from policyc.check.findings import Findings
from policyc.check.scope import Declared, Scope
from policyc.grammar import syntax
from policyc.model import AddressSet, Span
from policyc.sources import FEED, Refused, Root

EMPTY = AddressSet()


class Cidrs:
    """Evaluates address expressions. `feeds` has the relative names of the feed files read, in reading order."""

    def __init__(self, root: Root, found: Findings, extent: Extent) -> None:
        self.root = root
        self.found = found
        self.extent = extent
        self.feeds: list[str] = []
        self._sets: dict[Declared, AddressSet] = {}
        self._feeds: dict[str, AddressSet] = {}
        self._mentioned: tuple[list[Range], list[Range]] = ([], [])

    @property
    def mentioned(self) -> AddressSet:
        """All prefixes, addresses and ranges longer than /0 that were read, exceptions and what they remove included."""
        return AddressSet(*(addresses.merged(ranges) for ranges in self._mentioned))

    def mention(self, prefix: Prefix) -> None:
        if prefix.length:
            self._mentioned[prefix.family == "6"].append(prefix.range)

    def read(self, entries: Iterable[syntax.CidrEntry], scope: Scope) -> AddressSet:
        """The union of what the entries mean; what is wrong in them is reported and means nothing."""
        nodes = list(entries)
        return self._union([self._entry(entry, scope) for entry in nodes], nodes[0].span if nodes else None)

    def _union(self, sets: Iterable[AddressSet], span: Span | None) -> AddressSet:
        distinct = list({id(s): s for s in sets}.values())  # a set named a thousand times is merged once
        if len(distinct) > 1 and not self.extent.add(sum(map(addresses.size, distinct)), span):
            return EMPTY
        return addresses.union(distinct)

    def _difference(self, whole: AddressSet, removed: AddressSet, span: Span) -> AddressSet:
        if not self.extent.add(addresses.size(whole) + addresses.size(removed), span):
            return EMPTY
        return addresses.difference(whole, removed)

    def named(self, declared: Declared) -> AddressSet:
        """The addresses of a declared set. Sets it names are read first, so that chains of any length are."""
        settle(declared, self._names, self._read_set, self._sets, EMPTY, self.found)
        return self._sets[declared]

    def _names(self, declared: Declared) -> Iterator[tuple[syntax.Word, Declared]]:
        assert isinstance(declared.node, syntax.Cidr)
        pending: list[syntax.CidrEntry] = [declared.node.entries] if declared.node.entries else []
        while pending:
            node = pending.pop()
            if isinstance(node, syntax.CidrList):
                pending.extend(reversed(node.entries))
            elif isinstance(node, syntax.CidrExcept):
                pending += [node.removed, node.base]
            elif isinstance(node, syntax.Reference):
                inner = declared.scope.peers.get(node.name.text)
                if inner is not None and isinstance(inner.node, syntax.Cidr):
                    yield node.name, inner

    def _read_set(self, declared: Declared) -> AddressSet:
        assert isinstance(declared.node, syntax.Cidr)
        return self._entry(declared.node.entries, declared.scope) if declared.node.entries else EMPTY

    def _entry(self, node: syntax.CidrEntry, scope: Scope) -> AddressSet:
        if isinstance(node, syntax.Address):
            prefix = self.prefix(node)
            return addresses.of_prefix(prefix) if prefix else EMPTY
        if isinstance(node, syntax.CidrList):
            return self.read(node.entries, scope)
        if isinstance(node, syntax.CidrExcept):
            return self._except(node, scope)
        if isinstance(node, syntax.FileRef):
            return self._file(node, scope)
        return self._reference(node, scope)

    def prefix(self, node: syntax.Address) -> Prefix | None:
        """The prefix that is written, or None and a finding."""
        try:
            prefix = addresses.prefix(node.text)
        except BadAddress as error:
            self.found.add(error.name, error.message, node.span, help=error.help)
            return None
        self.mention(prefix)
        return prefix

    def _reference(self, node: syntax.Reference, scope: Scope) -> AddressSet:
        declared = scope.peer(node.name, self.found, "CIDR set")
        if declared is None:
            return EMPTY
        if isinstance(declared.node, syntax.Cidr):
            known = self._sets.get(declared)
            return known if known is not None else self.named(declared)
        notes = (("declared here", declared.node.name.span),)
        message = f"`{node.name.text}` is an identity; here addresses stand"
        help = "identities stand among the peers of a rule, outside the brackets"
        self.found.add("wrong-kind", message, node.span, help=help, notes=notes)
        return EMPTY

    def _file(self, node: syntax.FileRef, scope: Scope) -> AddressSet:
        name = node.path.text
        try:
            relative = self.root.resolve(name, scope.folder)
            known = self._feeds.get(relative)
            if known is not None:
                return known
            text, _ = self.root.read(relative, name, FEED)
        except Refused as error:
            self.found.add(error.name, error.message, node.path.span, help=error.help)
            return EMPTY
        self.feeds.append(relative)
        result = self._feeds[relative] = feed(text, relative, self.found)
        for ranges, mentioned, bits in zip((result.v4, result.v6), self._mentioned, (32, 128), strict=True):
            mentioned.extend(r for r in ranges if r != (0, (1 << bits) - 1))
        return result

    def _except(self, node: syntax.CidrExcept, scope: Scope) -> AddressSet:
        base = self._entry(node.base, scope)
        if isinstance(node.base, syntax.CidrList):
            return self._difference(base, self._entry(node.removed, scope), node.span)
        if not isinstance(node.base, syntax.Address):
            help = "write `[ … ] except …` to subtract from a whole set"
            self.found.add("misplaced-exception", "`except` stands after a prefix or a list", node.span, help=help)
            return base
        if addresses.is_empty(base):
            self._entry(node.removed, scope)
            return EMPTY
        leaves = [self._inside(leaf, node.base, base, scope) for leaf in _leaves(node.removed)]
        removed = self._union(leaves, node.removed.span)
        left = self._difference(base, removed, node.span)
        if addresses.is_empty(left) and not self.extent.full:
            message = f"the exception covers all of `{node.base.text}`"
            self.found.add("except-covers", message, node.removed.span, help="drop the entry, or except less")
        return left

    def _inside(self, leaf: syntax.CidrEntry, base_node: syntax.Address, base: AddressSet, scope: Scope) -> AddressSet:
        removed = self._entry(leaf, scope)
        if not addresses.is_empty(self._difference(removed, base, leaf.span)):
            help = "`[ … ] except [ … ]` subtracts what need not lie inside"
            message = f"this exception is not inside `{base_node.text}`"
            self.found.add("except-outside", message, leaf.span, help=help, notes=(("its entry", base_node.span),))
        return removed


def _leaves(node: syntax.CidrEntry) -> Iterator[syntax.CidrEntry]:
    if not isinstance(node, syntax.CidrList):
        yield node
        return
    for entry in node.entries:
        yield from _leaves(entry)
