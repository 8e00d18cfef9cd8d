"""`--engine kernel`: the same answers as the reference evaluator, from files and from an object."""

from __future__ import annotations

import base64
import json
import tempfile
from pathlib import Path
from typing import Any

import pytest

from policyc.answers import document
from policyc.engine import ReferenceEngine
from policyc.flows import Flow
from policyc.kernel_engine import KernelEngine
from policyc.model import Endpoint
from policyc.reference.verdict import Traffic
from policyc.runtime.cgroups import mount_point
from tests.cli.run import policyc
from tests.l7.differential import checked
from tests.l7.differential_case import ground, of_corpus
from tests.reference import http_corpus as corpus


@pytest.mark.bpf
def test_both_engines_answer_alike(tmp_path: Path) -> None:
    assert policyc("init", tmp_path).code == 0
    source, compiled = tmp_path / "policy.pol", tmp_path / "policy.o"
    assert policyc("compile", source, "-o", compiled).code == 0
    options = ["--endpoints", tmp_path / "endpoints.yaml", "--flows", tmp_path / "flows.jsonl"]
    answers = [
        policyc("eval", path, *options, "--engine", engine)
        for path in (source, compiled)
        for engine in ("reference", "kernel")
    ]
    assert answers[0].code == 0
    assert all(answer == answers[0] for answer in answers)


@pytest.mark.bpf
def test_test_blocks_hold_in_the_kernel(tmp_path: Path) -> None:
    policyc("init", tmp_path)
    done = policyc("test", tmp_path / "policy.pol", "--engine", "kernel")
    assert (done.code, done.err) == (0, "")
    assert "on the kernel engine: all hold" in done.out


# --- streams, on real sockets ---------------------------------------------------------------------------------------------

PAGES = """\
policy api for { app == api } {
  ingress {
    allow from { app == web } on tcp/8080 http { GET "/public/**" deny * "/public/x" POST "/p" GET "/ws" upgrade } as pages
    allow from host on tcp/8081 http audit { GET "/a" }
  }
}
policy web for { app == web } {
  egress {
    allow to { app == api } on tcp/8080 http { * "/public/**", "/p" * "/ws" upgrade deny POST "/public/no" } as out
    allow to any on tcp/9000
  }
}
policy machine for host { egress { allow to any on tcp/8081 http { GET } } }
"""
ENDPOINTS = """\
version: 1
host: [192.0.2.1]
endpoints:
- {name: web, addresses: [10.0.0.1, "fd00::1"], labels: {app: web}}
- {name: api, addresses: [10.0.0.2, "fd00::2"], labels: {app: api}}
"""
A, B, X = (corpus.req(f"GET {path}") for path in ("/public/a", "/private", "/public/x"))
NO = corpus.req("POST /public/no", "Content-Length: 1", body=b"z")
CHUNKED = corpus.req("POST /p", corpus.CHUNKED)
WS = corpus.req("GET /ws", "Upgrade: a")
STREAMS: tuple[tuple[bytes, ...], ...] = (
    (A,), (A, B), (A + B,), (A, A, X), (A[:9], A[9:] + X), (NO,), (A, NO), (A + NO,), (A[:20], A[20:-2] + b"a b\r\n\r\n"),
    (CHUNKED, b"3\r\nabc\r\n0\r\n\r\n", A), (CHUNKED, b"3\r\nabcd\r\n"), (CHUNKED + b"0\r\nHost: x\r\n",), (WS, b"\x00\x01", B), (WS + A,), (b"\x16\x03",), (), (b"",),
)  # fmt: skip


def flow_lines() -> list[dict[str, Any]]:
    def http(segments: tuple[bytes, ...]) -> dict[str, Any]:
        return {"segments": [base64.b64encode(s).decode() for s in segments]}

    lines: list[dict[str, Any]] = []
    for src, dst in (("web", "api"), ("fd00::1", "fd00::2")):
        for segments in STREAMS:
            flow = {"src": src, "dst": dst, "proto": "tcp", "dport": 8080, "http": http(segments)}
            lines += [flow, flow | {"direction": "ingress"}, flow | {"direction": "egress"}]
    for segments in ((A,), (corpus.req("GET /a"), NO)):
        for src, dst, port in (
            ("host", "api", 8081), ("192.0.2.1", "198.51.100.7", 8081), ("127.0.0.1", "10.0.0.2", 8081), ("web", "8.8.8.8", 9000), ("10.9.9.9", "api", 8080),
        ):  # fmt: skip
            lines.append({"src": src, "dst": dst, "proto": "tcp", "dport": port, "http": http(segments)})
    return lines


def left_over() -> list[str]:
    groups = [str(path) for path in mount_point().glob("policyc-eval-*")]
    return groups + [str(path) for path in Path(tempfile.gettempdir()).glob("policyc-eval-*")]


@pytest.mark.bpf
def test_both_engines_judge_streams_alike(tmp_path: Path) -> None:
    source, endpoints, flows = tmp_path / "p.pol", tmp_path / "e.yaml", tmp_path / "f.jsonl"
    source.write_text(PAGES)
    endpoints.write_text(ENDPOINTS)
    flows.write_text("".join(json.dumps(line) + "\n" for line in flow_lines()))
    answers = [
        policyc("eval", source, "--endpoints", endpoints, "--flows", flows, "--engine", engine)
        for engine in ("reference", "kernel")
    ]
    assert answers[0].code == answers[1].code == 0
    for line, one, other in zip(flow_lines(), *(answer.out.splitlines() for answer in answers), strict=True):
        assert json.loads(one) == json.loads(other), line
    assert left_over() == []


@pytest.mark.bpf
def test_the_corpus_is_answered_alike() -> None:
    """At both ends: what the client's end says and the server's."""
    cases = [of_corpus(case) for case in corpus.CASES[::3]]
    on = ground(cases)
    text = on.text + on.text.replace("policy p_", "policy q_").replace("ingress", "egress").replace("allow from", "allow to").replace(
        "{ app == api }", "{ app == here }"
    ).replace("{ app == web }", "{ app == api }").replace("{ app == here }", "{ app == web }")  # fmt: skip
    policy = checked(text)
    ends = [Endpoint(name, (("4", 0x0A000001 + n),), {"app": name}) for n, name in enumerate(("web", "api"))]
    reference, kernel = ReferenceEngine(policy, ends), KernelEngine(policy, ends)
    different = []
    for case in cases:
        flow = Flow(
            ends[0].addresses[0],
            ends[1].addresses[0],
            Traffic(6, on.ports[case.rules]),
            http=tuple(s.data for s in case.segments),
        )
        one, other = (document(e.world, flow, e.judge(flow)) for e in (reference, kernel))
        if one != other:
            different.append((case.name, one["requests"], other["requests"], one["end"], other["end"]))
    kernel.close()
    assert different == []
    assert left_over() == []


@pytest.mark.bpf
def test_what_no_socket_has_is_a_bad_line(tmp_path: Path) -> None:
    source = tmp_path / "p.pol"
    source.write_text("policy p for host { egress { allow to any on tcp/80 http { GET } } }\n")
    line = json.dumps(
        {"src": "host", "dst": "224.0.0.1", "proto": "tcp", "dport": 80, "http": {"method": "GET", "path": "/"}}
    )
    done = policyc("eval", source, "--engine", "kernel", stdin=line.encode() + b"\n")
    assert done.code == 1
    assert "no sockets" in json.loads(done.out)["error"]
    assert left_over() == []
