"""Short texts that stand for much, and many or endless files: an end in seconds, in bounded memory, and a finding."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.robustness.command import policyc

RULES = "policy p for host { ingress { %s } }\n"
PORTS = ", ".join(f"tcp/{i}" for i in range(1, 10_000))
ADDRESSES = ", ".join(f"10.{i >> 8}.{i & 255}.2" for i in range(10_000))
TEXTS = {
    "a port set named many times": (f"ports a = [ {PORTS} ]\nports b = [ {'a, ' * 20_000}]\n" + RULES % "allow from any on b", 0),
    "a CIDR set named many times": (f"cidr a = [ {ADDRESSES} ]\ncidr b = [ {'a, ' * 20_000}]\n" + RULES % "allow from b", 0),
    "a port set in many rules": (f"ports a = [ {PORTS} ]\n" + RULES % ("allow from any on a\n" * 5_000), 0),
    "a port set written out in many rules": (f"ports a = [ {PORTS} ]\n" + RULES % ("allow from any on a, udp/1\n" * 2_000), 2),
    "a CIDR set written out in many rules": (f"cidr a = [ {ADDRESSES} ]\n" + RULES % ("allow from [ a, 1.1.1.1 ]\n" * 2_000), 2),
    "names near many others": (
        "".join(f"identity name{i:05} {{ a == b }}\n" for i in range(10_000))
        + RULES % "".join(f"allow from nbme{i:05}x\n" for i in range(600)),
        2,
    ),
    "references near many others": (
        RULES % "".join(f"allow from any as rule{i:05}\n" for i in range(2_000))
        + 'test "t" {\n' + "".join(f"allow host -> host tcp/80 by p.rulf{i:05}x\n" for i in range(2_000)) + "}",
        2,
    ),
    "many ends on both sides": (
        "policy p for host { egress {} }\n"
        f'test "t" {{ allow {", ".join(["192.0.2.1"] * 10_000)} -> {", ".join(["192.0.2.2"] * 10_000)} tcp/80 }}\n',
        0,
    ),
    "many values of one key": ("identity a { " + ", ".join(f"k != v{i}" for i in range(10_000)) + " }\n" + RULES % "allow from a", 0),
}  # fmt: skip


@pytest.mark.parametrize("name", TEXTS)
def test_a_text_that_stands_for_much(name: str, tmp_path: Path) -> None:
    text, code = TEXTS[name]
    (tmp_path / "x.pol").write_text(text)
    done = policyc("check", "--format", "json", "x.pol", folder=tmp_path, seconds=60)
    assert done.returncode == code
    found = json.loads(done.stdout)["diagnostics"]
    assert len(found) <= 501
    assert all(d["file"] == "x.pol" and d["line"] >= 1 for d in found)


def test_includes(tmp_path: Path) -> None:
    """A cycle, a file that includes itself, a lattice with 100^50 ways through it, and what is no file."""
    for i in range(50):
        (tmp_path / f"l{i}.pol").write_text(f'include "l{i + 1}.pol"\n' * 100)
    (tmp_path / "l50.pol").write_text("identity z { a == b }\n")
    (tmp_path / "a.pol").write_text('include "b.pol"\n')
    (tmp_path / "b.pol").write_text('include "a.pol"\n')
    (tmp_path / "self.pol").write_text('include "self.pol"\n')
    (tmp_path / "folder.pol").mkdir()
    (tmp_path / "zero.pol").symlink_to("/dev/zero")
    (tmp_path / "loop.pol").symlink_to("loop.pol")
    (tmp_path / "nul.pol").write_bytes(b"\0" * 1000)
    os.mkfifo(tmp_path / "fifo.pol")
    names = ["l0", "a", "self", "folder", "zero", "loop", "nul", "fifo", "missing", "x" * 300, "../a", "/etc/passwd"]
    (tmp_path / "x.pol").write_text("".join(f'include "{n}.pol"\n' for n in names))
    done = policyc("check", "--format", "json", "x.pol", folder=tmp_path, seconds=60)
    assert done.returncode == 2
    found = {(d["name"], d["file"], d["line"]) for d in json.loads(done.stdout)["diagnostics"]}
    assert found == {
        ("include-cycle", "b.pol", 1), ("include-cycle", "self.pol", 1), ("not-a-file", "x.pol", 4),
        ("outside-root", "x.pol", 5), ("unreadable-file", "x.pol", 6), ("control-character", "nul.pol", 1),
        ("not-a-file", "x.pol", 8), ("unreadable-file", "x.pol", 9), ("unreadable-file", "x.pol", 10),
        ("outside-root", "x.pol", 11), ("outside-root", "x.pol", 12),
    }  # fmt: skip


def test_files_together_have_a_limit(tmp_path: Path) -> None:
    (tmp_path / "0.pol").write_text("# " + "x" * (15 << 20) + "\n")
    (tmp_path / "0.txt").write_text("")
    os.truncate(tmp_path / "0.txt", 60 << 20)
    for i in range(1, 5):
        os.link(tmp_path / "0.pol", tmp_path / f"{i}.pol")
        os.link(tmp_path / "0.txt", tmp_path / f"{i}.txt")
    includes = "".join(f'include "{i}.pol"\n' for i in range(4))
    feeds = ", ".join(f'file "{i}.txt"' for i in range(4))
    (tmp_path / "x.pol").write_text(includes + f"cidr a = [ {feeds} ]\n")
    done = policyc("check", "--format", "json", "x.pol", folder=tmp_path)
    found = [(d["name"], d["line"]) for d in json.loads(done.stdout)["diagnostics"] if d["file"] == "x.pol"]
    assert found == [("file-too-large", 3), ("file-too-large", 4), ("file-too-large", 5), ("file-too-large", 5)]


def test_a_feed_of_bad_lines_is_not_read_to_its_end(tmp_path: Path) -> None:
    (tmp_path / "f.txt").write_text("x\n" * 5_000_000)
    (tmp_path / "x.pol").write_text('cidr a = [ file "f.txt" ]\n')
    done = policyc("check", "--format", "json", "x.pol", folder=tmp_path, seconds=60)
    assert sum(d["name"] == "bad-feed-line" for d in json.loads(done.stdout)["diagnostics"]) == 20


def test_an_endpoints_file_of_mistakes(tmp_path: Path) -> None:
    (tmp_path / "x.pol").write_text("policy p for host { egress {} }\n")
    (tmp_path / "e.yaml").write_text("version: 1\nendpoints:\n" + "- {nme: 1}\n" * 5_000)
    done = policyc("eval", "x.pol", "--endpoints", "e.yaml", folder=tmp_path)
    assert done.returncode == 2
    assert done.stderr.count(b"error[") == 501
    assert b"endpoints-too-many-errors" in done.stderr


def test_too_many_values_of_an_endpoints_file(monkeypatch: pytest.MonkeyPatch) -> None:
    from policyc import endpoints, yaml_nodes

    monkeypatch.setattr(yaml_nodes, "NODE_LIMIT", 100)
    file, found = endpoints.parse("[" + "a, " * 200 + "]", "e.yaml")
    assert file is None
    assert [d.name for d in found] == ["endpoints-too-large"]
    assert found[0].span is not None


def test_too_many_words(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from policyc.frontend import load
    from policyc.grammar import lexer

    monkeypatch.setattr(lexer, "MAX_TOKENS", 100)
    (tmp_path / "x.pol").write_text("identity a { k == v }\n" * 50)
    found = load([str(tmp_path / "x.pol")]).diagnostics
    assert [d.name for d in found if d.name != "duplicate-name"] == ["file-too-large"]
