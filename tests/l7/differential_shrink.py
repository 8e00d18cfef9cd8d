"""Makes a case that differs smaller, as long as it still differs: fewer bytes and writes, fewer rules and entries. Candidates are played many at once."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import replace

from tests.l7.differential import Kernel, Loaded, Played, checked, play
from tests.l7.differential_case import Case, Ground, Rules, Segment, ground

NOT_CLOSED = "not closed"
AT_ONCE = 60  # grounds of other rules in one load


def shrink(case: Case, kind: str, kernel: Kernel, egress: bool = False, seconds: float = 120) -> Case:
    """`kind`: of the difference that is to stay."""
    until = time.monotonic() + seconds
    before = None
    while case != before and time.monotonic() < until:
        before = case
        with kernel.loaded(ground([case], egress)) as loaded:
            while time.monotonic() < until and (less := _first(loaded, _less_stream(case), kind)) is not None:
                case = less
        while time.monotonic() < until and (less := _with_less_rules(case, kind, kernel, egress)) is not None:
            case = less
    return case


def _first(loaded: Loaded, candidates: Iterable[Case], kind: str) -> Case | None:
    cases = list(candidates)
    return _chosen(cases, loaded.play(cases, kind == NOT_CLOSED), kind) if cases else None


def _chosen(cases: Sequence[Case], done: Played, kind: str) -> Case | None:
    found = [at for at, difference in done.differences.items() if difference.kind == kind]
    return cases[min(found)] if found else None


def _less_stream(case: Case) -> Iterator[Case]:
    """The smallest first: pieces are left out, writes joined, answers given."""
    data, sizes = case.stream, [len(s.data) for s in case.segments]
    size = max(len(data) // 2, 1)
    while data and size:
        yield from (_without(case, at, size) for at in range(0, len(data), size))
        size = size // 2 if size > 8 else size - 1
    for n in range(len(sizes) - 1):
        one, other = case.segments[n : n + 2]
        joined = Segment(one.data + other.data, other.answered)
        yield replace(case, segments=(*case.segments[:n], joined, *case.segments[n + 2 :]))
    if not all(s.answered for s in case.segments):
        yield replace(case, segments=tuple(Segment(s.data) for s in case.segments))


def _without(case: Case, at: int, size: int) -> Case:
    segments, begin = [], 0
    for segment in case.segments:
        first, last = (min(max(place - begin, 0), len(segment.data)) for place in (at, at + size))
        left = segment.data[:first] + segment.data[last:]
        begin += len(segment.data)
        if left or not segment.data:
            segments.append(Segment(left, segment.answered))
    return replace(case, segments=tuple(segments))


def _with_less_rules(case: Case, kind: str, kernel: Kernel, egress: bool) -> Case | None:
    candidates = [replace(case, rules=rules) for rules in _less_rules(case.rules)]
    sound = [c for c in dict.fromkeys(candidates) if c.rules != case.rules and _is_policy(ground([c]))]
    for at in range(0, len(sound), AT_ONCE):
        some: Sequence[Case] = sound[at : at + AT_ONCE]
        found = _chosen(some, play(kernel, some, kind == NOT_CLOSED, egress), kind)
        if found is not None:
            return found
    return None


def _less_rules(rules: Rules) -> Iterator[Rules]:
    for n, rule in enumerate(rules):
        others = (rules[:n], rules[n + 1 :])

        def put(*one: object, others: tuple[Rules, Rules] = others) -> Rules:
            return (*others[0], *one, *others[1])  # type: ignore[arg-type]

        if len(rules) > 1:
            yield put()
        for m, entry in enumerate(rule.entries):
            kept = (*rule.entries[:m], *rule.entries[m + 1 :])
            if kept:
                yield put(replace(rule, entries=kept))
            words = entry.split(" ")
            for end in range(len(words) - 1, 1, -1):
                yield put(replace(rule, entries=(*rule.entries[:m], " ".join(words[:end]), *rule.entries[m + 1 :])))
        if rule.block not in ("", "http"):
            yield put(replace(rule, block="http"))
        plain = {"tail": "", "peer": "any", "tier": "normal"}
        yield from (put(replace(rule, **{name: value})) for name, value in plain.items())


def _is_policy(on: Ground) -> bool:
    try:
        checked(on.text)
    except ValueError:
        return False
    return True
