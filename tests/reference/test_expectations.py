"""`test` blocks (semantics 7): synthetic endpoints, combinations, service values, `by`."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc import expectations
from policyc.evaluate import Result, run_tests
from policyc.model import AddressSet, Endpoint, Expectation, Policy, Selector, Service, Test, TestEnd
from policyc.reference.verdict import Traffic, judge
from policyc.reference.world import contains, selects
from policyc.service_values import representatives
from policyc.synthetic import first_gap, least_labels, synthetic_endpoints
from tests.reference.builders import (
    ANY,
    HOST_PEER,
    IN,
    addr,
    cidr,
    ep,
    icmp,
    peer,
    policies,
    policy,
    ranges,
    rule,
    same,
    sel,
    span,
    tcp,
    udp,
    world,
)  # fmt: skip
from tests.reference.test_http_corpus import policy_set

WEB, DB, SHOP = sel(app="web"), sel(app="db"), sel(("exists", "ns"))
IDENTITIES: dict[str, Selector | None] = {
    "web": WEB,
    "db": DB,
    "shop": SHOP,
    "lab": sel(("exists", "ns"), ("!=", "ns", "x")),
    "machine": None,
}


def end(text: str, endpoints: tuple[Endpoint, ...] = ()) -> TestEnd:
    if text == "host":
        return TestEnd("host", text)
    if text in {e.name for e in endpoints}:
        return TestEnd("endpoint", text)
    return TestEnd("identity", text) if text in IDENTITIES else TestEnd("address", text, addr(text))


def run(
    verdict: str, src: str, dst: str, *services: Service, on: list[Policy], by: str | None = None,
    endpoints: tuple[Endpoint, ...] = (), prefixes: AddressSet | None = None,
) -> Result:  # fmt: skip
    sources, destinations = (tuple(end(t, endpoints) for t in text.split(", ")) for text in (src, dst))
    expectation = Expectation(verdict, sources, destinations, services, by, span(9))  # type: ignore[arg-type]
    test = Test("t", endpoints, (expectation,), span(8))
    (result,) = run_tests(policies(*on, identities=IDENTITIES, prefixes=prefixes, tests=(test,)))
    return result


ONLY_WEB = policy(rule("allow", peer(app="web"), tcp(80, 90)), on=peer(app="db"))


def test_identities_stand_for_endpoints() -> None:
    assert run("allow", "web", "db", tcp(80), on=[ONLY_WEB]).passed
    assert run("deny", "db", "db", tcp(80), on=[ONLY_WEB]).passed  # an endpoint to itself
    assert run("deny", "host, machine, 203.0.113.7, 2001:db8::9", "db", on=[ONLY_WEB]).passed


def test_a_failure_says_what_was_expected_what_happened_and_which_rule_decided() -> None:
    result = run("deny", "web", "db", tcp(80), on=[ONLY_WEB])
    assert not result.passed
    assert result.span == span(9)
    assert result.message.startswith("expected deny, got allow: web -> db tcp/80 (")
    assert result.message.endswith("decided by p.ingress.1 (t.pol:1:1)")
    assert "no rule decided (default)" in run("allow", "web", "db", tcp(1), on=[ONLY_WEB]).message


def test_every_pair_must_hold() -> None:
    assert not run("allow", "web, db", "db", tcp(80), on=[ONLY_WEB]).passed
    assert not run(
        "allow", "web", "db, web", tcp(80), on=[ONLY_WEB, policy(isolate=(IN,), on=peer(app="web"), name="q")]
    ).passed


def test_every_value_must_hold() -> None:
    assert run("allow", "web", "db", tcp(80, 90), on=[ONLY_WEB]).passed
    assert not run("allow", "web", "db", tcp(80, 91), on=[ONLY_WEB]).passed
    assert not run("deny", "web", "db", on=[ONLY_WEB]).passed
    assert not run("allow", "web", "db", tcp(), on=[ONLY_WEB]).passed
    whole = policy(rule("allow", ANY, tcp(1, 65535)), on=peer(app="db"))
    assert run("allow", "web", "db", tcp(), on=[whole]).passed
    assert not run("allow", "web", "db", on=[whole]).passed
    assert run("allow", "web", "db", on=[policy(rule("allow"), on=peer(app="db"))]).passed


def test_by_holds_if_any_step_has_the_reference() -> None:
    out = policy(rule("allow", name="out"), on=peer(app="db"))
    assert run("allow", "web", "db", tcp(80), on=[out], by="p.out").passed
    assert "expected allow by p.other" in run("allow", "web", "db", tcp(80), on=[out], by="p.other").message


def test_both_families_are_judged_where_both_ends_have_both() -> None:
    v4_only = policy(rule("allow", cidr("0.0.0.0/0")), on=peer(app="db"))
    assert not run("allow", "web", "db", tcp(80), on=[v4_only]).passed
    assert run("allow", "10.1.1.1", "db", tcp(80), on=[v4_only]).passed


def test_an_expectation_of_very_many_flows_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(expectations, "FLOW_LIMIT", 3)
    assert run("allow", "web", "db", tcp(80), on=[ONLY_WEB]).passed
    result = run("allow", "web, web", "db", tcp(80), on=[ONLY_WEB])
    assert (result.passed, result.flows) == (False, 3)
    assert "more than 3 flows" in result.message


def test_ends_without_a_common_family() -> None:
    assert "no address family in common" in run("deny", "10.0.0.1", "2001:db8::1", on=[]).message


def test_declared_endpoints_win() -> None:
    mine = (ep("web", "10.5.5.5", app="other"),)
    assert run("deny", "web", "db", tcp(80), on=[ONLY_WEB], endpoints=mine).passed


def test_synthetic_addresses_lie_in_no_prefix() -> None:
    blocked = ranges("100.64.0.0/10", "fd00::/8", "0.0.0.0/2")
    expectation = Expectation("deny", (end("web"), end("100.128.0.0")), (end("db"),), (), None, span())
    test = Test("t", (), (expectation,), span())
    made = synthetic_endpoints(policies(identities=IDENTITIES, prefixes=blocked), test)
    addresses = [a for e in made for a in e.addresses]
    assert [e.name for e in made] == ["web", "db"]
    assert len(set(addresses)) == 4
    assert not any(contains(blocked, a) or a == addr("100.128.0.0") for a in addresses)


def test_prefixes_that_leave_nothing_are_told() -> None:
    assert "none is left" in run("deny", "web", "db", on=[], prefixes=ranges("0.0.0.0/1", "128.0.0.0/1")).message


def test_addresses_held_twice_are_told() -> None:
    twice = (ep("a", "10.0.0.1"), ep("b", "10.0.0.1"))
    assert "held by" in run("deny", "a", "b", on=[], endpoints=twice).message


@pytest.mark.parametrize(
    ("selector", "labels"),
    [
        (sel(app="web"), {"app": "web"}),
        (sel(("in", "app", "a", "b")), {"app": "a"}),
        (sel(("in", "app", "a", "b"), ("!=", "app", "a")), {"app": "b"}),
        (sel(("in", "app", "a", "b"), ("in", "app", "c", "b")), {"app": "b"}),
        (sel(("!=", "app", "a"), ("not in", "b", "x"), ("not exists", "c")), {}),
        (sel(("exists", "ns"), ("not in", "ns", "any-x")), {"ns": "any-x-"}),
        (sel(), {}),
    ],
)
def test_least_labels(selector: Selector, labels: dict[str, str]) -> None:
    made = least_labels(policies(identities={"x": selector}), "x", selector)
    assert made == labels
    assert selects(selector, made)


def test_values_of_exists_differ_between_identities() -> None:
    wall = policy(rule("allow", same("ns")), on=peer(("exists", "ns")))
    assert run("deny", "shop", "lab", tcp(80), on=[wall]).passed
    assert run("allow", "shop", "shop", tcp(80), on=[wall]).passed


@given(st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5))), st.integers(0, 50))
def test_first_gap(blocks: list[tuple[int, int]], start: int) -> None:
    blocked = sorted((a, a + n) for a, n in blocks)
    number = first_gap(blocked, start)
    held = {n for a, b in blocked for n in range(a, b + 1)}
    assert number == next(n for n in range(start, 200) if n not in held)


RANGES = st.tuples(st.integers(1, 65535), st.integers(0, 300)).map(lambda r: (r[0], min(65535, r[0] + r[1])))


@given(st.lists(st.tuples(st.sampled_from(["allow", "deny"]), RANGES), max_size=4), RANGES)
def test_representatives_of_a_range_stand_for_every_port(
    items: list[tuple[str, tuple[int, int]]], wanted: tuple[int, int]
) -> None:
    one = policy(*(rule(a, ANY, tcp(*r)) for a, r in items), isolate=(IN,))
    w = world(one)
    few = {
        judge(w, w.endpoints["web"], IN, addr("1.2.3.4"), t).rule for t in representatives(w.policy, (tcp(*wanted),))
    }
    every = {
        judge(w, w.endpoints["web"], IN, addr("1.2.3.4"), Traffic(6, port)).rule
        for port in range(wanted[0], wanted[1] + 1)
    }
    refs = [{r.ref if r else None for r in rules} for rules in (few, every)]
    assert refs[0] == refs[1]


def test_representatives_of_icmp_and_of_any() -> None:
    p = policies(policy(rule("allow", ANY, icmp(8), icmp(3, 4), Service(112), udp(53))))
    kinds = {(t.icmp_type, t.icmp_code) for t in representatives(p, (icmp(),))}
    assert {(8, 0), (3, 4), (3, 3), (3, 5), (9, 0)} & kinds >= {(8, 0), (3, 4), (3, 5), (9, 0)}
    assert representatives(p, (icmp(3, 4),)) == [Traffic(1, icmp_type=3, icmp_code=4)]
    protocols = {t.protocol for t in representatives(p, ())}
    assert {1, 6, 17, 58, 112, 132} < protocols
    assert len(protocols) == 7  # and one that nobody names


def test_host_in_tests_is_loopback() -> None:
    machine = policy(rule("allow", ANY, tcp(22)), on=HOST_PEER)
    assert run("allow", "203.0.113.7", "host", tcp(22), on=[machine]).passed
    assert run("deny", "203.0.113.7", "host", tcp(23), on=[machine]).passed


# --- requests -----------------------------------------------------------------------------------------------------

PAGES = """
identity web { app == web }
identity api { app == api }
policy api for api { ingress {
  allow from web on tcp/8080-8081 http { GET "/a/**" GET "/h" host "shop" POST "/p" header "N" "v" deny * "/a/x" } as pages
  allow from web on tcp/9090
} }
policy web for web { egress {
  allow to api on tcp/8080-8081 http { GET "/**" POST "/**" } as out
  allow to api
} }
"""


def outcomes(*lines: str, policies: str = PAGES) -> list[tuple[bool, str]]:
    text = f'{policies}test "t" {{\n' + "\n".join(lines) + "\n}\n"
    return [(r.passed, r.message) for r in run_tests(policy_set(text))]


@pytest.mark.parametrize(
    "line",
    [
        'allow web -> api tcp/8080 GET "/a/b?c=d"',
        'allow web -> api tcp/8080-8081 GET "/a/b" by api.pages',
        'allow web -> api tcp/8080 GET "/a/b" by api.pages.1',
        'allow web -> api tcp/8080 GET "/a/b" by web.out.1',
        'deny  web -> api tcp/8080 GET "/a/x" by api.pages.4',
        'deny  web -> api tcp/8080 GET "/a/%78" by api.pages',
        'allow web -> api tcp/8080 GET "/h" host "shop:80"',
        'deny  web -> api tcp/8080 GET "/h"',
        'allow web -> api tcp/8080 POST "/p" header "N" "v"',
        'deny  web -> api tcp/8080 POST "/p"',
        'deny  web -> api tcp/8080 PUT "/a/b" by api.pages',
        'deny  web -> api tcp/8080 PUT "/a/b" by web.egress.2',
        'deny  web -> api tcp/8080 GET "/a/../b"',
        'deny  host -> api tcp/8080 GET "/a/b"',
        'allow web -> api tcp/9090 GET "/a/../b" by api.ingress.2',
        'deny  web -> api tcp/9091 GET "/a/b"',
        "allow web -> api tcp/8080 by api.pages",
        'deny  web -> api tcp/8080 GET "/a/b" header "Content-Length" "1"',
    ],
)
def test_requests_are_judged_at_both_ends(line: str) -> None:
    assert outcomes(line) == [(True, "")]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('deny web -> api tcp/8080 GET "/a/b"', "GET /a/b (100.64.0.1 -> 100.64.0.2): decided by the entry api.pages.1 (p.pol:5:42)"),
        ('allow web -> api tcp/8080 GET "/b"', "no entry matches: l7-no-entry of api.pages (p.pol:5:3)"),
        ('allow web -> api tcp/8080 GET "/b/.."', "malformed target: l7-malformed for web.out (p.pol:9:3)"),
        ('deny web -> api tcp/9090 GET "/b"', "decided by api.ingress.2 (p.pol:6:3)"),
        ('allow web -> api tcp/9091 GET "/b"', "no rule decided (default)"),
        ('allow web -> api tcp/8080 GET "/a/b" by api.pages.2', "decided by the entry api.pages.1 (p.pol:5:42)"),
    ],
)  # fmt: skip
def test_a_failure_says_what_decided_the_request(line: str, message: str) -> None:
    ((passed, told),) = outcomes(line)
    assert not passed
    assert told.endswith(message)
