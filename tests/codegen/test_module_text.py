"""The text of modules: LLVM makes of it what it makes of llvmlite's."""

from llvmlite import ir

from policyc.codegen import backend
from policyc.codegen.emit import DATA_LAYOUT, TRIPLE
from policyc.codegen.module_text import module_text

I8, I32, I64, PTR = ir.IntType(8), ir.IntType(32), ir.IntType(64), ir.PointerType()


def module_with_every_instruction() -> ir.Module:
    module = ir.Module(name="all")
    module.triple, module.data_layout = TRIPLE, DATA_LAYOUT
    value = ir.GlobalVariable(module, I64, "value")
    value.initializer, value.section = I64(7), ".data"
    called = ir.Function(module, ir.FunctionType(I32, [PTR, I32]), "called")
    b = ir.IRBuilder(called.append_basic_block("entry"))
    slot = b.alloca(I64, name="slot")
    slot.align = 8
    slot.type = PTR
    b.asm(ir.FunctionType(ir.VoidType(), [PTR]), "", "r,~{memory}", [slot], True)
    b.store(I64(1), slot).align = 8
    field = b.gep(called.args[0], [I64(4)], source_etype=I8)
    number = b.load(field, typ=I32)
    number.align = 4
    wide = b.zext(b.trunc(b.bswap(number), I8), I64)
    b.atomic_rmw("add", slot, wide, "monotonic")
    mixed = b.xor(b.shl(b.or_(wide, I64(3)), I64(2)), b.ptrtoint(slot, I64))
    small = b.icmp_unsigned("<", called.args[1], I32(9))
    chosen = b.select(small, mixed, b.ashr(mixed, I64(1)))
    start = b.block
    with b.if_then(small):
        again = b.call(called, [called.args[0], b.sub(called.args[1], I32(1))])
        inside = b.block
    phi = b.phi(I32)
    phi.add_incoming(again, inside)
    phi.add_incoming(number, start)
    helper = ir.FunctionType(I64, [I64]).as_pointer()
    b.call(b.inttoptr(I64(5), helper), [chosen])
    one, other = called.append_basic_block("one"), called.append_basic_block("other")
    switch = b.switch(phi, other)
    switch.add_case(I32(1), one)
    switch.add_case(I32(5), one)
    for block, result in ((one, I32(1)), (other, phi)):
        b.position_at_end(block)
        b.ret(result)
    return module


def test_llvm_makes_of_it_what_it_makes_of_the_text_by_llvmlite():
    module = module_with_every_instruction()
    assert backend.run(module_text(module), {}, "asm") == backend.run(str(module), {}, "asm")
