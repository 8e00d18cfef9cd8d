"""Wrong compilers for the tests of test suites: the right one, of a policy whose rules are changed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from policyc.model import PolicySet, Rule


def rules(change: Callable[[Rule], Rule]) -> Callable[[PolicySet], PolicySet]:
    def changed(policy: PolicySet) -> PolicySet:
        made = (replace(p, rules=tuple(change(r) for r in p.rules)) for p in policy.policies)
        return replace(policy, policies=tuple(made))

    return changed
