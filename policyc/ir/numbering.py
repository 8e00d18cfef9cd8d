"""Indices in the order of first use: how every tuple of the IR is numbered, so that output is deterministic."""

from __future__ import annotations

from collections.abc import Hashable
from typing import Generic, TypeVar

Value = TypeVar("Value", bound=Hashable)


class Numbering(Generic[Value]):
    """Gives each distinct value the next index."""

    def __init__(self) -> None:
        self.indices: dict[Value, int] = {}

    def __call__(self, value: Value) -> int:
        return self.indices.setdefault(value, len(self.indices))

    def values(self) -> tuple[Value, ...]:
        return tuple(self.indices)
