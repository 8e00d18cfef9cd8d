"""What a pass is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

Source = TypeVar("Source")
Target = TypeVar("Target")


@dataclass(frozen=True)
class Pass(Generic[Source, Target]):
    """A named function from one module to another.

    The contract: `run` does not change its input, is deterministic, needs nothing but its input, and what it returns
    verifies (`policyc.ir.verify`) and gives every flow the verdict, counted rule and log flag of its input, enforced
    and prospective. It raises nothing but `OperationError`, where a policy is beyond a stated limit. `name` is what
    `--time-passes` prints."""

    name: str
    source: type[Source]
    target: type[Target]
    run: Callable[[Source], Target]
