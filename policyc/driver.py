"""From policy files to any stage of the compilation. The code generator is imported only where it is needed."""

from __future__ import annotations

import dataclasses
import json
import os
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

from policyc.collector import paused
from policyc.diagnostics import Diagnostic, PolicyError
from policyc.model import PolicySet, Span

Stage = Literal["syntax", "policy", "ir", "tables", "llvm", "asm", "obj"]
STAGES: tuple[Stage, ...] = get_args(Stage)

Observer = Callable[[str, Any, float], None]
"""Called after each step with its name, the IR module it made (None where it made none) and the seconds it took."""


class InvalidSource(PolicyError):
    """Policy files with errors; `sources` maps file names to their texts, for rendering."""

    def __init__(self, diagnostics: list[Diagnostic], sources: Mapping[str, str], root: str | None = None) -> None:
        super().__init__(diagnostics, sources=sources, root=root)


@dataclass(frozen=True)
class Checked:
    """Policy files without errors. `names` are the files given, relative to `root`; `warnings` are in source order."""

    policy: PolicySet
    warnings: tuple[Diagnostic, ...]
    names: tuple[str, ...]
    sources: dict[str, str]
    root: str


def check_files(paths: Sequence[str], root: str | None = None, observer: Observer | None = None) -> Checked:
    """Reads and checks policy files. Raises `InvalidSource`."""
    from policyc.frontend import load

    with _Timed("check", observer), paused():
        result = load(paths, root)
    if result.policy is None:
        raise InvalidSource(list(result.diagnostics), result.sources, result.root)
    names = tuple(os.path.relpath(os.path.realpath(path), os.path.realpath(result.root)) for path in paths)
    return Checked(result.policy, tuple(result.diagnostics), names, dict(result.sources), result.root)


def compile_files(
    paths: Sequence[str], root: str | None = None, observer: Observer | None = None, stateless: bool = False
) -> bytes:
    """The artifact of policy files. Raises `InvalidSource`, and `OperationError` where a limit is exceeded."""
    return emit(check_files(paths, root, observer), "obj", observer, stateless)


def emit(checked: Checked, stage: Stage, observer: Observer | None = None, stateless: bool = False) -> bytes:
    """What `stage` makes of checked files: text in UTF-8, and the object for `obj`. `stateless`: the program keeps no connections."""
    if stage == "syntax":
        return _text("\n".join(_syntax(checked)))
    if stage == "policy":
        from policyc.artifact import policy_json

        return _text(json.dumps(policy_json.encode(checked.policy), indent=2, ensure_ascii=False))
    if stage in ("ir", "tables"):
        return _text(_ir(checked.policy, stage, observer))
    return _generated(checked, stage, observer, stateless)


class _Timed:
    """Reports how long its block took, unless that failed."""

    def __init__(self, name: str, observer: Observer | None) -> None:
        self.name, self.observer, self.begun = name, observer, 0.0

    def __enter__(self) -> None:
        self.begun = time.perf_counter()

    def __exit__(self, kind: object, *_: object) -> None:
        if self.observer is not None and kind is None:
            self.observer(self.name, None, time.perf_counter() - self.begun)


def _text(text: str) -> bytes:
    return (text.rstrip("\n") + "\n").encode(errors="surrogateescape")


def _syntax(checked: Checked) -> Iterator[str]:
    from policyc.grammar.parser import parse

    for name in checked.names:
        tree, _ = parse(checked.sources[name], name)
        yield from _tree(tree, "", 0)


def _tree(node: Any, label: str, depth: int) -> Iterator[str]:
    """A syntax tree, one node a line: its field, its type and place, and what is written there."""
    head = "  " * depth + (f"{label}: " if label else "")
    if isinstance(node, tuple):
        for item in node:
            yield from _tree(item, label, depth)
        return
    if not dataclasses.is_dataclass(node) or isinstance(node, Span):
        yield head + repr(node)
        return
    fields = {f.name: getattr(node, f.name) for f in dataclasses.fields(node)}
    span = fields.pop("span", None)
    inner = {k: v for k, v in fields.items() if dataclasses.is_dataclass(v) or isinstance(v, tuple)}
    words = [f"{k}={v!r}" for k, v in fields.items() if k not in inner and v not in (None, False, frozenset())]
    place = f" {span.line}:{span.column}-{span.end_line}:{span.end_column}" if isinstance(span, Span) else ""
    yield " ".join([f"{head}{type(node).__name__}{place}", *words])
    for name, value in inner.items():
        yield from _tree(value, name, depth + 1)


def _ir(policy: PolicySet, stage: Stage, observer: Observer | None) -> str:
    """The text of the last flat module for `ir`, of the tables for `tables`."""
    from policyc.ir.flat import Module
    from policyc.ir.pipeline import build
    from policyc.ir.text import print_module

    flat: list[Module] = []

    def watch(name: str, module: Any, seconds: float) -> None:
        if isinstance(module, Module):
            flat[:] = [module]
        if observer is not None:
            observer(name, module, seconds)

    tables = build(policy, observer=watch)
    return print_module(flat[0] if stage == "ir" else tables)


def _generated(checked: Checked, stage: Stage, observer: Observer | None, stateless: bool) -> bytes:
    with paused():
        return _object(checked, stage, observer, stateless)


def _object(checked: Checked, stage: Stage, observer: Observer | None, stateless: bool) -> bytes:
    from policyc.ir.pipeline import build

    tables = dataclasses.replace(build(checked.policy, observer=observer), stateless=stateless)
    with _Timed("codegen", observer):
        from policyc.codegen import backend
        from policyc.codegen.emit import compile_object

        compiled = compile_object(tables, checked.policy, checked.sources, checked.root)
        if stage == "obj":
            return compiled.object
        if stage == "llvm":
            return _text(compiled.llvm_ir)
        return _text(backend.run(compiled.llvm_ir, checked.sources, "asm").decode())
