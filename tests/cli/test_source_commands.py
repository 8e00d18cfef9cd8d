"""`check`, `fmt`, `test` and `eval` on policy files: exit codes, forms of output, and what they load."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.cli.run import policyc

# The commands run in other folders than the checkout, which may not be installed.
UNINSTALLED = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
GOOD = """\
identity web { app == web }
policy p for web { ingress { allow from any on tcp/80 } }
test "t" { allow 192.0.2.1 -> web tcp/80 }
"""
WARNED = "cidr unused = [ 192.0.2.0/24 ]\n" + GOOD
BAD = "policy p for nobody { ingress { allow from any on tcp/0 } }\n"
FAILING = GOOD.replace("allow 192", "deny 192")
ENDPOINTS = "- {name: w, addresses: [10.0.0.1], labels: {app: web}}\n"
FLOW = b'{"src": "192.0.2.1", "dst": "w", "proto": "tcp", "dport": 80}\n'


@pytest.fixture
def write(tmp_path: Path):  # type: ignore[no-untyped-def]
    def make(text: str, name: str = "x.pol") -> Path:
        path = tmp_path / name
        path.write_text(text)
        return path

    return make


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (WARNED, 1), (BAD, 2)])
def test_check(write, text: str, code: int) -> None:  # type: ignore[no-untyped-def]
    done = policyc("check", write(text))
    assert done.code == code
    assert ("x.pol:1:" in done.out) is (code > 0)
    document = json.loads(policyc("check", write(text), "--format", "json").out)
    assert (document["format"], document["version"]) == ("policyc-diagnostics", 1)
    assert bool(document["diagnostics"]) is (code > 0)


def test_check_of_what_cannot_be_read(tmp_path: Path) -> None:
    for path in (tmp_path, tmp_path / "missing", "/dev/zero"):
        done = policyc("check", path)
        assert done.code == 2
        assert "Traceback" not in done.err + done.out


@pytest.mark.parametrize("command", ["test", "eval", "compile"])
def test_errors_of_a_source_are_rendered(write, command: str, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    options = ["-o", tmp_path / "x.o"] if command == "compile" else []
    done = policyc(command, write(BAD), *options)
    assert done.code == 2
    assert done.out == ""
    assert "tcp/0" in done.err
    assert not (tmp_path / "x.o").exists()


@pytest.mark.parametrize(("text", "code"), [(GOOD, 0), (FAILING, 1)])
def test_test(write, text: str, code: int) -> None:  # type: ignore[no-untyped-def]
    done = policyc("test", write(text))
    assert done.code == code
    assert ("x.pol:3:" in done.out) is (code > 0)
    document = json.loads(policyc("test", write(text), "--format", "json").out)
    assert (document["format"], document["version"], document["passed"]) == ("policyc-test", 1, code == 0)
    assert document["results"][0]["line"] == 3


def test_eval_answers_each_line_in_its_place(write) -> None:  # type: ignore[no-untyped-def]
    options = ["--endpoints", write(ENDPOINTS, "e.yaml")]
    done = policyc("eval", write(GOOD), *options, stdin=FLOW + b"{]\n" + FLOW.replace(b"80}", b"81}"))
    assert done.code == 1
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert {(a["format"], a["version"]) for a in answers} == {("policyc-verdict", 1)}
    assert [a.get("verdict") for a in answers] == ["allow", None, "deny"]
    assert answers[0]["rule"] == "x.pol:2:30"
    assert answers[1]["line"] == 2


def test_json_errors_are_documents(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    done = policyc("test", write("identity web { app = web }"), "--format", "json")
    assert (done.code, done.err) == (2, "")
    assert [d["name"] for d in json.loads(done.out)["diagnostics"]] == ["syntax"]
    done = policyc("inspect", "--format", "json", tmp_path / "none.o")
    document = json.loads(done.out)
    assert (done.code, done.err, document["format"], document["version"]) == (2, "", "policyc-error", 1)
    assert document["exit_code"] == 2


def test_eval_without_bad_lines_is_0(write) -> None:  # type: ignore[no-untyped-def]
    done = policyc("eval", write(GOOD), "--endpoints", write(ENDPOINTS, "e.yaml"), stdin=FLOW)
    assert (done.code, done.err) == (0, "")


def test_eval_answers_an_endless_line_once(write) -> None:  # type: ignore[no-untyped-def]
    options = ["--endpoints", write(ENDPOINTS, "e.yaml")]
    done = policyc("eval", write(GOOD), *options, stdin=b"x" * (3 << 20) + b"\n" + FLOW)
    answers = [json.loads(line) for line in done.out.splitlines()]
    assert [("error" in a, a.get("line")) for a in answers] == [(True, 1), (False, None)]


def test_eval_with_broken_files(write, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    source = write(GOOD)
    assert policyc("eval", source, "--flows", tmp_path / "missing").code == 2
    assert policyc("eval", source, "--flows", tmp_path).code == 2
    assert policyc("eval", source, "--endpoints", write("[{", "e.yaml")).code == 2
    assert policyc("eval", write("no object", "x.o")).code == 2


def test_fmt_writes_checks_and_shows(write) -> None:  # type: ignore[no-untyped-def]
    path = write("identity   web{app==web}\npolicy p for web{ingress{allow from any}}")
    before = path.read_text()
    assert policyc("fmt", "--check", path).code == 1
    shown = policyc("fmt", "--diff", path)
    assert shown.code == 1
    assert "-identity   web{app==web}" in shown.out
    assert path.read_text() == before
    assert policyc("fmt", path).code == 0
    assert path.read_text() != before
    assert policyc("fmt", "--check", path).code == 0


def test_fmt_of_standard_input(write) -> None:  # type: ignore[no-untyped-def]
    path = write("identity   web{app==web}")
    done = policyc("fmt", "-", stdin=path.read_bytes())
    policyc("fmt", path)
    assert (done.code, done.out) == (0, path.read_text())


def test_fmt_leaves_what_does_not_parse(write) -> None:  # type: ignore[no-untyped-def]
    path = write("identity {{{")
    done = policyc("fmt", path)
    assert done.code == 2
    assert path.read_text() == "identity {{{"
    assert "x.pol:1:" in done.err


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", "x.pol"],
        ["fmt", "--check", "x.pol"],
        ["test", "x.pol"],
        ["eval", "x.pol", "--endpoints", "e.yaml", "--flows", "/dev/null", "--engine", "reference"],
    ],
)
def test_no_code_generator_and_no_loader_is_imported(write, tmp_path: Path, arguments: list[str]) -> None:  # type: ignore[no-untyped-def]
    write(GOOD)
    write(ENDPOINTS, "e.yaml")
    code = (
        "import sys; from policyc.cli.main import run; run(sys.argv[1:]);"
        "bad = [m for m in ('llvmlite', 'cffi', '_cffi_backend', 'policyc.codegen', 'policyc.runtime') if m in sys.modules];"
        "sys.exit(f'imported {bad}' if bad else 0)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=tmp_path,
        env=UNINSTALLED,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
