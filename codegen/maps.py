"""The maps of the object, as BTF-defined globals."""

from __future__ import annotations

from enum import IntEnum

from llvmlite import ir

from policyc.artifact.layout import NEXT_PREFIX, Hook, IdentityLayout, MapSpec, map_specs
from policyc.artifact.stream_layout import StreamHook, stream_map_specs
from policyc.codegen.debuginfo import DebugInfo


class Maps:
    """`maps["ct4"]` is the global of that map."""

    def __init__(self, debug: DebugInfo, identity: IdentityLayout, rules: int, entries: int | None) -> None:
        """`entries`: of all L7 blocks, which are counted behind the rules; None where nothing judges streams."""
        self.rules = rules
        specs = map_specs(identity, rules + (entries or 0))
        hooks: list[IntEnum] = [*Hook]
        if entries is not None:
            specs += stream_map_specs()
            hooks += StreamHook
        specs += [MapSpec(NEXT_PREFIX + h.name.lower(), "PROG_ARRAY", 4, 4, 2, "generation slots") for h in hooks]
        self._globals = {spec.name: debug.map_global(spec) for spec in specs}

    def __getitem__(self, name: str) -> ir.GlobalVariable:
        return self._globals[name]
