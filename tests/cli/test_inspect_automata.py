"""Protects what `inspect` says of automata: which part of a request each reads, and what it takes of the object."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
from llvmlite import ir as llvm

from policyc.artifact import manifest as manifests
from policyc.artifact.shape import ShapeError
from policyc.codegen.http_data import HttpData, version_automaton
from policyc.codegen.rodata import Rodata
from policyc.driver import check_files
from policyc.ir.pipeline import build
from tests.cli.run import policyc

POLICY = """\
identity api { app == api }
policy shop for api {
  ingress {
    allow from any on tcp/80 http {
      GET "/a/**" header "X-Token" "good" query "id" "7"
      POST "/b" host "shop.example"
    } as pages
    allow from any on tcp/81 http { GET "/c/*" header "X-Token" "bad" } as others
    allow from any on tcp/82 as plain
  }
}
"""
OF_RULES = {
    ("path", "shop.pages"),
    ("path", "shop.others"),
    ("host", "shop.pages"),
    ("host", "shop.others"),
    ("header x-token", "shop.pages"),
    ("header x-token", "shop.others"),
    ("query key", "shop.pages"),
    ("query id", "shop.pages"),
}
OF_ALL = {"method", "header name", "header transfer-encoding", "header expect", "any other header", "any other query key", "any other query value"}  # fmt: skip


@pytest.fixture(scope="module")
def source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("automata") / "shop.pol"
    path.write_text(POLICY)
    return path


@pytest.fixture(scope="module")
def built(source: Path) -> Path:
    assert policyc("compile", source, "-o", source.with_suffix(".o")).code == 0
    return source.with_suffix(".o")


@pytest.fixture(scope="module")
def told(built: Path) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(policyc("inspect", built, "--format", "json").out)
    return document


def test_each_says_what_it_reads_and_for_which_rule(told: dict[str, Any]) -> None:
    refs = [rule["ref"] for rule in told["manifest"]["rules"]]
    automata = told["manifest"]["automata"]
    found = [(part, a["rule"]) for a in automata for part in a["reads"]]
    assert {(part, refs[rule]) for part, rule in found if rule is not None} == OF_RULES
    assert {part for part, rule in found if rule is None} == OF_ALL
    assert all(a["reads"] for a in automata)


def test_the_sizes_are_those_of_the_data(source: Path, told: dict[str, Any]) -> None:
    tables = build(check_files([str(source)]).policy)
    assert tables.http is not None
    data = HttpData(Rodata(llvm.Module()), tables, tables.http, {})
    arrays = (data.classes, data.next, data.outcomes)
    assert sum(len(a.values) * a.width for a in arrays) == told["automata"]["size"] + version_automaton().size


def test_the_totals(told: dict[str, Any]) -> None:
    automata = told["manifest"]["automata"]
    sums = {key: sum(a[key] for a in automata) for key in ("states", "size")}
    assert told["automata"] == {"count": len(automata), **sums}
    assert all(0 < a["classes"] <= 256 for a in automata)


def test_text_lists_the_largest_first_and_the_total(built: Path, told: dict[str, Any]) -> None:
    out = policyc("inspect", built).out
    lines = out.partition("\nautomata:\n")[2].partition("\nselectors:")[0].splitlines()
    sizes = [int(found[1]) for line in lines if (found := re.search(r" (\d+) bytes$", line))]
    assert len(sizes) == len(lines) == told["automata"]["count"] + 1
    assert sizes[:-1] == sorted(sizes[:-1], reverse=True)
    assert sizes[-1] == told["automata"]["size"]
    row = next(line for line in lines if line.startswith("  query id "))
    assert re.fullmatch(r"  query id +shop.pages +\d+ states? +\d+ classes of bytes +\d+ bytes", row)


def test_objects_without_blocks_have_none(source: Path) -> None:
    plain = source.with_name("plain.pol")
    plain.write_text("policy a for { app == a } { ingress { allow from any on tcp/80 } }\n")
    assert policyc("compile", plain, "-o", plain.with_suffix(".o")).code == 0
    assert "\nautomata:" not in policyc("inspect", plain.with_suffix(".o")).out
    told = json.loads(policyc("inspect", plain.with_suffix(".o"), "--format", "json").out)
    assert (told["automata"], told["manifest"]["automata"]) == ({"count": 0, "states": 0, "size": 0}, [])


def test_an_automaton_of_no_rule_is_refused(told: dict[str, Any]) -> None:
    broken = copy.deepcopy(told["manifest"])
    broken["automata"][0]["rule"] = len(broken["rules"])
    with pytest.raises(ShapeError, match=r"automata\[0\]\.rule: expected the rank of a rule"):
        manifests.from_json(broken)
