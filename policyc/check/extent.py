"""How much a policy stands for once its sets are written out: short texts can name long lists many times."""

from __future__ import annotations

from policyc.check.findings import Findings
from policyc.model import Span

MAX_SERVICES = 2_000_000
MAX_RANGES = 10_000_000


class Extent:
    """Counts `what` (services, address ranges) while sets are put together."""

    def __init__(self, found: Findings, what: str, limit: int) -> None:
        self.found = found
        self.what = what
        self.limit = limit
        self._count = 0

    @property
    def full(self) -> bool:
        return self._count > self.limit

    def add(self, count: int, span: Span | None) -> bool:
        """Whether `count` more are still few enough; the first time they are not is reported."""
        was_full = self.full
        self._count += count
        if not self.full:
            return True
        if not was_full:
            message = f"with this the sets of the policy stand for more than {self.limit:,} {self.what}"
            self.found.add("policy-too-large", message, span)
        return False
