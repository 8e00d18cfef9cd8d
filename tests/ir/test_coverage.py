"""Protects the interval set that drop-shadowed decides by."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from policyc.ir.passes.coverage import Coverage

intervals = st.tuples(st.integers(0, 30), st.integers(0, 30)).map(lambda p: (min(p), max(p)))


@given(st.lists(intervals, max_size=12))
def test_contains_what_was_added_and_nothing_else(added):
    coverage, keys = Coverage(), set()
    for first, last in added:
        coverage.add(first, last)
        keys.update(range(first, last + 1))
        for low in range(32):
            for high in range(low, 32):
                assert coverage.contains(low, high) == keys.issuperset(range(low, high + 1))
