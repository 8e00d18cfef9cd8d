"""The `http` of a flow line (semantics 7): what is sent, both ends one after the other, the answer."""

from __future__ import annotations

import base64
import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.evaluate import ReferenceEngine, evaluate
from policyc.flows import LINE_LIMIT, BadFlow, parse_flow
from policyc.model import PolicySet
from tests.reference.builders import WEB, addr, ep
from tests.reference.http_corpus import padded, req
from tests.reference.test_http_corpus import policy_set

API = ep("api", "10.0.0.2", "2001:db8::2", app="api")
BASE = {"src": "web", "dst": "api", "proto": "tcp", "dport": 8080}
A, B = req("GET /a"), req("GET /b")


def block(text: str, *, side: str = "ingress", name: str = "api", options: str = "") -> str:
    who, peer = ("api", "from") if side == "ingress" else ("web", "to")
    rule = f"    allow {peer} any on tcp/8080 {text} as r\n"
    return f"policy {name} for {{ app == {who} }} {options}{{\n  {side} {{\n{rule}  }}\n}}\n"


ONLY_A = block('http { GET, POST "/a" }')
OUT_A = block('http { GET "/a" GET "/c" }', side="egress", name="web")


def engine(policy: PolicySet) -> ReferenceEngine:
    return ReferenceEngine(policy, (WEB, API), [addr("192.168.0.1")])


def answer(text: str, http: object, **more: object) -> dict[str, Any]:
    (document,) = evaluate([json.dumps({**BASE, "http": http, **more})], engine(policy_set(text)))
    return document


def stream(*segments: bytes) -> dict[str, object]:
    return {"segments": [base64.b64encode(s).decode() for s in segments]}


def sent(http: object, **more: object) -> tuple[bytes, ...]:
    http_bytes = parse_flow(json.dumps({**BASE, "http": http, **more}), engine(policy_set(ONLY_A)).world).http
    assert http_bytes is not None
    return http_bytes


# --- what is sent ---------------------------------------------------------------------------------------------------


def test_a_request_is_made_of_its_fields() -> None:
    assert sent({"method": "GET", "path": "/a"}) == (b"GET /a HTTP/1.1\r\nHost: 10.0.0.2\r\n\r\n",)
    assert (
        sent({"method": "GET", "path": "/"}, src="web", dst="2001:db8::2")[0].split(b"\r\n")[1]
        == b"Host: [2001:db8::2]"
    )
    full = {
        "method": "PUT",
        "path": "/é",
        "version": "1.0",
        "host": "h",
        "query": "a=b",
        "headers": [["N", "v"], ["N", ""]],
    }
    assert sent(full) == ("PUT /é?a=b HTTP/1.0\r\nHost: h\r\nN: v\r\nN: \r\n\r\n".encode(),)
    assert sent({"method": "GET", "path": "/", "version": "1.0"}) == (b"GET / HTTP/1.0\r\n\r\n",)


def test_bytes_are_sent_as_given() -> None:
    assert sent({"stream": base64.b64encode(A).decode()}) == (A,)
    assert sent(stream(A[:5], b"", A[5:])) == (A[:5], b"", A[5:])
    assert sent({"segments": []}) == ()
    assert sent({"stream": ""}) == (b"",)


