"""examples/go-loader knows docs/artifact.md alone: its verdicts are those of the reference engine, also on the wire."""

from __future__ import annotations

import itertools
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.cli.run import policyc

ROOT = Path(__file__).resolve().parents[2]
LOADER = ROOT / "examples" / "go-loader"
pytestmark = pytest.mark.bpf

TENANTS = """
identity web { app == web, tier in (front, edge) }
identity quiet { not exists loud, app != web }
policy own for endpoints {
  ingress { allow from same(tenant) on tcp  allow from same(tenant, app) on udp  allow from web, host on tcp/443 }
}
policy early for { app == web } tier admin priority 5 {
  egress { deny to quiet on udp/53 as no-dns  pass to world(198.51.100.0/24) on any }
}
policy late for host { ingress { allow from 198.51.100.0/24 except 198.51.100.128/25 on proto 47, icmp } }
policy watched for quiet audit { egress { deny to any } }
"""
ENDPOINTS = {
    "version": 1,
    "host": ["192.0.2.1", "2001:db8::1"],
    "endpoints": [
        {"name": "a", "addresses": ["10.0.0.1", "fd00::1"], "labels": {"app": "web", "tier": "front", "tenant": "x"}},
        {"name": "b", "addresses": ["10.0.0.2", "10.0.0.22"], "labels": {"app": "web", "tier": "back", "tenant": "y"}},
        {"name": "c", "addresses": ["10.0.0.3", "fd00::3"], "labels": {"app": "db", "tenant": "x"}},
        {"name": "d", "addresses": ["10.0.0.4", "fd00::4"], "labels": {"loud": "yes"}},
        {"name": "e", "addresses": ["fd00::5"], "labels": {"app": "db", "tenant": "x"}},
    ],
}
SERVICES: list[dict[str, Any]] = [
    {"proto": "tcp", "dport": 443}, {"proto": "tcp", "dport": 80}, {"proto": "udp", "dport": 53}, {"proto": 47},
    {"proto": "icmp", "icmp_type": 8},
]  # fmt: skip


