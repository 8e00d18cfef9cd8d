"""The compiler's back end: reproducible objects, contained backend errors, limits said in the policy's terms."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from policyc.codegen import backend, budget
from policyc.codegen.emit import Compiled, compile_object
from policyc.diagnostics import OperationError
from policyc.frontend import load
from policyc.ir.pipeline import build

SOURCE = """identity web { app == web }
policy p for { app == api } {
  ingress {
    allow from web on tcp/80, tcp/8000-8100 as front
    deny from 203.0.113.0/24, 2001:db8::/32 log
    allow from same(ns) on udp/53 audit
  }
}
"""


def compiled(folder: Path, text: str = SOURCE) -> Compiled:
    file = folder / "p.pol"
    file.write_text(text)
    result = load([str(file)])
    assert result.policy is not None, result.diagnostics
    return compile_object(build(result.policy), result.policy, result.sources, result.root)


def test_equal_sources_give_equal_bytes_wherever_they_are_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "other folder").mkdir()
    first = compiled(tmp_path / "a")
    monkeypatch.chdir(tmp_path / "other folder")
    monkeypatch.setenv("PYTHONHASHSEED", "7")
    monkeypatch.setenv("TZ", "Asia/Tokyo")
    assert compiled(tmp_path / "other folder").object == first.object


def test_no_path_of_the_machine_gets_into_the_object(tmp_path: Path) -> None:
    data = compiled(tmp_path).object
    assert os.fsencode(tmp_path) not in data
    assert os.fsencode(os.getcwd()) not in data


def test_the_lines_of_rules_decided_in_the_code_stand_in_the_btf(tmp_path: Path) -> None:
    data = compiled(
        tmp_path, "policy p for { app == api } {\n  ingress {\n    allow from any on tcp/80 as front\n  }\n}\n"
    ).object
    assert b"allow from any on tcp/80 as front" in data


def test_a_backend_that_ends_its_process_becomes_an_error() -> None:
    too_much_stack = """
target triple = "bpfel"
define i32 @f(ptr %p) nounwind {
  %a = alloca [600 x i8], align 8
  call void @g(ptr %a)
  ret i32 0
}
declare void @g(ptr)
"""
    for text in (too_much_stack, "this is no LLVM IR"):
        with pytest.raises(OperationError) as caught:
            backend.run(text, {})
        assert caught.value.exit_code == 4
        assert "\n" not in caught.value.message


def test_the_budget_counts_stack_along_calls(tmp_path: Path) -> None:
    budgets = {b.program: b for b in budget.check(compiled(tmp_path).assembly)}
    assert len(budgets) == 10
    for b in budgets.values():
        assert 0 < b.stack <= budget.MAX_STACK
        assert 0 < b.maps <= budget.MAX_MAPS
    assert budgets["policyc_tc_ingress"].instructions > 1000


def test_a_program_over_the_budget_is_refused_in_the_policys_terms(tmp_path: Path) -> None:
    assembly = re.sub(r"\(r10 - \d+\)", "(r10 - 500)", compiled(tmp_path).assembly)
    with pytest.raises(OperationError, match="bytes of stack; the kernel allows 512"):
        budget.check(assembly)
