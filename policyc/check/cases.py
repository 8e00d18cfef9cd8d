"""`test` blocks: endpoints and expectations."""

from __future__ import annotations

from itertools import chain
from typing import Literal

from policyc.check import addresses
from policyc.check.addresses import BadAddress, Family, Prefix
from policyc.check.cidrs import Cidrs
from policyc.check.findings import Findings
from policyc.check.policies import not_there_yet
from policyc.check.requests import request
from policyc.check.scope import Scope
from policyc.check.selectors import label
from policyc.check.services import Services
from policyc.grammar import syntax
from policyc.model import Endpoint, Expectation, Span, Test, TestEnd


class References:
    """The references that `by` can name, those of entries included; of `broken` policies, and where a file was `lost`, some may be missing."""

    def __init__(self, known: set[str], broken: set[str], lost: bool) -> None:
        self.known = known
        self.sorted = sorted(known)
        self.broken = broken
        self.lost = lost

    def check(self, word: syntax.Word, found: Findings) -> str | None:
        """None for what is surely no reference; then there is a finding."""
        reference = word.text
        if self.lost or reference in self.known or reference.partition(".")[0] in self.broken:
            return reference
        rule, _, entry = reference.rpartition(".")
        help = "write `POLICY.NAME` for a rule `as NAME`, or `POLICY.DIRECTION.N`"
        if entry.isdigit() and rule in self.known:
            help = f"`{rule}` has no entry of this number"
            if f"{rule}.1" not in self.known:
                help = f"`{rule}` has no block, and so no entries"
        suggestion = found.suggestion(reference, self.sorted, len(self.sorted))
        found.add(
            "unknown-reference", f"there is no rule `{reference[:80]}`", word.span, suggestion=suggestion, help=help
        )
        return None


