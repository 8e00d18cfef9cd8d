"""Protects examples/microscope: it replays the scene, prints what its page shows (numbers of ports apart), and leaves nothing."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
from operation import ROOT

from policyc.runtime.cgroups import mount_point

pytestmark = pytest.mark.bpf
FOLDER = ROOT / "examples" / "microscope"
COMMAND = [sys.executable, str(FOLDER / "replay.py")]


def run(*before: str) -> str:
    done = subprocess.run([*before, *COMMAND], capture_output=True, text=True, timeout=90)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def masked(text: str) -> str:
    return re.sub(r"(?<=\d):\d+ ->", ":N ->", text)


def test_the_page_shows_what_it_prints() -> None:
    (shown,) = re.findall(r"^```text\n(.*?)^```", (FOLDER / "README.md").read_text(), re.MULTILINE | re.DOTALL)
    assert masked(run()) == masked(shown)
    assert not list(mount_point().glob("policyc-microscope-*"))


def test_the_page_has_the_policy() -> None:
    page, policy = ((FOLDER / name).read_text() for name in ("README.md", "microscope.pol"))
    (part,) = re.findall(r"^identity app1.*?^}\n(?=\ntest)", policy, re.MULTILINE | re.DOTALL)
    assert part in page


def test_without_capabilities() -> None:
    said = run("setpriv", "--bounding-set=-all", "--inh-caps=-all", "--no-new-privs")
    assert "engine: the reference evaluator, because the kernel cannot be used here: bpf()" in said
    assert "http GET http://app1-service/public Forwarded  microscope.pol:8:7" in said
    assert "http GET http://app1-service/private Denied (l7-no-entry) 403" in said
    assert said.count("tcp/80 denied default") == 2