@pytest.mark.parametrize(
    ("http", "message"),
    [
        ([], "must be an object"),
        (None, "must be an object"),
        ({}, '"method" of http is missing'),
        ({"method": "GET"}, '"path" of http is missing'),
        ({"method": "GET", "path": "/", "body": ""}, 'http has no "body"'),
        ({"method": "GET", "path": "/", "stream": ""}, "stands alone"),
        ({"stream": "", "segments": []}, "stands alone"),
        ({"stream": "A"}, "not in base64"),
        ({"stream": "AA=A"}, "not in base64"),
        ({"stream": "AAAA\n"}, "not in base64"),
        ({"stream": "é"}, "not in base64"),
        ({"stream": 1}, "must be in base64"),
        ({"segments": ""}, "must be a list"),
        ({"segments": [1]}, "must be in base64"),
        ({"segments": ["A"]}, "not in base64"),
        ({"method": 1, "path": "/"}, "must be text"),
        ({"method": "GET", "path": "/\r\n"}, "line break"),
        ({"method": "GET\n", "path": "/"}, "line break"),
        ({"method": "GET", "path": "/", "host": "x\r\nA: b"}, "line break"),
        ({"method": "GET", "path": "/", "query": "\n"}, "line break"),
        ({"method": "GET", "path": "/", "headers": [["A", "b\r\nC: d"]]}, "line break"),
        ({"method": "GET", "path": "/", "headers": [["A\n", "b"]]}, "line break"),
        ({"method": "GET", "path": "/", "headers": {"A": "b"}}, "must be a list"),
        ({"method": "GET", "path": "/", "headers": [["A"]]}, "a pair"),
        ({"method": "GET", "path": "/", "headers": ["Ab"]}, "a pair"),
        ({"method": "GET", "path": "/", "headers": [["A", 1]]}, "must be text"),
        ({"method": "GET", "path": "/", "version": "2"}, "version of http"),
        ({"method": "GET", "path": "/", "version": 1.1}, "version of http"),
        ({"method": "GET", "path": "/", "version": []}, "version of http"),
        ({"method": "GET", "path": "/\ud800"}, "half a character"),
    ],
)
def test_bad_http(http: object, message: str) -> None:
    with pytest.raises(BadFlow, match=message):
        sent(http)


def test_only_tcp_has_http() -> None:
    with pytest.raises(BadFlow, match="protocol 17 has no http"):
        sent({"stream": ""}, proto="udp")


def test_a_line_holds_heads_of_64_kib() -> None:
    document = answer(block('http limit 64k { * "/**" }'), stream(*[padded(65536)] * 8))
    assert [r["verdict"] for r in document["requests"]] == ["allow"] * 8
    (bad,) = evaluate(["x" * (LINE_LIMIT + 1)], engine(policy_set(ONLY_A)))
    assert "longer than" in bad["error"]


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=3), inner, max_size=2),
    max_leaves=4,
)
HTTP_FIELDS = ["method", "path", "version", "host", "query", "headers", "stream", "segments"]


@given(st.fixed_dictionaries({}, optional=dict.fromkeys(HTTP_FIELDS, JSON | st.just("1.0"))))
def test_no_http_raises(http: dict[str, object]) -> None:
    assert set(answer(ONLY_A, http)) & {"error", "requests"}


# --- the answer -----------------------------------------------------------------------------------------------------


def test_a_document_has_requests_and_the_end() -> None:
    document = answer(ONLY_A, {"method": "GET", "path": "/a", "query": "secret", "host": "x:80"})
    request = {
        "verdict": "allow", "rule": "p.pol:3:39", "ref": "api.r.1", "reason": "l7-entry", "answer": None,
        "method": "GET", "path": "/a", "host": "x:80", "saw": None,
    }  # fmt: skip
    assert list(document) == ["verdict", "rule", "ref", "reason", "src", "dst", "steps", "requests", "end"]
    assert (document["verdict"], document["ref"], document["reason"]) == ("allow", "api.r", "rule")
    assert document["requests"] == [request]
    assert document["end"] == "open"
    assert [s["requests"] for s in document["steps"]] == [[], [request]]


def test_a_flow_without_http_has_no_requests() -> None:
    (document,) = evaluate([json.dumps(BASE)], engine(policy_set(ONLY_A)))
    assert not {"requests", "end"} & set(document)
    assert not any("requests" in step for step in document["steps"])


def test_denied_requests_have_an_answer() -> None:
    assert told(answer(ONLY_A, stream(A, B, A))) == [("allow", "api.r.1", None), ("deny", "api.r", 403)]
    assert told(answer(ONLY_A, stream(A + B))) == [("allow", "api.r.1", None), ("deny", "api.r", "closed")]
    assert answer(ONLY_A, stream(B))["end"] == "closed"
    assert answer(ONLY_A, stream(b"\x16\x03"))["requests"][0]["saw"] == "TLS ClientHello"


def told(document: dict[str, Any]) -> list[tuple[object, ...]]:
    return [(r["verdict"], r["ref"], r["answer"]) for r in document["requests"]]


