"""The static budget of each program: what the kernel limits, counted before it is asked."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from policyc.artifact.layout import ENTRY_PREFIX, PROGRAM_PREFIX
from policyc.artifact.manifest import ProgramBudget
from policyc.diagnostics import OperationError

MAX_STACK, MAX_MAPS, MAX_INSTRUCTIONS, MAX_JUMPS = 512, 64, 1_000_000, 8192
_LABEL = re.compile(r"^([A-Za-z_][A-Za-z0-9_.]*):")
_CALL = re.compile(r"^call ([A-Za-z_][A-Za-z0-9_]*)$")
_STACK = re.compile(r"\(r10 - (\d+)\)|r\d+ \+= -(\d+)$")
_MAP = re.compile(r"^r\d+ = ([A-Za-z_][A-Za-z0-9_.]*) ll$")


@dataclass
class _Function:
    instructions: int = 0
    jumps: int = 0
    stack: int = 0
    calls: set[str] = field(default_factory=set)
    maps: set[str] = field(default_factory=set)


def _functions(assembly: str) -> dict[str, _Function]:
    functions: dict[str, _Function] = {}
    current: _Function | None = None
    _, _, after = assembly.partition("\t.section\t.maps")
    maps = set(re.findall(r"^(\w+):", after.partition("\t.section")[0], re.MULTILINE))
    starts = set(re.findall(r"\.type\s+(\w+),@function", assembly))
    for raw in assembly.splitlines():
        line = raw.split("#")[0].strip()
        label = _LABEL.match(line)
        if label and label[1] in starts:
            current = functions.setdefault(label[1], _Function())
            continue
        if current is None or not line or line.startswith(".") or label:
            if line.startswith(".section"):
                current = None
            continue
        current.instructions += 1
        current.jumps += line.startswith(("if ", "goto "))
        if call := _CALL.match(line):
            current.calls.add(call[1])
        for a, b in _STACK.findall(line):
            current.stack = max(current.stack, int(a or b))
        if (used := _MAP.match(line)) and used[1] in maps:
            current.maps.add(used[1])
    return functions


def _reach(functions: dict[str, _Function], name: str) -> set[str]:
    seen: set[str] = set()
    waiting = [name]
    while waiting:
        at = waiting.pop()
        if at in seen or at not in functions:
            continue
        seen.add(at)
        waiting.extend(functions[at].calls)
    return seen


def _deepest(functions: dict[str, _Function], name: str) -> int:
    """Bytes of stack along the deepest chain of calls; the kernel rounds each frame up to 32."""
    if name not in functions:
        return 0
    own = (functions[name].stack + 31) & ~31
    return own + max((_deepest(functions, c) for c in functions[name].calls), default=0)


def check(assembly: str) -> tuple[ProgramBudget, ...]:
    """The budget of each program, by name. Raises OperationError where one is over the kernel's limits."""
    functions = _functions(assembly)
    budgets = []
    for name in sorted(f for f in functions if f.startswith((PROGRAM_PREFIX, ENTRY_PREFIX))):
        parts = [functions[p] for p in _reach(functions, name)]
        maps = {m for p in parts for m in p.maps}
        used = ProgramBudget(
            name,
            instructions=sum(p.instructions for p in parts),
            stack=_deepest(functions, name),
            maps=len(maps),
            jumps=max(p.jumps for p in parts),
        )
        limits = (
            ("instructions", used.instructions, MAX_INSTRUCTIONS),
            ("bytes of stack", used.stack, MAX_STACK),
            ("maps", used.maps, MAX_MAPS),
            ("jumps in one function", used.jumps, MAX_JUMPS),
        )
        for what, value, limit in limits:
            if value > limit:
                raise OperationError(
                    f"the policy needs a program of {value} {what}; the kernel allows {limit} ({name})",
                    help="split the policy into several files and load each under a name of its own",
                )
        budgets.append(used)
    return tuple(budgets)
