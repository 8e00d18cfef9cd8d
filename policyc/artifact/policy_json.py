"""`PolicySet` as plain JSON and back, without loss: `decode(encode(p)) == p`.

Spans are `[file index, line, column, end line, end column]`. Address sets stand once each in `address_sets` and are
referred to by index; IPv4 ranges are pairs of integers, IPv6 ranges pairs of 32 hexadecimal digits, ends included.
A peer is a word (`any`, `world`, `host`, `endpoints`) or an object with `selector`, `same` or `cidrs`. A value of an HTTP entry is
`[kind, text, span]`. Rules without a block and expectations without a request have no `http`.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, Literal, cast

from policyc.artifact.shape import Node, ShapeError
from policyc.model import (
    HTTP_HEAD_LIMIT_MAX,
    Action,
    AddressSet,
    Direction,
    Endpoint,
    Expectation,
    HttpBlock,
    HttpCondition,
    HttpEntry,
    HttpExpectation,
    Isolation,
    Op,
    Pattern,
    Peer,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Rule,
    Selector,
    Service,
    Span,
    Subject,
    Test,
    TestEnd,
    Tier,
)

Json = Any
Family = Literal["4", "6"]
PRIORITY_MAX = 1_000_000


def encode_selector(selector: Selector) -> Json:
    return [[r.key, r.op.value, list(r.values)] for r in selector.requirements]


def decode_selector(node: Node) -> Selector:
    return Selector(tuple(_decode_requirement(item) for item in node.items()))


def _decode_requirement(node: Node) -> Requirement:
    key, op, values = node.fixed(3)
    requirement = Requirement(key.text(), op.word(Op), tuple(v.text() for v in values.items()))
    count = len(requirement.values)
    allowed = {Op.EQ: count == 1, Op.NE: count == 1, Op.IN: count > 0, Op.NOT_IN: count > 0}
    if not allowed.get(requirement.op, count == 0):
        raise values.error(f"as many values as `{requirement.op.value}` takes")
    return requirement


class SpanTable:
    """The file names that spans refer to, in order of first use."""

    def __init__(self) -> None:
        self.names: dict[str, int] = {}

    def encode(self, span: Span) -> Json:
        index = self.names.setdefault(span.file, len(self.names))
        return [index, span.line, span.column, span.end_line, span.end_column]


def decode_span(node: Node, names: Sequence[str]) -> Span:
    file, *places = node.fixed(5)
    index = file.integer()
    if index >= len(names):
        raise file.error("the index of a file")
    line, column, end_line, end_column = (p.integer() for p in places)
    return Span(names[index], line, column, end_line, end_column)


# --- encoding -------------------------------------------------------------------------------------------------


class _Encoder:
    def __init__(self) -> None:
        self.spans = SpanTable()
        self.sets: dict[AddressSet, int] = {}

    def policy_set(self, policy: PolicySet) -> Json:
        identities = [
            [name, None if selector is None else encode_selector(selector)]
            for name, selector in policy.identities.items()
        ]
        body = {
            "language": policy.language,
            "files": [list(f) for f in policy.files],
            "identities": identities,
            "policies": [self.policy(p) for p in policy.policies],
            "prefixes": self.addresses(policy.prefixes),
            "tests": [self.test(t) for t in policy.tests],
        }
        return body | {
            "address_sets": [_encode_addresses(s) for s in self.sets],
            "span_files": list(self.spans.names),
        }

    def addresses(self, addresses: AddressSet) -> int:
        return self.sets.setdefault(addresses, len(self.sets))

    def peer(self, peer: Peer) -> Json:
        if isinstance(peer, PeerClass):
            return peer.value
        if isinstance(peer, PeerSelector):
            return {"selector": encode_selector(peer.selector), "name": peer.name}
        if isinstance(peer, PeerSame):
            return {"same": list(peer.keys)}
        return {"cidrs": self.addresses(peer.addresses), "world_only": peer.world_only, "name": peer.name}

    def policy(self, policy: Policy) -> Json:
        isolation = {d.word: {"log": i.log, "span": self.spans.encode(i.span)} for d, i in policy.isolation.items()}
        return {
            "name": policy.name,
            "subjects": [self.peer(s) for s in policy.subjects],
            "tier": policy.tier.word,
            "priority": policy.priority,
            "audit": policy.audit,
            "isolation": isolation,
            "rules": [self.rule(r) for r in policy.rules],
            "span": self.spans.encode(policy.span),
        }

    def rule(self, rule: Rule) -> Json:
        return {
            "order": rule.order,
            "ref": rule.ref,
            "policy": rule.policy,
            "direction": rule.direction.word,
            "tier": rule.tier.word,
            "priority": rule.priority,
            "action": rule.action.word,
            "peers": [self.peer(p) for p in rule.peers],
            "services": [_encode_service(s) for s in rule.services],
            "log": rule.log,
            "audit": rule.audit,
            "span": self.spans.encode(rule.span),
        } | ({} if rule.http is None else {"http": self.http_block(rule.http)})

    def http_block(self, block: HttpBlock) -> Json:
        return {
            "entries": [self.http_entry(e) for e in block.entries],
            "audit": block.audit,
            "limit": block.limit,
            "span": self.spans.encode(block.span),
        }

    def http_entry(self, entry: HttpEntry) -> Json:
        return {
            "number": entry.number,
            "action": entry.action.word,
            "methods": list(entry.methods),
            "paths": self.patterns(entry.paths),
            "hosts": self.patterns(entry.hosts),
            "conditions": [self.http_condition(c) for c in entry.conditions],
            "upgrade": None if entry.upgrade is None else list(entry.upgrade),
            "body": entry.body,
            "span": self.spans.encode(entry.span),
        }

    def http_condition(self, condition: HttpCondition) -> Json:
        return {
            "kind": condition.kind,
            "name": condition.name,
            "values": self.patterns(condition.values),
            "absent": condition.absent,
        }

    def patterns(self, patterns: Sequence[Pattern]) -> Json:
        return [[p.kind, p.text, self.spans.encode(p.span)] for p in patterns]

    def test(self, test: Test) -> Json:
        return {
            "title": test.title,
            "endpoints": [_encode_endpoint(e) for e in test.endpoints],
            "expectations": [self.expectation(e) for e in test.expectations],
            "span": self.spans.encode(test.span),
        }

    def expectation(self, expectation: Expectation) -> Json:
        return {
            "verdict": expectation.verdict,
            "sources": [_encode_end(e) for e in expectation.sources],
            "destinations": [_encode_end(e) for e in expectation.destinations],
            "services": [_encode_service(s) for s in expectation.services],
            "by": expectation.by,
            "span": self.spans.encode(expectation.span),
        } | ({} if expectation.http is None else {"http": _encode_request(expectation.http)})


def _encode_addresses(addresses: AddressSet) -> Json:
    return {"v4": [list(r) for r in addresses.v4], "v6": [[f"{a:032x}", f"{b:032x}"] for a, b in addresses.v6]}


def _encode_service(service: Service) -> Json:
    return {
        "protocol": service.protocol,
        "ports": None if service.ports is None else list(service.ports),
        "icmp_type": service.icmp_type,
        "icmp_code": service.icmp_code,
    }


def _encode_request(request: HttpExpectation) -> Json:
    return {
        "method": request.method,
        "target": request.target,
        "host": request.host,
        "headers": [list(h) for h in request.headers],
    }


def _encode_address(address: tuple[Family, int]) -> Json:
    family, value = address
    return value if family == "4" else f"{value:032x}"


def _encode_endpoint(endpoint: Endpoint) -> Json:
    return {
        "name": endpoint.name,
        "addresses": [_encode_address(a) for a in endpoint.addresses],
        "labels": dict(endpoint.labels),
        "cgroup": endpoint.cgroup,
        "interface": endpoint.interface,
    }


def _encode_end(end: TestEnd) -> Json:
    return {
        "kind": end.kind,
        "name": end.name,
        "address": None if end.address is None else _encode_address(end.address),
    }


def encode(policy: PolicySet) -> Json:
    return _Encoder().policy_set(policy)


# --- decoding -------------------------------------------------------------------------------------------------


class _Decoder:
    def __init__(self, document: Node) -> None:
        self.document = document
        self.files = [n.text() for n in document.get("span_files").items()]
        self.sets = [_decode_addresses(n) for n in document.get("address_sets").items()]

    def policy_set(self) -> PolicySet:
        doc = self.document
        return PolicySet(
            language=doc.get("language").integer(1),
            files=tuple(_pair(n) for n in doc.get("files").items()),
            identities=dict(_decode_identity(n) for n in doc.get("identities").items()),
            policies=tuple(self.policy(n) for n in doc.get("policies").items()),
            prefixes=self.addresses(doc.get("prefixes")),
            tests=tuple(self.test(n) for n in doc.get("tests").items()),
        )

    def span(self, node: Node) -> Span:
        return decode_span(node.get("span"), self.files)

    def addresses(self, node: Node) -> AddressSet:
        index = node.integer()
        if index >= len(self.sets):
            raise node.error("the index of an address set")
        return self.sets[index]

    def peer(self, node: Node) -> Peer:
        if isinstance(node.value, str):
            return node.word(PeerClass)
        if (selector := node.optional("selector")) is not None:
            return PeerSelector(decode_selector(selector), _optional_text(node, "name"))
        if (same := node.optional("same")) is not None:
            return PeerSame(tuple(k.text() for k in same.items()))
        return PeerCidrs(self.addresses(node.get("cidrs")), node.get("world_only").flag(), _optional_text(node, "name"))

    def subject(self, node: Node) -> Subject:
        peer = self.peer(node)
        if isinstance(peer, PeerSelector) or peer in (PeerClass.HOST, PeerClass.ENDPOINTS):
            return peer
        raise node.error("endpoints, host or a selector")

    def policy(self, node: Node) -> Policy:
        return Policy(
            name=node.get("name").text(),
            subjects=tuple(self.subject(n) for n in node.get("subjects").items()),
            tier=node.get("tier").word(Tier),
            priority=node.get("priority").integer(0, PRIORITY_MAX),
            audit=node.get("audit").flag(),
            isolation=self.isolation(node.get("isolation")),
            rules=tuple(self.rule(n) for n in node.get("rules").items()),
            span=self.span(node),
        )

    def isolation(self, node: Node) -> dict[Direction, Isolation]:
        found = {d: node.optional(d.word) for d in Direction}
        return {d: Isolation(n.get("log").flag(), self.span(n)) for d, n in found.items() if n is not None}

    def rule(self, node: Node) -> Rule:
        return Rule(
            order=node.get("order").integer(),
            ref=node.get("ref").text(),
            policy=node.get("policy").text(),
            direction=node.get("direction").word(Direction),
            tier=node.get("tier").word(Tier),
            priority=node.get("priority").integer(0, PRIORITY_MAX),
            action=node.get("action").word(Action),
            peers=tuple(self.peer(n) for n in node.get("peers").items()),
            services=tuple(_decode_service(n) for n in node.get("services").items()),
            log=node.get("log").flag(),
            audit=node.get("audit").flag(),
            span=self.span(node),
            http=None if (block := node.optional("http")) is None else self.http_block(block),
        )

    def http_block(self, node: Node) -> HttpBlock:
        return HttpBlock(
            entries=tuple(self.http_entry(n, i) for i, n in enumerate(node.get("entries").items(), 1)),
            span=self.span(node),
            audit=node.get("audit").flag(),
            limit=node.get("limit").integer(1, HTTP_HEAD_LIMIT_MAX),
        )

    def http_entry(self, node: Node, number: int) -> HttpEntry:
        action = node.get("action").word(Action)
        if action is Action.PASS:
            raise node.get("action").error("allow or deny")
        upgrade = node.optional("upgrade")
        return HttpEntry(
            number=node.get("number").integer(number, number),
            action=action,
            methods=tuple(n.text() for n in node.get("methods").items()),
            paths=self.patterns(node.get("paths")),
            hosts=self.patterns(node.get("hosts")),
            conditions=tuple(self.http_condition(n) for n in node.get("conditions").items()),
            upgrade=None if upgrade is None else tuple(n.text() for n in upgrade.items()),
            body=node.get("body").flag(),
            span=self.span(node),
        )

    def http_condition(self, node: Node) -> HttpCondition:
        kind = node.get("kind").text()
        if kind not in ("header", "query"):
            raise node.get("kind").error("header or query")
        return HttpCondition(
            kind=cast(Literal["header", "query"], kind),
            name=node.get("name").text(),
            values=self.patterns(node.get("values")),
            absent=node.get("absent").flag(),
        )

    def patterns(self, node: Node) -> tuple[Pattern, ...]:
        return tuple(self.pattern(n) for n in node.items())

    def pattern(self, node: Node) -> Pattern:
        kind, text, span = node.fixed(3)
        if kind.value not in ("string", "glob", "regex"):
            raise kind.error("string, glob or regex")
        return Pattern(kind.value, text.text(), decode_span(span, self.files))

    def test(self, node: Node) -> Test:
        return Test(
            title=node.get("title").text(),
            endpoints=tuple(_decode_endpoint(n) for n in node.get("endpoints").items()),
            expectations=tuple(self.expectation(n) for n in node.get("expectations").items()),
            span=self.span(node),
        )

    def expectation(self, node: Node) -> Expectation:
        verdict = node.get("verdict").text()
        if verdict not in ("allow", "deny"):
            raise node.get("verdict").error("allow or deny")
        return Expectation(
            verdict=cast(Literal["allow", "deny"], verdict),
            sources=tuple(_decode_end(n) for n in node.get("sources").items()),
            destinations=tuple(_decode_end(n) for n in node.get("destinations").items()),
            services=tuple(_decode_service(n) for n in node.get("services").items()),
            by=_optional_text(node, "by"),
            span=self.span(node),
            http=None if (request := node.optional("http")) is None else _decode_request(request),
        )


def _pair(node: Node) -> tuple[str, str]:
    first, second = node.fixed(2)
    return first.text(), second.text()


def _optional_text(node: Node, key: str) -> str | None:
    found = node.optional(key)
    return None if found is None else found.text()


def _optional_integer(node: Node, key: str, high: int) -> int | None:
    found = node.optional(key)
    return None if found is None else found.integer(0, high)


def _decode_identity(node: Node) -> tuple[str, Selector | None]:
    name, selector = node.fixed(2)
    return name.text(), None if selector.value is None else decode_selector(selector)


def _decode_addresses(node: Node) -> AddressSet:
    v4 = [(a.integer(), b.integer()) for a, b in (n.fixed(2) for n in node.get("v4").items())]
    v6 = [(a.hexadecimal(32), b.hexadecimal(32)) for a, b in (n.fixed(2) for n in node.get("v6").items())]
    for key, ranges in (("v4", v4), ("v6", v6)):
        if any(a > b for a, b in ranges) or any(b + 1 >= c for (_, b), (c, _) in pairwise(ranges)):
            raise node.get(key).error("ascending ranges with gaps between them")
    return AddressSet(tuple(v4), tuple(v6))


def _decode_service(node: Node) -> Service:
    ports = node.optional("ports")
    span = None
    if ports is not None:
        low, high = (n.integer(1, 65535) for n in ports.fixed(2))
        if low > high:
            raise ports.error("an ascending range")
        span = (low, high)
    return Service(
        protocol=_optional_integer(node, "protocol", 255),
        ports=span,
        icmp_type=_optional_integer(node, "icmp_type", 255),
        icmp_code=_optional_integer(node, "icmp_code", 255),
    )


def _decode_address(node: Node) -> tuple[Family, int]:
    if isinstance(node.value, str):
        return "6", node.hexadecimal(32)
    return "4", node.integer()


def _decode_endpoint(node: Node) -> Endpoint:
    return Endpoint(
        name=node.get("name").text(),
        addresses=tuple(_decode_address(n) for n in node.get("addresses").items()),
        labels={key: value.text() for key, value in node.get("labels").members()},
        cgroup=_optional_text(node, "cgroup"),
        interface=_optional_text(node, "interface"),
    )


def _decode_request(node: Node) -> HttpExpectation:
    return HttpExpectation(
        method=node.get("method").text(),
        target=node.get("target").text(),
        host=_optional_text(node, "host"),
        headers=tuple(_pair(n) for n in node.get("headers").items()),
    )


def _decode_end(node: Node) -> TestEnd:
    kind = node.get("kind").text()
    if kind not in ("endpoint", "identity", "host", "address"):
        raise node.get("kind").error("endpoint, identity, host or address")
    address = node.optional("address")
    return TestEnd(
        cast(Literal["endpoint", "identity", "host", "address"], kind),
        node.get("name").text(),
        None if address is None else _decode_address(address),
    )


def decode(document: Node) -> PolicySet:
    """Raises `ShapeError`."""
    policy = _Decoder(document).policy_set()
    if len({r.order for r in policy.rules}) != len(policy.rules):
        raise ShapeError(f"{document.path or 'the document'}: two rules have one place in source order")
    return policy
