"""Sizes beyond which a policy is refused instead of filling the compiler's memory."""

from __future__ import annotations

from policyc.diagnostics import OperationError

CELL_LIMIT = 10_000_000  # about 1 GB of tables


class CellBudget:
    """Counts cells that a pass makes; `take` raises OperationError above the limit."""

    def __init__(self, what: str) -> None:
        self.what = what
        self.limit = CELL_LIMIT
        self.taken = 0

    def take(self, cells: int) -> None:
        self.taken += cells
        if self.taken > self.limit:
            raise OperationError(
                f"the policy's {self.what} need more than {self.limit:,} table cells",
                help="many CIDR sets contain one another and have many different ports each: "
                "let a rule for the outer set cover the ports in common, or split the policy by subject",
            )
