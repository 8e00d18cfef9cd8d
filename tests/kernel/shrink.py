"""Makes a case that differs smaller, as long as it still differs: fewer steps, rules, policies and endpoints (greedy delta debugging)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import TypeVar

from random_packets import Sent
from random_world import Who
from scenario import Case, Replace, Step, checked

from policyc.model import Endpoint

T = TypeVar("T")
Differs = Callable[[Case], bool]
RULE = "    "  # begins the line of a rule; other lines are a policy's frame


def shrink(case: Case, differs: Differs, seconds: float = 60) -> Case:
    """`differs` plays a case. What it takes long to ask, a change of a policy, comes after the steps are few."""
    until = time.monotonic() + seconds

    def still(smaller: Case) -> bool:
        return time.monotonic() < until and differs(smaller)

    before = None
    while case != before and time.monotonic() < until:
        before = case
        case = _fewer_steps(case, still)
        case = _all(case, still, _with_less_of_who)
        case = _first(case, still, _with_one_policy)
        case = _fewer_lines(case, still)
    return case


def _reduced(items: Sequence[T], still: Callable[[Sequence[T]], bool]) -> Sequence[T]:
    """Leaves out pieces, large ones first."""
    size = max(len(items) // 2, 1)
    while items and size:
        at = 0
        while at < len(items):
            fewer = [*items[:at], *items[at + size :]]
            if still(fewer):
                items = fewer
            else:
                at += size
        size //= 2
    return items


def _fewer_steps(case: Case, still: Differs) -> Case:
    def with_steps(steps: Sequence[Step]) -> Case:
        return replace(case, steps=tuple(steps))

    return with_steps(_reduced(case.steps, lambda steps: still(with_steps(steps))))


def _first(case: Case, still: Differs, smaller: Callable[[Case], Iterator[Case]]) -> Case:
    return next((c for c in smaller(case) if still(c)), case)


def _all(case: Case, still: Differs, smaller: Callable[[Case], Iterator[Case]]) -> Case:
    """Takes every step that leads to a case that still differs."""
    while (less := _first(case, still, smaller)) != case:
        case = less
    return case


def _with_one_policy(case: Case) -> Iterator[Case]:
    if len(case.policies) > 1:
        steps = tuple(s for s in case.steps if not isinstance(s, Replace))
        yield from (replace(case, policies=(text,), steps=steps) for text in case.policies)


def _fewer_lines(case: Case, still: Differs) -> Case:
    """First policies go, then rules. A text that is no policy any more does not differ."""
    for number in range(len(case.policies)):
        case = _with_fewer(case, number, _blocks(case.policies[number]), lambda _: True, still)
        lines = case.policies[number].splitlines(keepends=True)
        case = _with_fewer(case, number, lines, lambda line: line.startswith(RULE), still)
    return case


def _with_fewer(case: Case, number: int, parts: list[str], may_go: Callable[[str], bool], still: Differs) -> Case:
    """Policy `number` made of fewer of these parts."""

    def made_of(kept: Sequence[int]) -> Case:
        left = set(kept)
        text = "".join(p for i, p in enumerate(parts) if i in left or not may_go(p))
        return replace(case, policies=(*case.policies[:number], text, *case.policies[number + 1 :]))

    def differs(kept: Sequence[int]) -> bool:
        smaller = made_of(kept)
        return _is_policy(smaller.policies) and still(smaller)

    return made_of(_reduced([i for i, part in enumerate(parts) if may_go(part)], differs))


def _blocks(text: str) -> list[str]:
    """A policy each."""
    blocks: list[str] = []
    for line in text.splitlines(keepends=True):
        if line.startswith("policy ") or not blocks:
            blocks.append("")
        blocks[-1] += line
    return blocks


def _is_policy(texts: Sequence[str]) -> bool:
    try:
        for text in texts:
            checked(text)
    except ValueError:
        return False
    return True


def _with_less_of_who(case: Case) -> Iterator[Case]:
    """Without an endpoint, an address, a label, an address of the machine or something bound, wherever it occurs."""
    everybody = [case.who, *(s for s in case.steps if isinstance(s, Who))]
    names = dict.fromkeys(n for who in everybody for n in who.names)
    yield from (_mapped(case, lambda who, n=name: _without(who, n)) for name in names)  # type: ignore[misc]
    for who in everybody:
        for end in who.endpoints:
            fewer = [replace(end, addresses=tuple(a for a in end.addresses if a != gone)) for gone in end.addresses]
            fewer += [replace(end, labels={k: v for k, v in end.labels.items() if k != key}) for key in end.labels]
            yield from (_swapped(case, who, replace(who, endpoints=_with(who, end, less))) for less in fewer)
        for address in who.host:
            yield _swapped(case, who, replace(who, host=tuple(a for a in who.host if a != address)))
        plain = {"inner": None, "outer": None, "elsewhere": (), "streams_only": False, "own_netns": False}
        for name, value in plain.items():
            if getattr(who, name) != value:
                yield _swapped(case, who, replace(who, **{name: value}))  # type: ignore[arg-type]


def _without(who: Who, name: str) -> Who:
    gone = {slot: None for slot in ("inner", "outer", "workload") if getattr(who, slot) == name}
    left = tuple(e for e in who.endpoints if e.name != name)
    return replace(who, endpoints=left, elsewhere=tuple(n for n in who.elsewhere if n != name), **gone)


def _with(who: Who, end: Endpoint, less: Endpoint) -> tuple[Endpoint, ...]:
    return tuple(less if e is end else e for e in who.endpoints)


def _mapped(case: Case, change: Callable[[Who], Who]) -> Case:
    steps = tuple(change(s) if isinstance(s, Who) else s for s in case.steps)
    return replace(case, who=change(case.who), steps=steps)


def _swapped(case: Case, old: Who, new: Who) -> Case:
    return _mapped(case, lambda who: new if who is old else who)


def size(case: Case) -> tuple[int, int, int]:
    """Packets, rules and endpoints."""
    rules = sum(line.startswith(RULE) for text in case.policies for line in text.splitlines())
    return sum(isinstance(s, Sent) for s in case.steps), rules, len(case.who.endpoints)