@pytest.fixture(scope="module")
def loader(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if shutil.which("go") is None:
        pytest.skip("no go: the second loader is not tried")
    fetched = subprocess.run(["go", "mod", "download"], cwd=LOADER, capture_output=True, text=True)
    if fetched.returncode:
        pytest.skip(f"the loader's modules cannot be had: {fetched.stderr.strip()}")
    binary = tmp_path_factory.mktemp("go") / "go-loader"
    subprocess.run(["go", "build", "-buildvcs=false", "-o", str(binary), "."], cwd=LOADER, check=True)
    return binary


def compiled(source: Path, folder: Path) -> Path:
    target = folder / source.with_suffix(".o").name
    done = policyc("compile", source, "-o", target)
    assert done.code == 0, done.err
    return target


def judged(loader: Path, compiled: Path, endpoints: Path, flows: Path) -> list[dict[str, str | None]]:
    """The loader's answers; TEST_RUN happens in a network namespace of its own."""
    options = ["-endpoints", str(endpoints), "-flows", str(flows)]
    command = ["unshare", "--net", str(loader), "test-run", *options, str(compiled)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return [json.loads(line) for line in done.stdout.splitlines()]


def expected(source: Path, endpoints: Path, flows: Path) -> list[dict[str, str | None]]:
    done = policyc("eval", source, "--endpoints", endpoints, "--flows", flows, "--engine", "reference")
    assert done.code == 0, done.err
    fields = ("verdict", "rule", "ref", "reason")
    return [{field: json.loads(line)[field] for field in fields} for line in done.out.splitlines()]


def test_verdicts_of_starwars(loader: Path, tmp_path: Path) -> None:
    source = ROOT / "examples" / "starwars.pol"
    files = LOADER / "endpoints.yaml", LOADER / "flows.jsonl"
    answers = judged(loader, compiled(source, tmp_path), *files)
    assert [a["verdict"] for a in answers] == ["allow", "deny", "deny", "allow"]
    assert answers == expected(source, *files)


def test_verdicts_of_every_kind_of_record(loader: Path, tmp_path: Path) -> None:
    """`same`, negative selectors, the empty selector, host as a subject, tiers, audit: what a record can hold."""
    source, endpoints, flows = tmp_path / "tenants.pol", tmp_path / "e.json", tmp_path / "flows.jsonl"
    source.write_text(TENANTS)
    endpoints.write_text(json.dumps(ENDPOINTS))
    ends = {"4": ["a", "b", "c", "d", "192.0.2.1", "198.51.100.7", "198.51.100.200"], "6": ["fd00::1", "c", "d", "e"]}
    pairs = [pair for family in ends.values() for pair in itertools.permutations(family, 2)]
    lines = [
        {"src": src, "dst": dst, **service}
        for (src, dst), service in itertools.product(pairs, SERVICES)
        if not (src in ("fd00::1", "e") or dst in ("fd00::1", "e")) or service["proto"] != "icmp"
    ]
    flows.write_text("".join(json.dumps(line) + "\n" for line in lines))
    answers = judged(loader, compiled(source, tmp_path), endpoints, flows)
    assert answers == expected(source, endpoints, flows)
    assert len({(a["verdict"], a["ref"], a["reason"]) for a in answers}) >= 7


def test_altered_objects_are_refused(loader: Path, tmp_path: Path) -> None:
    target = compiled(ROOT / "examples" / "starwars.pol", tmp_path)
    content = bytearray(target.read_bytes())
    content[len(content) // 2] ^= 1
    target.write_bytes(content)
    command = [str(loader), "test-run", "-endpoints", str(LOADER / "endpoints.yaml"), str(target)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert (done.returncode, done.stdout) == (1, "")
    assert "altered or truncated" in done.stderr


@pytest.fixture
def wire() -> Iterator[tuple[list[str], list[str]]]:
    """Two network namespaces, joined by `here` (10.1.0.254 and tie-1's 10.1.0.2) and `there` (deathstar-1's 10.1.0.1)."""
    holders = [subprocess.Popen(["unshare", "--net", "sleep", "60"]) for _ in range(2)]
    mine = os.stat("/proc/self/ns/net").st_ino
    try:
        for holder in holders:
            while os.stat(f"/proc/{holder.pid}/ns/net").st_ino == mine:
                pass
        here, there = (["nsenter", f"--net=/proc/{h.pid}/ns/net"] for h in holders)
        pair = ["ip", "link", "add", "here", "type", "veth", "peer", "name", "there", "netns", str(holders[1].pid)]
        for command in (
            [*here, *pair],
            [*here, "ip", "addr", "add", "10.1.0.254/24", "dev", "here"],
            [*here, "ip", "addr", "add", "10.1.0.2/24", "dev", "here"],
            [*there, "ip", "addr", "add", "10.1.0.1/24", "dev", "there"],
            [*here, "ip", "link", "set", "here", "up"],
            [*there, "ip", "link", "set", "there", "up"],
        ):
            subprocess.run(command, check=True)
        yield here, there
    finally:
        for holder in holders:
            holder.kill()
            holder.wait()


CONNECT = """
import socket, sys
s = socket.socket()
s.settimeout(1)
s.bind((sys.argv[1], 0))
try:
    s.connect(("10.1.0.1", int(sys.argv[2])))
except OSError as error:
    print(type(error).__name__)
"""


def test_attached_programs_enforce(loader: Path, tmp_path: Path, wire: tuple[list[str], list[str]]) -> None:
    """A refused connection came through; one that times out was dropped."""
    here, _ = wire
    target = compiled(ROOT / "examples" / "starwars.pol", tmp_path)
    bpffs = tmp_path / "bpf"
    bpffs.mkdir()
    attach = [str(loader), "attach", "-endpoints", str(LOADER / "endpoints.yaml"), "-bpffs", str(bpffs)]
    attach += ["-workload", "here=deathstar-1", str(target)]
    mount = f"mount -t bpf bpf {bpffs} && exec " + " ".join(attach)
    subprocess.run([*here, "unshare", "--mount", "sh", "-c", mount], check=True)

    def outcome(source: str, port: int) -> str:
        command = [*here, sys.executable, "-c", CONNECT, source, str(port)]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

    ping = subprocess.run([*here, "ping", "-n", "-c1", "-W2", "-I", "10.1.0.254", "10.1.0.1"], capture_output=True)
    assert ping.returncode == 0
    assert outcome("10.1.0.2", 80) == "ConnectionRefusedError"
    assert outcome("10.1.0.2", 22) == "TimeoutError"
    assert outcome("10.1.0.254", 80) == "TimeoutError"
