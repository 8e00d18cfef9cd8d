"""What policies mean once names are resolved: the PolicySet."""

from __future__ import annotations

import pytest

from policyc.model import (
    Action,
    AddressSet,
    Direction,
    Op,
    PeerCidrs,
    PeerClass,
    PeerSame,
    PeerSelector,
    Policy,
    PolicySet,
    Requirement,
    Selector,
    Service,
    Tier,
)


@pytest.fixture
def resolved(compiled):
    """The PolicySet of a text that has no error."""

    def run(text: str) -> PolicySet:
        result = compiled(text)
        assert [d for d in result.diagnostics if d.severity == "error"] == []
        assert result.policy is not None
        return result.policy

    return run


@pytest.fixture
def only(resolved):
    """The one policy of a text."""

    def run(text: str) -> Policy:
        [policy] = resolved(text).policies
        return policy

    return run


def services(only, text: str) -> tuple[Service, ...]:
    return only(f"policy p for host {{ ingress {{ allow from any on {text} }} }}").rules[0].services


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("tcp", [Service(6)]),
        ("tcp/80", [Service(6, (80, 80))]),
        ("udp/1-65535", [Service(17, (1, 65535))]),
        ("sctp/5", [Service(132, (5, 5))]),
        ("icmp", [Service(1)]),
        ("icmp/8", [Service(1, None, 8)]),
        ("icmp/destination-unreachable/port-unreachable", [Service(1, None, 3, 3)]),
        ("icmp/3/4", [Service(1, None, 3, 4)]),
        ("icmpv6/echo-request", [Service(58, None, 128)]),
        ("icmpv6/packet-too-big", [Service(58, None, 2)]),
        ("proto 6", [Service(6)]),
        ("proto 0, proto 255", [Service(0), Service(255)]),
        ("any", [Service()]),
        ("[ tcp/80, [ udp/53, tcp/80, ], ]", [Service(6, (80, 80)), Service(17, (53, 53))]),
    ],
)
def test_services(only, text: str, expected: list[Service]) -> None:
    assert services(only, text) == tuple(expected)


def test_port_sets_name_port_sets_in_any_order(only) -> None:
    text = "ports b = [ a, udp/53 ]\nports a = [ tcp/80 ]\npolicy p for host { ingress { allow from any on b, tcp/1 } }"
    assert only(text).rules[0].services == (Service(6, (80, 80)), Service(17, (53, 53)), Service(6, (1, 1)))


def test_no_on_means_any_protocol(only) -> None:
    assert only("policy p for host { ingress { allow from any } }").rules[0].services == ()


def cidrs(only, text: str, before: str = "") -> AddressSet:
    rule = only(f"{before}\npolicy p for host {{ ingress {{ allow from {text} }} }}").rules[0]
    [peer] = rule.peers
    assert isinstance(peer, PeerCidrs)
    return peer.addresses


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("10.0.0.0/8", ((0x0A000000, 0x0AFFFFFF),)),
        ("10.0.0.1", ((0x0A000001, 0x0A000001),)),
        ("0.0.0.0/0", ((0, 0xFFFFFFFF),)),
        ("[ 10.0.0.0/9, 10.128.0.0/9 ]", ((0x0A000000, 0x0AFFFFFF),)),
        ("10.0.0.0/30 except 10.0.0.1", ((0x0A000000, 0x0A000000), (0x0A000002, 0x0A000003))),
        ("10.0.0.0/30 except [ 10.0.0.0/31, 10.0.0.3 ]", ((0x0A000002, 0x0A000002),)),
        ("[ 10.0.0.0/30, 10.0.0.8 ] except [ 10.0.0.0/29, 192.0.2.0/24 ]", ((0x0A000008, 0x0A000008),)),
        ("[ [ 10.0.0.0/30 ] except 10.0.0.0/31, 10.0.0.0 ]", ((0x0A000000, 0x0A000000), (0x0A000002, 0x0A000003))),
        ("[]", ()),
    ],
)
def test_address_sets(only, text: str, expected: tuple) -> None:
    assert cidrs(only, text).v4 == expected