class Cases:
    def __init__(self, cidrs: Cidrs, services: Services, references: References, found: Findings) -> None:
        self.cidrs = cidrs
        self.services = services
        self.references = references
        self.found = found

    def check(self, node: syntax.Test, scope: Scope) -> Test:
        endpoints = self._endpoints([e for e in node.entries if isinstance(e, syntax.Endpoint)])
        expectations = tuple(
            self._expectation(e, endpoints, scope) for e in node.entries if isinstance(e, syntax.Expectation)
        )
        return Test(node.title.text, tuple(endpoints.values()), expectations, node.span)

    # --- endpoints
    def _endpoints(self, nodes: list[syntax.Endpoint]) -> dict[str, Endpoint]:
        result: dict[str, Endpoint] = {}
        places: dict[str, Span] = {}
        holders: dict[tuple[Family, int], str] = {}
        for node in nodes:
            name = node.name.text
            first = places.setdefault(name, node.name.span)
            if first is not node.name.span:
                notes = (("first declared here", first),)
                self.found.add("duplicate-name", f"endpoint `{name}` is declared twice", node.name.span, notes=notes)
                continue
            read = [self._own_address(a, name, holders) for a in node.addresses]
            result[name] = Endpoint(name, tuple(dict.fromkeys(a for a in read if a)), self._labels(node))
        return result

    def _own_address(
        self, node: syntax.Address, name: str, holders: dict[tuple[Family, int], str]
    ) -> tuple[Family, int] | None:
        address = self._address(node)
        if address is None:
            return None
        holder = holders.setdefault(address, name)
        if holder != name:
            self.found.add("duplicate-address", f"`{node.text}` belongs to endpoint `{holder}`", node.span)
        return address

    def _address(self, node: syntax.Address) -> tuple[Family, int] | None:
        try:
            address = addresses.number(node.text)
        except BadAddress as error:
            help = "one address stands here, not a prefix" if "/" in node.text else error.help
            self.found.add(error.name, error.message, node.span, help=help)
            return None
        self.cidrs.mention(Prefix(*address, addresses.BITS[address[0]]))
        return address

    def _labels(self, node: syntax.Endpoint) -> dict[str, str]:
        result: dict[str, str] = {}
        for entry in node.labels:
            key = label(entry.key, self.found)
            if key in result:
                self.found.add("duplicate-label", f"label `{key}` is set twice", entry.key.span)
            result[key] = label(entry.value, self.found)
        return result

    # --- expectations
    def _expectation(self, node: syntax.Expectation, endpoints: dict[str, Endpoint], scope: Scope) -> Expectation:
        sources = self._ends(node.sources, endpoints, scope)
        destinations = self._ends(node.destinations, endpoints, scope)
        self._families(node, sources, destinations, _Families(endpoints, scope.broken))
        services = self.services.read(node.services, scope)
        by, http = None, None
        if isinstance(node.request, syntax.Reserved):
            not_there_yet(node.request.what, node.request.span, self.found)
        elif node.request is not None:
            http = request(node.request, services, self.found)
        if node.by is not None and not isinstance(node.request, syntax.Reserved):
            by = self.references.check(node.by, self.found)
        verdict: Literal["allow", "deny"] = "allow" if node.verdict.text == "allow" else "deny"
        known = tuple(e for e in sources if e), tuple(e for e in destinations if e)
        return Expectation(verdict, *known, services, by, node.span, http)

    def _ends(
        self, nodes: tuple[syntax.Word | syntax.Address, ...], endpoints: dict[str, Endpoint], scope: Scope
    ) -> list[TestEnd | None]:
        return [self._end(node, endpoints, scope) for node in nodes]

    def _end(self, node: syntax.Word | syntax.Address, endpoints: dict[str, Endpoint], scope: Scope) -> TestEnd | None:
        if isinstance(node, syntax.Address):
            address = self._address(node)
            return TestEnd("address", node.text, address) if address else None
        if node.text == "host":
            return TestEnd("host", "host")
        if node.text in endpoints:
            return TestEnd("endpoint", node.text)
        declared = scope.peers.get(node.text)
        if declared is not None and isinstance(declared.node, syntax.Identity):
            declared.used = True
            return TestEnd("identity" if declared.node.selector else "host", node.text)
        if declared is not None:
            notes = (("declared here", declared.node.name.span),)
            message = f"`{node.text}` is a CIDR set; a flow has one address at each end"
            self.found.add("wrong-kind", message, node.span, help="write an address of it", notes=notes)
            return None
        if scope.lost or node.text in scope.broken:
            return None
        identities = (n for n, d in scope.peers.items() if isinstance(d.node, syntax.Identity))
        count = len(endpoints) + len(scope.peers)
        suggestion = self.found.suggestion(node.text, chain(endpoints, identities), count)
        if scope.nameless and suggestion is None:
            return None
        help = "ends are endpoints of this test, identities, `host` and addresses"
        message = f"there is no endpoint or identity `{node.text[:80]}`"
        self.found.add("unknown-name", message, node.span, suggestion=suggestion, help=help)
        return None

    def _families(
        self,
        node: syntax.Expectation,
        sources: list[TestEnd | None],
        destinations: list[TestEnd | None],
        families: _Families,
    ) -> None:
        # Ends with the same families behave alike: one of each kind stands for all.
        starts = {families.of(end): end for end in reversed(sources) if end is not None}
        for source in reversed(starts.values()):
            for at, destination in enumerate(destinations):
                if destination is None or families.of(source) & families.of(destination):
                    continue
                message = f"`{source.name}` and `{destination.name}` have no address of one family"
                self.found.add("family-mismatch", message, node.destinations[at].span)
                return


class _Families:
    """The address families of ends; those of an endpoint that did not parse whole may be any."""

    def __init__(self, endpoints: dict[str, Endpoint], broken: set[str]) -> None:
        self.endpoints = endpoints
        self.broken = broken

    def of(self, end: TestEnd) -> frozenset[str]:
        if end.address is not None:
            return frozenset({end.address[0]})
        if end.kind == "endpoint" and end.name not in self.broken:
            return frozenset(family for family, _ in self.endpoints[end.name].addresses)
        return frozenset({"4", "6"})
