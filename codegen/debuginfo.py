"""Debug metadata, from which LLVM writes `.BTF` and `.BTF.ext`: map definitions, function prototypes and line information."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from llvmlite import ir

from policyc.artifact.layout import MapSpec

# enum bpf_map_type, linux/bpf.h
MAP_TYPES = {
    "HASH": 1, "ARRAY": 2, "PROG_ARRAY": 3, "PERCPU_ARRAY": 6, "LRU_HASH": 9, "SOCKHASH": 18, "CGROUP_STORAGE": 19,
    "SK_STORAGE": 24, "RINGBUF": 27,
}  # fmt: skip
# What programs look at of the kernel's structs, and what kind of type each member has there.
KERNEL_MEMBERS = {
    "tcp_sock": {"rcv_nxt": "int", "write_seq": "int"},
    "inet_connection_sock": {"icsk_ulp_ops": "pointer"},
    "sock": {"sk_wq": "pointer"},
    "socket_wq": {"wait": "struct"},
    "wait_queue_head": {"head": "struct"},
    "wait_queue_entry": {"func": "pointer", "entry": "struct"},
}
NO_PREALLOC = 1  # BPF_F_NO_PREALLOC, which maps of socket storage must have

UINT, INT, CHAR = "DW_ATE_unsigned", "DW_ATE_signed", "DW_ATE_unsigned_char"


class _EqualsOnlyItself:
    """llvmlite compares nodes by content, which does not end where they refer to each other."""

    __hash__ = object.__hash__

    def __eq__(self, other: object) -> bool:
        return self is other


class _Distinct(_EqualsOnlyItself, ir.DIValue):  # type: ignore[misc]
    """A node of its own, whatever it holds."""


class _List(_EqualsOnlyItself, ir.MDValue):  # type: ignore[misc]
    """A list that is filled after others refer to it."""


class _Relocated(ir.GlobalVariable):  # type: ignore[misc]
    """By this attribute the backend knows that loads from it are relocations."""

    def descr(self, buf: list[str]) -> None:
        super().descr(buf)
        buf[-1] = buf[-1].removesuffix("\n") + ' "btf_ama"\n'


class DebugInfo:
    """Metadata of one module. File names are the policy's, relative to the root; directory `.` keeps builds reproducible."""

    def __init__(self, module: ir.Module, main_file: str, producer: str) -> None:
        self.module = module
        self._files: dict[str, Any] = {}
        self._integers: dict[str, Any] = {}
        self._globals: list[Any] = []
        self._globals_node = self._list()
        self.unit = self._distinct(
            "DICompileUnit",
            {
                "language": ir.DIToken("DW_LANG_C99"),
                "file": self.file(main_file),
                "producer": producer,
                "runtimeVersion": 0,
                "isOptimized": True,
                "emissionKind": ir.DIToken("FullDebug"),
                "globals": self._globals_node,
            },
        )
        module.add_named_metadata("llvm.dbg.cu", self.unit)
        i32 = ir.IntType(32)
        flags = module.add_named_metadata("llvm.module.flags")
        flags.add(module.add_metadata([i32(2), "Dwarf Version", i32(5)]))
        flags.add(module.add_metadata([i32(2), "Debug Info Version", i32(3)]))

    def _distinct(self, kind: str, operands: dict[str, Any]) -> Any:
        return _Distinct(self.module, True, kind, tuple(sorted(operands.items())), str(len(self.module.metadata)))

    def _list(self) -> Any:
        return _List(self.module, [], name=str(len(self.module.metadata)))

    def file(self, name: str) -> Any:
        if name not in self._files:
            self._files[name] = self.module.add_debug_info("DIFile", {"filename": name, "directory": ""})
        return self._files[name]

    def integer(self, name: str, bits: int, encoding: str = UINT) -> Any:
        if name not in self._integers:
            self._integers[name] = self.module.add_debug_info(
                "DIBasicType", {"name": name, "size": bits, "encoding": ir.DIToken(encoding)}
            )
        return self._integers[name]

    @property
    def u8(self) -> Any:
        return self.integer("unsigned char", 8, CHAR)

    @property
    def i32(self) -> Any:
        return self.integer("int", 32, INT)

    @property
    def u32(self) -> Any:
        return self.integer("unsigned int", 32)

    @property
    def u64(self) -> Any:
        return self.integer("unsigned long long", 64)

    def pointer(self, target: Any) -> Any:
        return self.module.add_debug_info(
            "DIDerivedType", {"tag": ir.DIToken("DW_TAG_pointer_type"), "baseType": target, "size": 64}
        )

    def array(self, element: Any, count: int, element_bits: int) -> Any:
        rng = self.module.add_debug_info("DISubrange", {"count": count})
        return self.module.add_debug_info(
            "DICompositeType",
            {
                "tag": ir.DIToken("DW_TAG_array_type"),
                "baseType": element,
                "size": element_bits * count,
                "elements": self.module.add_metadata([rng]),
            },
        )

    def struct(self, name: str | None, fields: Sequence[tuple[str, Any, int, int]], size: int) -> Any:
        """`fields`: (name, type, offset in bytes, size in bytes); `size` in bytes."""
        members = [
            self.module.add_debug_info(
                "DIDerivedType",
                {
                    "tag": ir.DIToken("DW_TAG_member"),
                    "name": field,
                    "baseType": type_,
                    "size": bytes_ * 8,
                    "offset": offset * 8,
                },
            )
            for field, type_, offset, bytes_ in fields
        ]
        operands = {
            "tag": ir.DIToken("DW_TAG_structure_type"),
            "size": size * 8,
            "elements": self.module.add_metadata(members),
        }
        if name:
            operands["name"] = name
        return self.module.add_debug_info("DICompositeType", operands)

    def byte_record(self, name: str, size: int) -> Any:
        """A struct that is one array of bytes: keys and values are documented in the layout, not in BTF."""
        return self.struct(name, [("bytes", self.array(self.u8, size, 8), 0, size)], size)

    def scalar_or_record(self, name: str, size: int) -> Any:
        return {4: self.u32, 8: self.u64}.get(size) or self.byte_record(name, size)

    def map_global(self, spec: MapSpec) -> ir.GlobalVariable:
        """A BTF-defined map: a global in `.maps` whose type encodes type, sizes and entries (libbpf's convention)."""
        types: list[tuple[str, Any]] = []
        if spec.key_size:
            types.append(("key", self.scalar_or_record(f"{spec.name}_key", spec.key_size)))
        if spec.value_size:
            types.append(("value", self.scalar_or_record(f"{spec.name}_value", spec.value_size)))
        numbers = [("type", MAP_TYPES[spec.type]), ("max_entries", spec.max_entries)]
        if spec.type == "SK_STORAGE":
            numbers.append(("map_flags", NO_PREALLOC))
        types = [*((n, self.array(self.i32, v, 32)) for n, v in numbers), *types]
        members = [(n, self.pointer(t)) for n, t in types]
        fields = [(n, t, 8 * i, 8) for i, (n, t) in enumerate(members)]
        type_ = self.struct(None, fields, 8 * len(fields))
        var = ir.GlobalVariable(self.module, ir.ArrayType(ir.IntType(64), len(fields)), spec.name)
        var.initializer = ir.Constant(var.value_type, None)
        var.section = ".maps"
        var.align = 8
        self._attach_global(var, type_)
        var.type = ir.PointerType()
        return var

    def kernel_offset(self, struct: str, member: str) -> ir.GlobalVariable:
        """A u64 that is, once loaded, where the kernel's `struct` has `member`: what LLVM makes of `preserve_access_index`, whose
        relocations (CO-RE) any libbpf resolves."""
        members = KERNEL_MEMBERS[struct]
        number = list(members).index(member)
        name = f"llvm.{struct}:0:{8 * number}$0:{number}"
        known = self.module.globals.get(name)
        if known is not None:
            return known
        kinds = {"int": self.u32, "pointer": self.pointer(self.u8), "struct": self.struct(f"{struct}_member", [], 8)}
        fields = [(m, kinds[kind], 8 * i, 4 if kind == "int" else 8) for i, (m, kind) in enumerate(members.items())]
        type_ = self.struct(struct, fields, 8 * len(fields))
        var = _Relocated(self.module, ir.IntType(64), name)
        var.linkage = "external"
        var.set_metadata("llvm.preserve.access.index", type_)
        var.type = ir.PointerType()
        return var

    def license(self, text: str) -> None:
        """The license section, without which the kernel offers fewer helpers."""
        content = bytearray(text.encode() + b"\0")
        var = ir.GlobalVariable(self.module, ir.ArrayType(ir.IntType(8), len(content)), "_license")
        var.initializer = ir.Constant(var.value_type, content)
        var.global_constant, var.section = True, "license"

    def _attach_global(self, var: ir.GlobalVariable, type_: Any) -> None:
        div = self._distinct(
            "DIGlobalVariable",
            {
                "name": var.name,
                "scope": self.unit,
                "type": type_,
                "isLocal": False,
                "isDefinition": True,
            },
        )
        expr = self.module.add_debug_info("DIExpression", {})
        node = self.module.add_debug_info("DIGlobalVariableExpression", {"var": div, "expr": expr})
        var.set_metadata("dbg", node)
        self._globals.append(node)

    def subprogram(
        self, name: str, line: int, file: str, args: Sequence[tuple[str, Any]], result: Any, local: bool
    ) -> Any:
        """A function's prototype. Its arguments must be `retainedNodes`, or the kernel refuses the BTF."""
        types = self.module.add_metadata([result, *(t for _, t in args)])
        type_ = self.module.add_debug_info("DISubroutineType", {"types": types})
        retained = self._list()
        flags = "DISPFlagLocalToUnit | DISPFlagDefinition" if local else "DISPFlagDefinition"
        node = self._distinct(
            "DISubprogram",
            {
                "name": name,
                "scope": self.file(file),
                "file": self.file(file),
                "line": line,
                "scopeLine": line,
                "type": type_,
                "unit": self.unit,
                "flags": ir.DIToken("DIFlagPrototyped"),
                "spFlags": ir.DIToken(flags),
                "retainedNodes": retained,
            },
        )
        retained.operands = tuple(
            self.module.add_debug_info(
                "DILocalVariable",
                {"name": n, "arg": i, "scope": node, "file": self.file(file), "line": line, "type": t},
            )
            for i, (n, t) in enumerate(args, 1)
        )
        return node

    def location(self, scope: Any, line: int, column: int) -> Any:
        return self.module.add_debug_info("DILocation", {"line": line, "column": column, "scope": scope})

    def block_in(self, scope: Any, file: str) -> Any:
        """A lexical block, through which instructions of one function can have lines of another file."""
        return self.module.add_debug_info(
            "DILexicalBlockFile", {"scope": scope, "file": self.file(file), "discriminator": 0}
        )

    def finish(self) -> None:
        """Lists the globals in the compile unit; to be called once, when all are made."""
        self._globals_node.operands = tuple(self._globals)
