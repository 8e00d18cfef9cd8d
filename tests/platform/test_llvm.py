"""What llvmlite's LLVM does for us. No kernel is needed."""

from __future__ import annotations

from io import BytesIO

import llvmlite.binding as llvm
import pytest
from elftools.elf.elffile import ELFFile
from llvmlite import ir

from policyc.codegen import backend
from policyc.codegen.function import I64
from policyc.diagnostics import OperationError
from tests.platform.program import array, built, returns


def sections(data: bytes) -> set[str]:
    return {s.name for s in ELFFile(BytesIO(data)).iter_sections()}


def emitted(text: str, cpu: str) -> bytes:
    llvm.initialize_all_targets()
    llvm.initialize_all_asmprinters()
    machine = llvm.Target.from_triple("bpfel").create_target_machine(cpu=cpu, opt=2, reloc="static")
    return bytes(machine.emit_object(llvm.parse_assembly(text)))


def test_the_wheel_contains_the_bpf_target() -> None:
    llvm.initialize_all_targets()
    assert llvm.Target.from_triple("bpfel").name == "bpfel"


def test_objects_are_little_endian_whatever_compiles_them() -> None:
    file = ELFFile(BytesIO(built({("tc", "probe"): returns(0)})))
    assert (file.little_endian, file["e_machine"]) == (True, "EM_BPF")


@pytest.mark.parametrize(("cpu", "tables"), [("v3", False), ("v4", True)])
def test_only_v4_makes_jump_tables_of_a_switch(cpu: str, tables: bool) -> None:
    cases = "\n".join(f"i32 {n}, label %c{n}" for n in range(20))
    blocks = "\n".join(f"c{n}: %v{n} = call i32 @f{n}(i32 %x)\nret i32 %v{n}" for n in range(20))
    declared = "\n".join(f"declare i32 @f{n}(i32)" for n in range(20))
    text = f"""target triple = "bpfel"
{declared}
define i32 @f(i32 %x) {{
switch i32 %x, label %d [{cases}]
{blocks}
d: ret i32 0
}}"""
    assert (".jumptables" in sections(emitted(text, cpu))) is tables
    assert backend.CPU == "v3"


def too_much_stack() -> str:
    return """target triple = "bpfel"
declare void @use(ptr)
define i32 @f() {
  %a = alloca [600 x i8], align 8
  call void @use(ptr %a)
  ret i32 0
}"""


def division() -> str:
    return """target triple = "bpfel"
define i64 @f(i64 %a, i64 %b) {
  %q = sdiv i64 %a, %b
  ret i64 %q
}"""


def six_arguments() -> str:
    return """target triple = "bpfel"
declare i64 @g(i64, i64, i64, i64, i64, i64)
define i64 @f(i64 %a) {
  %r = call i64 @g(i64 %a, i64 %a, i64 %a, i64 %a, i64 %a, i64 %a)
  ret i64 %r
}"""


@pytest.mark.parametrize("broken", [too_much_stack, division, six_arguments, lambda: "no IR at all"])
def test_what_ends_the_backend_ends_a_child(broken) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(OperationError) as raised:
        backend.run(broken(), {})
    assert raised.value.exit_code == 4


def test_debug_metadata_becomes_btf() -> None:
    found = sections(built({("tc", "probe"): returns(0)}, [array("numbers")]))
    assert {".BTF", ".BTF.ext", ".maps"} <= found


def test_functions_without_unwinding_leave_no_eh_frame() -> None:
    assert ".eh_frame" not in sections(built({("tc", "probe"): returns(0)}))


def test_a_helper_is_called_by_its_number() -> None:
    made = ir.Module()
    made.triple = "bpfel"
    function = ir.Function(made, ir.FunctionType(I64, []), "f")
    builder = ir.IRBuilder(function.append_basic_block())
    type_ = ir.FunctionType(I64, [])
    builder.ret(builder.call(builder.inttoptr(I64(5), type_.as_pointer()), []))
    text = ELFFile(BytesIO(backend.run(str(made), {}))).get_section_by_name(".text")
    assert text is not None
    assert bytes([0x85, 0, 0, 0, 5, 0, 0, 0]) in text.data()  # BPF_CALL with imm 5