def at_ends(document: dict[str, Any]) -> list[list[str]]:
    return [[f"{r['verdict']} {r['path']}" for r in step["requests"]] for step in document["steps"]]


def test_a_connection_without_blocks_is_open_and_a_denied_one_reset() -> None:
    assert (answer(block(""), stream(b"\x00"))["requests"], answer(block(""), stream(b"\x00"))["end"]) == ([], "open")
    denied = answer(ONLY_A, stream(A), dport=8081)
    assert (denied["verdict"], denied["requests"], denied["end"]) == ("deny", [], "reset")
    out = block('http { GET "/a" }', side="egress", name="web") + "policy shut for { app == api } { ingress { } }\n"
    document = answer(out, stream(A))
    assert (document["end"], at_ends(document)) == ("reset", [[], []])


def test_both_ends_judge_and_the_first_that_denies_is_told() -> None:
    both = OUT_A + ONLY_A
    document = answer(both, stream(A, req("GET /c"), A))
    assert told(document) == [("allow", "api.r.1", None), ("deny", "api.r", 403)]
    assert at_ends(document) == [["allow /a", "allow /c"], ["allow /a", "deny /c"]]
    document = answer(both, stream(A, req("POST /a"), A))
    assert told(document) == [("allow", "api.r.1", None), ("deny", "web.r", 403)]
    assert at_ends(document) == [["allow /a", "deny /a"], ["allow /a"]]
    assert document["end"] == "closed"


def test_what_egress_denies_never_reaches_ingress_and_what_stands_before_it_does() -> None:
    document = answer(OUT_A + ONLY_A, stream(A + req("POST /a") + A))
    assert at_ends(document) == [["allow /a", "deny /a"], ["allow /a"]]
    assert document["requests"][1]["answer"] == "closed"


def test_behind_what_ingress_denies_nothing_is_told_at_the_top() -> None:
    document = answer(OUT_A + ONLY_A, stream(req("GET /c") + A))
    assert at_ends(document) == [["allow /c", "allow /a"], ["deny /c"]]
    assert told(document) == [("deny", "api.r", 403)]


def test_one_direction_is_judged_alone() -> None:
    document = answer(OUT_A + ONLY_A, stream(req("GET /c")), direction="egress")
    assert at_ends(document) == [["allow /c"]]
    assert document["end"] == "open"


def test_a_body_makes_one_request_and_one_verdict() -> None:
    document = answer(ONLY_A, stream(req("POST /a", "Transfer-Encoding: chunked"), b"0;\r\n\r\n"))
    assert told(document) == [("deny", "api.r", "closed")]


def test_audit_tells_what_the_block_would_do() -> None:
    document = answer(block('http audit { GET "/a" }'), stream(A, B))
    assert told(document) == [("allow", "api.r", None), ("allow", "api.r", None)]
    assert "audit" not in document["requests"][0]
    assert document["requests"][1]["audit"] == {
        "verdict": "deny",
        "rule": "p.pol:3:5",
        "ref": "api.r",
        "reason": "l7-no-entry",
    }
    assert (document["end"], "audit" in document) == ("open", False)


def test_an_audited_rule_above_would_judge_otherwise() -> None:
    above = block('http { GET "/b" }', name="above", options="priority 10 audit ")
    assert answer(above + ONLY_A, stream(A))["requests"][0]["audit"]["reason"] == "l7-no-entry"
    assert answer(above + ONLY_A, stream(B))["requests"][0]["audit"]["ref"] == "above.r.1"


def test_a_policy_that_only_reports_reports_requests() -> None:
    document = answer(block('http { GET "/b" }', options="audit "), stream(A, B))
    assert told(document) == [("allow", None, None), ("allow", None, None)]
    assert [r["reason"] for r in document["requests"]] == ["no-policy", "no-policy"]
    assert [r["audit"]["reason"] for r in document["requests"] if "audit" in r] == ["l7-no-entry"]


def test_long_elements_are_cut() -> None:
    (request,) = answer(block("http { * }"), stream(req(f"{'M' * 17} /{'p' * 128}", host="h" * 65)))["requests"]
    assert (request["method"], request["path"], request["host"]) == (
        "M" * 16 + "…",
        "/" + "p" * 127 + "…",
        "h" * 64 + "…",
    )
