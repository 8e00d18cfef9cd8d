"""Flow lines (semantics 7): what is a flow, what is an error object, and the answer documents."""

from __future__ import annotations

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.evaluate import ReferenceEngine, evaluate
from policyc.flows import BadFlow, Flow, parse_flow
from policyc.model import Tier
from tests.reference.builders import (
    ALL,
    ANY,
    HOST_PEER,
    IN,
    OUT,
    THIS_MACHINE,
    WORLD_PEER,
    addr,
    ep,
    peer,
    policies,
    policy,
    rule,
    sel,
    tcp,
    world,
)  # fmt: skip

ADDRESSES = [addr(a) for a in THIS_MACHINE]


def flow(**fields: object) -> Flow:
    return parse_flow(json.dumps(fields), world(endpoints=(*ALL, ep("six", "2001:db8::6"))))


def ends(src: str, dst: str) -> tuple[object, object]:
    parsed = flow(src=src, dst=dst, proto="tcp", dport=80)
    return parsed.src, parsed.dst


@pytest.mark.parametrize(
    ("src", "dst", "source", "destination"),
    [
        ("web", "203.0.113.7", "10.0.0.1", "203.0.113.7"),
        ("2001:db8:f::1", "web", "2001:db8:f::1", "2001:db8::1"),
        ("web", "db", "10.0.0.1", "10.0.0.2"),
        ("web", "six", "2001:db8::1", "2001:db8::6"),
        ("host", "203.0.113.7", "192.168.0.1", "203.0.113.7"),
        ("six", "host", "2001:db8::6", "fd00::1"),
        ("host", "six", "fd00::1", "2001:db8::6"),
        ("host", "host", "192.168.0.1", "192.168.0.1"),
    ],
)
def test_ends_are_of_one_family(src: str, dst: str, source: str, destination: str) -> None:
    assert ends(src, dst) == (addr(source), addr(destination))


def test_host_is_loopback_where_none_is_listed() -> None:
    engine = ReferenceEngine(policies(), ALL)
    parsed = parse_flow('{"src":"host","dst":"2001:db8::9","proto":58,"icmp_type":128}', engine.world)
    assert parsed.src == addr("::1")
    assert parsed.traffic.icmp_code == 0


BASE = {"src": "web", "dst": "db", "proto": "tcp", "dport": 80}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"src": "nobody"}, "neither an address nor a registered endpoint"),
        ({"src": "job", "dst": "2001:db8::1"}, "no address family in common"),
        ({"src": "10.0.0.0/8"}, "neither an address"),
        ({"src": "fe80::1%eth0"}, "neither an address"),
        ({"src": 7}, "must be an address"),
        ({"src": ["web"]}, "must be an address"),
        ({"proto": "http"}, "proto must be"),
        ({"proto": "TCP"}, "proto must be"),
        ({"proto": 256}, "proto must be"),
        ({"proto": True}, "proto must be"),
        ({"proto": 6.0}, "proto must be"),
        ({"dport": 65536}, "0 to 65535"),
        ({"dport": -1}, "0 to 65535"),
        ({"dport": True}, "must be an integer"),
        ({"dport": 80.0}, "must be an integer"),
        ({"dport": "80"}, "must be an integer"),
        ({"dport": None}, "must be an integer"),
        ({"icmp_type": 8}, "has no icmp_type"),
        ({"proto": "icmp"}, "has no dport"),
        ({"proto": 112}, "has no dport"),
        ({"direction": "in"}, "ingress or egress"),
        ({"direction": None}, "ingress or egress"),
        ({"grpc": {}}, "not there yet"),
        ({"dns": {}}, "not there yet"),
        ({"tag": 1}, "unknown field"),
    ],
)
def test_bad_fields(change: dict[str, object], message: str) -> None:
    with pytest.raises(BadFlow, match=message):
        flow(**{**BASE, **change})


@pytest.mark.parametrize("missing", ["src", "dst", "proto", "dport"])
def test_missing_fields(missing: str) -> None:
    with pytest.raises(BadFlow, match=missing):
        flow(**{k: v for k, v in BASE.items() if k != missing})


def test_icmp_needs_a_type_and_portless_protocols_nothing() -> None:
    with pytest.raises(BadFlow, match="icmp_type"):
        flow(src="web", dst="db", proto="icmp")
    assert flow(src="web", dst="db", proto=112).traffic.port is None
    assert flow(src="web", dst="db", proto=6, dport=0, sport=0).sport == 0


@pytest.mark.parametrize("protocol", [0, 43, 44, 60])
def test_an_extension_header_is_no_protocol_in_ipv6(protocol: int) -> None:
    with pytest.raises(BadFlow, match="extension header"):
        flow(src="2001:db8::1", dst="2001:db8::2", proto=protocol)
    flow(src="10.0.0.1", dst="10.0.0.2", proto=protocol)


@pytest.mark.parametrize(
    "line",
    [
        b"", b"\n", b"{", b"[]", b"1", b"\xff\xfe", b"null", b'{"src": NaN}', b'{"src": Infinity}', b'{"a":1,"a":2}',
        b"[" * 60000, b'{"dport": ' + b"9" * 5000 + b"}", b'{"src": 1e999}', b'"' + b"x" * 70000 + b'"',
        *(b'{"src": ' + b"[" * depth + b"]" * depth + b', "dst": "web", "proto": "tcp"}' for depth in range(900, 1000, 7)),
        '{"src":"\\ud800","dst":"web","proto":"tcp","dport":1}', "{\x00}",
    ],
)  # fmt: skip
def test_a_bad_line_is_an_error_object_in_its_place(line: bytes | str) -> None:
    good = json.dumps(BASE)
    documents = list(evaluate([good, line, good], ReferenceEngine(policies(), ALL)))
    assert [set(d) >= {"verdict"} for d in documents] == [True, False, True]
    assert list(documents[1]) == ["error", "line"]
    assert documents[1]["line"] == 2
    json.dumps(documents[1]).encode("ascii")