def test_named_sets(only) -> None:
    sets = "cidr b = [ a, 192.0.2.1 ] except [ c ]\ncidr a = [ 192.0.2.0/31 ]\ncidr c = [ 192.0.2.0 ]"
    assert cidrs(only, "b", sets) == AddressSet(v4=((0xC0000201, 0xC0000201),))


def test_prefixes_are_all_that_is_mentioned_but_everything(resolved) -> None:
    text = """cidr unused = [ 10.0.0.0/8 except 10.1.0.0/16 ] except [ 192.0.2.0/24 ]
policy p for host { ingress { allow from 0.0.0.0/0, ::/0, 2001:db8::/32 } }
test "t" { endpoint e 203.0.113.9 { a = b } allow 198.51.100.1 -> e }
"""
    prefixes = resolved(text).prefixes
    assert prefixes.v4 == (
        (0x0A000000, 0x0AFFFFFF),
        (0xC0000200, 0xC00002FF),
        (0xC6336401, 0xC6336401),
        (0xCB007109, 0xCB007109),
    )
    assert prefixes.v6 == ((0x20010DB8 << 96, (0x20010DB9 << 96) - 1),)


def test_peers(only) -> None:
    text = """identity web { app == web }
identity me
cidr net = [ 10.0.0.0/8 ]
policy p for web {
  ingress {
    allow from any, world, host, endpoints, web, me, net, { exists k }, {}, same(ns, "app", ns),
               world(net), world(10.0.0.0/8, net)
  }
}
"""
    ten = AddressSet(v4=((0x0A000000, 0x0AFFFFFF),))
    assert only(text).rules[0].peers == (
        PeerClass.ANY,
        PeerClass.WORLD,
        PeerClass.HOST,
        PeerClass.ENDPOINTS,
        PeerSelector(Selector((Requirement("app", Op.EQ, ("web",)),)), "web"),
        PeerCidrs(ten, False, "net"),
        PeerSelector(Selector((Requirement("k", Op.EXISTS),))),
        PeerSelector(Selector()),
        PeerSame(("ns", "app")),
        PeerCidrs(ten, True, "net"),
        PeerCidrs(ten, True),
    )


def test_subjects(only, resolved) -> None:
    text = "identity web { app == web }\nidentity me\npolicy p for web, { exists k }, endpoints, me { egress {} }"
    web = PeerSelector(Selector((Requirement("app", Op.EQ, ("web",)),)), "web")
    inline = PeerSelector(Selector((Requirement("k", Op.EXISTS),)))
    assert only(text).subjects == (web, inline, PeerClass.ENDPOINTS, PeerClass.HOST)
    assert resolved(text).identities == {"web": web.selector, "me": None}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("a == x, b != y", [("a", Op.EQ, ("x",)), ("b", Op.NE, ("y",))]),
        ("a in (x), b not in (y)", [("a", Op.EQ, ("x",)), ("b", Op.NE, ("y",))]),
        ("a in (z, x, z), exists a", [("a", Op.IN, ("z", "x"))]),
        ("a in (x, y, z), a != x, a in (z, x)", [("a", Op.EQ, ("z",))]),
        ("not exists a, a != x", [("a", Op.NOT_EXISTS, ())]),
        ("exists a, a != x, a not in (x, y)", [("a", Op.EXISTS, ()), ("a", Op.NOT_IN, ("x", "y"))]),
        ("a == x, a == x,", [("a", Op.EQ, ("x",))]),
        ('"k8s:app" == "1", k8s:io/x == 10.0.0.1', [("k8s:app", Op.EQ, ("1",)), ("k8s:io/x", Op.EQ, ("10.0.0.1",))]),
        ('a == "", b == "say \\"hi\\""', [("a", Op.EQ, ("",)), ("b", Op.EQ, ('say "hi"',))]),
    ],
)
def test_selectors(resolved, text: str, expected: list) -> None:
    wanted = Selector(tuple(Requirement(*r) for r in expected))
    assert resolved(f"identity i {{ {text} }}\npolicy p for i {{ egress {{}} }}").identities["i"] == wanted


