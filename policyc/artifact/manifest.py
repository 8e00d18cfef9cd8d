"""The manifest: what a loader, an operator and the evaluator must know about an object, as typed values and as JSON.

JSON shape: docs/artifact.md. `format` and `version` come first in meaning: a reader looks at them before anything
else. Fields are only added within a MAJOR version; a reader ignores those it does not know, unless the sections
that carry them are listed in `mandatory`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

from policyc.artifact.layout import Hook, IdentityLayout, MapSpec
from policyc.artifact.policy_json import SpanTable, decode_selector, decode_span, encode_selector
from policyc.artifact.shape import Node
from policyc.artifact.stream_layout import StreamHook
from policyc.model import Action, Direction, PeerClass, Selector, Span, Tier

FORMAT = "policyc-artifact"
VERSION = (1, 1)  # MAJOR, MINOR
MANIFEST_SECTION = "policyc.manifest"
DIGEST_SECTION = "policyc.digest"
MANDATORY = (DIGEST_SECTION, MANIFEST_SECTION)
MINIMUM_KERNEL = "6.1"
"""The oldest kernel on which objects are tested."""


@dataclass(frozen=True)
class ManifestRule:
    """A rule by rank: entry R of `Manifest.rules` is rank R. `level` ascends with rank. `l7`: it has a block, which is in force
    where the rule is; `l7_audit`: it has a block that only reports."""

    ref: str
    span: Span
    direction: Direction
    tier: Tier
    priority: int
    level: int
    action: Action
    log: bool
    audit: bool
    l7: bool = False
    l7_audit: bool = False


@dataclass(frozen=True)
class ManifestEntry:
    """An entry of an L7 block, in source order: index E of `Manifest.entries` is what events call it; its counter follows those of
    the rules. `rank`: of its rule; `number`: its place in the block, from 1. `audit`: the rule or its block only reports."""

    rank: int
    number: int
    deny: bool
    audit: bool
    span: Span


@dataclass(frozen=True)
class ManifestGroup:
    """A group by index, as it stands in the identity record. `subject`: an index into `selectors`, or None for `host`."""

    direction: Direction
    tier: Tier
    subject: int | None
    isolates: bool
    isolates_prospectively: bool


@dataclass(frozen=True)
class ManifestSelected:
    """A subject that some policy has (`subject` as in `ManifestGroup`); `enforced`: one that is not audited."""

    subject: int | None
    enforced: bool


@dataclass(frozen=True)
class HookProgram:
    """The pair of programs of a hook: `program` judges, `entry` is constant and tail-calls slot 0 or 1 of `next_map`."""

    hook: Hook
    program: str
    entry: str
    section: str
    next_map: str


@dataclass(frozen=True)
class StreamHookProgram:
    """The same of a program that judges streams."""

    hook: StreamHook
    program: str
    entry: str
    section: str
    next_map: str


@dataclass(frozen=True)
class ProgramBudget:
    """What a program takes: instructions in the object, bytes of stack along its deepest chain of calls, maps used, and
    jumps in the function that has most of them."""

    program: str
    instructions: int
    stack: int
    maps: int
    jumps: int


@dataclass(frozen=True)
class ManifestAutomaton:
    """One that reads requests. `reads`: which parts of them (`path`, `header x-token`); equal automata are one. `rule`: the rank of the first rule
    for which it does, None where it does for all. `classes` of bytes that it tells apart; `size`: bytes of its table."""

    reads: tuple[str, ...]
    rule: int | None
    states: int
    classes: int
    size: int


@dataclass(frozen=True)
class StaticData:
    """A read-only data section whose contents any ELF loader puts into a map of the kernel."""

    section: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """`policy` is the document of `policy_json`, still unread; `source_files` are (name, SHA-256) in reading order. `entries` are
    all entries of L7 blocks; `automata` and `stream_hooks` are empty where there are none."""

    language: int
    compiler: str
    llvmlite: str
    source_digest: str
    source_files: tuple[tuple[str, str], ...]
    rules: tuple[ManifestRule, ...]
    selectors: tuple[Selector, ...]
    same_keys: tuple[str, ...]
    groups: tuple[ManifestGroup, ...]
    selected: tuple[ManifestSelected, ...]
    has_audit: bool
    identity_layout: IdentityLayout
    maps: tuple[MapSpec, ...]
    hooks: tuple[HookProgram, ...]
    static: tuple[StaticData, ...]
    budget: tuple[ProgramBudget, ...]
    policy: Any = field(repr=False)
    stateless: bool = False
    entries: tuple[ManifestEntry, ...] = ()
    automata: tuple[ManifestAutomaton, ...] = ()
    stream_hooks: tuple[StreamHookProgram, ...] = ()
    minimum_kernel: str = MINIMUM_KERNEL
    mandatory: tuple[str, ...] = MANDATORY
    version: tuple[int, int] = VERSION

    def entry_ref(self, entry: ManifestEntry) -> str:
        """`RULE.N`."""
        return f"{self.rules[entry.rank].ref}.{entry.number}"

    @property
    def counters(self) -> int:
        """How many counters there are: of the rules by rank, then of the entries."""
        return len(self.rules) + len(self.entries)


# --- to JSON --------------------------------------------------------------------------------------------------


def to_json(manifest: Manifest) -> dict[str, Any]:
    """The manifest as plain JSON values."""
    spans = SpanTable()
    rules = [_rule_json(rule, spans) for rule in manifest.rules]
    entries = [_entry_json(entry, spans) for entry in manifest.entries]
    return {
        "format": FORMAT,
        "version": f"{manifest.version[0]}.{manifest.version[1]}",
        "mandatory": list(manifest.mandatory),
        "language": manifest.language,
        "compiler": manifest.compiler,
        "llvmlite": manifest.llvmlite,
        "source_digest": manifest.source_digest,
        "source_files": [list(f) for f in manifest.source_files],
        "span_files": list(spans.names),
        "rules": rules,
        "entries": entries,
        "automata": [vars(a) | {"reads": list(a.reads)} for a in manifest.automata],
        "selectors": [encode_selector(s) for s in manifest.selectors],
        "same_keys": list(manifest.same_keys),
        "groups": [_group_json(g) for g in manifest.groups],
        "selected": [{"subject": _subject_json(s.subject), "enforced": s.enforced} for s in manifest.selected],
        "has_audit": manifest.has_audit,
        "stateless": manifest.stateless,
        "identity_layout": vars(manifest.identity_layout),
        "maps": [vars(m) for m in manifest.maps],
        "hooks": [vars(h) | {"hook": h.hook.name.lower()} for h in manifest.hooks],
        "stream_hooks": [vars(h) | {"hook": h.hook.name.lower()} for h in manifest.stream_hooks],
        "static": [vars(s) for s in manifest.static],
        "budget": [vars(b) for b in manifest.budget],
        "minimum_kernel": manifest.minimum_kernel,
        "policy": manifest.policy,
    }


def to_bytes(manifest: Manifest) -> bytes:
    """Compact UTF-8 JSON with sorted keys: equal manifests give equal bytes."""
    return json.dumps(to_json(manifest), sort_keys=True, ensure_ascii=False, separators=(",", ":")).encode()


def _rule_json(rule: ManifestRule, spans: SpanTable) -> dict[str, Any]:
    return {
        "ref": rule.ref,
        "span": spans.encode(rule.span),
        "direction": rule.direction.word,
        "tier": rule.tier.word,
        "priority": rule.priority,
        "level": rule.level,
        "action": rule.action.word,
        "log": rule.log,
        "audit": rule.audit,
        "l7": rule.l7,
        "l7_audit": rule.l7_audit,
    }


def _entry_json(entry: ManifestEntry, spans: SpanTable) -> dict[str, Any]:
    return vars(entry) | {"span": spans.encode(entry.span)}


def _subject_json(subject: int | None) -> int | str:
    return PeerClass.HOST.value if subject is None else subject


def _group_json(group: ManifestGroup) -> dict[str, Any]:
    return {
        "direction": group.direction.word,
        "tier": group.tier.word,
        "subject": _subject_json(group.subject),
        "isolates": group.isolates,
        "isolates_prospectively": group.isolates_prospectively,
    }


# --- from JSON ------------------------------------------------------------------------------------------------


def from_json(document: Any) -> Manifest:
    """Raises `ShapeError`. The caller has checked `format` and `version` with `read_version`."""
    doc = Node(document)
    selectors = tuple(decode_selector(n) for n in doc.get("selectors").items())
    files = list(_texts(doc.get("span_files")))
    rules = tuple(_rules(doc, files))
    manifest = Manifest(
        version=read_version(document),
        mandatory=tuple(_texts(doc.get("mandatory"))),
        language=doc.get("language").integer(1),
        compiler=doc.get("compiler").text(),
        llvmlite=doc.get("llvmlite").text(),
        source_digest=doc.get("source_digest").text(),
        source_files=tuple(_file(n) for n in doc.get("source_files").items()),
        rules=rules,
        entries=tuple(_entries(doc, files, len(rules))),
        automata=tuple(_automata(doc, len(rules))),
        selectors=selectors,
        same_keys=tuple(_texts(doc.get("same_keys"))),
        groups=tuple(_group(n, len(selectors)) for n in doc.get("groups").items()),
        selected=tuple(_selected(n, len(selectors)) for n in doc.get("selected").items()),
        has_audit=doc.get("has_audit").flag(),
        stateless=doc.get("stateless").flag(),
        identity_layout=_identity_layout(doc.get("identity_layout")),
        maps=tuple(_map(n) for n in doc.get("maps").items()),
        hooks=tuple(_hook(n) for n in doc.get("hooks").items()),
        stream_hooks=tuple(_stream_hook(n) for n in _added(doc, "stream_hooks")),
        static=tuple(StaticData(n.get("section").text(), _size(n, "size")) for n in doc.get("static").items()),
        budget=tuple(_budget(n) for n in doc.get("budget").items()),
        minimum_kernel=doc.get("minimum_kernel").text(),
        policy=doc.get("policy").value,
    )
    _check_references(doc, manifest)
    return manifest


def read_version(document: Any) -> tuple[int, int]:
    """MAJOR and MINOR of a manifest of any version. Raises `ShapeError` where it is none."""
    doc = Node(document)
    if doc.get("format").text() != FORMAT:
        raise doc.get("format").error(FORMAT)
    version = doc.get("version")
    major, dot, minor = version.text().partition(".")
    if not (dot and all(0 < len(p) < 6 and p.isascii() and p.isdigit() for p in (major, minor))):
        raise version.error("MAJOR.MINOR")
    return int(major), int(minor)


def _texts(node: Node) -> Iterator[str]:
    return (n.text() for n in node.items())


def _size(node: Node, key: str) -> int:
    return node.get(key).integer()


def _file(node: Node) -> tuple[str, str]:
    name, digest = node.fixed(2)
    return name.text(), digest.text()


def _added(doc: Node, key: str) -> list[Node]:
    """The members of a list that manifests have since 1.1."""
    node = doc.optional(key)
    return node.items() if node is not None else []


def _flag(node: Node, key: str) -> bool:
    """A flag that manifests have since 1.1."""
    flag = node.optional(key)
    return flag is not None and flag.flag()


def _rules(doc: Node, files: list[str]) -> Iterator[ManifestRule]:
    for node in doc.get("rules").items():
        yield ManifestRule(
            ref=node.get("ref").text(),
            span=decode_span(node.get("span"), files),
            direction=node.get("direction").word(Direction),
            tier=node.get("tier").word(Tier),
            priority=_size(node, "priority"),
            level=_size(node, "level"),
            action=node.get("action").word(Action),
            log=node.get("log").flag(),
            audit=node.get("audit").flag(),
            l7=_flag(node, "l7"),
            l7_audit=_flag(node, "l7_audit"),
        )


def _entries(doc: Node, files: list[str], rules: int) -> Iterator[ManifestEntry]:
    for node in _added(doc, "entries"):
        if _size(node, "rank") >= rules:
            raise node.get("rank").error("the rank of a rule")
        yield ManifestEntry(
            rank=_size(node, "rank"),
            number=_size(node, "number"),
            deny=node.get("deny").flag(),
            audit=node.get("audit").flag(),
            span=decode_span(node.get("span"), files),
        )


def _automata(doc: Node, rules: int) -> Iterator[ManifestAutomaton]:
    for node in _added(doc, "automata"):
        rule = node.optional("rule")
        if rule is not None and rule.integer() >= rules:
            raise rule.error("the rank of a rule")
        yield ManifestAutomaton(
            reads=tuple(_texts(node.get("reads"))),
            rule=None if rule is None else rule.integer(),
            states=_size(node, "states"),
            classes=_size(node, "classes"),
            size=_size(node, "size"),
        )


def _subject(node: Node, selectors: int) -> int | None:
    if node.value == PeerClass.HOST.value:
        return None
    if node.integer() >= selectors:
        raise node.error("host or the index of a selector")
    return node.integer()


def _group(node: Node, selectors: int) -> ManifestGroup:
    return ManifestGroup(
        direction=node.get("direction").word(Direction),
        tier=node.get("tier").word(Tier),
        subject=_subject(node.get("subject"), selectors),
        isolates=node.get("isolates").flag(),
        isolates_prospectively=node.get("isolates_prospectively").flag(),
    )


def _selected(node: Node, selectors: int) -> ManifestSelected:
    return ManifestSelected(_subject(node.get("subject"), selectors), node.get("enforced").flag())


def _identity_layout(node: Node) -> IdentityLayout:
    limit = 1 << 20
    return IdentityLayout(
        max_peers=node.get("max_peers").integer(0, limit),
        max_groups=node.get("max_groups").integer(0, limit),
        same_keys=node.get("same_keys").integer(0, limit),
    )


def _map(node: Node) -> MapSpec:
    return MapSpec(
        name=node.get("name").text(),
        type=node.get("type").text(),
        key_size=_size(node, "key_size"),
        value_size=_size(node, "value_size"),
        max_entries=_size(node, "max_entries"),
        role=node.get("role").text(),
    )


def _hook(node: Node) -> HookProgram:
    return HookProgram(
        hook=node.get("hook").word(Hook),
        program=node.get("program").text(),
        entry=node.get("entry").text(),
        section=node.get("section").text(),
        next_map=node.get("next_map").text(),
    )


def _stream_hook(node: Node) -> StreamHookProgram:
    return StreamHookProgram(
        hook=node.get("hook").word(StreamHook),
        program=node.get("program").text(),
        entry=node.get("entry").text(),
        section=node.get("section").text(),
        next_map=node.get("next_map").text(),
    )


def _budget(node: Node) -> ProgramBudget:
    sizes = {name: _size(node, name) for name in ("instructions", "stack", "maps", "jumps")}
    return ProgramBudget(node.get("program").text(), **sizes)


def _check_references(doc: Node, manifest: Manifest) -> None:
    """What one part of the manifest says of another."""
    if len(manifest.same_keys) != manifest.identity_layout.same_keys:
        raise doc.get("identity_layout").error("as many same keys as `same_keys` has")
    if not isinstance(manifest.policy, dict):
        raise doc.get("policy").error("an object")
    if manifest.stream_hooks and [h.hook for h in manifest.stream_hooks] != list(StreamHook):
        raise doc.get("stream_hooks").error("every stream hook once, in their order")