@given(st.binary(max_size=60) | st.text(max_size=60))
def test_no_line_raises(line: bytes | str) -> None:
    assert len(list(evaluate([line], ReferenceEngine(policies(), ALL)))) == 1


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)


@given(st.fixed_dictionaries({}, optional=dict.fromkeys([*BASE, "sport", "icmp_type", "direction"], JSON)))
def test_no_object_raises(fields: dict[str, object]) -> None:
    line = json.dumps({**BASE, **fields})
    assert len(list(evaluate([line], ReferenceEngine(policies(), ALL)))) == 1


# --- answers ------------------------------------------------------------------------------------------------------


def answer(*items: object, line: dict[str, object] | None = None, **more: object) -> dict[str, object]:
    compiled = policies(*items, identities={"shop": sel(ns="shop"), "db": sel(app="db")})  # type: ignore[arg-type]
    (document,) = evaluate([json.dumps({**BASE, **(line or {}), **more})], ReferenceEngine(compiled, ALL, ADDRESSES))
    return document


def test_a_document_has_all_fields_in_their_order() -> None:
    document = answer(policy(rule("allow", peer(app="web"), tcp(80), priority=7), on=peer(app="db")))
    assert document == {
        "verdict": "allow", "rule": "t.pol:1:1", "ref": "p.ingress.1", "reason": "rule",
        "src": {"endpoint": "web", "class": "endpoints", "identities": ["shop"]},
        "dst": {"endpoint": "db", "class": "endpoints", "identities": ["shop", "db"]},
        "steps": [
            {"direction": "egress", "subject": "web", "verdict": "allow", "rule": None, "ref": None,
             "reason": "no-policy", "tier": None, "priority": None, "isolated_by": []},
            {"direction": "ingress", "subject": "db", "verdict": "allow", "rule": "t.pol:1:1", "ref": "p.ingress.1",
             "reason": "rule", "tier": "normal", "priority": 7, "isolated_by": []},
        ],
    }  # fmt: skip
    assert list(document) == ["verdict", "rule", "ref", "reason", "src", "dst", "steps"]


def test_both_ends_must_allow_and_the_first_denial_is_told() -> None:
    closed = policy(rule("allow", ANY, tcp(1), direction=OUT), name="out", on=peer(app="web"))
    denied = policy(rule("deny"), name="in", on=peer(app="db"))
    document = answer(closed, denied)
    assert (document["verdict"], document["reason"], document["rule"]) == ("deny", "default", None)
    steps = document["steps"]
    assert [s["isolated_by"] for s in steps] == [["out"], []]  # type: ignore[union-attr, index, attr-defined]
    assert [s["tier"] for s in steps] == ["normal", "normal"]  # type: ignore[union-attr, index, attr-defined]


def test_else_the_last_that_a_rule_decided_is_told() -> None:
    document = answer(policy(rule("allow", direction=OUT), on=peer(app="web")))
    assert (document["reason"], document["ref"]) == ("rule", "p.egress.1")
    assert answer(policy(isolate=()))["reason"] == "default"


def test_a_direction_limits_the_steps() -> None:
    denied = policy(rule("deny"), on=peer(app="db"))
    document = answer(denied, direction="egress")
    assert document["verdict"] == "allow"
    assert [s["direction"] for s in document["steps"]] == ["egress"]  # type: ignore[attr-defined]
    assert answer(denied, direction="ingress")["verdict"] == "deny"


def test_an_end_without_a_subject_allows() -> None:
    document = answer(line={"dst": "203.0.113.7"})
    assert document["reason"] == "no-subject"
    assert document["dst"] == {"endpoint": None, "class": "world", "identities": []}
    assert document["steps"][1]["subject"] is None  # type: ignore[index]


def test_host_is_a_subject_and_an_endpoint_judges_itself() -> None:
    machine = policy(rule("allow", WORLD_PEER, tcp(22)), on=HOST_PEER)
    document = answer(machine, line={"src": "203.0.113.7", "dst": "host", "dport": 22})
    assert document["steps"][1]["subject"] == "host"  # type: ignore[index]
    assert document["dst"] == {"endpoint": None, "class": "host", "identities": []}
    assert answer(policy(isolate=(IN,), on=peer(app="web")), line={"dst": "web"})["verdict"] == "deny"


def test_audit_tells_the_prospective_answer_where_its_verdict_differs() -> None:
    would = policy(rule("deny", name="cut"), name="a", tier=Tier.ADMIN, audit=True)
    document = answer(would, policy(rule("allow")))
    assert (document["verdict"], document["ref"]) == ("allow", "p.ingress.1")
    assert document["audit"] == {"verdict": "deny", "rule": "t.pol:1:1", "ref": "a.cut", "reason": "rule"}
    already = policy(isolate=(OUT,), on=peer(app="web"), name="q")
    assert "audit" not in answer(would, already)
