"""The compiler's back end: reproducible objects, contained backend errors, limits said in the policy's terms."""

from __future__ import annotations

import os
import re
from pathlib import Path

import pytest

from policyc.artifact.manifest import ProgramBudget
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


def test_the_assembly_is_that_of_the_object(tmp_path: Path) -> None:
    """LLVM changes a module while it generates code: a second generation from the same one makes another program."""
    made = compiled(tmp_path)
    assembly = backend.run(made.llvm_ir, {}, "asm").decode()
    lines = [line for line in assembly.splitlines() if re.match(r"\t(?!\.)\S", line)]
    functions = budget.functions(backend.run(made.llvm_ir, {})).values()
    assert len(lines) == sum(f.instructions for f in functions)


def test_the_budget_counts_stack_along_calls(tmp_path: Path) -> None:
    budgets = {b.program: b for b in budget.check(compiled(tmp_path).object)}
    assert len(budgets) == 10
    for b in budgets.values():
        assert 0 < b.stack <= budget.MAX_STACK
        assert 0 < b.maps <= budget.MAX_MAPS
    assert budgets["policyc_tc_ingress"].instructions > 1000


# A program in a section of its own calls a global function and gives bpf_loop (helper 181) a callback; these use a map each and
# the program two. `inner` is called within .text, without a relocation.
PARTS = """
target triple = "bpfel"
@used = global [4 x i64] zeroinitializer, section ".maps"
@other = global [4 x i64] zeroinitializer, section ".maps"
@table = internal constant [4 x i64] [i64 5, i64 6, i64 7, i64 8]
define internal i64 @inner(ptr %p) noinline nounwind {
  %v = load volatile i64, ptr @table
  ret i64 %v
}
define i64 @global(ptr %p) noinline nounwind {
  %room = alloca [GLOBAL x i8], align 8
  %d = call i64 inttoptr (i64 1 to ptr)(ptr @used, ptr %room)
  %r = call i64 @inner(ptr %p)
  %s = add i64 %r, %d
  ret i64 %s
}
define internal i64 @step(i32 %i, ptr %p) nounwind {
  %room = alloca [STEP x i8], align 8
  %d = call i64 inttoptr (i64 1 to ptr)(ptr @other, ptr %room)
  %zero = icmp eq i64 %d, 0
  br i1 %zero, label %then, label %else
then:
  store volatile i64 1, ptr %p
  ret i64 1
else:
  store volatile i64 2, ptr %p
  ret i64 0
}
define i64 @policyc_part(ptr %ctx) nounwind section "tc" {
  %room = alloca [8 x i8], align 8
  store volatile i64 0, ptr %room
  %r = call i64 @global(ptr %ctx)
  %n = call i64 inttoptr (i64 181 to ptr)(i32 9, ptr @step, ptr %room, i64 0)
  ret i64 %n
}
define i64 @enter_part(ptr %ctx) nounwind section "tc" {
  %d = call i64 inttoptr (i64 1 to ptr)(ptr @used, ptr %ctx)
  ret i64 %d
}
"""


def parts(of_global: int, of_step: int) -> bytes:
    return backend.run(PARTS.replace("GLOBAL", str(of_global)).replace("STEP", str(of_step)), {})


def test_the_budget_counts_callbacks_as_calls() -> None:
    entry, program = budget.check(parts(64, 100))
    functions = {f.name: f for f in budget.functions(parts(64, 100)).values()}
    assert entry == ProgramBudget("enter_part", instructions=4, stack=32, maps=1, jumps=0)
    assert (program.program, program.maps) == ("policyc_part", 2)
    assert program.instructions == sum(functions[n].instructions for n in ("policyc_part", "global", "step", "inner"))
    assert program.stack == 32 + 128  # the program and the deeper of its two calls, in units of 32
    assert budget.check(parts(100, 8))[1].stack == 32 + 128 + 32  # `inner` has none of its own, and counts
    assert functions["inner"].instructions == 3  # a load of 64 bits is one instruction
    assert (functions["global"].stack, functions["step"].stack) == (64, 104)
    assert program.jumps == functions["step"].jumps > 0


@pytest.mark.parametrize(("stacks", "needed"), [((450, 8), 544), ((8, 490), 544)])
def test_a_program_over_the_budget_is_refused_in_the_policys_terms(stacks: tuple[int, int], needed: int) -> None:
    with pytest.raises(OperationError, match=f"a program of {needed} bytes of stack; the kernel allows 512"):
        budget.check(parts(*stacks))
