"""docs/artifact.md: each table of a layout, of a map, of numbers and of programs against `policyc.artifact.layout`."""

from __future__ import annotations

import re
import struct
from enum import IntEnum
from pathlib import Path

import pytest

from policyc.artifact import layout
from policyc.artifact.layout import HOOK_SECTIONS, Hook, IdentityLayout, map_specs
from policyc.artifact.stream_layout import (
    MARK,
    STREAM_EVENT,
    STREAM_SECTIONS,
    Answer,
    StreamHook,
    stream_map_specs,
)
from policyc.artifact.writer import hook_program, stream_hook_program
from policyc.codegen.programs import HOOKS
from policyc.model import Direction, Tier

PAGE = (Path(__file__).resolve().parents[2] / "docs" / "artifact.md").read_text()
UNIT = IdentityLayout(1, 1, 1)

# "### heading" → the layout; the parts of a struct that are padding stand in no table
LAYOUTS = {
    "Value of `config`": layout.CONFIG,
    "Value of `points`": layout.POINT,
    "Value of `cgroups`": layout.CGROUP,
    "Value of `endpoints`": layout.ENDPOINT,
    "Key of `ct4`": layout.CT4_KEY,
    "Key of `ct6`": layout.CT6_KEY,
    "Value of `ct4` and `ct6`": layout.CT,
    "Key of `frags`": layout.FRAG_KEY,
    "Value of `frags`": layout.FRAG,
    "Key of `denials`": layout.DENIAL_KEY,
    "Value of `denials`": layout.DENIAL,
    "Value of `counters`": layout.COUNTER,
    "Value of `reasons`": layout.REASON_COUNTER,
    "Event": layout.EVENT,
}
NUMBERS: dict[str, type[IntEnum]] = {
    "state": layout.State,
    "events": layout.Events,
    "config flag": layout.ConfigFlag,
    "point kind": layout.PointKind,
    "cgroup kind": layout.CgroupKind,
    "endpoint flag": layout.EndpointFlag,
    "identity flag": layout.IdentityFlag,
    "connection flag": layout.CtFlag,
    "direction": Direction,
    "tier": Tier,
    "hook": Hook,
    "peer class": layout.PeerClassCode,
}


def rows(text: str) -> list[list[str]]:
    """The cells of the first table's rows, without its head."""
    table = re.search(r"^\|.*\n\|-.*\n((?:\|.*\n?)+)", text, re.M)
    assert table is not None, text[:80]
    lines = table[1].replace("\\|", "OR").splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]


def section(heading: str) -> str:
    level = heading.split(" ")[0]
    return re.split(rf"\n#{{2,{len(level)}}} ", PAGE.split(f"\n{heading}\n")[1])[0]


def fields(shape: struct.Struct) -> list[tuple[str, str]]:
    """(offset, size) of each field that is not padding."""
    found, at = [], 0
    for count, code in re.findall(r"(\d*)([a-zA-Z])", shape.format):
        sizes = [int(count or 1)] if code in "sx" else [struct.calcsize("<" + code)] * int(count or 1)
        for size in sizes:
            if code != "x":
                found.append((str(at), str(size)))
            at += size
    assert at == shape.size
    return found


@pytest.mark.parametrize("heading", LAYOUTS)
def test_layouts(heading: str) -> None:
    assert [(at, size) for at, size, _ in rows(section(f"### {heading}"))] == fields(LAYOUTS[heading])


def test_there_is_no_other_layout_on_the_page() -> None:
    assert set(re.findall(r"^### (.*)$", PAGE, re.M)) == {*LAYOUTS, "Identity record"}


def test_the_identity_record_by_its_formulas() -> None:
    written = rows(section("### Identity record"))
    for shape in (IdentityLayout(1, 1, 0), IdentityLayout(3, 2, 2), IdentityLayout(64, 64, 5)):
        size = 32 + 4 * shape.max_peers + 24 * shape.max_groups
        values = {"P": shape.max_peers, "G": shape.max_groups, "S": shape.same_keys, "M": size + 7 & ~7}

        def value(cell: str, values: dict[str, int] = values) -> int:
            terms = [re.findall(r"\d+|[PGSM]", term) for term in cell.split("+")]
            total = 0
            for term in terms:
                product = 1
                for factor in term:
                    product *= values[factor] if factor in values else int(factor)
                total += product
            return total

        places = {cells[2].split(":")[-1].strip(): (value(cells[0]), value(cells[1])) for cells in written}
        assert list(places.values()) == [
            (0, 4), (4, 4), (8, 24), (32, 4 * shape.max_peers), (shape.groups_offset, 24 * shape.max_groups),
            (shape.same_offset, 8 * shape.same_keys),
        ]  # fmt: skip
        assert shape.size == values["M"] + 8 * shape.same_keys


def test_maps() -> None:
    table = {cells[0].strip("`"): cells[1:5] for cells in rows(section("## Maps"))}
    for spec in map_specs(UNIT, 1):
        value = "by policy" if spec.name == "identities" else str(spec.value_size)
        entries = "by policy" if spec.name == "counters" else str(spec.max_entries)
        assert table.pop(spec.name) == [spec.type, str(spec.key_size), value, entries]
    assert table == {"next_HOOK": ["PROG_ARRAY", "4", "4", "2"]}


def test_streams() -> None:
    page = section("## Streams")
    programs = rows(page)
    described = [stream_hook_program(hook) for hook in StreamHook]
    assert [cells[:2] for cells in programs] == [
        [f"`{d.program}`, `{d.entry}`", f"`{STREAM_SECTIONS[d.hook]}`"] for d in described
    ]
    maps = rows("| map | written by |" + page.split("| written by |")[1])
    for cells, spec in zip(maps, stream_map_specs(), strict=True):
        value = "by version" if spec.name == "streams" else str(spec.value_size)
        assert cells[:5] == [f"`{spec.name}`", spec.type, str(spec.key_size), value, str(spec.max_entries)]
    mark, request = (page.split(f"#### {name}")[1] for name in ("Value of `marks4` and `marks6`", "Request"))
    assert [(at, size) for at, size, _ in rows(mark)] == fields(MARK)
    own = [(at, size) for at, size in fields(STREAM_EVENT) if int(at) >= layout.EVENT.size]
    assert [(at, size) for at, size, _ in rows(request)] == own
    assert ", ".join(f"{int(hook)} {hook.name.lower().replace('_', ' ')}" for hook in StreamHook) in page
    assert [int(answer) for answer in Answer] == [0, 1, 2]


def test_numbers() -> None:
    second = section("## Maps").split("| number of |")[1]
    table = dict(rows("| number of |" + second))
    for name, enum in NUMBERS.items():
        assert table.pop(name) == ", ".join(f"{int(m)} {m.name.lower().replace('_', ' ')}" for m in enum)
    assert table == {}


def test_programs() -> None:
    table = rows(section("## Programs"))
    assert [cells[:2] + cells[3:] for cells in table] == [
        [
            f"`{hook_program(t.hook).program}`, `{hook_program(t.hook).entry}`",
            f"`{HOOK_SECTIONS[t.hook]}`",
            str(t.passed),
            str(t.denied),
        ]
        for t in HOOKS
    ]


def test_idle_times() -> None:
    times = (layout.IDLE_TCP_OPENING, layout.IDLE_TCP, layout.IDLE_CLOSING, layout.IDLE_OTHER, layout.IDLE_FRAGMENT)
    said = "TCP before a reply {}, TCP {}, after RST or both FINs {}, everything else {}; a `frags` entry {}."
    assert said.format(*times) in PAGE
