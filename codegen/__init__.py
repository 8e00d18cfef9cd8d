"""Code generation: `ir.Tables` to LLVM IR to a BPF ELF object.

`emit.compile_object` is the entry. One file a subject: `function` (structured control flow over llvmlite), `debuginfo` (BTF by way of debug
metadata), `maps`, `records` (offsets of their fields), `flow` (the record that the parts of a program share), `parse` (packets), `peer`
(whose an address is), `match` (rows, CIDR tables, groups, tiers), `state` (connections and fragments), `report` (counters and events), `programs` (the hooks), `module_text` (what LLVM
is given).
"""