@pytest.mark.parametrize(
    "text",
    [
        "a == x, a == y",
        "a in (x, y), a in (z)",
        "exists a, not exists a",
        "a == x, not exists a",
        "a == x, a != x",
        "a in (x, y), a not in (y, x)",
    ],
)
def test_unsatisfiable_selectors(names, text: str) -> None:
    assert names(f"policy p for {{ {text} }} {{ egress {{}} }}") == ["unsatisfiable-selector"]


IN, OUT = Direction.INGRESS, Direction.EGRESS


@pytest.mark.parametrize(
    ("header", "body", "expected"),
    [
        ("", "ingress {}", {IN}),
        ("", "ingress {} egress {}", {IN, OUT}),
        ("", "", set()),
        ("default deny", "", {IN, OUT}),
        ("default deny", "ingress default pass {}", {OUT}),
        ("default pass", "ingress {}", set()),
        ("default pass", "ingress default deny {} egress {}", {IN}),
        ("tier admin", "ingress {}", set()),
        ("tier baseline", "ingress {}", set()),
        ("tier baseline", "ingress default deny {}", {IN}),
        ("tier admin default deny", "", {IN, OUT}),
    ],
)
def test_isolation(only, header: str, body: str, expected: set) -> None:
    assert set(only(f"policy p for host {header} {{ {body} }}").isolation) == expected


def test_isolation_says_where_and_whether_it_logs(only) -> None:
    policy = only("policy p for host default deny log {\n  ingress default deny {}\n}")
    assert (policy.isolation[IN].log, str(policy.isolation[IN].span)) == (False, "main.pol:2:11")
    assert (policy.isolation[OUT].log, str(policy.isolation[OUT].span)) == (True, "main.pol:1:19")
    implied = only("policy p for host {\n  egress {\n  }\n}").isolation[OUT]
    assert (str(implied.span), implied.span.end_line) == ("main.pol:2:3", 3)


def test_rules(only) -> None:
    policy = only(
        """policy p for host priority 7 audit tier admin {
  egress { pass to any priority 3 log }
  ingress {
    allow from any
    deny from world on tcp audit log as x priority 1000000
  }
}"""
    )
    assert (policy.tier, policy.priority, policy.audit) == (Tier.ADMIN, 7, True)
    assert [(r.order, r.ref, r.direction, r.priority, r.action, r.log, r.audit, str(r.span)) for r in policy.rules] == [
        (0, "p.egress.1", OUT, 3, Action.PASS, True, True, "main.pol:2:12"),
        (1, "p.ingress.1", IN, 7, Action.ALLOW, False, True, "main.pol:4:5"),
        (2, "p.x", IN, 1000000, Action.DENY, True, True, "main.pol:5:5"),
    ]


def test_spans_cover_a_rule_to_its_last_word(only) -> None:
    rule = only("policy p for host { ingress {\n  allow from any\n    on tcp/80 as x\n} }").rules[0]
    assert (rule.span.line, rule.span.column, rule.span.end_line, rule.span.end_column) == (2, 3, 3, 19)


def test_columns_count_code_points(compiled) -> None:
    [found] = compiled('test "\U0001f680é" { allow wbe -> host }').diagnostics
    assert str(found.span) == "main.pol:1:19"


