"""The compiler's middle: lowering, the passes in their order, the verifier after each."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from policyc.ir.flat import Module
from policyc.ir.lower import lower, rank_rules
from policyc.ir.passes.base import Pass
from policyc.ir.passes.build_rows import BUILD_ROWS
from policyc.ir.passes.cost_model import COST_MODEL
from policyc.ir.passes.drop_empty import DROP_EMPTY
from policyc.ir.passes.drop_shadowed import DROP_SHADOWED
from policyc.ir.passes.drop_unused import DROP_UNUSED
from policyc.ir.passes.group_by_subject import GROUP_BY_SUBJECT
from policyc.ir.passes.merge_classes import MERGE_CLASSES
from policyc.ir.passes.merge_services import MERGE_SERVICES
from policyc.ir.passes.partition_cidrs import PARTITION_CIDRS
from policyc.ir.tables import Tables
from policyc.ir.verify import Verifier
from policyc.model import PolicySet

LOWER = Pass("lower", PolicySet, Module, lower)

PASSES: tuple[Pass[Any, Any], ...] = (
    LOWER,
    MERGE_SERVICES,
    DROP_EMPTY,
    GROUP_BY_SUBJECT,
    DROP_SHADOWED,
    DROP_UNUSED,
    PARTITION_CIDRS,
    BUILD_ROWS,
    MERGE_CLASSES,
    COST_MODEL,
)

Observer = Callable[[str, Module | Tables, float], None]
"""Called after each pass with its name, what it returned (verified) and the seconds it took."""


def build(policy: PolicySet, *, observer: Observer | None = None) -> Tables:
    """The tables of a checked policy. Raises OperationError where it is beyond a limit of the compiler."""
    module: Any = policy
    verifier = Verifier()
    for step in PASSES:
        begun = time.perf_counter()
        module = step.run(module)
        seconds = time.perf_counter() - begun
        verifier.verify(module)
        if observer is not None:
            observer(step.name, module, seconds)
    assert isinstance(module, Tables)
    if not any(rule.http for p in policy.policies for rule in p.rules):
        return module
    from policyc.ir.http_lower import lower_http
    from policyc.ir.verify_http import verify_http

    begun = time.perf_counter()
    http = lower_http(policy, {rule.order: rank for rank, rule in enumerate(rank_rules(policy))})
    seconds = time.perf_counter() - begun
    assert http is not None
    verify_http(http, module.rules)
    if observer is not None:
        observer("lower-http", module, seconds)  # HTTP tables have no text form
    return replace(module, http=http)
