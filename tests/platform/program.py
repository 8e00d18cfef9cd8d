"""Small BPF objects for probes, built as policyc builds its own: llvmlite, debug metadata, backend in a child, libbpf."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, cast

from llvmlite import ir

from policyc.artifact.layout import IdentityLayout, MapSpec
from policyc.artifact.manifest import Manifest
from policyc.artifact.reader import Artifact
from policyc.codegen import backend
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.emit import DATA_LAYOUT, TRIPLE
from policyc.codegen.function import PTR, Function, Value
from policyc.codegen.module_text import module_text
from policyc.model import Span
from policyc.runtime.object import Object

SOURCE = "probe.pol"
LINE = 3
SPAN = Span(SOURCE, LINE, 1, LINE, 10)
Body = Callable[[Function, Mapping[str, Value]], None]


def array(name: str, value_size: int = 8, entries: int = 8) -> MapSpec:
    return MapSpec(name, "ARRAY", 4, value_size, entries, "")


def module(programs: Mapping[tuple[str, str], Body], maps: Sequence[MapSpec] = ()) -> str:
    """LLVM IR of programs by (section, name); each body gets its function and the maps by name."""
    made = ir.Module(name="probe")
    made.triple, made.data_layout = TRIPLE, DATA_LAYOUT
    debug = DebugInfo(made, SOURCE, "probe")
    globals_ = {spec.name: debug.map_global(spec) for spec in maps}
    context = debug.pointer(debug.struct("context", [], 0))
    for (section, name), body in programs.items():
        f = Function(made, debug, name, [("ctx", PTR, context)], SPAN, section=section)
        body(f, globals_)
        f.close()
    debug.license("Dual MIT/GPL")
    debug.finish()
    return module_text(made)


def built(programs: Mapping[tuple[str, str], Body], maps: Sequence[MapSpec] = (), source: str = "") -> bytes:
    return backend.run(module(programs, maps), {SOURCE: source} if source else {})


@contextmanager
def loaded(
    programs: Mapping[tuple[str, str], Body], maps: Sequence[MapSpec] = (), source: str = ""
) -> Iterator[Object]:
    nothing = Manifest(
        1, "", "", "", (), (), (), (), (), (), False, IdentityLayout(0, 0, 0), (), (), (), (), policy=None
    )
    with Object(Artifact("probe", built(programs, maps, source), nothing)) as made:
        made.load()
        yield made


def returns(code: int) -> Body:
    return lambda f, maps: f.ret(code & 0xFFFFFFFF)


def skb_field(f: Function, offset: int, type_: Any) -> Value:
    """A field of the context; LLVM must not combine two of them."""
    return f.load(f.args[0], cast(ir.IntType, type_), offset)