def test_tests(resolved) -> None:
    [test] = resolved(
        """identity web { app == web }
policy p for web { ingress { allow from any as x } }
test "title" {
  endpoint web 10.0.0.1, 2001:db8::1 { app = web, "ns" = "1" }
  endpoint silent
  allow host, 192.0.2.1 -> web tcp/80-81, udp/53 by p.x
  deny web -> 2001:db8::2
}
"""
    ).tests
    assert test.title == "title"
    assert [(e.name, e.labels) for e in test.endpoints] == [("web", {"app": "web", "ns": "1"}), ("silent", {})]
    assert test.endpoints[0].addresses == (("4", 0x0A000001), ("6", (0x20010DB8 << 96) + 1))
    first, second = test.expectations
    assert [(e.kind, e.name, e.address) for e in first.sources] == [
        ("host", "host", None),
        ("address", "192.0.2.1", ("4", 0xC0000201)),
    ]
    assert [e.kind for e in first.destinations] == ["endpoint"]
    assert first.services == (Service(6, (80, 81)), Service(17, (53, 53)))
    assert (first.verdict, first.by, second.verdict, second.by) == ("allow", "p.x", "deny", None)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("allow nobody -> host", ["unknown-name"]),
        ("allow net -> host", ["wrong-kind"]),
        ("endpoint a 10.0.0.1 {} endpoint a 10.0.0.2 {} allow a -> host", ["duplicate-name"]),
        ("endpoint a 10.0.0.0/8 {} allow host -> host", ["bad-address"]),
        ("endpoint a ::ffff:10.0.0.1 {} allow host -> host", ["mapped-address"]),
        ("endpoint a 10.0.0.1 {} allow a -> 2001:db8::1", ["family-mismatch"]),
        ("endpoint a 10.0.0.1 {} allow 10.0.0.0/8 -> a", ["bad-address"]),
        ("allow host -> host by p.ingress.2", ["unknown-reference"]),
        ("allow host -> host by q.x", ["unknown-reference"]),
        ("allow host -> host by p.ingress.1.1", ["unknown-reference"]),
        ('allow host -> host tcp/80 GET "/x" by p.ingress.1.1', ["unknown-reference"]),
        ('allow host -> host tcp/80 call "a.B" "Get" by p.ingress.1.1', ["not-there-yet"]),
        ("allow host -> host web", ["unknown-name"]),
    ],
)
def test_mistakes_in_tests(names, body: str, expected: list[str]) -> None:
    policy = "cidr net = [ 10.0.0.0/8 ]\npolicy p for host { ingress { allow from net } }\n"
    assert names(f'{policy}test "t" {{ {body} }}') == expected


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        ("allow from any on tcp/0-10", ["port-zero"]),
        ("allow from any on tcp/80-", ["bad-port"]),
        ("allow from any on tcp/http", ["bad-port"]),
        ("allow from any on tcp/65536", ["bad-port"]),
        ("allow from any on gre", ["bad-protocol"]),
        ("allow from any on gre/1", ["port-on-portless"]),
        ("allow from any on proto 47/80", ["port-on-portless"]),
        ("allow from any on TCP/80", ["bad-protocol"]),
        ("allow from any on icmp/256", ["bad-icmp-type"]),
        ("allow from any on icmp/echo-request/nothing", ["bad-icmp-type"]),
        ("allow from 10.0.0.1-10.0.0.9", ["bad-address"]),
        ("allow from 010.0.0.1", ["bad-address"]),
        ("allow from 1.2.3", ["bad-address"]),
        ("allow from 2001:db8::1/64", ["host-bits"]),
        ("allow from ::ffff:10.0.0.0/104", ["mapped-address"]),
        ("allow from [] except [ 10.0.0.0/8 ]", ["never-matches"]),
        ("allow from 10.0.0.0/8 except [ 10.0.0.0/9, 10.128.0.0/9 ]", ["except-covers"]),
        ("allow from 10.0.0.0/8 except [ 10.1.0.0/16, 11.0.0.0/16, ::1 ]", ["except-outside", "except-outside"]),
        ("allow from any audit audit", ["duplicate-modifier"]),
        ("allow from any priority 1 priority 2", ["duplicate-modifier"]),
    ],
)
def test_mistakes_in_rules(names, rule: str, expected: list[str]) -> None:
    assert names(f"policy p for host {{ ingress {{ {rule} }} }}") == expected


@pytest.mark.parametrize("subject", ["any", "world", "10.0.0.0/8", "net", "same(a)", "world(net)", "[ net ]"])
def test_bad_subjects(names, subject: str) -> None:
    text = f"cidr net = [ 10.0.0.0/8 ]\npolicy p for {subject} {{ ingress {{ allow from net }} }}\n"
    assert names(text) == ["bad-subject"]


def test_help_for_host_bits_is_the_masked_form(compiled) -> None:
    [found] = compiled("policy p for host { ingress { allow from 10.1.2.3/8 } }").diagnostics
    assert found.help == "write 10.0.0.0/8, or 10.1.2.3 for the one address"
