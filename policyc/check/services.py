"""Services: protocols with ports, ICMP types, port sets."""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from policyc.check import icmp
from policyc.check.cycles import settle
from policyc.check.extent import Extent
from policyc.check.findings import Findings
from policyc.check.scope import Declared, Scope
from policyc.grammar import syntax
from policyc.grammar.nearest import nearest
from policyc.model import ICMP, ICMPV6, PROTOCOLS_WITH_PORTS, Service, Span

NUMBERS = {"tcp": 6, "udp": 17, "sctp": 132, "icmp": ICMP, "icmpv6": ICMPV6}
# Names that people try, with the numbers that `proto` takes.
OTHER_PROTOCOLS = {
    "igmp": 2,
    "ipip": 4,
    "gre": 47,
    "esp": 50,
    "ah": 51,
    "ospf": 89,
    "pim": 103,
    "vrrp": 112,
    "l2tp": 115,
}


class Services:
    """Reads services; the values of port sets are kept."""

    def __init__(self, found: Findings, extent: Extent) -> None:
        self.found = found
        self.extent = extent
        self._sets: dict[Declared, tuple[Service, ...]] = {}

    def read(self, nodes: Iterable[syntax.Service], scope: Scope) -> tuple[Service, ...]:
        """What the nodes mean, each once, in source order."""
        listed = list(nodes)
        if len(listed) == 1 and isinstance(listed[0], syntax.Reference):
            return self._reference(listed[0], scope)
        if self.extent.full:
            return ()
        sets: set[int] = set()  # a set named a thousand times is written out once
        result = tuple(dict.fromkeys(s for node in listed for s in self._node(node, scope, sets)))
        return result if self.extent.add(len(result), listed[0].span if listed else None) else ()

    def port_set(self, declared: Declared) -> tuple[Service, ...]:
        """The services of a port set. Sets it names are read first, so that chains of any length are."""
        settle(declared, self._named, self._read_set, self._sets, (), self.found)
        return self._sets[declared]

    def _named(self, declared: Declared) -> Iterator[tuple[syntax.Word, Declared]]:
        assert isinstance(declared.node, syntax.Ports)
        pending: list[syntax.Service] = [declared.node.services]
        while pending:
            node = pending.pop()
            if isinstance(node, syntax.ServiceList):
                pending.extend(reversed(node.entries))
            elif isinstance(node, syntax.Reference) and node.name.text in declared.scope.ports:
                yield node.name, declared.scope.ports[node.name.text]

    def _read_set(self, declared: Declared) -> tuple[Service, ...]:
        assert isinstance(declared.node, syntax.Ports)
        return self.read([declared.node.services], declared.scope)

    def _node(self, node: syntax.Service, scope: Scope, sets: set[int]) -> Iterator[Service]:
        if isinstance(node, syntax.ServiceList):
            for entry in node.entries:
                yield from self._node(entry, scope, sets)
        elif isinstance(node, syntax.Reference):
            known = self._reference(node, scope)
            if id(known) not in sets:
                sets.add(id(known))
                yield from known
        elif isinstance(node, syntax.AnyService):
            yield Service()
        elif isinstance(node, syntax.Protocol):
            yield from self._protocol(node)
        else:
            service = self._word(node)
            if service is not None:
                yield service

    def _reference(self, node: syntax.Reference, scope: Scope) -> tuple[Service, ...]:
        name = node.name.text
        if name in OTHER_PROTOCOLS and name not in scope.ports:
            help = f"write `proto {OTHER_PROTOCOLS[name]}`"
            self.found.add("bad-protocol", f"`{name}` is not a word of the language", node.span, help=help)
            return ()
        declared = scope.port_set(node.name, self.found)
        if declared is None:
            return ()
        known = self._sets.get(declared)
        return known if known is not None else self.port_set(declared)

    def _protocol(self, node: syntax.Protocol) -> Iterator[Service]:
        text, slash, _ = node.number.text.partition("/")
        if slash:
            self._portless(f"proto {text}", node.span)
        elif not text.isdigit() or int(text) > 255:
            message = f"`{text[:40]}` is not the number of a protocol"
            self.found.add("bad-protocol", message, node.number.span, expected=("a number from 0 to 255",))
        else:
            yield Service(int(text))

    def _portless(self, protocol: str, span: Span) -> None:
        help = "tcp/N, udp/N or sctp/N have ports"
        self.found.add("port-on-portless", f"`{protocol}` has no ports", span, help=help)

    def _word(self, node: syntax.ServiceWord) -> Service | None:
        protocol, slash, rest = node.text.partition("/")
        number = NUMBERS.get(protocol)
        if number is None:
            self._unknown(protocol, rest, node)
            return None
        if not slash:
            return Service(number)
        if number in PROTOCOLS_WITH_PORTS:
            ports = self._ports(rest, node)
            return None if ports is None else Service(number, ports)
        return self._icmp(number, rest, node)

    def _unknown(self, protocol: str, rest: str, node: syntax.ServiceWord) -> None:
        if protocol == "any" or protocol in OTHER_PROTOCOLS:
            self._portless(protocol, node.span)
            return
        suggestion = nearest(protocol, NUMBERS)
        if suggestion and rest:
            suggestion += f"/{rest}"
        expected = ("tcp", "udp", "sctp", "icmp", "icmpv6", "proto N", "any", "a port set")
        message = f"`{node.text[:60]}` is not a service"
        self.found.add("bad-protocol", message, node.span, expected=expected, suggestion=suggestion)

    def _ports(self, text: str, node: syntax.ServiceWord) -> tuple[int, int] | None:
        first, dash, last = text.partition("-")
        numbers = [self._port(first, node), self._port(last, node) if dash else None]
        if numbers[0] is None or (dash and numbers[1] is None):
            return None
        low, high = numbers[0], numbers[0] if numbers[1] is None else numbers[1]
        if low == 0:
            self.found.add("port-zero", "port 0 is no destination", node.span, help="ports begin with 1")
            return None
        if low > high:
            protocol = node.text.partition("/")[0]
            help = f"write {protocol}/{high}-{low}"
            self.found.add("inverted-range", f"the range `{text}` is the wrong way round", node.span, help=help)
            return None
        return low, high

    def _port(self, text: str, node: syntax.ServiceWord) -> int | None:
        if text.isdigit() and len(text) <= 8 and int(text) <= 65535:
            return int(text)
        help = None if text.isdigit() else "ports are numbers; a range is written 8000-8100"
        message = f"`{text[:40]}` is not a port"
        self.found.add("bad-port", message, node.span, expected=("a number from 1 to 65535",), help=help)
        return None

    def _icmp(self, number: int, text: str, node: syntax.ServiceWord) -> Service | None:
        types = icmp.ICMP_TYPES if number == ICMP else icmp.ICMPV6_TYPES
        codes = icmp.ICMP_CODES if number == ICMP else icmp.ICMPV6_CODES
        name, slash, code_name = text.partition("/")
        type = self._icmp_value(name, types, "type", node)
        if type is None:
            return None
        if not slash:
            return Service(number, None, type)
        code = self._icmp_value(code_name, codes.get(type, {}), "code", node)
        return None if code is None else Service(number, None, type, code)

    def _icmp_value(self, text: str, names: dict[str, int], what: str, node: syntax.ServiceWord) -> int | None:
        if text in names:
            return names[text]
        if text.isdigit() and len(text) <= 8 and int(text) <= 255:
            return int(text)
        message = f"`{text[:40]}` is not an ICMP {what}"
        expected = ("a number from 0 to 255", "a standard name")
        self.found.add("bad-icmp-type", message, node.span, expected=expected, suggestion=nearest(text, names))
        return None
