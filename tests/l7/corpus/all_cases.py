"""The whole corpus."""

from __future__ import annotations

from tests.l7.corpus import conditions, framing, heads, streams, targets
from tests.l7.corpus.case import Case

CASES: tuple[Case, ...] = (*framing.CASES, *heads.CASES, *targets.CASES, *conditions.CASES, *streams.CASES)
BY_NAME: dict[str, Case] = {case.name: case for case in CASES}
