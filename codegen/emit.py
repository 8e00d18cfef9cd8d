"""From tables to a sealed object: builds the module, and runs LLVM's backend in a child process, which an error may end."""

from __future__ import annotations

from dataclasses import dataclass

import llvmlite
from llvmlite import ir

import policyc
from policyc.artifact import elf, writer
from policyc.artifact.layout import IdentityLayout
from policyc.artifact.stream_layout import StreamHook
from policyc.codegen import (
    answers,
    backend,
    budget,
    match,
    mptcp,
    programs,
    recent,
    report,
    state,
    stream_programs,
    takeover,
)
from policyc.codegen.debuginfo import DebugInfo
from policyc.codegen.direct import Context
from policyc.codegen.maps import Maps
from policyc.codegen.module_text import module_text
from policyc.codegen.rodata import Rodata
from policyc.diagnostics import OperationError
from policyc.ir.flat import ServiceSet
from policyc.ir.passes.coverage import Coverage
from policyc.ir.tables import Tables
from policyc.model import Direction, PolicySet, Span

TRIPLE, DATA_LAYOUT = "bpfel", "e-m:e-p:64:64-i64:64-i128:128-n32:64-S128"
MAX_PEERS, MAX_GROUPS = 64, 64


@dataclass(frozen=True)
class Compiled:
    """`object` is sealed; `llvm_ir` is what it was made of."""

    object: bytes
    llvm_ir: str


def identity_layout(tables: Tables) -> IdentityLayout:
    """Room for what one identity may match: all selectors and groups of small policies, at most 64 of larger ones."""
    by_list: dict[tuple[int, int], int] = {}
    for g in tables.groups:
        by_list[g.direction, g.tier] = by_list.get((g.direction, g.tier), 0) + 1
    return IdentityLayout(
        max_peers=min(max(len(tables.selectors), 1), MAX_PEERS),
        max_groups=min(max(by_list.values(), default=1), MAX_GROUPS),
        same_keys=len(tables.same_keys),
    )


def build_module(tables: Tables, policy: PolicySet, producer: str) -> tuple[ir.Module, Rodata]:
    module = ir.Module(name="policyc")
    rodata = Rodata(module)
    module.triple, module.data_layout = TRIPLE, DATA_LAYOUT
    main_file = policy.files[0][0] if policy.files else "policy"
    span = policy.policies[0].span if policy.policies else Span(main_file, 1, 1, 1, 1)
    debug = DebugInfo(module, main_file, producer)
    layout = identity_layout(tables)
    http = tables.http
    maps = Maps(debug, layout, len(tables.rules), None if http is None else len(http.entries))
    matcher = match.Matcher(module, debug, maps, rodata, tables, layout, span)
    judge = state.build(module, debug, maps, matcher.match_policy, tables.stateless, http is not None, span)
    report_function = report.build(module, debug, maps, span)
    parsers = {c: programs.build_parser(module, debug, c, span) for c in Context}
    remember = None if tables.stateless else recent.build(module, debug, maps, span)
    streams = None
    services = _stream_services(policy)
    if http is not None:
        see = state.build_streams_only(module, debug, maps, services, span)
        watch = answers.build(module, debug, maps, mptcp.build(module, debug, span), span)
        streams = programs.Streams(see, watch, services)
    parts = programs.Parts(parsers, matcher, judge, report_function, remember, tables.needs_peer_class, streams)
    for traits in programs.HOOKS:
        programs.build_program(module, debug, maps, parts, traits, span)
        programs.build_entry(module, debug, maps, traits, span)
    if http is not None:
        _build_streams(module, debug, maps, rodata, matcher, services, span)
    debug.license("Dual MIT/GPL")
    debug.finish()
    return module, rodata


def _build_streams(
    module: ir.Module,
    debug: DebugInfo,
    maps: Maps,
    rodata: Rodata,
    matcher: match.Matcher,
    services: dict[Direction, ServiceSet],
    span: Span,
) -> None:
    """The programs that judge requests. `services` as `takeover.build` has them."""
    if matcher.tables.stateless:
        help = "compile without --stateless, or without the blocks"
        raise OperationError("a stateless program cannot judge requests, and some rules have L7 blocks", help)
    parts = stream_programs.build_parts(module, debug, maps, rodata, matcher, len(matcher.tables.rules), span)
    takeover.build_entry(module, debug, maps, span)
    takeover.build(module, debug, maps, parts, services, span)
    for hook in (StreamHook.STREAM_IN, StreamHook.STREAM_OUT):
        stream_programs.build_entry(module, debug, maps, hook, span)
        stream_programs.build_verdict(module, debug, maps, parts, hook, span)


def _stream_services(policy: PolicySet) -> dict[Direction, ServiceSet]:
    """By direction the port ranges of rules with blocks, merged."""
    result: dict[Direction, ServiceSet] = {}
    for direction in Direction:
        ports = Coverage()
        for rule in policy.rules:
            if rule.http is None or rule.direction is not direction:
                continue
            for service in rule.services:
                ports.add(*(service.ports or (0, 0xFFFF)))
        result[direction] = ports.intervals()
    return result


def compile_object(tables: Tables, policy: PolicySet, sources: dict[str, str], root: str) -> Compiled:
    """`sources`: relative name → text; the policy's lines stand in the object's BTF, read from below `root`.

    Raises OperationError where the backend refuses the module or a program is over the kernel's limits."""
    with backend.Backend(sources) as llvm:
        module, rodata = build_module(tables, policy, f"policyc {policyc.__version__}")
        text = module_text(module)
        built = llvm.compile(text)
    used = budget.check(built)
    filled = elf.fill(built, rodata.contents)
    sealed = writer.write(filled, tables, policy, identity_layout(tables), llvmlite.__version__, used)
    return Compiled(sealed, text)
