"""Measured figures, and the documents that hold them.

`{"format": "policyc-benchmark", "version": 1, "quick": bool, "date": ISO 8601 UTC, "machine": {…}, "figures": [Figure, …]}`; a
figure is `{"part", "name", "value", "unit", "target", "met", "note"}`, where `target` is text such as `<= 150` and `met` is null
where nothing was promised."""

from __future__ import annotations

import datetime
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

FORMAT, VERSION = "policyc-benchmark", 1
COMPARE: dict[str, Callable[[float, float], bool]] = {"<=": lambda a, b: a <= b, ">=": lambda a, b: a >= b}


@dataclass(frozen=True)
class Figure:
    """`part` groups figures in the table; `target` is `<= N` or `>= N` in the figure's unit."""

    part: str
    name: str
    value: float
    unit: str
    target: str | None = None
    note: str = ""

    @property
    def met(self) -> bool | None:
        if self.target is None:
            return None
        operator, limit = self.target.split()
        return COMPARE[operator](self.value, float(limit))


@dataclass(frozen=True)
class Document:
    quick: bool
    date: str
    machine: dict[str, str]
    figures: tuple[Figure, ...]

    def json(self) -> str:
        figures = [{**asdict(f), "met": f.met} for f in self.figures]
        head = {"format": FORMAT, "version": VERSION, "quick": self.quick, "date": self.date, "machine": self.machine}
        return json.dumps({**head, "figures": figures}, indent=1, ensure_ascii=False) + "\n"

    def part(self, name: str) -> list[Figure]:
        return [f for f in self.figures if f.part == name]


def document(figures: Iterable[Figure], quick: bool) -> Document:
    now = datetime.datetime.now(datetime.UTC).replace(microsecond=0)
    return Document(quick, now.isoformat().replace("+00:00", "Z"), machine(), tuple(figures))


def read(path: Path) -> Document:
    """Raises ValueError where the file is no such document."""
    found = json.loads(path.read_text())
    if (found["format"], found["version"]) != (FORMAT, VERSION):
        raise ValueError(f"{path} is not of format {FORMAT} {VERSION}")
    return Document(found["quick"], found["date"], found["machine"], figures_of(found["figures"]))


def figures_of(entries: Sequence[dict[str, Any]]) -> tuple[Figure, ...]:
    return tuple(Figure(**{k: v for k, v in entry.items() if k != "met"}) for entry in entries)


def write(path: Path, figures: Iterable[Figure]) -> None:
    """What one part hands to the whole."""
    path.write_text(json.dumps([asdict(f) for f in figures]))


def read_part(path: Path) -> list[Figure]:
    """What `write` wrote."""
    return list(figures_of(json.loads(path.read_text())))


def machine() -> dict[str, str]:
    info = Path("/proc/cpuinfo").read_text()
    model = re.search(r"^(?:model name|CPU implementer)\s*: (.*)$", info, re.MULTILINE)
    virtual = " (virtual machine)" if "hypervisor" in info else ""
    return {
        "cpu": (model[1] if model else platform.machine()) + virtual,
        "cpus": str(os.cpu_count()),
        "kernel": f"{platform.system()} {platform.release().split('-')[0]} {platform.machine()}",
        "python": platform.python_version(),
    }


def value_text(value: float) -> str:
    """Three digits are as many as these measurements have."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def line(figure: Figure) -> str:
    """One line of text for who waits."""
    met = {True: "met", False: "MISSED", None: ""}[figure.met]
    return f"{figure.name:58} {value_text(figure.value):>10} {figure.unit:8} {figure.target or '':10} {met:7} {figure.note}"


def report(made: Iterable[Figure], out: Path | None) -> None:
    """Prints figures as they come, and writes them to `out`, those before a failure too."""
    kept = []
    try:
        for figure in made:
            kept.append(figure)
            print(line(figure), flush=True)
    finally:
        if out is not None:
            write(out, kept)
