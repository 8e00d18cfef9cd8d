"""Writing an artifact: the manifest of a compilation, and the object that carries it."""

from __future__ import annotations

import hashlib

import policyc
from policyc.artifact import policy_json, seal
from policyc.artifact.elf import Section, append_sections, sections
from policyc.artifact.layout import (
    ENTRY_PREFIX,
    HOOK_SECTIONS,
    NEXT_PREFIX,
    PROGRAM_PREFIX,
    Hook,
    IdentityLayout,
    map_specs,
)
from policyc.artifact.manifest import (
    DIGEST_SECTION,
    MANIFEST_SECTION,
    HookProgram,
    Manifest,
    ManifestAutomaton,
    ManifestEntry,
    ManifestGroup,
    ManifestRule,
    ManifestSelected,
    ProgramBudget,
    StaticData,
    StreamHookProgram,
    to_bytes,
)
from policyc.artifact.stream_layout import STREAM_SECTIONS, StreamHook, stream_map_specs
from policyc.ir.http_reads import reads
from policyc.ir.http_tables import HttpTables
from policyc.ir.tables import GroupSubject, RankedRule, Tables
from policyc.model import Action, HttpBlock, PolicySet

RODATA = ".rodata"


def write(
    code: bytes,
    tables: Tables,
    policy: PolicySet,
    identity: IdentityLayout,
    llvmlite_version: str,
    budget: tuple[ProgramBudget, ...] = (),
) -> bytes:
    """The artifact: the compiled object `code` with its manifest and its seal. Raises `ElfError` where `code` is no object."""
    manifest = describe(tables, policy, identity, llvmlite_version, static_data(sections(code)), budget)
    return attach(code, to_bytes(manifest))


def attach(code: bytes, manifest: bytes) -> bytes:
    """`code` with the sections of the manifest and of the digest added, and sealed."""
    return seal.seal(append_sections(code, [(MANIFEST_SECTION, manifest), (DIGEST_SECTION, seal.BLANK)]))


def describe(
    tables: Tables,
    policy: PolicySet,
    identity: IdentityLayout,
    llvmlite_version: str,
    static: tuple[StaticData, ...] = (),
    budget: tuple[ProgramBudget, ...] = (),
) -> Manifest:
    blocks = {rule.ref: rule.http for rule in policy.rules if rule.http is not None}
    http: HttpTables | None = getattr(tables, "http", None)
    entries = _entries(tables, http, blocks) if http is not None else ()
    maps = map_specs(identity, len(tables.rules) + len(entries))
    return Manifest(
        language=policy.language,
        compiler=policyc.__version__,
        llvmlite=llvmlite_version,
        source_digest=source_digest(policy.files),
        source_files=policy.files,
        rules=tuple(
            ManifestRule(
                r.ref,
                r.span,
                r.direction,
                r.tier,
                r.priority,
                r.level,
                r.action,
                r.log,
                r.audit,
                *_l7(blocks.get(r.ref)),
            )
            for r in tables.rules
        ),
        entries=entries,
        automata=_automata(http) if http is not None else (),
        stream_hooks=tuple(stream_hook_program(hook) for hook in StreamHook) if http is not None else (),
        selectors=tables.selectors,
        same_keys=tables.same_keys,
        groups=tuple(
            ManifestGroup(g.direction, g.tier, _subject(g.subject), g.isolation.enforced, g.isolation.prospective)
            for g in tables.groups
        ),
        selected=tuple(ManifestSelected(_subject(s.subject), s.enforced) for s in tables.selected),
        has_audit=tables.has_audit,
        stateless=tables.stateless,
        identity_layout=identity,
        maps=(*maps, *(stream_map_specs() if http is not None else ())),
        hooks=tuple(hook_program(hook) for hook in Hook),
        static=static,
        budget=budget,
        policy=policy_json.encode(policy),
    )


def hook_program(hook: Hook) -> HookProgram:
    name = hook.name.lower()
    return HookProgram(hook, PROGRAM_PREFIX + name, ENTRY_PREFIX + name, HOOK_SECTIONS[hook], NEXT_PREFIX + name)


def stream_hook_program(hook: StreamHook) -> StreamHookProgram:
    name = hook.name.lower()
    return StreamHookProgram(
        hook, PROGRAM_PREFIX + name, ENTRY_PREFIX + name, STREAM_SECTIONS[hook], NEXT_PREFIX + name
    )


def static_data(found: list[Section]) -> tuple[StaticData, ...]:
    """The read-only data sections of an object."""
    return tuple(StaticData(s.name, s.size) for s in found if s.name.startswith(RODATA) and s.size)


def source_digest(files: tuple[tuple[str, str], ...]) -> str:
    """SHA-256 (hex) over `NAME NUL DIGEST LF` of each source in reading order."""
    digest = hashlib.sha256()
    for name, file_digest in files:
        digest.update(f"{name}\0{file_digest}\n".encode())
    return digest.hexdigest()


def _l7(block: HttpBlock | None) -> tuple[bool, bool]:
    return block is not None and not block.audit, block is not None and block.audit


def _entries(tables: Tables, http: HttpTables, blocks: dict[str, HttpBlock]) -> tuple[ManifestEntry, ...]:
    return tuple(_entry(tables.rules[rank], blocks, rank, number) for rank, number in http.entries)


def _automata(http: HttpTables) -> tuple[ManifestAutomaton, ...]:
    return tuple(
        ManifestAutomaton(read.parts, read.rule, len(a.outcome), a.width, a.size)
        for a, read in zip(http.automata, reads(http), strict=True)
    )


def _entry(rule: RankedRule, blocks: dict[str, HttpBlock], rank: int, number: int) -> ManifestEntry:
    block = blocks[rule.ref]
    entry = block.entries[number - 1]
    return ManifestEntry(rank, number, entry.action is Action.DENY, rule.audit or block.audit, entry.span)


def _subject(subject: GroupSubject) -> int | None:
    return subject if isinstance(subject, int) else None
