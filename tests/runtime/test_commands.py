"""Protects the operator commands: their documents, exit codes, and what they say of a load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import Any

import pytest

from policyc.artifact.reader import Artifact

pytestmark = pytest.mark.bpf
ROOT = Path(__file__).parents[2]


class Result:
    def __init__(self, done: subprocess.CompletedProcess[str]) -> None:
        self.code, self.out, self.err = done.returncode, done.stdout, done.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def policyc(*arguments: str) -> Result:
    command = [sys.executable, "-m", "policyc", *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    return Result(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment, timeout=60))


@pytest.fixture
def object_file(tmp_path: Path, artifact: Artifact) -> str:
    path = tmp_path / "shop.o"
    path.write_bytes(artifact.object)
    return str(path)


def test_a_load_from_end_to_end(machine: Any, object_file: str) -> None:
    web, api = machine.guest("vweb", 1), machine.guest("vapi", 2)
    file = machine.folder / "endpoints.yaml"
    file.write_text(
        "version: 1\nendpoints:\n"
        f"  - {{name: web, addresses: [{web.v4}, '{web.v6}'], labels: {{app: web}}, interface: vweb}}\n"
        f"  - {{name: api, addresses: [{api.v4}, '{api.v6}'], labels: {{app: api}}, interface: vapi}}\n"
    )
    loaded = policyc("load", object_file, "--name", "shop", "--endpoints", str(file), "--format", "json")
    assert loaded.code == 0, loaded.err
    assert loaded.json["format"] == "policyc-load"
    assert loaded.json["points"] == ["workload:vweb=web", "workload:vapi=api"]

    status = policyc("status", "--format", "json")
    assert (status.code, status.json["loads"][0]["state"]) == (0, "enforcing")
    assert [p["attached"] for p in status.json["loads"][0]["points"]] == [True, True]

    lines: list[str] = []
    watcher = threading.Thread(target=lambda: lines.append(policyc("monitor", "--count", "1", "--timeout", "20").out))
    watcher.start()
    while watcher.is_alive():
        web.run("sh", "-c", f"echo x | timeout 1 nc -n -w1 {api.v4} 9 || true")
        time.sleep(0.1)
    assert lines[0].startswith("([app=web]) => ([app=api]) tcp/9 denied default - - ingress 10.9.1.2:")

    web.reaches(api.v4)
    counters = policyc("counters", "--format", "json")
    counts = {r["ref"]: r for r in counters.json["rules"]}
    assert counts["api.ingress.3"]["connections"] == 1
    assert counts["api.ingress.3"]["rule"] == "runtime.pol:4:3"
    assert "api.ingress.3" in policyc("counters", "shop").out

    added = policyc("endpoint", "add", "more", "--address", "10.77.0.1", "--label", "app=api", "--format", "json")
    assert (added.json["outcome"], added.json["identities"]) == ("added", ["api"])
    again = policyc("endpoint", "add", "shop", "other", "--address", "10.77.0.1")
    assert again.code == 2
    assert "held by endpoint 'more'" in again.err
    listed = policyc("endpoint", "list", "shop", "--format", "json").json["endpoints"]
    assert [e["name"] for e in listed] == ["api", "more", "web"]
    assert policyc("endpoint", "apply", str(file)).out.splitlines() == ["- more", "shop: 0 added, 0 changed, 1 removed"]
    assert policyc("host", "sync").code == 0

    subprocess.run(["tc", "filter", "del", "dev", "vweb", "ingress"], check=True)
    broken = policyc("status")
    assert broken.code == 1
    assert "workload:vweb=web: NOT ATTACHED" in broken.out

    assert policyc("unload").code == 0
    assert policyc("status").out == "nothing is loaded\n"
    assert policyc("unload", "shop").code == 2


def test_dry_run_and_bad_usage(machine: Any, object_file: str) -> None:
    assert "verified" in policyc("load", object_file, "--name", "shop", "--dry-run").out
    assert policyc("load", object_file, "--name", "a.b").code == 2
    assert policyc("load", "/nowhere.o", "--name", "shop").code == 2
    assert policyc("load", object_file, "--name", "shop", "--attach", "uplink:lo").code == 2
    assert policyc("endpoint", "list").code == 2
    assert policyc("counters", "nothing").code == 2
    assert policyc("status").out == "nothing is loaded\n"


def test_doctor_answers(machine: Any) -> None:
    found = policyc("doctor", "--format", "json")
    assert (found.code, found.json["ready"]) == (0, True)
    subjects = {f["subject"]: f["answer"] for f in found.json["findings"]}
    assert subjects["helper bpf_ktime_get_coarse_ns"] == "there"
    assert subjects["clsact qdisc (tc)"] == "there"


NOBODY = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]


def test_every_command_without_permission(machine: Any, object_file: str, tmp_path: Path) -> None:
    """Somebody else's load can neither be seen nor changed, and that is no bug."""
    (tmp_path / "bpf").chmod(0o755)
    assert policyc("load", object_file, "--name", "shop").code == 0
    for folder in (tmp_path, *tmp_path.parents[:-2]):
        folder.chmod(0o755)
    os.chmod(object_file, 0o644)
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    for arguments in (
        "status", "status shop", "counters shop", "monitor shop --timeout 1", "endpoint list", "endpoint add a --address 1.1.1.1",
        "endpoint remove shop a", "host sync", "unload", f"load {object_file} --name shop", "unload shop",
    ):  # fmt: skip
        command = [*NOBODY, sys.executable, "-m", "policyc", *arguments.split()]
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert (done.returncode, done.stderr[:23]) == (3, "error: not permitted to"), (arguments, done.stderr)
        assert "run as root" in done.stderr
    (tmp_path / "own").mkdir()
    os.chown(tmp_path / "own", 65534, 65534)
    (tmp_path / "bpf" / "shop").chmod(0o700)
    (tmp_path / "bpf").chmod(0o700)
    for more in ([], ["--dry-run"]):
        command = [*NOBODY, sys.executable, "-m", "policyc", "load", object_file, "--name", "other", *more]
        environment["POLICYC_STATE"] = str(tmp_path / "own")
        done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, env=environment)
        assert (done.returncode, done.stderr[:23]) == (3, "error: not permitted to"), done.stderr
    assert policyc("unload").code == 0


def test_one_damaged_load_does_not_hide_the_others(machine: Any, object_file: str) -> None:
    for name in ("one", "two"):
        assert policyc("load", object_file, "--name", name).code == 0
    (machine.folder / "state" / "one" / "state.jsonl").write_text("{}\n")
    status = policyc("status", "--format", "json")
    assert (status.code, [(s["name"], s["state"]) for s in status.json["loads"]]) == (
        1,
        [("one", "damaged"), ("two", "enforcing")],
    )
    assert "`policyc unload one`" in policyc("status").out
    assert policyc("unload", "one").code == policyc("unload").code == 0


def test_without_permission(object_file: str) -> None:
    """Says which permission is missing, with exit code 3."""
    os.chmod(object_file, 0o644)
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--securebits=+noroot"]
    command = [*drop, sys.executable, "-m", "policyc"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "POLICYC_STATE": str(Path(object_file).parent / "state")}
    for arguments in (["load", object_file, "--name", "shop"], ["doctor"]):
        done = subprocess.run([*command, *arguments], capture_output=True, text=True, cwd=ROOT, env=environment)
        assert done.returncode == 3, done.stderr
        assert "CAP_BPF" in done.stdout + done.stderr
