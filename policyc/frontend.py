"""The front end: from files to a checked policy and all findings."""

from __future__ import annotations

import gc
import hashlib
import os
from collections.abc import Sequence
from dataclasses import dataclass

from policyc.check.compilation import check
from policyc.check.findings import Findings
from policyc.check.scope import Unit
from policyc.diagnostics import Diagnostic
from policyc.grammar import syntax
from policyc.grammar.parser import parse
from policyc.model import PolicySet
from policyc.sources import Refused, Root

MAX_INCLUDE_DEPTH = 64


@dataclass(frozen=True)
class LoadResult:
    """`policy` is None if any diagnostic is an error. `diagnostics` are ordered by file, line and column. `root` is an
    absolute folder where there is a policy; `sources` maps names relative to it to the texts read (byte order mark removed)."""

    policy: PolicySet | None
    diagnostics: list[Diagnostic]
    root: str
    sources: dict[str, str]


def load(paths: Sequence[str], root: str | None = None) -> LoadResult:
    """Reads and checks policy files and what they include, below `root` (default: the folder of the first file).

    Never raises for what is in the files or for files that cannot be read."""
    collecting = gc.isenabled()
    gc.disable()  # trees make many objects and no garbage: a quarter of the time
    try:
        return _load(paths, root)
    finally:
        if collecting:
            gc.enable()


def _load(paths: Sequence[str], root: str | None) -> LoadResult:
    found = Findings()
    folder = root if root is not None else os.path.dirname(paths[0]) or "." if paths else "."
    try:
        base = Root.of(folder)
    except Refused as error:
        found.add(error.name, error.message, None, help=error.help)
        return LoadResult(None, list(found), folder, {})
    reader = _Reader(base, found)
    for path in paths:
        reader.given(path)
    policy = check(reader.units, base, found)
    order = {name: number for number, name in enumerate(base.texts)}
    # A mistake may be what makes a name look unused or a set empty.
    shown = [d for d in found if d.severity == "error" or not found.failed]
    diagnostics = sorted(shown, key=lambda d: _place(d, order))
    texts = {name: text for name, (text, _) in base.texts.items()}
    return LoadResult(None if found.failed else policy, diagnostics, base.path, texts)


def _place(d: Diagnostic, order: dict[str, int]) -> tuple[int, int, int, str, str]:
    if d.span is None:
        return -1, 0, 0, d.code, d.message
    return order.get(d.span.file, len(order)), d.span.line, d.span.column, d.code, d.message


class _Reader:
    """Reads files once each. `units` has included files before those that include them."""

    def __init__(self, root: Root, found: Findings) -> None:
        self.root = root
        self.found = found
        self.units: list[Unit] = []
        self._known: dict[str, Unit] = {}
        self._open: list[str] = []

    def given(self, path: str) -> None:
        try:
            self._read(self.root.place(path, path), path, True)
        except Refused as error:
            self.found.add(error.name, error.message, None, help=error.help)

    def _read(self, relative: str, name: str, given: bool) -> Unit:
        known = self._known.get(relative)
        if known is not None:
            known.given = known.given or given
            return known
        text, data = self.root.read(relative, name)
        tree, diagnostics = parse(text, relative)
        self.found.extend(diagnostics)
        unit = self._known[relative] = Unit(relative, tree, hashlib.sha256(data).hexdigest(), given)
        self._open.append(relative)
        for item in tree.items:
            if isinstance(item, syntax.Include):
                self._include(item, unit)
        self._open.pop()
        self.units.append(unit)
        return unit

    def _include(self, node: syntax.Include, unit: Unit) -> None:
        try:
            relative = self.root.resolve(node.path.text, os.path.dirname(unit.name))
            if relative in self._open:
                self._cycle(node, relative)
                unit.lost = True
                return
            if len(self._open) >= MAX_INCLUDE_DEPTH:
                raise Refused("nested-too-deep", f"files include each other deeper than {MAX_INCLUDE_DEPTH}")
            unit.includes.append((node, self._read(relative, node.path.text, False)))
        except Refused as error:
            unit.lost = True
            self.found.add(error.name, error.message, node.path.span, help=error.help)

    def _cycle(self, node: syntax.Include, relative: str) -> None:
        way = " → ".join([*self._open[self._open.index(relative) :], relative])
        message = "this file includes itself"
        if way.count("→") > 1:
            message = f"files include each other in a circle: {way[:200]}"
        self.found.add("include-cycle", message, node.path.span)
