"""`policyc inspect`."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import click

from policyc.artifact import manifest as manifests
from policyc.artifact.manifest import Manifest, ManifestAutomaton, ManifestGroup, ManifestRule
from policyc.artifact.reader import Artifact, read
from policyc.cli.output import document, format_option, plain
from policyc.model import Selector


@click.command()
@click.argument("artifact", metavar="X.o", type=click.Path(readable=False))
@format_option
def command(artifact: str, format_: str) -> None:
    """Show what an object contains: rules with their lines, automata, selectors, groups, hooks, maps and what it costs."""
    found = read(artifact)
    found.policy  # noqa: B018 - a policy that cannot be read is an error here, not later
    if format_ == "json":
        automata = {"count": len(found.manifest.automata), **_totals(found.manifest.automata)}
        document(
            "policyc-inspect",
            size=len(found.object),
            automata=automata,
            manifest=manifests.to_json(found.manifest),
        )
        return
    for line in describe(found):
        click.echo(plain(line))


def describe(artifact: Artifact) -> Iterator[str]:
    """The manifest for a person, line by line; the lines may hold whatever the file holds."""
    manifest = artifact.manifest
    yield f"{artifact.name}: policyc artifact, format {manifest.version[0]}.{manifest.version[1]}"
    yield f"  compiled by policyc {manifest.compiler}, llvmlite {manifest.llvmlite}; language {manifest.language}"
    yield f"  {len(artifact.object)} bytes; needs Linux {manifest.minimum_kernel} or newer"
    yield f"  sources {manifest.source_digest}"
    yield from (f"    {digest[:16]}  {name}" for name, digest in manifest.source_files)
    yield from _section("rules by rank", _rules(manifest.rules))
    yield from _section("L7 entries", _entries(manifest))
    yield from _section("automata", _automata(manifest))
    yield from _section("selectors", ([str(i), _selector(s)] for i, s in enumerate(manifest.selectors)))
    yield from _section("same keys", ([str(i), key] for i, key in enumerate(manifest.same_keys)))
    yield from _section("groups", (_group(i, g) for i, g in enumerate(manifest.groups)))
    yield from _section("programs", _programs(manifest))
    yield from _section(
        "maps",
        ([m.name, m.type, f"{m.key_size} -> {m.value_size}", f"{m.max_entries}", m.role] for m in manifest.maps),
    )
    yield from _section("read-only data", ([s.section, f"{s.size} bytes"] for s in manifest.static))


def _section(title: str, rows: Iterable[Sequence[str]]) -> Iterator[str]:
    """A heading and rows in columns; nothing where there are no rows."""
    table = [tuple(row) for row in rows]
    if not table:
        return
    widths = [max(map(len, column)) for column in zip(*table, strict=True)]
    yield f"{title}:"
    for row in table:
        yield "  " + "  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip()


def _rules(rules: Sequence[ManifestRule]) -> Iterator[list[str]]:
    for rank, rule in enumerate(rules):
        flags = " ".join(
            word
            for word, there in (
                ("log", rule.log),
                ("audit", rule.audit),
                ("http", rule.l7),
                ("http audit", rule.l7_audit),
            )
            if there
        )
        level = f"{rule.tier.word} {rule.priority}"
        yield [str(rank), level, rule.direction.word, rule.action.word, rule.ref, str(rule.span), flags]


def _entries(manifest: Manifest) -> Iterator[list[str]]:
    for entry in manifest.entries:
        action = "deny" if entry.deny else "allow"
        yield [manifest.entry_ref(entry), action, str(entry.span), "audit" if entry.audit else ""]


def _automata(manifest: Manifest) -> Iterator[list[str]]:
    """The largest first."""
    for a in sorted(manifest.automata, key=lambda a: -a.size):
        where = manifest.rules[a.rule].ref if a.rule is not None else ""
        yield [
            ", ".join(a.reads),
            where,
            f"{a.states} state{'s' * (a.states != 1)}",
            f"{a.classes} classes of bytes",
            f"{a.size} bytes",
        ]
    if manifest.automata:
        total = _totals(manifest.automata)
        yield ["all", "", f"{total['states']} states", "", f"{total['size']} bytes"]


def _totals(automata: Sequence[ManifestAutomaton]) -> dict[str, int]:
    return {"states": sum(a.states for a in automata), "size": sum(a.size for a in automata)}


def _selector(selector: Selector) -> str:
    return ", ".join(_requirement(r.key, r.op.value, r.values) for r in selector.requirements) or "every endpoint"


def _requirement(key: str, op: str, values: Sequence[str]) -> str:
    if op.endswith("exists"):
        return f"{op} {key}"
    return f"{key} {op} {values[0]}" if op in ("==", "!=") else f"{key} {op} ({', '.join(values)})"


def _group(index: int, group: ManifestGroup) -> list[str]:
    subject = "host" if group.subject is None else f"selector {group.subject}"
    default = "default deny" if group.isolates else "default deny (audit)" if group.isolates_prospectively else ""
    return [str(index), group.tier.word, group.direction.word, subject, default]


def _programs(manifest: Manifest) -> Iterator[list[str]]:
    sections = {name: h.section for h in manifest.hooks for name in (h.program, h.entry)}
    sections |= {name: h.section for h in manifest.stream_hooks for name in (h.program, h.entry)}
    costs = {
        b.program: f"{b.instructions} instructions, {b.jumps} jumps, {b.stack} bytes of stack, {b.maps} maps"
        for b in manifest.budget
    }
    for name in sections | costs:
        yield [name, sections.get(name, ""), costs.get(name, "")]
