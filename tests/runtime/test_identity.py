"""Protects identities: selectors as the semantics say, records, shared slots, numbers that come again last."""

from __future__ import annotations

import struct
import time
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from policyc.artifact.reader import Artifact
from policyc.model import Op, Requirement, Selector
from policyc.runtime.identity import IdentityBuilder, Matcher, Numbers, Slots, holds
from policyc.runtime.registry import _numbers

KEYS, VALUES = ("app", "env", "ns"), ("a", "b", "c")


def requirements() -> Any:
    one = st.sampled_from(VALUES)
    return st.one_of(
        st.builds(lambda k, o, v: Requirement(k, o, (v,)), st.sampled_from(KEYS), st.sampled_from((Op.EQ, Op.NE)), one),
        st.builds(
            lambda k, o, v: Requirement(k, o, tuple(v)),
            st.sampled_from(KEYS),
            st.sampled_from((Op.IN, Op.NOT_IN)),
            st.lists(one, min_size=1, max_size=3, unique=True),
        ),
        st.builds(lambda k, o: Requirement(k, o), st.sampled_from(KEYS), st.sampled_from((Op.EXISTS, Op.NOT_EXISTS))),
    )


@given(
    st.lists(st.lists(requirements(), max_size=3).map(lambda r: Selector(tuple(r))), max_size=12),
    st.dictionaries(st.sampled_from(KEYS), st.sampled_from(VALUES)),
)
def test_index_finds_what_asking_all_finds(selectors: list[Selector], labels: dict[str, str]) -> None:
    plain = [i for i, s in enumerate(selectors) if all(holds(r, labels) for r in s.requirements)]
    assert Matcher(selectors).match(labels) == plain


def test_negatives_hold_for_absent_keys() -> None:
    assert holds(Requirement("app", Op.NE, ("a",)), {})
    assert holds(Requirement("app", Op.NOT_IN, ("a", "b")), {})
    assert not holds(Requirement("app", Op.EQ, ("a",)), {})


def test_a_thousand_selectors_cost_little() -> None:
    env = Requirement("env", Op.EQ, ("prod",))
    matcher = Matcher([Selector((env, Requirement("app", Op.EQ, (f"a{i}",)))) for i in range(1000)])
    began = time.perf_counter()
    for i in range(1000):
        assert matcher.match({"env": "prod", "app": f"a{i}"}) == [i]
    assert (time.perf_counter() - began) / 1000 < 0.0005


def test_record_tells_groups_and_same_values(artifact: Artifact) -> None:
    layout = artifact.manifest.identity_layout
    builder = IdentityBuilder(artifact.manifest, b"k" * 32)
    api = builder.record({"app": "api", "ns": "shop"}, "e")
    flags, peers, *groups = struct.unpack_from("<8I", api)
    assert flags == 3
    assert peers == 1
    assert groups == [0, 1, 0, 0, 0, 0]  # ingress, normal
    other = builder.record({"app": "none", "ns": "shop"}, "e")
    assert struct.unpack_from("<I", other) == (0,)
    assert api[layout.same_offset :] == other[layout.same_offset :] != bytes(8)
    assert builder.record({"ns": "else"}, "e")[layout.same_offset :] != api[layout.same_offset :]
    assert IdentityBuilder(artifact.manifest, b"x" * 32).record({"app": "api", "ns": "shop"}, "e") != api
    assert builder.record({}, "e")[layout.same_offset :] == bytes(8)


def test_equal_records_share_a_slot_that_is_never_rewritten() -> None:
    written: list[tuple[int, bytes]] = []
    slots = Slots(Numbers(2, 5), lambda slot, record: written.append((slot, record)))
    first, again, other = slots.acquire(b"a"), slots.acquire(b"a"), slots.acquire(b"b")
    assert (first, again, other) == (2, 2, 3)
    slots.release(first)
    assert slots.acquire(b"a") == 2
    slots.release(2)
    slots.release(2)
    assert slots.acquire(b"c") == 4, "slots never used come before freed ones"
    assert slots.acquire(b"a") == 2
    assert written == [(2, b"a"), (3, b"b"), (4, b"c"), (2, b"a")]


def test_full_slots_are_told() -> None:
    slots = Slots(Numbers(2, 3), lambda slot, record: None)
    slots.acquire(b"a")
    with pytest.raises(Exception, match="identities is full"):
        slots.acquire(b"b")


@given(st.lists(st.booleans(), max_size=60))
def test_numbers_survive_a_restart(steps: list[bool]) -> None:
    """The journal tells what was freed in which order; a restart comes to the same free numbers, each once."""
    numbers, used, freed = Numbers(2, 12), [], []  # type: tuple[Numbers, list[int], list[int]]
    for take in steps:
        if take or not used:
            number = numbers.take()
            if number is not None:
                used.append(number)
        else:
            freed.append(used.pop(0))
            numbers.free(freed[-1])
    again = Numbers(2, 12)
    again.restore(_numbers(set(used), freed, [2], 2))
    assert sorted(iter(again.take, None)) == sorted(set(range(2, 12)) - set(used))
