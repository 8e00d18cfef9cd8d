"""Protects the examples: each compiles, its tests hold on both engines, and it loads on its own, dry and in earnest."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
from operation import ROOT, Operator, Site, answered, endpoint, ping

pytestmark = pytest.mark.bpf

EXAMPLES = sorted((ROOT / "examples").glob("*.pol"))


def at_once(operator: Operator, commands: list[list[str]]) -> list[tuple[int, str]]:
    """Exit code and output of each."""
    running = [
        subprocess.Popen(
            operator.command(*words),
            env=operator.environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for words in commands
    ]
    outputs = [process.communicate(timeout=60)[0] for process in running]
    return [(process.returncode, output) for process, output in zip(running, outputs, strict=True)]


@pytest.mark.parametrize("source", EXAMPLES, ids=lambda path: path.stem)
def test_example(site: Site, operator: Operator, tmp_path: Path, source: Path) -> None:
    built = tmp_path / "example.o"
    commands = [
        ["compile", str(source), "-o", str(built)],
        *(["test", str(source), "--engine", engine] for engine in ("reference", "kernel")),
    ]
    for code, output in at_once(operator, commands):
        assert code == 0, output
    file = str(operator.endpoints(endpoint("web", "unit=none", interface="web"), endpoint("api", "unit=none")))
    attach = ["--attach", "uplink:api"]
    assert "nothing attached" in operator.load(built, "--endpoints", file, *attach, "--dry-run").stdout
    operator.load(built, "--endpoints", file, *attach)
    (load,) = operator.json("status")["loads"]
    assert load["healthy"]
    assert load["jited"]
    assert all(load["jited"].values()), "the kernel makes machine code of every program"
    assert [p["attached"] for p in load["points"]] == [True, True]
    assert answered(ping(site.guest("web"), "10.9.2.2")) == [True], "no example denies this"


def test_demo(site: Site) -> None:
    """It says what it judged with, and that every verdict was right."""
    done = subprocess.run([sys.executable, "examples/demo.py"], cwd=ROOT, capture_output=True, text=True, timeout=150)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "engine     the kernel, Linux" in done.stdout
    assert "landing.ingress.3  starwars.pol:11" in done.stdout
    assert "http POST http://10.1.0.2/v1/request-landing Forwarded  http.pol:9:7" in done.stdout
    assert "http PUT http://10.1.0.2/v1/exhaust-port Denied (l7-no-entry) 403  http.pol:7:5" in done.stdout
    assert "http - 10.1.0.2:80 Denied (l7-malformed: TLS ClientHello)" in done.stdout
    assert "Every verdict is what the policy says." in done.stdout


def test_demo_without_capabilities() -> None:
    command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs", sys.executable]
    environment = {**os.environ, "POLICYC_KERNELS": "/proc/none"}  # no kernel to emulate either
    done = subprocess.run(
        [*command, "examples/demo.py"], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=150
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "the reference evaluator, because the kernel cannot be used here" in done.stdout
    assert "CAP_BPF" in done.stdout
    assert "landing.ingress.3  starwars.pol:11" in done.stdout
    assert "denied (l7-malformed)  requests.landing  http.pol:7:5  TLS ClientHello" in done.stdout
